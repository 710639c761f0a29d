import type { Clock, Logger } from "@sealpod/core";
import { messageOf } from "@sealpod/core";
import { type Certificate, type Crl, verifyCrl } from "@sealpod/pki";
import {
  type Authorities,
  type CertificateChain,
  checkRequest,
  describeRequest,
  type Endorsement,
  type EndorsementKind,
  type EndorsementRequest,
  type EndorsementSource,
  fallbackSource,
  parseEndorsementKey,
  type ProductName,
  SnpError,
  type TrustRoot,
} from "@sealpod/snp";
import { CertcacheError } from "./errors.ts";
import { SingleFlight } from "./single-flight.ts";
import { type EndorsementStore, nameOf } from "./store.ts";
import { isSamePair, orderedPairs, trusted, underAny, verifyAuthorities, verifyEndorsement } from "./trust.ts";

/** Bounds of a cache, each with a default. */
export interface CertcacheLimits {
  /** Milliseconds for which the upstream's "there is none" is believed. Default: 10 minutes; a chip of tomorrow, or a TCB after an update, is asked for again soon. */
  readonly notFoundMs: number;
  /** Most answers of that kind that are remembered, the oldest forgotten first. Default: 4096, below 2 MiB. */
  readonly notFoundEntries: number;
  /** Milliseconds after which a revocation list is fetched again although it is in date. Default: an hour. */
  readonly crlRefreshMs: number;
  /** Milliseconds after a failed refresh before the next, as long as the list is in date. Default: a minute. */
  readonly crlRetryMs: number;
  /** Most certificates and lists that are fetched at a time. Default: 64. */
  readonly fetches: number;
}

/** {@link CertcacheLimits} as they are if nothing else is said. */
export const DEFAULT_CERTCACHE_LIMITS: CertcacheLimits = {
  notFoundMs: 600_000,
  notFoundEntries: 4096,
  crlRefreshMs: 3_600_000,
  crlRetryMs: 60_000,
  fetches: 64,
};

/** Chain and revocation list of each product and kind, and room. */
const AUTHORITY_FLIGHTS = 16;

/** What happened, for metrics. */
export type CertcacheEvent = "hit" | "miss" | "fetched" | "not-found" | "throttled" | "failed" | "untrusted" | "full";

/** Options of {@link EndorsementCache}. */
export interface EndorsementCacheOptions {
  readonly store: EndorsementStore;
  /** AMD's; the emulator's only if somebody names it. */
  readonly roots: readonly TrustRoot[];
  /** Asked in this order for what the store does not have; none means offline. */
  readonly upstreams: readonly EndorsementSource[];
  readonly clock: Clock;
  readonly logger: Logger;
  readonly limits?: Partial<CertcacheLimits>;
  readonly observe?: (event: CertcacheEvent) => void;
}

/** A verified chain for a report, and where it came from. */
export interface CachedEndorsement {
  readonly product: ProductName;
  readonly chain: CertificateChain;
  readonly origin: "store" | "upstream";
  /** True if the certificate verifies under an authority that AMD has issued again since. */
  readonly isFormer: boolean;
}

/**
 * The store, and the upstreams for what it does not have. Each upstream is asked once for what many want at the same time; what it gives is verified down to a trusted root, then stored,
 * then handed out. What comes from the disk is verified each time.
 */
export class EndorsementCache {
  readonly store: EndorsementStore;
  readonly #options: EndorsementCacheOptions;
  readonly #limits: CertcacheLimits;
  readonly #upstream: EndorsementSource | undefined;
  readonly #flights: SingleFlight;
  /** Of their own: a certificate's flight waits for that of its authorities, of which there are few. */
  readonly #authorityFlights = new SingleFlight(AUTHORITY_FLIGHTS);
  /** Until when the upstream is not asked again for what it did not have, by name; in the order in which the answers came. */
  readonly #notFound = new Map<string, number>();
  /** When a revocation list is to be asked for again, by name. */
  readonly #crlDue = new Map<string, number>();

  constructor(options: EndorsementCacheOptions) {
    this.store = options.store;
    this.#options = options;
    this.#limits = { ...DEFAULT_CERTCACHE_LIMITS, ...options.limits };
    this.#upstream = options.upstreams.length === 0 ? undefined : fallbackSource(options.upstreams);
    this.#flights = new SingleFlight(this.#limits.fetches);
  }

