import type { Random } from "@sealpod/core";
import { createService, Metrics, type Service, type ServiceLimits } from "@sealpod/service";
import { certcacheApp, type CertcacheAppOptions } from "./app.ts";
import { type CertcacheEvent, EndorsementCache, type EndorsementCacheOptions } from "./cache.ts";

/** Options of {@link certcacheService}. */
export interface CertcacheServiceOptions extends Omit<EndorsementCacheOptions, "observe" | "limits"> {
  readonly version: string;
  readonly random: Random;
  /** See {@link CertcacheAppOptions.thim}. */
  readonly thim?: CertcacheAppOptions["thim"];
  readonly cacheLimits?: EndorsementCacheOptions["limits"];
  readonly limits?: Partial<ServiceLimits>;
  /** Where health and metrics are; see `ServiceOptions.operations` of `@sealpod/service`. */
  readonly operations: "separate" | "main";
}

/** No request has a body. */
const MAX_BODY = 1024;

/** Milliseconds: a certificate that nobody has yet waits for its turn, is made by AMD, and its chain waits for its own turn. */
const REQUEST_TIME = 75_000;

/** The cache as a service, with its metrics: what was asked and what came of it, and how full the store is. */
export function certcacheService(options: CertcacheServiceOptions): Service {
  const { store, roots, upstreams, clock, random, logger, version, operations, thim } = options;
  const metrics = new Metrics();
  const events = metrics.counter("certcache_events_total", "What was asked of the certificate cache, and what came of it.", { labels: ["event"] });
  const entries = metrics.gauge("certcache_entries", "VCEK certificates in the store.");
  metrics.gauge("certcache_entries_limit", "VCEK certificates that the store takes.").set(store.maxEntries);
  metrics.beforeText(() => entries.set(store.count));
  const cache = new EndorsementCache({
    store,
    roots,
    upstreams,
    clock,
    logger,
    ...(options.cacheLimits !== undefined && { limits: options.cacheLimits }),
    observe: (event: CertcacheEvent) => events.with(event).inc(),
  });
  return createService({
    name: "certcache",
    version,
    app: certcacheApp({ cache, logger, ...(thim !== undefined && { thim }) }),
    logger,
    clock,
    random,
    metrics,
    operations,
    limits: { maxBody: MAX_BODY, requestTime: REQUEST_TIME, ...options.limits },
  });
}
