import { generateKeyPairSync, type KeyObject } from "node:crypto";
import { basicConstraints, type Certificate, type Extension, extendedKeyUsage, issueCertificate, keyUsage, type NameAttribute, OID } from "@sealpod/pki";

/** 2026-11-22T00:00:00Z. */
export const NOW: number = Date.UTC(2026, 10, 22);
/** An extended key usage for tests. */
export const EKU = "1.3.6.1.4.1.311.76.59.1.5";
const DAY = 86_400_000;

export function rsaKey(): KeyObject {
  return generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey;
}

export function ecKey(curve: "prime256v1" | "secp384r1" | "secp521r1"): KeyObject {
  return generateKeyPairSync("ec", { namedCurve: curve }).privateKey;
}

/** A signer with leaf, intermediate and root. */
export interface TestSigner {
  readonly key: KeyObject;
  /** Leaf first. */
  readonly chain: readonly [Certificate, Certificate, Certificate];
}

/** Makes a signer; the leaf has expired, as those of the field mostly have. */
export function testSigner(
  key: KeyObject,
  options: { readonly subject?: readonly NameAttribute[]; readonly extensions?: readonly Extension[]; readonly intermediateCa?: boolean } = {},
): TestSigner {
  const [rootKey, middleKey] = [ecKey("secp384r1"), ecKey("secp384r1")];
  const issue = (
    subject: readonly NameAttribute[],
    subjectKey: KeyObject,
    issuer: { readonly name?: { readonly der: Uint8Array }; readonly key: KeyObject },
    extensions: readonly Extension[],
  ): Certificate =>
    issueCertificate({
      subject,
      subjectKey,
      issuer,
      signatureAlgorithm: "ecdsa-sha384",
      serial: 1n,
      notBefore: NOW - 400 * DAY,
      notAfter: NOW - 30 * DAY,
      extensions,
    });
  const name = (value: string): readonly NameAttribute[] => [{ type: OID.commonName, value }];
  const ca = [basicConstraints({ ca: true }), keyUsage("keyCertSign")];
  const root = issue(name("root"), rootKey, { key: rootKey }, ca);
  const middle = issue(name("middle"), middleKey, { name: root.subject, key: rootKey }, options.intermediateCa === false ? [] : ca);
  const leaf = issue(options.subject ?? name("leaf"), key, { name: middle.subject, key: middleKey }, options.extensions ?? [extendedKeyUsage("1.2.3", EKU)]);
  return { key, chain: [leaf, middle, root] };
}
