import { constants, createCipheriv, createPublicKey, publicEncrypt, randomBytes, type KeyObject } from "node:crypto";
import { asArray, asObject, decodeUtf8, encodeUtf8, fromAnyBase64, jsonLogger, parseJson, sha256, toBase64, toBase64url, type JsonObject } from "@sealpod/core";
import {
  basicConstraints,
  encodePem,
  extendedKeyUsage,
  generateKey,
  issueCertificate,
  keyUsage,
  OID,
  subjectAltName,
  type Certificate,
  type Extension,
  type GeneratedKeyKind,
} from "@sealpod/pki";
import { AMD_OID, CERTIFICATE_GUIDS, encodeCertificateTable, encodeReport, encodeVcekExtensions, type Report } from "@sealpod/snp";
import { CompactSign } from "jose";
import { createSkr, type HttpRequest, type HttpResponse, type ReleasePorts, type SkrHandler, type SkrResponse } from "../index.ts";
import { generateWrappingKey, type WrappingKey } from "../wrapping-key.ts";

/** The fixed time of the tests. */
export const NOW: number = Date.UTC(2026, 10, 22, 12);

/** Host names of the stand-in services. */
export const MAA = "attest.test";
export const VAULT = "demo.vault.test";
export const AUTHORITY = "https://login.test/";

/** Secrets of the tests: none of them may ever stand in a log or an error. */
export const ACCESS_TOKEN = "access-token-secret";
export const ASSERTION = "assertion.of.the-pod";
export const ATTESTATION_TOKEN = "header.claims.signature";

const DAY = 24 * 60 * 60 * 1000;

/** A certificate with its key. */
export interface Issued {
  readonly key: KeyObject;
  readonly certificate: Certificate;
}

/** What {@link issue} puts into a certificate. */
export interface Issue {
  readonly name: string;
  readonly kind?: GeneratedKeyKind;
  readonly issuer?: Issued;
  readonly ca?: boolean;
  readonly dns?: readonly string[];
  /** IPv4 addresses, 4 bytes each. */
  readonly addresses?: readonly Uint8Array[];
  readonly purposes?: readonly string[];
  readonly notAfter?: number;
  readonly amd?: "vcek" | "vlek";
  /** Of AMD's extensions; default Milan. */
  readonly product?: "Milan" | "Genoa";
  /** Of AMD's extensions, 8 bytes; default that of {@link report}. */
  readonly tcb?: Uint8Array;
}

/** REPORTED_TCB of {@link report}. */
export const REPORTED_TCB: Uint8Array = Uint8Array.of(4, 0, 0, 0, 0, 0, 0x18, 0xdb);

function amdExtensions(kind: "vcek" | "vlek", product: "Milan" | "Genoa", tcb: Uint8Array): readonly Extension[] {
  const productName = kind === "vcek" ? `${product}-B0` : product;
  const all = encodeVcekExtensions({ productName, product, tcb, hwId: new Uint8Array(64).fill(0xab) });
  // A provider's name: what tells a VLEK from a VCEK.
  const csp = { oid: AMD_OID.cspId, critical: false, value: Uint8Array.of(0x16, 3, ...encodeUtf8("CSP")) };
  return kind === "vcek" ? all : [...all.filter(({ oid }) => oid !== AMD_OID.hwId), csp];
}

/** Issues a certificate with a new key. */
export async function issue(request: Issue): Promise<Issued> {
  const key = await generateKey(request.kind ?? "p256");
  const names = [
    ...(request.dns ?? []).map((value) => ({ kind: "dns", value }) as const),
    ...(request.addresses ?? []).map((bytes) => ({ kind: "ip", bytes }) as const),
  ];
  const certificate = issueCertificate({
    subject: [{ type: OID.commonName, value: request.name }],
    subjectKey: key,
    issuer: request.issuer === undefined ? { key } : { name: request.issuer.certificate.subject, key: request.issuer.key },
    signatureAlgorithm: (request.issuer?.key ?? key).asymmetricKeyType === "rsa" ? "rsa-sha256" : "ecdsa-sha256",
    serial: 1n,
    notBefore: NOW - DAY,
    notAfter: request.notAfter ?? NOW + DAY,
    extensions: [
      basicConstraints({ ca: request.ca === true }),
      keyUsage(...(request.ca === true ? (["keyCertSign"] as const) : (["digitalSignature"] as const))),
      ...(names.length === 0 ? [] : [subjectAltName(...names)]),
      ...(request.purposes === undefined ? [] : [extendedKeyUsage(...request.purposes)]),
      ...(request.amd === undefined ? [] : amdExtensions(request.amd, request.product ?? "Milan", request.tcb ?? REPORTED_TCB)),
    ],
  });
  return { key, certificate };
}

