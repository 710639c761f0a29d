import { createPublicKey, generateKeyPairSync, randomBytes, type KeyObject } from "node:crypto";
import { encodeUtf8, jsonLogger, silentLogger, type Random } from "@sealpod/core";
import { kbsApp, type KbsAppOptions } from "@sealpod/kbs";
import { openVaultStore, type VaultStore } from "@sealpod/keyvault";
import { basicConstraints, issueCertificate, keyUsage, OID, type Certificate, type Extension } from "@sealpod/pki";
import {
  CERTIFICATE_GUIDS,
  encodeCertificateTable,
  encodeTcb,
  encodeVcekExtensions,
  signReport,
  trustRootOf,
  type ProductName,
  type Report,
  type ReportVersion,
  type TrustRoot,
} from "@sealpod/snp";
import type { BackendPorts } from "../../backend.ts";
import type { HttpRequest, HttpResponse } from "../../http-client.ts";

export const START: number = Date.UTC(2026, 10, 22, 12);
const DAY = 24 * 60 * 60 * 1000;
/** Host of the key broker. */
export const KBS = "kbs.sealpod.test";
const ADMIN = "admin-token";

const random: Random = { bytes: (length) => new Uint8Array(randomBytes(length)) };
const fill = (length: number, byte: number): Uint8Array => new Uint8Array(length).fill(byte);
const MEASUREMENT = fill(48, 0x3e);

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
    notBefore: START - DAY,
    notAfter: START + DAY,
    extensions,
  });
}

/** A processor that signs reports, and the certificate table that its host attaches to them. */
export interface Processor {
  readonly product: ProductName;
  readonly root: TrustRoot;
  readonly table: Uint8Array;
  /** HOST_DATA of its reports. */
  readonly hostData: Uint8Array;
  report(reportData: Uint8Array): Uint8Array;
}

export function makeProcessor(product: ProductName, version: ReportVersion, hostData: Uint8Array = fill(32, 0xda)): Processor {
  const rsa = (): KeyObject => generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey;
  const [arkKey, askKey, key] = [rsa(), rsa(), generateKeyPairSync("ec", { namedCurve: "P-384" }).privateKey];
  const turin = product === "Turin";
  const tcb = encodeTcb(
    { fmc: turin ? 1 : undefined, bootloader: 4, tee: 1, snp: 24, microcode: 219, reserved: turin ? [0, 0, 0] : [0, 0, 0, 0] },
    product,
  );
  const chipId = fill(64, turin ? 0 : 0xc1);
  chipId.fill(0xc1, 0, 8);
  const ca = [basicConstraints({ ca: true }), keyUsage("keyCertSign", "cRLSign")];
  const ark = { certificate: issue(`ARK-${product}`, arkKey, ca, arkKey), key: arkKey };
  const ask = { certificate: issue(`SEV-${product}`, askKey, ca, ark), key: askKey };
  const hwId = chipId.subarray(0, turin ? 8 : 64);
  const vcek = issue("SEV-VCEK", key, encodeVcekExtensions({ productName: product, product, tcb, hwId }), ask);
  const firmware = { major: 1, minor: 55, build: 22 };
  const processor = { Milan: { family: 0x19, model: 1, stepping: 1 }, Genoa: { family: 0x19, model: 0xa0, stepping: 2 }, Turin: { family: 0x1a, model: 2, stepping: 1 } }[product];
  const report = (reportData: Uint8Array): Omit<Report, "signature"> => ({
    version,
    guestSvn: 2,
    policy: 0x3001fn,
    familyId: fill(16, 1),
    imageId: fill(16, 2),
    vmpl: 0,
    currentTcb: tcb,
    platformInfo: 0x25n,
    keyInfo: { authorKeyEnabled: true, chipKeyMasked: false, signingKey: "vcek" },
    reportData,
    measurement: MEASUREMENT,
    hostData,
    idKeyDigest: fill(48, 0x1d),
    authorKeyDigest: fill(48, 0x0a),
    reportId: fill(32, 0x1e),
    reportIdMa: fill(32, 0xff),
    reportedTcb: tcb,
    processor: version === 2 ? undefined : processor,
    chipId,
    committedTcb: tcb,
    currentFirmware: firmware,
    committedFirmware: { ...firmware, build: 21 },
    launchTcb: tcb,
    launchMitigations: version === 5 ? 0x8000_0000_0000_0001n : 0n,
    currentMitigations: version === 5 ? 0x3fn : 0n,
  });
  return {
    product,
    root: trustRootOf(ark.certificate, "emulator", product),
    table: encodeCertificateTable([
      { guid: CERTIFICATE_GUIDS.vcek, data: vcek.der },
      { guid: CERTIFICATE_GUIDS.ask, data: ask.certificate.der },
      { guid: CERTIFICATE_GUIDS.ark, data: ark.certificate.der },
    ]),
    hostData,
    report: (reportData) => signReport(report(reportData), key),
  };
}

