import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { createPrivateKey, type KeyObject } from "node:crypto";
import { join } from "node:path";
import { asObject, type Clock, decodeUtf8, encodeUtf8, equalBytes, fromHex, isSealpodError, messageOf, parseJson, type Random, toHex } from "@sealpod/core";
import { formatDidX509Eku } from "@sealpod/cose";
import { lockFile, makeDirectory, writeFileAtomic } from "@sealpod/io";
import {
  authorityKeyIdentifier,
  basicConstraints,
  type Certificate,
  encodeCertificatesPem,
  encodePublicKeyInfo,
  extendedKeyUsage,
  type Extension,
  generateKey,
  issueCertificate,
  keyAnchor,
  keyUsage,
  parseCertificatesPem,
  type SignatureAlgorithm,
  subjectKeyIdentifier,
  verifyChain,
} from "@sealpod/pki";
import { type CertificateChain, encodeTcb, encodeVcekExtensions, parseEndorsementKey, selectCertificateChain } from "@sealpod/snp";
import { EMULATED_NOTICE, emulatedName, LAPTOP_UVM_EKU } from "./emulated.ts";
import { PspError } from "./errors.ts";

/** The keys and certificates of one emulated processor. */
export interface PspKeys {
  /** 64 random bytes. */
  readonly chipId: Uint8Array;
  /** Signs reports; P-384. */
  readonly vcekKey: KeyObject;
  readonly chain: CertificateChain;
  /** Signs endorsements; P-384. */
  readonly uvmKey: KeyObject;
  /** Leaf, then root. */
  readonly uvmChain: readonly [Certificate, Certificate];
  /** did:x509 of {@link uvmChain}. */
  readonly uvmIssuer: string;
}

/** The emulated TCB: that of a Milan host with firmware 1.55 in 2026. Microcode 219 is above 127, which certificate readers like to get wrong. */
export const EMULATED_TCB: Uint8Array = encodeTcb({ fmc: undefined, bootloader: 4, tee: 0, snp: 24, microcode: 219, reserved: [0, 0, 0, 0] }, "Milan");

const FILE = "psp.json";
const VERSION = 1;
/** Largest file: keys and certificates take 12 KiB. */
const MAX_FILE = 256 * 1024;
const YEAR = 365.25 * 86_400_000;

/**
 * Opens the keys in a directory, which is made with mode 0700 if it is not there. On the first call keys are made; that takes some seconds (two RSA-4096 keys).
 * Everything stands in one file, `psp.json` with mode 0600, written beside and renamed: there is no state in which a part is missing.
 * @throws {PspError} ERR_PSP_STATE
 * @throws {IoError} ERR_IO_LOCKED if another process is making the keys, ERR_IO_WRITE
 */
export async function openKeys(directory: string, ports: { readonly clock: Clock; readonly random: Random }): Promise<PspKeys> {
  await makeDirectory(directory, 0o700);
  const path = join(directory, FILE);
  const stored = await readKeys(path);
  if (stored !== undefined) return stored;
  await using _lock = await lockFile(join(directory, "psp.lock"));
  // Another process may have finished between the look and the lock.
  const now = await readKeys(path);
  if (now !== undefined) return now;
  await writeFileAtomic(path, encodeUtf8(await makeState(ports.clock, ports.random)), 0o600);
  const made = await readKeys(path);
  if (made === undefined) throw new PspError("ERR_PSP_STATE", `${path} is gone right after it was written`);
  return made;
}

async function readKeys(path: string): Promise<PspKeys | undefined> {
  let text: string;
  try {
    await using file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    const status = await file.stat();
    if (!status.isFile() || status.size > MAX_FILE) throw new PspError("ERR_PSP_STATE", `${path} is not a file of up to ${MAX_FILE} bytes`);
    if ((status.mode & 0o077) !== 0) {
      throw new PspError("ERR_PSP_STATE", `${path} holds private keys and has mode ${(status.mode & 0o777).toString(8)}, expected 600`, {
        hint: `chmod 600 ${path}`,
      });
    }
    text = decodeUtf8(await file.readFile(), path);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    if (isSealpodError(cause)) throw cause;
    throw new PspError("ERR_PSP_STATE", `cannot read ${path}: ${messageOf(cause)}`, { cause });
  }
  try {
    return parseState(text);
  } catch (cause) {
    // The cause may quote the text, and the text holds keys: only errors of ours are let through.
    const problem = isSealpodError(cause) ? cause.message : "a key cannot be read";
    throw new PspError("ERR_PSP_STATE", `${path}: ${problem}`, {
      hint: "Move the file away to make a new emulated processor. What was sealed to the old one is lost.",
    });
  }
}

