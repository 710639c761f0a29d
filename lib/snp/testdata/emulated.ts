import { generateKeyPairSync, type KeyObject } from "node:crypto";
import { basicConstraints, type Certificate, encodeIa5String, type Extension, issueCertificate, keyUsage, OID, type SignatureAlgorithm } from "@sealpod/pki";
import {
  AMD_OID,
  type CertificateChain,
  encodeTcb,
  encodeVcekExtensions,
  type ProductName,
  type Report,
  type ReportEvidence,
  type ReportVersion,
  signReport,
  type TrustRoot,
  trustRootOf,
} from "../index.ts";

/** 2026-11-22T00:00:00Z. */
export const NOW: number = Date.UTC(2026, 10, 22);
const DAY = 86_400_000;

const PROCESSORS = {
  Milan: { family: 0x19, model: 0x01, stepping: 1 },
  Genoa: { family: 0x19, model: 0xa0, stepping: 2 },
  Turin: { family: 0x1a, model: 0x02, stepping: 1 },
} as const;

/** TCB with a level above 127, as 8 bytes. */
export function testTcb(product: ProductName, levels: { readonly bootloader?: number; readonly snp?: number; readonly microcode?: number } = {}): Uint8Array {
  const { bootloader = 4, snp = 24, microcode = 219 } = levels;
  const turin = product === "Turin";
  return encodeTcb({ fmc: turin ? 1 : undefined, bootloader, tee: 0, snp, microcode, reserved: turin ? [0, 0, 0] : [0, 0, 0, 0] }, product);
}

/** What {@link TestProcessor.chainOf} makes otherwise than AMD does. */
export interface TestChain {
  /** Which names and extensions; default "vcek". */
  readonly kind?: "vcek" | "vlek";
  readonly leafName?: string;
  readonly intermediateName?: string;
  /** Key of the intermediate; default the processor's. */
  readonly intermediateKey?: KeyObject;
  readonly intermediateExtensions?: readonly Extension[];
  /** Of leaf and intermediate. */
  readonly algorithm?: SignatureAlgorithm;
  /** Of the leaf alone. */
  readonly leafAlgorithm?: SignatureAlgorithm;
  /** Of the leaf, milliseconds since 1970. */
  readonly notAfter?: number;
}

/** An emulated processor for one product: keys, chain, root. */
export interface TestProcessor {
  readonly product: ProductName;
  /** Key of the root, to sign revocation lists with. */
  readonly arkKey: KeyObject;
  /** Key of the intermediate. */
  readonly askKey: KeyObject;
  readonly vcekKey: KeyObject;
  readonly chipId: Uint8Array;
  readonly chain: CertificateChain;
  readonly root: TrustRoot;
  /** Signs reports; fields that a test wants changed. */
  evidence(changes?: Partial<Report>, version?: ReportVersion): ReportEvidence;
  /** The same with another certificate for the same key. */
  withVcek(extensions: readonly Extension[], options?: { readonly key?: KeyObject }): CertificateChain;
  /** Another intermediate and endorsement key under the same root, for the same signing key. */
  chainOf(options: TestChain): CertificateChain;
}

/** KEY_INFO of a report that a VLEK signed. */
export const VLEK_KEY_INFO: Report["keyInfo"] = { authorKeyEnabled: false, chipKeyMasked: false, signingKey: "vlek" };

/** CSP_ID of the VLEKs of {@link TestProcessor.chainOf}. */
export const TEST_CSP_ID = "CN=cc-test.example";

