import { generateKeyPairSync, type KeyObject } from "node:crypto";
import { basicConstraints, type Certificate, type Extension, issueCertificate, keyUsage, OID, type SignatureAlgorithm } from "../index.ts";

/** 2026-11-22T00:00:00Z: the time of all test certificates. */
export const NOW: number = Date.UTC(2026, 10, 22);
const DAY = 86_400_000;

/** A key and its certificate. */
export interface Identity {
  readonly key: KeyObject;
  readonly certificate: Certificate;
}

/** A fresh key without waiting: test keys are small. */
export function testKey(kind: "rsa" | "p256" | "p384" | "p521"): KeyObject {
  if (kind === "rsa") return generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey;
  const namedCurve = { p256: "prime256v1", p384: "secp384r1", p521: "secp521r1" }[kind];
  return generateKeyPairSync("ec", { namedCurve }).privateKey;
}

/** A certificate with what a test wants changed; without an issuer it is self-signed. */
export function testCertificate(
  name: string,
  options: {
    readonly key?: KeyObject;
    readonly issuer?: Identity;
    readonly algorithm?: SignatureAlgorithm;
    readonly extensions?: readonly Extension[];
    readonly notBefore?: number;
    readonly notAfter?: number;
    readonly serial?: bigint;
  } = {},
): Identity {
  const key = options.key ?? testKey("p256");
  const signer = options.issuer?.key ?? key;
  const certificate = issueCertificate({
    subject: [
      { type: OID.country, value: "NO" },
      { type: OID.commonName, value: name },
    ],
    subjectKey: key,
    issuer: options.issuer === undefined ? { key } : { name: options.issuer.certificate.subject, key: options.issuer.key },
    signatureAlgorithm: options.algorithm ?? (signer.asymmetricKeyType === "rsa" ? "rsa-pss-sha384" : "ecdsa-sha256"),
    serial: options.serial ?? 1n,
    notBefore: options.notBefore ?? NOW - DAY,
    notAfter: options.notAfter ?? NOW + DAY,
    extensions: options.extensions ?? [],
  });
  return { key, certificate };
}

/** Extensions of a CA. */
export function caExtensions(pathLength?: number): readonly Extension[] {
  return [basicConstraints(pathLength === undefined ? { ca: true } : { ca: true, pathLength }), keyUsage("keyCertSign", "cRLSign")];
}
