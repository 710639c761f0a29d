import { asArray, type JsonValue } from "@sealpod/core";

/** Says how the value found differs from the nearest value expected: most mistakes are one slash or one letter. */
export function difference(what: string, found: string, expected: readonly string[]): string {
  const [first = "", ...others] = [...expected].sort((a, b) => commonPrefix(b, found) - commonPrefix(a, found));
  const list = [first, ...others.slice(0, 4)].map((value) => `'${quote(value)}'`).join(", ");
  const lead = `The application's credentials expect ${what} ${list}.`;
  if (found === first) return lead;
  if (`${found}/` === first) return `${lead} The trailing slash is missing.`;
  if (found === `${first}/`) return `${lead} The trailing slash is too much.`;
  if (found.toLowerCase() === first.toLowerCase()) return `${lead} The letter case differs.`;
  if (found.trim() === first.trim()) return `${lead} White space at an end differs.`;
  if (first.includes("*")) return `${lead} There are no wildcards: '*' is a character like others.`;
  return `${lead} They differ from character ${commonPrefix(first, found) + 1} on.`;
}

function commonPrefix(a: string, b: string): number {
  let length = 0;
  while (length < a.length && a[length] === b[length]) length++;
  return length;
}

/** The audiences of a token: one, or a list. */
export function audiencesOf(aud: JsonValue | undefined): readonly string[] {
  return (asArray(aud) ?? [aud]).filter((item) => typeof item === "string");
}

/** A claim for a message. */
export function text(value: JsonValue | undefined): string {
  return typeof value === "string" ? quote(value) : "";
}

/** Text of a stranger within our own: one line, not endless. */
export function quote(value: string): string {
  // eslint-disable-next-line no-control-regex -- control characters would forge lines in answers and logs
  const line = value.slice(0, 301).replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029']/g, "?");
  return line.length > 300 ? `${line.slice(0, 300)}…` : line;
}

/** Seconds since 1970 for a message. */
export function isoTime(seconds: number): string {
  const date = new Date(seconds * 1000);
  return Number.isNaN(date.getTime()) ? String(seconds) : date.toISOString();
}
