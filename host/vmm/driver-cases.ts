import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { connect, createServer, type AddressInfo } from "node:net";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { ByteStream } from "@sealpod/ttrpc";
import { cleanUpMachine } from "./machine-record.ts";
import type { Launch, LaunchPort, Machine, MachineConfig, MachineEvent, NetworkConfig, VmmDriver } from "./driver.ts";

/** A fresh machine's description, and what belongs to it. */
export interface DriverFixture {
  readonly config: MachineConfig;
  /** A directory that the case may write to. The run directory may be in it. */
  readonly directory: string;
  readonly launch: RecordingLaunch;
}

/** A driver under test. Its guests run `testdata/test-guest.ts` in place of the agent, or something that answers the same lines. */
export interface DriverSubject {
  readonly driver: VmmDriver;
  readonly configure: () => Promise<DriverFixture>;
  /** What the `source` of a disk looks like, from its first to its last character. */
  readonly source: RegExp;
  /** Networks that the driver has, of those that need nothing from the host. It must refuse the others. */
  readonly networks: readonly NetworkConfig["kind"][];
  /** Cases that cannot be run with this driver, each with the reason. */
  readonly cannot?: Readonly<Partial<Record<DriverCaseName, string>>>;
}

/** Names of the cases, for {@link DriverSubject.cannot}. */
export type DriverCaseName =
  | "agent"
  | "clean-up"
  | "config"
  | "console"
  | "disks"
  | "events"
  | "forward"
  | "half-way"
  | "launch"
  | "many-disks"
  | "network"
  | "networks"
  | "own-end"
  | "pid"
  | "stop"
  | "stop-in-use"
  | "two"
  | "writable";

/** What every driver must do, whatever its machines are. */
export interface DriverCase {
  readonly name: DriverCaseName;
  readonly title: string;
  readonly run: (subject: DriverSubject) => Promise<void>;
}

/** Title of a case for one subject: a case that is not run says why. */
export function caseTitle(subject: DriverSubject, { name, title }: DriverCase): string {
  const reason = subject.cannot?.[name];
  return reason === undefined ? title : `${title} (skipped: ${reason})`;
}

/** A launch port that remembers. */
export class RecordingLaunch implements LaunchPort {
  readonly requests: string[] = [];
  closed = 0;
  readonly #directory: string;
  readonly #serve: Launch["serve"];

  constructor(guestInfoDirectory: string, serve?: Launch["serve"]) {
    this.#directory = guestInfoDirectory;
    this.#serve = serve;
  }

  async launch(request: Parameters<LaunchPort["launch"]>[0]): Promise<Launch> {
    this.requests.push(Buffer.from(request.hostData).toString("hex"));
    return {
      guestInfoDirectory: this.#directory,
      ...(this.#serve === undefined ? {} : { serve: this.#serve }),
      close: async () => {
        this.closed++;
      },
    };
  }
}

/** Asks the test guest one question on a connection of its own. */
export async function ask(machine: Machine, line: string): Promise<unknown> {
  const stream = await machine.connectAgent();
  try {
    return await askOn(stream, line);
  } finally {
    stream.close();
  }
}

/** Asks the test guest one question on a connection that stays. */
export async function askOn(stream: ByteStream, line: string): Promise<unknown> {
  await stream.write(Buffer.from(`${line}\n`));
  let text = "";
  for await (const chunk of stream.readable) {
    text += Buffer.from(chunk).toString("utf8");
    if (text.endsWith("\n")) return JSON.parse(text) as unknown;
  }
  throw new Error(`the guest closed the connection after ${JSON.stringify(text)}`);
}

/** Command lines of the processes that name a directory. */
export function processesOf(directory: string): readonly string[] {
  return readdirSync("/proc")
    .filter((name) => /^[0-9]+$/.test(name))
    .map((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
      } catch {
        return ""; // It ended while we looked.
      }
    })
    .filter((line) => line.includes(directory));
}

