import { createHash, createPublicKey, generateKeyPairSync, randomBytes, type JsonWebKey, type KeyObject } from "node:crypto";
import { flattenedDecrypt } from "jose";
import { asObject, concatBytes, jsonLogger, parseJson, type JsonObject, type JsonValue, type Random } from "@sealpod/core";
import { basicConstraints, issueCertificate, keyUsage, OID, type Certificate, type Extension } from "@sealpod/pki";
import { encodeTcb, encodeVcekExtensions, signReport, trustRootOf, type ProductName, type Report, type ReportVersion, type TrustRoot } from "@sealpod/snp";
import type { Hono } from "hono";
import { kbsApp, type KbsAppOptions } from "../index.ts";
import { MemoryStore } from "./memory-store.ts";

/** When the tests begin. */
export const START: number = Date.UTC(2026, 10, 22, 12);
const YEAR = 365 * 24 * 60 * 60 * 1000;
const HOST = "https://kbs.sealpod.test";

export const random: Random = { bytes: (length) => new Uint8Array(randomBytes(length)) };

const fill = (length: number, byte: number): Uint8Array => new Uint8Array(length).fill(byte);
export const MEASUREMENT: Uint8Array = fill(48, 0x3e);
export const HOST_DATA: Uint8Array = fill(32, 0xda);

/** The token that the tests' administrator has. */
export const ADMIN = "admin-token";

interface Authority {
  readonly certificate: Certificate;
  readonly key: KeyObject;
}

function issue(name: string, subjectKey: KeyObject, extensions: readonly Extension[], issuer: Authority | KeyObject): Certificate {
  return issueCertificate({
    subject: [{ type: OID.commonName, value: name }],
    subjectKey: createPublicKey(subjectKey),
    issuer: "certificate" in issuer ? { name: issuer.certificate.subject, key: issuer.key } : { key: issuer },
    signatureAlgorithm: "rsa-pss-sha384",
    serial: 1n,
    notBefore: START - YEAR,
    notAfter: START + YEAR,
    extensions,
  });
}

const rsa = (): KeyObject => generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey;
const ca = [basicConstraints({ ca: true }), keyUsage("keyCertSign", "cRLSign")];

const PROCESSORS = {
  Milan: { family: 0x19, model: 0x01, stepping: 1 },
  Genoa: { family: 0x19, model: 0xa0, stepping: 2 },
  Turin: { family: 0x1a, model: 0x02, stepping: 1 },
} as const;

/** A processor with a chain of its own making. */
export interface Processor {
  readonly product: ProductName;
  readonly root: TrustRoot;
  readonly vcek: Certificate;
  readonly ask: Certificate;
  readonly ark: Certificate;
  /** A signed report, 1184 bytes. */
  report(change?: Partial<Omit<Report, "signature">>, version?: ReportVersion): Uint8Array;
}

