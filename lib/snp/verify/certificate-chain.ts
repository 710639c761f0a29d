import { type Certificate, orderChain, parseCertificate, parseCertificatesPem } from "@sealpod/pki";
import { decodeUtf8, isSealpodError, messageOf } from "@sealpod/core";
import { CERTIFICATE_GUIDS, parseCertificateTable } from "../abi/certificate-table.ts";
import { SnpError } from "../errors.ts";
import { AMD_OID } from "../kds/endorsement-key.ts";
import type { EndorsementKind } from "../kds/url.ts";

/** The certificates of a report. They come from the host or a cache and are trusted in nothing until {@link verifyReport} has verified them. */
export interface CertificateChain {
  /** VCEK or VLEK. */
  readonly endorsementKey: Certificate;
  /** ASK or ASVK. */
  readonly intermediate: Certificate;
  /** ARK. Its key is compared with the pinned roots. */
  readonly root: Certificate;
}

/**
 * Picks the chain of a report out of certificates in any order: the one with AMD's extensions, its issuer, and that one's issuer. Others are left out.
 * @param preferred kind of the key that signed the report ({@link signingKeyOf}), to choose by where a host sends VCEK and VLEK together; without it two kinds are one too many.
 * If there is no certificate of that kind, one of the other is taken, for `verifyReport` to say what is wrong
 * @throws {SnpError} ERR_SNP_CERTIFICATE if there is no such certificate or more than one, ERR_SNP_CHAIN if an issuer is missing
 */
export function selectCertificateChain(certificates: readonly Certificate[], preferred?: EndorsementKind): CertificateChain {
  const all = certificates.filter(({ extensions }) => extensions.has(AMD_OID.productName));
  const wanted = preferred === undefined ? [] : all.filter((certificate) => kindOf(certificate) === preferred);
  const keys = wanted.length > 0 ? wanted : all;
  const [endorsementKey] = keys;
  if (endorsementKey === undefined || keys.length > 1) {
    const kinds = wanted.length > 0 ? `${wanted.length} ${preferred?.toUpperCase()}` : `${keys.length} VCEK or VLEK`;
    throw new SnpError("ERR_SNP_CERTIFICATE", `found ${kinds} certificates among ${certificates.length}, expected one`);
  }
  const [, intermediate, root] = translate(() => orderChain(endorsementKey, certificates));
  if (intermediate === undefined || root === undefined) {
    throw new SnpError(
      "ERR_SNP_CHAIN",
      `the certificate of the ${intermediate === undefined ? "VCEK's or VLEK's issuer (ASK or ASVK)" : "root (ARK)"} is missing`,
      {
        hint: "Send VCEK, ASK and ARK together.",
      },
    );
  }
  return { endorsementKey, intermediate, root };
}

/**
 * Reads the chain of a PEM text: VCEK, ASK and ARK, in any order.
 * @param preferred as for {@link selectCertificateChain}
 * @throws {SnpError} ERR_SNP_CERTIFICATE, ERR_SNP_CHAIN
 */
export function parseCertificateChainPem(text: string, preferred?: EndorsementKind): CertificateChain {
  return selectCertificateChain(
    translate(() => parseCertificatesPem(text, "certificate chain")),
    preferred,
  );
}

/**
 * Reads the chain of a certificate table (auxblob of configfs-tsm). Some hosts put PEM into the table, so both encodings are read.
 * @param preferred as for {@link selectCertificateChain}
 * @throws {SnpError} ERR_SNP_CERTIFICATE_TABLE, ERR_SNP_CERTIFICATE, ERR_SNP_CHAIN
 */
export function parseCertificateChainTable(table: Uint8Array, preferred?: EndorsementKind): CertificateChain {
  const wanted: readonly string[] = [CERTIFICATE_GUIDS.vcek, CERTIFICATE_GUIDS.vlek, CERTIFICATE_GUIDS.ask, CERTIFICATE_GUIDS.ark];
  const entries = parseCertificateTable(table).filter(({ guid }) => wanted.includes(guid));
  return selectCertificateChain(
    translate(() =>
      // DER begins with a SEQUENCE, 0x30; PEM with "-".
      entries.flatMap(({ guid, data }) =>
        data[0] === 0x30 ? [parseCertificate(data, `entry ${guid}`)] : parseCertificatesPem(decodeUtf8(data), `entry ${guid}`),
      ),
    ),
    preferred,
  );
}

/** By the extension that only one of them has. Whether the rest of the certificate fits is for `parseEndorsementKey`. */
function kindOf({ extensions }: Certificate): EndorsementKind {
  return extensions.has(AMD_OID.cspId) ? "vlek" : "vcek";
}

function translate<T>(read: () => T): T {
  try {
    return read();
  } catch (cause) {
    if (isSealpodError(cause)) throw new SnpError("ERR_SNP_CERTIFICATE", messageOf(cause), { cause });
    throw cause;
  }
}