/** Asserts that nothing is left of a machine: no directory, no process, no identity. */
function assertNothingLeft({ config, launch }: DriverFixture): void {
  assert.equal(existsSync(config.runDirectory), false, "the run directory is gone");
  assert.deepEqual(processesOf(config.runDirectory), [], "no process names the run directory");
  assert.equal(launch.closed, launch.requests.length, "every launch was closed once");
}

async function textOf(port: number): Promise<string> {
  const socket = connect(port, "127.0.0.1");
  let text = "";
  for await (const chunk of socket) text += (chunk as Buffer).toString("utf8");
  return text;
}

function hasCode(...codes: readonly string[]): (error: unknown) => boolean {
  return (error) => codes.includes((error as { readonly code?: string }).code ?? "");
}

/** A disk of one block: machines know no smaller ones. */
function block(text: string): Buffer {
  const bytes = Buffer.alloc(4096);
  bytes.write(text);
  return bytes;
}

async function attach(machine: Machine, directory: string, name: string): Promise<{ readonly source: string; readonly digest: string }> {
  const path = join(directory, name);
  const bytes = block(name);
  await writeFile(path, bytes);
  return { ...(await machine.attachDisk(path)), digest: createHash("sha256").update(bytes).digest("hex") };
}

/** Disks that a driver must take at least: an image may have that many layers. */
const LAYERS = 24;

