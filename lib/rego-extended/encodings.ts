import { CoreError, decodeUtf8, toBase64url } from "@sealpod/core";
import { builtinError, decodeBase64 } from "@sealpod/rego";

/**
 * Bytes of base64 with padding as Go's decoder takes it.
 * @throws {BuiltinError}
 */
export function base64Bytes(text: string): Uint8Array {
  const bytes = decodeBase64(text, "standard", "required");
  if (typeof bytes === "number") throw builtinError(`illegal base64 data at input byte ${bytes}`);
  return bytes;
}

/**
 * Bytes of base64url without padding (RFC 7515 section 2). With `canonical` false, bits of the last character that belong to no byte are not looked at.
 * @param what name of the text, for messages
 * @throws {BuiltinError}
 */
export function decodeBase64url(text: string, what: string, canonical: boolean): Uint8Array {
  const illegal = text.search(/[^A-Za-z0-9_-]/);
  const bytes = Uint8Array.from(Buffer.from(text, "base64url"));
  const end = illegal === -1 && (text.length % 4 === 1 || (canonical && !isCanonical(text, bytes))) ? text.length - 1 : illegal;
  if (end !== -1) throw builtinError(`${what} had invalid encoding: illegal base64 data at input byte ${end}`);
  return bytes;
}

/** True if this is the only text that decodes to the bytes. */
export function isCanonical(text: string, bytes: Uint8Array): boolean {
  return toBase64url(bytes) === text;
}

/**
 * Text of UTF-8 bytes.
 * @throws {BuiltinError}
 */
export function textOf(bytes: Uint8Array, what: string): string {
  try {
    return decodeUtf8(bytes, what);
  } catch (error) {
    if (error instanceof CoreError) throw builtinError(error.message);
    throw error;
  }
}

/** One block of a PEM text, and what follows it. */
export interface PemBlock {
  readonly label: string;
  readonly der: Uint8Array;
  readonly rest: string;
}

const BEGIN = "-----BEGIN ";
const LABEL = /^[A-Z0-9 ]{1,40}$/;

/**
 * The first block of a PEM text (RFC 7468); text before it is skipped, as in Go. Undefined if there is none or the first one is malformed:
 * looking for a later one would let text hide a block from one reader and not from another, and cost quadratic time.
 */
export function decodePem(text: string): PemBlock | undefined {
  const start = text.startsWith(BEGIN) ? 0 : text.indexOf(`\n${BEGIN}`) + 1;
  if (!text.startsWith(BEGIN, start)) return undefined;
  const labelStart = start + BEGIN.length;
  const labelEnd = text.indexOf("-----", labelStart);
  const label = text.slice(labelStart, labelEnd);
  if (labelEnd === -1 || !LABEL.test(label)) return undefined;
  const end = `-----END ${label}-----`;
  const bodyStart = labelEnd + 5;
  const bodyEnd = text.indexOf(end, bodyStart);
  if (bodyEnd === -1) return undefined;
  const body = text.slice(bodyStart, bodyEnd).replaceAll(/[ \t\r\n]/g, "");
  if (body === "" || body.length % 4 !== 0 || !/^[A-Za-z0-9+/]+={0,2}$/.test(body)) return undefined;
  return { label, der: Uint8Array.from(Buffer.from(body, "base64")), rest: text.slice(bodyEnd + end.length).trimStart() };
}

/** True for text that OPA takes as PEM. */
export function isPem(text: string): boolean {
  return text.startsWith("-----BEGIN");
}
