import { hash } from "node:crypto";
import { asObject, encodeUtf8, equalBytes, messageOf, parseJson, toHex, type JsonObject, type JsonValue } from "@sealpod/core";
import { parse } from "smol-toml";
import { KbsError } from "./errors.ts";

/** Init data travel in an annotation of at most 256 KiB, gzipped. */
export const MAX_INIT_DATA: number = 1024 * 1024;

/** Nesting of a TOML file, and of the data of an agent's policy. */
const MAX_DEPTH = 64;
const ALGORITHMS = ["sha256", "sha384", "sha512"] as const;
const HOST_DATA_LENGTH = 32;

/** Init data as the guest sends them: TOML text whose digest the host gave at launch. */
export interface InitData {
  readonly body: string;
}

/**
 * `init-data` of an attest request: null, or `{"format": "toml", "body": …}`.
 * @throws {KbsError} ERR_KBS_INIT_DATA
 */
export function parseInitData(value: JsonValue | undefined): InitData | undefined {
  if (value === undefined || value === null) return undefined;
  const { format, body } = asObject(value) ?? {};
  if (format !== "toml") throw wrong(`format is ${typeof format === "string" ? JSON.stringify(format.slice(0, 40)) : "missing"}, expected "toml"`);
  if (typeof body !== "string" || body.length > MAX_INIT_DATA) throw wrong(`body is no text of at most ${MAX_INIT_DATA} characters`);
  return { body };
}

/**
 * Holds init data against HOST_DATA: the digest of their exact text, cut or filled with zeros to 32 bytes (specs/attestation.md 3.4), and reads them.
 * They are read only after the digest: what a stranger writes is not worth the work.
 * @returns `init_data_claims`: the files of `[data]` by name, `aa.toml` and `cdh.toml` as JSON, `policy.rego` replaced by `agent_policy_claims`, the value that its `policy_data` has
 * @throws {KbsError} ERR_KBS_INIT_DATA
 */
export function verifyInitData({ body }: InitData, hostData: Uint8Array): JsonObject {
  const text = encodeUtf8(body);
  const algorithm = ALGORITHMS.find((candidate) => equalBytes(hostDataOf(text, candidate), hostData));
  if (algorithm === undefined)
    throw wrong(
      `no digest (${ALGORITHMS.join(", ")}) of their ${text.length} bytes is HOST_DATA of the report, ${toHex(hostData)}; SHA-256 is ${toHex(hostDataOf(text, "sha256"))}`,
    );
  const document = parseToml(body, "init data");
  const claimed = document["algorithm"];
  if (claimed !== algorithm) throw wrong(`they name the algorithm ${JSON.stringify(claimed ?? null).slice(0, 40)}, and are measured with ${algorithm}`);
  const claims = Object.create(null) as Record<string, JsonValue>;
  for (const [name, value] of Object.entries(asObject(document["data"]) ?? {})) {
    if (typeof value !== "string") throw wrong(`data.${JSON.stringify(name.slice(0, 60))} is no text`);
    if (name === "policy.rego") {
      const data = policyDataOf(value);
      if (data !== undefined) claims["agent_policy_claims"] = data;
    } else claims[name] = name === "aa.toml" || name === "cdh.toml" ? parseToml(value, name) : value;
  }
  return claims;
}

function hostDataOf(text: Uint8Array, algorithm: (typeof ALGORITHMS)[number]): Uint8Array {
  const field = new Uint8Array(HOST_DATA_LENGTH);
  field.set(hash(algorithm, text, "buffer").subarray(0, HOST_DATA_LENGTH));
  return field;
}

function parseToml(text: string, what: string): JsonObject {
  let table: unknown;
  try {
    table = parse(text, { maxDepth: MAX_DEPTH, integersAsBigInt: "asNeeded" });
  } catch (cause) {
    throw wrong(`${what}: not TOML: ${messageOf(cause).split("\n")[0] ?? ""}`, cause);
  }
  return asObject(toJson(table, what, 0)) ?? {};
}

function toJson(value: unknown, what: string, depth: number): JsonValue {
  // The parser's own limit does not count the levels of dotted names.
  if (depth > MAX_DEPTH) throw wrong(`${what}: nested deeper than ${MAX_DEPTH}`);
  switch (typeof value) {
    case "string":
      // Half of a surrogate pair cannot be written in UTF-8: TOML has no way to say it, but the guard is cheap.
      return value.toWellFormed();
    case "boolean":
    case "bigint":
      return value;
    case "number":
      if (!Number.isFinite(value)) throw wrong(`${what}: ${value} has no place in JSON`);
      return value;
    case "object": {
      if (value instanceof Date) return value.toISOString();
      if (Array.isArray(value)) return value.map((item) => toJson(item, what, depth + 1));
      const object = Object.create(null) as Record<string, JsonValue>;
      for (const [name, item] of Object.entries(value ?? {})) object[name] = toJson(item, what, depth + 1);
      return object;
    }
    default:
      throw wrong(`${what}: a ${typeof value} has no place in JSON`);
  }
}

/** The JSON after `policy_data := ` at the start of a line; undefined for a policy that is written otherwise. */
function policyDataOf(policy: string): JsonValue | undefined {
  const start = /^policy_data\s*:=\s*(?=\{)/m.exec(policy);
  if (start === null) return undefined;
  const from = start.index + start[0].length;
  const end = endOfObject(policy, from);
  if (end === undefined) return undefined;
  try {
    return parseJson(policy.slice(from, end), "policy_data", { maxLength: MAX_INIT_DATA, maxDepth: MAX_DEPTH });
  } catch {
    // Rego that is no JSON, such as one with a comment in it: the digest covers it, and there is nothing to claim about it.
    return undefined;
  }
}

/** The offset after the brace that closes the one at `from`. */
function endOfObject(text: string, from: number): number | undefined {
  const tokens = /["{}]/g;
  tokens.lastIndex = from;
  const rest = /[^"\\]*(?:\\[^][^"\\]*)*"/y;
  let depth = 0;
  for (let match = tokens.exec(text); match !== null; match = tokens.exec(text)) {
    if (match[0] === '"') {
      rest.lastIndex = tokens.lastIndex;
      if (rest.exec(text) === null) return undefined;
      tokens.lastIndex = rest.lastIndex;
    } else {
      depth += match[0] === "{" ? 1 : -1;
      if (depth === 0) return tokens.lastIndex;
    }
  }
  return undefined;
}

function wrong(problem: string, cause?: unknown): KbsError {
  return new KbsError("ERR_KBS_INIT_DATA", `init-data: ${problem}`, { cause });
}