/** A report over `reportData`; its signature is empty, because the sidecar leaves verification to the verifier. */
export function report(reportData: Uint8Array, changes: Partial<Report> = {}): Uint8Array {
  const tcb = REPORTED_TCB;
  return encodeReport({
    version: 3,
    guestSvn: 0,
    policy: 0x3001fn,
    familyId: new Uint8Array(16),
    imageId: new Uint8Array(16),
    vmpl: 0,
    currentTcb: tcb,
    platformInfo: 1n,
    keyInfo: { authorKeyEnabled: false, chipKeyMasked: false, signingKey: "vcek" },
    reportData,
    measurement: new Uint8Array(48),
    hostData: new Uint8Array(32),
    idKeyDigest: new Uint8Array(48),
    authorKeyDigest: new Uint8Array(48),
    reportId: new Uint8Array(32),
    reportIdMa: new Uint8Array(32).fill(0xff),
    reportedTcb: tcb,
    processor: { family: 0x19, model: 1, stepping: 1 },
    chipId: new Uint8Array(64).fill(0xab),
    committedTcb: tcb,
    currentFirmware: { major: 1, minor: 55, build: 8 },
    committedFirmware: { major: 1, minor: 55, build: 8 },
    launchTcb: tcb,
    launchMitigations: 0n,
    currentMitigations: 0n,
    signature: { r: 1n, s: 1n },
    ...changes,
  });
}

/** TCB of {@link report} as a hex number. */
export const TCB = "DB18000000000004";

/** AMD-shaped certificates. */
export interface Chain {
  readonly vcek: Certificate;
  readonly ask: Certificate;
  readonly ark: Certificate;
}

/** Makes {@link Chain}. */
export async function amdChain(tcb: Uint8Array = REPORTED_TCB, product: "Milan" | "Genoa" = "Milan"): Promise<Chain> {
  const ark = await issue({ name: `ARK-${product}`, ca: true });
  const ask = await issue({ name: `SEV-${product}`, ca: true, issuer: ark });
  const vcek = await issue({ name: "SEV-VCEK", issuer: ask, amd: "vcek", product, tcb });
  return { ark: ark.certificate, ask: ask.certificate, vcek: vcek.certificate };
}

/** The chain as a certificate table. */
export function table(chain: Chain): Uint8Array {
  return encodeCertificateTable([
    { guid: CERTIFICATE_GUIDS.vcek, data: chain.vcek.der },
    { guid: CERTIFICATE_GUIDS.ask, data: chain.ask.der },
    { guid: CERTIFICATE_GUIDS.ark, data: chain.ark.der },
  ]);
}

/** The chain as PEM: VCEK, ASK, ARK. */
export function pem(chain: Chain): string {
  return [chain.vcek, chain.ask, chain.ark].map((certificate) => encodePem("CERTIFICATE", certificate.der)).join("");
}

/** How a stand-in key store shapes its answer. Each member can be made wrong. */
export interface Release {
  readonly kid?: string;
  readonly kty?: string;
  readonly enc?: string;
  readonly oaepHash?: string;
  readonly plaintext?: Uint8Array;
  readonly publicMembers?: JsonObject;
  readonly wrappedFor?: string;
  readonly wrapTo?: KeyObject;
  readonly ciphertext?: Uint8Array;
  /** AES key between the RSA key and the key that is released. */
  readonly kek?: Uint8Array;
  readonly header?: Readonly<Record<string, unknown>>;
}

