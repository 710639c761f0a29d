import { newUuid, toHex } from "@sealpod/core";
import type { Builtin, BuiltinContext, RegoArray, Value } from "@sealpod/rego";
import { define, normalizeInteger, RegoObject, smallInteger, string } from "@sealpod/rego";

/** 100-nanosecond intervals between the epoch of UUIDs, 15 October 1582, and that of Unix (RFC 9562 section 5.1). */
const GREGORIAN_OFFSET = 0x01b21dd213814000n;

/** Local domains of DCE security UUIDs (version 2). */
const DOMAINS: readonly string[] = ["Person", "Group", "Org"];

const PREFIX = "urn:uuid:";

/** The 32 hex digits of a UUID: plain, with hyphens, in braces, or as URN. */
function digitsOf(text: string): string | undefined {
  let inner = text;
  if (text.length === 38 && text.startsWith("{") && text.endsWith("}")) inner = text.slice(1, -1);
  else if (text.length === 45 && text.slice(0, PREFIX.length).toLowerCase() === PREFIX) inner = text.slice(PREFIX.length);
  if (inner.length === 36) {
    const parts = inner.split("-");
    if (parts.map((part) => part.length).join(" ") !== "8 4 4 4 12") return undefined;
    inner = parts.join("");
  } else if (inner.length !== text.length) return undefined;
  if (inner.length !== 32) return undefined;
  for (const char of inner.toLowerCase()) if (!((char >= "0" && char <= "9") || (char >= "a" && char <= "f"))) return undefined;
  return inner.toLowerCase();
}

/** Variant field (RFC 9562 section 4.1). */
function variantOf(byte: number): string {
  if ((byte & 0xc0) === 0x80) return "RFC4122";
  if ((byte & 0xe0) === 0xc0) return "Microsoft";
  return (byte & 0xe0) === 0xe0 ? "Future" : "Reserved";
}

function parseUuid(text: string): Value | undefined {
  const digits = digitsOf(text);
  if (digits === undefined) return undefined;
  const field = (from: number, to: number): number => Number.parseInt(digits.slice(from, to), 16);
  const version = field(12, 13);
  const parsed = RegoObject.of([
    ["version", version],
    ["variant", variantOf(field(16, 18))],
  ]);
  if (version !== 1 && version !== 2) return parsed;
  const time = BigInt(`0x${digits.slice(13, 16)}${digits.slice(8, 12)}${digits.slice(0, 8)}`);
  parsed.put("time", normalizeInteger((time - GREGORIAN_OFFSET) * 100n));
  parsed.put("clocksequence", field(16, 20) & 0x3fff);
  const node = digits.slice(20);
  parsed.put("nodeid", [0, 2, 4, 6, 8, 10].map((at) => node.slice(at, at + 2)).join("-"));
  const first = field(20, 22);
  parsed.put("macvariables", `${(first & 2) === 0 ? "global" : "local"}:${(first & 1) === 0 ? "unicast" : "multicast"}`);
  if (version === 2) {
    const domain = field(18, 20);
    parsed.put("id", field(0, 8));
    parsed.put("domain", DOMAINS[domain] ?? `Domain${domain}`);
  }
  return parsed;
}

/** Random bytes read as a number and reduced. 128 bits over at most 53: no value is more likely than another by 2^-75. */
function randomBelow(limit: number, context: BuiltinContext): Value | undefined {
  const bytes = context.random(16);
  return bytes === undefined ? undefined : Number(BigInt(`0x${toHex(bytes)}`) % BigInt(limit));
}

/** What is drawn for a key stays the same for the whole query. */
function drawn(name: string, key: RegoArray, context: BuiltinContext, draw: () => Value | undefined): Value | undefined {
  const text = `${name} ${JSON.stringify(key)}`;
  context.allocate(text.length + 64);
  return context.once(text, draw);
}

/** UUIDs and random numbers. Without a source of randomness what is random is undefined. */
export const identifiersBuiltins: readonly Builtin[] = [
  define("uuid.parse", 1, (args) => parseUuid(string(args, 0))),
  define("uuid.rfc4122", 1, (args, context) =>
    drawn("uuid.rfc4122", [string(args, 0)], context, () => {
      const bytes = context.random(16);
      return bytes === undefined ? undefined : newUuid({ bytes: () => bytes });
    }),
  ),
  define("rand.intn", 2, (args, context) => {
    const key = string(args, 0);
    const limit = Math.abs(smallInteger(args, 1));
    return limit === 0 ? 0 : drawn("rand.intn", [key, limit], context, () => randomBelow(limit, context));
  }),
];
