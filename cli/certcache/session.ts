import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { EndorsementStore, openUpstream, parseTrustRoot, parseUpstream, type Trust } from "@sealpod/certcache";
import { jsonLogger, type LogFields, type Logger, type LogLevel } from "@sealpod/core";
import {
  AMD_ROOTS,
  type EndorsementRequest,
  type EndorsementSource,
  type KdsPorts,
  parseTcbNumber,
  PRODUCT_NAMES,
  productsOfChip,
  type TrustRoot,
} from "@sealpod/snp";
import type { CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { Progress } from "../progress.ts";
import type { GlobalOptions } from "../program.ts";
import { pathOf, readText, stateOf } from "../workspace.ts";

/** Options of every verb of the group. */
export interface StoreFlags {
  readonly dir?: string;
  readonly maxEntries: string;
  readonly trust?: readonly string[];
}

/** Options of the verbs that ask others. */
export interface UpstreamFlags {
  readonly upstream?: readonly string[];
  readonly spacing?: string;
}

/** The log of the service on stderr, JSON for who collects logs: with --debug all of it. */
export function serviceLoggerOf(options: GlobalOptions, context: CliContext): Logger {
  return jsonLogger(context.clock, (line) => context.stderr.write(line), options.debug === true ? "debug" : "info", "certcache");
}

/** Readable lines on stderr for who waits at a terminal: warnings and errors, with --debug all of it. */
export function loggerOf(options: GlobalOptions, context: CliContext): Logger {
  return {
    log: (level, message, fields) => {
      if (options.debug === true || level === "warn" || level === "error") context.stderr.write(`${lineOf(level, message, fields)}\n`);
    },
  };
}

/** `warning: message: this (path …)`; what others wrote must not move the cursor or paint the terminal. */
function lineOf(level: LogLevel, message: string, { problem, ...rest }: LogFields = {}): string {
  const details = Object.entries(rest).flatMap(([name, value]) => (value === undefined || value === null ? [] : [`${name} ${value}`]));
  const text = `${message}${problem === undefined || problem === null ? "" : `: ${problem}`}${details.length === 0 ? "" : ` (${details.join(", ")})`}`;
  // eslint-disable-next-line no-control-regex -- these are what is looked for
  return `${level === "warn" ? "warning" : level}: ${text.replaceAll(/[\u0000-\u001f\u007f-\u009f]+/g, " ")}`;
}

/** How a command says what it is doing: a line of progress on a terminal, lines that stay with --debug, else nothing. */
export function progressOf(options: GlobalOptions, context: CliContext): { readonly logger: Logger; show(text: string): void; clear(): void } {
  const progress = new Progress(context);
  const show = (text: string): void => {
    if (options.debug === true) context.stderr.write(`${text}\n`);
    else progress.show(text);
  };
  const clear = (): void => progress.clear();
  const lines = loggerOf(options, context);
  return {
    show,
    clear,
    logger: {
      log: (level, message, fields = {}) => {
        const { waitMs, source, reason } = fields;
        if (typeof waitMs === "number" && options.debug !== true) {
          const why = typeof reason === "string" ? `${String(source)}: ${reason}; asked again` : "waiting for the service's turn: goes on";
          progress.show(`${why} in ${Math.ceil(waitMs / 1000)} s`);
          return;
        }
        if (level === "warn" || level === "error") clear();
        lines.log(level, message, fields);
      },
    },
  };
}

/**
 * Opens the store that the flags name.
 * @param missing see `StoreOptions` of `@sealpod/certcache`
 * @throws {CertcacheError} ERR_CERTCACHE_STORE for what is no directory, {CliError} ERR_CLI_USAGE
 */
export async function openStore(flags: StoreFlags & GlobalOptions, context: CliContext, logger: Logger, missing: "make" | "refuse"): Promise<EndorsementStore> {
  return EndorsementStore.open({
    missing,
    directory: flags.dir === undefined ? join(stateOf(flags, context), "certcache") : pathOf(flags.dir, context),
    maxEntries: wholeNumber("--max-entries", flags.maxEntries, 1),
    clock: context.clock,
    random: context.random,
    logger,
  });
}

/**
 * Whom to trust: AMD if nothing is said, otherwise those that are named and no others.
 * @throws {CliError} ERR_CLI_USAGE, ERR_CLI_FILE
 */
export async function trustOf(flags: StoreFlags, context: CliContext): Promise<Trust> {
  const roots: TrustRoot[] = [];
  for (const value of new Set(flags.trust ?? ["amd"])) {
    if (value === "amd") {
      roots.push(...AMD_ROOTS);
      continue;
    }
    const file = /^emulator=(.+)$/s.exec(value)?.[1];
    if (file === undefined)
      throw new CliError("ERR_CLI_USAGE", `--trust ${value}: expected amd, or emulator=FILE with the emulator's root certificate`, {
        hint: "None but the roots that are named count: --trust amd --trust emulator=FILE for both.",
      });
    roots.push(parseTrustRoot("emulator", (await readText(file, context)).text));
  }
  return { roots, clock: context.clock };
}

/**
 * The upstreams that the flags name.
 * @param maxWaitMs longest wait for one that throttles; the cache's own if left out
 * @throws {CliError} ERR_CLI_USAGE, {CertcacheError} ERR_CERTCACHE_ARGUMENT
 */
export function upstreamsOf(flags: UpstreamFlags, context: CliContext, logger: Logger, maxWaitMs?: number): readonly EndorsementSource[] {
  const names = (flags.upstream ?? ["kds"]).map((text) => parseUpstream(text));
  if (names.includes(undefined) && names.length > 1)
    throw new CliError("ERR_CLI_USAGE", "--upstream none stands beside others", { hint: "Give none alone, or leave it out." });
  const ports: KdsPorts = {
    fetch: async (url, init) => fetch(url, init),
    clock: context.clock,
    random: context.random,
    sleep: async (ms, signal) => {
      // Who waits looks at the signal, so its reason is not told twice.
      await delay(ms, undefined, { signal, ref: true }).catch(() => undefined);
    },
    logger,
  };
  const spacing = flags.spacing === undefined ? {} : { spacingMs: wholeNumber("--spacing", flags.spacing, 0) * 1000 };
  const wait = maxWaitMs === undefined ? {} : { maxWaitMs };
  return names.flatMap((name) => (name === undefined ? [] : [openUpstream(name, { ...ports, ...spacing, ...wait })]));
}

/**
 * The request for a chip and TCB of the command line.
 * @param product undefined: what the length of the id says
 * @throws {CliError} ERR_CLI_USAGE
 */
export function requestOfFlags(names: { readonly chipId: string; readonly tcb: string }, chipId: string, tcb: string, product?: string): EndorsementRequest {
  if (!/^(?:[0-9a-fA-F]{16}|[0-9a-fA-F]{128})$/.test(chipId)) {
    throw new CliError("ERR_CLI_USAGE", `${names.chipId} ${chipId.slice(0, 40)}: expected 128 hex digits, or 16 from Turin on`, {
      hint: "It is CHIP_ID of the report.",
    });
  }
  if (!/^[0-9a-fA-F]{1,16}$/.test(tcb)) {
    throw new CliError("ERR_CLI_USAGE", `${names.tcb} ${tcb.slice(0, 40)}: expected a hex number of up to 16 digits`, {
      hint: "It is REPORTED_TCB of the report as a little-endian number, e.g. DB18000000000004 for the bytes 04 00 00 00 00 00 18 db.",
    });
  }
  const id = new Uint8Array(64);
  id.set(Buffer.from(chipId, "hex"));
  return { products: product === undefined ? productsOfChip(id) : [productOf(product)], chipId: id, reportedTcb: parseTcbNumber(tcb) };
}

/**
 * A product of the command line, in any case.
 * @throws {CliError} ERR_CLI_USAGE
 */
export function productOf(text: string): (typeof PRODUCT_NAMES)[number] {
  const product = PRODUCT_NAMES.find((name) => name.toLowerCase() === text.toLowerCase());
  if (product === undefined)
    throw new CliError("ERR_CLI_USAGE", `--product ${text.slice(0, 40)}: expected ${PRODUCT_NAMES.join(", ")}`, { hint: "Bergamo and Siena are Genoa." });
  return product;
}

/**
 * Host and port of `host:port`, `[::1]:port` or `:port` (loopback).
 * @throws {CliError} ERR_CLI_USAGE
 */
export function addressOf(flag: string, text: string): { readonly host: string; readonly port: number } {
  const match = /^(?:\[([0-9a-fA-F:.%]+)\]|([^:[\]]*)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  if (match === null || port > 65_535) throw new CliError("ERR_CLI_USAGE", `${flag} ${text}: expected host:port, e.g. 127.0.0.1:8081 or [::1]:8081`);
  return { host: match[1] ?? (match[2] === "" || match[2] === undefined ? "127.0.0.1" : match[2]), port };
}

/**
 * A whole number of the command line.
 * @throws {CliError} ERR_CLI_USAGE
 */
export function wholeNumber(flag: string, text: string, least: number): number {
  if (!/^\d{1,9}$/.test(text) || Number(text) < least) throw new CliError("ERR_CLI_USAGE", `${flag} ${text}: expected a whole number of ${least} or more`);
  return Number(text);
}
