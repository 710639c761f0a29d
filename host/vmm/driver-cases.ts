import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { connect, createServer, type AddressInfo } from "node:net";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { ByteStream } from "@sealpod/ttrpc";
import type { Launch, LaunchPort, Machine, MachineConfig, VmmDriver } from "./driver.ts";

/** A driver under test. Its guests run `testdata/test-guest.ts` in place of the agent. */
export interface DriverSubject {
  readonly driver: VmmDriver;
  /** A description of a fresh machine, and a directory that the case may write to. */
  readonly configure: () => Promise<{ readonly config: MachineConfig; readonly directory: string; readonly launch: RecordingLaunch }>;
}

/** What every driver must do, whatever its machines are. */
export interface DriverCase {
  readonly name: string;
  readonly run: (subject: DriverSubject) => Promise<void>;
}

/** A launch port that remembers. */
export class RecordingLaunch implements LaunchPort {
  readonly requests: string[] = [];
  closed = 0;
  readonly #directory: string;

  constructor(guestInfoDirectory: string) {
    this.#directory = guestInfoDirectory;
  }

  async launch(request: Parameters<LaunchPort["launch"]>[0]): Promise<Launch> {
    this.requests.push(Buffer.from(request.hostData).toString("hex"));
    return {
      guestInfoDirectory: this.#directory,
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

async function askOn(stream: ByteStream, line: string): Promise<unknown> {
  await stream.write(Buffer.from(`${line}\n`));
  let text = "";
  for await (const chunk of stream.readable) {
    text += Buffer.from(chunk).toString("utf8");
    if (text.endsWith("\n")) return JSON.parse(text) as unknown;
  }
  throw new Error(`the guest closed the connection after ${JSON.stringify(text)}`);
}

async function textOf(port: number): Promise<string> {
  const socket = connect(port, "127.0.0.1");
  let text = "";
  for await (const chunk of socket) text += (chunk as Buffer).toString("utf8");
  return text;
}

function hasCode(code: string): (error: unknown) => boolean {
  return (error) => (error as { code?: unknown }).code === code;
}

/** The shared table of cases. */
export const DRIVER_CASES: readonly DriverCase[] = [
  {
    name: "gives the host data to the security processor before the guest runs, and closes the launch at the end",
    run: async ({ driver, configure }) => {
      const { config, launch } = await configure();
      const machine = await driver.start(config);
      assert.deepEqual(launch.requests, [Buffer.from(config.hostData).toString("hex")]);
      assert.equal(launch.closed, 0);
      assert.equal(machine.id, config.id);
      await machine.stop();
      assert.equal(launch.closed, 1);
    },
  },
  {
    name: "connects to the agent, more than once and side by side",
    run: async ({ driver, configure }) => {
      const { config } = await configure();
      const machine = await driver.start(config);
      assert.deepEqual(await Promise.all(["a", "b", "c"].map((word) => ask(machine, `echo ${word}`))), ["a", "b", "c"]);
      const stream = await machine.connectAgent();
      assert.equal(await askOn(stream, "echo again"), "again");
      await machine.stop();
    },
  },
  {
    name: "attaches disks in slots of their own, with the bytes of the file",
    run: async ({ driver, configure }) => {
      const { config, directory } = await configure();
      const machine = await driver.start(config);
      const contents = ["first", "second", "third"];
      const disks = await Promise.all(
        contents.map(async (content, index) => {
          const path = join(directory, `disk-${index}`);
          await writeFile(path, content);
          return machine.attachDisk(path);
        }),
      );
      assert.deepEqual(disks.map((disk) => disk.source).sort(), ["02", "03", "04"]);
      for (const [index, disk] of disks.entries()) {
        const digest = createHash("sha256")
          .update(contents[index] ?? "")
          .digest("hex");
        assert.equal(await ask(machine, `disk ${disk.source}`), digest);
      }
      await assert.rejects(machine.attachDisk(join(directory, "absent")), hasCode("ERR_VMM_DISK"));
      await assert.rejects(machine.attachDisk(directory), hasCode("ERR_VMM_DISK"));
      await machine.stop();
    },
  },
  {
    name: "forwards ports of the loopback address",
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
    name: "says that the machine has stopped, to whoever waits and whoever still asks",
    run: async ({ driver, configure }) => {
      const { config } = await configure();
      const machine = await driver.start(config);
      await Promise.all([machine.stop(), machine.stop()]);
      assert.equal((await machine.exited).kind, "stopped");
      await machine.stop();
      await assert.rejects(machine.connectAgent(), hasCode("ERR_VMM_STOPPED"));
      await assert.rejects(machine.attachDisk("/dev/null"), hasCode("ERR_VMM_STOPPED"));
      await assert.rejects(machine.forwardPort(0, 80), hasCode("ERR_VMM_STOPPED"));
    },
  },
  {
    name: "refuses a description that cannot be built",
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
