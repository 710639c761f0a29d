/**
 * Speed of the attestation service against the goal of its issue: `node bench/attestation.ts [--rounds N] [--seconds N] [--json]`.
 *
 * The service runs in a process of its own, over loopback, with its store on disk; evidence is that of an emulated processor, in a request as long as the genuine one.
 * Beside it stands the ceiling: one P-384 verification and one RSA-2048 signature, which no token can do without, on one thread of the same process. Both are measured in
 * turns, round by round, because the speed of a shared machine changes from second to second: compare ratios. The goal is held against the best ratio of a round.
 */
import { fork } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { Agent, request } from "node:http";
import { availableParallelism, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type { Ceiling, Question, Started, Usage } from "./attestation/server.ts";

const { values: flags } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" },
    // Of load, per round and number of connections.
    seconds: { type: "string", default: "2" },
    json: { type: "boolean", default: false },
  },
});

const CONNECTIONS = [1, 16, 64] as const;
/** Per core: of one verification and one signature. */
const GOAL_RATIO = 0.6;
/** Milliseconds at 16 connections. */
const GOAL_P99 = 50;
const CEILING_MILLISECONDS = 500;

interface Row {
  readonly measurement: string;
  readonly median: number;
  readonly best: number;
  readonly unit: string;
  readonly goal?: string;
  readonly met?: boolean;
}

interface Load {
  readonly tokens: number;
  /** Seconds. */
  readonly wall: number;
  /** Seconds of the service's CPU time. */
  readonly cpu: number;
  /** Milliseconds. */
  readonly latencies: readonly number[];
}

const rows: Row[] = [];
const [rounds, seconds] = [Number(flags.rounds), Number(flags.seconds)];
if (!Number.isInteger(rounds) || rounds < 1 || !(seconds > 0)) throw new Error("--rounds takes whole numbers from 1, --seconds numbers above 0");
const directory = mkdtempSync(join(tmpdir(), "sealpod-bench-"));
try {
  await main();
} finally {
  rmSync(directory, { recursive: true });
}

async function main(): Promise<void> {
  say(`node ${process.version}, ${availableParallelism()} cores, ${rounds} rounds, load average ${loadavg()[0]?.toFixed(1)}`);
  const child = fork(join(import.meta.dirname, "attestation", "server.ts"), [directory]);
  const ended = once(child, "exit");
  const ask = async <T>(question: Question): Promise<T> => {
    const reply = once(child, "message");
    child.send(question);
    const [message] = (await Promise.race([reply, ended.then(() => Promise.reject(new Error("the service has ended")))])) as [T];
    return message;
  };
  try {
    const [started] = (await Promise.race([once(child, "message"), ended.then(() => Promise.reject(new Error("the service did not start")))])) as [Started];
    await measure(started, ask);
    child.send({ kind: "stop" } satisfies Question);
    await ended;
  } finally {
    child.kill();
  }
  if (flags.json) process.stdout.write(`${JSON.stringify({ node: process.version, cores: availableParallelism(), rounds, rows }, undefined, 2)}\n`);
}

async function measure({ url, body }: Started, ask: <T>(question: Question) => Promise<T>): Promise<void> {
  say(`requests of ${body.length} bytes`);
  const ceilings: number[] = [];
  const loads = new Map(CONNECTIONS.map((connections) => [connections, [] as { readonly load: Load; readonly ratio: number; readonly wallRatio: number }[]]));
  // The first requests fill caches and let the engine compile.
  await load(url, body, 16, 1, ask);
  for (let round = 0; round < rounds; round++) {
    for (const connections of CONNECTIONS) {
      // Awake for the ceiling as for the load: the two cores may be two threads of one, which slow each other down.
      const awake = stayAwake();
      const before = await ask<Ceiling>({ kind: "ceiling", milliseconds: CEILING_MILLISECONDS });
      const measured = await load(url, body, connections, seconds, ask);
      const after = await ask<Ceiling>({ kind: "ceiling", milliseconds: CEILING_MILLISECONDS });
      awake.stop();
      const pairs = before.pairs + after.pairs;
      const perCpu = (pairs / (before.cpu + after.cpu)) * 1e6;
      const perWall = (pairs / (before.wall + after.wall)) * 1e6;
      ceilings.push(perCpu);
      loads.get(connections)?.push({ load: measured, ratio: measured.tokens / measured.cpu / perCpu, wallRatio: measured.tokens / measured.wall / perWall });
    }
  }
  say("\nceiling: one P-384 verification and one RSA-2048 signature, one thread");
  add("pairs per second of CPU time", ceilings, "/s", Math.max);
  for (const [connections, measured] of loads) {
    const each = (value: (load: Load) => number): number[] => measured.map((item) => value(item.load));
    say(`\n${connections} ${connections === 1 ? "connection" : "connections"}`);
    add(
      `${connections}: tokens per second`,
      each(({ tokens, wall }) => tokens / wall),
      "/s",
      Math.max,
    );
    add(
      `${connections}: p50`,
      each(({ latencies }) => percentile(latencies, 0.5)),
      "ms",
      Math.min,
    );
    const p99 = add(
      `${connections}: p99`,
      each(({ latencies }) => percentile(latencies, 0.99)),
      "ms",
      Math.min,
    );
    if (connections === 16) goal("16: p99", p99, `below ${GOAL_P99} ms`, p99 < GOAL_P99);
    add(
      `${connections}: tokens per second of CPU time`,
      each(({ tokens, cpu }) => tokens / cpu),
      "/s",
      Math.max,
    );
    const ratio = add(
      `${connections}: of the ceiling, per core`,
      measured.map((item) => item.ratio),
      "",
      Math.max,
    );
    if (connections !== 1) goal(`${connections}: of the ceiling, per core`, ratio, `at least ${GOAL_RATIO}`, ratio >= GOAL_RATIO);
    add(
      `${connections}: of the ceiling of one thread, by the clock`,
      measured.map((item) => item.wallRatio),
      "",
      Math.max,
    );
  }
}

