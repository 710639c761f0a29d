import { decodeUtf8, encodeJson, encodeUtf8, equalBytes, isSealpodError, messageOf } from "@sealpod/core";
import { azureAccessToken, type AzureTokenPorts } from "./azure-token.ts";
import { ImportKeyError } from "./errors.ts";
import { type ImportKeyResult, type KeySource, type PreparedKey, prepareKey, type VaultPorts } from "./import-key.ts";

/** Flags of the tool. */
export interface ImportKeyOptions {
  /** `-c`: JSON configuration of the known tool, or annotated Kubernetes YAML. */
  readonly config: string;
  /** `-kh`: a file whose raw bytes are the key, or hex. Without it and without `kp`, a key is made, and written to keyfile.bin, or private_key.pem for RSA. */
  readonly kh?: string;
  /** `-kp`: RSA or EC private key in PEM. */
  readonly kp?: string;
  /** `-out`: write the key, or what an encrypted filesystem derives of an RSA key, to keyfile.bin. */
  readonly out?: boolean;
  /** `-a`: token of this machine's identity. */
  readonly azureIdentity?: boolean;
  readonly kid?: string;
  /** `oct-HSM`, `RSA-HSM` or `EC-HSM`. */
  readonly kty?: string;
  readonly akvEndpoint?: string;
  readonly maaEndpoint?: string;
  /** Wanted `x-ms-compliance-status`; YAML only. */
  readonly complianceStatus?: string;
  /** `NAME` or `KIND/NAME` of the pod; YAML only. */
  readonly pod?: string;
  /** Take a policy that pods satisfy which nobody chose. */
  readonly allowAny?: boolean;
  /** Print the request and the policy; contact nobody, write nothing. */
  readonly dryRun?: boolean;
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
  /** An environment variable. */
  env?(name: string): string | undefined;
  /** Milliseconds between tries to get a token. */
  wait?(milliseconds: number): Promise<void>;
}

/** What {@link runImportKey} did: {@link ImportKeyResult} of an import, the request of a dry run. */
export type ImportKeyOutcome =
  | ({ readonly kind: "imported" } & ImportKeyResult)
  | ({ readonly kind: "dry-run" } & Pick<PreparedKey, "request" | "releasePolicy" | "summary">);

/** A manifest with policies of 256 KiB each. */
const MAX_CONFIG = 8 * 1024 * 1024;
/** RSA with 16384 bits in PEM has 13 KB. */
const MAX_KEY_FILE = 64 * 1024;
const KEY_FILE = "keyfile.bin";
/** Where the known tool writes a key that it makes. */
const PRIVATE_KEY_FILE = "private_key.pem";

/**
 * Runs the tool and prints the three lines of the AKS document: the key's bytes, the key's URL, the release policy. The key is
 * shown only because this command was given or made it; `quietKey` hides it.
 * @throws {ImportKeyError} all of its codes
 * @throws {KubeError} for a YAML that is none
 */
export async function runImportKey(options: ImportKeyOptions, ports: ImportKeyPorts): Promise<ImportKeyOutcome> {
  if (options.kh !== undefined && options.kp !== undefined)
    throw new ImportKeyError("ERR_IMPORTKEY_OPTION", "-kh and -kp exclude each other: a key is symmetric or not");
  const { kid, kty, akvEndpoint, maaEndpoint, complianceStatus, pod, allowAny } = options;
  const text = await loadText(options.config, MAX_CONFIG, ports, "Pass an annotated Kubernetes YAML, or a JSON configuration, with -c.");
  const source = await keySourceOf(options, ports);
  const input = { config: { name: options.config, text }, key: source, kid, kty, akvEndpoint, maaEndpoint, complianceStatus, pod, allowAny };
  const key = prepareKey(input, options.azureIdentity === true ? withAzureIdentity(ports) : ports);
  // A symmetric key that is made here would exist nowhere else: its owner needs it to encrypt something.
  const isMade = source.kind === "new" && key.bytes !== undefined;
  const keyFile = options.out === true || isMade ? key.keyFile() : undefined;
  if (options.dryRun === true) {
    const { request, releasePolicy, summary } = key;
    const made = source.kind === "new" ? ", made at the import" : "";
    ports.writeStdout(`key: ${summary}${made}\n${request.method} ${request.url}\n${encodeJson(request.body)}\n${releasePolicy}\n`);
    return { kind: "dry-run", request, releasePolicy, summary };
  }
  // Before the vault has it: a key that was made here and is lost after the import would be lost for good.
  if (key.pem !== undefined) {
    await writeOnce(PRIVATE_KEY_FILE, encodeUtf8(key.pem), "Move it away, or import it with -kp.", ports);
    ports.warn?.(`no key is given: a new RSA key is made and written to ${PRIVATE_KEY_FILE}; keep it`);
  }
  if (keyFile !== undefined) {
    await writeOnce(KEY_FILE, keyFile.bytes, isMade ? `Import it with -kh ${KEY_FILE}, or move it away.` : `Move ${KEY_FILE} away, or leave -out out.`, ports);
    if (isMade) ports.warn?.(`no key is given: a new one of ${keyFile.bytes.length} bytes is made and written to ${KEY_FILE}; keep it`);
  }
  const result = await key.send();
  if (options.quietKey !== true) ports.writeStdout(`${keyFile?.text ?? result.keyText}\n`);
  ports.writeStdout(`${result.kid}\n${result.releasePolicy}\n`);
  return { kind: "imported", ...result, keyText: keyFile?.text ?? result.keyText };
}

/** The vault's ports with `-a`: who names a source of tokens means it. */
function withAzureIdentity(ports: ImportKeyPorts): VaultPorts {
  const azure: AzureTokenPorts = {
    env: (name) => ports.env?.(name),
    readText: async (path) => loadText(path, MAX_KEY_FILE, ports, "AZURE_FEDERATED_TOKEN_FILE names the projected token of a service account."),
    fetch: async (url, request) => ports.fetch(url, request),
    wait: async (milliseconds) => ports.wait?.(milliseconds),
  };
  const { random } = ports;
  return {
    fetch: async (url, request) => ports.fetch(url, request),
    token: async (resource, _vault, clientId) => azureAccessToken(resource, clientId, azure),
    prefersPort: true,
    random,
    warn: (text) => ports.warn?.(text),
  };
}

async function keySourceOf(options: ImportKeyOptions, ports: ImportKeyPorts): Promise<KeySource> {
  if (options.kp !== undefined)
    return { kind: "pem", file: { name: options.kp, text: await loadText(options.kp, MAX_KEY_FILE, ports, "Pass a PEM file with -kp.") } };
  if (options.kh === undefined) return { kind: "new" };
  // Hex of a long key is no name of a file; asking the system would put the key into its error.
  const bytes = options.kh.length > 255 ? undefined : await readOrFail(options.kh, MAX_KEY_FILE, ports);
  return bytes === undefined ? { kind: "hex", text: options.kh } : { kind: "bytes", bytes };
}

/** Writes a secret. A file that is there and different is another key, perhaps the only copy of it. */
async function writeOnce(path: string, bytes: Uint8Array, hint: string, ports: ImportKeyPorts): Promise<void> {
  const existing = await readOrFail(path, MAX_KEY_FILE, ports);
  if (existing === undefined) await orFail(path, "write", () => ports.writeSecret(path, bytes));
  else if (!equalBytes(existing, bytes)) throw new ImportKeyError("ERR_IMPORTKEY_FILE", `${path} exists and holds another key`, { hint });
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
