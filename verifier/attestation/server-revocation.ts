import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { messageOf, type Clock, type Logger, type Random } from "@sealpod/core";
import { parseCrl, parsePem, type Crl } from "@sealpod/pki";
import { ServiceError } from "@sealpod/service";
import { ENDORSEMENT_KINDS, kdsSource, type ProductName } from "@sealpod/snp";
import type { RevocationOptions } from "./attest.ts";
import type { AttestationSettings } from "./server-settings.ts";

/** Milliseconds between tries to fetch lists that are not there yet. */
const RETRY = 60 * 1000;
/** Milliseconds that a start waits for the first lists; after that they come when they come. */
const FIRST = 5000;
const PEM_LABEL = "X509 CRL";

/** The revocation lists of a running service. */
export interface RevocationLists extends AsyncDisposable {
  readonly options: RevocationOptions;
  /** @throws {Error} if evidence is refused for want of a list */
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
 * The lists that a configuration names; undefined if it says off. Whether their signature and dates are right is checked with each report.
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
    // Of every product: who issued a list says what it is about.
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
  const lists = new Map<string, { readonly product: ProductName; readonly crl: Crl }>();
  const fetchAll = async (): Promise<boolean> => {
    let complete = true;
    for (const product of products) {
      for (const kind of ENDORSEMENT_KINDS) {
        try {
          lists.set(`${kind} ${product}`, { product, crl: await authorities.fetchCrl(kind, product, stop.signal) });
        } catch (error) {
          if (stop.signal.aborted) return false;
          complete = false;
          logger.log("warn", "a revocation list was not fetched", { product, kind, problem: messageOf(error) });
        }
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
    options: { crls: (product) => [...lists.values()].filter((item) => item.product === product).map(({ crl }) => crl), missing },
    check() {
      const without = products.filter((product) => ![...lists.values()].some((item) => item.product === product));
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
