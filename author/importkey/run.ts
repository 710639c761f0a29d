import { decodeUtf8, equalBytes, isSealpodError, messageOf } from "@sealpod/core";
import { ImportKeyError } from "./errors.ts";
import { type ImportKeyResult, type KeySource, type PreparedKey, prepareKey, type VaultPorts } from "./import-key.ts";

/** Flags of the tool. */
export interface ImportKeyOptions {
  /** `-c`: JSON configuration of the known tool, or annotated Kubernetes YAML. */
  readonly config: string;
  /** `-kh`: a file whose raw bytes are the key, or hex. Without it and without `kp`, a key of 32 bytes is made. */
  readonly kh?: string;
  /** `-kp`: RSA private key in PEM. */
  readonly kp?: string;
  /** `-out`: write the key to keyfile.bin. */
  readonly out?: boolean;
  readonly kid?: string;
  readonly akvEndpoint?: string;
  readonly maaEndpoint?: string;
  /** Wanted `x-ms-compliance-status`; YAML only. */
  readonly complianceStatus?: string;
  /** Print no key bytes. */
  readonly quietKey?: boolean;
}

/** The world of {@link runImportKey}. */
export interface ImportKeyPorts extends VaultPorts {
  /** The whole file, or undefined if there is none; rejects if it has more than `limit` bytes. */
  readFile(path: string, limit: number): Promise<Uint8Array | undefined>;
  /** Writes a file that its owner alone may read (mode 0600), beside and renamed. */
  writeSecret(path: string, bytes: Uint8Array): Promise<void>;
  writeStdout(text: string): void;
}

/** A manifest with policies of 256 KiB each. */
const MAX_CONFIG = 8 * 1024 * 1024;
/** RSA with 16384 bits in PEM has 13 KB. */
const MAX_KEY_FILE = 64 * 1024;
const KEY_FILE = "keyfile.bin";

/**
 * Runs the tool and prints the three lines of the AKS document: the key's bytes, the key's URL, the release policy. The key is
 * shown only because this command was given or made it; `quietKey` hides it.
 * @throws {ImportKeyError} all of its codes
 * @throws {KubeError} for a YAML that is none
 */
export async function runImportKey(options: ImportKeyOptions, ports: ImportKeyPorts): Promise<ImportKeyResult> {
  if (options.kh !== undefined && options.kp !== undefined)
    throw new ImportKeyError("ERR_IMPORTKEY_OPTION", "-kh and -kp exclude each other: a key is symmetric or RSA");
  const { kid, akvEndpoint, maaEndpoint, complianceStatus } = options;
  const text = await loadText(options.config, MAX_CONFIG, ports, "Pass an annotated Kubernetes YAML, or a JSON configuration, with -c.");
  const config = { name: options.config, text };
  const key = prepareKey({ config, key: await keySourceOf(options, ports), kid, akvEndpoint, maaEndpoint, complianceStatus }, ports);
  // Before the vault has it: a key that was made here and is lost after the import would be lost for good.
  if (options.out === true) await writeKeyFile(key, ports);
  const result = await key.send();
  if (options.quietKey !== true) ports.writeStdout(`${result.keyText}\n`);
  ports.writeStdout(`${result.kid}\n${result.releasePolicy}\n`);
  return result;
}

async function keySourceOf(options: ImportKeyOptions, ports: ImportKeyPorts): Promise<KeySource> {
  if (options.kp !== undefined)
    return { kind: "pem", file: { name: options.kp, text: await loadText(options.kp, MAX_KEY_FILE, ports, "Pass a PEM file with -kp.") } };
  if (options.kh === undefined) return { kind: "new" };
  // Hex of a long key is no name of a file; asking the system would put the key into its error.
  const bytes = options.kh.length > 255 ? undefined : await readOrFail(options.kh, MAX_KEY_FILE, ports);
  return bytes === undefined ? { kind: "hex", text: options.kh } : { kind: "bytes", bytes };
}

/** Writes keyfile.bin. A file that is there and different is another key, perhaps the only copy of it. */
async function writeKeyFile({ bytes }: PreparedKey, ports: ImportKeyPorts): Promise<void> {
  if (bytes === undefined) {
    throw new ImportKeyError("ERR_IMPORTKEY_OPTION", "-out with an RSA key is not supported yet: it would write a symmetric key derived from it", {
      hint: "Leave -out out.",
    });
  }
  const existing = await readOrFail(KEY_FILE, MAX_KEY_FILE, ports);
  if (existing === undefined) await orFail(KEY_FILE, "write", () => ports.writeSecret(KEY_FILE, bytes));
  else if (!equalBytes(existing, bytes)) {
    throw new ImportKeyError("ERR_IMPORTKEY_FILE", `${KEY_FILE} exists and holds another key`, { hint: `Move ${KEY_FILE} away, or leave -out out.` });
  }
}

async function loadText(path: string, limit: number, ports: ImportKeyPorts, hint: string): Promise<string> {
  const bytes = await readOrFail(path, limit, ports);
  if (bytes === undefined) throw new ImportKeyError("ERR_IMPORTKEY_FILE", `${path}: no such file`, { hint });
  try {
    return decodeUtf8(bytes, path);
  } catch (error) {
    if (!isSealpodError(error)) throw error;
    throw new ImportKeyError("ERR_IMPORTKEY_FILE", error.message, { cause: error });
  }
}

function readOrFail(path: string, limit: number, ports: ImportKeyPorts): Promise<Uint8Array | undefined> {
  return orFail(path, "read", () => ports.readFile(path, limit));
}

async function orFail<T>(path: string, verb: "read" | "write", action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    throw new ImportKeyError("ERR_IMPORTKEY_FILE", `${path}: cannot ${verb}: ${messageOf(error)}`, { cause: error, details: { path } });
  }
}
