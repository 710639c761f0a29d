import { open } from "node:fs/promises";
import { decodeUtf8, fromAnyBase64, fromHex, messageOf } from "@sealpod/core";
import { SealingError } from "./errors.ts";

/** AES-256. */
const LENGTH = 32;
/** Bytes. The longest form is 64 hexadecimal digits and a line end. */
const MAX_FILE = 1024;
const OTHERS = 0o007;
const GROUP = 0o070;

const HINT = "Make one with: (umask 077; openssl rand -hex 32 > master.key)";

/** Where a service's master key is: in a file or in an environment variable, not in both. */
export interface MasterKeySource {
  /** Path; symbolic links are followed, since mounted secrets are such, and it is the file at their end that is checked. */
  readonly file?: string | undefined;
  /** Name of a variable. */
  readonly environment?: string | undefined;
  /** The file's group may read it: what Kubernetes makes of a secret for a pod with `fsGroup`. */
  readonly allowGroup?: boolean;
}

/** What {@link loadMasterKey} needs of the process. */
export interface MasterKeyPorts {
  readonly env: Readonly<Record<string, string | undefined>>;
  /** User id of the process; undefined where there are none. */
  readonly uid: number | undefined;
}

/**
 * The master key in any of its forms.
 * @param input text, or the bytes of a file: 32 bytes as they are, 64 hexadecimal digits, or base64 (either alphabet, padded or not); text may end with one line end
 * @returns 32 bytes
 * @throws {SealingError} ERR_SEALING_MASTER_KEY, for what is no key of 256 random bits as well: equal bytes, a passphrase
 */
export function readMasterKey(input: string | Uint8Array, what = "the master key"): Uint8Array {
  const isRaw = typeof input !== "string" && input.length === LENGTH && !isPrintable(input);
  const key = isRaw ? Uint8Array.from(input) : parseText(input, what);
  if (key.every((byte) => byte === key[0])) throw noKey(`${what} is 32 equal bytes, expected random ones`);
  return key;
}

/**
 * Reads the master key of a service from where its configuration says.
 * @throws {SealingError} ERR_SEALING_MASTER_KEY; ERR_SEALING_MASTER_KEY_ACCESS for a file that others can read or that belongs to another user
 */
export async function loadMasterKey(source: MasterKeySource, ports: MasterKeyPorts): Promise<Uint8Array> {
  const { file, environment } = source;
  if ((file === undefined) === (environment === undefined)) {
    throw noKey(
      file === undefined
        ? "no master key is given, neither as a file nor in an environment variable"
        : "the master key is given twice, as a file and in a variable",
    );
  }
  if (environment !== undefined) {
    const text = ports.env[environment];
    if (text === undefined || text === "") throw noKey(`the environment variable ${environment} has no master key`);
    return readMasterKey(text, `the master key in the variable ${environment}`);
  }
  const bytes = await readSecretFile(file ?? "", { what: "master key", largest: MAX_FILE, allowGroup: source.allowGroup === true, uid: ports.uid });
  return readMasterKey(bytes, `the master key in ${file ?? ""}`);
}

/** What {@link readSecretFile} reads, and for whom. */
export interface SecretFile {
  /** In messages. */
  readonly what: string;
  /** Bytes. */
  readonly largest: number;
  readonly allowGroup: boolean;
  /** User id of the process; undefined where there are none. */
  readonly uid: number | undefined;
}

/**
 * Reads a file that is a secret: the service's own, or root's, and closed to all others.
 * @throws {SealingError} ERR_SEALING_MASTER_KEY, ERR_SEALING_MASTER_KEY_ACCESS
 */
export async function readSecretFile(file: string, { what, largest, allowGroup, uid }: SecretFile): Promise<Uint8Array> {
  try {
    // The handle is asked, not the path: between two looks at a path it can become another file.
    await using handle = await open(file, "r");
    const stats = await handle.stat();
    if (!stats.isFile()) throw noKey(`the ${what} ${file} is no file`);
    if (stats.size > largest) throw noKey(`the ${what} ${file} has ${stats.size} bytes, expected at most ${largest}`);
    const mode = stats.mode & 0o777;
    if ((mode & OTHERS) !== 0 || (!allowGroup && (mode & GROUP) !== 0)) {
      throw new SealingError(
        "ERR_SEALING_MASTER_KEY_ACCESS",
        `the ${what} ${file} has mode 0${mode.toString(8)}: ${(mode & OTHERS) === 0 ? "its group" : "everyone"} has access to it`,
        {
          details: { file, mode: `0${mode.toString(8)}` },
          hint: `chmod 600 ${file}; if others may have read it, make a new one. In Kubernetes: defaultMode 0400 on the secret's volume, or allow the group for a pod with fsGroup.`,
        },
      );
    }
    // Who owns the file can change its mode at any time.
    if (uid !== undefined && stats.uid !== uid && stats.uid !== 0) {
      throw new SealingError("ERR_SEALING_MASTER_KEY_ACCESS", `the ${what} ${file} belongs to user ${stats.uid}, the service runs as ${uid}`, {
        details: { file },
        hint: `chown ${uid} ${file}`,
      });
    }
    return new Uint8Array(await handle.readFile());
  } catch (cause) {
    if (cause instanceof SealingError) throw cause;
    throw noKey(`the ${what} cannot be read: ${messageOf(cause)}`, cause);
  }
}

function parseText(input: string | Uint8Array, what: string): Uint8Array {
  const expected = "expected 32 bytes: as they are, as 64 hexadecimal digits, or as base64";
  let text: string;
  try {
    text = (typeof input === "string" ? input : decodeUtf8(input)).replace(/\r?\n$/, "");
  } catch {
    throw noKey(`${what} has ${input.length} bytes, ${expected}`);
  }
  if (/^[0-9a-fA-F]{64}$/.test(text)) return fromHex(text.toLowerCase());
  if (/^[A-Za-z0-9+/_-]{43}=?$/.test(text)) {
    try {
      return fromAnyBase64(text);
    } catch {
      // Digits that belong to no byte: said below, without the text.
    }
  }
  throw noKey(
    typeof input !== "string" && input.length === LENGTH
      ? `${what} is 32 characters of text: a passphrase, or 16 bytes in hexadecimal; ${expected}`
      : `${what} is text of ${text.length} characters that is no key, ${expected}`,
  );
}

/** Random bytes are all printable once in ten trillion times; a passphrase is always. */
function isPrintable(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte >= 0x20 && byte < 0x7f);
}

function noKey(message: string, cause?: unknown): SealingError {
  return new SealingError("ERR_SEALING_MASTER_KEY", message, { hint: HINT, ...(cause === undefined ? {} : { cause }) });
}