/** The key that the stand-in store releases by default. */
export const SECRET: Uint8Array = Uint8Array.from({ length: 32 }, (_unused, index) => index + 1);

/** One key pair for all releases of the tests that are about something else. */
const KEY_PAIR: Promise<WrappingKey> = generateWrappingKey();

/** Everything around the sidecar, in memory. */
export class World {
  readonly requests: HttpRequest[] = [];
  readonly waits: number[] = [];
  /** Each time limit that was set, in milliseconds. They are over when a test says so. */
  readonly deadlines: { readonly milliseconds: number; readonly over: AbortController }[] = [];
  readonly log: string[] = [];
  now: number = NOW;
  /** Answers that come before the services' own, in order. */
  readonly scripted: (HttpResponse | Error)[] = [];
  readonly chain: Chain;
  readonly store: Issued;
  readonly root: Issued;
  release: Release = {};
  auxblob: Uint8Array;
  makeReport: (reportData: Uint8Array) => Uint8Array = report;

  constructor(chain: Chain, root: Issued, store: Issued) {
    this.chain = chain;
    this.root = root;
    this.store = store;
    this.auxblob = table(chain);
  }

  static async make(): Promise<World> {
    const root = await issue({ name: "root", ca: true });
    const store = await issue({ name: "vault", kind: "rsa-2048", issuer: root, dns: ["*.vault.test"], purposes: [OID.serverAuth] });
    return new World(await amdChain(), root, store);
  }

  /** The sidecar's API over this world. */
  skr(changes: Partial<ReleasePorts> = {}): SkrHandler {
    return createSkr(this.ports(changes));
  }

  ports(changes: Partial<ReleasePorts> = {}): ReleasePorts {
    const clock = { now: () => this.now };
    return {
      clock,
      random: { bytes: (length) => new Uint8Array(length).fill(0xff) },
      timer: {
        wait: async (milliseconds, signal) => {
          // The certificate sources wait for the end of an attempt: it never comes.
          if (milliseconds === ATTEMPT_LIMIT) return until(signal);
          this.waits.push(milliseconds);
          signal?.throwIfAborted();
          return Promise.resolve();
        },
        deadline: (milliseconds) => {
          const over = new AbortController();
          this.deadlines.push({ milliseconds, over });
          return over.signal;
        },
      },
      logger: jsonLogger(clock, (line) => this.log.push(line), "debug"),
      http: (request) => this.#answer(request),
      reports: {
        kind: "emulator",
        fetchReport: (reportData) => Promise.resolve({ report: this.makeReport(reportData), auxblob: this.auxblob }),
      },
      securityContext: { uvmEndorsement: undefined, hostCertificates: undefined },
      certificateCache: undefined,
      userAgent: undefined,
      clientId: undefined,
      workloadIdentity: { clientId: "client", tenantId: "tenant", tokenFiles: ["/token"], authorityHost: AUTHORITY },
      readText: (path) => Promise.resolve(path === "/token" ? `${ASSERTION}\n` : ""),
      roots: [this.root.certificate],
      generateKey: () => KEY_PAIR,
      ...changes,
    };
  }

  /** The bodies that went to URLs that begin so. */
  sent(prefix: string): readonly HttpRequest[] {
    return this.requests.filter((request) => request.url.startsWith(prefix));
  }

