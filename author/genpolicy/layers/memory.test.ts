import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

const SCRIPT = fileURLToPath(new URL("testdata/large-layer.ts", import.meta.url));

interface Measured {
  readonly peakMiB: number;
  readonly roots: { readonly tarfs: string };
}

/** MiB by which two peaks of the same work may differ: the garbage collector of a busy machine comes when it can. */
const NOISE = 160;

function run(...args: readonly string[]): unknown {
  const { status, stdout, stderr } = spawnSync(process.execPath, [SCRIPT, ...args], { encoding: "utf8" });
  expect(status, stderr).toBe(0);
  return JSON.parse(stdout);
}

// How much it is, and for a layer of 5 GiB, `npm run bench -- genpolicy --large 5120` says.
describe("memory", () => {
  it.each(["1", "2"])(
    "of a process with %s threads does not grow with the layer's size",
    (threads) => {
      const directory = mkdtempSync(join(tmpdir(), "sealpod-layer-"));
      const measure = (mebibytes: string): Measured => {
        const file = join(directory, mebibytes);
        const descriptor = JSON.stringify(run("make", file, mebibytes, "gzip", "zeros"));
        return run("measure", file, descriptor, threads, "tarfs") as Measured;
      };
      try {
        const [small, large] = [measure("64"), measure("512")];
        expect(large.roots.tarfs).not.toBe(small.roots.tarfs);
        expect(large.peakMiB - small.peakMiB).toBeLessThan(NOISE);
      } finally {
        rmSync(directory, { recursive: true });
      }
    },
    90_000,
  );
});