  /**
   * VCEK, ASK and ARK for a chip and TCB. A stored certificate under a former authority is asked for again, at most once in `notFoundMs`: the face of AMD's service gives today's authorities
   * apart from it. It is handed out with its own if the upstream has no other.
   * @throws {SnpError} ERR_SNP_KDS_REQUEST, ERR_SNP_KDS_NOT_FOUND, ERR_SNP_KDS_THROTTLED, ERR_SNP_KDS_UNAVAILABLE, ERR_SNP_KDS_RESPONSE
   * @throws {CertcacheError} ERR_CERTCACHE_UNTRUSTED, ERR_CERTCACHE_STORE
   */
  async endorsement(request: EndorsementRequest): Promise<CachedEndorsement> {
    checkRequest(request);
    const stored = await this.#stored(request);
    const name = `${request.products.join("|")} ${nameOf(request)}`;
    const wasAsked = this.#options.clock.now() < (this.#notFound.get(name) ?? Number.NEGATIVE_INFINITY);
    if (stored !== undefined && (!stored.isFormer || wasAsked || this.#upstream === undefined)) {
      this.#observe("hit");
      return stored;
    }
    this.#observe("miss");
    if (wasAsked) throw this.#none(request, " (asked before)");
    const flight = this.#flights.run(name, async () => {
      // Somebody else's flight may have landed since the store was looked at.
      const landed = await this.#stored(request);
      if (landed !== undefined && !landed.isFormer) return landed;
      if (this.#upstream === undefined) throw this.#none(request, ", and there is no upstream to ask");
      try {
        const fetched = await this.#fetched(await this.#upstream.fetchEndorsement(request), request);
        if (fetched.isFormer) this.#remember(name);
        return fetched;
      } catch (error) {
        if (landed !== undefined || (error instanceof SnpError && error.code === "ERR_SNP_KDS_NOT_FOUND")) this.#remember(name);
        this.#failed(error, describeRequest(request));
        throw error;
      }
    });
    if (stored === undefined) return flight;
    try {
      return await flight;
    } catch (error) {
      // Also if there was no room for one more flight.
      if (error instanceof SnpError || error instanceof CertcacheError) return stored;
      throw error;
    }
  }

  /**
   * ASK (or ASVK) and ARK of a product.
   * @throws as {@link endorsement}
   */
  async authorities(kind: EndorsementKind, product: ProductName): Promise<Authorities> {
    const [today] = await this.#storedPairs(kind, product);
    if (today !== undefined) {
      this.#observe("hit");
      return today;
    }
    this.#observe("miss");
    return this.#fetchAuthorities(kind, product);
  }

  /**
   * The revocation list of a product's root, in date. It is fetched again once an hour; while the upstream fails, the stored one is handed out until its nextUpdate and not longer.
   * @throws as {@link endorsement}
   */
  async crl(kind: EndorsementKind, product: ProductName): Promise<Crl> {
    const name = `${kind} ${product} crl`;
    const stored = await this.#storedCrl(kind, product);
    const due = this.#crlDue.get(name) ?? Number.NEGATIVE_INFINITY;
    if (stored !== undefined && (this.#options.clock.now() < due || this.#upstream?.authorities === undefined)) {
      this.#observe("hit");
      return stored;
    }
    this.#observe("miss");
    try {
      return await this.#authorityFlights.run(name, async () => this.#refreshCrl(kind, product, name));
    } catch (error) {
      if (stored === undefined || !(error instanceof SnpError || error instanceof CertcacheError)) throw error;
      this.#crlDue.set(name, this.#options.clock.now() + this.#limits.crlRetryMs);
      this.#options.logger.log("warn", "revocation list could not be refreshed: the stored one is handed out", { list: name, problem: error.message });
      return stored;
    }
  }

  async #stored(request: EndorsementRequest): Promise<CachedEndorsement | undefined> {
    const found = await this.store.readEndorsement(request);
    if (found === undefined) return undefined;
    const { product } = found.key;
    // One chip, one product: who asks for this chip under another name gets what the upstream would say.
    if (!request.products.includes(product)) throw this.#none(request, "");
    const pairs = await this.#storedPairs("vcek", product);
    if (pairs.length === 0 && this.#upstream === undefined) {
      this.#options.logger.log("warn", "certificate in the cache without the certificates of its authorities", { product });
      return undefined;
    }
    return this.#verified(found.certificate, pairs.length === 0 ? [await this.#fetchAuthorities("vcek", product)] : pairs, request);
  }

