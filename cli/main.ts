import { systemClock, systemRandom } from "@sealpod/io";
import type { CliContext } from "./context.ts";
import { runCli } from "./program.ts";

/** Milliseconds in which a repeated signal is still the same wish: some programs signal a process and then its group. */
const SAME_WISH = 500;

const controller = new AbortController();
let asked = Number.POSITIVE_INFINITY;
for (const [name, exit] of [
  ["SIGINT", 130],
  ["SIGTERM", 143],
] as const) {
  process.on(name, () => {
    // The second one ends the process at once, as people expect of Ctrl-C Ctrl-C.
    if (performance.now() - asked > SAME_WISH) process.exit(exit);
    asked = Math.min(asked, performance.now());
    controller.abort(name);
  });
}
// `sealpod … | head` closes our output: that is the reader's right, not an error.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0);
  throw error;
});

const context: CliContext = {
  env: process.env,
  cwd: process.cwd(),
  stdin: process.stdin,
  stdout: { isTerminal: process.stdout.isTTY, write: (text) => void process.stdout.write(text) },
  stderr: { isTerminal: process.stderr.isTTY, write: (text) => void process.stderr.write(text) },
  clock: systemClock,
  elapsed: () => performance.now(),
  random: systemRandom,
  signal: controller.signal,
};
process.exitCode = await runCli(process.argv.slice(2), context);
