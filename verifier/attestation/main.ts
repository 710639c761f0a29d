import { randomBytes } from "node:crypto";
import { runServiceProgram } from "@sealpod/service";
import { attestationProgram } from "./server.ts";

// What the service writes is its own: database, journal.
process.umask(0o077);
const clock = { now: () => Date.now() };
const program = attestationProgram({
  clock,
  random: { bytes: (length) => new Uint8Array(randomBytes(length)) },
  fetch: async (url, init) => fetch(url, init),
  uid: process.getuid?.(),
  ownsProcess: true,
});
const code = await runServiceProgram(program, {
  argv: process.argv.slice(2),
  env: process.env,
  cwd: process.cwd(),
  clock,
  stdout: (text) => void process.stdout.write(text),
  stderr: (text) => void process.stderr.write(text),
  log: 1,
  onSignal: (name, handler) => void process.on(name, handler),
  onExit: (handler) => void process.on("exit", handler),
  exit: (status) => process.exit(status),
});
process.exit(code);
