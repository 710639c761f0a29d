import { type FSWatcher, watch } from "node:fs";
import { mkdtemp, open, rm, rmdir, writeFile } from "node:fs/promises";
import { TsmError } from "./errors.ts";

/** Where the kernel (6.7 and later) has the interface, once configfs is mounted. */
export const TSM_REPORT_DIRECTORY = "/sys/kernel/config/tsm/report";

/** Options of {@link fetchReport}. */
export interface FetchReportOptions {
  /** Gives up when aborted. */
  readonly signal?: AbortSignal;
  /** Gives up after this many milliseconds. */
  readonly timeoutMs?: number;
}

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

/** How often to begin again when someone else interferes with the entry. Its name is unpredictable, so once is already an attack. */
const MAX_ATTEMPTS = 3;

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
  const timeout = AbortSignal.timeout(options.timeoutMs ?? DEFAULT_TIMEOUT_MS);
  const signal = options.signal === undefined ? timeout : AbortSignal.any([timeout, options.signal]);
  const data = Uint8Array.from(reportData);
  for (let attempt = 1; ; attempt++) {
    const entry = await makeEntry(directory);
    try {
      return await useEntry(entry, data, signal);
    } catch (error) {
      if (!(error instanceof TsmError) || error.code !== "ERR_TSM_CONFLICT" || attempt === MAX_ATTEMPTS) throw error;
    } finally {
      await removeEntry(entry);
    }
  }
}

/** An entry of our own, with a name that nobody can take before us. */
async function makeEntry(directory: string): Promise<string> {
  try {
    return await mkdtemp(`${directory}/sealpod-`);
  } catch (cause) {
    throw new TsmError("ERR_TSM_UNAVAILABLE", `no report entry can be made in ${directory} (${errorCode(cause)})`, {
      cause,
      hint: "On hardware: Linux 6.7 or later, configfs mounted, module sev-guest loaded. Elsewhere: is the emulated security processor running?",
    });
  }
}

async function useEntry(entry: string, reportData: Uint8Array, signal: AbortSignal): Promise<TsmReport> {
  try {
    await writeFile(`${entry}/inblob`, reportData);
  } catch (cause) {
    throw fileError("inblob", cause);
  }
  // One write was made, so the outputs belong to it exactly while generation is 1.
  await waitForAnswer(entry, signal);
  const report = await readAttribute(entry, "outblob", MAX_BLOB);
  if (report === undefined || report.length === 0) throw new TsmError("ERR_TSM_REFUSED", "outblob: the interface gave no report");
  const auxblob = (await readAttribute(entry, "auxblob", MAX_BLOB)) ?? new Uint8Array();
  const provider = (await readText(entry, "provider")) ?? "";
  if ((await readGeneration(entry)) !== 1) throw new TsmError("ERR_TSM_CONFLICT", "generation changed while the report was read");
  return { report, auxblob, provider };
}

/** The kernel answers before the write returns. The emulator needs a moment, and replaces `generation` when all outputs are in place. */
async function waitForAnswer(entry: string, signal: AbortSignal): Promise<void> {
  if (await isAnswered(entry)) return;
  let event = Promise.withResolvers<void>();
  const wake = (): void => event.resolve();
  let watcher: FSWatcher | undefined;
  signal.addEventListener("abort", wake);
  try {
    watcher = watchEntry(entry, wake);
    for (;;) {
      if (signal.aborted) throw new TsmError("ERR_TSM_TIMEOUT", "the report interface did not answer in time", { cause: signal.reason });
      // A new promise before each look: what happens between look and wait is not lost.
      event = Promise.withResolvers<void>();
      if (await isAnswered(entry)) return;
      if (!signal.aborted) await event.promise;
    }
  } finally {
    signal.removeEventListener("abort", wake);
    watcher?.close();
  }
}

function watchEntry(entry: string, wake: () => void): FSWatcher {
  try {
    return watch(entry, wake).on("error", wake);
  } catch (cause) {
    throw new TsmError("ERR_TSM_REFUSED", `the report entry cannot be watched (${errorCode(cause)})`, { cause });
  }
}

async function isAnswered(entry: string): Promise<boolean> {
  const generation = (await readGeneration(entry)) ?? 0;
  if (generation > 1) throw new TsmError("ERR_TSM_CONFLICT", `generation is ${generation} after one write: someone else wrote to the entry`);
  if (generation === 1) return true;
  // Only the emulator has this file: a kernel refuses the write itself.
  const problem = await readText(entry, "error");
  if (problem !== undefined) throw new TsmError("ERR_TSM_REFUSED", `the report interface refused the request: ${problem.replaceAll(/[^\u0020-\u007e]/g, "?")}`);
  return false;
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

/** EBUSY and EAGAIN are the kernel's words for "the inputs changed meanwhile". */
function fileError(attribute: string, cause: unknown): TsmError {
  const code = errorCode(cause);
  if (code === "EBUSY" || code === "EAGAIN") return new TsmError("ERR_TSM_CONFLICT", `${attribute}: the entry is in use (${code})`, { cause });
  return new TsmError("ERR_TSM_REFUSED", `${attribute}: the report interface refused it (${code})`, { cause, details: { attribute, errno: code } });
}

/** In configfs the attributes vanish with the directory. In the emulator they are files, which go first. An entry that cannot be removed harms nobody. */
async function removeEntry(entry: string): Promise<void> {
  try {
    await rmdir(entry);
  } catch (error) {
    if (errorCode(error) === "ENOTEMPTY" || errorCode(error) === "EEXIST") await rm(entry, { recursive: true, force: true }).catch(() => undefined);
  }
}

function errorCode(error: unknown): string {
  return (error as NodeJS.ErrnoException | undefined)?.code ?? "unknown error";
}
