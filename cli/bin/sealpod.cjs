#!/usr/bin/env node
// Starts the CLI on Node 24: the running one if it is new enough, else the one that the lockfile brings (node-linux-*).
"use strict";
const { spawnSync } = require("node:child_process");
const { join } = require("node:path");

const main = join(__dirname, "..", "main.ts");
if (Number(process.versions.node.split(".")[0]) >= 24) {
  void import(require("node:url").pathToFileURL(main).href);
} else {
  let node;
  try {
    node = require.resolve(`node-linux-${process.arch}/bin/node`);
  } catch {
    process.stderr.write(`sealpod: needs Node 24, this is ${process.versions.node}. Run npm ci in the repository, or install Node 24.\n`);
    process.exit(1);
  }
  const result = spawnSync(node, [main, ...process.argv.slice(2)], { stdio: "inherit" });
  if (result.signal) process.kill(process.pid, result.signal);
  process.exit(result.status ?? 1);
}
