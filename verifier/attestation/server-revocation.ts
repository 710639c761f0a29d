import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { equalBytes, messageOf, type Clock, type Logger, type Random } from "@sealpod/core";
import { compareCrlAge, equalNames, isSignedBy, parseCrl, parsePem, type Certificate, type Crl, type VerifiedCrl } from "@sealpod/pki";
import { ServiceError } from "@sealpod/service";
import { ENDORSEMENT_KINDS, kdsSource, type EndorsementKind, type ProductName } from "@sealpod/snp";
import type { RevocationOptions } from "./attest.ts";
import type { AttestationSettings } from "./server-settings.ts";

/** Milliseconds between tries to fetch lists that are not there yet. */
const RETRY = 60 * 1000;
/** Milliseconds that a start waits for the first lists; after that they come when they come. */
const FIRST = 5000;
const PEM_LABEL = "X509 CRL";
/** Lists of one product and kind that wait for a root certificate to verify them: as many as refreshes bring until the first evidence does, of which the newest are kept. */
const MAX_UNVERIFIED = 4;
/** Roots of one product whose certificates are remembered: AMD's and an emulator's, and room. */
const MAX_ROOTS = 8;

/** The revocation lists of a running service. */
export interface RevocationLists extends AsyncDisposable {
  readonly options: RevocationOptions;
  /** @throws {Error} if evidence of some product and kind is refused for want of a list, naming them */
  check(): void;
  /** Reads or fetches them again. What fails is logged, and the lists that are there stay. */
  refresh(): Promise<void>;
}

/** What {@link openRevocation} works with. */
export interface RevocationPorts {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly fetch: (url: string, init: RequestInit) => Promise<Response>;
}

/**
 * The lists that a configuration names; undefined if it says off. Whether their dates are right, and the signature of those that were not verified yet, is checked with each report.
 * @param products those of the roots
 * @throws {ServiceError} ERR_SERVICE_CONFIG for a file that is no list
 */
export async function openRevocation(
  revocation: AttestationSettings["revocation"],
  products: readonly ProductName[],
  ports: RevocationPorts,
): Promise<RevocationLists | undefined> {
  const { crls, missing } = revocation;
  switch (crls.kind) {
    case "off":
      return undefined;
    case "files":
      return listsOfFiles(crls.files, missing, ports.logger);
    case "service":
      return listsOfService(crls.url, revocation, [...new Set(products)], ports);
  }
}

async function listsOfFiles(files: readonly string[], missing: "accept" | "refuse", logger: Logger): Promise<RevocationLists> {
  const read = async (): Promise<readonly Crl[]> => (await Promise.all(files.map(readCrlFile))).flat();
  let lists = await read();
  return {
    // Of every product: who issued a list says what it is about. But for the kind of key, which no list says: they stay untagged.
    options: { crls: () => lists, missing },
    check: () => undefined,
    async refresh() {
      try {
        lists = await read();
        logger.log("info", "revocation lists read", { lists: lists.length });
      } catch (error) {
        logger.log("error", "the revocation lists stay as they were", { problem: messageOf(error) });
      }
    },
    [Symbol.asyncDispose]: async () => undefined,
  };
}

async function listsOfService(
  url: string,
  { missing, refresh }: AttestationSettings["revocation"],
  products: readonly ProductName[],
  { clock, random, logger, fetch }: RevocationPorts,
): Promise<RevocationLists> {
  const stop = new AbortController();
  const { authorities } = kdsSource({ base: url, fetch, clock, random, logger, sleep: async (ms, signal) => sleep(ms, undefined, { signal }) });
  const lists = products.flatMap((product) => ENDORSEMENT_KINDS.map((kind) => new KeptLists(product, kind)));
  const fetchAll = async (): Promise<boolean> => {
    let complete = true;
    for (const kept of lists) {
      const { product, kind } = kept;
      try {
        const problem = kept.add(await authorities.fetchCrl(kind, product, stop.signal));
        if (problem !== undefined) logger.log("warn", "a fetched revocation list was not taken", { product, kind, problem });
      } catch (error) {
        if (stop.signal.aborted) return false;
        complete = false;
        logger.log("warn", "a revocation list was not fetched", { product, kind, problem: messageOf(error) });
      }
    }
    return complete;
  };
  let running: Promise<boolean> | undefined;
  const once = async (): Promise<boolean> => {
    running ??= fetchAll().finally(() => {
      running = undefined;
    });
    return running;
  };
  const follow = async (): Promise<void> => {
    while (!stop.signal.aborted) {
      const complete = await once();
      await sleep(complete ? refresh : Math.min(refresh, RETRY), undefined, { signal: stop.signal, ref: false }).catch(() => undefined);
    }
  };
  const first = once();
  const following = follow();
  await Promise.race([first, sleep(FIRST, undefined, { signal: stop.signal })]);
  return {
    options: {
      crls: (product) => lists.filter((kept) => kept.product === product).flatMap((kept) => kept.tagged()),
      missing,
      learnRoot(product, root) {
        for (const kept of lists) if (kept.product === product) kept.learnRoot(root);
      },
    },
    check() {
      const without = lists.filter((kept) => kept.isEmpty).map(({ product, kind }) => `${product} (${kind.toUpperCase()})`);
      if (missing === "refuse" && without.length > 0) throw new Error(`no revocation list of ${without.join(", ")} yet, and evidence without one is refused`);
    },
    async refresh() {
      await once();
    },
    async [Symbol.asyncDispose]() {
      stop.abort();
      await following;
    },
  };
}

