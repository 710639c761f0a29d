import { isSealpodError, type Logger, messageOf } from "@sealpod/core";
import { encodeCertificatesPem, encodePem } from "@sealpod/pki";
import {
  encodeThim,
  type EndorsementRequest,
  formatTcbNumber,
  parseAzureCachePath,
  parseEndorsementKey,
  parseKdsPath,
  productsOfChip,
  THIM_PATH,
} from "@sealpod/snp";
import { type Context, Hono } from "hono";
import type { CachedEndorsement, EndorsementCache } from "./cache.ts";
import { type EndorsementStore, requestOf, type StoreEntry, vcekKeyOf } from "./store.ts";

/** Options of {@link certcacheApp}. */
export interface CertcacheAppOptions {
  readonly cache: EndorsementCache;
  /** The chip and TCB that the face of THIM answers for. Left out, it answers for the only certificate of the store, and for none if there are several. */
  readonly thim?: EndorsementRequest;
  readonly logger: Logger;
}

/** Seconds that clients may keep a certificate: what THIM says of its own. */
const KEEP_SECONDS = 86_400;

/** Seconds after which to ask again if nobody said: about the distance that AMD's service wants. */
const RETRY_SECONDS = 10;

/** Why the face of THIM does not answer. */
const SEVERAL_CHIPS = "The cache knows several chips and was not told which one to answer for here (--thim-chip-id, --thim-tcb).";

/**
 * The cache as an HTTP application with three faces: AMD's key distribution service (`/vcek/v1/…`, `/vlek/v1/…`), Azure's certificate cache (`/SevSnpVM/certificates/…`) and THIM
 * (`/metadata/THIM/amd/certification`), each with its own formats and statuses (specs/attestation.md 1.6 and 1.7), so that clients of these need nothing but another address.
 */
export function certcacheApp(options: CertcacheAppOptions): Hono {
  const app = new Hono();
  app.get("*", async (c) => {
    const { pathname, search } = new URL(c.req.url);
    if (pathname.startsWith("/vcek/") || pathname.startsWith("/vlek/")) return kds(options, c, `${pathname}${search}`);
    if (pathname.startsWith("/SevSnpVM/")) return azureCache(options, c, `${pathname}${search}`);
    if (pathname === THIM_PATH) return thim(options, c);
    return c.text("No such page. This is a cache of AMD's certificates: /vcek/v1, /vlek/v1, /SevSnpVM/certificates, /metadata/THIM/amd/certification.\n", 404);
  });
  app.all("*", (c) => c.text("Only GET and HEAD are answered.\n", 405, { allow: "GET, HEAD" }));
  app.onError((error, c) => {
    // What went wrong inside is for the log.
    options.logger.log("error", "request failed", { path: c.req.path.slice(0, 200), problem: messageOf(error) });
    return c.text("The certificate cache failed; its log says why.\n", 500);
  });
  return app;
}

async function kds({ cache }: CertcacheAppOptions, c: Context, path: string): Promise<Response> {
  try {
    const asked = parseKdsPath(path);
    switch (asked.kind) {
      case "vcek": {
        const { chain } = await cache.endorsement({ products: [asked.product], chipId: asked.chipId, reportedTcb: asked.tcb });
        return bytes(c, chain.endorsementKey.der, "application/pkix-cert", KEEP_SECONDS);
      }
      case "cert_chain": {
        const { intermediate, root } = await cache.authorities(asked.endorsement, asked.product);
        return c.text(encodeCertificatesPem([intermediate, root]), 200, headersOf("application/x-pem-file", KEEP_SECONDS));
      }
      case "crl":
        return bytes(c, (await cache.crl(asked.endorsement, asked.product)).der, "application/pkix-crl", 0);
    }
  } catch (error) {
    const failure = failureOf(error);
    return c.text(`${failure.text}\n`, failure.status, failure.headers);
  }
}

