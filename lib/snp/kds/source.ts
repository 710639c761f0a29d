import { decodeUtf8, isSealpodError, messageOf } from "@sealpod/core";
import { type Certificate, type Crl, equalNames, formatName, nameAttribute, OID, parseCertificate, parseCertificatesPem, parseCrl } from "@sealpod/pki";
import type { ProductName } from "../abi/product.ts";
import { formatTcbNumber } from "../abi/tcb.ts";
import { SnpError } from "../errors.ts";
import type { CertificateChain } from "../verify/certificate-chain.ts";
import { selectCertificateChain } from "../verify/certificate-chain.ts";
import { checkEndorsement, checkRequest, describeRequest, type EndorsementRequest } from "./endorsement-request.ts";
import { getBytes, type KdsPatience, type KdsPorts, MAX_CERTIFICATES_BYTES, MAX_KDS_CRL_BYTES } from "./http.ts";
import { parseThim } from "./thim.ts";
import { azureCachePath, type AzureCacheNames, chainUrl, crlUrl, type EndorsementKind, KDS_BASE, THIM_URL, vcekUrl } from "./url.ts";

/** The two CA certificates over an endorsement key. */
export interface Authorities {
  /** ASK over VCEKs, ASVK over VLEKs. */
  readonly intermediate: Certificate;
  /** ARK. */
  readonly root: Certificate;
}

/** A certificate that a source gave for a request. It is for the chip and TCB that were asked; whether AMD signed it is for `verifyReport`. */
export interface Endorsement {
  readonly product: ProductName;
  readonly endorsementKey: Certificate;
  /** Undefined if the source gives them apart from the certificate. */
  readonly authorities: Authorities | undefined;
}

/** A service that has certificates of report signing keys. */
export interface EndorsementSource {
  /** For messages and logs, such as "kds" or "azcache americas.acccache.azure.net". */
  readonly name: string;
  /**
   * The VCEK certificate, and what the service sends with it.
   * @throws {SnpError} ERR_SNP_KDS_REQUEST, ERR_SNP_KDS_NOT_FOUND, ERR_SNP_KDS_THROTTLED (`details.retryAfter`, seconds), ERR_SNP_KDS_UNAVAILABLE, ERR_SNP_KDS_RESPONSE; the signal's reason
   */
  fetchEndorsement(request: EndorsementRequest, signal?: AbortSignal): Promise<Endorsement>;
  /**
   * VCEK, ASK and ARK: all that a report needs.
   * @throws {SnpError} as {@link fetchEndorsement}
   */
  fetchChain(request: EndorsementRequest, signal?: AbortSignal): Promise<CertificateChain>;
  /** Undefined if the service has no files of the authorities alone. */
  readonly authorities: AuthoritySource | undefined;
}

/** A service that has the certificates and revocation lists of AMD's authorities. */
export interface AuthoritySource {
  /**
   * ASK (or ASVK) and ARK of a product.
   * @throws {SnpError} as {@link EndorsementSource.fetchEndorsement}
   */
  fetchAuthorities(kind: EndorsementKind, product: ProductName, signal?: AbortSignal): Promise<Authorities>;
  /**
   * The revocation list of a product's ARK. It is not verified: `verifyCrl` of `@sealpod/pki` does that.
   * @throws {SnpError} as {@link EndorsementSource.fetchEndorsement}
   */
  fetchCrl(kind: EndorsementKind, product: ProductName, signal?: AbortSignal): Promise<Crl>;
}

/** Options of every source. */
export interface SourceOptions extends KdsPorts, KdsPatience {}

/**
 * AMD's key distribution service, or a cache with its face (specs/attestation.md 1.6). Keeps nothing: what it is given looks right by its names alone, and a wrong answer that was kept would
 * stay wrong. Who verifies certificates can keep them, as `sealpod certcache` does.
 * @throws {SnpError} ERR_SNP_KDS_REQUEST if `base` is no plain http or https URL
 */
