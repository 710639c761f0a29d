import { spawn } from "node:child_process";
import { constants } from "node:fs";
import { access, stat } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { TsmError } from "./errors.ts";
import { type Evidence, type EvidenceOrigin, type EvidenceSource, paddedReportData, requireReportOver } from "./evidence.ts";
import { defaultWait, errorCode, pause, printable, timeoutError } from "./fetch-report.ts";

/** The kernel's device (5.19 and later; configfs-tsm has come beside it in 6.7). */
export const SEV_GUEST_DEVICE = "/dev/sev-guest";

/** Where Debian and Ubuntu have perl. Not looked for in PATH, which others may set. */
export const PERL = "/usr/bin/perl";

/** Options of {@link openSevGuestSource}. */
export interface SevGuestOptions {
  /** Default {@link SEV_GUEST_DEVICE}. */
  readonly device?: string;
  /** Absolute path of perl; default {@link PERL}. */
  readonly perl?: string;
  /** Options of perl before the script: with them tests put a device of their own in the place of the kernel's. */
  readonly perlOptions?: readonly string[];
}

const SCRIPT = fileURLToPath(new URL("sev-guest.pl", import.meta.url));

const DEFAULT_TIMEOUT_MS = 30_000;

/** Largest certificate table: what Linux takes a buffer for (SEV_FW_BLOB_MAX_SIZE). A host with a larger one gives the report without it. */
const MAX_TABLE = 16 * 1024;
const REPORT_SIZE = 1184;

/** What of stderr goes into a message. */
const MAX_MESSAGE = 1000;

/** Milliseconds before a busy host is asked again; doubled each time up to the largest, which is what the kernel itself waits. */
const FIRST_PAUSE_MS = 250;
const MAX_PAUSE_MS = 2000;

/** Exit codes of sev-guest.pl. */
const EXIT_BUSY = 75;
const FAILURES: Readonly<Record<number, { readonly code: "ERR_TSM_UNAVAILABLE" | "ERR_TSM_REFUSED" | "ERR_TSM_FORMAT"; readonly hint?: string }>> = {
  65: { code: "ERR_TSM_UNAVAILABLE", hint: "The device belongs to root: run as root, or give this user access to it." },
  66: { code: "ERR_TSM_UNAVAILABLE" },
  70: { code: "ERR_TSM_REFUSED" },
  76: {
    code: "ERR_TSM_REFUSED",
    hint: "Status 0x16 is an invalid parameter: perhaps this kernel does not run at VMPL 0, so that a higher VMPL must be asked for.",
  },
  77: { code: "ERR_TSM_FORMAT" },
};

/**
 * Opens the kernel's device through a small perl script, because Node cannot make ioctl calls (specs/attestation.md section 1.10). It never ran on SEV-SNP hardware: the tests play the kernel
 * behind `ioctl`.
 * @throws {TsmError} ERR_TSM_UNAVAILABLE if there is no device or no perl
 */
