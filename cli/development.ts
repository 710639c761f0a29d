import { access, readFile } from "node:fs/promises";
import { join } from "node:path";
import { encodeUtf8, isSealpodError, messageOf, toHex } from "@sealpod/core";
import { IoError, makeDirectory, writeFileAtomic } from "@sealpod/io";
import {
  basicConstraints,
  encodePem,
  extendedKeyUsage,
  generateKey,
  issueCertificate,
  keyUsage,
  OID,
  parseCertificatesPem,
  subjectAltName,
  type AlternativeName,
} from "@sealpod/pki";
import { SecurityProcessor } from "@sealpod/psp";
import type { CliContext } from "./context.ts";
import { CliError } from "./errors.ts";

const DAY: number = 24 * 60 * 60 * 1000;
/** Milliseconds. The longest that browsers accept for a server certificate is 398 days. */
const LIFETIME: number = 365 * DAY;
/** A certificate with less time left is replaced. */
const RENEW_BEFORE: number = 7 * DAY;
/** Clocks of guests may be a little behind. */
const BACKDATE: number = 60 * 60 * 1000;

/** What a `serve --dev` runs on. */
export interface DevelopmentFiles {
  readonly directory: string;
  /** Path of the configuration that names all of it. */
  readonly config: string;
  /** What to tell the user about it. */
  readonly lines: () => Promise<readonly string[]>;
}

/** What {@link makeCertificate} makes. */
export interface DevelopmentCertificate {
  readonly commonName: string;
  readonly names: readonly AlternativeName[];
  /** P-256 unless it is said otherwise. */
  readonly key?: "rsa-2048";
}

/**
 * Works in the directory of `--dev`. @param work is given what makes a path of a file's name
 * @throws {CliError} ERR_CLI_FILE in place of an {@link IoError}
 */
export async function inDevelopment<T>(directory: string, work: (file: (name: string) => string) => Promise<T>): Promise<T> {
  try {
    return await work((name) => join(directory, name));
  } catch (cause) {
    if (!(cause instanceof IoError)) throw cause;
    throw new CliError("ERR_CLI_FILE", `--dev ${directory}: ${cause.message}`, { cause, hint: "Name a directory that you may write to, or one to make." });
  }
}

/**
 * Makes the directory of a service, and secrets of 32 bytes in hexadecimal where there are none.
 * @param database of the service, which `master.key` seals
 * @throws {CliError} ERR_CLI_FILE for a database without its key
 */
export async function makeSecrets(
  directory: string,
  { database, secrets }: { readonly database: string; readonly secrets: readonly string[] },
  { random }: CliContext,
): Promise<void> {
  const file = (name: string): string => join(directory, name);
  await makeDirectory(directory, 0o700);
  if (!(await exists(file("master.key"))) && (await exists(file(database)))) {
    throw new CliError("ERR_CLI_FILE", `${file("master.key")} is missing, and there is a database that it sealed`, {
      hint: "Put the file back, or take an empty directory: the keys in this database cannot be opened without it.",
    });
  }
  for (const name of secrets) {
    if (!(await exists(file(name)))) await writeFileAtomic(file(name), encodeUtf8(`${toHex(random.bytes(32))}\n`), 0o600);
  }
}

/** Makes a self-signed certificate and its key, unless those that are there are good for a while. */
export async function makeCertificate(
  certFile: string,
  keyFile: string,
  { commonName, names, key: kind }: DevelopmentCertificate,
  { clock, random }: CliContext,
): Promise<void> {
  const now = clock.now();
  if ((await exists(keyFile)) && (await isCurrent(certFile, now))) return;
  const isRsa = kind === "rsa-2048";
  const key = await generateKey(isRsa ? "rsa-2048" : "p256");
  const { der } = issueCertificate({
    subject: [
      { type: OID.organization, value: "Sealpod" },
      { type: OID.commonName, value: commonName },
    ],
    subjectKey: key,
    issuer: { key },
    signatureAlgorithm: isRsa ? "rsa-sha256" : "ecdsa-sha256",
    // The first bit stays clear: a serial number is positive (RFC 5280 section 4.1.2.2).
    serial: random.bytes(15).reduce((serial, byte) => (serial << 8n) | BigInt(byte), 1n),
    notBefore: now - BACKDATE,
    notAfter: now + LIFETIME,
    extensions: [
      basicConstraints({ ca: false }),
      isRsa ? keyUsage("digitalSignature", "keyEncipherment") : keyUsage("digitalSignature"),
      extendedKeyUsage(OID.serverAuth),
      subjectAltName(...names),
    ],
  });
  await writeFileAtomic(keyFile, encodeUtf8(key.export({ type: "pkcs8", format: "pem" }) as string), 0o600);
  await writeFileAtomic(certFile, encodeUtf8(encodePem("CERTIFICATE", der)), 0o644);
}

/** Writes the configuration of a service. @returns its path */
export async function writeConfiguration(path: string, config: object): Promise<string> {
  await writeFileAtomic(path, encodeUtf8(`${JSON.stringify(config, undefined, 2)}\n`), 0o600);
  return path;
}

/**
 * The emulated security processor of a state directory, for `--trust-emulator`.
 * @throws {CliError} ERR_CLI_FILE
 */
export async function openEmulator(state: string, { clock, random }: CliContext): Promise<SecurityProcessor> {
  if (!(await exists(join(state, "psp")))) {
    throw new CliError("ERR_CLI_FILE", `${state} has no emulated security processor`, {
      hint: "Name the state directory of `sealpod up`: it is made there at the first start.",
    });
  }
  return SecurityProcessor.open(join(state, "psp"), { clock, random }).catch((cause: unknown) => {
    if (isSealpodError(cause) && !(cause instanceof IoError)) throw cause;
    throw new CliError("ERR_CLI_FILE", `--trust-emulator ${state}: ${messageOf(cause)}`, { cause, hint: "Name a state directory that you may write to." });
  });
}

/** Whether there is a file of this name. */
export async function exists(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch {
    return false;
  }
}

async function isCurrent(certFile: string, now: number): Promise<boolean> {
  try {
    const [certificate] = parseCertificatesPem(await readFile(certFile, "utf8"));
    return certificate !== undefined && certificate.notAfter > now + RENEW_BEFORE;
  } catch {
    return false;
  }
}
