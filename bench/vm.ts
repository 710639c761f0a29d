/**
 * Time from the start of a machine to a pod that runs, beside the same kernel's boot to a first process that does nothing, in the same run and in
 * turn: `npm run bench -- vm [rounds]`. Compare the ratios; absolute numbers belong to the machine and to what else runs on it.
 *
 * A real policy and a copy of the layers are left out: every start has the policy that allows everything, and two small verified layers.
 */
import { execFileSync } from "node:child_process";
import { globSync, readFileSync } from "node:fs";
import { loadavg } from "node:os";
import { join } from "node:path";
import { messageOf, toHex } from "@sealpod/core";
import { systemRandom } from "@sealpod/io";
import { AgentService, Health } from "@sealpod/proto";
import { policyHostData, Sandbox } from "@sealpod/sandbox";
import { QemuDriver } from "@sealpod/vmm";
import { AgentClient } from "../host/sandbox/agent-client.ts";
import { ALLOW_ALL, fileItem, linkItem, noVm, openVmWorld, specOf } from "../laptop/machine/test-support.ts";
import { bareBoot, buildBareInitrd } from "./vm/bare-boot.ts";

/** Calls whose median is the channel's time for an answer. */
const CALLS = 200;
/** What is sent each way, bytes, and the most in one call. */
const VOLUME = 16 * 1024 * 1024;
const CHUNK = 256 * 1024;
/** Milliseconds for one call on a machine that is busy. */
const PATIENCE = 120_000;

const rounds = Number(process.argv[2] ?? "5");
const measured = new Map<string, number[]>();

if (noVm === undefined) await main();
else process.stdout.write(`no virtual machine can be run here: ${noVm}\n`);

async function main(): Promise<void> {
  await using world = await openVmWorld();
  const { guest } = world.machine;
  const initrd = join(world.directory, "bare.cpio");
  const tcc = join(world.directory, "tcc");
  const [deb] = globSync(join(import.meta.dirname, "../build/uvm-packages/tcc_*.deb"));
  if (deb === undefined) throw new Error("build/uvm-packages has no tcc: the image of this checkout was not built here");
  execFileSync("dpkg-deb", ["-x", deb, tcc]);
  await buildBareInitrd(tcc, initrd);
  const layers = [
    await world.layer([fileItem("bin/busybox", readFileSync("/usr/bin/busybox")), linkItem("bin/sh", "busybox")]),
    await world.layer([fileItem("etc/motd", "hello\n", 0o644)]),
  ];
  const template = join(world.directory, "template");
  const description = { guest, memoryMiB: 512, vcpus: 1 };
  const problem = await new QemuDriver().createTemplate({ ...description, runDirectory: join(world.directory, "run-template") }, template).then(
    () => undefined,
    (error: unknown) => messageOf(error),
  );
  if (problem !== undefined) process.stdout.write(`no template can be made, starts from one are left out: ${problem}\n`);
  const drivers = { cold: new QemuDriver(), template: new QemuDriver({ template }) };
  let serial = 0;

  const pod = async (kind: keyof typeof drivers, withChannel: boolean): Promise<void> => {
    const id = toHex(systemRandom.bytes(32));
    const begin = performance.now();
    const since = (): number => performance.now() - begin;
    const runDirectory = join(world.directory, `run-${++serial}`);
    const machine = await drivers[kind].start({ ...description, id, hostData: policyHostData(ALLOW_ALL), runDirectory, launch: world.psp });
    try {
      const client = new AgentClient(await machine.connectAgent());
      await client.call(Health.method.check, {}, PATIENCE);
      note(`${kind}: agent ready`, since());
      note(`${kind}: QEMU's memory, MiB`, qemuMemory());
      await client.call(AgentService.method.setPolicy, { policy: ALLOW_ALL }, PATIENCE);
      await client.call(AgentService.method.createSandbox, { sandboxId: id, hostname: "pod", dns: [], storages: [] }, PATIENCE);
      note(`${kind}: sandbox made`, since());
      const sandbox = new Sandbox(machine, client, {
        id,
        driver: drivers[kind],
        machine: { ...description, runDirectory, launch: world.psp },
        hostname: "pod",
        random: systemRandom,
      });
      const started = performance.now();
      const spec = specOf({ layers, args: ["/bin/busybox", "sh", "-c", `echo up; busybox dd if=/dev/zero bs=64k count=${VOLUME / 65536} 2>/dev/null`] });
      const container = await sandbox.createContainer({ id, spec, bundle: `/run/containerd/io.containerd.runtime.v2.task/k8s.io/${id}`, layers });
      const first = Promise.withResolvers<number>();
      let bytes = 0;
      const stdout = {
        write: async (chunk: Uint8Array): Promise<void> => {
          if (bytes === 0) first.resolve(performance.now());
          bytes += chunk.length;
        },
      };
      const process = await container.start({ stdout });
      note(`${kind}: CreateContainer to running`, performance.now() - started);
      const output = await first.promise;
      note(`${kind}: CreateContainer to first output`, output - started);
      note(`${kind}: first output`, output - begin);
      await process.exited;
      if (!withChannel) return;
      note("channel: guest to host (a container's output), MB/s", bytes / 1e3 / (performance.now() - output));
      await channel(client);
    } finally {
      await machine.stop();
    }
  };

  for (let round = 0; round < rounds; round++) {
    note("bare boot", await bareBoot({ kernel: guest.kernel, initrd }));
    await pod("cold", true);
    if (problem === undefined) await pod("template", false);
  }
  report();
}

