import { mkdir, stat } from "node:fs/promises";
import { dirname, resolve } from "node:path";

/**
 * Makes a directory and those above it that are missing. Node's own `recursive` tries for ever where the directory above is there and
 * takes no new ones (/proc answers ENOENT); here each directory is tried once.
 */
export async function makeDirectory(path: string): Promise<void> {
  const missing: string[] = [];
  for (let at = resolve(path); !(await present(at)); at = dirname(at)) missing.push(at);
  for (const directory of missing.toReversed()) {
    await mkdir(directory).catch(async (cause: NodeJS.ErrnoException) => {
      // Another build may have been faster; what is there and is no directory shows when it is used.
      if (cause.code !== "EEXIST" || !(await present(directory))) throw cause;
    });
  }
}

async function present(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return false;
    throw cause;
  }
}
