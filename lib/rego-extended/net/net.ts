import type { Builtin, BuiltinContext, RegoArray, Value } from "@sealpod/rego";
import {
  BuiltinError,
  builtinError,
  collection,
  define,
  formatValue,
  isArray,
  object,
  operandError,
  RegoError,
  RegoObject,
  RegoSet,
  string,
} from "@sealpod/rego";
import { formatAddress, lastAddress, parseAddress, parseNetwork } from "./ip-address.ts";
import type { Address, Network } from "./ip-address.ts";

/** Units of memory for one address in a set: a text of up to 39 characters and its place. */
const ADDRESS_UNITS = 64;

function network(text: string): Network {
  const parsed = parseNetwork(text);
  if (parsed === undefined) throw builtinError(`invalid CIDR address: ${text}`);
  return parsed;
}

function single(address: Address): Network {
  return { bits: address.bits, first: address.value, prefix: address.bits };
}

/** An address as the network that holds nothing else, or a network. */
function networkOrAddress(text: string): Network {
  const address = parseAddress(text);
  return address === undefined ? network(text) : single(address);
}

function contains(outer: Network, inner: Network): boolean {
  if (outer.bits !== inner.bits || outer.prefix > inner.prefix) return false;
  const shift = BigInt(outer.bits - outer.prefix);
  return outer.first >> shift === inner.first >> shift;
}

function cidrContains(args: RegoArray): Value {
  return contains(network(string(args, 0)), networkOrAddress(string(args, 1)));
}

interface Candidate {
  /** What stands for the network in the result: the operand itself, an index, a key or a member. */
  readonly label: Value;
  readonly text: string;
}

function candidates(args: RegoArray, at: number): readonly Candidate[] {
  const value = args[at]!;
  const textOf = (item: Value): string => {
    const text = isArray(item) ? item[0] : item;
    if (typeof text !== "string") throw builtinError(`operand ${at + 1}: element must be string or non-empty array`);
    return text;
  };
  if (typeof value === "string") return [{ label: value, text: value }];
  if (isArray(value)) return value.map((item, index) => ({ label: index, text: textOf(item) }));
  if (value instanceof RegoSet) return value.items().map((item) => ({ label: item, text: textOf(item) }));
  if (value instanceof RegoObject) return [...value.entries()].map(([key, item]) => ({ label: key, text: textOf(item) }));
  throw operandError(at + 1, "one of {string, array, set, object}", value);
}

function containsMatches(args: RegoArray, context: BuiltinContext): Value {
  const left = candidates(args, 0);
  const right = candidates(args, 1);
  context.work(left.length + right.length + ((left.length * right.length) >> 2));
  const outer = left.map(({ label, text }) => ({ label, network: network(text) }));
  const inner = right.map(({ label, text }) => ({ label, network: networkOrAddress(text) }));
  const found = new RegoSet();
  for (const a of outer) {
    for (const b of inner) {
      if (!contains(a.network, b.network)) continue;
      context.allocate(ADDRESS_UNITS);
      found.add([a.label, b.label]);
    }
  }
  return found;
}

function expand(args: RegoArray, context: BuiltinContext): Value {
  const { bits, first, prefix } = network(string(args, 0));
  const count = 2 ** (bits - prefix);
  // Charged as a whole before the first address is made: a /0 must end at once.
  context.allocate(count * ADDRESS_UNITS);
  context.work(count);
  const addresses = new RegoSet();
  for (let at = 0; at < count; at++) addresses.add(formatAddress({ bits, value: first + BigInt(at) }));
  return addresses;
}

interface Range {
  readonly first: bigint;
  last: bigint;
}

/** An element of `net.cidr_merge`. An IPv4 address without prefix stands for its class A, B or C network, as in Go's `DefaultMask`. */
function mergeable(item: Value): Network {
  if (typeof item !== "string") throw new BuiltinError("operand", "operand 1 must be array or set of strings");
  const address = parseAddress(item);
  if (address === undefined) return network(item);
  if (address.bits === 128) throw builtinError("IPv6 invalid: needs prefix length");
  const top = Number(address.value >> 24n);
  const prefix = top < 0x80 ? 8 : top < 0xc0 ? 16 : 24;
  const shift = BigInt(32 - prefix);
  return { bits: 32, first: (address.value >> shift) << shift, prefix };
}

function merge(args: RegoArray, context: BuiltinContext): Value {
  const items = collection(args, 0);
  // Each takes up to 128 steps over its bits.
  context.work(items.length * 128);
  const networks = items.map(mergeable);
  const merged = new RegoSet();
  for (const bits of [32, 128] as const) {
    const ranges = joined(networks.filter((item) => item.bits === bits));
    for (const range of ranges) {
      for (const text of covering(range, bits)) {
        context.allocate(ADDRESS_UNITS);
        merged.add(text);
      }
    }
  }
  return merged;
}

