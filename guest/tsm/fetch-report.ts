import { constants, type FSWatcher, watch } from "node:fs";
import { access, mkdtemp, open, rm, rmdir, statfs, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { TsmError } from "./errors.ts";

/** Where the kernel (6.7 and later) has the interface, once configfs is mounted. */
export const TSM_REPORT_DIRECTORY = "/sys/kernel/config/tsm/report";

/** Options of {@link fetchReport}. */
export interface FetchReportOptions {
  /** Gives up when aborted. */
  readonly signal?: AbortSignal;
  /** Gives up after this many milliseconds. */
  readonly timeoutMs?: number;
  /** The provider that must answer; default "sev_guest". A TDX guest has the same interface with reports of another format. */
  readonly provider?: string;
  /** VMPL that the report states, 0 to 3; default: the lowest that this kernel may ask for (`privlevel_floor`). */
  readonly privlevel?: number;
  /** Waits between two attempts; default: a timer. */
  readonly wait?: Wait;
  /** Milliseconds in which a directory that nothing else tells apart must show that something serves it; default: a second. */
  readonly presenceMs?: number;
}

/** Waits so many milliseconds; rejects when the signal is aborted. */
export type Wait = (milliseconds: number, signal: AbortSignal) => Promise<unknown>;

/** A report as the interface gave it. */
export interface TsmReport {
  /** `outblob`: the raw report, 1184 bytes for SEV-SNP. */
  readonly report: Uint8Array;
  /** `auxblob`: the host's certificate table; empty if the host gives none. */
  readonly auxblob: Uint8Array;
  /** `provider` without the newline: "sev_guest". */
  readonly provider: string;
}

/** A report takes the firmware some milliseconds, but it serves all guests of the host in turn, and hosts throttle guests. */
const DEFAULT_TIMEOUT_MS = 30_000;

/** The kernel makes an entry with its attributes, and the emulator puts them there as soon as it hears of it. */
const DEFAULT_PRESENCE_MS = 1000;

/** `f_type` of configfs (Linux include/uapi/linux/magic.h, CONFIGFS_MAGIC). */
const CONFIGFS_MAGIC = 0x6265_6570;

/** What Sealpod's emulator puts above its `tsm/report`, inside a guest and outside. */
const EMULATOR_MARK = "../../EMULATED";

/** How often to begin again when the entry is busy or someone else wrote to it. Its name is unpredictable, so a foreign write is an attack or a broken host. */
const MAX_ATTEMPTS = 5;

/** Milliseconds before the second attempt; doubled for each one after it. */
const FIRST_PAUSE_MS = 20;

/** Largest blob: the kernel stops at 32 KiB (TSM_REPORT_OUTBLOB_MAX). */
const MAX_BLOB = 64 * 1024;

/** Largest text attribute: a name or a number. */
const MAX_TEXT = 256;

/**
 * Fetches a report for REPORT_DATA through configfs-tsm (Linux Documentation/ABI/testing/configfs-tsm-report), or through a directory that behaves like it.
 * @param directory the `report` directory, {@link TSM_REPORT_DIRECTORY} on real hardware
 * @param reportData 1 to 64 bytes; shorter ones are padded with zeros by the kernel
 * @throws {TsmError} all codes
 */
export async function fetchReport(directory: string, reportData: Uint8Array, options: FetchReportOptions = {}): Promise<TsmReport> {
  if (reportData.length < 1 || reportData.length > 64) {
    throw new TsmError("ERR_TSM_INPUT", `REPORT_DATA of ${reportData.length} bytes, expected 1 to 64`, { details: { found: reportData.length } });
  }
  const { privlevel, wait = defaultWait } = options;
  if (privlevel !== undefined && !(Number.isInteger(privlevel) && privlevel >= 0 && privlevel <= 3)) {
    throw new TsmError("ERR_TSM_INPUT", `privlevel is ${privlevel}, expected a VMPL from 0 to 3`);
  }
  const timeout = AbortSignal.timeout(options.timeoutMs ?? DEFAULT_TIMEOUT_MS);
  const signal = options.signal === undefined ? timeout : AbortSignal.any([timeout, options.signal]);
  const data = Uint8Array.from(reportData);
  for (let attempt = 1; ; attempt++) {
    const entry = await makeEntry(directory);
    try {
      return await askEntry(entry, data, options, signal);
    } catch (error) {
      if (!(error instanceof TsmError) || error.code !== "ERR_TSM_CONFLICT" || attempt === MAX_ATTEMPTS) throw error;
    } finally {
      await removeEntry(entry);
    }
    await pause(wait, FIRST_PAUSE_MS * 2 ** (attempt - 1), signal);
  }
}

/** A timer that does not hold up the end of the process. */
export const defaultWait: Wait = async (milliseconds, signal) => delay(milliseconds, undefined, { signal, ref: false });

/**
 * Waits, or says that the time is up.
 * @throws {TsmError} ERR_TSM_TIMEOUT
 */
export async function pause(wait: Wait, milliseconds: number, signal: AbortSignal): Promise<void> {
  try {
    await wait(milliseconds, signal);
  } catch (cause) {
    if (!signal.aborted) throw cause;
    throw timeoutError(signal);
  }
}

/**
 * What to say when the signal ended the work.
 * @param directory of the interface, if it has one
 */
export function timeoutError(signal: AbortSignal, directory?: string): TsmError {
  return new TsmError("ERR_TSM_TIMEOUT", `the report interface${directory === undefined ? "" : ` ${directory}`} did not answer in time`, {
    cause: signal.reason,
  });
}

/** An entry of our own, with a name that nobody can take before us. */
export async function makeEntry(directory: string): Promise<string> {
  try {
    return await mkdtemp(`${directory}/sealpod-`);
  } catch (cause) {
    throw new TsmError("ERR_TSM_UNAVAILABLE", `no report entry can be made in ${directory} (${errorCode(cause)})`, {
      cause,
      hint: "On hardware: Linux 6.7 or later, configfs mounted, module sev-guest loaded. Elsewhere: is the emulated security processor running?",
    });
  }
}

/**
 * Asks through an entry that was made for this question alone.
 * @throws {TsmError} all codes
 */
export async function askEntry(entry: string, reportData: Uint8Array, options: FetchReportOptions, signal: AbortSignal): Promise<TsmReport> {
  // The outputs belong to these writes exactly while generation is their number.
  const writes = (await writePrivlevel(entry, options.privlevel)) + 1;
  try {
    await writeFile(`${entry}/inblob`, reportData);
  } catch (cause) {
    throw fileError("inblob", cause);
  }
  await waitForAnswer(entry, writes, signal, options.presenceMs ?? DEFAULT_PRESENCE_MS);
  const provider = await readProvider(entry);
  requireProvider(provider, options.provider);
  const report = await readAttribute(entry, "outblob", MAX_BLOB);
  if (report === undefined || report.length === 0) throw new TsmError("ERR_TSM_REFUSED", "outblob: the interface gave no report");
  const auxblob = (await readAttribute(entry, "auxblob", MAX_BLOB)) ?? new Uint8Array();
  if ((await readGeneration(entry)) !== writes) throw new TsmError("ERR_TSM_CONFLICT", "generation changed while the report was read");
  return { report, auxblob, provider };
}

/**
 * Asks for a VMPL and returns the number of writes that it took. The kernel begins at 0, which the firmware refuses to a kernel that does not run at VMPL 0: there the floor is asked for.
 * The emulator, and providers without levels, have neither attribute.
 */
async function writePrivlevel(entry: string, wanted: number | undefined): Promise<0 | 1> {
  const text = await readText(entry, "privlevel_floor");
  if (text !== undefined && !/^[0-3]$/.test(text)) throw new TsmError("ERR_TSM_FORMAT", "privlevel_floor is not a number from 0 to 3");
  const floor = text === undefined ? undefined : Number(text);
  if (wanted !== undefined && (floor === undefined || wanted < floor)) {
    const allowed = floor === undefined ? "the interface has no levels to choose from" : `this kernel may ask for ${floor} to 3 (privlevel_floor)`;
    throw new TsmError("ERR_TSM_INPUT", `privlevel ${wanted} cannot be asked for: ${allowed}`);
  }
  const level = wanted ?? floor ?? 0;
  if (wanted === undefined && level === 0) return 0;
  try {
    // Not created if it is missing, and not opened for reading, which the kernel forbids.
    const file = await open(`${entry}/privlevel`, constants.O_WRONLY);
    try {
      await file.write(`${level}\n`);
    } finally {
      await file.close();
    }
  } catch (cause) {
    throw fileError("privlevel", cause);
  }
  return 1;
}

/** Name of the provider behind an entry; empty if it does not say. */
export async function readProvider(entry: string): Promise<string> {
  return (await readText(entry, "provider")) ?? "";
}

/**
 * Refuses the answers of another provider than the one that was expected.
 * @throws {TsmError} ERR_TSM_PROVIDER
 */
export function requireProvider(found: string, expected = "sev_guest"): void {
  if (found === expected) return;
  throw new TsmError("ERR_TSM_PROVIDER", `the report interface is served by ${JSON.stringify(printable(found))}, expected ${JSON.stringify(expected)}`, {
    details: { found: printable(found), expected },
    hint: "This machine is no SEV-SNP guest, or its provider has another name: then name it.",
  });
}

/** The kernel answers before the write returns. The emulator needs a moment, and replaces `generation` when all outputs are in place. */
async function waitForAnswer(entry: string, writes: number, signal: AbortSignal, presenceMs: number): Promise<void> {
  if (await isAnswered(entry, writes)) return;
  let isPresenceDue = false;
  let event = Promise.withResolvers<void>();
  const wake = (): void => event.resolve();
  let watcher: FSWatcher | undefined;
  signal.addEventListener("abort", wake);
  const timer = setTimeout(() => {
    isPresenceDue = true;
    wake();
  }, presenceMs);
  try {
    watcher = watchEntry(entry, wake);
    for (;;) {
      if (signal.aborted) throw timeoutError(signal, dirname(entry));
      // A new promise before each look: what happens between look and wait is not lost.
      event = Promise.withResolvers<void>();
      if (await isAnswered(entry, writes)) return;
      if (isPresenceDue) {
        isPresenceDue = false;
        await requirePresence(entry);
      }
      if (!signal.aborted) await event.promise;
    }
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", wake);
    watcher?.close();
  }
}

/**
 * Refuses a directory that nothing serves, in which a client would wait for its whole time: an entry can be made in any. One that is the kernel's or the emulator's by other signs gets
 * the time that it needs.
 * @throws {TsmError} ERR_TSM_UNAVAILABLE
 */
async function requirePresence(entry: string): Promise<void> {
  for (const attribute of ["provider", "generation"]) if ((await readAttribute(entry, attribute, MAX_TEXT)) !== undefined) return;
  const directory = dirname(entry);
  if ((await isOnConfigfs(directory)) || (await exists(join(directory, EMULATOR_MARK)))) return;
  throw new TsmError("ERR_TSM_UNAVAILABLE", `${directory} is no report interface: an entry that was made there got neither provider nor generation`, {
    details: { directory },
    hint: `On hardware the interface is ${TSM_REPORT_DIRECTORY}. That of a pod of \`sealpod run\` is guests/ID/tsm/report in the state directory ($SEALPOD_HOME or ~/.sealpod), as long as the pod runs.`,
  });
}

/** Only the kernel has a file system of this kind. */
async function isOnConfigfs(directory: string): Promise<boolean> {
  try {
    return (await statfs(directory)).type === CONFIGFS_MAGIC;
  } catch {
    return false;
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch {
    return false;
  }
}

function watchEntry(entry: string, wake: () => void): FSWatcher {
  try {
    return watch(entry, wake).on("error", wake);
  } catch (cause) {
    throw new TsmError("ERR_TSM_REFUSED", `the report entry cannot be watched (${errorCode(cause)})`, { cause });
  }
}

async function isAnswered(entry: string, writes: number): Promise<boolean> {
  const generation = (await readGeneration(entry)) ?? 0;
  if (generation > writes) throw new TsmError("ERR_TSM_CONFLICT", `generation is ${generation} after ${writes} of our writes: someone else wrote to the entry`);
  if (generation === writes) return true;
  // Only the emulator has this file: a kernel refuses the write itself.
  const problem = await readText(entry, "error");
  if (problem !== undefined) throw new TsmError("ERR_TSM_REFUSED", `the report interface refused the request: ${printable(problem)}`);
  return false;
}

/** Text of others, fit for a message. */
export function printable(text: string): string {
  return text.replaceAll(/[^\u0020-\u007e]/g, "?");
}

async function readGeneration(entry: string): Promise<number | undefined> {
  const text = await readText(entry, "generation");
  if (text === undefined) return undefined;
  if (!/^(?:0|[1-9]\d{0,8})$/.test(text)) throw new TsmError("ERR_TSM_FORMAT", "generation is not a decimal number");
  return Number(text);
}

async function readText(entry: string, attribute: string): Promise<string | undefined> {
  const bytes = await readAttribute(entry, attribute, MAX_TEXT);
  return bytes === undefined ? undefined : Buffer.from(bytes).toString("latin1").trimEnd();
}

/** Reads to the end of the file: the size that configfs states is not that of the content. Undefined if the attribute is not there. */
async function readAttribute(entry: string, attribute: string, limit: number): Promise<Uint8Array | undefined> {
  try {
    const file = await open(`${entry}/${attribute}`, "r");
    try {
      const buffer = new Uint8Array(limit + 1);
      let length = 0;
      for (;;) {
        const { bytesRead } = await file.read(buffer, length, buffer.length - length);
        if (bytesRead === 0) return buffer.slice(0, length);
        length += bytesRead;
        if (length > limit) throw new TsmError("ERR_TSM_FORMAT", `${attribute} has more than ${limit} bytes`, { details: { limit } });
      }
    } finally {
      await file.close();
    }
  } catch (cause) {
    if (cause instanceof TsmError) throw cause;
    if (errorCode(cause) === "ENOENT") return undefined;
    throw fileError(attribute, cause);
  }
}

/** EBUSY and EAGAIN (EWOULDBLOCK) are the kernel's words for "a report is being made" and "the inputs changed meanwhile". */
export function fileError(attribute: string, cause: unknown): TsmError {
  const code = errorCode(cause);
  if (code === "EBUSY" || code === "EAGAIN") return new TsmError("ERR_TSM_CONFLICT", `${attribute}: the entry is in use (${code})`, { cause });
  return new TsmError("ERR_TSM_REFUSED", `${attribute}: the report interface refused it (${code})`, { cause, details: { attribute, errno: code } });
}

/** In configfs the attributes vanish with the directory. In the emulator they are files, which go first. An entry that cannot be removed harms nobody. */
export async function removeEntry(entry: string): Promise<void> {
  try {
    await rmdir(entry);
  } catch (error) {
    if (errorCode(error) === "ENOTEMPTY" || errorCode(error) === "EEXIST") await rm(entry, { recursive: true, force: true }).catch(() => undefined);
  }
}

/** `code` of an error of the system. */
export function errorCode(error: unknown): string {
  return (error as NodeJS.ErrnoException | undefined)?.code ?? "unknown error";
}
