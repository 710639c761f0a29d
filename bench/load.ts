/**
 * What the benches of the services share: a service in a process of its own, load on it and its ceiling measured in turns, and the report.
 */
import { fork } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import type { ClientRequest, IncomingMessage } from "node:http";
import { availableParallelism, loadavg, tmpdir } from "node:os";
import { join } from "node:path";

const CEILING_MILLISECONDS = 500;

/** What the parent may ask. */
export type Question = { readonly kind: "usage" } | { readonly kind: "ceiling"; readonly milliseconds: number } | { readonly kind: "stop" };

/** Microseconds of CPU time since the process began. */
export interface Usage {
  readonly cpu: number;
}

/** The cryptography that a request cannot do without, again and again on one thread. */
export interface Ceiling {
  readonly count: number;
  /** Microseconds of CPU time, and of the clock. */
  readonly cpu: number;
  readonly wall: number;
}

/** What a service was asked, and how long that took. */
export interface Load {
  readonly count: number;
  /** Seconds. */
  readonly wall: number;
  /** Seconds of the service's CPU time. */
  readonly cpu: number;
  /** Milliseconds. */
  readonly latencies: readonly number[];
}

/** A load beside the ceiling of its time. */
export interface Measured {
  readonly load: Load;
  /** Of the ceiling, by CPU time and by the clock. */
  readonly ratio: number;
  readonly wallRatio: number;
}

/** All rounds. */
export interface Measurements {
  /** Requests per second of CPU time that the cryptography alone allows. */
  readonly ceilings: readonly number[];
  /** By number of connections. */
  readonly loads: ReadonlyMap<number, readonly Measured[]>;
}

/** Asks the service's process. */
export type Ask = <T>(question: Question) => Promise<T>;

interface Row {
  readonly measurement: string;
  readonly median: number;
  readonly best: number;
  readonly unit: string;
  readonly goal?: string;
  readonly met?: boolean;
}

/** What is told on the way, and kept for the JSON at the end. */
export class Report {
  readonly #rows: Row[] = [];
  readonly #isJson: boolean;

  constructor(isJson: boolean) {
    this.#isJson = isJson;
  }

