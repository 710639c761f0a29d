import { stat } from "node:fs/promises";
import { join } from "node:path";
import { EndorsementCache, EndorsementStore } from "@sealpod/certcache";
import { isSealpodError, type Logger, messageOf } from "@sealpod/core";
import type { Certificate } from "@sealpod/pki";
import { endorsementRequestOf, parseReport } from "@sealpod/snp";
import type { CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { pathOf, stateOf } from "../workspace.ts";
import type { VerifyFlags } from "./verify-options.ts";
import type { Trust } from "./verify-trust.ts";

/** What the certificate cache of this machine has for a report. */
export interface CachedCertificates {
  /** VCEK, ASK and ARK; none if the cache has none that verify. */
  readonly certificates: readonly Certificate[];
  /** What to say of it: where they came from, or why there are none. */
  readonly found: string;
}

/**
 * Looks for a report's certificates in the certificate cache, and only there: nothing is fetched and nothing is written. What does not verify under the trusted roots counts as not there.
 * @returns undefined if there is no cache to look into
 * @throws {CliError} ERR_CLI_FILE for a directory that the command line names and that is not there
 * @throws {CertcacheError} ERR_CERTCACHE_STORE for such a directory that cannot be read
 */
export async function readCertcache(
  report: Uint8Array,
  { certcache }: Pick<VerifyFlags, "certcache">,
  { roots, clock }: Trust,
  context: CliContext,
): Promise<CachedCertificates | undefined> {
  if (certcache === "off") return undefined;
  const directory = certcache === undefined ? join(stateOf({}, context), "certcache") : pathOf(certcache, context);
  if (!(await isDirectory(directory))) {
    if (certcache === undefined) return undefined;
    throw new CliError("ERR_CLI_FILE", `--certcache ${certcache} is no directory`, { hint: "Name the directory of `sealpod certcache serve --dir`, or off." });
  }
  const problems: string[] = [];
  const logger: Logger = {
    log: (_level, message, fields) => {
      const problem = fields?.["problem"];
      problems.push(typeof problem === "string" ? problem : message);
    },
  };
  try {
    const request = endorsementRequestOf(parseReport(report));
    // Opening a store removes what killed writers left long ago. At the beginning of time nothing is old: this verb changes nothing.
    const store = await EndorsementStore.open({ directory, clock: { now: () => 0 }, random: context.random, logger });
    const { product, chain } = await new EndorsementCache({ store, roots, upstreams: [], clock, logger }).endorsement(request);
    const { endorsementKey, intermediate, root } = chain;
    return {
      certificates: [endorsementKey, intermediate, root],
      found: `VCEK, ASK and ARK for this ${product} chip and TCB, from the certificate cache ${directory}`,
    };
  } catch (error) {
    // A cache that nobody named is a help, not a condition.
    if (!isSealpodError(error) || (certcache !== undefined && error.code === "ERR_CERTCACHE_STORE")) throw error;
    return { certificates: [], found: `the certificate cache ${directory} does not help: ${[messageOf(error), ...problems].join("; ")}` };
  }
}

async function isDirectory(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch {
    return false;
  }
}
