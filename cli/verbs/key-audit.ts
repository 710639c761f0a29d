import { setTimeout as delay } from "node:timers/promises";
import { asArray, asObject, encodeJson, type JsonObject } from "@sealpod/core";
import { EXIT, type CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { auditText, findingsText } from "../key/audit-text.ts";
import { integerOf } from "../key/attributes.ts";
import { openVaults, type VaultOperation, type VaultOptions } from "../key/open-vault.ts";
import type { Vault } from "../key/vault-client.ts";
import type { GlobalOptions, Verb } from "../program.ts";
import { writeJson } from "../rego/output.ts";

interface Options extends VaultOptions {
  readonly name?: string;
  readonly operation?: string;
  readonly requestId?: string;
  readonly limit: string;
  readonly follow?: boolean;
  readonly long?: boolean;
  readonly all?: boolean;
}

/** Lines that one request asks for; what the service gives at most. */
const PAGE = 1000;
/** Milliseconds between looks with `--follow`. */
const PAUSE = 2000;

/** Waits before the next look; false once the user has had enough. */
export type AuditPause = (signal: AbortSignal) => Promise<boolean>;

/** `sealpod key audit` with its vault: the oldest first, as a log is read. */
export const operation: VaultOperation<Options> = async (vault, options, _operands, context) => showAudit([vault], options, context, pause);

/** A line, and the vault whose audit has it. */
interface VaultLine {
  readonly vault: Vault;
  readonly line: JsonObject;
}

/** The verb with a clock of its own. Lines of several vaults are put together by time. */
export async function showAudit(vaults: readonly Vault[], options: Options & GlobalOptions, context: CliContext, wait: AuditPause): Promise<number> {
  const limit = integerOf("--limit", options.limit, 1, 1_000_000);
  const filter = {
    ...(options.name === undefined ? {} : { name: options.name }),
    ...(options.operation === undefined ? {} : { operation: options.operation }),
    ...(options.requestId === undefined ? {} : { requestId: options.requestId }),
  };
  // Who asks for one thing gets it; the reads of the audit are most of an audit that is read.
  const readsToo = options.all === true || options.operation !== undefined || options.requestId !== undefined;
  // Before the lines are read, which leaves lines itself.
  const last = new Map<Vault, number>();
  const all: VaultLine[] = [];
  for (const vault of vaults) {
    const { lines, latest } = await readLines(vault, filter, { limit, readsToo });
    last.set(vault, latest);
    all.push(...lines.toReversed().map((line) => ({ vault, line })));
  }
  const shownLines = all.toSorted(byTime).slice(-limit);
  if (options.follow !== true) {
    if (options.json === true)
      writeJson(
        context.stdout,
        shownLines.map(({ line }) => line),
      );
    else for (const item of shownLines) writeLine(item, options, context);
    if (shownLines.length === 0 && options.json !== true)
      context.stderr.write(`nothing in the audit of ${vaults.map(({ base }) => base).join(" and ")}${Object.keys(filter).length === 0 ? "" : " fits"}\n`);
    return EXIT.ok;
  }
  for (const item of shownLines) writeLine(item, options, context);
  while (await wait(context.signal)) {
    const news: VaultLine[] = [];
    for (const vault of vaults) {
      // Each look leaves a line itself: to show it would go on for ever.
      const { lines, latest } = await readLines(vault, filter, { limit: Infinity, readsToo: false, after: last.get(vault) ?? 0 });
      last.set(vault, latest);
      news.push(...lines.toReversed().map((line) => ({ vault, line })));
    }
    for (const item of news.toSorted(byTime)) writeLine(item, options, context);
  }
  return EXIT.ok;
}

/** The sort is stable: lines of one vault and one moment stay in their order. */
function byTime({ line: a }: VaultLine, { line: b }: VaultLine): number {
  return (typeof a["at"] === "number" ? a["at"] : 0) - (typeof b["at"] === "number" ? b["at"] : 0);
}

/** Which lines of an audit are read. */
interface Reading {
  readonly limit: number;
  /** Whether reads of the audit count. */
  readonly readsToo: boolean;
  /** Lines down to but without this id. */
  readonly after?: number;
}

/** The latest lines, the latest first, and the id of the latest of all, be it shown or not. */
async function readLines(
  vault: Vault,
  filter: Readonly<Record<string, string>>,
  { limit, readsToo, after = 0 }: Reading,
): Promise<{ readonly lines: readonly JsonObject[]; readonly latest: number }> {
  const lines: JsonObject[] = [];
  let latest = after;
  let before: string | undefined;
  while (lines.length < limit) {
    // What is left out counts on the page: not one line at a time then.
    const size = Math.min(PAGE, readsToo ? limit - lines.length : Math.max(limit, 100));
    const query = { ...filter, limit: String(size), ...(before === undefined ? {} : { before }) };
    const { value, nextBefore } = await vault.call("GET", "/sealpod/audit", undefined, query);
    const page = (asArray(value) ?? []).map((item) => asObject(item) ?? {});
    for (const line of page) {
      const id = idOf(line);
      latest = Math.max(latest, id);
      if (id <= after) return { lines, latest };
      if (readsToo || line["operation"] !== "audit/list") lines.push(line);
      if (lines.length === limit) return { lines, latest };
    }
    if (page.length === 0 || typeof nextBefore !== "number" || String(nextBefore) === before) return { lines, latest };
    before = String(nextBefore);
  }
  return { lines, latest };
}

function idOf(line: JsonObject): number {
  const { id } = line;
  if (typeof id === "number") return id;
  throw new CliError("ERR_CLI_VAULT", "a line of the audit has no id");
}

/** With `--follow` and `--json` each line is a document of its own. */
function writeLine({ line, vault }: VaultLine, options: Options & GlobalOptions, context: CliContext): void {
  if (options.json === true) context.stdout.write(`${encodeJson(line)}\n`);
  else
    context.stdout.write(
      auditText(line, vault.applications, options.long === true) + (line["outcome"] === "refused" ? findingsText(line["findings"], "    ") : ""),
    );
}

async function pause(signal: AbortSignal): Promise<boolean> {
  try {
    await delay(PAUSE, undefined, { signal });
    return true;
  } catch (error) {
    if (signal.aborted) return false;
    throw error;
  }
}

/** `sealpod key audit`. */
export const run: Verb<Options> = async (options, _operands, context) => {
  const { name: _filter, ...connection } = options;
  return showAudit(await openVaults(connection, context), options, context, pause);
};
