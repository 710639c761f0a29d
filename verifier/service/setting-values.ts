import { asObject, type JsonObject, type JsonValue } from "@sealpod/core";

/**
 * An object with these members and no others, for {@link Setting.parse}.
 * @throws {Error} that names what is missing or unknown
 */
export function fields(value: JsonValue, required: readonly string[], optional: readonly string[] = []): JsonObject {
  const found = asObject(value);
  const missing = required.filter((name) => found?.[name] === undefined);
  const unknown = Object.keys(found ?? {}).filter((name) => !required.includes(name) && !optional.includes(name));
  if (found !== undefined && missing.length === 0 && unknown.length === 0) return found;
  const what = found === undefined ? "" : missing.length > 0 ? `; ${missing.join(", ")} missing` : `; ${unknown.join(", ")} unknown`;
  throw new Error(`expected an object with ${[...required, ...optional].join(", ")}${what}`);
}

/**
 * A member that is text, and not empty.
 * @throws {Error} that names it
 */
export function textOf(object: JsonObject, name: string): string {
  const value = object[name];
  if (typeof value !== "string" || value === "") throw new Error(`expected text as ${name}`);
  return value;
}

/** Whether a text is a URL of one of these schemes (`https:` alone if none are said), without query, fragment or user. */
export function isPlainUrl(text: string, schemes: readonly string[] = ["https:"]): boolean {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  return url !== undefined && schemes.includes(url.protocol) && url.search === "" && url.hash === "" && url.username === "" && url.password === "";
}
