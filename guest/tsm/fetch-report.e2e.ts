import { execFile } from "node:child_process";
import { watch } from "node:fs";
import { mkdtemp, open, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, it } from "vitest";
import { fetchReport } from "./index.ts";

const mkfifo = async (path: string): Promise<unknown> => promisify(execFile)("mkfifo", [path]);

it("does not take a report when the generation changes while it is read", async () => {
  const directory = await mkdtemp(join(tmpdir(), "tsm-"));
  const seen: string[] = [];
  const provide = async (entry: string): Promise<void> => {
    await writeFile(join(entry, "provider"), "sev_guest\n");
    if (seen.push(entry) > 1) {
      await writeFile(join(entry, "outblob"), "second");
      await writeFile(join(entry, "generation.new"), "1\n");
      await rename(join(entry, "generation.new"), join(entry, "generation"));
      return;
    }
    // The reader opens a pipe, so the test knows that it is between its two looks at `generation`.
    await mkfifo(join(entry, "outblob"));
    await writeFile(join(entry, "generation.new"), "2\n");
    await writeFile(join(entry, "generation.first"), "1\n");
    await rename(join(entry, "generation.first"), join(entry, "generation"));
    await using pipe = await open(join(entry, "outblob"), "w");
    await rename(join(entry, "generation.new"), join(entry, "generation"));
    await pipe.writeFile("first");
  };
  const problems: unknown[] = [];
  const watcher = watch(directory, (_event, name) => {
    const entry = join(directory, name ?? "");
    if (!seen.includes(entry)) provide(entry).catch((error: unknown) => problems.push(error));
  });
  try {
    expect(Buffer.from((await fetchReport(directory, new Uint8Array(64))).report).toString()).toBe("second");
    expect(seen).toHaveLength(2);
    expect(problems).toEqual([]);
  } finally {
    watcher.close();
    await rm(directory, { recursive: true, force: true });
  }
});