/**
 * The lists of one product and kind. A service that hands out an old list, or one of its own making, must not take away a newer or a genuine one: a verified list gives way
 * to a newer verified one alone. Without the root's certificate nothing can be verified: until evidence brings it, what was fetched is kept side by side.
 */
class KeptLists {
  readonly product: ProductName;
  readonly kind: EndorsementKind;
  readonly #roots: Certificate[] = [];
  /** One for each root. */
  #verified: readonly VerifiedCrl[] = [];
  /** Newest first. */
  #unverified: readonly Crl[] = [];

  constructor(product: ProductName, kind: EndorsementKind) {
    this.product = product;
    this.kind = kind;
  }

  get isEmpty(): boolean {
    return this.#verified.length + this.#unverified.length === 0;
  }

  tagged(): ReturnType<RevocationOptions["crls"]> {
    return [...this.#verified, ...this.#unverified].map((crl) => ({ kind: "tagged-crl", endorsement: this.kind, crl }));
  }

  /** @returns why the list was not taken, or undefined */
  add(crl: Crl): string | undefined {
    const issuer = this.#roots.find((root) => isSignedBy(crl, root));
    if (issuer !== undefined) {
      const known = this.#verified.find((item) => equalBytes(item.issuer.der, issuer.der));
      if (known !== undefined && compareCrlAge(crl, known.crl) <= 0) {
        return equalBytes(crl.der, known.crl.der) ? undefined : "it is no newer than the one that is there";
      }
      this.#verified = [...this.#verified.filter((item) => item !== known), { kind: "verified-crl", crl, issuer }];
      return undefined;
    }
    // One that no genuine list stands beside is kept: that it is refused with each report says that something is wrong.
    if (this.#verified.some((item) => equalNames(item.issuer.subject, crl.issuer))) return "its issuer did not sign it";
    if (this.#unverified.some((item) => equalBytes(item.der, crl.der))) return undefined;
    this.#unverified = [...this.#unverified, crl].sort((a, b) => compareCrlAge(b, a)).slice(0, MAX_UNVERIFIED);
    return undefined;
  }

  /** @param root whose key is a trusted one, and signed it */
  learnRoot(root: Certificate): void {
    if (this.#roots.length === MAX_ROOTS || this.#roots.some((known) => equalBytes(known.der, root.der))) return;
    this.#roots.push(root);
    const waiting = this.#unverified;
    this.#unverified = [];
    // Genuine ones first, so that none of another's making waits beside them.
    for (const crl of waiting.toSorted((a, b) => Number(isSignedBy(b, root)) - Number(isSignedBy(a, root)))) this.add(crl);
  }
}

async function readCrlFile(file: string): Promise<readonly Crl[]> {
  try {
    const bytes = new Uint8Array(await readFile(file));
    const text = Buffer.from(bytes).toString("latin1");
    const ders = text.includes(`-----BEGIN ${PEM_LABEL}-----`) ? parsePem(text, PEM_LABEL, file) : [bytes];
    return ders.map((der) => parseCrl(der, file));
  } catch (cause) {
    throw new ServiceError("ERR_SERVICE_CONFIG", `the revocation list ${file} cannot be used: ${messageOf(cause)}`, { cause });
  }
}