  /** The chain of a file, or undefined if it does not verify: then it counts as not there. */
  #verified(endorsementKey: Certificate, pairs: readonly Authorities[], request: EndorsementRequest): CachedEndorsement | undefined {
    try {
      const pair = underAny(pairs, (item) => verifyEndorsement(endorsementKey, item, this.#options));
      const { product } = parseEndorsementKey(endorsementKey);
      return { product, chain: { endorsementKey, ...pair }, origin: "store", isFormer: pair !== pairs[0] };
    } catch (error) {
      this.#failed(error, describeRequest(request));
      return undefined;
    }
  }

  async #fetched({ endorsementKey, product, authorities: sent }: Endorsement, request: EndorsementRequest): Promise<CachedEndorsement> {
    const pair = await this.#pairOver(endorsementKey, product, sent);
    if ((await this.store.writeEndorsement(endorsementKey)) === "full") {
      this.#observe("full");
      this.#options.logger.log("warn", "the certificate cache is full: a certificate was handed out and not kept", {
        limit: this.store.maxEntries,
        request: describeRequest(request),
      });
    }
    this.#observe("fetched");
    const [today = pair] = await this.#storedPairs("vcek", product);
    return { product, chain: { endorsementKey, ...pair }, origin: "upstream", isFormer: !isSamePair(pair, today) };
  }

  /**
   * The pair that a fetched certificate verifies under: a stored one, or else the one that came with it, or else a fresh one. AMD may issue an ASK again under its name,
   * and the old one stays valid: what verifies under either is genuine, so both are kept.
   */
  async #pairOver(endorsementKey: Certificate, product: ProductName, sent: Authorities | undefined): Promise<Authorities> {
    const verify = (pair: Authorities): unknown => verifyEndorsement(endorsementKey, pair, this.#options);
    const stored = await this.#storedPairs("vcek", product);
    let refusal: unknown;
    try {
      if (stored.length > 0) return underAny(stored, verify);
    } catch (error) {
      refusal = error;
    }
    if (sent !== undefined) {
      const pair = verifyAuthorities("vcek", product, sent, this.#options);
      verify(pair);
      await this.store.writeAuthorities("vcek", product, orderedPairs([pair, ...stored]));
      return pair;
    }
    try {
      const pair = await this.#fetchAuthorities("vcek", product, stored);
      verify(pair);
      return pair;
    } catch (error) {
      // Who cannot be asked now may have an answer later; any other answer leaves the certificate as it was, untrusted.
      const isLater = error instanceof SnpError && (error.code === "ERR_SNP_KDS_THROTTLED" || error.code === "ERR_SNP_KDS_UNAVAILABLE");
      throw isLater ? error : (refusal ?? error);
    }
  }

  /** The stored pairs that verify. */
  async #storedPairs(kind: EndorsementKind, product: ProductName): Promise<readonly Authorities[]> {
    return (await this.store.readAuthorities(kind, product)).filter((pair) => {
      try {
        return verifyAuthorities(kind, product, pair, this.#options);
      } catch (error) {
        this.#failed(error, `authorities ${kind} ${product}`);
        return false;
      }
    });
  }

  /** @param tried pairs that were no use */
  async #fetchAuthorities(kind: EndorsementKind, product: ProductName, tried: readonly Authorities[] = []): Promise<Authorities> {
    return this.#authorityFlights.run(`${kind} ${product} chain`, async () => {
      const stored = await this.#storedPairs(kind, product);
      const landed = stored.find((pair) => !tried.some((other) => isSamePair(pair, other)));
      if (landed !== undefined) return landed;
      const source = this.#upstream?.authorities;
      if (source === undefined) throw noneOf(`certificates of the authorities ${kind} ${product}`, authoritiesHint(product));
      try {
        const authorities = verifyAuthorities(kind, product, await source.fetchAuthorities(kind, product), this.#options);
        await this.store.writeAuthorities(kind, product, orderedPairs([authorities, ...stored]));
        this.#observe("fetched");
        return authorities;
      } catch (error) {
        this.#failed(error, `authorities ${kind} ${product}`);
        throw error;
      }
    });
  }

  async #storedCrl(kind: EndorsementKind, product: ProductName): Promise<Crl | undefined> {
    const crl = await this.store.readCrl(kind, product);
    if (crl === undefined || this.#options.clock.now() >= crl.nextUpdate + 1000) return undefined;
    const pairs = await this.#storedPairs(kind, product);
    if (pairs.length === 0) return undefined;
    try {
      trusted(`revocation list ${kind} ${product}`, () => underAny(pairs, ({ root }) => verifyCrl(crl, root, this.#options)));
      return crl;
    } catch (error) {
      this.#failed(error, `revocation list ${kind} ${product}`);
      return undefined;
    }
  }

  async #refreshCrl(kind: EndorsementKind, product: ProductName, name: string): Promise<Crl> {
    const source = this.#upstream?.authorities;
    if (source === undefined)
      throw noneOf(
        `revocation list ${kind} ${product} that is in date`,
        `${authoritiesHint(product)} A list is good until its nextUpdate: import a new one before that.`,
      );
    try {
      const fetched = await source.fetchCrl(kind, product);
      const pairs = [await this.authorities(kind, product), ...(await this.#storedPairs(kind, product))];
      trusted(`revocation list ${kind} ${product}`, () => underAny(pairs, ({ root }) => verifyCrl(fetched, root, this.#options)));
      const stored = await this.#storedCrl(kind, product);
      this.#crlDue.set(name, this.#options.clock.now() + this.#limits.crlRefreshMs);
      // An older list that is still in date would bring back what was revoked since.
      if (stored !== undefined && !isNewer(fetched, stored)) return stored;
      await this.store.writeCrl(kind, product, fetched);
      this.#observe("fetched");
      return fetched;
    } catch (error) {
      this.#failed(error, `revocation list ${kind} ${product}`);
      throw error;
    }
  }

  #remember(name: string): void {
    this.#notFound.delete(name);
    for (const oldest of this.#notFound.keys()) {
      if (this.#notFound.size < this.#limits.notFoundEntries) break;
      this.#notFound.delete(oldest);
    }
    if (this.#limits.notFoundEntries > 0) this.#notFound.set(name, this.#options.clock.now() + this.#limits.notFoundMs);
  }

  #none(request: EndorsementRequest, why: string): SnpError {
    return noneOf(`certificate of ${describeRequest(request)}${why}`, CERTIFICATE_HINT);
  }

  #failed(error: unknown, what: string): void {
    const code = error instanceof SnpError || error instanceof CertcacheError ? error.code : undefined;
    if (code === undefined) throw error;
    this.#observe(
      code === "ERR_SNP_KDS_NOT_FOUND"
        ? "not-found"
        : code === "ERR_SNP_KDS_THROTTLED"
          ? "throttled"
          : code === "ERR_CERTCACHE_UNTRUSTED"
            ? "untrusted"
            : "failed",
    );
    this.#options.logger.log(code === "ERR_SNP_KDS_NOT_FOUND" ? "info" : "warn", "certificate cache", { what, code, problem: messageOf(error) });
  }

  #observe(event: CertcacheEvent): void {
    this.#options.observe?.(event);
  }
}

/** True if the first list was issued after the second. */
export function isNewer(a: Crl, b: Crl): boolean {
  return a.thisUpdate === b.thisUpdate ? (a.number ?? -1n) > (b.number ?? -1n) : a.thisUpdate > b.thisUpdate;
}

const CERTIFICATE_HINT =
  "Ask for the report's REPORTED_TCB, not for CURRENT_TCB; a Turin chip id has 8 bytes. Fill an offline cache with `sealpod certcache import`.";

/** Azure's cache and THIM have no chains or lists of their own to give. */
function authoritiesHint(product: ProductName): string {
  return `Fetch the chains and revocation lists with \`sealpod certcache fetch --product ${product}\`, import a bundle that has them, or name an upstream that gives them (--upstream kds).`;
}

function noneOf(what: string, hint: string): SnpError {
  return new SnpError("ERR_SNP_KDS_NOT_FOUND", `the certificate cache has no ${what}`, {
    details: { source: "certcache" },
    hint,
  });
}
