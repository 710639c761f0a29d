import type { BuiltinContext } from "@sealpod/rego";
import { BuiltinError } from "@sealpod/rego";
import { parseAddress } from "../net/ip-address.ts";
import { isTime } from "../time/time-layout.ts";

function consistsOf(text: string, alphabet: string): boolean {
  for (const char of text) if (!alphabet.includes(char)) return false;
  return true;
}

const LETTERS = "abcdefghijklmnopqrstuvwxyz";
const DIGITS = "0123456789";

/** RFC 1123 names: labels of up to 63 letters, digits and hyphens within. */
function isHostname(text: string): boolean {
  if (text.length === 0 || text.length > 253) return false;
  return text
    .toLowerCase()
    .split(".")
    .every((label) => label !== "" && label.length <= 63 && !label.startsWith("-") && !label.endsWith("-") && consistsOf(label, `${LETTERS}${DIGITS}-`));
}

function isEmail(text: string): boolean {
  const at = text.lastIndexOf("@");
  return at > 0 && at < text.length - 1 && !hasSpace(text) && !text.slice(0, at).includes("@");
}

function hasSpace(text: string): boolean {
  for (const char of text) if (char <= " " || char === "\u007f") return true;
  return false;
}

/** True if a URI may be written so; `scheme` asks for one in front. */
function isUri(text: string, scheme: boolean): boolean {
  if (hasSpace(text) || text.includes("\\")) return false;
  return scheme ? URL.canParse(text) : URL.canParse(text, "https://base.invalid/");
}

/** Each brace that opens has one that closes; what stands between them is not looked at, as in OPA. */
function isUriTemplate(text: string): boolean {
  for (let at = text.indexOf("{"); at !== -1; at = text.indexOf("{", at)) {
    at = text.indexOf("}", at);
    if (at === -1) return false;
  }
  return !hasSpace(text);
}

function isUuid(text: string): boolean {
  const parts = text.toLowerCase().split("-");
  return parts.map((part) => part.length).join(" ") === "8 4 4 4 12" && consistsOf(parts.join(""), "0123456789abcdef");
}

function isJsonPointer(text: string): boolean {
  if (text !== "" && !text.startsWith("/")) return false;
  for (let at = text.indexOf("~"); at !== -1; at = text.indexOf("~", at + 1)) if (!"01".includes(text.charAt(at + 1) || " ")) return false;
  return true;
}

/** A number of levels to go up, then a pointer or `#` for the name there. */
function isRelativePointer(text: string): boolean {
  let digits = 0;
  while (DIGITS.includes(text.charAt(digits) || " ")) digits++;
  if (digits === 0 || (digits > 1 && text.startsWith("0"))) return false;
  return text.slice(digits) === "#" || isJsonPointer(text.slice(digits));
}

function isRegex(text: string, context: BuiltinContext): boolean {
  try {
    context.regex(text);
    return true;
  } catch (error) {
    if (error instanceof BuiltinError) return false;
    throw error;
  }
}

const FORMATS: ReadonlyMap<string, (text: string, context: BuiltinContext) => boolean> = new Map<string, (text: string, context: BuiltinContext) => boolean>([
  ["date", (text) => ["2006-01-02"].some((layout) => isTime(layout, text))],
  ["time", (text) => ["15:04:05", "15:04:05Z07:00"].some((layout) => isTime(layout, text))],
  ["date-time", (text) => ["RFC3339Nano", "15:04:05", "15:04:05Z07:00", "2006-01-02"].some((layout) => isTime(layout, text))],
  ["hostname", isHostname],
  ["email", isEmail],
  ["idn-email", isEmail],
  ["ipv4", (text) => !text.includes(":") && parseAddress(text) !== undefined],
  ["ipv6", (text) => text.includes(":") && parseAddress(text) !== undefined],
  ["uri", (text) => isUri(text, true)],
  ["uri-reference", (text) => isUri(text, false)],
  ["uri-template", isUriTemplate],
  ["iri", (text) => isUri(text, true)],
  ["iri-reference", (text) => isUri(text, false)],
  ["uuid", isUuid],
  ["regex", isRegex],
  ["json-pointer", isJsonPointer],
  ["relative-json-pointer", isRelativePointer],
]);

/** True for texts in a format, and for formats that are not known: JSON Schema leaves those to the reader. Linear in the text. */
export function matchesFormat(format: string, text: string, context: BuiltinContext): boolean {
  context.work(text.length >> 2);
  return FORMATS.get(format)?.(text, context) ?? true;
}
