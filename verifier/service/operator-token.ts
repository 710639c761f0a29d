import { createHash, timingSafeEqual } from "node:crypto";
import { open } from "node:fs/promises";
import { messageOf } from "@sealpod/core";
import { ServiceError } from "./errors.ts";

/** Characters of a bearer token of an operator: 128 bits need 22 of base64. */
const MIN_TOKEN = 32;
const MAX_TOKEN_FILE = 4096;

/**
 * Reads the bearer token of those who run a service.
 * @returns whether a token is that one
 * @throws {ServiceError} ERR_SERVICE_CONFIG for a file that is no use or that others can read
 */
export async function openOperatorToken(file: string): Promise<(token: string) => boolean> {
  const operator = digest(await readToken(file));
  // Compared by hash: neither length nor time tells how much of it was right.
  return (token) => timingSafeEqual(digest(token), operator);
}

async function readToken(file: string): Promise<string> {
  try {
    await using handle = await open(file, "r");
    const { mode, size } = await handle.stat();
    if ((mode & 0o077) !== 0) {
      throw new ServiceError("ERR_SERVICE_CONFIG", `the bearer token ${file} has mode 0${(mode & 0o777).toString(8)}: others have access to it`, {
        hint: `chmod 600 ${file}; if others may have read it, make a new token.`,
      });
    }
    const token = size > MAX_TOKEN_FILE ? "" : (await handle.readFile("latin1")).trim();
    if (!/^[A-Za-z0-9._~+/=-]+$/.test(token) || token.length < MIN_TOKEN) {
      throw new ServiceError("ERR_SERVICE_CONFIG", `${file} holds no bearer token: expected ${MIN_TOKEN} or more letters, digits, or any of . _ ~ + / = -`, {
        hint: "Make one with: (umask 077; openssl rand -hex 32 > token)",
      });
    }
    return token;
  } catch (cause) {
    if (cause instanceof ServiceError) throw cause;
    throw new ServiceError("ERR_SERVICE_CONFIG", `the bearer token cannot be read: ${messageOf(cause)}`, { cause });
  }
}

function digest(token: string): Buffer {
  return createHash("sha256").update(token).digest();
}
