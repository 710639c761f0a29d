import { createPrivateKey, type KeyObject } from "node:crypto";
import { decodeUtf8, fromBase64, fromHex, isSealpodError } from "@sealpod/core";
import type { CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { readIfPresent } from "../workspace.ts";

/** Largest kernel: distributions' have 10 to 60 MiB. */
export const MAX_KERNEL: number = 256 * 1024 * 1024;

/** Largest initial RAM disk: it is held in memory once to be hashed. */
export const MAX_INITRD: number = 1024 * 1024 * 1024;

/** Largest PEM file of a key: one of P-384 has 300 bytes, and parameters may stand before it. */
const MAX_KEY_FILE: number = 16 * 1024;

/**
 * A file that must be there, up to a limit in bytes.
 * @throws {CliError} ERR_CLI_FILE
 */
export async function readInput(path: string, limit: number, context: CliContext): Promise<Uint8Array> {
  const bytes = await readIfPresent(path, limit, context);
  if (bytes !== undefined) return bytes;
  throw new CliError("ERR_CLI_FILE", `${path} does not exist`, { hint: `Check the name; relative paths start from ${context.cwd}.` });
}

/**
 * A number of the command line: decimal, or hex after 0x.
 * @param most largest that is allowed
 * @param least smallest that is allowed
 * @throws {CliError} ERR_CLI_USAGE
 */
export function parseNumber(flag: string, text: string, most: bigint, least = 0n): bigint {
  const value = /^(0[xX][0-9a-fA-F]{1,16}|\d{1,20})$/.test(text) ? BigInt(text) : undefined;
  if (value !== undefined && value >= least && value <= most) return value;
  throw new CliError("ERR_CLI_USAGE", `${flag} ${text.slice(0, 40)} is not a number from ${least} to ${most}`, { hint: "Decimal, or hex after 0x." });
}

/** Hex digits of the command line without the 0x that may be in front; other text as it is. */
export function withoutPrefix(text: string): string {
  return text.replace(/^0x/i, "");
}

/**
 * Bytes of the command line in hex, with or without 0x, or in padded base64; the lengths differ, so none is taken for another.
 * @throws {CliError} ERR_CLI_USAGE
 */
export function parseBytes(flag: string, text: string, size: number): Uint8Array {
  const trimmed = text.trim();
  try {
    const digits = withoutPrefix(trimmed);
    const bytes = digits.length === 2 * size ? fromHex(digits) : fromBase64(trimmed);
    if (bytes.length === size) return bytes;
  } catch (error) {
    if (!isSealpodError(error)) throw error;
  }
  throw new CliError("ERR_CLI_USAGE", `${flag} ${trimmed.slice(0, 40)}${trimmed.length > 40 ? "…" : ""} is not ${size} bytes in hex or base64`, {
    hint: `${2 * size} hex digits, or base64 with its padding.`,
  });
}

/**
 * A private key in a PEM file. What is wrong with it is told without its content.
 * @throws {CliError} ERR_CLI_FILE
 */
export async function readPrivateKey(path: string, context: CliContext): Promise<KeyObject> {
  const text = decodeUtf8(await readInput(path, MAX_KEY_FILE, context), path);
  try {
    return createPrivateKey(text);
  } catch {
    // Not the cause: it may quote the file.
    throw new CliError("ERR_CLI_FILE", `${path} holds no private key in PEM that can be read without a password`, {
      hint: "Make one: openssl ecparam -name secp384r1 -genkey -noout -out id-key.pem. Take a password off: openssl pkey -in KEY -out KEY2.",
    });
  }
}