function parseState(text: string): PspKeys {
  const state = asObject(parseJson(text, FILE, { maxLength: MAX_FILE, maxDepth: 4 }));
  const field = (name: string): string => {
    const value = state?.[name];
    if (typeof value !== "string") throw new PspError("ERR_PSP_STATE", `${name} is not a string`);
    return value;
  };
  if (state?.["version"] !== VERSION) throw new PspError("ERR_PSP_STATE", `version is not ${VERSION}`);
  const chipId = fromHex(field("chipId"), "chipId");
  if (chipId.length !== 64) throw new PspError("ERR_PSP_STATE", `chipId has ${chipId.length} bytes, expected 64`);
  const chain = selectCertificateChain(parseCertificatesPem(field("certificates"), "certificates"));
  const vcekKey = privateKey(field("vcekKey"), chain.endorsementKey);
  const { hwId, tcbBytes } = parseEndorsementKey(chain.endorsementKey);
  if (hwId === undefined || !equalBytes(hwId, chipId) || !equalBytes(tcbBytes, EMULATED_TCB)) {
    throw new PspError("ERR_PSP_STATE", "the VCEK certificate is for another chip or TCB");
  }
  const [leaf, root, ...more] = parseCertificatesPem(field("uvmCertificates"), "uvmCertificates");
  if (leaf === undefined || root === undefined || more.length > 0) throw new PspError("ERR_PSP_STATE", "uvmCertificates needs leaf and root");
  const uvmKey = privateKey(field("uvmKey"), leaf);
  for (const certificates of [
    [chain.endorsementKey, chain.intermediate, chain.root],
    [leaf, root],
  ]) {
    const anchor = certificates.at(-1);
    if (anchor !== undefined)
      verifyChain(certificates, {
        anchors: [keyAnchor(anchor)],
        validity: { kind: "ignored", because: "only whether the parts fit; verifiers check the dates" },
      });
  }
  return { chipId, vcekKey, chain, uvmKey, uvmChain: [leaf, root], uvmIssuer: formatDidX509Eku(root, LAPTOP_UVM_EKU) };
}

function privateKey(pem: string, certificate: Certificate): KeyObject {
  const key = createPrivateKey(pem);
  if (!equalBytes(encodePublicKeyInfo(key), certificate.publicKey.der)) throw new PspError("ERR_PSP_STATE", "a private key does not belong to its certificate");
  return key;
}

/** Makes all keys. The keys of ARK, ASK and UVM root are dropped at once: they have signed all that they ever will. */
async function makeState(clock: Clock, random: Random): Promise<string> {
  const [arkKey, askKey, vcekKey, uvmRootKey, uvmKey] = await Promise.all([
    generateKey("rsa-4096"),
    generateKey("rsa-4096"),
    generateKey("p384"),
    generateKey("p384"),
    generateKey("p384"),
  ]);
  const chipId = random.bytes(64);
  // An hour back: the clock of a VM that verifies may be a little behind.
  const notBefore = clock.now() - 3_600_000;
  const issue = (input: {
    readonly what: string;
    readonly key: KeyObject;
    readonly issuer?: { readonly certificate: Certificate; readonly key: KeyObject };
    readonly algorithm: SignatureAlgorithm;
    readonly years: number;
    readonly extensions: readonly Extension[];
  }): Certificate =>
    issueCertificate({
      subject: emulatedName(input.what),
      subjectKey: input.key,
      issuer: input.issuer === undefined ? { key: input.key } : { name: input.issuer.certificate.subject, key: input.issuer.key },
      signatureAlgorithm: input.algorithm,
      serial: BigInt(`0x${toHex(random.bytes(16))}`),
      notBefore,
      notAfter: notBefore + input.years * YEAR,
      extensions: [
        ...input.extensions,
        subjectKeyIdentifier(encodePublicKeyInfo(input.key)),
        authorityKeyIdentifier(encodePublicKeyInfo(input.issuer?.key ?? input.key)),
      ],
    });
  const ca = (pathLength: number): readonly Extension[] => [basicConstraints({ ca: true, pathLength }), keyUsage("keyCertSign", "cRLSign")];
  const pss = "rsa-pss-sha384";
  const ark = issue({ what: "ARK-Milan", key: arkKey, algorithm: pss, years: 25, extensions: ca(1) });
  const ask = issue({ what: "SEV-Milan", key: askKey, issuer: { certificate: ark, key: arkKey }, algorithm: pss, years: 25, extensions: ca(0) });
  const vcek = issue({
    what: "SEV-VCEK",
    key: vcekKey,
    issuer: { certificate: ask, key: askKey },
    algorithm: pss,
    years: 7,
    extensions: encodeVcekExtensions({ productName: "Milan-B0", product: "Milan", tcb: EMULATED_TCB, hwId: chipId }),
  });
  const uvmRoot = issue({ what: "UVM root", key: uvmRootKey, algorithm: "ecdsa-sha384", years: 25, extensions: ca(0) });
  const uvm = issue({
    what: "UVM signer",
    key: uvmKey,
    issuer: { certificate: uvmRoot, key: uvmRootKey },
    algorithm: "ecdsa-sha384",
    years: 25,
    extensions: [basicConstraints({ ca: false }), keyUsage("digitalSignature"), extendedKeyUsage(LAPTOP_UVM_EKU)],
  });
  const state = {
    version: VERSION,
    notice: EMULATED_NOTICE,
    chipId: toHex(chipId),
    vcekKey: vcekKey.export({ type: "pkcs8", format: "pem" }),
    certificates: encodeCertificatesPem([vcek, ask, ark]),
    uvmKey: uvmKey.export({ type: "pkcs8", format: "pem" }),
    uvmCertificates: encodeCertificatesPem([uvm, uvmRoot]),
  };
  return `${JSON.stringify(state, null, 2)}\n`;
}
