import { constants, createHash, createPublicKey, publicEncrypt, type KeyObject } from "node:crypto";
import { readFile } from "node:fs/promises";
import { concatBytes, decodeUtf8, encodeUtf8, equalBytes, messageOf, toHex, type Random } from "@sealpod/core";
import { decrypt, encrypt, NONCE_LENGTH, OVERHEAD } from "./aead.ts";
import { doesNotOpen, SealingError } from "./errors.ts";
import { readSecretFile } from "./load-master-key.ts";
import type { MasterKeyProviderPorts } from "./master-key-provider.ts";
import { DoesNotDecrypt, readPin, runPkcs11Tool, type Pkcs11Tool } from "./pkcs11-tool.ts";
import type { MasterKeyProvider } from "./types.ts";

/** A master key in a PKCS#11 token: an RSA key pair whose private half never leaves it. */
export interface Pkcs11Source {
  /** Path of the module, e.g. `/usr/lib/softhsm/libsofthsm2.so`. */
  readonly module: string;
  /** Label of the token. */
  readonly token: string;
  /** Label of the key pair, or its id in hexadecimal: one of the two. */
  readonly label?: string | undefined;
  readonly id?: string | undefined;
  /** File with the PIN, closed to others as a master key is; or the name of a variable with it: one of the two. */
  readonly pinFile?: string | undefined;
  readonly pinEnvironment?: string | undefined;
  /** The PIN's file may be read by its group. */
  readonly allowGroup?: boolean;
  /** File with the public key in PEM; read from the token when absent. */
  readonly publicKeyFile?: string | undefined;
  /**
   * Hash of RSA-OAEP. `sha1` when absent: every token has it, SoftHSM 2.6 has no other, and OAEP asks of its hash neither collision resistance, which SHA-1 has lost, nor more than
   * 80 bits (RFC 8017 section 7.1, NIST SP 800-56B). What was wrapped says which one it is, so it can be changed.
   */
  readonly hash?: OaepHash | undefined;
  /** `pkcs11-tool` of OpenSC when absent, found in the PATH. */
  readonly tool?: string | undefined;
  /** Names of further variables that the module reads. */
  readonly variables?: readonly string[];
  /** Milliseconds to wait for the token. */
  readonly time?: number;
}

/** Hashes of RSA-OAEP; that of MGF1 is the same. */
export type OaepHash = "sha1" | "sha256";

/** First byte of what a token's key has wrapped. */
const WRAPPED_VERSION = 2;
const HASHES: readonly { readonly hash: OaepHash; readonly mark: number; readonly args: readonly string[] }[] = [
  { hash: "sha1", mark: 1, args: ["--hash-algorithm", "SHA-1", "--mgf", "MGF1-SHA1"] },
  { hash: "sha256", mark: 2, args: ["--hash-algorithm", "SHA256", "--mgf", "MGF1-SHA256"] },
];
/** Bytes of the hash that names the public key. */
const NAME_LENGTH = 8;
/** Version, mark of the hash, name of the public key, length of the RSA ciphertext. */
const HEADER = 1 + 1 + NAME_LENGTH + 2;
/** AES-256, for one wrapping. */
const KEY_LENGTH = 32;
/** Bits. */
const SMALLEST_MODULUS = 2048;
/** A PIN, and a line end. */
const MAX_PIN_FILE = 1024;
/** A public key of 16384 bits in PEM has 3 kB. */
const MAX_PUBLIC_KEY = 16_384;

/**
 * A master key in a token. What is to be wrapped is encrypted with a fresh AES key, bound to its place, and that key with the token's public key, in this process; to unwrap,
 * `pkcs11-tool` asks the token. Form: `{2, hash, name of the public key, length, RSA-OAEP(one-time key), nonce, ciphertext, tag}`.
 * @throws {SealingError} ERR_SEALING_PKCS11; ERR_SEALING_MASTER_KEY, ERR_SEALING_MASTER_KEY_ACCESS for the PIN's file
 */