/** A guest before a key broker over the vault's own store, all in this process. */
export class World implements AsyncDisposable {
  readonly requests: HttpRequest[] = [];
  readonly waits: number[] = [];
  readonly log: string[] = [];
  /** Answers that come before the broker's own, in order. */
  readonly scripted: (HttpResponse | Error | undefined)[] = [];
  readonly ports: BackendPorts;
  readonly #store: VaultStore;
  readonly #app: ReturnType<typeof kbsApp>;

  private constructor(processor: Processor, store: VaultStore, options: Partial<KbsAppOptions>) {
    const clock = { now: () => START };
    this.#store = store;
    this.#app = kbsApp({
      store,
      vault: "demo",
      roots: [processor.root],
      administrators: {
        authenticate: async (token) =>
          Promise.resolve(token === ADMIN ? { kind: "allowed", tenantId: "", appid: "admin", oid: "" } : { kind: "refused", problem: "no" }),
      },
      defaults: {
        referenceValues: {
          snp_launch_measurement: [Buffer.from(MEASUREMENT).toString("hex")],
          snp_host_data: [Buffer.from(processor.hostData).toString("hex")],
          snp_bootloader: [4],
          snp_microcode: [219],
          snp_snp_svn: [24],
          snp_tee_svn: [1],
        },
      },
      clock,
      random,
      logger: silentLogger,
      ...options,
    });
    this.ports = {
      clock,
      random,
      timer: {
        wait: async (milliseconds) => {
          this.waits.push(milliseconds);
          return Promise.resolve();
        },
        deadline: () => new AbortController().signal,
      },
      logger: jsonLogger(clock, (line) => this.log.push(line), "debug"),
      http: async (request) => this.#answer(request),
      reports: { kind: "emulator", fetchReport: async (reportData) => Promise.resolve({ report: processor.report(reportData), auxblob: this.auxblob }) },
      securityContext: { uvmEndorsement: undefined, hostCertificates: undefined },
      certificateCache: undefined,
      signal: new AbortController().signal,
    };
    this.auxblob = processor.table;
  }

  auxblob: Uint8Array;

  static async make(processor: Processor, options: Partial<KbsAppOptions> = {}): Promise<World> {
    const store = await openVaultStore({ url: ":memory:", master: new Uint8Array(32).fill(7), clock: { now: () => START }, random });
    return new World(processor, store, options);
  }

  async put(path: string, body: string | Uint8Array): Promise<void> {
    const response = await this.#app.request(`https://${KBS}/kbs/v0/resource/${path}`, {
      method: "POST",
      body: body as string,
      headers: { authorization: `Bearer ${ADMIN}` },
    });
    if (response.status !== 200) throw new Error(await response.text());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#store.close();
  }

  async #answer(request: HttpRequest): Promise<HttpResponse> {
    this.requests.push(request);
    const scripted = this.scripted.shift();
    if (scripted instanceof Error) throw scripted;
    if (scripted !== undefined) return scripted;
    const url = new URL(request.url);
    if (url.host !== KBS) return { status: 404, body: encodeUtf8("nobody is here") };
    const response = await this.#app.request(request.url, {
      method: request.method,
      headers: request.headers,
      ...(request.body === undefined ? {} : { body: request.body }),
    });
    return { status: response.status, body: new Uint8Array(await response.arrayBuffer()), cookies: response.headers.getSetCookie() };
  }
}