export function makeProcessor(product: ProductName = "Milan"): Processor {
  const [arkKey, askKey, key] = [rsa(), rsa(), generateKeyPairSync("ec", { namedCurve: "P-384" }).privateKey];
  const turin = product === "Turin";
  const tcb = encodeTcb(
    { fmc: turin ? 1 : undefined, bootloader: 4, tee: 1, snp: 24, microcode: 219, reserved: turin ? [0, 0, 0] : [0, 0, 0, 0] },
    product,
  );
  const chipId = fill(64, turin ? 0 : 0xc1);
  chipId.fill(0xc1, 0, 8);
  const ark = { certificate: issue(`ARK-${product}`, arkKey, ca, arkKey), key: arkKey };
  const ask = { certificate: issue(`SEV-${product}`, askKey, ca, ark), key: askKey };
  const hwId = chipId.subarray(0, turin ? 8 : 64);
  const vcek = issue("SEV-VCEK", key, encodeVcekExtensions({ productName: product === "Milan" ? "Milan-B0" : product, product, tcb, hwId }), ask);
  const firmware = { major: 1, minor: 55, build: 22 };
  return {
    product,
    root: trustRootOf(ark.certificate, "emulator", product),
    vcek,
    ask: ask.certificate,
    ark: ark.certificate,
    report: (change = {}, version = turin ? 5 : 3) =>
      signReport(
        {
          version,
          guestSvn: 2,
          policy: 0x3001fn,
          familyId: fill(16, 1),
          imageId: fill(16, 2),
          vmpl: 0,
          currentTcb: tcb,
          platformInfo: 0x25n,
          keyInfo: { authorKeyEnabled: true, chipKeyMasked: false, signingKey: "vcek" },
          reportData: fill(64, 0),
          measurement: MEASUREMENT,
          hostData: HOST_DATA,
          idKeyDigest: fill(48, 0x1d),
          authorKeyDigest: fill(48, 0x0a),
          reportId: fill(32, 0x1e),
          reportIdMa: fill(32, 0xff),
          reportedTcb: tcb,
          processor: version === 2 ? undefined : PROCESSORS[product],
          chipId,
          committedTcb: tcb,
          currentFirmware: firmware,
          committedFirmware: { ...firmware, build: 21 },
          launchTcb: tcb,
          // Beyond 2^53, where a double loses digits.
          launchMitigations: version === 5 ? 0x8000_0000_0000_0001n : 0n,
          currentMitigations: version === 5 ? 0x3fn : 0n,
          ...change,
        },
        key,
      ),
  };
}

/**
 * The report as the crate `sev` renders it, read from its bytes by the offsets of specs/attestation.md 1.1 and not with any parser of this project. Numbers beyond 2^53 stay text until
 * {@link stringify} writes them.
 */
export function render(bytes: Uint8Array, certificates: readonly (readonly [string, Uint8Array])[] | undefined, turin = false): Record<string, unknown> {
  const view = Buffer.from(bytes);
  const list = (from: number, length: number): number[] => [...view.subarray(from, from + length)];
  const u64 = (from: number): string => `u64:${view.readBigUInt64LE(from)}`;
  const tcb = (from: number): Record<string, unknown> => {
    const [b0, b1, b2, b3, , , b6, b7] = list(from, 8);
    return turin ? { fmc: b0, bootloader: b1, tee: b2, snp: b3, microcode: b7 } : { fmc: null, bootloader: b0, tee: b1, snp: b6, microcode: b7 };
  };
  const firmware = (from: number): Record<string, unknown> => ({ major: view[from + 2], minor: view[from + 1], build: view[from] });
  const version = view.readUInt32LE(0);
  return {
    attestation_report: {
      version,
      guest_svn: view.readUInt32LE(4),
      policy: u64(8),
      family_id: list(0x10, 16),
      image_id: list(0x20, 16),
      vmpl: view.readUInt32LE(0x30),
      sig_algo: view.readUInt32LE(0x34),
      current_tcb: tcb(0x38),
      plat_info: u64(0x40),
      key_info: view.readUInt32LE(0x48),
      report_data: list(0x50, 64),
      measurement: list(0x90, 48),
      host_data: list(0xc0, 32),
      id_key_digest: list(0xe0, 48),
      author_key_digest: list(0x110, 48),
      report_id: list(0x140, 32),
      report_id_ma: list(0x160, 32),
      reported_tcb: tcb(0x180),
      cpuid_fam_id: version === 2 ? null : view[0x188],
      cpuid_mod_id: version === 2 ? null : view[0x189],
      cpuid_step: version === 2 ? null : view[0x18a],
      chip_id: list(0x1a0, 64),
      committed_tcb: tcb(0x1e0),
      current: firmware(0x1e8),
      committed: firmware(0x1ec),
      launch_tcb: tcb(0x1f0),
      launch_mit_vector: version === 5 ? u64(0x1f8) : null,
      current_mit_vector: version === 5 ? u64(0x200) : null,
      signature: { r: list(0x2a0, 72), s: list(0x2e8, 72) },
    },
    cert_chain: certificates?.map(([type, der]) => ({ cert_type: type, data: [...der] })) ?? null,
  };
}

