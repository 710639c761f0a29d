import { decodeUtf8, isSealpodError, messageOf } from "@sealpod/core";
import { encodePem } from "@sealpod/pki";
import {
  azureCacheSource,
  endorsementRequestOf,
  formatTcbNumber,
  kdsSource,
  parseCertificateChainPem,
  parseThim,
  thimSource,
  type CertificateChain,
  type EndorsementKind,
  type EndorsementSource,
  type Report,
  type SourceOptions,
  type ThimCertificates,
} from "@sealpod/snp";
import type { CertificateCache } from "./arguments.ts";
import { SkrError } from "./errors.ts";
import { expectOk, requireTime, send, type CallPorts } from "./http-client.ts";

/** Milliseconds. AMD's service takes some seconds for a certificate that it has not made yet. */
const TIMEOUT = 20_000;
/** Attempts after the first, and the longest pause between two: as for the other services. */
const PATIENCE = { timeoutMs: TIMEOUT, retries: 2, maxWaitMs: 30_000 } as const;

/** Certificates for a report, and the TCB that they are for. */
export interface ReportCertificates {
  readonly chain: CertificateChain;
  /** As `formatTcbNumber` writes it. */
  readonly tcb: string;
}

/**
 * Fetches the certificates of a report from the configured cache: for the report's chip and REPORTED_TCB, checked to be.
 * @throws {SkrError} ERR_SKR_CERTIFICATES, ERR_SKR_NETWORK if the cache cannot be reached, ERR_SKR_TIMEOUT
 */
export async function fetchCachedCertificates(ports: CallPorts, cache: CertificateCache, report: Report): Promise<ReportCertificates> {
  try {
    const chain = await sourceOf(ports, cache).fetchChain(endorsementRequestOf(report), ports.signal);
    return { chain, tcb: formatTcbNumber(report.reportedTcb) };
  } catch (cause) {
    requireTime(ports.signal, `certificate cache ${cache.endpoint}`);
    if (cause instanceof SkrError || !isSealpodError(cause)) throw cause;
    const { hint } = cause;
    const code = cause.code === "ERR_SNP_KDS_UNAVAILABLE" ? "ERR_SKR_NETWORK" : "ERR_SKR_CERTIFICATES";
    throw new SkrError(code, `no certificates for the report: ${cause.message}`, {
      cause,
      details: { source: cause.code },
      ...(hint === undefined ? {} : { hint }),
    });
  }
}

/**
 * Fetches the certificates of this machine from a THIM, for whatever TCB they are. For tests alone: nobody who verifies the
 * report takes certificates for another one.
 * @param signedBy kind of the key that signed the report, to choose by where VCEK and VLEK come together
 * @throws {SkrError} ERR_SKR_CERTIFICATES, ERR_SKR_NETWORK
 */
export async function fetchAnyThimCertificates(ports: CallPorts, endpoint: string, signedBy?: EndorsementKind): Promise<ReportCertificates> {
  const what = `certificate cache ${endpoint}`;
  const response = await send(ports, { method: "GET", url: `http://${endpoint}`, headers: { metadata: "true" }, timeoutMs: TIMEOUT }, what);
  expectOk(response, what, "ERR_SKR_CERTIFICATES");
  try {
    return parseThimCertificates(parseThim(decodeUtf8(response.body, what)), signedBy);
  } catch (cause) {
    throw new SkrError("ERR_SKR_CERTIFICATES", `${what}: ${messageOf(cause)}`, { cause });
  }
}

/**
 * The chain of a THIM document.
 * @param signedBy as for {@link fetchAnyThimCertificates}
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

function sourceOf(ports: CallPorts, cache: CertificateCache): EndorsementSource {
  const options: SourceOptions = {
    ...PATIENCE,
    fetch: fetchOver(ports),
    clock: ports.clock,
    random: ports.random,
    sleep: async (milliseconds, signal) => ports.timer.wait(milliseconds, signal),
  };
  switch (cache.kind) {
    case "AMD":
      return kdsSource({ ...options, base: `https://${cache.endpoint}` });
    case "AzCache":
      return azureCacheSource({
        ...options,
        endpoint: cache.endpoint,
        teeType: cache.teeType,
        apiVersion: cache.apiVersion,
        ...(cache.clientId === "" ? {} : { clientId: cache.clientId }),
      });
    case "LocalTHIM":
      return thimSource({ ...options, url: `http://${cache.endpoint}` });
  }
}

/** The sidecar's HTTP client as the `fetch` of the certificate sources. They read the body themselves, within limits of their own. */
function fetchOver(ports: CallPorts): SourceOptions["fetch"] {
  return async (url, { headers, signal }) => {
    const response = await ports.http({
      method: "GET",
      url,
      headers: Object.fromEntries(new Headers(headers)),
      timeoutMs: TIMEOUT,
      ...(signal === null || signal === undefined ? {} : { signal }),
    });
    // A status that no answer can have would make Response throw a RangeError.
    if (response.status < 200 || response.status > 599) throw new Error(`status ${response.status}`);
    const bodiless = response.status === 204 || response.status === 205 || response.status === 304;
    return new Response(bodiless ? null : new Uint8Array(response.body), {
      status: response.status,
      headers: response.retryAfter === undefined ? {} : { "retry-after": response.retryAfter },
    });
  };
}