/** Keeps `connections` requests under way, each on a connection that stays open. */
async function load(url: string, body: string, connections: number, duration: number, ask: <T>(question: Question) => Promise<T>): Promise<Load> {
  const agent = new Agent({ keepAlive: true, maxSockets: connections });
  const latencies: number[] = [];
  const { cpu: before } = await ask<Usage>({ kind: "usage" });
  const begin = performance.now();
  const end = begin + duration * 1000;
  const client = async (): Promise<void> => {
    while (performance.now() < end) {
      const start = performance.now();
      await attest(agent, url, body);
      latencies.push(performance.now() - start);
    }
  };
  await Promise.all(Array.from({ length: connections }, client));
  const wall = (performance.now() - begin) / 1000;
  const { cpu } = await ask<Usage>({ kind: "usage" });
  agent.destroy();
  return { tokens: latencies.length, wall, cpu: (cpu - before) / 1e6, latencies };
}

/**
 * Keeps this process's core from falling asleep. On a virtual machine to wake an idle core costs the waker, which is the service in its `write`, up to half
 * a millisecond of CPU time: the machine's price for a client that does nothing else, and no part of a token.
 */
function stayAwake(): { stop(): void } {
  let wanted = true;
  const turn = (): void => {
    if (wanted) setImmediate(turn);
  };
  turn();
  return {
    stop: () => {
      wanted = false;
    },
  };
}

async function attest(agent: Agent, url: string, body: string): Promise<void> {
  const done = Promise.withResolvers<undefined>();
  const sent = request(url, { method: "POST", agent, headers: { "content-type": "application/json", "content-length": body.length } }, (response) => {
    const chunks: Buffer[] = [];
    response.on("data", (chunk: Buffer) => chunks.push(chunk));
    response.on("error", done.reject);
    response.on("end", () => {
      const text = Buffer.concat(chunks).toString();
      if (response.statusCode === 200 && text.startsWith('{"token":"ey')) done.resolve(undefined);
      else done.reject(new Error(`the service answered ${response.statusCode}: ${text.slice(0, 300)}`));
    });
  });
  sent.on("error", done.reject);
  sent.end(body);
  await done.promise;
}

/** @returns the best */
function add(measurement: string, values: readonly number[], unit: string, better: (...values: number[]) => number): number {
  const row = { measurement, median: percentile(values, 0.5), best: better(...values), unit };
  rows.push(row);
  const suffix = unit === "" ? "" : ` ${unit}`;
  say(`  ${measurement.padEnd(46)} median ${format(row.median)}${suffix}, best ${format(row.best)}${suffix}`);
  return row.best;
}

function goal(measurement: string, value: number, text: string, met: boolean): void {
  rows.push({ measurement, median: value, best: value, unit: "", goal: text, met });
  say(`    goal: ${text}: ${format(value)}, ${met ? "met" : "NOT met"}`);
}

function format(value: number): string {
  return value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);
}

function percentile(values: readonly number[], part: number): number {
  return values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * part))] ?? Number.NaN;
}

function say(line: string): void {
  if (!flags.json) process.stdout.write(`${line}\n`);
}
