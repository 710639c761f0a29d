import { chmod, mkdir, open, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { concatBytes, encodeUtf8 } from "@sealpod/core";
import { outputOf, type StartCommand } from "./command.ts";
import { ImageError } from "./errors.ts";

/**
 * Options of V8 under which the agent is saved and started; V8 refuses to start from what was saved under others. That no text can become code
 * is one of them: the agent reads texts of other people all day.
 */
export const AGENT_ENGINE_OPTIONS: readonly string[] = ["--disallow-code-generation-from-strings"];

/**
 * Options under which the agent is started, besides. Young objects have a mebibyte: a burst of large requests would otherwise leave tens of them
 * behind for the rest of the pod's life. Not when it is saved: collections come at other moments then, and what is saved would differ from run to run.
 */
export const AGENT_START_OPTIONS: readonly string[] = ["--max-semi-space-size=1", "--optimize-for-size"];

/** The agent's has 5 MB; its parts are limited elsewhere. */
const MAX_SAVED = 64 * 1024 * 1024;
/** What a build prints that goes well: nothing. */
const MAX_OUTPUT = 64 * 1024;

/**
 * Runs before the agent is loaded: where, by whom and as which process that is done must not be in what is saved, which is measured. Node sets all
 * three anew when it starts from it.
 */
const FORGET_BUILDER =
  '"use strict"; process.argv.length = 0; process.execPath = ""; Object.defineProperty(process, "pid", { value: 0, configurable: true, enumerable: true, writable: true });\n';

/** What {@link saveAgent} works with. */
export interface SaveAgentTools {
  readonly start: StartCommand;
  /** A directory for the builder alone. */
  readonly scratch: string;
  readonly signal?: AbortSignal | undefined;
}

/**
 * The agent as Node has it in memory when it is loaded and not yet begun (a startup snapshot). To start from that takes a third less of an
 * emulated processor's time than to load the program.
 *
 * The bytes depend on Node's program and the agent alone. Therefore there is no environment, the paths are the same in every directory, and the
 * seeds of this run are fixed; V8 takes new ones in each guest (the state is marked as fit for that) and the agent is told apart by what it does then.
 *
 * @param node the program that will start from it, of this machine's kind
 * @param agent the bundle: a script
 * @throws {ImageError} ERR_IMAGE_COMMAND, ERR_IMAGE_LIMIT, ERR_IMAGE_PLATFORM, ERR_IMAGE_ABORTED
 */
export async function saveAgent(node: Uint8Array, agent: Uint8Array, { start, scratch, signal }: SaveAgentTools): Promise<Uint8Array> {
  const directory = join(scratch, "saved-agent");
  await mkdir(directory, { mode: 0o700 });
  await writeFile(join(directory, "node"), node);
  await chmod(join(directory, "node"), 0o700);
  await writeFile(join(directory, "agent.cjs"), concatBytes(encodeUtf8(FORGET_BUILDER), agent));
  const here = "/proc/self/cwd";
  // Compiled code of Node's own modules would make it twice as long; most of it is of modules that the agent does not load.
  await writeFile(join(directory, "config.json"), JSON.stringify({ builder: `${here}/agent.cjs`, withoutCodeCache: true }));
  const seeds = ["--random-seed=1", "--hash-seed=1"];
  const files = ["--snapshot-blob", `${here}/agent.saved`, "--build-snapshot-config", `${here}/config.json`];
  const words = ["-i", `${here}/node`, "--no-warnings", ...seeds, ...AGENT_ENGINE_OPTIONS, ...files];
  await outputOf(start("env", words, { cwd: directory, signal }), "env", MAX_OUTPUT);
  await using handle = await open(join(directory, "agent.saved"));
  const { size } = await handle.stat();
  if (size > MAX_SAVED) throw new ImageError("ERR_IMAGE_LIMIT", `the saved agent has ${size} bytes, more than the limit of ${MAX_SAVED}`);
  return new Uint8Array(await handle.readFile());
}
