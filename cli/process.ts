import type { CliContext } from "./context.ts";

/** Milliseconds in which a repeated signal is still the same wish: some programs signal a process and then its group. */
const SAME_WISH = 500;

/** Runs a command line in a process, with its arguments, streams, signals and exit code. */
export async function runProcess(own: NodeJS.Process, run: (argv: readonly string[], context: CliContext) => Promise<number>): Promise<void> {
  // What is opened here costs every start, so much is opened when it is asked for.
  let controller: AbortController | undefined;
  let asked = Number.POSITIVE_INFINITY;
  for (const [name, exit] of [
    ["SIGINT", 130],
    ["SIGTERM", 143],
  ] as const) {
    own.on(name, () => {
      // A verb that never asked for the signal has nothing to bring down. The second one ends the process whatever the verb
      // does, as people expect of Ctrl-C Ctrl-C.
      if (controller === undefined || performance.now() - asked > SAME_WISH) own.exit(exit);
      asked = Math.min(asked, performance.now());
      controller.abort(name);
    });
  }
  // `sealpod … | head` closes our output: that is the reader's right, not an error.
  own.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE") own.exit(0);
    own.stderr.write(`error: cannot write to standard output: ${error.message}\n`);
    own.exit(1);
  });

  const context: CliContext = {
    env: own.env,
    cwd: currentDirectory(own),
    get stdin() {
      return own.stdin;
    },
    stdout: { isTerminal: own.stdout.isTTY, write: (text) => void own.stdout.write(text) },
    stderr: {
      isTerminal: own.stderr.isTTY,
      get columns() {
        return own.stderr.columns;
      },
      write: (text) => void own.stderr.write(text),
    },
    // Not those of @sealpod/io, for the same reason.
    clock: { now: () => Date.now() },
    elapsed: () => performance.now(),
    random: { bytes: randomBytes },
    get signal() {
      controller ??= new AbortController();
      return controller.signal;
    },
  };
  own.exitCode = await run(own.argv.slice(2), context);
}

/** Bytes that Web Crypto gives at once. */
const QUOTA = 65_536;

function randomBytes(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at += QUOTA) crypto.getRandomValues(bytes.subarray(at, at + QUOTA));
  return bytes;
}

/** The directory that relative paths start from; the root if it was removed under our feet. */
function currentDirectory(own: NodeJS.Process): string {
  try {
    return own.cwd();
  } catch {
    return "/";
  }
}
