import { createPrivateKey, createPublicKey, type KeyObject } from "node:crypto";
import { readFile } from "node:fs/promises";
import { encodeUtf8, messageOf, type Clock, type Random } from "@sealpod/core";
import { writeFileAtomic } from "@sealpod/io";
import {
  authorityKeyIdentifier,
  basicConstraints,
  certificateAnchor,
  encodePem,
  encodePublicKeyInfo,
  extendedKeyUsage,
  generateKey,
  issueCertificate,
  keyUsage,
  OID,
  parseCertificatesPem,
  subjectAltName,
  subjectKeyIdentifier,
  verifyChain,
  type Certificate,
} from "@sealpod/pki";
import { ServicesError } from "./errors.ts";

const DAY = 24 * 60 * 60 * 1000;
/** Milliseconds. The root outlives any laptop's state directory. */
const ROOT_LIFETIME = 3650 * DAY;
/** Milliseconds. The longest that browsers accept for a server certificate is 398 days. */
const SERVER_LIFETIME = 365 * DAY;
/** A server certificate with less time left is replaced at the next start. */
const RENEW_BEFORE = 30 * DAY;
/** Clocks of guests may be a little behind. */
const BACKDATE = 60 * 60 * 1000;
const MAX_PEM_FILE = 64 * 1024;

/** A certificate with its private key and the chain to the root, leaf first. */
export interface Credential {
  readonly key: KeyObject;
  readonly chain: readonly Certificate[];
}

/** What a server certificate is for. */
export interface ServerName {
  /** Name of the file below `ca/`. */
  readonly file: string;
  /** DNS name; the first label may be `*`. */
  readonly name: string;
  /** Key stores sign releases with their TLS key, and that format knows RS256 alone; all others have P-256. */
  readonly key: "p256" | "rsa-2048";
}

/** The laptop's certificate authority. */
export class Authority {
  readonly root: Certificate;
  readonly #directory: string;
  readonly #key: KeyObject;
  readonly #clock: Clock;
  readonly #random: Random;

  private constructor(directory: string, root: Credential, clock: Clock, random: Random) {
    this.#directory = directory;
    this.#key = root.key;
    this.root = rootOf(root, directory);
    this.#clock = clock;
    this.#random = random;
  }

  /**
   * Opens the authority in a directory, or makes it there. Key and certificate share one file (0600), so that neither is
   * ever without the other; `ca.crt` is a copy of the certificate for other programs.
   * @throws {ServicesError} ERR_SERVICES_STATE
   */
  static async open(directory: string, clock: Clock, random: Random): Promise<Authority> {
    const file = `${directory}/root.pem`;
    const root = (await readCredential(file)) ?? (await makeRoot(file, clock, random));
    const authority = new Authority(directory, root, clock, random);
    await writeFileAtomic(`${directory}/ca.crt`, encodeUtf8(encodePem("CERTIFICATE", authority.root.der)), 0o644);
    return authority;
  }

  /**
   * A server certificate: the one of the last start, or a new one if that is of another name or root, or ends soon.
   * @throws {ServicesError} ERR_SERVICES_STATE
   */
  async server(server: ServerName): Promise<Credential> {
    const file = `${this.#directory}/${server.file}.pem`;
    const present = await readCredential(file);
    if (present !== undefined && this.#isUsable(present, server)) return present;
    const key = await generateKey(server.key);
    const now = this.#clock.now();
    const leaf = issueCertificate({
      subject: [{ type: OID.commonName, value: server.name }],
      subjectKey: key,
      issuer: { name: this.root.subject, key: this.#key },
      signatureAlgorithm: "ecdsa-sha256",
      serial: serial(this.#random),
      notBefore: now - BACKDATE,
      notAfter: now + SERVER_LIFETIME,
      extensions: [
        basicConstraints({ ca: false }),
        keyUsage("digitalSignature"),
        extendedKeyUsage(OID.serverAuth),
        subjectAltName({ kind: "dns", value: server.name }),
        authorityKeyIdentifier(this.root.publicKey.der),
      ],
    });
    const credential: Credential = { key, chain: [leaf, this.root] };
    await writeCredential(file, credential);
    return credential;
  }

  #isUsable({ key, chain }: Credential, server: ServerName): boolean {
    const [leaf] = chain;
    const names = leaf?.subjectAltName?.map((name) => (name.kind === "dns" ? name.value : "")) ?? [];
    if (leaf === undefined || names.length !== 1 || names[0] !== server.name) return false;
    if ((key.asymmetricKeyType === "rsa") !== (server.key === "rsa-2048")) return false;
    const clock: Clock = { now: () => this.#clock.now() + RENEW_BEFORE };
    try {
      verifyChain(chain, { anchors: [certificateAnchor(this.root)], validity: { kind: "now", clock } });
      return true;
    } catch {
      // Of another root, or about to end: a new one takes its place.
      return false;
    }
  }
}

/** PEM of the chain, leaf first. */
export function chainPem(chain: readonly Certificate[]): string {
  return chain.map((certificate) => encodePem("CERTIFICATE", certificate.der)).join("");
}

async function makeRoot(file: string, clock: Clock, random: Random): Promise<Credential> {
  const key = await generateKey("p256");
  const now = clock.now();
  const certificate = issueCertificate({
    subject: [
      { type: OID.organization, value: "Sealpod" },
      { type: OID.commonName, value: "Sealpod laptop CA (emulator, NO hardware protection)" },
    ],
    subjectKey: key,
    issuer: { key },
    signatureAlgorithm: "ecdsa-sha256",
    serial: serial(random),
    notBefore: now - BACKDATE,
    notAfter: now + ROOT_LIFETIME,
    extensions: [basicConstraints({ ca: true, pathLength: 0 }), keyUsage("keyCertSign", "cRLSign"), subjectKeyIdentifier(encodePublicKeyInfo(key))],
  });
  const root: Credential = { key, chain: [certificate] };
  await writeCredential(file, root);
  return root;
}

function rootOf(root: Credential, directory: string): Certificate {
  const [certificate] = root.chain;
  if (certificate === undefined) throw unusable(`${directory}/root.pem`, "it has no certificate");
  return certificate;
}

async function writeCredential(file: string, { key, chain }: Credential): Promise<void> {
  const pem = `${key.export({ type: "pkcs8", format: "pem" }) as string}${chainPem(chain)}`;
  await writeFileAtomic(file, encodeUtf8(pem), 0o600);
}

async function readCredential(file: string): Promise<Credential | undefined> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw unusable(file, messageOf(error), error);
  }
  try {
    const end = "-----END PRIVATE KEY-----\n";
    const split = text.indexOf(end) + end.length;
    if (text.length > MAX_PEM_FILE || split < end.length) throw new Error("it does not begin with a private key");
    const key = createPrivateKey(text.slice(0, split));
    const chain = parseCertificatesPem(text.slice(split), file);
    if (chain[0]?.publicKey.key.equals(createPublicKey(key)) !== true) throw new Error("its key does not belong to its certificate");
    return { key, chain };
  } catch (cause) {
    throw unusable(file, messageOf(cause), cause);
  }
}

function unusable(file: string, problem: string, cause?: unknown): ServicesError {
  return new ServicesError("ERR_SERVICES_STATE", `${file} cannot be used: ${problem}`, {
    cause,
    hint: "Put the file back, or start with an empty state directory: everything sealed by the old one is lost with it.",
  });
}

/** 120 unpredictable bits, never zero (RFC 5280 section 4.1.2.2). */
function serial(random: Random): bigint {
  let value = 1n;
  for (const byte of random.bytes(15)) value = (value << 8n) | BigInt(byte);
  return value;
}
