const STANDARD = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL_SAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/**
 * Decodes base64 as Go's `encoding/base64` does: line breaks inside are ignored, trailing bits are not checked.
 * @returns the bytes, or the offset of the first character that does not fit
 */
export function decodeBase64(text: string, alphabet: "standard" | "url", padding: "required" | "optional"): Uint8Array | number {
  const letters = alphabet === "standard" ? STANDARD : URL_SAFE;
  const bytes: number[] = [];
  let bits = 0;
  let count = 0;
  let at = 0;
  for (; at < text.length; at++) {
    const char = text[at]!;
    if (char === "\n" || char === "\r") continue;
    if (char === "=") break;
    const value = letters.indexOf(char);
    if (value === -1) return at;
    bits = ((bits << 6) | value) & 0xffffff;
    count++;
    if (count % 4 === 0) bytes.push((bits >> 16) & 0xff, (bits >> 8) & 0xff, bits & 0xff);
  }
  const rest = count % 4;
  if (rest === 1) return at;
  if (at < text.length) {
    let missing = (4 - rest) % 4;
    if (missing === 0) return at;
    for (; at < text.length; at++) {
      const char = text[at]!;
      if (char === "\n" || char === "\r") continue;
      if (missing === 0) return at;
      // Go names the padding that is incomplete.
      if (char !== "=") return at - 1;
      missing--;
    }
    if (missing !== 0) return at;
  } else if (rest !== 0 && padding === "required") {
    return at;
  }
  if (rest === 2) bytes.push((bits >> 4) & 0xff);
  if (rest === 3) bytes.push((bits >> 10) & 0xff, (bits >> 2) & 0xff);
  return Uint8Array.from(bytes);
}

/** Decodes hexadecimal text; returns why it is none. */
export function decodeHex(text: string): Uint8Array | string {
  const bytes = new Uint8Array(text.length >> 1);
  for (let at = 0; at < text.length; at++) {
    const digit = "0123456789abcdef".indexOf(text[at]!.toLowerCase());
    if (digit === -1) {
      const code = text.codePointAt(at)!;
      return `encoding/hex: invalid byte: U+${code.toString(16).toUpperCase().padStart(4, "0")} '${String.fromCodePoint(code)}'`;
    }
    bytes[at >> 1] = (bytes[at >> 1]! << 4) | digit;
  }
  return text.length % 2 === 0 ? bytes : "encoding/hex: odd length hex string";
}
