/**
 * A shim whose tasks are names only: for tests of what is around them (launcher, daemon, delete). Writes what it was started with to `started.json` in
 * the bundle. With `-create-limit` from the variable TINY_CREATE_LIMIT.
 */
import { writeFileSync } from "node:fs";
import { jsonLogger } from "@sealpod/core";
import { taskApi } from "@sealpod/proto";
import { implement, statusError, STATUS } from "@sealpod/ttrpc";
import { parseArguments } from "../arguments.ts";
import { runDaemon } from "../daemon.ts";
import { deleteResponse, deleteShim } from "../delete.ts";
import { openLog } from "../log.ts";

const nothing = { machine: async () => undefined, network: async () => undefined, launch: async () => undefined, cgroup: async () => undefined };
const clock = { now: (): number => Date.now() };
const args = parseArguments(process.argv.slice(2), process.cwd());
const log = openLog("log");
const logger = jsonLogger(clock, log.write, "debug", "tiny");
if (args.action === "delete") {
  const machine = async (path: string): Promise<void> => void process.stderr.write(`machine ${path}\n`);
  const network = async (path: string): Promise<void> => void process.stderr.write(`network ${path}\n`);
  await deleteShim(args, { ...nothing, machine, network }, logger);
  process.stdout.write(deleteResponse(clock));
} else if (args.action === "serve") {
  for (const signal of ["SIGTERM", "SIGHUP"] as const) process.on(signal, () => undefined);
  const limit = process.env["TINY_CREATE_LIMIT"];
  writeFileSync("started.json", JSON.stringify({ argv: process.argv.slice(2), env: process.env, pid: process.pid, execArgv: process.execArgv }));
  const ended = Promise.withResolvers<void>();
  const tasks = new Map<string, PromiseWithResolvers<void>>();
  const stopped = new Set<string>();
  const task = (id: string): PromiseWithResolvers<void> => {
    const found = tasks.get(id);
    if (found === undefined) throw statusError(STATUS.notFound, `no task ${id}`);
    return found;
  };
  await runDaemon(limit === undefined ? args : { ...args, createLimitMs: Number(limit) }, {
    bundle: process.cwd(),
    pid: process.pid,
    logger,
    work: async ({ unused, place }) => ({
      services: [
        implement(taskApi.Task, {
          create: async ({ id }) => {
            unused.stop();
            if (tasks.size === 0) await place.prepare(process.env["TINY_RUN"] ?? "/nowhere", undefined, nothing);
            tasks.set(id, Promise.withResolvers());
            logger.log("info", "created", { id });
            return { pid: process.pid };
          },
          start: ({ id }) => (task(id), { pid: process.pid }),
          state: ({ id }) => (task(id), { id, pid: process.pid, status: stopped.has(id) ? taskApi.Status.STOPPED : taskApi.Status.RUNNING }),
          wait: async ({ id }) => (await task(id).promise, { exitStatus: 7 }),
          kill: ({ id }) => (task(id).resolve(), stopped.add(id), {}),
          delete: ({ id }) => (task(id), tasks.delete(id), { exitStatus: 7 }),
          connect: () => ({ shimPid: process.pid, taskPid: process.pid }),
          pids: ({ id }) => (task(id), { processes: [{ pid: process.pid }] }),
          shutdown: () => {
            if (tasks.size === 0) ended.resolve();
            return {};
          },
        }),
      ],
      ended: ended.promise,
    }),
  });
  setImmediate(() => process.exit(0));
}