/** Makes a processor. The RSA keys are small: only the emulator of laptop/psp has AMD's sizes. */
export function testProcessor(product: ProductName, options: { readonly arkBits?: number; readonly arkName?: string } = {}): TestProcessor {
  const rsa = (modulusLength = 2048): KeyObject => generateKeyPairSync("rsa", { modulusLength }).privateKey;
  const [arkKey, askKey] = [rsa(options.arkBits), rsa()];
  const vcekKey = generateKeyPairSync("ec", { namedCurve: "secp384r1" }).privateKey;
  const chipId = new Uint8Array(64);
  chipId.set(Uint8Array.from({ length: product === "Turin" ? 8 : 64 }, (_, index) => (index === 0 ? 0x04 : 0x40 + index)));
  const issue = (
    name: string,
    key: KeyObject,
    issuer: { readonly name?: { readonly der: Uint8Array }; readonly key: KeyObject },
    extensions: readonly Extension[],
    options: { readonly algorithm?: SignatureAlgorithm; readonly notAfter?: number; readonly serial?: bigint } = {},
  ): Certificate =>
    issueCertificate({
      subject: [{ type: OID.commonName, value: `EMULATED ${name}` }],
      subjectKey: key,
      issuer,
      signatureAlgorithm: options.algorithm ?? "rsa-pss-sha384",
      serial: options.serial ?? 0n,
      notBefore: NOW - DAY,
      notAfter: options.notAfter ?? NOW + DAY,
      extensions,
    });
  const ca = (pathLength: number): readonly Extension[] => [basicConstraints({ ca: true, pathLength }), keyUsage("keyCertSign", "cRLSign")];
  const root = issue(options.arkName ?? `ARK-${product}`, arkKey, { key: arkKey }, ca(1));
  const intermediate = issue(`SEV-${product}`, askKey, { name: root.subject, key: arkKey }, ca(0), { serial: 65_537n });
  const withVcek = (extensions: readonly Extension[], options: { readonly key?: KeyObject } = {}): CertificateChain => ({
    endorsementKey: issue("SEV-VCEK", options.key ?? vcekKey, { name: intermediate.subject, key: askKey }, extensions),
    intermediate,
    root,
  });
  const hwId = chipId.subarray(0, product === "Turin" ? 8 : 64);
  const vcekExtensions = encodeVcekExtensions({ productName: product === "Milan" ? "Milan-B0" : product, product, tcb: testTcb(product), hwId });
  const chain = withVcek(vcekExtensions);
  const chainOf = (options: TestChain): CertificateChain => {
    const vlek = options.kind === "vlek";
    const { intermediateKey = askKey, algorithm = "rsa-pss-sha384" } = options;
    const name = options.intermediateName ?? (vlek ? `SEV-VLEK-${product}` : `SEV-${product}`);
    const signer = issue(name, intermediateKey, { name: root.subject, key: arkKey }, options.intermediateExtensions ?? ca(0), { algorithm, serial: 65_793n });
    const extensions = vlek ? vlekExtensions(product, vcekExtensions) : vcekExtensions;
    const leaf = issue(options.leafName ?? (vlek ? "SEV-VLEK" : "SEV-VCEK"), vcekKey, { name: signer.subject, key: intermediateKey }, extensions, {
      algorithm: options.leafAlgorithm ?? algorithm,
      ...(options.notAfter !== undefined && { notAfter: options.notAfter }),
    });
    return { endorsementKey: leaf, intermediate: signer, root };
  };
  const trustRoot = trustRootOf(root, "emulator", product);
  return {
    product,
    arkKey,
    askKey,
    chainOf,
    vcekKey,
    chipId,
    chain,
    root: trustRoot,
    withVcek,
    evidence: (changes = {}, version = product === "Turin" ? 5 : 3) => ({
      report: signReport({ ...testReport(product, version, chipId), ...changes }, vcekKey),
      certificates: chain,
      roots: [trustRoot],
      clock: { now: () => NOW },
    }),
  };
}

/** A VLEK's: the provider instead of the chip, and the product without a stepping. */
function vlekExtensions(product: ProductName, extensions: readonly Extension[]): readonly Extension[] {
  return [
    ...extensions.flatMap((extension) => {
      if (extension.oid === AMD_OID.hwId) return [];
      return extension.oid === AMD_OID.productName ? [{ ...extension, value: encodeIa5String(product) }] : [extension];
    }),
    { oid: AMD_OID.cspId, critical: false, value: encodeIa5String(TEST_CSP_ID) },
  ];
}

/** A report with a different value in every field. */
export function testReport(product: ProductName, version: ReportVersion, chipId: Uint8Array): Omit<Report, "signature"> {
  const filled = (length: number, value: number): Uint8Array => new Uint8Array(length).fill(value);
  const tcb = testTcb(product);
  return {
    version,
    guestSvn: 7,
    policy: 0x3001fn,
    familyId: filled(16, 1),
    imageId: filled(16, 2),
    vmpl: 1,
    currentTcb: tcb,
    platformInfo: 0x65n,
    keyInfo: { authorKeyEnabled: true, chipKeyMasked: false, signingKey: "vcek" },
    reportData: filled(64, 3),
    measurement: filled(48, 4),
    hostData: filled(32, 5),
    idKeyDigest: filled(48, 6),
    authorKeyDigest: filled(48, 7),
    reportId: filled(32, 8),
    reportIdMa: filled(32, 0xff),
    reportedTcb: tcb,
    processor: version === 2 ? undefined : PROCESSORS[product],
    chipId,
    committedTcb: tcb,
    currentFirmware: { major: 1, minor: 55, build: 29 },
    committedFirmware: { major: 1, minor: 55, build: 29 },
    launchTcb: tcb,
    launchMitigations: version === 5 ? 0x3fn : 0n,
    currentMitigations: version === 5 ? 0x7fn : 0n,
  };
}
