import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { chmod, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import type { ByteStream } from "@sealpod/ttrpc";
import { CloudHypervisorDriver, PROCESSOR_VSOCK_PORT, type CloudHypervisorDriverOptions } from "./cloud-hypervisor-driver.ts";
import { DRIVER_CASES, RecordingLaunch, ask, askOn, caseTitle, processesOf, type DriverFixture, type DriverSubject } from "./driver-cases.ts";
import type { MachineConfig, UvmGuest } from "./driver.ts";
import { createTaps } from "./tap-network.ts";

const canNetwork = process.getuid?.() === 0 && existsSync("/dev/net/tun");

/** The program is not in the distribution: a scripted peer stands in for it, which takes only what specs/runtime.md 4.6 has. */
const PEER = join(import.meta.dirname, "cloud-hypervisor", "testdata", "peer.ts");

/** Where a test waits for an end that comes by itself, the limits are large: this host has two cores. */
const LIMITS = { startMs: 60_000, callMs: 30_000, hotPlugMs: 30_000, bootMs: 60_000, agentMs: 60_000, connectMs: 30_000, stopMs: 30_000 };

let root = "";
let count = 0;

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "sealpod-clh-"));
});

afterAll(async () => {
  await rm(root, { recursive: true });
});

/** A program that starts the peer; the driver knows it by its path alone. */
async function peer(
  fault = "none",
): Promise<{ readonly program: string; readonly calls: () => readonly { readonly call: string; readonly body?: unknown }[] }> {
  const directory = join(root, `peer-${count++}`);
  const log = join(directory, "calls");
  const program = join(directory, "cloud-hypervisor");
  await mkdir(directory);
  await writeFile(log, "");
  await writeFile(program, `#!/bin/sh\nexec '${process.execPath}' '${PEER}' --fault ${fault} --log '${log}' "$@"\n`);
  await chmod(program, 0o755);
  const calls = (): readonly { readonly call: string; readonly body?: unknown }[] =>
    readFileSync(log, "utf8")
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line) as { readonly call: string; readonly body?: unknown });
  return { program, calls };
}

async function driverOf(
  fault?: string,
  options: CloudHypervisorDriverOptions = {},
): Promise<{ readonly driver: CloudHypervisorDriver; readonly calls: Awaited<ReturnType<typeof peer>>["calls"] }> {
  const { program, calls } = await peer(fault);
  return { driver: new CloudHypervisorDriver({ program, ...options, limits: { ...LIMITS, ...options.limits } }), calls };
}

async function configure(): Promise<DriverFixture & { readonly guest: UvmGuest }> {
  const directory = join(root, String(count++));
  await mkdir(directory);
  const files = { kernel: join(directory, "vmlinux"), initrd: join(directory, "initrd"), root: join(directory, "root"), igvm: join(directory, "igvm") };
  for (const path of Object.values(files)) await writeFile(path, path);
  const launch = new RecordingLaunch(directory);
  const guest: UvmGuest = { kind: "uvm", ...files, commandLine: "console=ttyS0 quiet" };
  const config: MachineConfig = {
    id: "cd".repeat(32),
    runDirectory: join(directory, "run"),
    guest,
    hostData: new Uint8Array(32).fill(0xa5),
    launch,
    memoryMiB: 256,
    vcpus: 2,
  };
  return { config, directory, launch, guest };
}

describe("every driver", () => {
  const subject = async (): Promise<DriverSubject> => ({ driver: (await driverOf()).driver, configure, source: SOURCE, networks: NETWORKS, cannot: CANNOT });
  const SOURCE = /^[0-9a-f]{4}:00:[01][0-9a-f]\.0$/;
  const NETWORKS: DriverSubject["networks"] = ["none", "tap"];
  const CANNOT: NonNullable<DriverSubject["cannot"]> = { forward: "cloud-hypervisor forwards no ports" };
  for (const item of DRIVER_CASES) {
    it.skipIf(CANNOT[item.name] !== undefined)(caseTitle({ cannot: CANNOT } as DriverSubject, item), async () => item.run(await subject()));
  }
});