/** Ranges of addresses that neither overlap nor touch, in order. */
function joined(networks: readonly Network[]): readonly Range[] {
  const ranges: Range[] = [];
  for (const item of networks.toSorted((a, b) => (a.first < b.first ? -1 : a.first > b.first ? 1 : 0))) {
    const last = lastAddress(item);
    const open = ranges.at(-1);
    if (open !== undefined && item.first <= open.last + 1n) {
      if (last > open.last) open.last = last;
    } else ranges.push({ first: item.first, last });
  }
  return ranges;
}

/** The fewest networks that make up a range: at most two of each size. */
function covering(range: Range, bits: 32 | 128): readonly string[] {
  const texts: string[] = [];
  let first = range.first;
  while (first <= range.last) {
    let host = 0n;
    while (host < BigInt(bits) && ((first >> host) & 1n) === 0n && first + (1n << (host + 1n)) - 1n <= range.last) host++;
    texts.push(`${formatAddress({ bits, value: first })}/${bits - Number(host)}`);
    first += 1n << host;
  }
  return texts;
}

/**
 * Aborts the query. Undefined would be wrong: its negation is true, so a policy that asks another service for a veto would
 * let everything pass.
 */
function noNetwork(name: string, wish: string): RegoError {
  return new RegoError(
    "ERR_REGO_BUILTIN",
    `eval_builtin_error: ${name}: this engine reaches no network, so it cannot ${wish}; replace the call with \`with ${name} as ...\`, or fetch the answer before the evaluation and pass it in as input, data or a host function`,
    { details: { builtin: name } },
  );
}

/** Members of an `http.send` request, as the OPA documentation lists them. */
const REQUEST_MEMBERS: ReadonlySet<string> = new Set([
  "body",
  "cache",
  "cache_ignored_headers",
  "caching_mode",
  "enable_redirect",
  "force_cache",
  "force_cache_duration_seconds",
  "force_json_decode",
  "force_yaml_decode",
  "headers",
  "max_retry_attempts",
  "method",
  "raise_error",
  "raw_body",
  "timeout",
  "tls_ca_cert",
  "tls_ca_cert_env_variable",
  "tls_ca_cert_file",
  "tls_client_cert",
  "tls_client_cert_env_variable",
  "tls_client_cert_file",
  "tls_client_key",
  "tls_client_key_env_variable",
  "tls_client_key_file",
  "tls_insecure_skip_verify",
  "tls_server_name",
  "tls_use_system_certs",
  "url",
]);

function requestError(what: string, names: readonly Value[]): RegoError {
  return new RegoError(
    "ERR_REGO_OPERAND",
    `eval_type_error: http.send: operand 1 ${what} request parameters(s): {${names.map((name) => formatValue(name, 64)).join(", ")}}`,
    { details: { builtin: "http.send" } },
  );
}

function send(args: RegoArray): never {
  const request = object(args, 0);
  const unknown = request.keys().filter((key) => typeof key !== "string" || !REQUEST_MEMBERS.has(key));
  // A faulty request aborts as a good one does: neither may look like an answer.
  if (unknown.length > 0) throw requestError("invalid", unknown);
  const missing = ["method", "url"].filter((name) => !request.has(name));
  if (missing.length > 0) throw requestError("missing required", missing);
  throw noNetwork("http.send", "send the request");
}

/** Addresses of a name. Those that need no server are answered: addresses themselves, and `localhost` (RFC 6761 section 6.3). */
function lookUp(args: RegoArray): Value {
  const name = string(args, 0);
  const address = parseAddress(name);
  if (address !== undefined) return RegoSet.of([formatAddress(address)]);
  if (name.toLowerCase() === "localhost") return RegoSet.of(["127.0.0.1", "::1"]);
  throw noNetwork("net.lookup_ip_addr", `look up ${JSON.stringify(name)}`);
}

/** Networks and addresses. What would reach out aborts the query, so that policies load and their tests can replace the calls. */
export const netBuiltins: readonly Builtin[] = [
  define("net.cidr_contains", 2, cidrContains),
  define("net.cidr_overlap", 2, cidrContains, { deprecated: true }),
  define("net.cidr_contains_matches", 2, containsMatches),
  define("net.cidr_intersects", 2, (args) => {
    const [a, b] = [network(string(args, 0)), network(string(args, 1))];
    return contains(a, b) || contains(b, a);
  }),
  define("net.cidr_expand", 1, expand),
  define("net.cidr_merge", 1, merge),
  define("net.cidr_is_valid", 1, ([text]) => typeof text === "string" && parseNetwork(text) !== undefined),
  define("net.lookup_ip_addr", 1, lookUp),
  define("http.send", 1, send),
];
