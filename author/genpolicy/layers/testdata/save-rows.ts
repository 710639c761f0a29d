/**
 * A process of the cache's test: `node save-rows.ts FILE NAME COUNT` saves COUNT rows of its own one by one, when it is told to
 * start by a line on standard input.
 */
import { createHash } from "node:crypto";
import { once } from "node:events";
import { LayerCacheFile } from "../../layer-cache.ts";
import { fileCacheStore } from "../file-cache-store.ts";

const [file = "", name = "", count = ""] = process.argv.slice(2);
process.stdout.write("ready\n");
await once(process.stdin, "data");
for (let i = 0; i < Number(count); i++) {
  const cache = await LayerCacheFile.open(fileCacheStore(file), (problem) => process.stderr.write(`${problem}\n`));
  cache.put(`sha256:${createHash("sha256").update(`${name} ${i}`).digest("hex")}`, { roots: { tarfs: "0".repeat(64) }, users: {} });
  await cache.save();
}
process.exit(0);