export function kdsSource(
  options: SourceOptions & { readonly base?: string; readonly name?: string },
): EndorsementSource & { readonly authorities: AuthoritySource } {
  const base = plainUrl(options.base ?? KDS_BASE).replace(/\/+$/, "");
  const name = options.name ?? (base === KDS_BASE ? "kds" : `kds ${new URL(base).host}`);
  const get = async (url: string, what: string, maxBytes: number, signal: AbortSignal): Promise<Uint8Array | undefined> =>
    getBytes(options, { source: name, what, url, maxBytes }, options, signal);

  const fetchAuthorities = async (kind: EndorsementKind, product: ProductName, signal: AbortSignal = never()): Promise<Authorities> => {
    const what = `certificates of the authorities (${kind} ${product})`;
    const body = await get(chainUrl(kind, product, base), what, MAX_CERTIFICATES_BYTES, signal);
    if (body === undefined) throw notFound(name, what, "Check the name of the product, and that the address is that of a KDS.");
    return wrapped(name, what, () => checkAuthorities(parseCertificatesPem(decodeUtf8(body, what), what), kind, product));
  };
  const fetchCrl = async (kind: EndorsementKind, product: ProductName, signal: AbortSignal = never()): Promise<Crl> => {
    const what = `revocation list (${kind} ${product})`;
    const body = await get(crlUrl(kind, product, base), what, MAX_KDS_CRL_BYTES, signal);
    if (body === undefined) throw notFound(name, what, "Check the name of the product, and that the address is that of a KDS.");
    return wrapped(name, what, () => parseCrl(body, what));
  };
  const fetchEndorsement = async (request: EndorsementRequest, signal: AbortSignal = never()): Promise<Endorsement> => {
    checkRequest(request);
    for (const product of request.products) {
      const one: EndorsementRequest = { ...request, products: [product] };
      const what = `certificate of ${describeRequest(one)}`;
      const body = await get(vcekUrl(product, request.chipId, request.reportedTcb, base), what, MAX_CERTIFICATES_BYTES, signal);
      if (body === undefined) continue;
      const endorsementKey = wrapped(name, what, () => parseCertificate(body, "VCEK"));
      checkEndorsement(endorsementKey, one, name);
      return { product, endorsementKey, authorities: undefined };
    }
    throw notFoundFor(name, request);
  };
  return {
    name,
    authorities: { fetchAuthorities, fetchCrl },
    fetchEndorsement,
    async fetchChain(request, signal = never()) {
      const { endorsementKey, product } = await fetchEndorsement(request, signal);
      const { intermediate, root } = await fetchAuthorities("vcek", product, signal);
      return wrapped(name, "chain", () => selectCertificateChain([endorsementKey, intermediate, root]));
    },
  };
}

/**
 * Azure's certificate cache, for processors of Azure alone (specs/attestation.md 1.7).
 * @param options.endpoint host, such as "americas.acccache.azure.net", or URL; either with a path or not
 * @param options.clientId "sealpod" if left out
 * @throws {SnpError} ERR_SNP_KDS_REQUEST if `endpoint` is neither
 */