async function channel(client: AgentClient): Promise<void> {
  const times: number[] = [];
  for (let call = 0; call < CALLS; call++) {
    const begin = performance.now();
    await client.call(Health.method.check, {}, PATIENCE);
    times.push(performance.now() - begin);
  }
  note("channel: a call and its answer", median(times));
  const data = new Uint8Array(CHUNK);
  const begin = performance.now();
  for (let offset = 0; offset < VOLUME; offset += CHUNK) {
    const file = { path: "/run/kata-containers/shared/containers/bench", fileSize: BigInt(VOLUME), fileMode: 0o100600, dirMode: 0o700, uid: 0, gid: 0 };
    await client.call(AgentService.method.copyFile, { ...file, offset: BigInt(offset), data }, PATIENCE);
  }
  note("channel: host to guest (CopyFile), MB/s", VOLUME / 1e3 / (performance.now() - begin));
  const { metrics } = await client.call(AgentService.method.getMetrics, {}, PATIENCE);
  const resident = /^kata_agent_process_resident_memory_bytes (\d+)$/m.exec(metrics)?.[1];
  if (resident !== undefined) note("agent's memory in the guest, MiB", Number(resident) / 2 ** 20);
}

/** Resident memory of the QEMU that this process started. */
function qemuMemory(): number {
  const children = readFileSync(`/proc/self/task/${process.pid}/children`, "latin1").trim().split(" ");
  const statuses = children.map((pid) => readFileSync(`/proc/${pid}/status`, "latin1")).filter((text) => text.startsWith("Name:\tqemu"));
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(statuses.at(-1) ?? "")?.[1] ?? "0") / 1024;
}

function note(name: string, value: number): void {
  const values = measured.get(name);
  if (values === undefined) measured.set(name, [value]);
  else values.push(value);
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor((values.length - 1) / 2)] ?? Number.NaN;
}

function report(): void {
  const bare = median(measured.get("bare boot") ?? []);
  process.stdout.write(
    `${rounds} rounds, medians (least to most); load ${loadavg()
      .map((value) => value.toFixed(1))
      .join(" ")}\n`,
  );
  for (const [name, values] of measured) {
    const middle = median(values);
    const [digits, unit] = /MiB|MB\/s/.test(name) ? [1, "  "] : name.startsWith("channel") ? [1, "ms"] : [0, "ms"];
    const [text, least, most] = [middle, Math.min(...values), Math.max(...values)].map((value) => value.toFixed(digits));
    const ratio = unit === "ms" && digits === 0 ? `${(middle / bare).toFixed(2)} bare boots` : "";
    process.stdout.write(`${name.padEnd(56)} ${(text ?? "").padStart(7)} ${unit}  ${`(${least} to ${most})`.padEnd(18)} ${ratio}\n`);
  }
}
