import { azureCacheSource, type EndorsementSource, KDS_BASE, KDS_SPACING_MS, kdsSource, type KdsPorts, thimSource } from "@sealpod/snp";
import { CertcacheError } from "./errors.ts";
import { spacedFetch } from "./spacing.ts";

/** A service that a cache asks for what it does not have. */
export type UpstreamName =
  | { readonly kind: "kds"; readonly base: string }
  | { readonly kind: "azcache"; readonly endpoint: string }
  | { readonly kind: "thim"; readonly url: string | undefined };

/** Options of {@link openUpstream}. */
export interface UpstreamOptions extends KdsPorts {
  /** Milliseconds between two requests. Default: ten seconds for AMD's own service, none for others, which do not throttle. */
  readonly spacingMs?: number;
  /** Longest wait for a service that asks to be left alone, in milliseconds. Default: two seconds, as clients of a server do not wait longer; a command may. */
  readonly maxWaitMs?: number;
}

/** Longest wait of a request for its turn, in milliseconds: one in front of it at AMD's pace. Clients wait some 20 s; more would only pile up. */
const MAX_QUEUE = 15_000;

/** What is left of a client's patience after the queue, in milliseconds. */
const TIMEOUT = 20_000;

/** Default of {@link UpstreamOptions.maxWaitMs}. */
const MAX_WAIT = 2000;

/**
 * Reads the name of an upstream: `kds`, `kds=URL`, `azcache=HOST`, `thim`, `thim=URL`; `none` is undefined.
 * @throws {CertcacheError} ERR_CERTCACHE_ARGUMENT
 */
export function parseUpstream(text: string): UpstreamName | undefined {
  const at = text.indexOf("=");
  const [kind, value] = at === -1 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
  if (value !== "") {
    if (kind === "none" && value === undefined) return undefined;
    if (kind === "kds") return { kind, base: value ?? KDS_BASE };
    if (kind === "azcache" && value !== undefined) return { kind, endpoint: value };
    if (kind === "thim") return { kind, url: value };
  }
  throw new CertcacheError(
    "ERR_CERTCACHE_ARGUMENT",
    `upstream ${JSON.stringify(text.slice(0, 80))}, expected kds, kds=URL, azcache=HOST, thim, thim=URL or none`,
  );
}

/**
 * The source of an upstream, which keeps its distance and hands a service's "not now" on instead of waiting it out.
 * @throws {SnpError} ERR_SNP_KDS_REQUEST if an address is none
 */
export function openUpstream(upstream: UpstreamName, options: UpstreamOptions): EndorsementSource {
  const isAmd = upstream.kind === "kds" && upstream.base === KDS_BASE;
  const { fetch, clock, sleep } = options;
  const spacingMs = options.spacingMs ?? (isAmd ? KDS_SPACING_MS : 0);
  const common = {
    ...options,
    fetch: spacedFetch({ fetch, clock, sleep, spacingMs, maxQueueMs: MAX_QUEUE }),
    timeoutMs: MAX_QUEUE + TIMEOUT,
    retries: 2,
    maxWaitMs: options.maxWaitMs ?? MAX_WAIT,
  };
  switch (upstream.kind) {
    case "kds":
      return kdsSource({ ...common, base: upstream.base });
    case "azcache":
      return azureCacheSource({ ...common, endpoint: upstream.endpoint });
    case "thim":
      return thimSource({ ...common, ...(upstream.url !== undefined && { url: upstream.url }) });
  }
}