export async function openSevGuestSource(options: SevGuestOptions = {}): Promise<EvidenceSource> {
  const { device = SEV_GUEST_DEVICE, perl = PERL, perlOptions = [] } = options;
  await requireDevice(device);
  try {
    await access(perl, constants.X_OK);
  } catch (cause) {
    throw new TsmError("ERR_TSM_UNAVAILABLE", `${device} is there, but it cannot be used without ${perl} (${errorCode(cause)}), because Node has no ioctl`, {
      cause,
      hint: "Install perl-base, or use configfs-tsm (Linux 6.7 or later). A utility VM of Sealpod has no perl: there configfs-tsm is the only way.",
    });
  }
  const origin: EvidenceOrigin = { kind: "sev-guest", detail: device };
  return {
    origin,
    async fetch(reportData, { signal: outer, timeoutMs, privlevel = 0, wait = defaultWait } = {}): Promise<Evidence> {
      const data = paddedReportData(reportData);
      if (!(Number.isInteger(privlevel) && privlevel >= 0 && privlevel <= 3)) {
        throw new TsmError("ERR_TSM_INPUT", `privlevel is ${privlevel}, expected a VMPL from 0 to 3`);
      }
      const timeout = AbortSignal.timeout(timeoutMs ?? DEFAULT_TIMEOUT_MS);
      const signal = outer === undefined ? timeout : AbortSignal.any([timeout, outer]);
      const request = Buffer.concat([data, u32le(privlevel), u32le(MAX_TABLE)]);
      for (let delay = FIRST_PAUSE_MS; ; delay = Math.min(delay * 2, MAX_PAUSE_MS)) {
        const { exit, stdout, stderr } = await runHelper(perl, [...perlOptions, SCRIPT, device], request, signal);
        if (exit === 0) {
          const report = stdout.slice(0, REPORT_SIZE);
          requireReportOver(report, data);
          return { report, certificates: stdout.slice(REPORT_SIZE), origin };
        }
        if (exit !== EXIT_BUSY) throw helperError(device, exit, stderr);
        await pause(wait, delay, signal);
      }
    },
  };
}

async function requireDevice(device: string): Promise<void> {
  try {
    if ((await stat(device)).isCharacterDevice()) return;
  } catch (cause) {
    throw new TsmError("ERR_TSM_UNAVAILABLE", `${device} is not there (${errorCode(cause)})`, { cause, hint: "On hardware: load the module sev-guest." });
  }
  throw new TsmError("ERR_TSM_UNAVAILABLE", `${device} is not a device`);
}

function helperError(device: string, exit: number | null, stderr: string): TsmError {
  const failure = FAILURES[exit ?? -1];
  const problem = stderr.trim() === "" ? `the helper ended with ${exit ?? "a signal"}` : printable(stderr.trim());
  return new TsmError(failure?.code ?? "ERR_TSM_REFUSED", `${device} gave no report: ${problem}`, {
    details: { exit: exit ?? undefined },
    ...(failure?.hint !== undefined && { hint: failure.hint }),
  });
}

interface HelperResult {
  readonly exit: number | null;
  readonly stdout: Uint8Array;
  readonly stderr: string;
}

/** Runs the helper with an empty environment: PERL5OPT and its like would run code of others. */
async function runHelper(command: string, args: readonly string[], input: Uint8Array, signal: AbortSignal): Promise<HelperResult> {
  const done = Promise.withResolvers<HelperResult>();
  const child = spawn(command, args, { cwd: "/", env: {}, stdio: ["pipe", "pipe", "pipe"] });
  const stop = (error: TsmError): void => {
    done.reject(error);
    child.kill("SIGKILL");
  };
  const abort = (): void => stop(timeoutError(signal));
  const stdout: Buffer[] = [];
  let size = 0;
  let stderr = "";
  child.stdout.on("data", (chunk: Buffer) => {
    size += chunk.length;
    if (size > REPORT_SIZE + MAX_TABLE) stop(new TsmError("ERR_TSM_FORMAT", `the helper wrote more than ${REPORT_SIZE + MAX_TABLE} bytes`));
    else stdout.push(chunk);
  });
  child.stderr.on("data", (chunk: Buffer) => {
    stderr = (stderr + chunk.toString("latin1")).slice(0, MAX_MESSAGE);
  });
  child.on("error", (cause) => done.reject(new TsmError("ERR_TSM_UNAVAILABLE", `${command} cannot be run (${errorCode(cause)})`, { cause })));
  child.on("close", (exit) => done.resolve({ exit, stdout: new Uint8Array(Buffer.concat(stdout)), stderr }));
  // A helper that ends without reading its input says why in its exit code.
  child.stdin.on("error", () => undefined);
  child.stdin.end(input);
  if (signal.aborted) abort();
  else signal.addEventListener("abort", abort, { once: true });
  try {
    return await done.promise;
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

function u32le(value: number): Uint8Array {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}
