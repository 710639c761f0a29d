import { type CachedEndorsement, EndorsementCache } from "@sealpod/certcache";
import { isSealpodError, toHex } from "@sealpod/core";
import {
  ENDORSEMENT_KINDS,
  type EndorsementRequest,
  endorsementRequestOf,
  formatTcbNumber,
  parseEndorsementKey,
  parseReport,
  type ProductName,
} from "@sealpod/snp";
import { recogniseEvidence } from "../attest/verify-input.ts";
import {
  openStore,
  productOf,
  progressOf,
  requestOfFlags,
  type StoreFlags,
  trustOf,
  type UpstreamFlags,
  upstreamsOf,
  wholeNumber,
} from "../certcache/session.ts";
import { EXIT, type CliContext } from "../context.ts";
import { formatError } from "../diagnostic.ts";
import { CliError } from "../errors.ts";
import type { GlobalOptions, Verb } from "../program.ts";
import { readBytes } from "../workspace.ts";

interface Options extends StoreFlags, UpstreamFlags {
  readonly chipId?: string;
  readonly tcb?: string;
  readonly product?: string;
  readonly wait: string;
}

/** One line of the result. */
interface Line {
  /** What was asked for, such as the name of a report's file. */
  readonly name: string;
  readonly text: string;
  readonly json: Record<string, unknown>;
}

/** `sealpod certcache fetch`. */
export const run: Verb<Options> = async (options, reports, context) => {
  const { chipId, tcb, product } = options;
  if ((chipId === undefined) !== (tcb === undefined)) throw new CliError("ERR_CLI_USAGE", "--chip-id and --tcb are given together or not at all");
  if (reports.length === 0 && chipId === undefined && product === undefined) {
    throw new CliError("ERR_CLI_USAGE", "nothing to fetch", {
      hint: "Name reports, or --chip-id and --tcb, or a --product for its authorities and revocation lists.",
    });
  }
  if (reports.length > 0 && (chipId !== undefined || product !== undefined))
    throw new CliError("ERR_CLI_USAGE", "reports stand beside --chip-id or --product", { hint: "Reports say all of that themselves." });
  const chip = chipId === undefined || tcb === undefined ? undefined : requestOfFlags({ chipId: "--chip-id", tcb: "--tcb" }, chipId, tcb, product);
  const authorities = chip === undefined && product !== undefined ? productOf(product) : undefined;

  const progress = progressOf(options, context);
  const { logger } = progress;
  const upstreams = upstreamsOf(options, context, logger, wholeNumber("--wait", options.wait, 0) * 1000);
  const { roots, clock } = await trustOf(options, context);
  const cache = new EndorsementCache({ store: await openStore(options, context, logger, "make"), roots, upstreams, clock, logger: { log: () => undefined } });
  const lines: Line[] = [];
  const failures: { readonly name: string; readonly error: unknown }[] = [];
  const attempt = async (name: string, work: () => Promise<readonly Line[]>): Promise<void> => {
    progress.show(`${name}: asking ${upstreams.map((source) => source.name).join(", ") || "the store"}`);
    try {
      lines.push(...(await work()));
    } catch (error) {
      // One report that nobody has a certificate for does not keep the others from being served.
      if (!isSealpodError(error)) throw error;
      failures.push({ name, error });
    } finally {
      progress.clear();
    }
  };
  for (const name of reports) {
    await attempt(name, async () => [certificateLine(name, await cache.endorsement(await requestOfReport(name, context)))]);
  }
  if (chip !== undefined) await attempt("chip", async () => [certificateLine("chip", await cache.endorsement(chip))]);
  if (authorities !== undefined) {
    for (const kind of ENDORSEMENT_KINDS) await attempt(`${kind} ${authorities}`, async () => authorityLines(cache, kind, authorities));
  }
  return show(lines, failures, options, context);
};

function show(
  lines: readonly Line[],
  failures: readonly { readonly name: string; readonly error: unknown }[],
  options: GlobalOptions,
  context: CliContext,
): number {
  const [first] = failures;
  // One thing that failed is the command's failure, as everywhere.
  if (first !== undefined && failures.length === 1 && lines.length === 0) throw first.error;
  if (options.json === true) {
    const failed = failures.map(({ name, error }) => ({ name, ...(JSON.parse(formatError(error, { json: true, debug: false }).text) as object) }));
    context.stdout.write(`${JSON.stringify({ fetched: lines.map(({ json }) => json), failed }, undefined, 2)}\n`);
  } else {
    for (const { name, text } of lines) context.stdout.write(`${name}: ${text}\n`);
    for (const { name, error } of failures) context.stderr.write(`${name}: ${formatError(error, { json: false, debug: options.debug === true }).text}`);
  }
  return first === undefined ? EXIT.ok : formatError(first.error, { json: false, debug: false }).exit;
}

async function requestOfReport(name: string, context: CliContext): Promise<EndorsementRequest> {
  const input = recogniseEvidence(await readBytes(name, context), name);
  if (input.kind !== "report") throw new CliError("ERR_CLI_FILE", `${name} is ${input.form}, expected an attestation report`);
  return endorsementRequestOf(parseReport(input.report));
}

function certificateLine(name: string, { chain, product, origin }: CachedEndorsement): Line {
  const { hwId, tcbBytes } = parseEndorsementKey(chain.endorsementKey);
  const id = toHex(hwId ?? new Uint8Array());
  const tcb = formatTcbNumber(tcbBytes);
  return {
    name,
    text: `${product} chip ${id.slice(0, 16)}${id.length > 16 ? "…" : ""}, TCB ${tcb}: ${origin === "store" ? "was there" : "fetched"}`,
    json: { kind: "vcek", name, product, hwId: id, tcb, origin },
  };
}

async function authorityLines(cache: EndorsementCache, kind: "vcek" | "vlek", product: ProductName): Promise<readonly Line[]> {
  await cache.authorities(kind, product);
  const { number, nextUpdate, revoked } = await cache.crl(kind, product);
  const until = new Date(nextUpdate).toISOString();
  return [
    { name: `${kind} ${product}`, text: "certificates of the authorities", json: { kind: "authorities", hierarchy: kind, product } },
    {
      name: `${kind} ${product}`,
      text: `revocation list with ${revoked.size} entries, until ${until}`,
      json: { kind: "crl", hierarchy: kind, product, number: number?.toString(), nextUpdate: until, entries: revoked.size },
    },
  ];
}
