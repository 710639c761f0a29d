import { resolve } from "node:path";
import { asArray, asObject, editDistance, encodeJson, messageOf, parseJson, type JsonObject, type JsonValue } from "@sealpod/core";
import { ServiceError } from "./errors.ts";

/** Characters of a configuration file. */
const MAX_CONFIGURATION = 1024 * 1024;

/** Edits between a name and the one that was probably meant. */
const MAX_EDITS = 3;

/** Milliseconds. */
const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };
/** Bytes. */
const SIZES: Readonly<Record<string, number>> = { "": 1, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3 };

/** One key of a configuration. */
export interface Setting<T> {
  /** One or two sentences for the person who sets it. */
  readonly doc: string;
  /** In messages: `a duration such as 30s`. */
  readonly expected: string;
  /** The value if nothing is said, as it would stand in the file; undefined if there is none. */
  readonly preset: JsonValue | undefined;
  readonly isRequired: boolean;
  /** @throws {Error} whose message completes "issuer is …, " */
  readonly parse: (value: JsonValue, directory: string) => T;
  /** The value that an environment variable's text means. */
  readonly fromText: (text: string) => JsonValue;
}

/** Keys of a configuration, and sections of keys. */
export interface SettingsSchema {
  readonly [key: string]: Setting<unknown> | SettingsSchema;
}

/** What is read by a schema. */
export type SettingsValue<S> = {
  readonly [K in keyof S]: S[K] extends Setting<infer T> ? T : SettingsValue<S[K]>;
};

/** Where a configuration comes from. */
export interface SettingsSource {
  /** Text of the JSON file, if there is one. */
  readonly text?: string | undefined;
  /** Name of the file in messages. */
  readonly name: string;
  /** Where paths in the file, and in variables, start from. */
  readonly directory: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Of the variables: `SEALPOD_ATTESTATION_` makes `SEALPOD_ATTESTATION_TLS_CERT` of `tls.cert`. */
  readonly prefix: string;
  /** What is required may be missing: for a configuration that is only shown. */
  readonly isDraft?: boolean;
}

/** A configuration that was read. */
export interface ReadSettings<S> {
  readonly value: SettingsValue<S>;
  /** The same as it would stand in a file, with what is the default. */
  readonly effective: JsonObject;
}

interface Base {
  readonly preset?: JsonValue;
  readonly required?: boolean;
}

type Optional<O extends Base, T> = O extends { readonly preset: JsonValue } | { readonly required: true } ? T : T | undefined;

function make<T, O extends Base>(
  doc: string,
  expected: string,
  options: O,
  parse: (value: JsonValue, directory: string) => T,
  fromText: (text: string) => JsonValue,
): Setting<Optional<O, T>> {
  return { doc, expected, preset: options.preset, isRequired: options.required === true, parse: parse as Setting<Optional<O, T>>["parse"], fromText };
}

