import type { KeyObject } from "node:crypto";
import { open } from "node:fs/promises";
import { decodeUtf8, encodeUtf8, equalBytes, messageOf, toHex } from "@sealpod/core";
import { type CoseAlgorithm, formatDidX509Eku } from "@sealpod/cose";
import {
  authorityKeyIdentifier,
  basicConstraints,
  type Certificate,
  encodeCertificatesPem,
  encodePublicKeyInfo,
  extendedKeyUsage,
  generateKey,
  issueCertificate,
  keyUsage,
  OID,
  parseCertificatesPem,
  subjectKeyIdentifier,
} from "@sealpod/pki";
import { SEALPOD_ARC } from "@sealpod/psp";
import { readInput, readPrivateKey } from "../attest/measure-input.ts";
import type { CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { pathOf } from "../workspace.ts";

/** Extended key usage of signers of images: below Sealpod's arc, 1 usages, 2 endorsing images. */
export const IMAGE_SIGNER_EKU: string = `${SEALPOD_ARC}.1.2`;

/** Largest file of certificates: a chain has at most six. */
const MAX_CHAIN = 64 * 1024;

const DAY = 24 * 3_600_000;
/** The root's key is dropped at once and relying parties pin the root, so nothing is won by an early end; did:x509 ignores the clock anyway. */
const LIFETIME = 3650 * DAY;

/** Who signs endorsements. */
export interface Signer {
  readonly key: KeyObject;
  /** Leaf first. */
  readonly chain: readonly Certificate[];
  readonly algorithm: CoseAlgorithm;
  /** did:x509: what verifiers trust. */
  readonly issuer: string;
}

const ALGORITHMS: Readonly<Record<string, CoseAlgorithm>> = { p256: "ES256", p384: "ES384", p521: "ES512", rsa: "PS384" };

/**
 * Reads a key and its certificates.
 * @param chainFile default: beside the key
 * @throws {CliError} ERR_CLI_FILE, ERR_CLI_USAGE
 * @throws {PkiError} for certificates that are malformed
 */
export async function readSigner(keyFile: string, chainFile: string | undefined, eku: string, context: CliContext): Promise<Signer> {
  const key = await readPrivateKey(keyFile, context);
  const path = chainFile ?? `${keyFile}.chain`;
  const chain = parseCertificatesPem(decodeUtf8(await readInput(path, MAX_CHAIN, context), path), path);
  return signerOf(key, chain, path, eku);
}

function signerOf(key: KeyObject, chain: readonly Certificate[], path: string, eku: string): Signer {
  const [leaf] = chain;
  const root = chain.at(-1);
  if (leaf === undefined || root === undefined || chain.length < 2) {
    throw new CliError("ERR_CLI_FILE", `${path} has ${chain.length} certificates, expected the signer's and those above it`, {
      hint: "A did:x509 names a certificate above the signer's. `--new-key` makes both.",
    });
  }
  if (!equalBytes(encodePublicKeyInfo(key), leaf.publicKey.der))
    throw new CliError("ERR_CLI_FILE", `the first certificate of ${path} is for another key`, { hint: "The signer's certificate comes first, the root last." });
  const algorithm = ALGORITHMS[leaf.publicKey.kind];
  if (algorithm === undefined)
    throw new CliError("ERR_CLI_FILE", `a key of type ${leaf.publicKey.kind} signs no endorsements`, { hint: "Use EC P-256, P-384 or P-521, or RSA." });
  return { key, chain, algorithm, issuer: formatDidX509Eku(root, eku) };
}

/**
 * Makes a key (P-384) with a certificate under a root of its own, and writes KEY and KEY.chain. The root's key is dropped: it has signed
 * the one certificate that it ever will.
 * @throws {CliError} ERR_CLI_FILE if one of them is there already
 */
export async function makeSigner(keyFile: string, eku: string, context: CliContext): Promise<Signer> {
  const [rootKey, key] = await Promise.all([generateKey("p384"), generateKey("p384")]);
  const notBefore = context.clock.now() - 3_600_000;
  const name = (what: string): readonly { readonly type: string; readonly value: string }[] => [
    { type: OID.organization, value: "Sealpod" },
    { type: OID.commonName, value: `Sealpod utility VM ${what}` },
  ];
  const common = { signatureAlgorithm: "ecdsa-sha384", notBefore, notAfter: notBefore + LIFETIME } as const;
  const serial = (): bigint => BigInt(`0x${toHex(context.random.bytes(16))}`) | 1n;
  const identifiers = (of: KeyObject): readonly ReturnType<typeof subjectKeyIdentifier>[] => [
    subjectKeyIdentifier(encodePublicKeyInfo(of)),
    authorityKeyIdentifier(encodePublicKeyInfo(rootKey)),
  ];
  const root = issueCertificate({
    ...common,
    subject: name("root"),
    subjectKey: rootKey,
    issuer: { key: rootKey },
    serial: serial(),
    extensions: [basicConstraints({ ca: true, pathLength: 0 }), keyUsage("keyCertSign", "cRLSign"), ...identifiers(rootKey)],
  });
  const leaf = issueCertificate({
    ...common,
    subject: name("signer"),
    subjectKey: key,
    issuer: { name: root.subject, key: rootKey },
    serial: serial(),
    extensions: [basicConstraints({ ca: false }), keyUsage("digitalSignature"), extendedKeyUsage(eku), ...identifiers(key)],
  });
  const signer = signerOf(key, [leaf, root], `${keyFile}.chain`, eku);
  await writeNew(keyFile, encodeUtf8(String(key.export({ type: "pkcs8", format: "pem" }))), 0o600, context);
  await writeNew(`${keyFile}.chain`, encodeUtf8(encodeCertificatesPem([leaf, root])), 0o644, context);
  return signer;
}

/** Writes a file that must not be there: nobody's key is overwritten. */
async function writeNew(path: string, bytes: Uint8Array, mode: number, context: CliContext): Promise<void> {
  try {
    await using handle = await open(pathOf(path, context), "wx", mode);
    await handle.writeFile(bytes);
    await handle.sync();
  } catch (cause) {
    const there = (cause as NodeJS.ErrnoException).code === "EEXIST";
    throw new CliError("ERR_CLI_FILE", there ? `${path} is there already` : `${path} cannot be written: ${messageOf(cause)}`, {
      cause,
      ...(there ? { hint: "Sign with it: --key instead of --new-key; or name another file." } : {}),
    });
  }
}
