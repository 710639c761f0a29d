import { createHash, createHmac } from "node:crypto";
import type { Builtin, BuiltinContext, RegoArray, Value } from "@sealpod/rego";
import { BuiltinError, builtinError, define, formatValue, isInteger, number, object, RegoObject, RegoSet } from "@sealpod/rego";
import { encodeGoJson } from "./json-text.ts";

const REQUEST_KEYS: readonly string[] = ["method", "url"];
const CONFIG_KEYS: readonly string[] = ["aws_access_key", "aws_region", "aws_secret_access_key", "aws_service"];

/** Headers that proxies change on the way. */
const UNSIGNED_HEADERS: readonly string[] = ["authorization", "user-agent", "x-amzn-trace-id"];

/** Services whose requests carry the digest of the body in a header. */
const DIGEST_SERVICES: readonly string[] = ["s3", "s3-outposts", "s3-object-lambda", "glacier"];

/** Largest time in nanoseconds: the year 2262, where Go's clock ends. */
const MAX_NANOSECONDS = 2n ** 63n - 1n;

/** Signing of requests to Amazon's services. */
export const awsBuiltins: readonly Builtin[] = [define("providers.aws.sign_req", 3, signRequest)];

/** The request with the headers of AWS Signature Version 4. */
function signRequest(args: RegoArray, context: BuiltinContext): Value {
  const request = object(args, 0);
  const config = object(args, 1);
  const [accessKey, region, secret, service] = strings(config, CONFIG_KEYS, 2, "AWS config parameters(s)") as [string, string, string, string];
  const time = number(args, 2);
  if (!isInteger(time) || time < 0 || time > MAX_NANOSECONDS) throw failure(3, "could not convert time_ns value into a unix timestamp");
  const [method, url] = strings(request, REQUEST_KEYS, 1, "request parameters(s)") as [string, string];
  const unsigned = config.get("disable_payload_signing") ?? false;
  if (typeof unsigned !== "boolean") throw failure(2, "invalid value for 'disable_payload_signing' in AWS config");

  const body = bodyOf(request, context);
  context.work(body.length >> 4);
  context.allocate(body.length);
  const digest = unsigned ? "UNSIGNED-PAYLOAD" : sha256(body);
  const stamp = new Date(Number(BigInt(time) / 1_000_000n)).toISOString().replaceAll(/[-:]|\.\d+/g, "");
  const { host, path, query } = splitUrl(url);
  const added = new Map([
    ["host", host],
    ["x-amz-date", stamp],
  ]);
  if (DIGEST_SERVICES.includes(service)) added.set("x-amz-content-sha256", digest);
  const token = config.get("aws_session_token");
  if (typeof token === "string" && token !== "") added.set("x-amz-security-token", token);

  // A header that the request has already is signed as it was, and then replaced: OPA's answer, which its suite demands.
  const given = headersOf(request);
  const signed = new Map(added);
  for (const [name, value] of given) if (!UNSIGNED_HEADERS.includes(name.toLowerCase())) signed.set(name.toLowerCase(), value);
  const names = [...signed.keys()].toSorted();
  const canonical = [method, path, query, ...names.map((name) => `${name}:${signed.get(name)}`), "", names.join(";"), digest].join("\n");
  context.work(canonical.length >> 4);
  const scope = [stamp.slice(0, 8), region, service, "aws4_request"];
  const key = scope.reduce<Uint8Array>((parent, part) => hmac(parent, part), Buffer.from(`AWS4${secret}`, "utf8"));
  const signature = Buffer.from(hmac(key, ["AWS4-HMAC-SHA256", stamp, scope.join("/"), sha256(canonical)].join("\n"))).toString("hex");

  const headers = RegoObject.of(given);
  headers.put("Authorization", `AWS4-HMAC-SHA256 Credential=${accessKey}/${scope.join("/")},SignedHeaders=${names.join(";")},Signature=${signature}`);
  for (const [name, value] of added) headers.put(name, value);
  const result = request.copy();
  result.put("headers", headers);
  return result;
}

function strings(from: RegoObject, names: readonly string[], operand: number, what: string): readonly string[] {
  const missing = names.filter((name) => !from.has(name));
  if (missing.length > 0) throw failure(operand, `missing required ${what}: ${formatValue(RegoSet.of(missing))}`);
  const invalid = names.filter((name) => typeof from.get(name) !== "string");
  if (invalid.length > 0) throw failure(operand, `invalid values for required ${what}: ${formatValue(RegoSet.of(invalid))}`);
  return names.map((name) => from.get(name) as string);
}

function failure(operand: number, message: string): BuiltinError {
  return new BuiltinError("operand", `operand ${operand} ${message}`);
}

function bodyOf(request: RegoObject, context: BuiltinContext): string {
  const raw = request.get("raw_body");
  if (typeof raw === "string") return raw;
  if (raw !== undefined) throw failure(1, "invalid value for 'raw_body': must be a string");
  const body = request.get("body");
  return body === undefined ? "" : encodeGoJson(body, context);
}

function headersOf(request: RegoObject): readonly (readonly [string, string])[] {
  const headers = request.get("headers") ?? RegoObject.empty;
  if (!(headers instanceof RegoObject)) throw failure(1, "invalid value for 'headers': must be an object");
  return [...headers.entries()].map(([name, value]) => {
    if (typeof name !== "string" || typeof value !== "string") throw failure(1, "invalid value for 'headers': names and values must be strings");
    // A line break would end this header and begin another one, in the request and in what is signed.
    if (/[\r\n]/.test(name) || /[\r\n]/.test(value)) throw failure(1, "invalid value for 'headers': a line break");
    return [name, value] as const;
  });
}

/** Host with port, escaped path, and query of a URL, as they stand there. */
function splitUrl(url: string): { readonly host: string; readonly path: string; readonly query: string } {
  const scheme = url.indexOf("://");
  // What is signed must be what is sent, so nothing is escaped here that the sender would have to escape in the same way.
  if (scheme === -1 || /[^\u0021-\u007e]/.test(url)) throw builtinError("the URL of the request is not one, or has characters that must be escaped");
  const rest = url.slice(scheme + 3).split("#", 1)[0]!;
  const mark = rest.indexOf("?");
  const place = mark === -1 ? rest : rest.slice(0, mark);
  const slash = place.indexOf("/");
  const authority = slash === -1 ? place : place.slice(0, slash);
  return {
    host: authority.slice(authority.lastIndexOf("@") + 1),
    path: slash === -1 ? "" : place.slice(slash),
    query: mark === -1 ? "" : rest.slice(mark + 1),
  };
}

function sha256(text: string): string {
  return createHash("sha256").update(text, "utf8").digest("hex");
}

function hmac(key: Uint8Array, text: string): Uint8Array {
  return createHmac("sha256", key).update(text, "utf8").digest();
}
