import { decodeUtf8, isSealpodError, messageOf, toHex } from "@sealpod/core";
import { encodePem, parseCertificate, parseCertificatesPem } from "@sealpod/pki";
import {
  chainUrl,
  formatTcbNumber,
  parseCertificateChainPem,
  parseThim,
  productOfReport,
  selectCertificateChain,
  vcekUrl,
  type CertificateChain,
  type EndorsementKind,
  type Report,
  type ThimCertificates,
} from "@sealpod/snp";
import type { CertificateCache } from "./arguments.ts";
import { SkrError } from "./errors.ts";
import { expectOk, send, type CallPorts } from "./http-client.ts";

/** Milliseconds. AMD's service takes some seconds for a certificate that it has not made yet. */
const TIMEOUT = 20_000;

/** Certificates for a report, and the TCB that they are for. */
export interface ReportCertificates {
  readonly chain: CertificateChain;
  /** As `formatTcbNumber` writes it. */
  readonly tcb: string;
}

/**
 * Fetches the certificates of a report from the configured cache.
 * @param signedBy kind of the key that signed the report, to choose by where VCEK and VLEK come together
 * @throws {SkrError} ERR_SKR_CERTIFICATES, ERR_SKR_NETWORK
 */
export async function fetchCachedCertificates(
  ports: CallPorts,
  cache: CertificateCache,
  report: Report,
  signedBy?: EndorsementKind,
): Promise<ReportCertificates> {
  const get = async (url: string, headers: Readonly<Record<string, string>> = {}): Promise<Uint8Array> => {
    const what = `certificate cache ${new URL(url).host}`;
    const response = await send(ports, { method: "GET", url, headers, timeoutMs: TIMEOUT }, what);
    expectOk(response, what, "ERR_SKR_CERTIFICATES");
    return response.body;
  };
  const tcb = formatTcbNumber(report.reportedTcb);
  try {
    switch (cache.kind) {
      case "LocalTHIM":
        return parseThimCertificates(parseThim(decodeUtf8(await get(`http://${cache.endpoint}`, { metadata: "true" }))), signedBy);
      case "AzCache": {
        const client = cache.clientId === "" ? "" : `&${cache.clientId.startsWith("clientId=") ? "" : "clientId="}${cache.clientId}`;
        const path = `${cache.teeType}/certificates/${toHex(report.chipId)}/${tcb.toLowerCase()}?${cache.apiVersion}${client}`;
        return { chain: parseCertificateChainPem(decodeUtf8(await get(`https://${cache.endpoint}/${path}`)), signedBy), tcb };
      }
      case "AMD": {
        const claimed = productOfReport(report);
        // A version 2 report does not name its product; Milan made nearly all of them, and a wrong guess is a 404.
        const product = claimed.kind === "known" ? claimed.product : claimed.kind === "unstated" ? claimed.candidates[0] : undefined;
        if (product === undefined) throw new SkrError("ERR_SKR_CERTIFICATES", "the report comes from a processor that AMD's service is not known to serve");
        const vcek = parseCertificate(await get(vcekUrl(product, report.chipId, report.reportedTcb, `https://${cache.endpoint}`)), "VCEK");
        const authorities = parseCertificatesPem(decodeUtf8(await get(chainUrl("vcek", product, `https://${cache.endpoint}`))), "ASK and ARK");
        return { chain: selectCertificateChain([vcek, ...authorities]), tcb };
      }
    }
  } catch (cause) {
    if (cause instanceof SkrError || !isSealpodError(cause)) throw cause;
    throw new SkrError("ERR_SKR_CERTIFICATES", `certificate cache ${cache.endpoint}: ${messageOf(cause)}`, { cause });
  }
}

/**
 * The chain of a THIM document.
 * @param signedBy as for {@link fetchCachedCertificates}
 * @throws {SnpError} ERR_SNP_CERTIFICATE, ERR_SNP_CHAIN
 */
export function parseThimCertificates(thim: ThimCertificates, signedBy?: EndorsementKind): ReportCertificates {
  // Without leading zeros, to compare with a report's.
  return { chain: parseCertificateChainPem(`${thim.vcekCert.trim()}\n${thim.certificateChain}`, signedBy), tcb: thim.tcbm.replace(/^0+(?=.)/, "") };
}

/** PEM of VCEK, ASK and ARK, in the order that the attestation service expects. */
export function encodeChain(chain: CertificateChain): string {
  return [chain.endorsementKey, chain.intermediate, chain.root].map((certificate) => encodePem("CERTIFICATE", certificate.der)).join("");
}