/** The shared table of cases. */
export const DRIVER_CASES: readonly DriverCase[] = [
  {
    name: "launch",
    title: "gives the host data to the security processor before the guest runs, and closes the launch at the end",
    run: async ({ driver, configure }) => {
      const fixture = await configure();
      const { config, launch } = fixture;
      const machine = await driver.start(config);
      assert.deepEqual(launch.requests, [Buffer.from(config.hostData).toString("hex")]);
      assert.equal(launch.closed, 0);
      assert.equal(machine.id, config.id);
      await machine.stop();
      assert.equal(launch.closed, 1);
      assertNothingLeft(fixture);
    },
  },
  {
    name: "agent",
    title: "connects to the agent, more than once and side by side",
    run: async ({ driver, configure }) => {
      const fixture = await configure();
      const machine = await driver.start(fixture.config);
      assert.deepEqual(await Promise.all(["a", "b", "c"].map((word) => ask(machine, `echo ${word}`))), ["a", "b", "c"]);
      const stream = await machine.connectAgent();
      assert.equal(await askOn(stream, "echo again"), "again");
      stream.close();
      stream.close();
      assert.equal(await ask(machine, "echo after"), "after");
      await machine.stop();
      assertNothingLeft(fixture);
    },
  },
  {
    name: "disks",
    title: "attaches disks under names of their own, with the bytes of the file",
    run: async ({ driver, configure, source }) => {
      const fixture = await configure();
      const { config, directory } = fixture;
      const machine = await driver.start(config);
      const disks = await Promise.all(["first", "second", "third"].map((name) => attach(machine, directory, name)));
      assert.equal(new Set(disks.map((disk) => disk.source)).size, 3);
      for (const disk of disks) {
        assert.match(disk.source, source);
        assert.equal(await ask(machine, `disk ${disk.source}`), disk.digest);
      }
      await assert.rejects(machine.attachDisk(join(directory, "absent")), hasCode("ERR_VMM_DISK"));
      await assert.rejects(machine.attachDisk(directory), hasCode("ERR_VMM_DISK"));
      // A refusal takes no place: the next disk is as good as the first.
      const last = await attach(machine, directory, "last");
      assert.equal(await ask(machine, `disk ${last.source}`), last.digest);
      await machine.stop();
      assertNothingLeft(fixture);
    },
  },
  {
    name: "writable",
    title: "lets a guest write to a disk that was attached so, and to no other",
    run: async ({ driver, configure }) => {
      const fixture = await configure();
      const machine = await driver.start(fixture.config);
      const paths = ["written", "kept"].map((name) => join(fixture.directory, name));
      const [written = "", kept = ""] = paths;
      for (const path of paths) await writeFile(path, block("before"));
      const { source } = await machine.attachDisk(written, { readonly: false });
      assert.equal(await ask(machine, `write ${source}`), true);
      assert.equal(await ask(machine, `write ${(await machine.attachDisk(kept)).source}`), false);
      await machine.stop();
      assert.equal(readFileSync(written, "latin1").slice(0, 14), "writtenwritten");
      assert.deepEqual(readFileSync(kept), block("before"));
      assertNothingLeft(fixture);
    },
  },
  {
    name: "many-disks",
    title: `attaches ${LAYERS} disks one after the other`,
    run: async ({ driver, configure }) => {
      const fixture = await configure();
      const machine = await driver.start(fixture.config);
      const disks: { readonly source: string; readonly digest: string }[] = [];
      for (let index = 0; index < LAYERS; index++) disks.push(await attach(machine, fixture.directory, `layer-${index}`));
      assert.equal(new Set(disks.map((disk) => disk.source)).size, LAYERS);
      for (const disk of disks) assert.equal(await ask(machine, `disk ${disk.source}`), disk.digest);
      await machine.stop();
      assertNothingLeft(fixture);
    },
  },
  {
    name: "forward",
    title: "forwards ports of the loopback address",
    run: async ({ driver, configure }) => {
      const { config } = await configure();
      const machine = await driver.start(config);
      await ask(machine, "serve 8080");
      const port = await machine.forwardPort(0, 8080);
      assert.ok(port > 0 && port < 65536);
      assert.equal(await textOf(port), "port 8080");
      const busy = createServer().listen(0, "127.0.0.1");
      await new Promise((resolve) => busy.once("listening", resolve));
      await assert.rejects(machine.forwardPort((busy.address() as AddressInfo).port, 8080), hasCode("ERR_VMM_FORWARD"));
      await new Promise((resolve) => busy.close(resolve));
      for (const [host, guest] of [
        [-1, 80],
        [65536, 80],
        [0, 0],
        [0, 1.5],
        [0, 65536],
      ] as const) {
        await assert.rejects(machine.forwardPort(host, guest), hasCode("ERR_VMM_FORWARD"));
      }
      await machine.stop();
    },
  },
  {
    name: "network",
    title: "says what the guest's interfaces must be given, in a form that the agent takes",
    run: async ({ driver, configure }) => {
      const { config } = await configure();
      const machine = await driver.start(config);
      const names = new Set<string>();
      for (const item of machine.guestNetwork) {
        assert.match(item.name, /^[a-z][a-z0-9_.-]{0,14}$/);
        assert.notEqual(item.name, "lo");
        assert.match(item.mac, /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/);
        assert.equal(Number.parseInt(item.mac.slice(0, 2), 16) & 1, 0, "the address is of one card");
        assert.ok(item.addresses.length > 0 && item.addresses.every((address) => /^[0-9a-f.:]+\/[0-9]{1,3}$/.test(address)), item.addresses.join(" "));
        assert.ok(Number.isSafeInteger(item.mtu) && item.mtu >= 576 && item.mtu <= 65535, String(item.mtu));
        if (item.gateway !== undefined) assert.match(item.gateway, /^[0-9a-f.:]+$/);
        names.add(item.name);
      }
      assert.equal(names.size, machine.guestNetwork.length);
      await machine.stop();
    },
  },
  {
    name: "networks",
    title: "starts with the networks that it has, and refuses the others before anything runs",
    run: async ({ driver, configure, networks }) => {
      const all: readonly NetworkConfig[] = [
        { kind: "none" },
        { kind: "user" },
        { kind: "tap", interfaces: [] },
        { kind: "namespace", namespace: "/proc/self/ns/net" },
      ];
      for (const network of all) {
        const fixture = await configure();
        const config: MachineConfig = { ...fixture.config, network };
        if (networks.includes(network.kind)) {
          const machine = await driver.start(config);
          assert.equal(await ask(machine, "echo up"), "up");
          await machine.stop();
        } else {
          await assert.rejects(driver.start(config), hasCode("ERR_VMM_CONFIG"), network.kind);
          assert.deepEqual(fixture.launch.requests, []);
        }
        assertNothingLeft(fixture);
      }
    },
  },
  {
    name: "console",
    title: "passes on what the guest prints",
    run: async ({ driver, configure }) => {
      const fixture = await configure();
      const seen = Promise.withResolvers<void>();
      let printed = "";
      const machine = await driver.start({
        ...fixture.config,
        console: (bytes) => {
          printed += Buffer.from(bytes).toString("latin1");
          if (printed.includes("one line of the guest")) seen.resolve();
        },
      });
      await ask(machine, "print one line of the guest");
      await seen.promise;
      await machine.stop();
      assertNothingLeft(fixture);
    },
  },
  {
    name: "events",
    title: "tells of a disk that its root hash does not fit, once for each line of the guest's kernel and in bounded length",
    run: async ({ driver, configure }) => {
      const fixture = await configure();
      const events: MachineEvent[] = [];
      const seen = Promise.withResolvers<void>();
      const machine = await driver.start({
        ...fixture.config,
        onEvent: (event) => {
          events.push(event);
          if (event.kind === "panic") seen.resolve();
        },
      });
      await ask(machine, "print [    3.141592] device-mapper: verity: 254:16: data block 3046 is corrupted");
      await ask(machine, "print this line has nothing to say about a data block");
      await ask(machine, `print [    3.2] Kernel panic - not syncing: ${"x".repeat(1000)}`);
      await seen.promise;
      assert.deepEqual(
        events.map((event) => event.kind),
        ["corrupt-disk", "panic"],
      );
      assert.match(events[0]?.text ?? "", /data block 3046 is corrupted$/);
      assert.ok(events.every((event) => event.text.length <= 400));
      await machine.stop();
      assertNothingLeft(fixture);
    },
  },
  {
    name: "two",
    title: "runs two machines at once that know nothing of each other",
    run: async ({ driver, configure }) => {
      const fixtures = [await configure(), await configure()] as const;
      const [left, right] = await Promise.all([driver.start({ ...fixtures[0].config, id: "left" }), driver.start({ ...fixtures[1].config, id: "right" })]);
      assert.deepEqual(await Promise.all([ask(left, "echo left"), ask(right, "echo right")]), ["left", "right"]);
      const disk = await attach(right, fixtures[1].directory, "of-the-right");
      await left.stop();
      assertNothingLeft(fixtures[0]);
      assert.equal(await ask(right, `disk ${disk.source}`), disk.digest);
      await right.stop();
      assertNothingLeft(fixtures[1]);
    },
  },
  {
    name: "pid",
    title: "names a process of this host that is there as long as the machine, and ends the machine if it is ended",
    run: async ({ driver, configure }) => {
      const fixture = await configure();
      const machine = await driver.start(fixture.config);
      assert.ok(Number.isSafeInteger(machine.pid) && machine.pid > 1, String(machine.pid));
      assert.ok(readFileSync(`/proc/${machine.pid}/cmdline`, "utf8").includes(fixture.config.runDirectory));
      process.kill(machine.pid, "SIGKILL");
      assert.equal((await machine.exited).kind, "exited");
      assert.equal(existsSync(`/proc/${machine.pid}`), false);
      assertNothingLeft(fixture);
    },
  },
  {
    name: "clean-up",
    title: "leaves in the run directory what is needed to end the machine without the driver",
    run: async ({ driver, configure }) => {
      const fixture = await configure();
      const { runDirectory } = fixture.config;
      const machine = await driver.start(fixture.config);
      await Promise.all([cleanUpMachine(runDirectory), cleanUpMachine(runDirectory)]);
      assert.equal(existsSync(runDirectory), false);
      assert.equal((await machine.exited).kind, "exited");
      assertNothingLeft(fixture);
      await cleanUpMachine(runDirectory);
    },
  },
  {
    name: "own-end",
    title: "reports a guest that ends by itself, and leaves nothing",
    run: async ({ driver, configure }) => {
      const fixture = await configure();
      const machine = await driver.start(fixture.config);
      await assert.rejects(ask(machine, "exit 3"));
      assert.equal((await machine.exited).kind, "exited");
      await assert.rejects(machine.connectAgent(), hasCode("ERR_VMM_STOPPED"));
      await machine.stop();
      assertNothingLeft(fixture);
    },
  },
  {
    name: "stop",
    title: "says that the machine has stopped, to whoever waits and whoever still asks",
    run: async ({ driver, configure }) => {
      const fixture = await configure();
      const machine = await driver.start(fixture.config);
      await Promise.all([machine.stop(), machine.stop()]);
      assert.notEqual((await machine.exited).kind, "exited");
      await machine.stop();
      await assert.rejects(machine.connectAgent(), hasCode("ERR_VMM_STOPPED"));
      await assert.rejects(machine.attachDisk("/dev/null"), hasCode("ERR_VMM_STOPPED"));
      await assert.rejects(machine.forwardPort(0, 80), hasCode("ERR_VMM_STOPPED"));
      assertNothingLeft(fixture);
    },
  },
  {
    name: "stop-in-use",
    title: "stops while connections are open and calls are under way, which then end too",
    run: async ({ driver, configure }) => {
      const fixture = await configure();
      const machine = await driver.start(fixture.config);
      const open = await machine.connectAgent();
      assert.equal(await askOn(open, "echo here"), "here");
      const path = join(fixture.directory, "late");
      await writeFile(path, block("late"));
      const calls = [machine.attachDisk(path), machine.connectAgent()];
      const stopped = machine.stop();
      for (const result of await Promise.allSettled(calls)) {
        if (result.status === "rejected") assert.ok(hasCode("ERR_VMM_STOPPED", "ERR_VMM_AGENT", "ERR_VMM_DISK")(result.reason), String(result.reason));
        else if ("close" in result.value) result.value.close();
      }
      await stopped;
      // Resolves or rejects, but does not wait for a machine that is gone.
      await open.write(Buffer.from("echo nobody\n")).catch(() => undefined);
      open.close();
      assertNothingLeft(fixture);
    },
  },
  {
    name: "half-way",
    title: "leaves nothing of a start that fails half-way, and starts the next machine in the same place",
    run: async ({ driver, configure }) => {
      const fixture = await configure();
      const failing: LaunchPort = { launch: () => Promise.reject(new Error("no identity today")) };
      await assert.rejects(driver.start({ ...fixture.config, launch: failing }), /no identity today/);
      assertNothingLeft(fixture);
      const machine = await driver.start(fixture.config);
      assert.equal(await ask(machine, "echo well"), "well");
      await machine.stop();
      assertNothingLeft(fixture);
    },
  },
  {
    name: "config",
    title: "refuses a description that cannot be built",
    run: async ({ driver, configure }) => {
      const { config, launch } = await configure();
      const wrong: readonly Partial<MachineConfig>[] = [
        { id: "../x" },
        { id: "" },
        { hostData: new Uint8Array(31) },
        { memoryMiB: 0 },
        { vcpus: 1.5 },
        { runDirectory: "relative" },
        { runDirectory: `/${"x".repeat(108)}` },
      ];
      for (const change of wrong) await assert.rejects(driver.start({ ...config, ...change }), hasCode("ERR_VMM_CONFIG"));
      assert.deepEqual(launch.requests, []);
    },
  },
];
