import { generateKeyPairSync, type KeyObject } from "node:crypto";
import { basicConstraints, type Certificate, type Extension, issueCertificate, keyUsage, OID } from "@sealpod/pki";
import { type CertificateChain, encodeTcb, encodeVcekExtensions, type ProductName, type Report, signReport } from "@sealpod/snp";

/** 2026-11-22T00:00:00Z. */
export const NOW: number = Date.UTC(2026, 10, 22);
const DAY = 86_400_000;

/** An RSA key without waiting. */
export function rsa(): KeyObject {
  return generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey;
}

/** An emulated processor: a chain that lives for two days around {@link NOW}, and reports. */
export interface EmulatedProcessor {
  readonly chain: CertificateChain;
  /** Key of the root, to sign revocation lists with. */
  readonly arkKey: KeyObject;
  /** A signed report; fields that a test wants changed. */
  report(changes?: Partial<Report>): Uint8Array;
}

/** Makes a processor of a product with a version 3 report (version 5 for Turin). */
export function emulatedProcessor(product: ProductName, options: { readonly chip?: number } = {}): EmulatedProcessor {
  const turin = product === "Turin";
  const levels = { bootloader: 4, tee: 0, snp: 24, microcode: 219 };
  const tcb = encodeTcb(turin ? { fmc: 1, ...levels, reserved: [0, 0, 0] } : { fmc: undefined, ...levels, reserved: [0, 0, 0, 0] }, product);
  const chipId = new Uint8Array(64);
  chipId.set(new Uint8Array(turin ? 8 : 64).fill(options.chip ?? 0xc1));
  const [arkKey, askKey] = [rsa(), rsa()];
  const vcekKey = generateKeyPairSync("ec", { namedCurve: "secp384r1" }).privateKey;
  const issue = (
    name: string,
    subjectKey: KeyObject,
    issuer: { readonly by?: Certificate; readonly key: KeyObject },
    extensions: readonly Extension[],
  ): Certificate =>
    issueCertificate({
      subject: [{ type: OID.commonName, value: `EMULATED ${name}` }],
      subjectKey,
      issuer: issuer.by === undefined ? { key: issuer.key } : { name: issuer.by.subject, key: issuer.key },
      signatureAlgorithm: "rsa-pss-sha384",
      serial: 7n,
      notBefore: NOW - DAY,
      notAfter: NOW + DAY,
      extensions,
    });
  const authority = [basicConstraints({ ca: true }), keyUsage("keyCertSign", "cRLSign")];
  const root = issue(`ARK-${product}`, arkKey, { key: arkKey }, authority);
  const intermediate = issue(`SEV-${product}`, askKey, { by: root, key: arkKey }, authority);
  const extensions = encodeVcekExtensions({ productName: turin ? product : `${product}-B0`, product, tcb, hwId: chipId.subarray(0, turin ? 8 : 64) });
  const endorsementKey = issue("SEV-VCEK", vcekKey, { by: intermediate, key: askKey }, extensions);
  const fill = (length: number, byte: number): Uint8Array => new Uint8Array(length).fill(byte);
  const fields: Omit<Report, "signature"> = {
    version: turin ? 5 : 3,
    guestSvn: 7,
    policy: 0x3001fn,
    familyId: fill(16, 1),
    imageId: fill(16, 2),
    vmpl: 1,
    currentTcb: tcb,
    platformInfo: 0x25n,
    keyInfo: { authorKeyEnabled: false, chipKeyMasked: false, signingKey: "vcek" },
    reportData: fill(64, 3),
    measurement: fill(48, 4),
    hostData: fill(32, 5),
    idKeyDigest: fill(48, 6),
    authorKeyDigest: fill(48, 0),
    reportId: fill(32, 8),
    reportIdMa: fill(32, 0xff),
    reportedTcb: tcb,
    processor: turin ? { family: 0x1a, model: 2, stepping: 1 } : { family: 0x19, model: product === "Genoa" ? 0x11 : 1, stepping: 1 },
    chipId,
    committedTcb: tcb,
    currentFirmware: { major: 1, minor: 55, build: 29 },
    committedFirmware: { major: 1, minor: 55, build: 29 },
    launchTcb: tcb,
    launchMitigations: turin ? 0x3fn : 0n,
    currentMitigations: turin ? 0x3fn : 0n,
  };
  return { chain: { endorsementKey, intermediate, root }, arkKey, report: (changes = {}) => signReport({ ...fields, ...changes }, vcekKey) };
}
