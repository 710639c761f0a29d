import type { KeyObject } from "node:crypto";
import { type Crl, parseCrl, REVOCATION_REASONS, type RevocationReason } from "./crl.ts";
import { TAG } from "./der-reader.ts";
import {
  encodeBitString,
  encodeDer,
  encodeEnumerated,
  encodeExplicit,
  encodeGeneralizedTime,
  encodeInteger,
  encodeSequence,
  encodeTime,
} from "./der-writer.ts";
import { PkiError } from "./errors.ts";
import { encodeExtension, type Extension } from "./extension.ts";
import { OID } from "./oid.ts";
import { encodeSignatureAlgorithm, signData, type SignatureAlgorithm } from "./signature.ts";

/** What {@link issueCrl} puts into a CRL. */
export interface CrlTemplate {
  /** Who signs: the subject as it stands in the issuer's certificate, and the private key. */
  readonly issuer: { readonly name: { readonly der: Uint8Array }; readonly key: KeyObject };
  readonly signatureAlgorithm: SignatureAlgorithm;
  /** Milliseconds since 1970. */
  readonly thisUpdate: number;
  /** Milliseconds since 1970. */
  readonly nextUpdate: number;
  /** RFC 5280 section 5.2.3: one more with each list. */
  readonly number?: bigint;
  readonly revoked: readonly {
    readonly serial: bigint;
    /** Milliseconds since 1970. */
    readonly revokedAt: number;
    readonly reason?: RevocationReason;
    /** Milliseconds since 1970. */
    readonly invalidFrom?: number;
  }[];
  /** Beside the CRL number. */
  readonly extensions?: readonly Extension[];
}

/**
 * Writes and signs a CRL of version 2. The result has gone through {@link parseCrl}, so nothing is issued that would be refused here.
 * @throws {PkiError} ERR_PKI_TEMPLATE, ERR_PKI_KEY and the codes of {@link parseCrl}
 */
export function issueCrl(template: CrlTemplate): Crl {
  const algorithm = encodeSignatureAlgorithm(template.signatureAlgorithm);
  const entries = template.revoked.map(({ serial, revokedAt, reason, invalidFrom }) => {
    const details: Uint8Array[] = [];
    if (reason !== undefined) details.push(encodeExtension({ oid: OID.reasonCode, critical: false, value: encodeReason(reason) }));
    if (invalidFrom !== undefined) details.push(encodeExtension({ oid: OID.invalidityDate, critical: false, value: encodeGeneralizedTime(invalidFrom) }));
    return encodeSequence(encodeInteger(serial), encodeTime(revokedAt), ...(details.length === 0 ? [] : [encodeSequence(...details)]));
  });
  const extensions = (template.extensions ?? []).map(encodeExtension);
  if (template.number !== undefined) extensions.unshift(encodeExtension({ oid: OID.crlNumber, critical: false, value: encodeInteger(template.number) }));
  const tbs = encodeSequence(
    encodeInteger(1),
    algorithm,
    template.issuer.name.der,
    encodeTime(template.thisUpdate),
    encodeTime(template.nextUpdate),
    // Joined first: a hundred thousand arguments do not fit on the stack.
    ...(entries.length === 0 ? [] : [encodeDer(TAG.sequence, new Uint8Array(Buffer.concat(entries)))]),
    ...(extensions.length === 0 ? [] : [encodeExplicit(0, encodeSequence(...extensions))]),
  );
  const signature = signData(template.signatureAlgorithm, template.issuer.key, tbs);
  return parseCrl(encodeSequence(tbs, algorithm, encodeBitString(signature)), "issued CRL");
}

function encodeReason(reason: RevocationReason): Uint8Array {
  const code = REVOCATION_REASONS.indexOf(reason);
  if (code === -1) throw new PkiError("ERR_PKI_TEMPLATE", `${JSON.stringify(reason)} is not a reason of RFC 5280 section 5.3.1`);
  return encodeEnumerated(code);
}
