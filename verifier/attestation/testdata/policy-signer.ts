import { createPublicKey, generateKeyPairSync, sign, type KeyObject } from "node:crypto";
import { encodeUtf8, toBase64, toBase64url } from "@sealpod/core";
import { issueCertificate, OID, type Certificate } from "@sealpod/pki";
import { START } from "./evidence.ts";

/** Somebody who signs policies. */
export interface PolicySigner {
  readonly certificate: Certificate;
  readonly key: KeyObject;
  /** RS256 over the payload, with the certificate in x5c; members of the header that a test wants changed. */
  sign(payload: string, header?: Readonly<Record<string, unknown>>): string;
}

export function makePolicySigner(key: KeyObject = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey): PolicySigner {
  const certificate = issueCertificate({
    subject: [{ type: OID.commonName, value: "Policy signer" }],
    subjectKey: createPublicKey(key),
    issuer: { key },
    signatureAlgorithm: key.asymmetricKeyType === "ec" ? "ecdsa-sha384" : "rsa-sha256",
    serial: 7n,
    notBefore: START,
    notAfter: START + 86_400_000,
    extensions: [],
  });
  return {
    certificate,
    key,
    sign: (payload, header = {}) => {
      const input = `${text64(JSON.stringify({ alg: "RS256", x5c: [toBase64(certificate.der)], ...header }))}.${text64(payload)}`;
      return `${input}.${toBase64url(sign("sha256", encodeUtf8(input), key))}`;
    },
  };
}

/** What the genuine client sends without a key. */
export function unsigned(payload: string): string {
  return `eyJhbGciOiJub25lIn0.${text64(payload)}.`;
}

/** The payload that sets a policy. */
export function policyPayload(text: string): string {
  return JSON.stringify({ AttestationPolicy: text64(text) });
}

/** The payload that names a certificate. */
export function certificatePayload({ der }: Certificate): string {
  return JSON.stringify({ policyCertificate: { kty: "RSA", x5c: [toBase64(der)] } });
}

function text64(text: string): string {
  return toBase64url(encodeUtf8(text));
}