export async function pkcs11MasterKey(source: Pkcs11Source, ports: MasterKeyProviderPorts): Promise<MasterKeyProvider> {
  const { module, token, label, id } = source;
  if ((label === undefined) === (id === undefined)) throw wrong("expected either the label or the id of its key pair");
  if (id !== undefined && !/^(?:[0-9a-fA-F]{2})+$/.test(id)) throw wrong(`the id of a key is bytes in hexadecimal, found ${JSON.stringify(id)}`);
  const oaep = HASHES.find(({ hash }) => hash === (source.hash ?? "sha1"));
  if (oaep === undefined) throw wrong(`expected one of ${HASHES.map(({ hash }) => hash).join(", ")} as the hash, found ${JSON.stringify(source.hash)}`);
  const tool: Pkcs11Tool = {
    module,
    token,
    tool: source.tool ?? "pkcs11-tool",
    pin: await loadPin(source, ports),
    env: ports.env,
    variables: source.variables ?? [],
    time: source.time,
  };
  // Only an id chooses the key that decrypts.
  const keyId = id ?? (await findKey(tool, label ?? ""));
  const der =
    source.publicKeyFile === undefined
      ? await runPkcs11Tool(tool, ["--read-object", "--type", "pubkey", "--id", keyId])
      : await readPublicKey(source.publicKeyFile);
  const publicKey = readKey(der, source);
  const name = createHash("sha256")
    .update(publicKey.export({ type: "spki", format: "der" }))
    .digest()
    .subarray(0, NAME_LENGTH);
  return new TokenMasterKey({ tool, keyId, publicKey, name: Uint8Array.from(name), oaep, random: ports.random });
}

interface TokenKey {
  readonly tool: Pkcs11Tool;
  readonly keyId: string;
  readonly publicKey: KeyObject;
  readonly name: Uint8Array;
  readonly oaep: (typeof HASHES)[number];
  readonly random: Random;
}

class TokenMasterKey implements MasterKeyProvider {
  readonly id: string;
  readonly #parts: TokenKey;
  /** One after the other: many tokens have one session. */
  #turn: Promise<unknown> = Promise.resolve();
  /** The PIN was wrong once. Further tries would lock the token. */
  #refused: SealingError | undefined;

  constructor(parts: TokenKey) {
    this.#parts = parts;
    this.id = `rsa:${toHex(parts.name)}`;
  }

  async wrap(key: Uint8Array, place: string): Promise<Uint8Array> {
    const { publicKey, name, oaep, random } = this.#parts;
    const once = random.bytes(KEY_LENGTH);
    const encrypted = publicEncrypt({ key: publicKey, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: oaep.hash }, once);
    const header = concatBytes(Uint8Array.of(WRAPPED_VERSION, oaep.mark), name, Uint8Array.of(encrypted.length >> 8, encrypted.length & 0xff), encrypted);
    return concatBytes(header, encrypt(once, random.bytes(NONCE_LENGTH), key, concatBytes(header, encodeUtf8(place))));
  }

  async unwrap(wrapped: Uint8Array, place: string): Promise<Uint8Array> {
    const { name } = this.#parts;
    const length = wrapped.length < HEADER ? 0 : new DataView(wrapped.buffer, wrapped.byteOffset).getUint16(HEADER - 2);
    const hash = HASHES.find(({ mark }) => mark === wrapped[1]);
    if (wrapped[0] !== WRAPPED_VERSION || hash === undefined || wrapped.length < HEADER + length + OVERHEAD) {
      throw doesNotOpen(place, this.id, new Error(`${wrapped.length} bytes that no token's key has wrapped`));
    }
    const found = wrapped.subarray(2, 2 + NAME_LENGTH);
    if (!equalBytes(found, name)) throw doesNotOpen(place, this.id, new Error(`it was wrapped with the public key rsa:${toHex(found)}`));
    const header = wrapped.subarray(0, HEADER + length);
    try {
      const once = await this.#inTurn(async () => this.#decrypt(header.subarray(HEADER), hash.args));
      if (once.length !== KEY_LENGTH) throw new DoesNotDecrypt(`${once.length} bytes, expected ${KEY_LENGTH}`);
      return decrypt(once, wrapped.subarray(header.length), concatBytes(header, encodeUtf8(place)));
    } catch (cause) {
      throw cause instanceof SealingError ? cause : doesNotOpen(place, this.id, cause);
    }
  }