/** JSON text; `u64:…` becomes a number of all its digits. */
export function stringify(value: unknown): string {
  return JSON.stringify(value).replaceAll(/"u64:(\d+)"/g, "$1");
}

/** SHA-384 over members in sorted order, written out here, and 16 zero bytes. */
export function reportDataOf(nonce: string, jwk: Record<string, unknown>, additional: string | null = ""): Uint8Array {
  const key = `{${Object.entries(jwk)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, item]) => `"${name}":${JSON.stringify(item)}`)
    .join(",")}}`;
  const text = `{${additional === null ? "" : `"additional-evidence":${JSON.stringify(additional)},`}"nonce":${JSON.stringify(nonce)},"tee-pubkey":${key}}`;
  return concatBytes(new Uint8Array(createHash("sha384").update(text).digest()), fill(16, 0));
}

/** A guest's key pair as CoCo's clients make them. */
export interface GuestKey {
  readonly privateKey: KeyObject;
  readonly jwk: Record<string, string>;
}

export function ecKey(curve: "P-256" | "P-384" | "P-521" = "P-256"): GuestKey {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: curve });
  const { x = "", y = "" } = publicKey.export({ format: "jwk" });
  return { privateKey, jwk: { kty: "EC", crv: curve, alg: "ECDH-ES+A256KW", x, y } };
}

export function rsaKey(bits = 2048): GuestKey {
  const { privateKey, publicKey } = generateKeyPairSync("rsa", { modulusLength: bits });
  const { n = "", e = "" } = publicKey.export({ format: "jwk" }) as JsonWebKey & { n?: string; e?: string };
  return { privateKey, jwk: { kty: "RSA", alg: "RSA-OAEP-256", n, e } };
}

/** An answer, its body parsed if it is JSON. */
export interface Answer {
  readonly status: number;
  readonly body: JsonObject;
  readonly text: string;
  /** The session's cookie, as a client sends it back. */
  readonly cookie: string | undefined;
}

/** One thing after another that an attest step can get wrong. */
export interface AttestChange {
  readonly key?: GuestKey;
  /** The key in the request, where it is not the one in the report. */
  readonly sentKey?: Record<string, unknown>;
  readonly nonce?: string;
  readonly cookie?: string;
  readonly report?: Partial<Omit<Report, "signature">>;
  readonly version?: ReportVersion;
  readonly processor?: Processor;
  readonly initData?: unknown;
  readonly certificates?: readonly (readonly [string, Uint8Array])[] | null;
  readonly additional?: string;
  /** Changes the request before it is sent. */
  readonly edit?: (body: Attestation) => unknown;
}

/** The body of an attest request. */
export interface Attestation {
  "init-data": unknown;
  "runtime-data": Record<string, unknown>;
  "tee-evidence": { primary_evidence: { attestation_report: Record<string, unknown>; cert_chain: unknown }; additional_evidence: string };
}

/** The key broker over a store in memory, and guests before it. */
export class World {
  now: number = START;
  readonly store: MemoryStore;
  readonly processor: Processor;
  readonly log: string[] = [];
  readonly app: Hono;
  readonly options: KbsAppOptions;

  constructor(processor: Processor, changes: Partial<KbsAppOptions> = {}, store: MemoryStore = new MemoryStore()) {
    this.store = store;
    this.processor = processor;
    const clock = { now: () => this.now };
    this.options = {
      store,
      vault: "demo",
      roots: [processor.root],
      administrators: {
        authenticate: async (token) =>
          Promise.resolve(token === ADMIN ? { kind: "allowed", tenantId: "t", appid: "a", oid: "o" } : { kind: "refused", problem: "it is not the administrator's" }),
      },
      defaults: { referenceValues: REFERENCE_VALUES },
      clock,
      random,
      logger: jsonLogger(clock, (line) => this.log.push(line), "debug"),
      ...changes,
    };
    this.app = kbsApp(this.options);
  }

