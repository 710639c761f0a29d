/** Rounds of decoding: an escape in an escape in a quoted string has three. */
const MAX_ROUNDS = 8;

/** One escape at the begin of a text: of a URL, or of a string as Go and JSON quote it. */
const ESCAPE = /^(?:(?:%|\\x)([0-9A-Fa-f]{2})|(?:\\u([0-9A-Fa-f]{4})|\\U([0-9A-Fa-f]{8}))|\\(["'\\/bfnrt]))/;

/** What stands for a control character; other quoted characters stand for themselves. */
const CONTROLS: ReadonlyMap<string, string> = new Map([
  ["b", "\b"],
  ["f", "\f"],
  ["n", "\n"],
  ["r", "\r"],
  ["t", "\t"],
]);

/** Longest escape, in characters. */
const MAX_ESCAPE = 10;

/** A text with its escapes resolved: bytes, one per character. `starts[i]` is where byte `i` was written in the original; the last is its end. */
interface Plain {
  readonly bytes: string;
  readonly starts: readonly number[];
}

/**
 * Replaces secrets by `***` however they are written: as they are, or escaped for a URL (Go's several ways and JavaScript's differ in
 * what they leave as it is), for a Go or JSON string, or one in the other. Both texts are compared with all escapes resolved.
 */
export function redact(text: string, secrets: readonly string[]): string {
  let clean = text;
  // Longest first: one may be part of another.
  for (const secret of [...secrets].sort((a, b) => b.length - a.length)) {
    if (secret === "") continue;
    // As it is as well: together with the text beside it, its begin or end may look like an escape.
    clean = redactEscaped(clean, resolve(secret).bytes).replaceAll(secret, "***");
  }
  return clean;
}

function redactEscaped(text: string, secret: string): string {
  const { bytes, starts } = resolve(text);
  const original = Buffer.from(text);
  const parts: Uint8Array[] = [];
  let done = 0;
  for (let at = bytes.indexOf(secret); at !== -1; at = bytes.indexOf(secret, at + secret.length)) {
    parts.push(original.subarray(done, starts[at]), Buffer.from("***"));
    done = starts[at + secret.length] ?? original.length;
  }
  return parts.length === 0 ? text : Buffer.concat([...parts, original.subarray(done)]).toString();
}

/** Resolves escapes until there are none. A `+` is a space in a query, so both become one. */
function resolve(text: string): Plain {
  const bytes = Buffer.from(text).toString("latin1");
  let plain: Plain = { bytes, starts: Array.from({ length: bytes.length + 1 }, (_, i) => i) };
  for (let round = 0; round < MAX_ROUNDS && /[%\\+]/.test(plain.bytes); round++) plain = resolveOnce(plain);
  return plain;
}

function resolveOnce({ bytes, starts }: Plain): Plain {
  const out: string[] = [];
  const from: number[] = [];
  for (let at = 0; at < bytes.length;) {
    const char = bytes.charAt(at);
    const match = char === "%" || char === "\\" ? ESCAPE.exec(bytes.slice(at, at + MAX_ESCAPE)) : null;
    const decoded = match === null ? (char === "+" ? " " : char) : valueOf(match);
    for (const byte of decoded) {
      out.push(byte);
      from.push(starts[at] ?? 0);
    }
    at += match?.[0].length ?? 1;
  }
  return { bytes: out.join(""), starts: [...from, starts[bytes.length] ?? 0] };
}

/** Bytes that an escape stands for. */
function valueOf([, byte, short, long, quoted]: RegExpExecArray): string {
  if (quoted !== undefined) return CONTROLS.get(quoted) ?? quoted;
  if (byte !== undefined) return String.fromCharCode(Number.parseInt(byte, 16));
  const point = Number.parseInt(short ?? long ?? "", 16);
  return Buffer.from(point > 0x10_ffff ? "?" : String.fromCodePoint(point)).toString("latin1");
}