const asText = (text: string): JsonValue => text;
const asJson = (text: string): JsonValue => (/^\s*[[{"]|^(?:true|false|null|-?\d+)$/.test(text) ? parseJson(text, "the variable") : text);

/** Text that `check` takes; it returns what is wrong with it. */
export function textSetting<const O extends Base>(
  doc: string,
  options: O,
  expected = "text",
  check?: (text: string) => string | undefined,
): Setting<Optional<O, string>> {
  const parse = (value: JsonValue): string => {
    if (typeof value !== "string" || value === "") throw new Error(`expected ${expected}`);
    const problem = check?.(value);
    if (problem !== undefined) throw new Error(problem);
    return value;
  };
  return make(doc, expected, options, parse, asText);
}

/** A path; relative ones start from the directory of the configuration. */
export function fileSetting<const O extends Base>(doc: string, options: O): Setting<Optional<O, string>> {
  const parse = (value: JsonValue, directory: string): string => {
    if (typeof value !== "string" || value === "" || value.includes("\0")) throw new Error("expected a path");
    return resolve(directory, value);
  };
  return make(doc, "a path", options, parse, asText);
}

/** An integer. */
export function integerSetting<const O extends Base>(doc: string, options: O, minimum: number, maximum: number): Setting<Optional<O, number>> {
  const expected = `an integer from ${minimum} to ${maximum}`;
  const parse = (value: JsonValue): number => {
    if (typeof value !== "number" || !Number.isInteger(value) || value < minimum || value > maximum) throw new Error(`expected ${expected}`);
    return value;
  };
  return make(doc, expected, options, parse, (text) => (/^-?\d{1,15}$/.test(text) ? Number(text) : text));
}

/** Milliseconds, written as `250ms`, `30s`, `15m`, `8h` or `90d`. */
export function durationSetting<const O extends Base>(doc: string, options: O, minimum: number, maximum: number): Setting<Optional<O, number>> {
  const expected = `a duration from ${durationText(minimum)} to ${durationText(maximum)}, such as 30s, 15m, 8h or 90d`;
  const parse = (value: JsonValue): number => {
    const found = typeof value === "string" ? /^(\d{1,9})(ms|s|m|h|d)$/.exec(value) : null;
    const milliseconds = Number(found?.[1] ?? Number.NaN) * (UNITS[found?.[2] ?? ""] ?? Number.NaN);
    if (!(milliseconds >= minimum && milliseconds <= maximum)) throw new Error(`expected ${expected}`);
    return milliseconds;
  };
  return make(doc, expected, options, parse, asText);
}

/** Bytes, written as a number or as `64KiB`, `2MiB`. */
export function sizeSetting<const O extends Base>(doc: string, options: O, minimum: number, maximum: number): Setting<Optional<O, number>> {
  const expected = `a size from ${minimum} to ${maximum} bytes, such as 65536, 64KiB or 2MiB`;
  const parse = (value: JsonValue): number => {
    const found = /^(\d{1,12})(|KiB|MiB|GiB)$/.exec(typeof value === "number" ? String(value) : typeof value === "string" ? value : "");
    const bytes = Number(found?.[1] ?? Number.NaN) * (SIZES[found?.[2] ?? "-"] ?? Number.NaN);
    if (!(bytes >= minimum && bytes <= maximum)) throw new Error(`expected ${expected}`);
    return bytes;
  };
  return make(doc, expected, options, parse, asText);
}

/** One of some words. */
export function choiceSetting<const C extends string, const O extends Base>(doc: string, choices: readonly C[], options: O): Setting<Optional<O, C>> {
  const expected = choices.map((choice) => JSON.stringify(choice)).join(" or ");
  const parse = (value: JsonValue): C => {
    const found = choices.find((choice) => choice === value);
    if (found === undefined) throw new Error(`expected ${expected}`);
    return found;
  };
  return make(doc, expected, options, parse, asText);
}

/** true or false. */
export function booleanSetting<const O extends Base>(doc: string, options: O): Setting<Optional<O, boolean>> {
  const parse = (value: JsonValue): boolean => {
    if (typeof value !== "boolean") throw new Error("expected true or false");
    return value;
  };
  return make(doc, "true or false", options, parse, (text) => (text === "true" ? true : text === "false" ? false : text));
}

/** `host:port`. */
export function addressSetting<const O extends Base>(doc: string, options: O): Setting<Optional<O, { readonly host: string; readonly port: number }>> {
  const expected = "host:port such as 127.0.0.1:8443, [::]:8443 or 0.0.0.0:8443";
  const parse = (value: JsonValue): { readonly host: string; readonly port: number } => {
    const address = typeof value === "string" ? parseAddress(value) : undefined;
    if (address === undefined) throw new Error(`expected ${expected}`);
    return address;
  };
  return make(doc, expected, options, parse, asText);
}

/** `host:port` with IPv6 in brackets; undefined if it is something else. */
export function parseAddress(text: string): { readonly host: string; readonly port: number } | undefined {
  const found = /^(?:\[([0-9a-fA-F:.]{2,45})\]|([A-Za-z0-9._-]{1,253})):(\d{1,5})$/.exec(text);
  const port = Number(found?.[3] ?? Number.NaN);
  return found === null || port > 65_535 ? undefined : { host: found[1] ?? found[2] ?? "", port };
}

/** What none of the others is; in a variable it is JSON, or text as it is. */
export function jsonSetting<T, const O extends Base>(
  doc: string,
  expected: string,
  options: O,
  parse: (value: JsonValue, directory: string) => T,
): Setting<Optional<O, T>> {
  return make(doc, expected, options, parse, asJson);
}

/** A list; in a variable it is JSON, or items with commas between them. */
export function listSetting<T, const O extends Base>(doc: string, options: O, item: Setting<T>): Setting<Optional<O, readonly T[]>> {
  const expected = `a list of ${item.expected}`;
  const parse = (value: JsonValue, directory: string): readonly T[] => {
    const items = asArray(value);
    if (items === undefined) throw new Error(`expected ${expected}`);
    return items.map((entry, at) => {
      try {
        return item.parse(entry, directory);
      } catch (cause) {
        throw new Error(`its item ${at} is ${shown(entry)}: ${messageOf(cause)}`, { cause });
      }
    });
  };
  return make(doc, expected, options, parse, (text) =>
    /^\s*\[/.test(text) ? parseJson(text, "the variable") : text === "" ? [] : text.split(",").map((part) => part.trim()),
  );
}

/**
 * Reads a configuration: the file, then the variables over it, then the defaults. All problems are told at once.
 * @throws {ServiceError} ERR_SERVICE_CONFIG
 */
export function readSettings<const S extends SettingsSchema>(schema: S, source: SettingsSource): ReadSettings<S> {
  const problems: string[] = [];
  const file = parseFile(source, problems);
  if (problems.length === 0) unknownKeys(schema, file, "", source, problems);
  unknownVariables(schema, source, problems);
  const read = problems.length === 0 ? readSection(schema, file, [], source, problems) : undefined;
  if (read !== undefined && problems.length === 0) return { value: read.value as SettingsValue<S>, effective: read.effective };
  throw new ServiceError("ERR_SERVICE_CONFIG", problems.length === 1 ? (problems[0] ?? "") : `${problems.length} problems:\n  ${problems.join("\n  ")}`, {
    details: { problems },
    hint: "--describe-config prints every key with its meaning, --print-config the configuration in force.",
  });
}

/** A configuration as the text of a file. */
export function printSettings(effective: JsonObject): string {
  return `${JSON.stringify(JSON.parse(encodeJson(effective)), undefined, 2)}\n`;
}

/** All keys in a table of Markdown: key, variable, default, meaning. */
export function describeSettings(schema: SettingsSchema, prefix: string): string {
  const cell = (text: string): string => text.replaceAll("|", "\\|").replaceAll("\n", " ");
  const rows = leaves(schema, []).map(({ path, setting }) => {
    const preset = setting.isRequired ? "required" : setting.preset === undefined ? "none" : `\`${encodeJson(setting.preset)}\``;
    return `| \`${path.join(".")}\` | \`${variableOf(prefix, path)}\` | ${cell(preset)} | ${cell(setting.doc)} Takes ${cell(setting.expected)}. |`;
  });
  return `| key | variable | default | meaning |\n|---|---|---|---|\n${rows.join("\n")}\n`;
}

interface Leaf {
  readonly path: readonly string[];
  readonly setting: Setting<unknown>;
}

function leaves(schema: SettingsSchema, above: readonly string[]): readonly Leaf[] {
  return Object.entries(schema).flatMap(([key, entry]) => {
    const path = [...above, key];
    return isSetting(entry) ? [{ path, setting: entry }] : leaves(entry, path);
  });
}

function isSetting(entry: Setting<unknown> | SettingsSchema): entry is Setting<unknown> {
  return typeof (entry as { parse?: unknown }).parse === "function";
}

/** `masterKey.file` is `MASTER_KEY_FILE`. */
function variableOf(prefix: string, path: readonly string[]): string {
  return `${prefix}${path.map((part) => part.replaceAll(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()).join("_")}`;
}

function parseFile({ text, name }: SettingsSource, problems: string[]): JsonObject {
  if (text === undefined) return {};
  try {
    const value = parseJson(text, name, { maxLength: MAX_CONFIGURATION, maxDepth: 16 });
    const object = asObject(value);
    if (object !== undefined) return object;
    problems.push(`${name}: expected a JSON object, found ${shown(value)}`);
  } catch (error) {
    problems.push(messageOf(error));
  }
  return {};
}

function unknownKeys(schema: SettingsSchema, found: JsonObject, above: string, source: SettingsSource, problems: string[]): void {
  for (const [key, value] of Object.entries(found)) {
    const entry = Object.hasOwn(schema, key) ? schema[key] : undefined;
    const path = above === "" ? key : `${above}.${key}`;
    if (entry === undefined) {
      problems.push(`${source.name}: there is no key ${path.slice(0, 100)}${nearest(key, Object.keys(schema), above === "" ? "" : `${above}.`)}`);
    } else if (!isSetting(entry) && value !== null) {
      const section = asObject(value);
      if (section === undefined) problems.push(`${source.name}: ${path} is ${shown(value)}, expected an object with ${Object.keys(entry).join(", ")}`);
      else unknownKeys(entry, section, path, source, problems);
    }
  }
}

function unknownVariables(schema: SettingsSchema, { env, prefix }: SettingsSource, problems: string[]): void {
  const known = leaves(schema, []).map(({ path }) => variableOf(prefix, path));
  for (const name of Object.keys(env)) {
    if (name.startsWith(prefix) && !known.includes(name)) problems.push(`there is no environment variable ${name.slice(0, 100)}${nearest(name, known, "")}`);
  }
}

function readSection(
  schema: SettingsSchema,
  found: JsonObject,
  above: readonly string[],
  source: SettingsSource,
  problems: string[],
): { readonly value: Record<string, unknown>; readonly effective: JsonObject } {
  const value: Record<string, unknown> = {};
  const effective: Record<string, JsonValue> = {};
  for (const [key, entry] of Object.entries(schema)) {
    const path = [...above, key];
    if (!isSetting(entry)) {
      const section = readSection(entry, asObject(found[key]) ?? {}, path, source, problems);
      value[key] = section.value;
      effective[key] = section.effective;
      continue;
    }
    const variable = variableOf(source.prefix, path);
    const text = source.env[variable];
    try {
      const raw = (text === undefined ? undefined : entry.fromText(text)) ?? found[key] ?? entry.preset;
      effective[key] = raw ?? null;
      if (raw !== undefined && raw !== null) value[key] = parseValue(entry, raw, source.directory);
      else if (entry.isRequired && source.isDraft !== true) problems.push(`${path.join(".")} is missing: ${entry.doc} (in ${source.name}, or as ${variable})`);
    } catch (error) {
      problems.push(`${text === undefined ? `${source.name}: ${path.join(".")}` : variable} ${messageOf(error)}`);
    }
  }
  return { value, effective };
}

function parseValue(setting: Setting<unknown>, raw: JsonValue, directory: string): unknown {
  try {
    return setting.parse(raw, directory);
  } catch (cause) {
    throw new Error(`is ${shown(raw)}: ${messageOf(cause)}`, { cause });
  }
}

/** A refused value, for a message; the password of an address in it is nobody's business. */
function shown(value: JsonValue): string {
  const text = encodeJson(value).replaceAll(/(\/\/[^/@\s":]*):[^/@\s"]*@/g, "$1:…@");
  return text.length > 100 ? `${text.slice(0, 100)}…` : text;
}

/** `; did you mean X?` with the known name of the fewest edits, if they are few. */
function nearest(name: string, known: readonly string[], lead: string): string {
  let best: string | undefined;
  let fewest = Math.min(MAX_EDITS, Math.floor(name.length / 2)) + 1;
  for (const candidate of known) {
    const count = editDistance(name.toLowerCase().slice(0, 100), candidate.toLowerCase());
    if (count < fewest) {
      best = candidate;
      fewest = count;
    }
  }
  if (best !== undefined) return `; did you mean ${lead}${best}?`;
  return known.length > 20 ? "" : `; there are ${known.join(", ")}`;
}

/** A duration as it is written. */
function durationText(milliseconds: number): string {
  const [unit, size] = Object.entries(UNITS)
    .toReversed()
    .find(([, each]) => milliseconds % each === 0) ?? ["ms", 1];
  return `${milliseconds / size}${unit}`;
}
