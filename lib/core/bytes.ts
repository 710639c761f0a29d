import { createHash, timingSafeEqual } from "node:crypto";
import { CoreError } from "./errors.ts";

const strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const utf8Encoder = new TextEncoder();

/** UTF-8 bytes of `text`. */
export function encodeUtf8(text: string): Uint8Array {
  return utf8Encoder.encode(text);
}

/**
 * Text of UTF-8 bytes; a byte order mark is kept as U+FEFF.
 * @throws {CoreError} ERR_CORE_ENCODING if the bytes are not valid UTF-8
 */
export function decodeUtf8(bytes: Uint8Array, what = "text"): string {
  try {
    return strictUtf8.decode(bytes);
  } catch (cause) {
    throw new CoreError("ERR_CORE_ENCODING", `${what} is not valid UTF-8`, { cause });
  }
}

/** The bytes of all parts, one after the other. */
export function concatBytes(...parts: readonly Uint8Array[]): Uint8Array {
  let length = 0;
  for (const part of parts) length += part.length;
  const out = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** True if both have the same length and bytes. The time depends on the length alone, so it is safe for secrets. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && timingSafeEqual(a, b);
}

/** True if every byte is zero. */
export function isZero(bytes: Uint8Array): boolean {
  for (const byte of bytes) if (byte !== 0) return false;
  return true;
}

/** Lower-case hex digits. */
export function toHex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("hex");
}

/**
 * Bytes of hex digits, either case, no prefix, no spaces.
 * @throws {CoreError} ERR_CORE_ENCODING on an odd length or another character
 */
export function fromHex(text: string, what = "value"): Uint8Array {
  if (text.length % 2 !== 0 || !/^[0-9a-fA-F]*$/.test(text)) {
    throw new CoreError("ERR_CORE_ENCODING", `${what} is not hex: expected an even number of digits 0-9 and a-f`, { details: { length: text.length } });
  }
  return new Uint8Array(Buffer.from(text, "hex"));
}

/** Base64 with padding (RFC 4648 section 4). */
export function toBase64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("base64");
}

/** Base64url without padding (RFC 4648 section 5, as JOSE uses it). */
export function toBase64url(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("base64url");
}

/**
 * Bytes of canonical base64: standard alphabet, padded, unused bits zero, no line breaks.
 * @throws {CoreError} ERR_CORE_ENCODING
 */
export function fromBase64(text: string, what = "value"): Uint8Array {
  const bytes = new Uint8Array(Buffer.from(text, "base64"));
  if (toBase64(bytes) !== text)
    throw new CoreError("ERR_CORE_ENCODING", `${what} is not canonical base64 (RFC 4648 section 4, padded)`, { details: { length: text.length } });
  return bytes;
}

/**
 * Bytes of canonical base64url: URL alphabet, no padding, unused bits zero.
 * @throws {CoreError} ERR_CORE_ENCODING
 */
export function fromBase64url(text: string, what = "value"): Uint8Array {
  const bytes = new Uint8Array(Buffer.from(text, "base64url"));
  if (toBase64url(bytes) !== text)
    throw new CoreError("ERR_CORE_ENCODING", `${what} is not canonical base64url (RFC 4648 section 5, unpadded)`, { details: { length: text.length } });
  return bytes;
}

/**
 * Bytes of base64 or base64url, padded or not: what the genuine attestation service accepts (specs/attestation.md 4.2).
 * Any other character is refused, and so are a misplaced `=` and unused bits that are not zero.
 * @throws {CoreError} ERR_CORE_ENCODING
 */
export function fromAnyBase64(text: string, what = "value"): Uint8Array {
  const padding = text.length % 4 !== 0 || !text.endsWith("=") ? 0 : text.endsWith("==") ? 2 : 1;
  const bare = text.length - padding;
  // Digits beyond the last group of four: none, or two or three of which some bits mean nothing. One alone holds no byte.
  const rest = bare % 4;
  const bytes = Buffer.from(text, "base64");
  const length = ((bare - rest) / 4) * 3 + Math.max(rest - 1, 0);
  // The decoder skips what is no digit, ends at "=", and takes characters beyond Latin-1 for others: then bytes are missing, or the text is not ASCII.
  if (rest === 1 || bytes.length !== length || Buffer.byteLength(text) !== text.length) throw anyBase64Error(text, what);
  // Unused bits of the last digit that are set would be a second way to write the same bytes.
  const end = text
    .slice(bare - rest, bare)
    .replaceAll("+", "-")
    .replaceAll("/", "_");
  if (rest !== 0 && bytes.toString("base64url", length - (rest - 1)) !== end) throw anyBase64Error(text, what);
  // Small buffers are parts of a pool that they share with others; a large one has its memory to itself, and is not copied.
  return bytes.buffer.byteLength === bytes.length ? new Uint8Array(bytes.buffer) : new Uint8Array(bytes);
}

/** Why a text is refused, at leisure: the work of looking at each character is left to the texts that fail. */
function anyBase64Error(text: string, what: string): CoreError {
  const bare = text.replace(/={0,2}$/, "");
  const digits = (text.length === bare.length || text.length % 4 === 0) && /^[A-Za-z0-9+/_-]*$/.test(bare);
  const problem = digits ? "not canonical base64url (RFC 4648 section 5, unpadded)" : "neither base64 nor base64url";
  return new CoreError("ERR_CORE_ENCODING", `${what} is ${problem}`, { details: { length: digits ? bare.length : text.length } });
}

/** SHA-256 digest, 32 bytes. */
export function sha256(...parts: readonly Uint8Array[]): Uint8Array {
  return digest("sha256", parts);
}

/** SHA-384 digest, 48 bytes. */
export function sha384(...parts: readonly Uint8Array[]): Uint8Array {
  return digest("sha384", parts);
}

function digest(algorithm: "sha256" | "sha384", parts: readonly Uint8Array[]): Uint8Array {
  const hash = createHash(algorithm);
  for (const part of parts) hash.update(part);
  return new Uint8Array(hash.digest());
}