describe("the cloud-hypervisor driver", () => {
  it("creates, checks, boots, checks, and shuts down in order, with what specs/runtime.md 4.6 has", async () => {
    const { driver, calls } = await driverOf();
    expect([driver.name, driver.isolation]).toEqual(["cloud-hypervisor", "vm"]);
    const { config, directory, guest } = await configure();
    const initdata = join(directory, "initdata");
    await writeFile(initdata, "initdata");
    const card = { tap: "tap0_kata", mac: "02:00:00:00:00:07" };
    const machine = await driver.start({ ...config, initdata, network: { kind: "tap", interfaces: [card] } });
    await expect(machine.forwardPort(0, 80)).rejects.toMatchObject({ code: "ERR_VMM_FORWARD" });
    await machine.stop();
    expect((await machine.exited).kind).toBe("stopped");
    expect(calls()).toEqual([
      {
        call: "vm.create",
        body: {
          payload: { kernel: guest.kernel, initramfs: guest.initrd, cmdline: "console=ttyS0 quiet" },
          platform: { num_pci_segments: 10 },
          cpus: { boot_vcpus: 2, max_vcpus: 2, topology: { threads_per_core: 1, cores_per_die: 2, dies_per_package: 1, packages: 1 } },
          memory: { size: 268_435_456, shared: false, hugepages: false },
          disks: [
            { path: guest.root, readonly: true },
            { path: initdata, readonly: true },
          ],
          rng: { src: "/dev/urandom" },
          console: { mode: "Off" },
          serial: { mode: "Tty" },
          vsock: { cid: 3, socket: join(config.runDirectory, "clh.sock") },
        },
      },
      { call: "vm.info" },
      { call: "vm.add-net", body: { ...card, num_queues: 2, queue_size: 256 }, found: false },
      { call: "vm.boot" },
      { call: "vm.info" },
      { call: "vm.shutdown" },
      { call: "vmm.shutdown" },
    ]);
  });

  it("starts a confidential machine from an IGVM file with its host data, without command line and console", async () => {
    const { driver, calls } = await driverOf(undefined, { confidential: true });
    expect(driver.isolation).toBe("confidential");
    const { config, guest } = await configure();
    let printed = "";
    const machine = await driver.start({ ...config, console: (bytes) => (printed += Buffer.from(bytes).toString("latin1")) });
    await ask(machine, "print a secret");
    await machine.stop();
    expect(calls()[0]?.body).toMatchObject({
      payload: { igvm: guest.igvm, host_data: "a5".repeat(32) },
      platform: { num_pci_segments: 10, sev_snp: true },
      console: { mode: "Off" },
      serial: { mode: "Off" },
    });
    expect(printed).toBe("");
  });

  it.each([
    ["no host data", { hostData: new Uint8Array(32) }, /all 32 bytes are zero/],
    ["no IGVM file", { guest: "without igvm" }, /needs an IGVM file/],
  ] as const)("refuses a confidential start with %s", async (_what, change, message) => {
    const { driver, calls } = await driverOf(undefined, { confidential: true });
    const { config, guest, launch } = await configure();
    const { igvm: _igvm, ...without } = guest;
    await expect(driver.start({ ...config, ...("guest" in change ? { guest: without } : change) })).rejects.toMatchObject({
      code: "ERR_VMM_CONFIG",
      message: expect.stringMatching(message) as string,
    });
    expect([calls(), launch.requests, existsSync(config.runDirectory)]).toEqual([[], [], false]);
  });

  const failures: readonly (readonly [string, string, CloudHypervisorDriverOptions, RegExp])[] = [
    ["exit", "the monitor ends at once", {}, /^cloud-hypervisor ended before the agent listened \(exit code 7\): Error booting VM: no hypervisor$/],
    ["no-socket", "the monitor opens no socket", { limits: { startMs: 1000 } }, /^cloud-hypervisor does not answer after 1000 ms: /],
    ["create", "the machine is refused", {}, /^cloud-hypervisor: vm\.create: status 400, expected 204: \["Error creating a VM: no memory"\]$/],
    ["state", "the machine is in another state", {}, /^cloud-hypervisor: vm\.info: state is "Paused", expected "Created"$/],
    ["huge", "an answer has no end", {}, /^cloud-hypervisor: vm\.info: the answer has more than 1048576 bytes$/],
    ["boot-exit", "the monitor ends while it boots", {}, /^cloud-hypervisor ended before the agent listened \(exit code 9\)/],
    ["boot-silent", "the boot is not answered", { limits: { bootMs: 1000 } }, /^cloud-hypervisor: vm\.boot: no answer after 1000 ms$/],
    ["deaf", "the agent never listens", { limits: { agentMs: 1000 } }, /^the agent does not listen: port 1024 of the guest: nothing listens after 1000 ms; /],
    [
      "mute",
      "CONNECT is not answered",
      { limits: { agentMs: 1000 } },
      /^the agent does not listen: port 1024 of the guest: nothing listens after 1000 ms; the last try: no answer to CONNECT in time/,
    ],
    ["babble", "CONNECT is answered with a line without end", {}, /the answer to CONNECT has more than 64 characters without a line's end/],
  ];
  it.each(failures)("fails a start (%s): %s; nothing is left", async (fault, _what, options, message) => {
    const { driver } = await driverOf(fault, options);
    const { config, launch } = await configure();
    await expect(driver.start(config)).rejects.toMatchObject({ code: "ERR_VMM_BOOT", message: expect.stringMatching(message) as string });
    expect([launch.closed, existsSync(config.runDirectory), processesOf(config.runDirectory)]).toEqual([1, false, []]);
  });

  it("waits for an agent that listens later than the machine runs", async () => {
    const { driver } = await driverOf("late");
    const machine = await driver.start((await configure()).config);
    expect(await ask(machine, "echo there")).toBe("there");
    await machine.stop();
  });

  it("leaves the guest's first bytes to its protocol, however they arrive", async () => {
    const { driver } = await driverOf();
    const machine = await driver.start((await configure()).config);
    const stream = await machine.connectAgent();
    const long = "y".repeat(200_000);
    expect(await askOn(stream, `echo ${long}`)).toBe(long);
    stream.close();
    await machine.stop();
  });

  it("says how the guest's agent ended, which only the guest's console knows", async () => {
    const { driver } = await driverOf();
    const machine = await driver.start((await configure()).config);
    await ask(machine, "print sealpod-init: agent ended with 3");
    await expect(ask(machine, "exit 0")).rejects.toThrow();
    expect(await machine.exited).toEqual({ kind: "exited", exitCode: 3, signal: null });
  });

  it("ends by force a monitor that does not stop", async () => {
    const { driver } = await driverOf("stubborn", { limits: { stopMs: 500 } });
    const { config, launch } = await configure();
    const machine = await driver.start(config);
    await machine.stop();
    expect(await machine.exited).toMatchObject({ kind: "killed", signal: "SIGKILL" });
    expect([launch.closed, existsSync(config.runDirectory)]).toEqual([1, false]);
  });

  it("spreads disks over the segments, 31 in each, and gives back the place of one that was refused", async () => {
    const { driver, calls } = await driverOf();
    const { config, directory } = await configure();
    const machine = await driver.start(config);
    const sources: string[] = [];
    for (let index = 0; index < 33; index++) {
      const path = join(directory, `disk-${index}`);
      await writeFile(path, path);
      sources.push((await machine.attachDisk(path)).source);
      if (index !== 3) continue;
      const refused = join(directory, "refused");
      await writeFile(refused, "");
      await expect(machine.attachDisk(refused)).rejects.toMatchObject({
        code: "ERR_VMM_DISK",
        message: expect.stringContaining("Permission denied") as string,
      });
    }
    expect([sources[0], sources[30], sources[31], sources[32]]).toEqual(["0001:00:01.0", "0001:00:1f.0", "0002:00:01.0", "0002:00:02.0"]);
    expect(calls().find(({ call }) => call === "vm.add-disk")?.body).toEqual({
      path: join(directory, "disk-0"),
      readonly: true,
      direct: false,
      vhost_user: false,
      num_queues: 2,
      queue_size: 1024,
      pci_segment: 1,
    });
    await machine.stop();
  });

  it("refuses an address that is none, and takes the disk out again", async () => {
    const { driver, calls } = await driverOf("bad-bdf");
    const { config, guest } = await configure();
    const machine = await driver.start(config);
    await expect(machine.attachDisk(guest.root)).rejects.toMatchObject({ code: "ERR_VMM_DISK", message: expect.stringContaining('"../../etc"') as string });
    expect(calls().at(-1)).toEqual({ call: "vm.remove-device", body: { id: "_disk2" } });
    await machine.stop();
  });

  it("takes the guest's connections to its security processor, and ends them with the machine", async () => {
    const { driver } = await driverOf();
    const { config, directory } = await configure();
    const served: Promise<void>[] = [];
    const echo = async (stream: ByteStream): Promise<void> => {
      for await (const bytes of stream.readable) await stream.write(bytes);
    };
    const launch = new RecordingLaunch(directory, (stream) => void served.push(echo(stream)));
    const machine = await driver.start({ ...config, launch });
    // What the monitor does when the guest connects to this port of the host.
    const socket = connect(`${join(config.runDirectory, "clh.sock")}_${PROCESSOR_VSOCK_PORT}`);
    socket.write("report");
    expect(String((await once(socket, "data"))[0])).toBe("report");
    const closed = once(socket, "close");
    await machine.stop();
    await closed;
    await Promise.all(served);
  });

  it("ends the monitor when the driver's own process is killed", async () => {
    const { program } = await peer();
    const { config } = await configure();
    const { launch: _launch, ...plain } = config;
    const script = `
      import { CloudHypervisorDriver } from ${JSON.stringify(join(import.meta.dirname, "cloud-hypervisor-driver.ts"))};
      const { config, program, limits } = JSON.parse(process.argv[1]);
      const launch = { launch: async () => ({ guestInfoDirectory: "/nowhere", close: async () => undefined }) };
      await new CloudHypervisorDriver({ program, limits }).start({ ...config, launch, hostData: new Uint8Array(32) });
      console.log("started");
    `;
    const argument = JSON.stringify({ config: plain, program, limits: LIMITS });
    const owner = spawn(process.execPath, ["--input-type=module", "-e", script, argument], { stdio: ["ignore", "pipe", "inherit"] });
    try {
      await once(owner.stdout, "data");
      expect(processesOf(join(config.runDirectory, "clh-api.sock"))).toHaveLength(1);
    } finally {
      owner.kill("SIGKILL");
    }
    // The kernel tells nobody but the parents, which are gone: so this asks again until they are.
    await vi.waitFor(() => expect(processesOf(config.runDirectory)).toEqual([]), { timeout: 60_000 });
  });

  it.skipIf(!canNetwork)(`starts the monitor in the namespace of its taps${canNetwork ? "" : " (skipped: needs root and /dev/net/tun)"}`, async () => {
    const script = "ip link add eth0 type veth peer name v0 && ip addr add 10.88.0.2/24 dev eth0 && ip link set eth0 up && echo ready && exec sleep 600";
    const pod = spawn("/usr/bin/setpriv", ["--pdeathsig", "KILL", "unshare", "--net", "sh", "-c", script], { stdio: ["ignore", "pipe", "inherit"] });
    try {
      await once(pod.stdout, "data");
      const namespace = `/proc/${pod.pid}/ns/net`;
      const taps = await createTaps({ namespace });
      const { driver, calls } = await driverOf();
      const { config } = await configure();
      const machine = await driver.start({ ...config, network: { kind: "tap", namespace, interfaces: taps.interfaces } });
      expect(calls().find(({ call }) => call === "vm.add-net")).toMatchObject({ body: { tap: "tap0_kata" }, found: true });
      expect(machine.guestNetwork).toEqual([]);
      await machine.stop();
      await taps.remove();
    } finally {
      pod.kill("SIGKILL");
    }
  });

  it("refuses a run directory that exists, and leaves it alone", async () => {
    const { driver, calls } = await driverOf();
    const { config, launch } = await configure();
    await mkdir(config.runDirectory);
    await expect(driver.start(config)).rejects.toMatchObject({ code: "ERR_VMM_CONFIG" });
    expect([launch.requests, calls(), existsSync(config.runDirectory)]).toEqual([[], [], true]);
  });

  it("says what this host lacks", async () => {
    const missing = new CloudHypervisorDriver({ program: "/nowhere/cloud-hypervisor" });
    await expect(missing.probe()).rejects.toMatchObject({ code: "ERR_VMM_UNAVAILABLE", details: { missing: ["cloud-hypervisor"] } });
    await expect(new CloudHypervisorDriver({ program: "cloud-hypervisor" }).probe()).rejects.toMatchObject({ code: "ERR_VMM_CONFIG" });
    const { driver } = await driverOf(undefined, { devices: ["/dev/null"] });
    await driver.probe();
    const { driver: without } = await driverOf(undefined, { devices: ["/nowhere/kvm"], confidential: true });
    await expect(without.probe()).rejects.toMatchObject({ code: "ERR_VMM_UNAVAILABLE", hint: "Confidential machines need a host with SEV-SNP." });
  });
});