  async call(method: string, path: string, body?: unknown, headers: Readonly<Record<string, string>> = {}): Promise<Answer> {
    const content = body === undefined ? {} : { body: typeof body === "string" || body instanceof Uint8Array ? (body as string) : stringify(body) };
    const response = await this.app.request(`${HOST}${path}`, { method, headers, ...content });
    const text = await response.text();
    const cookie = response.headers.get("set-cookie")?.split(";")[0];
    return { status: response.status, text, body: text.startsWith("{") ? (asObject(parseJson(text)) ?? {}) : {}, cookie };
  }

  async admin(method: string, path: string, body?: unknown): Promise<Answer> {
    return this.call(method, path, body, { authorization: `Bearer ${ADMIN}` });
  }

  async auth(version = "0.4.0"): Promise<{ readonly nonce: string; readonly cookie: string }> {
    const answer = await this.call("POST", "/kbs/v0/auth", { version, tee: "snp", "extra-params": {} });
    return { nonce: answer.body["nonce"] as string, cookie: answer.cookie ?? "" };
  }

  /** An attest request, right but for the change. */
  async attest(change: AttestChange = {}): Promise<Answer> {
    const session = await this.auth();
    const { key = ecKey(), processor = this.processor, additional = "" } = change;
    const nonce = change.nonce ?? session.nonce;
    const bytes = processor.report({ reportData: reportDataOf(nonce, key.jwk, additional), ...change.report }, change.version);
    const chain = change.certificates === undefined ? chainOf(processor) : (change.certificates ?? undefined);
    const body: Attestation = {
      "init-data": change.initData ?? null,
      "runtime-data": { nonce, "tee-pubkey": change.sentKey ?? key.jwk },
      "tee-evidence": { primary_evidence: render(bytes, chain, processor.product === "Turin") as never, additional_evidence: additional },
    };
    return this.call("POST", "/kbs/v0/attest", change.edit?.(body) ?? body, { cookie: change.cookie ?? session.cookie });
  }

  /** A guest that was attested: its token, cookie and key. */
  async guest(change: AttestChange = {}): Promise<{ readonly token: string; readonly cookie: string; readonly key: GuestKey }> {
    const key = change.key ?? ecKey();
    const answer = await this.attest({ ...change, key });
    if (answer.status !== 200) throw new Error(`not attested: ${answer.text}`);
    return { token: answer.body["token"] as string, cookie: answer.cookie ?? "", key };
  }

  async resource(path: string, headers: Readonly<Record<string, string>>): Promise<Answer> {
    return this.call("GET", `/kbs/v0/resource/${path}`, undefined, headers);
  }
}

/** Reference values under which {@link makeProcessor}'s reports are affirmed. */
export const REFERENCE_VALUES: Readonly<Record<string, JsonValue>> = {
  snp_launch_measurement: [Buffer.from(MEASUREMENT).toString("hex")],
  snp_host_data: [Buffer.from(HOST_DATA).toString("hex")],
  snp_bootloader: [4],
  snp_microcode: [219],
  snp_snp_svn: [24],
  snp_tee_svn: [1],
};

export function chainOf({ vcek, ask, ark }: Processor): readonly (readonly [string, Uint8Array])[] {
  return [
    ["VCEK", vcek.der],
    ["ASK", ask.der],
    ["ARK", ark.der],
  ];
}

/** Opens a JWE with `jose`: none of our own code. */
export async function open(jwe: JsonObject, { privateKey }: GuestKey): Promise<Uint8Array> {
  return (await flattenedDecrypt(jwe as never, privateKey)).plaintext;
}

/** What the last part of an error's type says. */
export function kindOf({ body }: Answer): string {
  return (body["type"] as string | undefined)?.split("/").at(-1) ?? "";
}
