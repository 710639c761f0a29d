import { spawn } from "node:child_process";
import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import { dirname, join } from "node:path";
import { makeDirectory } from "@sealpod/io";
import { CliError } from "./errors.ts";
import { ROOT } from "./workspace.ts";

/** Descriptor on which a background process says that it is ready. */
const READY_FD = 3;

/** Longest last words of a background process that are shown. */
const MAX_WORDS = 4000;

/** Outcome of {@link startDetached}: what the process said when it was ready, or how it ended before. */
export type Detached =
  | { readonly kind: "ready"; readonly pid: number; readonly message: string }
  | { readonly kind: "ended"; readonly exitCode: number; readonly words: string };

/**
 * Starts this CLI in the background, away from the terminal, and waits until it says that it is ready.
 * @param log file for what it writes from then on
 */
export async function startDetached(args: readonly string[], log: string, env: Readonly<Record<string, string | undefined>>): Promise<Detached> {
  await makeDirectory(dirname(log), 0o700);
  const output = openSync(log, "w", 0o600);
  const child = spawn(process.execPath, [join(ROOT, "cli", "main.ts"), ...args, "--ready-fd", String(READY_FD)], {
    detached: true,
    stdio: ["ignore", output, output, "pipe"],
    env: { ...env },
  });
  closeSync(output);
  const pipe = child.stdio[READY_FD] as NodeJS.ReadableStream | null | undefined;
  const said: Buffer[] = [];
  const ready = new Promise<Detached>((done) => {
    pipe?.on("data", (chunk: Buffer) => {
      said.push(chunk);
      const text = Buffer.concat(said).toString("utf8");
      if (text.endsWith("\n")) done({ kind: "ready", pid: child.pid ?? 0, message: text.trimEnd() });
    });
  });
  const ended = new Promise<Detached>((done, fail) => {
    child.on("error", (cause) => fail(new CliError("ERR_CLI_PLATFORM", `cannot start a background process: ${cause.message}`, { cause })));
    child.on("exit", (code) => done({ kind: "ended", exitCode: code ?? 1, words: readFileSync(log, "utf8").slice(-MAX_WORDS) }));
  });
  const outcome = await Promise.race([ready, ended]);
  child.unref();
  (pipe as unknown as { destroy(): void } | undefined)?.destroy();
  return outcome;
}

/** Tells the process that started this one that it is ready. Does nothing in the foreground. */
export function sayReady(readyFd: string | undefined, message: string): void {
  if (readyFd === undefined) return;
  writeSync(Number(readyFd), `${message.replaceAll("\n", " ")}\n`);
  closeSync(Number(readyFd));
}