export function azureCacheSource(
  options: SourceOptions & AzureCacheNames & { readonly endpoint: string; readonly clientId?: string; readonly name?: string },
): EndorsementSource {
  const base = plainUrl(/^https?:\/\//.test(options.endpoint) ? options.endpoint : `https://${options.endpoint}`).replace(/\/+$/, "");
  const name = options.name ?? `azcache ${new URL(base).host}`;
  return pemSource(name, async (request, signal) => {
    const url = `${base}${azureCachePath(request.chipId, request.reportedTcb, options.clientId ?? "sealpod", options)}`;
    const body = await getBytes(
      options,
      { source: name, what: `certificate of ${describeRequest(request)}`, url, maxBytes: MAX_CERTIFICATES_BYTES },
      options,
      signal,
    );
    return body === undefined ? undefined : { pem: decodeUtf8(body, "certificates") };
  });
}

/**
 * Azure's THIM, which each machine of Azure has at a link-local address and which knows that machine's own processor alone (specs/attestation.md 1.7).
 * @param options.url {@link THIM_URL} if left out
 * @throws {SnpError} ERR_SNP_KDS_REQUEST if `url` is none
 */
export function thimSource(options: SourceOptions & { readonly url?: string; readonly name?: string }): EndorsementSource {
  const url = plainUrl(options.url ?? THIM_URL);
  const name = options.name ?? (url === THIM_URL ? "thim" : `thim ${new URL(url).host}`);
  return pemSource(name, async (_request, signal) => {
    const what = "certificates of this machine's processor";
    const body = await getBytes(options, { source: name, what, url, headers: { metadata: "true" }, maxBytes: MAX_CERTIFICATES_BYTES }, options, signal);
    if (body === undefined) return undefined;
    const { vcekCert, certificateChain, tcbm } = parseThim(decodeUtf8(body, "THIM document"));
    return { pem: `${vcekCert.trim()}\n${certificateChain}`, tcbm };
  });
}

/** A service that gives VCEK, ASK and ARK at once. */
function pemSource(
  name: string,
  fetchPem: (request: EndorsementRequest, signal: AbortSignal) => Promise<{ readonly pem: string; readonly tcbm?: string } | undefined>,
): EndorsementSource {
  const fetchEndorsement = async (request: EndorsementRequest, signal: AbortSignal = never()): Promise<Endorsement & { readonly authorities: Authorities }> => {
    checkRequest(request);
    const what = `certificates for ${describeRequest(request)}`;
    const found = await wrappedAsync(name, what, async () => fetchPem(request, signal), signal);
    if (found === undefined) throw notFoundFor(name, request);
    const chain = wrapped(name, what, () => selectCertificateChain(parseCertificatesPem(found.pem, "certificates")));
    const { product, tcbBytes } = checkEndorsement(chain.endorsementKey, request, name);
    if (found.tcbm !== undefined && found.tcbm.replace(/^0+(?=.)/, "") !== formatTcbNumber(tcbBytes)) {
      throw new SnpError("ERR_SNP_KDS_RESPONSE", `${name}: tcbm is ${found.tcbm}, the certificate beside it is for ${formatTcbNumber(tcbBytes)}`, {
        details: { source: name },
      });
    }
    const authorities = wrapped(name, what, () => checkAuthorities([chain.intermediate, chain.root], "vcek", product));
    return { product, endorsementKey: chain.endorsementKey, authorities };
  };
  return {
    name,
    authorities: undefined,
    fetchEndorsement,
    async fetchChain(request, signal) {
      const { endorsementKey, authorities } = await fetchEndorsement(request, signal);
      return { endorsementKey, ...authorities };
    },
  };
}

/**
 * Several sources as one: each is asked only if those before it failed, and the error says why each did.
 * @param sources at least one
 */
export function fallbackSource(sources: readonly EndorsementSource[]): EndorsementSource {
  const withAuthorities = sources.flatMap(({ name, authorities }) => (authorities === undefined ? [] : [{ name, authorities }]));
  return {
    name: sources.map(({ name }) => name).join(", "),
    fetchEndorsement: async (request, signal) => inTurn(sources, signal, async (source) => source.fetchEndorsement(request, signal)),
    fetchChain: async (request, signal) => inTurn(sources, signal, async (source) => source.fetchChain(request, signal)),
    authorities:
      withAuthorities.length === 0
        ? undefined
        : {
            fetchAuthorities: async (kind, product, signal) =>
              inTurn(withAuthorities, signal, async ({ authorities }) => authorities.fetchAuthorities(kind, product, signal)),
            fetchCrl: async (kind, product, signal) => inTurn(withAuthorities, signal, async ({ authorities }) => authorities.fetchCrl(kind, product, signal)),
          },
  };
}

/** Codes of a source that failed, the one to report of several first: what may be over soon hides what is for good, or nobody would ask again. */
const WORST_FIRST = ["ERR_SNP_KDS_THROTTLED", "ERR_SNP_KDS_UNAVAILABLE", "ERR_SNP_KDS_RESPONSE", "ERR_SNP_KDS_NOT_FOUND"] as const;

async function inTurn<S extends { readonly name: string }, T>(
  sources: readonly S[],
  signal: AbortSignal | undefined,
  ask: (source: S) => Promise<T>,
): Promise<T> {
  const failures: SnpError[] = [];
  for (const source of sources) {
    try {
      return await ask(source);
    } catch (cause) {
      signal?.throwIfAborted();
      // A request that cannot be asked is no better at the next source.
      if (!(cause instanceof SnpError) || !(WORST_FIRST as readonly string[]).includes(cause.code)) throw cause;
      failures.push(cause);
    }
  }
  const [only] = failures;
  if (only !== undefined && failures.length === 1) throw only;
  const code = WORST_FIRST.find((candidate) => failures.some((failure) => failure.code === candidate)) ?? "ERR_SNP_KDS_UNAVAILABLE";
  const waits = failures.flatMap(({ details }) => (typeof details["retryAfter"] === "number" ? [details["retryAfter"]] : []));
  throw new SnpError(
    code,
    failures.length === 0 ? "no certificate service is named" : `every certificate service failed: ${failures.map(({ message }) => message).join("; ")}`,
    {
      cause: new AggregateError(failures),
      details: { sources: sources.map(({ name }) => name), ...(waits.length > 0 && { retryAfter: Math.min(...waits) }) },
      hint: failures.find((failure) => failure.code === code)?.hint ?? "Name a certificate service.",
    },
  );
}

/**
 * The authorities of a product among two certificates: the ARK that is its own issuer, and what it issued, under the names that AMD gives them ({@link hasAuthorityName}).
 * A list for another hierarchy is refused; signatures are not looked at.
 * @throws {SnpError} ERR_SNP_CHAIN
 */
export function checkAuthorities(certificates: readonly Certificate[], kind: EndorsementKind, product: ProductName): Authorities {
  const root = certificates.find(({ subject, issuer }) => equalNames(subject, issuer));
  const intermediate = certificates.find((certificate) => certificate !== root);
  if (certificates.length !== 2 || root === undefined || intermediate === undefined || !equalNames(intermediate.issuer, root.subject)) {
    throw new SnpError("ERR_SNP_CHAIN", `${certificates.length} certificates, expected an intermediate and the root that issued it`);
  }
  const names = { intermediate: kind === "vcek" ? `SEV-${product}` : `SEV-VLEK-${product}`, root: `ARK-${product}` };
  for (const [certificate, name] of [
    [intermediate, names.intermediate],
    [root, names.root],
  ] as const) {
    if (!hasAuthorityName(certificate, name))
      throw new SnpError("ERR_SNP_CHAIN", `found a certificate of ${formatName(certificate.subject)}, expected ${name}`);
  }
  return { intermediate, root };
}

/** True if a certificate has the name that AMD gives to one of its authorities, such as "ARK-Milan", or the emulator's for it, which ends with "EMULATED ARK-Milan". */
export function hasAuthorityName({ subject }: Certificate, name: string): boolean {
  const found = nameAttribute(subject, OID.commonName) ?? "";
  return found === name || ` ${found}`.endsWith(` EMULATED ${name}`);
}

function notFound(source: string, what: string, hint: string): SnpError {
  return new SnpError("ERR_SNP_KDS_NOT_FOUND", `${source}: there is no ${what}`, { details: { source }, hint });
}

function notFoundFor(source: string, request: EndorsementRequest): SnpError {
  return notFound(
    source,
    `certificate of ${describeRequest(request)}`,
    "Ask for the report's REPORTED_TCB, not for CURRENT_TCB, and for the right product; the chip id of a Turin has 8 bytes (16 hex digits), of others 64.",
  );
}

/** What a service sent, read; what is wrong with it is an answer that is none. */
function wrapped<T>(source: string, what: string, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    throw asResponse(source, what, cause);
  }
}

async function wrappedAsync<T>(source: string, what: string, read: () => Promise<T>, signal: AbortSignal): Promise<T> {
  try {
    return await read();
  } catch (cause) {
    signal.throwIfAborted();
    throw asResponse(source, what, cause);
  }
}

function asResponse(source: string, what: string, cause: unknown): unknown {
  if (!isSealpodError(cause) || cause.code.startsWith("ERR_SNP_KDS_")) return cause;
  return new SnpError("ERR_SNP_KDS_RESPONSE", `${source}: ${what}: ${messageOf(cause)}`, { cause, details: { source } });
}

function plainUrl(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  // Paths are appended to the text, and a query or fragment that is empty is none to URL.
  if ((url?.protocol !== "https:" && url?.protocol !== "http:") || /[?#]/.test(text) || url.username !== "" || url.password !== "") {
    throw new SnpError(
      "ERR_SNP_KDS_REQUEST",
      `certificate service: ${JSON.stringify(text.slice(0, 80))} is not an http or https URL without query, fragment or user`,
    );
  }
  return text;
}

/** A signal that is never aborted, for callers without one. */
function never(): AbortSignal {
  return new AbortController().signal;
}
