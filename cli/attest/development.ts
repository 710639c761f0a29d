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
} from "@sealpod/pki";
import { EMULATED_NOTICE, SecurityProcessor } from "@sealpod/psp";
import type { CliContext } from "../context.ts";
import { CliError } from "../errors.ts";

const DAY = 24 * 60 * 60 * 1000;
/** Milliseconds. The longest that browsers accept for a server certificate is 398 days. */
const LIFETIME = 365 * DAY;
/** A certificate with less time left is replaced. */
const RENEW_BEFORE = 7 * DAY;
/** Clocks of guests may be a little behind. */
const BACKDATE = 60 * 60 * 1000;
/** `x-ms-compliance-status` for what the emulator's own key endorses: that of `sealpod up`. */
const COMPLIANCE = "sealpod-compliant-uvm";

/** What `attest serve --dev` runs on. */
export interface DevelopmentFiles {
  readonly directory: string;
  /** Path of the configuration that names all of it. */
  readonly config: string;
  /** What to tell the user about it. */
  readonly lines: readonly string[];
}

/** What of it is for the caller to say. */
export interface DevelopmentOptions {
  readonly listen: string;
  readonly port: number;
  /** State directory of the emulator whose evidence is taken. */
  readonly emulator: string | undefined;
}

/**
 * Makes what an attestation service needs in a directory, and keeps what is there: TLS certificate, master key, operator's token, configuration.
 * @throws {CliError} ERR_CLI_FILE
 */
export async function makeDevelopmentFiles(directory: string, options: DevelopmentOptions, context: CliContext): Promise<DevelopmentFiles> {
  try {
    return await makeFiles(directory, options, context);
  } catch (cause) {
    if (!(cause instanceof IoError)) throw cause;
    throw new CliError("ERR_CLI_FILE", `--dev ${directory}: ${cause.message}`, { cause, hint: "Name a directory that you may write to, or one to make." });
  }
}

async function makeFiles(directory: string, options: DevelopmentOptions, context: CliContext): Promise<DevelopmentFiles> {
  const file = (name: string): string => join(directory, name);
  await makeDirectory(directory, 0o700);
  if (!(await exists(file("master.key"))) && (await exists(file("attestation.sqlite")))) {
    throw new CliError("ERR_CLI_FILE", `${file("master.key")} is missing, and there is a database that it sealed`, {
      hint: "Put the file back, or take an empty directory: the keys in this database cannot be opened without it.",
    });
  }
  for (const name of ["master.key", "operator.token"]) await makeSecret(file(name), context);
  await makeCertificate(file("tls.crt"), file("tls.key"), context);
  const emulator = options.emulator === undefined ? undefined : await emulatorTrust(options.emulator, file("emulator-root.pem"), context);
  const config = {
    issuer: `https://localhost:${options.port}`,
    listen: options.listen,
    tls: { cert: "tls.crt", key: "tls.key" },
    database: "attestation.sqlite",
    masterKey: { file: "master.key" },
    management: { tokenFile: "operator.token" },
    roots: ["amd", ...(emulator === undefined ? [] : [emulator.root])],
    ...(emulator === undefined ? {} : { uvmTrust: { extra: [emulator.uvm] } }),
  };
  await writeFileAtomic(file("config.json"), encodeUtf8(`${JSON.stringify(config, undefined, 2)}\n`), 0o600);
  return {
    directory,
    config: file("config.json"),
    lines: [
      `configuration  ${file("config.json")}`,
      `management     with the bearer token in ${file("operator.token")}`,
      ...(emulator === undefined ? [] : [`emulator       ${EMULATED_NOTICE}`]),
      `try            curl --cacert ${file("tls.crt")} ${config.issuer}/certs`,
    ],
  };
}

async function makeSecret(path: string, { random }: CliContext): Promise<void> {
  if (!(await exists(path))) await writeFileAtomic(path, encodeUtf8(`${toHex(random.bytes(32))}\n`), 0o600);
}

async function makeCertificate(certFile: string, keyFile: string, { clock, random }: CliContext): Promise<void> {
  const now = clock.now();
  if ((await exists(keyFile)) && (await isCurrent(certFile, now))) return;
  const key = await generateKey("p256");
  const { der } = issueCertificate({
    subject: [
      { type: OID.organization, value: "Sealpod" },
      { type: OID.commonName, value: "localhost" },
    ],
    subjectKey: key,
    issuer: { key },
    signatureAlgorithm: "ecdsa-sha256",
    // The first bit stays clear: a serial number is positive (RFC 5280 section 4.1.2.2).
    serial: random.bytes(15).reduce((serial, byte) => (serial << 8n) | BigInt(byte), 1n),
    notBefore: now - BACKDATE,
    notAfter: now + LIFETIME,
    extensions: [
      basicConstraints({ ca: false }),
      keyUsage("digitalSignature"),
      extendedKeyUsage(OID.serverAuth),
      subjectAltName(
        { kind: "dns", value: "localhost" },
        { kind: "ip", bytes: Uint8Array.of(127, 0, 0, 1) },
        { kind: "ip", bytes: Uint8Array.from({ length: 16 }, (_, at) => (at === 15 ? 1 : 0)) },
      ),
    ],
  });
  await writeFileAtomic(keyFile, encodeUtf8(key.export({ type: "pkcs8", format: "pem" }) as string), 0o600);
  await writeFileAtomic(certFile, encodeUtf8(encodePem("CERTIFICATE", der)), 0o644);
}

async function isCurrent(certFile: string, now: number): Promise<boolean> {
  try {
    const [certificate] = parseCertificatesPem(await readFile(certFile, "utf8"));
    return certificate !== undefined && certificate.notAfter > now + RENEW_BEFORE;
  } catch {
    return false;
  }
}

async function emulatorTrust(state: string, rootFile: string, { clock, random }: CliContext): Promise<{ readonly root: object; readonly uvm: object }> {
  if (!(await exists(join(state, "psp")))) {
    throw new CliError("ERR_CLI_FILE", `${state} has no emulated security processor`, {
      hint: "Name the state directory of `sealpod up`: it is made there at the first start.",
    });
  }
  const processor = await SecurityProcessor.open(join(state, "psp"), { clock, random }).catch((cause: unknown) => {
    if (isSealpodError(cause) && !(cause instanceof IoError)) throw cause;
    throw new CliError("ERR_CLI_FILE", `--trust-emulator ${state}: ${messageOf(cause)}`, { cause, hint: "Name a state directory that you may write to." });
  });
  await writeFileAtomic(rootFile, encodeUtf8(processor.rootPem), 0o644);
  const { name, product } = processor.trustRoot;
  return { root: { name, product, certificate: "emulator-root.pem" }, uvm: { ...processor.uvmTrust, claim: COMPLIANCE } };
}

async function exists(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch {
    return false;
  }
}
