import { generateKeyPairSync, type KeyObject } from "node:crypto";
import {
  basicConstraints,
  type Certificate,
  type Crl,
  encodeCertificatesPem,
  encodePem,
  type Extension,
  issueCertificate,
  issueCrl,
  keyUsage,
  OID,
} from "@sealpod/pki";
import { type Authorities, encodeTcb, encodeThim, encodeVcekExtensions, type EndorsementRequest, formatTcbNumber, type ProductName, signReport, type TrustRoot, trustRootOf } from "@sealpod/snp";

/** 2026-11-22T00:00:00Z. */
export const NOW: number = Date.UTC(2026, 10, 22);
const DAY = 86_400_000;

/** One chip's certificate and the request for it. */
export interface TestChip {
  readonly request: EndorsementRequest;
  readonly vcek: Certificate;
  /** PEM of VCEK, ASK, ARK. */
  readonly pem: string;
  readonly thim: string;
}

/** An emulated AMD for one product. The RSA keys are small: only the emulator of laptop/psp has AMD's sizes. */
export class TestAmd {
  readonly product: ProductName;
  readonly vcek: Authorities;
  readonly vlek: Authorities;
  readonly root: TrustRoot;
  readonly #arkKey: KeyObject;
  readonly #askKey: KeyObject;
  readonly #vcekKey: KeyObject;

  readonly #now: number;

  /**
   * @param now middle of the time of what is issued; certificates are valid from a day before it
   * @param before whose root issues the intermediates anew
   */
  constructor(product: ProductName, now: number = NOW, before?: TestAmd) {
    this.product = product;
    this.#now = now;
    const rsa = (): KeyObject => generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey;
    this.#arkKey = before === undefined ? rsa() : before.#arkKey;
    this.#askKey = rsa();
    this.#vcekKey = generateKeyPairSync("ec", { namedCurve: "secp384r1" }).privateKey;
    const ca = (pathLength: number): readonly Extension[] => [basicConstraints({ ca: true, pathLength }), keyUsage("keyCertSign", "cRLSign")];
    const root = before?.vcek.root ?? issue(`ARK-${product}`, this.#arkKey, { key: this.#arkKey }, ca(1), 1n, now - DAY);
    const under = { name: root.subject, key: this.#arkKey };
    this.vcek = { root, intermediate: issue(`SEV-${product}`, this.#askKey, under, ca(0), 1n, now - DAY) };
    this.vlek = { root, intermediate: issue(`SEV-VLEK-${product}`, this.#askKey, under, ca(0), 2n, now - DAY) };
    this.root = trustRootOf(root, "emulator", product);
  }

  /** The same AMD after it has issued ASK and ASVK again, an hour later, with a new key and under the old names. */
  reissued(): TestAmd {
    return new TestAmd(this.product, this.#now + 3_600_000, this);
  }

  /** PEM of the root alone, as `--trust` takes it. */
  get arkPem(): string {
    return encodePem("CERTIFICATE", this.vcek.root.der);
  }

  /** PEM of intermediate and root. */
  chainPem(kind: "vcek" | "vlek"): string {
    return encodeCertificatesPem([this[kind].intermediate, this[kind].root]);
  }

  /** A chip; the number is in its id. */
  chip(number: number, levels: { readonly microcode?: number; readonly notBefore?: number } = {}): TestChip {
    const turin = this.product === "Turin";
    const chipId = new Uint8Array(64);
    chipId.fill(0x41, 0, turin ? 8 : 64);
    new DataView(chipId.buffer).setUint32(0, number + 1);
    const { microcode = 219 } = levels;
    const reportedTcb = encodeTcb({ fmc: turin ? 1 : undefined, bootloader: 4, tee: 0, snp: 24, microcode, reserved: turin ? [0, 0, 0] : [0, 0, 0, 0] }, this.product);
    const extensions = encodeVcekExtensions({ productName: this.product, product: this.product, tcb: reportedTcb, hwId: chipId.subarray(0, turin ? 8 : 64) });
    const { intermediate, root } = this.vcek;
    const vcek = issue("SEV-VCEK", this.#vcekKey, { name: intermediate.subject, key: this.#askKey }, extensions, 0n, levels.notBefore ?? this.#now - DAY);
    return {
      request: { products: [this.product], chipId, reportedTcb },
      vcek,
      pem: encodeCertificatesPem([vcek, intermediate, root]),
      thim: encodeThim({
        vcekCert: encodePem("CERTIFICATE", vcek.der),
        tcbm: formatTcbNumber(reportedTcb),
        certificateChain: encodeCertificatesPem([intermediate, root]),
        cacheControl: "86400",
      }),
    };
  }

  /** A report (version 3, or 5 of a Turin) that the chip's key signed. */
  report({ request: { chipId, reportedTcb } }: TestChip): Uint8Array {
    const zeros = (length: number): Uint8Array => new Uint8Array(length);
    const turin = this.product === "Turin";
    const firmware = { major: 1, minor: 55, build: 29 };
    return signReport(
      {
        version: turin ? 5 : 3,
        guestSvn: 0,
        policy: 0x3001fn,
        familyId: zeros(16),
        imageId: zeros(16),
        vmpl: 0,
        currentTcb: reportedTcb,
        platformInfo: 1n,
        keyInfo: { authorKeyEnabled: false, chipKeyMasked: false, signingKey: "vcek" },
        reportData: zeros(64),
        measurement: zeros(48),
        hostData: zeros(32),
        idKeyDigest: zeros(48),
        authorKeyDigest: zeros(48),
        reportId: zeros(32),
        reportIdMa: zeros(32),
        reportedTcb,
        processor: turin ? { family: 0x1a, model: 2, stepping: 1 } : { family: 0x19, model: this.product === "Milan" ? 1 : 0x11, stepping: 1 },
        chipId,
        committedTcb: reportedTcb,
        currentFirmware: firmware,
        committedFirmware: firmware,
        launchTcb: reportedTcb,
        launchMitigations: 0n,
        currentMitigations: 0n,
      },
      this.#vcekKey,
    );
  }

  /** A revocation list of the root, by default of now and for a day. */
  crl(number: bigint, times: { readonly thisUpdate?: number; readonly nextUpdate?: number } = {}): Crl {
    return issueCrl({
      issuer: { name: this.vcek.root.subject, key: this.#arkKey },
      signatureAlgorithm: "rsa-pss-sha384",
      thisUpdate: times.thisUpdate ?? this.#now,
      nextUpdate: times.nextUpdate ?? this.#now + DAY,
      number,
      revoked: [],
    });
  }
}

function issue(
  name: string,
  key: KeyObject,
  issuer: { readonly name?: { readonly der: Uint8Array }; readonly key: KeyObject },
  extensions: readonly Extension[],
  serial: bigint,
  notBefore: number,
): Certificate {
  return issueCertificate({
    subject: [{ type: OID.commonName, value: `Sealpod EMULATED ${name}` }],
    subjectKey: key,
    issuer,
    signatureAlgorithm: "rsa-pss-sha384",
    serial,
    notBefore,
    notAfter: notBefore + 101 * DAY,
    extensions,
  });
}
