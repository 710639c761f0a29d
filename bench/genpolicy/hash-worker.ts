/** A thread that computes the dm-verity root of a part of a file: `{from, to}` in, the root out. */
import { closeSync, openSync, readSync } from "node:fs";
import { parentPort, workerData } from "node:worker_threads";
import { HashTreeBuilder } from "@sealpod/verity";

const READ = 512 * 1024;

parentPort?.on("message", ({ from, to }: { readonly from: number; readonly to: number }) => {
  const tree = new HashTreeBuilder(new Uint8Array(32), { keep: false });
  const file = openSync(workerData as string, "r");
  const buffer = Buffer.alloc(READ);
  for (let at = from; at < to;) {
    const length = readSync(file, buffer, 0, Math.min(READ, to - at), at);
    tree.update(buffer.subarray(0, length));
    at += length;
  }
  closeSync(file);
  parentPort?.postMessage(tree.finish().rootHash, []);
});
