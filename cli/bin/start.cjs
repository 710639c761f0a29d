// Starts an entry point of the CLI on Node 24: the running one if it is new enough, else the one that the lockfile brings.
//
// The bundle that `npm run bundle` leaves in build/cli starts five times as fast as the sources. It is used unless a source
// was changed after it was made.
"use strict";
const { readFileSync, statSync } = require("node:fs");
const { enableCompileCache } = require("node:module");
const { join } = require("node:path");

const ROOT = join(__dirname, "..", "..");
const BUNDLES = join(ROOT, "build", "cli");

/** True if the bundle is there and every file that went into it is as it was then. */
function isFresh(bundle) {
  try {
    const inputs = readFileSync(join(BUNDLES, "inputs.txt"), "utf8").split("\n");
    return (
      statSync(bundle).isFile() &&
      inputs.every((line) => {
        const [path, size, time] = line.split("\t");
        const found = statSync(join(ROOT, path));
        return String(found.size) === size && String(found.mtimeMs) === time;
      })
    );
  } catch {
    return false;
  }
}

/** @param name `main` or `genpolicy/main`: the entry point in cli/, without its extension */
exports.start = (name) => {
  const bundle = join(BUNDLES, `${name}.mjs`);
  const main = isFresh(bundle) ? bundle : join(__dirname, "..", `${name}.ts`);
  if (Number(process.versions.node.split(".")[0]) >= 24) {
    // In the checkout, not in a directory for everyone: whoever can write there decides what runs.
    enableCompileCache(join(BUNDLES, "cache"));
    void import(require("node:url").pathToFileURL(main).href);
    return;
  }
  let node;
  try {
    node = require.resolve(`node-linux-${process.arch}/bin/node`);
  } catch {
    process.stderr.write(`sealpod: needs Node 24, this is ${process.versions.node}. Run npm ci in the repository, or install Node 24.\n`);
    process.exit(1);
  }
  const child = require("node:child_process").spawn(node, [main, ...process.argv.slice(2)], { stdio: "inherit" });
  // Who ends us means the child: it must not go on alone.
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(name, () => child.kill(name));
  child.on("exit", (code, signal) => {
    if (signal === null) process.exit(code);
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  });
};
