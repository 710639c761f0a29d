import { hash } from "node:crypto";
import { gzipSync } from "node:zlib";
import { decodeUtf8, encodeUtf8, messageOf, toBase64, toHex } from "@sealpod/core";
import { parse, TomlError } from "smol-toml";
import { GenpolicyError } from "./errors.ts";
import { compareBytes } from "./pretty-json.ts";

/** Hash functions that initdata can be measured with. */
export type InitdataAlgorithm = "sha256" | "sha384" | "sha512";

/** Initdata without its policy: what `--initdata-path` names. */
export interface InitdataTemplate {
  readonly algorithm: InitdataAlgorithm;
  /** Files for the guest by name. */
  readonly data: ReadonlyMap<string, string>;
}

/** Version and algorithm that the known tool writes when there is no template. */
export const DEFAULT_INITDATA: InitdataTemplate = { algorithm: "sha256", data: new Map() };

const VERSION = "0.1.0";
const ALGORITHMS: readonly InitdataAlgorithm[] = ["sha256", "sha384", "sha512"];
const POLICY_KEY = "policy.rego";

/** Length of HOST_DATA in a SEV-SNP report. */
const HOST_DATA_LENGTH = 32;

/** Files of a template. Initdata travels in an annotation of at most 256 KiB. */
const MAX_TEMPLATE = 1024 * 1024;

/**
 * Parses an initdata template (specs/genpolicy.md 3.5): version 0.1.0, an algorithm, texts in `[data]`, and nothing else, for what is
 * not written again would be lost.
 * @throws {GenpolicyError} ERR_GENPOLICY_INITDATA with line and column for what is not TOML
 */
export function parseInitdataTemplate(text: string, name: string): InitdataTemplate {
  if (text.length > MAX_TEMPLATE) throw refusal(name, `has ${text.length} characters, more than ${MAX_TEMPLATE}`);
  let table: Readonly<Record<string, unknown>>;
  try {
    table = parse(text);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    throw new GenpolicyError("ERR_GENPOLICY_INITDATA", `${name}:${error.line}:${error.column}: not TOML: ${messageOf(error).split("\n")[0] ?? ""}`, {
      cause: error,
      details: { file: name },
      hint: HINT,
    });
  }
  const field = (key: string): unknown => (Object.hasOwn(table, key) ? table[key] : undefined);
  for (const key of Object.keys(table)) {
    if (!["version", "algorithm", "data"].includes(key)) throw refusal(name, `has ${JSON.stringify(key)}, which initdata does not have`);
  }
  if (field("version") !== VERSION) throw refusal(name, `has version ${shown(field("version"))}, expected ${JSON.stringify(VERSION)}`);
  const algorithm = ALGORITHMS.find((known) => known === field("algorithm"));
  if (algorithm === undefined) throw refusal(name, `has algorithm ${shown(field("algorithm"))}, expected one of ${ALGORITHMS.join(", ")}`);
  const data = field("data") ?? {};
  if (typeof data !== "object" || data === null || Array.isArray(data)) throw refusal(name, "has data that is no table");
  const texts = Object.entries(data as Readonly<Record<string, unknown>>).map(([key, value]) => {
    if (typeof value !== "string") throw refusal(name, `data.${JSON.stringify(key)} is ${shown(value)}, expected text`);
    return [key, value] as const;
  });
  return { algorithm, data: new Map(texts) };
}

/**
 * The initdata document: the template's texts and the policy, sorted by key so that the measurement does not depend on chance.
 * @returns UTF-8 TOML, as it is measured
 */
export function encodeInitdata(policy: string, { algorithm, data }: InitdataTemplate): Uint8Array {
  const entries = [...new Map([...data, [POLICY_KEY, policy]])].sort(([a], [b]) => compareBytes(a, b));
  const lines = entries.map(([key, value]) => `${tomlKey(key)} = ${tomlText(value)}\n`);
  return encodeUtf8(`version = "${VERSION}"\nalgorithm = "${algorithm}"\n\n[data]\n${lines.join("")}`);
}

/** Value of the annotation: base64 of the gzipped document. */
export function initdataAnnotation(document: Uint8Array): string {
  const compressed = gzipSync(document);
  // Byte 9 of the header names the operating system (RFC 1952 2.3.1): "unknown", so that the bytes do not tell where they were made.
  compressed[9] = 255;
  return toBase64(compressed);
}

/** HOST_DATA, hex: the document's digest, cut or filled with zeros to 32 bytes. */
export function hostDataOf(document: Uint8Array, algorithm: InitdataAlgorithm): string {
  const digest = hash(algorithm, document, "buffer");
  const field = new Uint8Array(HOST_DATA_LENGTH);
  field.set(digest.subarray(0, HOST_DATA_LENGTH));
  return toHex(field);
}

/** The policy within an initdata document; undefined if it has none. */
export function policyOfInitdata(document: Uint8Array, name: string): string | undefined {
  return parseInitdataTemplate(decodeUtf8(document, name), name).data.get(POLICY_KEY);
}

const HINT = `Expected: version = "${VERSION}", algorithm = "sha256", and texts below [data].`;

function refusal(name: string, problem: string): GenpolicyError {
  return new GenpolicyError("ERR_GENPOLICY_INITDATA", `${name} ${problem}`, { details: { file: name }, hint: HINT });
}

function shown(value: unknown): string {
  return typeof value === "string" ? JSON.stringify(value.slice(0, 40)) : value === undefined ? "nothing" : `a ${Array.isArray(value) ? "list" : typeof value}`;
}

function tomlKey(key: string): string {
  return /^[A-Za-z0-9_-]+$/.test(key) ? key : basicString(key);
}

/** As the known tool writes it: literal lines where the text permits, so that a policy can be read in its initdata. */
function tomlText(text: string): string {
  // A literal string has no escapes: no control characters (TOML 1.0, "String"), no quotes that could end it.
  // eslint-disable-next-line no-control-regex
  const literal = !/[\u0000-\u0008\u000b-\u001f\u007f]/.test(text) && !text.includes("'''") && !text.endsWith("'");
  if (literal && text.includes("\n")) return `'''\n${text}'''`;
  return basicString(text);
}

function basicString(text: string): string {
  // JSON escapes what TOML wants escaped, in the same spelling, but for DEL.
  return JSON.stringify(text).replaceAll("\u007f", "\\u007f");
}
