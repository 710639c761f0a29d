import { createHash } from "node:crypto";
import { decodeUtf8, encodeUtf8, fromAnyBase64, isSealpodError, toBase64, toBase64url, type JsonObject } from "@sealpod/core";
import type { CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { readBytes } from "../workspace.ts";

/** `base64`, of either alphabet, or `plaintext`, UTF-8. */
export type DataType = "base64" | "plaintext";

/** Flags of `encrypt` and `decrypt`, in the words of `az keyvault key encrypt`. */
export interface CipherOptions {
  /** `RSA-OAEP-256`, `A256GCM`, … */
  readonly algorithm: string;
  readonly value: string;
  readonly dataType: DataType;
  /** Base64. */
  readonly iv?: string;
  readonly aad?: string;
  readonly tag?: string;
}

/** Flags of `sign` and `verify`. */
export interface SignatureOptions {
  /** `RS256`, `PS384`, `ES512`, … */
  readonly algorithm: string;
  /** Base64 of the digest. */
  readonly digest?: string;
  /** A file that is hashed here. */
  readonly file?: string;
}

const DIGEST_HINT = "Give the bytes of the digest in base64: openssl dgst -sha256 -binary FILE | base64; or --file FILE to have it hashed here.";

/**
 * Bytes of a flag.
 * @throws {CliError} ERR_CLI_USAGE
 */
export function bytesOfValue(text: string, type: DataType, flag = "--value"): Uint8Array {
  if (type === "plaintext") return encodeUtf8(text);
  try {
    return fromAnyBase64(text.trim(), flag);
  } catch (error) {
    if (!isSealpodError(error)) throw error;
    // Not the value: it may be secret.
    throw new CliError("ERR_CLI_USAGE", `${flag} is not base64`, {
      hint: flag === "--value" ? "For text as it is: --data-type plaintext" : flag === "--digest" ? DIGEST_HINT : "Give base64.",
    });
  }
}

/** The body of an encryption or decryption. */
export function cipherMembers({ algorithm, iv, aad, tag }: CipherOptions, value: Uint8Array): JsonObject {
  const member = (name: string, text: string | undefined): JsonObject =>
    text === undefined ? {} : { [name]: toBase64url(bytesOfValue(text, "base64", `--${name}`)) };
  return { alg: algorithm, value: toBase64url(value), ...member("iv", iv), ...member("aad", aad), ...member("tag", tag) };
}

/**
 * What came of it: the value, and what a decryption needs beside it.
 * @throws {CliError} ERR_CLI_VAULT, and ERR_CLI_FILE for bytes that are no text and should be
 */
export function cipherText(answer: JsonObject, type: DataType): string {
  const { value, result } = answer;
  const text = typeof value === "string" ? value : result;
  if (typeof text !== "string") throw new CliError("ERR_CLI_VAULT", "the vault's answer has no value");
  const bytes = fromAnyBase64(text, "value");
  if (type === "plaintext") {
    try {
      return `${decodeUtf8(bytes, "the plaintext")}\n`;
    } catch (cause) {
      throw new CliError("ERR_CLI_FILE", "the plaintext is no UTF-8 text", { cause, hint: "Print it in base64: --data-type base64" });
    }
  }
  const beside = (["iv", "tag"] as const).flatMap((name) => {
    const item = answer[name];
    return typeof item === "string" && item !== "" ? [`${name}: ${toBase64(fromAnyBase64(item, name))}\n`] : [];
  });
  return `${toBase64(bytes)}\n${beside.join("")}`;
}

/**
 * Base64url of the digest that is signed.
 * @throws {CliError} ERR_CLI_USAGE, ERR_CLI_FILE
 */
export async function digestOf({ algorithm, digest, file }: SignatureOptions, context: CliContext): Promise<string> {
  if ((digest === undefined) === (file === undefined)) {
    throw new CliError("ERR_CLI_USAGE", digest === undefined ? "nothing is given to sign" : "--digest and --file are two things to sign", {
      hint: "Give --digest BASE64, or --file FILE to have it hashed here.",
    });
  }
  const bits = /(256|384|512)K?$/.exec(algorithm)?.[1];
  if (digest !== undefined) {
    const bytes = bytesOfValue(digest, "base64", "--digest");
    // Hex is base64 too, of half as many bytes again.
    if (bits !== undefined && bytes.length !== Number(bits) / 8)
      throw new CliError("ERR_CLI_USAGE", `--digest has ${bytes.length} bytes, and ${algorithm} signs ${Number(bits) / 8}`, { hint: DIGEST_HINT });
    return toBase64url(bytes);
  }
  if (bits === undefined)
    throw new CliError("ERR_CLI_USAGE", `--algorithm ${algorithm.slice(0, 40)} does not say how a file is hashed`, {
      hint: "e.g. RS256, PS384, ES512; or give --digest.",
    });
  return toBase64url(
    createHash(`sha${bits}`)
      .update(await readBytes(file ?? "", context))
      .digest(),
  );
}