async function azureCache({ cache }: CertcacheAppOptions, c: Context, path: string): Promise<Response> {
  try {
    const { chipId, tcb } = parseAzureCachePath(path);
    // The path does not say the product. Only a Turin has so short an id, and only Milan and Genoa lay out their TCB alike.
    const { chain } = await cache.endorsement({ products: productsOfChip(chipId), chipId, reportedTcb: tcb });
    const pem = encodeCertificatesPem([chain.endorsementKey, chain.intermediate, chain.root]);
    return c.text(pem, 200, headersOf("application/x-pem-file", KEEP_SECONDS));
  } catch (error) {
    const failure = failureOf(error);
    // The genuine service says nothing with a 404.
    return failure.status === 404 ? c.body(null, 404) : c.text(`${failure.text}\n`, failure.status, failure.headers);
  }
}

async function thim(options: CertcacheAppOptions, c: Context): Promise<Response> {
  const refuse = (text: string): Response => c.json({ error: text }, 400);
  // Both rules are those of Azure's metadata service: a page in a browser, or a proxy that was tricked, cannot send the header, and sends the other.
  if (c.req.header("metadata")?.toLowerCase() !== "true") return refuse("Bad request. Required metadata header not specified");
  if (c.req.header("x-forwarded-for") !== undefined) return refuse("Bad request. X-Forwarded-For is not allowed");
  try {
    const request = options.thim ?? (await onlyRequest(options.cache));
    if (typeof request === "string") return c.json({ error: request }, 404);
    const found = await options.cache.endorsement(request);
    return c.body(thimDocument(found), 200, headersOf("application/json; charset=utf-8", 0));
  } catch (error) {
    const failure = failureOf(error);
    return c.json({ error: failure.text }, failure.status, failure.headers);
  }
}

/** Answer of THIM's face. */
function thimDocument({ chain }: CachedEndorsement): string {
  const { tcbBytes } = parseEndorsementKey(chain.endorsementKey);
  return encodeThim({
    vcekCert: encodePem("CERTIFICATE", chain.endorsementKey.der),
    tcbm: formatTcbNumber(tcbBytes),
    certificateChain: encodeCertificatesPem([chain.intermediate, chain.root]),
    cacheControl: String(KEEP_SECONDS),
  });
}

/** The request for the only certificate of the store, or why there is none to choose. */
async function onlyRequest({ store }: EndorsementCache): Promise<EndorsementRequest | string> {
  // Before anything is listed: a large store would make each request expensive.
  if (store.count > 1) return SEVERAL_CHIPS;
  const [entry, ...others] = await firstEntries(store, 2);
  if (others.length > 0) return SEVERAL_CHIPS;
  const found = entry === undefined ? undefined : await store.readEntry(entry);
  return found === undefined ? "The cache knows no chip yet." : requestOf(vcekKeyOf(found.certificate));
}

async function firstEntries(store: EndorsementStore, limit: number): Promise<readonly StoreEntry[]> {
  const entries: StoreEntry[] = [];
  for await (const entry of store.entries()) if (entries.push(entry) === limit) break;
  return entries;
}

interface Failure {
  readonly status: 400 | 404 | 429 | 500 | 502 | 503;
  readonly text: string;
  readonly headers: Record<string, string>;
}

/** Status and text of an error; errors of another kind are thrown on. */
function failureOf(error: unknown): Failure {
  if (!isSealpodError(error)) throw error;
  const text = error.hint === undefined ? error.message : `${error.message}\n${error.hint}`;
  // AMD's service knows no chip with an id of the wrong length, rather than complaining of it.
  if (error.code === "ERR_SNP_KDS_PATH") return { status: ["hwid", "product"].includes(String(error.details["field"])) ? 404 : 400, text, headers: {} };
  const after = error.details["retryAfter"];
  switch (error.row.http) {
    case 400:
    case 404:
      return { status: error.row.http, text, headers: {} };
    case 429:
    case 503:
      return { status: error.row.http, text, headers: { "retry-after": String(typeof after === "number" ? after : RETRY_SECONDS) } };
    case 502:
      return { status: 502, text, headers: {} };
    default:
      throw error;
  }
}

function bytes(c: Context, body: Uint8Array, type: string, seconds: number): Response {
  return c.body(new Uint8Array(body), 200, headersOf(type, seconds));
}

function headersOf(type: string, seconds: number): Record<string, string> {
  return { "content-type": type, "cache-control": seconds === 0 ? "no-cache" : `public, max-age=${seconds}` };
}
