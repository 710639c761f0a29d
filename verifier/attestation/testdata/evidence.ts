import { createPublicKey, generateKeyPairSync, randomBytes, type KeyObject } from "node:crypto";
import type { Random } from "@sealpod/core";
import { encodeUvmEndorsement, formatDidX509Eku, type UvmTrust } from "@sealpod/cose";
import { basicConstraints, encodeCertificatesPem, extendedKeyUsage, issueCertificate, keyUsage, OID, type Certificate, type Extension } from "@sealpod/pki";
import { encodeVcekExtensions, signReport, trustRootOf, type Report, type TrustRoot } from "@sealpod/snp";

export const START: number = Date.UTC(2026, 0, 15, 12);
const YEAR = 365 * 24 * 60 * 60 * 1000;
export const EKU = "1.3.6.1.4.1.311.76.59.1.5";
export const FEED = "ConfAKS-AMD-UVM";

export const random: Random = { bytes: (length) => new Uint8Array(randomBytes(length)) };

const fill = (length: number, byte: number): Uint8Array => new Uint8Array(length).fill(byte);
const TCB = Uint8Array.of(4, 1, 0, 0, 0, 0, 24, 219);
const CHIP_ID = fill(64, 0xc1);
export const MEASUREMENT: Uint8Array = fill(48, 0x3e);
export const HOST_DATA: Uint8Array = fill(32, 0xda);

/** A certificate that issues others. */
export interface Authority {
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
const p384 = (): KeyObject => generateKeyPairSync("ec", { namedCurve: "P-384" }).privateKey;
const ca = [basicConstraints({ ca: true }), keyUsage("keyCertSign", "cRLSign")];

/** A processor with a chain of its own making. */
export interface Processor {
  readonly root: TrustRoot;
  /** PEM of VCEK, ASK and ARK. */
  readonly chain: string;
  /** Issues revocation lists about the intermediate certificate. */
  readonly ark: Authority;
  readonly intermediate: Certificate;
  readonly key: KeyObject;
}

export function makeProcessor(rootName: string): Processor {
  const arkKey = rsa();
  const ark = { certificate: issue("ARK-Milan", arkKey, ca, arkKey), key: arkKey };
  const askKey = rsa();
  const ask = { certificate: issue("SEV-Milan", askKey, ca, ark), key: askKey };
  const key = p384();
  const vcek = issue("SEV-VCEK", key, encodeVcekExtensions({ productName: "Milan-B0", product: "Milan", tcb: TCB, hwId: CHIP_ID }), ask);
  return { root: trustRootOf(ark.certificate, rootName, "Milan"), chain: encodeCertificatesPem([vcek, ask.certificate, ark.certificate]), ark, intermediate: ask.certificate, key };
}

/** The bytes of a report. */
export function makeReport(processor: Processor, change: Partial<Omit<Report, "signature">> = {}): Uint8Array {
  const firmware = { major: 1, minor: 55, build: 22 };
  const report: Omit<Report, "signature"> = {
    version: 3,
    guestSvn: 2,
    policy: 0x3001fn,
    familyId: fill(16, 1),
    imageId: fill(16, 2),
    vmpl: 0,
    currentTcb: TCB,
    platformInfo: 0x25n,
    keyInfo: { authorKeyEnabled: false, chipKeyMasked: false, signingKey: "vcek" },
    reportData: fill(64, 0),
    measurement: MEASUREMENT,
    hostData: HOST_DATA,
    idKeyDigest: fill(48, 0x1d),
    authorKeyDigest: fill(48, 0),
    reportId: fill(32, 0x1e),
    reportIdMa: fill(32, 0xff),
    reportedTcb: TCB,
    processor: { family: 0x19, model: 0x01, stepping: 1 },
    chipId: CHIP_ID,
    committedTcb: TCB,
    currentFirmware: firmware,
    committedFirmware: firmware,
    launchTcb: TCB,
    launchMitigations: 0n,
    currentMitigations: 0n,
    ...change,
  };
  return signReport(report, processor.key);
}

/** A signer of utility VMs. */
export interface UvmSigner {
  readonly issuer: string;
  endorse(change?: { readonly svn?: number; readonly feed?: string; readonly launchMeasurement?: Uint8Array }): Uint8Array;
}

export function makeUvmSigner(): UvmSigner {
  const rootKey = rsa();
  const root = { certificate: issue("UVM Root", rootKey, ca, rootKey), key: rootKey };
  const key = p384();
  const leaf = issue("UVM Signer", key, [extendedKeyUsage(EKU)], root);
  const issuer = formatDidX509Eku(root.certificate, EKU);
  return {
    issuer,
    endorse: (change = {}) =>
      encodeUvmEndorsement({
        issuer,
        feed: FEED,
        svn: 1,
        launchMeasurement: MEASUREMENT,
        signingTime: START,
        chain: [leaf, root.certificate],
        key,
        algorithm: "ES384",
        ...change,
      }),
  };
}

export function trustOf(signer: UvmSigner): UvmTrust {
  return { issuer: signer.issuer, feed: FEED, minimumSvn: 1, claim: "azure-signed-katacc-uvm" };
}
