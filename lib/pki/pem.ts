import { fromBase64, toBase64 } from "@sealpod/core";
import { PkiError } from "./errors.ts";

/** Longest PEM text, in characters: a chain of three AMD certificates is below 8 KiB. */
export const MAX_PEM_LENGTH: number = 256 * 1024;

/** Most blocks in one text: no chain of this project has more than five certificates. */
export const MAX_PEM_BLOCKS = 16;

const BLOCK = /-----BEGIN ([A-Z0-9 ]{1,40})-----[ \t]*\r?\n([A-Za-z0-9+/=\r\n]+?)-----END \1-----/y;
const SPACE = /[ \t\r\n]*/y;

/**
 * The DER of every block of a PEM text (RFC 7468), in order. All blocks must have the label; between them only white space may stand.
 * @param what name of the text, for messages
 * @throws {PkiError} ERR_PKI_PEM, ERR_PKI_LIMIT
 */
export function parsePem(text: string, label: string, what: string): readonly Uint8Array[] {
  if (text.length > MAX_PEM_LENGTH) throw new PkiError("ERR_PKI_LIMIT", `${what}: PEM of ${text.length} characters, more than the limit of ${MAX_PEM_LENGTH}`);
  const blocks: Uint8Array[] = [];
  let at = skipSpace(text, 0);
  while (at < text.length) {
    BLOCK.lastIndex = at;
    const match = BLOCK.exec(text);
    if (match === null) throw new PkiError("ERR_PKI_PEM", `${what}: no PEM block at character ${at}`, { details: { offset: at } });
    if (match[1] !== label) throw new PkiError("ERR_PKI_PEM", `${what}: found PEM label "${match[1]}" at character ${at}, expected "${label}"`);
    if (blocks.length === MAX_PEM_BLOCKS) throw new PkiError("ERR_PKI_LIMIT", `${what}: more than ${MAX_PEM_BLOCKS} PEM blocks`);
    try {
      blocks.push(fromBase64((match[2] ?? "").replaceAll(/[\r\n]/g, ""), "PEM body"));
    } catch (cause) {
      throw new PkiError("ERR_PKI_PEM", `${what}: the PEM block at character ${at} is not canonical base64`, { cause, details: { offset: at } });
    }
    at = skipSpace(text, BLOCK.lastIndex);
  }
  if (blocks.length === 0) throw new PkiError("ERR_PKI_PEM", `${what}: no PEM block`);
  return blocks;
}

/** PEM text of one DER value (RFC 7468): lines of 64 characters, `\n` at the end of each. */
export function encodePem(label: string, der: Uint8Array): string {
  const lines = toBase64(der).match(/.{1,64}/g) ?? [];
  return `-----BEGIN ${label}-----\n${lines.join("\n")}\n-----END ${label}-----\n`;
}

function skipSpace(text: string, at: number): number {
  SPACE.lastIndex = at;
  SPACE.test(text);
  return SPACE.lastIndex;
}
