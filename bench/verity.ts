/**
 * Speed of layer hashing against `veritysetup format` on the same bytes in the same run: `node bench/verity.ts [MiB] [rounds]`.
 * Ours does more: it also reads the tar's headers and builds the index. Compare the ratio; absolute numbers belong to the machine.
 */
import { spawnSync } from "node:child_process";
import { createReadStream, mkdtempSync, rmSync, statSync, truncateSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildLayer, discard, TarWriter } from "@sealpod/verity";
import { systemRandom } from "@sealpod/io";

const mebibytes = Number(process.argv[2] ?? "256");
const rounds = Number(process.argv[3] ?? "5");
const directory = mkdtempSync(join(tmpdir(), "sealpod-bench-"));
const tarFile = join(directory, "layer.tar");
const dataFile = join(directory, "data");
const hashFile = join(directory, "hash");

try {
  await writeSample(tarFile);
  await writeSample(dataFile);
  // veritysetup wants whole blocks.
  truncateSync(dataFile, Math.floor(statSync(dataFile).size / 4096) * 4096);
  const ours: number[] = [];
  const theirs: number[] = [];
  for (let round = 0; round < rounds; round++) {
    ours.push(await megabytesPerSecond(tarFile, async () => void (await buildLayer(createReadStream(tarFile, { highWaterMark: 1024 * 1024 }), discard))));
    theirs.push(await megabytesPerSecond(dataFile, () => Promise.resolve(veritysetup())));
  }
  const [a, b] = [median(ours), median(theirs)];
  process.stdout.write(`buildLayer (root only)  ${a.toFixed(0)} MB/s   median of ${rounds}, ${mebibytes} MiB, page cache warm\n`);
  process.stdout.write(`veritysetup format      ${b.toFixed(0)} MB/s\n`);
  process.stdout.write(`ratio                   ${(a / b).toFixed(2)}\n`);
} finally {
  rmSync(directory, { recursive: true });
}

async function writeSample(path: string): Promise<void> {
  await using file = await open(path, "w");
  const writer = new TarWriter({
    async write(bytes) {
      await file.writeFile(bytes);
    },
  });
  for (let i = 0; i < mebibytes; i++) {
    await writer.add({ kind: "file", path: `files/${i}`, mode: 0o644, uid: 0, gid: 0, mtime: 0, data: systemRandom.bytes(1024 * 1024) });
  }
  await writer.finish();
}

async function megabytesPerSecond(path: string, action: () => Promise<void>): Promise<number> {
  const start = performance.now();
  await action();
  return statSync(path).size / 1e6 / ((performance.now() - start) / 1000);
}

function veritysetup(): void {
  rmSync(hashFile, { force: true });
  const { status, stderr } = spawnSync("veritysetup", ["format", "--no-superblock", "--salt", "0".repeat(64), dataFile, hashFile], { encoding: "utf8" });
  if (status !== 0) throw new Error(`veritysetup failed: ${stderr}`);
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}
