import { once } from "node:events";
import { constants, closeSync, existsSync, openSync, readFileSync, readSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { parseMessage, taskApi } from "@sealpod/proto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { podKey, socketPath } from "./arguments.ts";
import { readRecord } from "./record.ts";
import { noNamespaces, openPrivateWorld, type Outcome, type PrivateWorld } from "./testdata/private-world.ts";

/** What the launcher itself calls, without perl. */
const WITHOUT_PERL = ["grep", "sha256sum", "date", "mv", "sh", "env"];

/** Of whoever starts containerd: each of these would make a program of the start fail, or say something. */
const GARBAGE = {
  NODE_OPTIONS: "--no-such-flag",
  NODE_EXTRA_CA_CERTS: "/nowhere.pem",
  NODE_V8_COVERAGE: "/nowhere/coverage",
  NODE_DEBUG: "net",
  PERL5OPT: "-MNoSuchModule",
  PERL5LIB: "/nowhere",
  LC_ALL: "xx_XX.none",
  GREP_OPTIONS: "--color=always",
};

describe.skipIf(noNamespaces !== undefined)(`the launcher${noNamespaces === undefined ? "" : ` (skipped: ${noNamespaces})`}`, () => {
  let world: PrivateWorld;
  let run: string;
  let tiny: string;
  let serial = 0;
  const address = "/run/containerd/containerd.sock";
  const socketOf = (id: string): string => world.path(socketPath(podKey({ address, namespace: "ns", id })));
  const args = (id: string, ...more: readonly string[]): readonly string[] =>
    ["-namespace", "ns", "-address", address, "-publish-binary", "/usr/bin/containerd", "-id", id].concat(more);
  const nodeStarts = (launcher: string): number => {
    const path = join(launcher, "..", "node-starts");
    return existsSync(path) ? readFileSync(path, "utf8").trim().split("\n").length : 0;
  };
  const create = async (printed: Outcome, id: string): Promise<Awaited<ReturnType<PrivateWorld["client"]>>> => {
    const client = await world.client(printed.stdout.toString());
    await client.unary(taskApi.Task.method.create, { id, bundle: "/b" });
    return client;
  };
  const shutDown = async (client: Awaited<ReturnType<PrivateWorld["client"]>>, id: string): Promise<void> => {
    await client.unary(taskApi.Task.method.delete, { id });
    await client.unary(taskApi.Task.method.shutdown, { id });
    await client.closed;
  };
  const deleted = (outcome: Outcome): unknown => {
    const { exitStatus, exitedAt } = parseMessage(taskApi.DeleteResponseSchema, outcome.stdout);
    expect(Math.abs(Number(exitedAt?.seconds) - Date.now() / 1000)).toBeLessThan(120);
    return { exit: outcome.exit, stderr: outcome.stderr, exitStatus };
  };
  const DELETED = { exit: 0, stderr: "", exitStatus: 137 };

  beforeAll(async () => {
    world = await openPrivateWorld();
    run = join(world.directory, "run");
    tiny = await world.tinyShim();
  });
  afterAll(async () => {
    await world[Symbol.asyncDispose]();
  });

  describe.each([
    ["with perl", true],
    ["without perl", false],
  ])("%s", (_, withPerl) => {
    let path: string;
    const start = async (launcher: string, bundle: string, id: string, env: Readonly<Record<string, string>> = {}): Promise<Outcome> =>
      world.run(launcher, args(id, "start"), { cwd: bundle, env: { TINY_RUN: run, PATH: path, ...env } });

    beforeAll(() => {
      path = world.programs(withPerl ? [...WITHOUT_PERL, "perl"] : WITHOUT_PERL);
    });

    it("prints the address and nothing else, whatever the environment says", async () => {
      const [launcher, id] = [world.launcher(tiny), `start-${serial++}`];
      const bundle = await world.bundle(id);
      const log = openSync(join(bundle, "log"), constants.O_RDWR | constants.O_NONBLOCK);
      const printed = await start(launcher, bundle, id, { ...GARBAGE, TTRPC_ADDRESS: "/run/t.sock" });
      expect({ ...printed, stdout: printed.stdout.toString() }).toEqual({
        exit: 0,
        stdout: `unix://${socketPath(podKey({ address, namespace: "ns", id }))}`,
        stderr: "",
      });
      expect(statSync(socketOf(id)).mode & 0o777).toBe(0o600);

      const client = await create(printed, id);
      const { shimPid } = await client.unary(taskApi.Task.method.connect, { id });
      expect(readFileSync(join(bundle, "address"), "utf8")).toBe(printed.stdout.toString());
      expect(readFileSync(join(bundle, "shim.pid"), "utf8")).toBe(String(shimPid));
      expect(readRecord(bundle)).toMatchObject({ namespace: "ns", id, pid: shimPid, bundle });
      const { env, execArgv } = JSON.parse(readFileSync(join(bundle, "started.json"), "utf8")) as { env: Record<string, string>; execArgv: string[] };
      expect(Object.keys(env).filter((name) => name in GARBAGE)).toEqual(["LC_ALL"]);
      expect(env).toMatchObject({ LC_ALL: "C", TTRPC_ADDRESS: "/run/t.sock" });
      expect(execArgv).toEqual(["--no-warnings"]);
      const lines = Buffer.alloc(65536);
      expect(lines.toString("utf8", 0, readSync(log, lines))).toContain('"msg":"created"');
      closeSync(log);

      // Nothing of containerd's pipes is left open in it, and its signals do not end it.
      const open = readdirSync(`/proc/${shimPid}/fd`);
      expect(open).toContain("2");
      process.kill(shimPid, "SIGTERM");
      process.kill(shimPid, "SIGHUP");
      await client.unary(taskApi.Task.method.state, { id });
      await shutDown(client, id);
      expect(existsSync(socketOf(id))).toBe(false);
      expect(readdirSync(bundle).sort()).toEqual(["config.json", "log", "started.json"]);
      expect(readdirSync(run)).toEqual([]);
    });

    it("takes the place of a socket that nobody listens at", async () => {
      const [launcher, id] = [world.launcher(tiny), `stale-${serial++}`];
      const bundle = await world.bundle(id);
      const first = await start(launcher, bundle, id);
      const client = await create(first, id);
      const { shimPid } = await client.unary(taskApi.Task.method.connect, { id });
      process.kill(shimPid, "SIGKILL");
      await client.closed;
      expect(existsSync(socketOf(id))).toBe(true);
      const second = await start(launcher, bundle, id);
      expect(second.stdout.toString()).toBe(first.stdout.toString());
      await shutDown(await create(second, id), id);
    });

    it("does not take the place of a shim that lives", async () => {
      const [launcher, id] = [world.launcher(tiny), `alive-${serial++}`];
      const bundle = await world.bundle(id);
      const client = await create(await start(launcher, bundle, id), id);
      const record = readRecord(bundle);
      const again = await start(launcher, bundle, id);
      expect(again.exit).toBe(1);
      expect(again.stdout.toString()).toBe("");
      expect(again.stderr).toContain(`a shim of this id serves ${socketPath(podKey({ address, namespace: "ns", id }))} already`);
      await client.unary(taskApi.Task.method.state, { id });
      expect(readRecord(bundle)).toEqual(record);
      await shutDown(client, id);
    });

    it("says so when Node or the shim is not there", async () => {
      const id = `missing-${serial++}`;
      const bundle = await world.bundle(id);
      const missing = await start(world.launcher(tiny, "/opt/none/node"), bundle, id);
      expect(missing).toMatchObject({
        exit: 1,
        stderr: "containerd-shim-kata-cc-v2: there is no Node.js at /opt/none/node: run 'sealpod host install' again\n",
      });
      const none = await start(world.launcher("/opt/none/shim.mjs"), bundle, id);
      expect(none).toMatchObject({ exit: 1, stderr: "containerd-shim-kata-cc-v2: there is no shim at /opt/none/shim.mjs: run 'sealpod host install' again\n" });
      // A program whose loader is not there.
      const broken = join(world.directory, "broken");
      writeFileSync(broken, "#!/nowhere/loader\n", { mode: 0o755 });
      const foreign = await start(world.launcher(tiny, broken), bundle, id);
      expect(foreign).toMatchObject({ exit: 1, stdout: Buffer.alloc(0) });
      expect(foreign.stderr).toContain(withPerl ? `cannot start ${broken}: No such file or directory` : "the shim did not start");
      expect(existsSync(socketOf(id))).toBe(false);
    });

    it("leaves no shim that nobody wants", async () => {
      const [launcher, id] = [world.launcher(tiny), `unused-${serial++}`];
      const bundle = await world.bundle(id);
      const printed = await start(launcher, bundle, id, { TINY_CREATE_LIMIT: "200" });
      const client = await world.client(printed.stdout.toString());
      await client.closed;
      expect(existsSync(socketOf(id))).toBe(false);
      expect(readRecord(bundle)).toBeUndefined();
    });

    it("answers a container of a pod without Node, and its end", async () => {
      const [launcher, pod, id] = [world.launcher(tiny), `pod-${serial++}`, `second-${serial++}`];
      const sandbox = await world.bundle(pod, { "io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": pod });
      const first = await start(launcher, sandbox, pod);
      const client = await create(first, pod);
      expect(nodeStarts(launcher)).toBe(1);
      for (const space of [undefined, 2]) {
        const bundle = await world.bundle(id, { "io.kubernetes.cri.sandbox-id": pod, "io.kubernetes.cri.container-type": "container", z: 'a "b" c' }, space);
        const second = await start(launcher, bundle, id);
        expect({ ...second, stdout: second.stdout.toString() }).toEqual({ exit: 0, stdout: first.stdout.toString(), stderr: "" });
        expect(readFileSync(join(bundle, "address"), "utf8")).toBe(first.stdout.toString());
        const end = await world.run(launcher, args(id, "-bundle", bundle, "delete"), { cwd: bundle, env: { PATH: path } });
        expect(deleted(end)).toEqual(DELETED);
        rmSync(bundle, { recursive: true });
      }
      expect(nodeStarts(launcher)).toBe(1);
      await client.unary(taskApi.Task.method.state, { id: pod });
      await shutDown(client, pod);
      // Its own, too, if it ended in order.
      const end = await world.run(launcher, args(pod, "-bundle", sandbox, "delete"), { cwd: sandbox, env: { PATH: path } });
      expect(deleted(end)).toEqual(DELETED);
      expect(nodeStarts(launcher)).toBe(1);
      const late = await start(launcher, await world.bundle(id, { "io.kubernetes.cri.sandbox-id": pod, "io.kubernetes.cri.container-type": "container" }), id);
      expect(late).toMatchObject({ exit: 1, stdout: Buffer.alloc(0) });
      expect(late.stderr).toContain(`container ${id} belongs to sandbox ${pod}, which has no shim`);
    });

    it("cleans up after a shim that was killed", async () => {
      const [launcher, id] = [world.launcher(tiny), `killed-${serial++}`];
      const bundle = await world.bundle(id);
      const client = await create(await start(launcher, bundle, id), id);
      const { shimPid } = await client.unary(taskApi.Task.method.connect, { id });
      const directory = readRecord(bundle)?.directory ?? "";
      expect(readdirSync(directory)).toEqual(["shim.json"]);
      process.kill(shimPid, "SIGKILL");
      await client.closed;
      const end = await world.run(launcher, args(id, "-bundle", bundle, "delete"), { cwd: bundle, env: { PATH: path } });
      expect(deleted(end)).toEqual({ ...DELETED, stderr: `machine ${directory}/vm\n` });
      expect(existsSync(directory)).toBe(false);
      expect(existsSync(socketOf(id))).toBe(false);
      expect(readRecord(bundle)).toBeUndefined();
    });

    it("ends a shim that lives when it is deleted", async () => {
      const [launcher, id] = [world.launcher(tiny), `live-${serial++}`];
      const bundle = await world.bundle(id);
      const client = await create(await start(launcher, bundle, id), id);
      const end = await world.run(launcher, args(id, "-bundle", bundle, "delete"), { cwd: bundle, env: { PATH: path } });
      expect(deleted(end)).toMatchObject({ exit: 0, exitStatus: 137 });
      await client.closed;
      expect(existsSync(socketOf(id))).toBe(false);
    });
  });

  it("leaves no process behind", async () => {
    // Its end closes a connection a moment before the process is gone.
    await expect.poll(() => world.processes(), { timeout: 20_000 }).toEqual([]);
  });

  it("is not misled by what a pod's author writes", async () => {
    const [launcher, id] = [world.launcher(tiny), `misled-${serial++}`];
    const bundle = await world.bundle(id, { a: '"io.kubernetes.cri.container-type":"container"', b: '"io.kubernetes.cri.sandbox-id":"victim"' });
    const printed = await world.run(launcher, args(id, "start"), { cwd: bundle, env: { TINY_RUN: run } });
    expect(printed.stdout.toString()).toBe(`unix://${socketPath(podKey({ address, namespace: "ns", id }))}`);
    await shutDown(await create(printed, id), id);
  });

  it.each([
    ["no id", ["-namespace", "ns", "-address", address, "start"], "-namespace and -id are needed"],
    ["a path for an id", ["-namespace", "ns", "-address", address, "-id", "../x", "start"], "neither -namespace nor -id may contain a slash"],
    ["a path for a namespace", ["-namespace", "n/s", "-address", address, "-id", "x", "delete"], "neither -namespace nor -id may contain a slash"],
  ])("refuses %s", async (_, words, message) => {
    const bundle = await world.bundle("refused");
    expect(await world.run(world.launcher(tiny), words, { cwd: bundle })).toMatchObject({ exit: 1, stderr: `containerd-shim-kata-cc-v2: ${message}\n` });
  });

  it("refuses a bundle without a specification", async () => {
    const outcome = await world.run(world.launcher(tiny), args("empty", "start"), { cwd: world.directory });
    expect(outcome).toMatchObject({ exit: 1, stderr: `containerd-shim-kata-cc-v2: there is no config.json in ${world.directory}\n` });
  });

  it("says what another program at the socket's place is: alive", async () => {
    const id = `foreign-${serial++}`;
    const bundle = await world.bundle(id);
    const server = createServer().listen(socketOf(id));
    await once(server, "listening");
    const outcome = await world.run(world.launcher(tiny), args(id, "start"), { cwd: bundle });
    expect(outcome).toMatchObject({ exit: 1 });
    expect(outcome.stderr).toContain("already");
    server.close();
  });
});
