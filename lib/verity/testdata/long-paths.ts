/**
 * A process for the index's test, run with little memory: adds members whose names are new and whose paths are long, 400 MB of
 * paths in all. Prints the number of nodes.
 */
import { TarIndex } from "../tar-index.ts";

const MEMBERS = 100_000;
const index = new TarIndex();
const directory = "a-directory-with-a-long-name/".repeat(140);
for (let i = 0; i < MEMBERS; i++) {
  // Through bytes, as the scanner makes paths: one flat string each.
  const path = Buffer.from(`${directory}a-file-of-its-own-${i}`, "latin1").toString("latin1");
  const none = { target: "", headerTarget: "", mode: 0o644, uid: 0, gid: 0, mtime: 0, major: 0, minor: 0, size: 0, pax: new Map<string, Uint8Array>() };
  index.add({ ...none, kind: "file", path, headerOffset: 0, dataOffset: 512 });
}
process.stdout.write(String(index.nodes));
