import { listPods, PodClient } from "@sealpod/pod";
import { watch } from "node:fs";
import { join } from "node:path";
import { upFile } from "@sealpod/services";
import { readdir, rm, stat } from "node:fs/promises";
import { EXIT } from "../context.ts";
import { CliError } from "../errors.ts";
import type { Verb } from "../program.ts";
import { requireUp } from "../laptop.ts";
import { stateOf } from "../workspace.ts";

/** Milliseconds that the services get to end. */
const LIMIT = 15_000;

/** `sealpod down`. */
export const run: Verb<object> = async (options, _operands, context) => {
  const state = stateOf(options, context);
  const up = await requireUp(state);
  // Pods need the emulated processor: they go first.
  for (const record of await listPods(join(state, "run"))) await new PodClient(record).stop();
  const gone = untilRemoved(upFile(state), LIMIT);
  process.kill(up.pid, "SIGTERM");
  if (!(await gone))
    throw new CliError("ERR_CLI_PLATFORM", `the services (process ${up.pid}) did not end within ${LIMIT / 1000} s`, {
      hint: `End them by force: kill -9 ${up.pid}`,
    });
  await removeLeftovers(join(state, "run"));
  if (options.json === true) context.stdout.write(`${JSON.stringify({ stopped: up.pid })}\n`);
  else context.stdout.write(`stopped the services (process ${up.pid})\n`);
  return EXIT.ok;
};

/** Directories of pods whose process was killed before it could tidy up. */
async function removeLeftovers(runDirectory: string): Promise<void> {
  const live = new Set((await listPods(runDirectory)).map((record) => record.directory));
  for (const name of await readdir(runDirectory).catch(() => [])) {
    const directory = join(runDirectory, name);
    if (!live.has(directory)) await rm(directory, { recursive: true, force: true });
  }
}

async function untilRemoved(path: string, limit: number): Promise<boolean> {
  const exists = async (): Promise<boolean> => (await stat(path).catch(() => undefined)) !== undefined;
  return new Promise((done) => {
    const finish = (result: boolean): void => {
      watcher.close();
      clearTimeout(timer);
      done(result);
    };
    const check = (): void => void exists().then((there) => (there ? undefined : finish(true)));
    const watcher = watch(join(path, ".."), check);
    const timer = setTimeout(() => finish(false), limit);
    check();
  });
}
