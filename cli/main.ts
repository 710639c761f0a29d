import { systemClock, systemRandom } from "@sealpod/io";
import type { CliContext } from "./context.ts";
import { runCli } from "./program.ts";

const controller = new AbortController();
// The second signal ends the process at once, as people expect of Ctrl-C Ctrl-C.
for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => controller.abort(name));
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
  random: systemRandom,
  signal: controller.signal,
};
process.exitCode = await runCli(process.argv.slice(2), context);