  say(line: string): void {
    if (!this.#isJson) process.stdout.write(`${line}\n`);
  }

  /** @returns the best */
  add(measurement: string, values: readonly number[], unit: string, better: (...values: number[]) => number): number {
    const row = { measurement, median: percentile(values, 0.5), best: better(...values), unit };
    this.#rows.push(row);
    const suffix = unit === "" ? "" : ` ${unit}`;
    this.say(`  ${measurement.padEnd(46)} median ${format(row.median)}${suffix}, best ${format(row.best)}${suffix}`);
    return row.best;
  }

  goal(measurement: string, value: number, text: string, met: boolean): void {
    this.#rows.push({ measurement, median: value, best: value, unit: "", goal: text, met });
    this.say(`    goal: ${text}: ${format(value)}, ${met ? "met" : "NOT met"}`);
  }

  /** What every number of connections is measured by. @param noun what is counted, e.g. `tokens` */
  loads({ ceilings, loads }: Measurements, { noun, ceiling, ratio: goalRatio, p99: goalP99 }: Goals): void {
    this.add(`${ceiling} per second of CPU time`, ceilings, "/s", Math.max);
    for (const [connections, measured] of loads) {
      this.say(`\n${connections} ${connections === 1 ? "connection" : "connections"}`);
      const row = (what: string, value: (measured: Measured) => number, unit: string, better: (...values: number[]) => number): number =>
        this.add(`${connections}: ${what}`, measured.map(value), unit, better);
      row(`${noun} per second`, ({ load: { count, wall } }) => count / wall, "/s", Math.max);
      row("p50", ({ load: { latencies } }) => percentile(latencies, 0.5), "ms", Math.min);
      const p99 = row("p99", ({ load: { latencies } }) => percentile(latencies, 0.99), "ms", Math.min);
      if (connections === 16) this.goal("16: p99", p99, `below ${goalP99} ms`, p99 < goalP99);
      row(`${noun} per second of CPU time`, ({ load: { count, cpu } }) => count / cpu, "/s", Math.max);
      const ratio = row("of the ceiling, per core", (each) => each.ratio, "", Math.max);
      if (connections !== 1) this.goal(`${connections}: of the ceiling, per core`, ratio, `at least ${goalRatio}`, ratio >= goalRatio);
      row("of the ceiling of one thread, by the clock", (each) => each.wallRatio, "", Math.max);
    }
  }

  /** The JSON, if it was asked for. */
  end(rounds: number): void {
    if (this.#isJson) {
      process.stdout.write(`${JSON.stringify({ node: process.version, cores: availableParallelism(), rounds, rows: this.#rows }, undefined, 2)}\n`);
    }
  }
}

/** What {@link Report.loads} names, and holds against the goals of an issue. */
export interface Goals {
  /** What requests are, e.g. `tokens`. */
  readonly noun: string;
  /** What the ceiling counts. */
  readonly ceiling: string;
  /** Per core, of the ceiling. */
  readonly ratio: number;
  /** Milliseconds at 16 connections. */
  readonly p99: number;
}

/** Runs a service's program with a directory of its own, and ends it. @param program talks as bench/load-server.ts does @param work is given its first message */
export async function withService(
  program: string,
  { rounds, report, execArgv = process.execArgv }: { readonly rounds: number; readonly report: Report; readonly execArgv?: readonly string[] },
  work: (started: unknown, ask: Ask) => Promise<void>,
): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "sealpod-bench-"));
  try {
    report.say(`node ${process.version}, ${availableParallelism()} cores, ${rounds} rounds, load average ${loadavg()[0]?.toFixed(1)}`);
    const child = fork(program, [directory], { execArgv: [...execArgv] });
    const ended = once(child, "exit");
    const ask: Ask = async <T>(question: Question): Promise<T> => {
      const reply = once(child, "message");
      child.send(question);
      const [message] = (await Promise.race([reply, ended.then(() => Promise.reject(new Error("the service has ended")))])) as [T];
      return message;
    };
    try {
      const [started] = (await Promise.race([
        once(child, "message"),
        ended.then(() => Promise.reject(new Error("the service did not start"))),
      ])) as readonly unknown[];
      await work(started, ask);
      child.send({ kind: "stop" } satisfies Question);
      await ended;
    } finally {
      child.kill();
    }
    report.end(rounds);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** Measures load and ceiling in turns. @param load puts load on the service over so many connections */
export async function measureRounds(
  rounds: number,
  connectionCounts: readonly number[],
  load: (connections: number) => Promise<Load>,
  ask: Ask,
): Promise<Measurements> {
  const ceilings: number[] = [];
  const loads = new Map(connectionCounts.map((connections) => [connections, [] as Measured[]]));
  for (let round = 0; round < rounds; round++) {
    for (const connections of connectionCounts) {
      // Awake for the ceiling as for the load: the two cores may be two threads of one, which slow each other down.
      const awake = stayAwake();
      const before = await ask<Ceiling>({ kind: "ceiling", milliseconds: CEILING_MILLISECONDS });
      const measured = await load(connections);
      const after = await ask<Ceiling>({ kind: "ceiling", milliseconds: CEILING_MILLISECONDS });
      awake.stop();
      const count = before.count + after.count;
      const perCpu = (count / (before.cpu + after.cpu)) * 1e6;
      const perWall = (count / (before.wall + after.wall)) * 1e6;
      ceilings.push(perCpu);
      loads.get(connections)?.push({ load: measured, ratio: measured.count / measured.cpu / perCpu, wallRatio: measured.count / measured.wall / perWall });
    }
  }
  return { ceilings, loads };
}

/** Keeps `connections` requests under way for a time. @param seconds it takes @param send makes one request, and is told which */
export async function putLoad(connections: number, seconds: number, send: (index: number) => Promise<void>, ask: Ask): Promise<Load> {
  const latencies: number[] = [];
  const { cpu: before } = await ask<Usage>({ kind: "usage" });
  const begin = performance.now();
  const end = begin + seconds * 1000;
  let next = 0;
  const client = async (): Promise<void> => {
    while (performance.now() < end) {
      const start = performance.now();
      await send(next++);
      latencies.push(performance.now() - start);
    }
  };
  await Promise.all(Array.from({ length: connections }, client));
  const wall = (performance.now() - begin) / 1000;
  const { cpu } = await ask<Usage>({ kind: "usage" });
  return { count: latencies.length, wall, cpu: (cpu - before) / 1e6, latencies };
}

/** Sends a request, and waits for an answer of status 200. @param beginning of a right answer @throws {Error} for any other */
export async function sendRequest(open: (onResponse: (response: IncomingMessage) => void) => ClientRequest, body: string, beginning: string): Promise<void> {
  const done = Promise.withResolvers<undefined>();
  const sent = open((response) => {
    const chunks: Buffer[] = [];
    response.on("data", (chunk: Buffer) => chunks.push(chunk));
    response.on("error", done.reject);
    response.on("end", () => {
      const text = Buffer.concat(chunks).toString();
      if (response.statusCode === 200 && text.startsWith(beginning)) done.resolve(undefined);
      else done.reject(new Error(`the service answered ${response.statusCode}: ${text.slice(0, 300)}`));
    });
  });
  sent.on("error", done.reject);
  sent.end(body);
  await done.promise;
}

/**
 * Keeps this process's core from falling asleep. On a virtual machine to wake an idle core costs the waker, which is the service in its `write`, up to half
 * a millisecond of CPU time: the machine's price for a client that does nothing else, and no part of a request.
 */
function stayAwake(): { readonly stop: () => void } {
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

function format(value: number): string {
  return value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);
}

function percentile(values: readonly number[], part: number): number {
  return values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * part))] ?? Number.NaN;
}
