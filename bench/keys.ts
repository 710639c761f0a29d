/**
 * Speed of key releases against the goal of their issue: `node bench/keys.ts [--rounds N] [--seconds N] [--connections N,N] [--json]`.
 *
 * The service runs in a process of its own, over TLS on loopback, with its database on disk: each release is durable in the audit before it is answered. Each request has an access
 * token and one of 64 attestation tokens; the latter are verified each time. Beside it stands the ceiling, the cryptography that a release cannot do without, on one thread of the
 * same process: what counts is in `rawRelease` of bench/keys/server.ts. TLS, HTTP, JSON, hashing and the disk are the service's to pay for. Both are measured in turns,
 * round by round, because the speed of a shared machine changes from second to second: compare ratios. The goal is held against the best ratio of a round.
 */
import { Agent, request } from "node:https";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type { Started } from "./keys/server.ts";
import { measureRounds, putLoad, Report, sendRequest, withService, type Load } from "./load.ts";

const { values: flags } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" },
    // Of load, per round and number of connections.
    seconds: { type: "string", default: "2" },
    connections: { type: "string", default: "1,16,64" },
    // For profilers: arguments of node for the service, such as --cpu-prof.
    node: { type: "string", multiple: true, default: [] },
    json: { type: "boolean", default: false },
  },
});

/** Per core, of the ceiling. */
const GOAL_RATIO = 0.6;
/** Milliseconds at 16 connections. */
const GOAL_P99 = 60;
/** Releases before anything is measured. */
const WARM_UP = 15_000;

const [rounds, seconds, connectionCounts] = [Number(flags.rounds), Number(flags.seconds), flags.connections.split(",").map(Number)];
if (!Number.isInteger(rounds) || rounds < 1 || !(seconds > 0)) throw new Error("--rounds takes whole numbers from 1, --seconds numbers above 0");
if (!connectionCounts.every((count) => Number.isInteger(count) && count > 0)) throw new Error("--connections takes whole numbers from 1, joined by commas");
const report = new Report(flags.json);
const execArgv = [...process.execArgv, ...flags.node];
await withService(join(import.meta.dirname, "keys", "server.ts"), { rounds, report, execArgv }, async (message, ask) => {
  const started = message as Started;
  report.say(`requests of ${started.bodies[0]?.length ?? 0} bytes`);
  const load = async (connections: number, duration: number): Promise<Load> => {
    const agent = new Agent({ keepAlive: true, maxSockets: connections, ca: started.ca, servername: started.host });
    // Handshakes are none of a release.
    await Promise.all(Array.from({ length: connections }, async (_, index) => release(agent, started, index)));
    const measured = await putLoad(connections, duration, async (index) => release(agent, started, index), ask);
    agent.destroy();
    return measured;
  };
  // The first requests fill caches and let the engine compile, which it goes on with for thousands of them.
  for (let done = 0; done < WARM_UP;) done += (await load(16, 1)).count;
  const measurements = await measureRounds(rounds, connectionCounts, async (connections) => load(connections, seconds), ask);
  report.say("\nceiling: RSA-2048 verification, AES-GCM decryption, OAEP encryption, AES-KWP and RSA-2048 signature, one thread");
  report.loads(measurements, { noun: "releases", ceiling: "releases", ratio: GOAL_RATIO, p99: GOAL_P99 });
});

async function release(agent: Agent, { host, port, path, authorization, bodies }: Started, index: number): Promise<void> {
  const body = bodies[index % bodies.length] ?? "";
  const headers = { host: `${host}:${port}`, authorization, "content-type": "application/json", "content-length": body.length };
  const options = { host: "127.0.0.1", port, path, method: "POST", agent, headers };
  await sendRequest((onResponse) => request(options, onResponse), body, '{"value":"ey');
}