  async #answer(request: HttpRequest): Promise<HttpResponse> {
    this.requests.push(request);
    const scripted = this.scripted.shift();
    if (scripted instanceof Error) throw scripted;
    if (scripted !== undefined) return scripted;
    const { host, pathname } = new URL(request.url);
    if (host === MAA) return json(200, { token: ATTESTATION_TOKEN });
    if (pathname.endsWith("/token")) return json(200, { access_token: ACCESS_TOKEN, token_type: "Bearer", expires_in: 3599 });
    if (host === VAULT || host.startsWith(`${VAULT}:`)) return json(200, { value: await this.signedRelease(request.url) });
    return json(404, { error: { message: `nobody answers ${request.url}` } });
  }

  /** The JWS of a release for the wrapping key of the last attestation request. */
  async signedRelease(url: string): Promise<string> {
    const asked = this.sent(`https://${MAA}/`).at(-1);
    const wrapping = wrappingKey(asked);
    const { release } = this;
    const enc = release.enc ?? "CKM_RSA_AES_KEY_WRAP";
    const ciphertext = release.ciphertext ?? wrap(release.wrapTo ?? wrapping.key, release.oaepHash ?? "sha1", release.plaintext ?? SECRET, release.kek);
    const hsm = {
      schema_version: "1.0",
      header: { kid: release.wrappedFor ?? wrapping.kid, alg: "dir", enc },
      ciphertext: toBase64url(ciphertext),
    };
    const key = {
      kid: release.kid ?? `${url.slice(0, url.indexOf("/release"))}${/\/keys\/[^/]+\/release/.test(url) ? "/00112233445566778899aabbccddeeff" : ""}`,
      kty: release.kty ?? "oct-HSM",
      key_ops: ["encrypt", "decrypt"],
      ...release.publicMembers,
      key_hsm: toBase64url(encodeUtf8(JSON.stringify(hsm))),
    };
    const payload = encodeUtf8(JSON.stringify({ request: { "api-version": "7.4", enc }, response: { key: { key } } }));
    const { certificate } = this.store;
    const header = {
      alg: "RS256",
      x5c: [toBase64(certificate.der), toBase64(this.root.certificate.der)],
      "x5t#S256": toBase64url(sha256(certificate.der)),
      ...release.header,
    };
    return new CompactSign(payload).setProtectedHeader(header).sign(this.store.key);
  }
}

/** What the certificate sources give one attempt, in milliseconds. */
const ATTEMPT_LIMIT = 20_000;

async function until(signal: AbortSignal | undefined): Promise<void> {
  await new Promise<void>((resolve) => {
    signal?.addEventListener("abort", () => resolve(), { once: true });
  });
}

/** Sends a body to the sidecar. */
export async function call(skr: SkrHandler, path: string, body: unknown, method = "POST", signal?: AbortSignal): Promise<SkrResponse> {
  const bytes = typeof body === "string" ? encodeUtf8(body) : encodeUtf8(JSON.stringify(body));
  return skr({ method, path, body: bytes, ...(signal === undefined ? {} : { signal }) });
}

/** A JSON answer. */
export function json(status: number, body: unknown, rest: Partial<HttpResponse> = {}): HttpResponse {
  return { status, body: encodeUtf8(JSON.stringify(body)), ...rest };
}

/** The parsed body of an attestation request: outer, and the report inside. */
export function attestation(request: HttpRequest | undefined): { readonly outer: JsonObject; readonly inner: JsonObject; readonly runtimeData: string } {
  const outer = asObject(parseJson(request?.body ?? "")) ?? {};
  const inner = asObject(parseJson(decodeUtf8(fromAnyBase64(outer["report"] as string)))) ?? {};
  return { outer, inner, runtimeData: decodeUtf8(fromAnyBase64(asObject(outer["runtimeData"])?.["data"] as string)) };
}

function wrappingKey(request: HttpRequest | undefined): { readonly kid: string; readonly key: KeyObject } {
  const jwk = asObject(asArray(asObject(parseJson(attestation(request).runtimeData))?.["keys"])?.[0]) ?? {};
  return { kid: jwk["kid"] as string, key: createPublicKey({ key: { kty: "RSA", n: jwk["n"] as string, e: jwk["e"] as string }, format: "jwk" }) };
}

/** What a key store does, written from RFC 5649 and PKCS #11 and not with the sidecar's own code. */
export function wrap(key: KeyObject, oaepHash: string, plaintext: Uint8Array, kek: Uint8Array = randomBytes(32)): Uint8Array {
  const cipher = createCipheriv("id-aes256-wrap-pad", kek, Buffer.from("A65959A6", "hex"));
  const wrapped = Buffer.concat([cipher.update(plaintext), cipher.final()]);
  return new Uint8Array(Buffer.concat([publicEncrypt({ key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash }, kek), wrapped]));
}
