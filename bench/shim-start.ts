/**
 * Time until a shim's `start` has printed its address, as containerd waits for it: ours, for a pod and for another container of it, beside
 * containerd-shim-runc-v2 in the same run and in turn: `npm run bench -- shim-start [rounds]`. Compare the ratios; absolute numbers belong to the machine
 * and to what else runs on it.
 *
 * A second number for each is the time until the shim has answered its first call: what containerd waits for when it makes the pod.
 */
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, constants, existsSync, mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { taskApi } from "@sealpod/proto";
import { byteStream, TtrpcClient } from "@sealpod/ttrpc";
import { LAUNCHER_NAME, launcherText } from "../host/shim/launcher.ts";
import { bundle, BUNDLES } from "../tools/bundle.ts";

const RUNC_SHIM = join(import.meta.dirname, "../build/tools/usr/bin/containerd-shim-runc-v2");
/** Rounds whose times do not count: files come from the disk. */
const WARM_UP = 3;

const rounds = Number(process.argv[2] ?? "21");
const measured = new Map<string, number[]>();
const directory = mkdtempSync(join(tmpdir(), "shim-start-"));
const address = join(directory, "containerd.sock");
let serial = 0;

if (existsSync(RUNC_SHIM)) await main();
else process.stdout.write("there is no containerd-shim-runc-v2 here: node tools/setup.ts --test\n");
rmSync(directory, { recursive: true });

async function main(): Promise<void> {
  const shim = join(directory, "shim.mjs");
  writeFileSync(shim, (await bundle(BUNDLES["shim"] ?? "")).bytes);
  const ours = join(directory, LAUNCHER_NAME);
  writeFileSync(ours, launcherText({ node: process.execPath, shim, config: join(directory, "shim.toml") }), { mode: 0o755 });
  for (let round = -WARM_UP; round < rounds; round++) {
    const note = (name: string, value: number): void => void (round >= 0 && measured.set(name, [...(measured.get(name) ?? []), value]));
    const runc = await start(RUNC_SHIM, {});
    note("containerd-shim-runc-v2: address", runc.addressMs);
    note("containerd-shim-runc-v2: first answer", runc.answerMs);
    await runc.end();
    const pod = await start(ours, {});
    note("a pod: address", pod.addressMs);
    note("a pod: first answer", pod.answerMs);
    const container = await start(ours, { "io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": pod.id });
    note("a container of a pod: address", container.addressMs);
    await pod.end();
    await container.end();
  }
  report();
}

interface Started {
  readonly id: string;
  readonly addressMs: number;
  readonly answerMs: number;
  readonly end: () => Promise<void>;
}

async function start(program: string, annotations: Readonly<Record<string, string>>): Promise<Started> {
  const id = `start-${++serial}`;
  const cwd = join(directory, id);
  mkdirSync(cwd);
  writeFileSync(join(cwd, "config.json"), JSON.stringify({ ociVersion: "1.0.2", annotations, linux: {} }));
  execFileSync("mkfifo", [join(cwd, "log")]);
  // containerd reads it; runc's shim waits for that.
  const log = openSync(join(cwd, "log"), constants.O_RDWR | constants.O_NONBLOCK);
  const flags = ["-namespace", "bench", "-address", address, "-publish-binary", "/bin/true", "-id", id];
  const begin = performance.now();
  // As containerd does it: both outputs are one pipe, and the call ends when nobody holds it any more.
  const child = spawn(program, [...flags, "start"], {
    cwd,
    stdio: ["ignore", "pipe", "inherit"],
    env: { PATH: process.env["PATH"], TTRPC_ADDRESS: `${address}.ttrpc` },
  });
  const chunks: Buffer[] = [];
  child.stdout.on("data", (chunk: Buffer) => void chunks.push(chunk));
  await once(child, "close");
  const addressMs = performance.now() - begin;
  const printed = Buffer.concat(chunks).toString().trim();
  if (child.exitCode !== 0 || !printed.startsWith("unix://")) throw new Error(`${program} printed ${JSON.stringify(printed)}`);
  const path = printed.slice("unix://".length);
  const socket = connect(path);
  await once(socket, "connect");
  const client = new TtrpcClient(byteStream(socket));
  // There is no such task; that it says so is an answer.
  await client.unary(taskApi.Task.method.state, { id: "none" }).catch(() => undefined);
  const answerMs = performance.now() - begin;
  const end = async (): Promise<void> => {
    // A pod's shim goes when there is no task; what it says then may be lost with the connection.
    await client.unary(taskApi.Task.method.shutdown, { id, now: true }, { timeoutMs: 10_000 }).catch(() => undefined);
    await client.closed;
    rmSync(path, { force: true });
    closeSync(log);
  };
  return { id, addressMs, answerMs, end };
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor((values.length - 1) / 2)] ?? Number.NaN;
}

function report(): void {
  const load = loadavg().map((value) => value.toFixed(1));
  process.stdout.write(`${rounds} rounds, medians in ms (least to most); load ${load.join(" ")}\n`);
  for (const [name, values] of measured) {
    const runc = median(measured.get(`containerd-shim-runc-v2: ${name.endsWith("address") ? "address" : "first answer"}`) ?? []);
    const middle = median(values);
    const range = `(${Math.min(...values).toFixed(1)} to ${Math.max(...values).toFixed(1)})`;
    process.stdout.write(`${name.padEnd(40)} ${middle.toFixed(1).padStart(7)} ${range.padEnd(18)} ${(middle / runc).toFixed(2)} of runc's\n`);
  }
}
