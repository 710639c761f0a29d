import { constants } from "node:fs";
import { access } from "node:fs/promises";
import { join } from "node:path";
import { VmmError } from "./errors.ts";

/** Directories of programs, in the order in which they are searched. Not the environment's: a driver runs as root. */
export const PROGRAM_DIRECTORIES: readonly string[] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/**
 * Absolute paths of programs.
 * @param packages program to the Debian package that has it, for the hint
 * @throws {VmmError} ERR_VMM_UNAVAILABLE that names all that are missing
 */
export async function findExecutables<N extends string>(
  packages: Readonly<Record<N, string>>,
  directories: readonly string[],
): Promise<Readonly<Record<N, string>>> {
  const names = Object.keys(packages) as N[];
  const found = await Promise.all(names.map(async (name) => [name, await findExecutable(name, directories)] as const));
  const missing = found.filter(([, path]) => path === undefined).map(([name]) => name);
  if (missing.length > 0) {
    const wanted = [...new Set(missing.map((name) => packages[name]))].join(" ");
    throw new VmmError("ERR_VMM_UNAVAILABLE", `not installed: ${missing.join(", ")} (searched ${directories.join(", ")})`, {
      details: { missing },
      hint: `On Debian: apt-get install ${wanted}`,
    });
  }
  return Object.fromEntries(found) as Record<N, string>;
}

/** Absolute path of a program that may be started; undefined if none of the directories has it. */
export async function findExecutable(name: string, directories: readonly string[]): Promise<string | undefined> {
  for (const directory of directories) {
    const path = join(directory, name);
    const executable = await access(path, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (executable) return path;
  }
  return undefined;
}
