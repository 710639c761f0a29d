import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { toHex } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { HashTreeBuilder, verityRoot } from "./hash-tree.ts";
import { buildLayer } from "./layer.ts";
import { inPieces, memorySink, memorySource, plain, tarOf } from "./testdata/archives.ts";

const haveVeritysetup = spawnSync("veritysetup", ["--version"]).status === 0;

/** Root hash and tree of the judge: cryptsetup's own implementation. */
function veritysetup(data: Uint8Array, salt: string): { readonly root: string; readonly tree: Buffer } {
  const directory = mkdtempSync(join(tmpdir(), "sealpod-verity-"));
  try {
    const [dataFile, hashFile] = [join(directory, "data"), join(directory, "hash")];
    writeFileSync(dataFile, data);
    const args = [
      "format",
      "--no-superblock",
      "--hash",
      "sha256",
      "--data-block-size",
      "4096",
      "--hash-block-size",
      "4096",
      "--salt",
      salt,
      dataFile,
      hashFile,
    ];
    const { stdout, stderr, status } = spawnSync("veritysetup", args, { encoding: "utf8" });
    if (status !== 0) throw new Error(stderr);
    return { root: /Root hash:\s*([0-9a-f]{64})/.exec(stdout)?.[1] ?? "", tree: readFileSync(hashFile) };
  } finally {
    rmSync(directory, { recursive: true });
  }
}

describe.skipIf(!haveVeritysetup)(
  `against veritysetup format${haveVeritysetup ? "" : " (skipped: veritysetup is not installed; Debian package cryptsetup-bin)"}`,
  () => {
    it.each([2, 3, 128, 129, 300, 128 * 128, 128 * 128 + 1])("agrees on root and tree of %i blocks", (blocks) => {
      const data = new Uint8Array(blocks * 4096);
      for (let i = 0; i < data.length; i += 61) data[i] = i * 31;
      const tree = new HashTreeBuilder(new Uint8Array(32), { keep: true });
      tree.update(data);
      const ours = tree.finish();
      const theirs = veritysetup(data, "0".repeat(64));
      expect(toHex(ours.rootHash)).toBe(theirs.root);
      expect(Buffer.compare(Buffer.concat(ours.blocks), theirs.tree)).toBe(0);
    });

    it("agrees on one block and on another salt", async () => {
      const data = new Uint8Array(4096).fill(9);
      expect(toHex(await verityRoot(memorySource(data), new Uint8Array(32)))).toBe(veritysetup(data, "0".repeat(64)).root);
      const more = new Uint8Array(200 * 4096).fill(3);
      expect(toHex(await verityRoot(memorySource(more), Uint8Array.of(0xab, 0xcd)))).toBe(veritysetup(more, "abcd").root);
    });

    it("agrees on a whole layer file, whose tree stands where the device-mapper table looks for it", async () => {
      const sink = memorySink();
      const { rootHash, dataBlocks } = await buildLayer(
        inPieces(await tarOf([{ ...plain, kind: "file", path: "f", data: new Uint8Array(3_000_000).fill(1) }]), 10_000),
        sink,
      );
      const file = sink.bytes();
      const theirs = veritysetup(file.subarray(0, dataBlocks * 4096), "0".repeat(64));
      expect(toHex(rootHash)).toBe(theirs.root);
      expect(Buffer.compare(file.subarray(dataBlocks * 4096, -4096), theirs.tree)).toBe(0);
    });
  },
);
