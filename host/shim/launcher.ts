import { readFileSync } from "node:fs";
import { isAbsolute, join } from "node:path";
import { ShimError } from "./errors.ts";

/** Name under which containerd looks for the runtime `io.containerd.kata-cc.v2` (specs/runtime.md 5.1). */
export const LAUNCHER_NAME = "containerd-shim-kata-cc-v2";

/** Where the launcher finds what it starts. Absolute paths. */
export interface LauncherPlaces {
  /** Node.js, version 24. */
  readonly node: string;
  /** The bundle `build/shim.mjs`. */
  readonly shim: string;
  /** The configuration of pods that name none. */
  readonly config: string;
}

/**
 * The text of the launcher, a program for /bin/sh, to be written as {@link LAUNCHER_NAME} in containerd's PATH with mode 0755.
 * @throws {ShimError} ERR_SHIM_USAGE
 */
export function launcherText(places: LauncherPlaces): string {
  let text = readFileSync(join(import.meta.dirname, LAUNCHER_NAME), "utf8");
  for (const key of ["node", "shim", "config"] as const) {
    const path = places[key];
    if (!isAbsolute(path) || /[\0\n]/.test(path))
      throw new ShimError("ERR_SHIM_USAGE", `launcher: the path of ${key} is ${JSON.stringify(path)}, expected an absolute one without line breaks`);
    // A function, since `$` in a replacement text would mean something.
    text = text.replace(`@${key.toUpperCase()}@`, () => shellWord(path));
  }
  return text;
}

/** Text as one word of a shell, whatever it contains. */
function shellWord(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
