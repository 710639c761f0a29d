import { messageOf } from "@sealpod/core";
import {
  type AuthoritySource,
  azureCacheSource,
  type EndorsementSource,
  KDS_BASE,
  KDS_SPACING_MS,
  kdsSource,
  type KdsPorts,
  SnpError,
  thimSource,
} from "@sealpod/snp";
import { CertcacheError } from "./errors.ts";
import { isNameFailure, spacedFetch } from "./spacing.ts";

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

/** Attempts after the first at a host without an address: a resolver may hiccup once, and without a network nothing comes of more. */
const NAME_RETRIES = 1;

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
 * The source of an upstream, which keeps its distance, hands a service's "not now" on instead of waiting it out, and gives up soon where there is no network.
 * @throws {SnpError} ERR_SNP_KDS_REQUEST if an address is none
 */
export function openUpstream(upstream: UpstreamName, options: UpstreamOptions): EndorsementSource {
  const isAmd = upstream.kind === "kds" && upstream.base === KDS_BASE;
  const { fetch, clock, sleep } = options;
  const spacingMs = options.spacingMs ?? (isAmd ? KDS_SPACING_MS : 0);
  const spaced = spacedFetch({ fetch, clock, sleep, spacingMs, maxQueueMs: MAX_QUEUE, logger: options.logger });
  const sourceWith = (ownFetch: KdsPorts["fetch"]): EndorsementSource => {
    const common = { ...options, fetch: ownFetch, timeoutMs: MAX_QUEUE + TIMEOUT, retries: 2, maxWaitMs: options.maxWaitMs ?? MAX_WAIT };
    switch (upstream.kind) {
      case "kds":
        return kdsSource({ ...common, base: upstream.base });
      case "azcache":
        return azureCacheSource({ ...common, endpoint: upstream.endpoint });
      case "thim":
        return thimSource({ ...common, ...(upstream.url !== undefined && { url: upstream.url }) });
    }
  };
  const { name, authorities } = sourceWith(spaced);
  /** Sources keep nothing, so each call has one of its own, whose failures are this call's. */
  const call = async <T>(caller: AbortSignal | undefined, ask: (source: EndorsementSource, signal: AbortSignal) => Promise<T>): Promise<T> => {
    const noName = new AbortController();
    let failures = 0;
    const source = sourceWith(async (url, init) => {
      try {
        return await spaced(url, init);
      } catch (cause) {
        if (isNameFailure(cause) && failures++ >= NAME_RETRIES) noName.abort(noAddress(name, url, cause));
        throw cause;
      }
    });
    return ask(source, caller === undefined ? noName.signal : AbortSignal.any([caller, noName.signal]));
  };
  return {
    name,
    fetchEndorsement: async (request, signal) => call(signal, async (source, either) => source.fetchEndorsement(request, either)),
    fetchChain: async (request, signal) => call(signal, async (source, either) => source.fetchChain(request, either)),
    authorities: authorities && {
      fetchAuthorities: async (kind, product, signal) => call(signal, async (source, either) => authoritiesOf(source).fetchAuthorities(kind, product, either)),
      fetchCrl: async (kind, product, signal) => call(signal, async (source, either) => authoritiesOf(source).fetchCrl(kind, product, either)),
    },
  };
}

/** Sources of one upstream are alike: who gets here has seen one with authorities. */
function authoritiesOf({ name, authorities }: EndorsementSource): AuthoritySource {
  if (authorities === undefined) throw new SnpError("ERR_SNP_KDS_REQUEST", `${name} has no files of the authorities`);
  return authorities;
}

function noAddress(source: string, url: string, error: unknown): SnpError {
  const inner: unknown = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  const { host } = new URL(url);
  return new SnpError("ERR_SNP_KDS_UNAVAILABLE", `${source}: no address of ${host} is to be had: ${messageOf(inner)}`, {
    cause: error,
    details: { source },
    hint: "Check the network and the service's address. Without a network, bring certificates with `sealpod certcache import`: a bundle of another cache, or a directory.",
  });
}
