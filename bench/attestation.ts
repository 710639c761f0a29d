/**
 * Speed of the attestation service against the goal of its issue: `node bench/attestation.ts [--rounds N] [--seconds N] [--json]`.
 *
 * The service runs in a process of its own, over loopback, with its store on disk; evidence is that of an emulated processor, in a request as long as the genuine one.
 * Beside it stands the ceiling: one P-384 verification and one RSA-2048 signature, which no token can do without, on one thread of the same process. Both are measured in
 * turns, round by round, because the speed of a shared machine changes from second to second: compare ratios. The goal is held against the best ratio of a round.
 */
import { Agent, request } from "node:http";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type { Started } from "./attestation/server.ts";
import { measureRounds, putLoad, Report, sendRequest, withService, type Load } from "./load.ts";

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

const [rounds, seconds] = [Number(flags.rounds), Number(flags.seconds)];
if (!Number.isInteger(rounds) || rounds < 1 || !(seconds > 0)) throw new Error("--rounds takes whole numbers from 1, --seconds numbers above 0");
const report = new Report(flags.json);
await withService(join(import.meta.dirname, "attestation", "server.ts"), { rounds, report }, async (started, ask) => {
  const { url, body } = started as Started;
  report.say(`requests of ${body.length} bytes`);
  const headers = { "content-type": "application/json", "content-length": body.length };
  const load = async (connections: number, duration: number): Promise<Load> => {
    const agent = new Agent({ keepAlive: true, maxSockets: connections });
    const attest = async (): Promise<void> => sendRequest((onResponse) => request(url, { method: "POST", agent, headers }, onResponse), body, '{"token":"ey');
    const measured = await putLoad(connections, duration, attest, ask);
    agent.destroy();
    return measured;
  };
  // The first requests fill caches and let the engine compile.
  await load(16, 1);
  const measurements = await measureRounds(rounds, CONNECTIONS, async (connections) => load(connections, seconds), ask);
  report.say("\nceiling: one P-384 verification and one RSA-2048 signature, one thread");
  report.loads(measurements, { noun: "tokens", ceiling: "pairs", ratio: GOAL_RATIO, p99: GOAL_P99 });
});
