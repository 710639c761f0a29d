/**
 * Runs a benchmark: `npm run bench -- rego [flags]`. Each is a program of its own in bench/; without a name they are listed.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";

const folder = join(import.meta.dirname, "..", "bench");
const [name, ...rest] = process.argv.slice(2);
const known = readdirSync(folder)
  .filter((file) => file.endsWith(".ts"))
  .map((file) => file.slice(0, -3));

if (name === undefined || !existsSync(join(folder, `${name}.ts`))) {
  process.stderr.write(`${name === undefined ? "which benchmark?" : `there is no benchmark ${name};`} npm run bench -- ${known.join(" | ")}\n`);
  process.exitCode = 2;
} else {
  process.exitCode = spawnSync(process.execPath, [join(folder, `${name}.ts`), ...rest], { stdio: "inherit" }).status ?? 1;
}