  async #decrypt(encrypted: Uint8Array, args: readonly string[]): Promise<Uint8Array> {
    if (this.#refused !== undefined) throw this.#refused;
    const { tool, keyId } = this.#parts;
    try {
      return await runPkcs11Tool(tool, ["--decrypt", "--mechanism", "RSA-PKCS-OAEP", ...args, "--id", keyId], encrypted);
    } catch (error) {
      if (error instanceof SealingError && error.details["reason"] === "pin") this.#refused = error;
      throw error;
    }
  }

  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(work);
    this.#turn = turn.catch(() => undefined);
    return turn;
  }
}

async function loadPin({ pinFile, pinEnvironment, allowGroup }: Pkcs11Source, { env, uid }: MasterKeyProviderPorts): Promise<string> {
  if ((pinFile === undefined) === (pinEnvironment === undefined)) throw wrong("expected its PIN either in a file or in an environment variable");
  if (pinEnvironment !== undefined) return readPin(env[pinEnvironment] ?? "", `the environment variable ${pinEnvironment}`);
  const file = pinFile ?? "";
  const bytes = await readSecretFile(file, { what: "PIN", largest: MAX_PIN_FILE, allowGroup: allowGroup === true, uid });
  try {
    return readPin(decodeUtf8(bytes), `the file ${file}`);
  } catch (error) {
    if (error instanceof SealingError) throw error;
    throw wrong(`the file ${file} is no text`);
  }
}

/** The id of the private key with a label. The tool's own way to choose by label leads to the first private key, whatever it is called. */
async function findKey(tool: Pkcs11Tool, label: string): Promise<string> {
  const list = Buffer.from(await runPkcs11Tool(tool, ["--list-objects", "--type", "privkey"])).toString("utf8");
  const ids = new Set<string>();
  for (const object of list.split(/^(?=\S)/m)) {
    const of = (name: string): string | undefined => new RegExp(`^ +${name}: +(.*)$`, "m").exec(object)?.[1]?.trim();
    const found = of("ID");
    if (of("label") === label && found !== undefined && /^(?:[0-9a-f]{2})+$/i.test(found)) ids.add(found);
  }
  const [id, ...others] = ids;
  const where = `token ${tool.token} of ${tool.module}`;
  if (id === undefined) {
    throw new SealingError("ERR_SEALING_PKCS11", `${where} has no private key with the label ${label} and an id`, {
      details: { reason: "key" },
      hint: "pkcs11-tool --module M --token-label T --login --list-objects shows those that are there.",
    });
  }
  if (others.length > 0) {
    throw new SealingError("ERR_SEALING_PKCS11", `${where} has ${others.length + 1} private keys with the label ${label}`, {
      details: { reason: "key" },
      hint: "Name the id of one.",
    });
  }
  return id;
}

async function readPublicKey(file: string): Promise<Uint8Array> {
  try {
    const bytes = await readFile(file);
    if (bytes.length > MAX_PUBLIC_KEY) throw new Error(`${bytes.length} bytes, expected at most ${MAX_PUBLIC_KEY}`);
    return bytes;
  } catch (cause) {
    throw wrong(`its public key cannot be read from ${file}: ${messageOf(cause)}`, cause);
  }
}

function readKey(bytes: Uint8Array, { token, publicKeyFile }: Pkcs11Source): KeyObject {
  const where = publicKeyFile ?? `the token ${token}`;
  let key: KeyObject;
  try {
    const data = Buffer.from(bytes);
    key = publicKeyFile === undefined ? createPublicKey({ key: data, format: "der", type: "spki" }) : createPublicKey(data);
  } catch (cause) {
    throw wrong(`what ${where} has as the public key is none`, cause);
  }
  const bits = key.asymmetricKeyDetails?.modulusLength ?? 0;
  if (key.asymmetricKeyType !== "rsa" || bits < SMALLEST_MODULUS) {
    throw wrong(`the public key of ${where} is ${key.asymmetricKeyType ?? "unknown"} with ${bits} bits, expected RSA with at least ${SMALLEST_MODULUS}`);
  }
  return key;
}

function wrong(what: string, cause?: unknown): SealingError {
  return new SealingError("ERR_SEALING_PKCS11", `the master key in a token: ${what}`, {
    details: { reason: "key" },
    ...(cause === undefined ? {} : { cause }),
  });
}
