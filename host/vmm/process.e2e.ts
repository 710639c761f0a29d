import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readlinkSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { DRIVER_CASES, RecordingLaunch, ask, caseTitle, processesOf, type DriverFixture, type DriverSubject } from "./driver-cases.ts";
import { ProcessDriver, cleanUpMachine, type MachineConfig, type ProcessDriverOptions, type ProcessGuest } from "./index.ts";

const isRoot = process.getuid?.() === 0;

/** Prints what is said at port 8080. */
const PRINT_ANSWER = 'require("node:net").connect(8080, "127.0.0.1").pipe(process.stdout)';

let root = "";
let count = 0;

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "sealpod-vmm-"));
});

afterAll(async () => {
  await rm(root, { recursive: true });
});

async function configure(fault?: string): Promise<DriverFixture & { readonly guest: ProcessGuest; readonly printed: () => string }> {
  const directory = join(root, String(count++));
  const guestInfo = join(directory, "guest-info");
  await mkdir(guestInfo, { recursive: true });
  await writeFile(join(guestInfo, "marker"), "");
  const launch = new RecordingLaunch(guestInfo);
  let printed = "";
  const guest: ProcessGuest = {
    kind: "process",
    command: [process.execPath, join(import.meta.dirname, "testdata", "test-guest.ts"), ...(fault === undefined ? [] : ["--fault", fault])],
    measuredFiles: [join(import.meta.dirname, "testdata", "test-guest.ts")],
    commandLine: "test",
  };
  const config: MachineConfig = {
    id: "ab".repeat(32),
    runDirectory: join(directory, "run"),
    guest,
    hostData: new Uint8Array(32).fill(0xa5),
    launch,
    memoryMiB: 128,
    vcpus: 1,
    console: (bytes) => {
      printed += Buffer.from(bytes).toString("utf8");
    },
  };
  return { config, directory, launch, guest, printed: () => printed };
}

describe.skipIf(!isRoot)(`every driver${isRoot ? "" : " (skipped: needs root)"}`, () => {
  const subject: DriverSubject = {
    driver: new ProcessDriver(),
    configure,
    source: /^[0-9a-f]{2}$/,
    networks: ["user", "namespace"],
    cannot: { events: "its guest has no kernel of its own", writable: "it has no disks of its own" },
  };
  for (const item of DRIVER_CASES) it.skipIf(subject.cannot?.[item.name] !== undefined)(caseTitle(subject, item), () => item.run(subject));

  it("names its disks by slots, from the first that is free in a machine with PCI", async () => {
    const { config, directory } = await configure();
    const machine = await subject.driver.start(config);
    const sources: string[] = [];
    for (const name of ["a", "b"]) {
      await writeFile(join(directory, name), name);
      sources.push((await machine.attachDisk(join(directory, name))).source);
    }
    expect(sources).toEqual(["02", "03"]);
    await expect(machine.attachDisk(join(directory, "a"), { readonly: false })).rejects.toMatchObject({
      code: "ERR_VMM_DISK",
      message: expect.stringContaining("no disks of its own") as string,
    });
    await machine.stop();
  });
});

describe.skipIf(!isRoot)(`the process driver${isRoot ? "" : " (skipped: needs root)"}`, () => {
  it("says that it isolates nothing, and that this host will do", async () => {
    const driver = new ProcessDriver();
    expect([driver.name, driver.isolation]).toEqual(["process", "none"]);
    await driver.probe();
  });

  it("gives the guest namespaces of its own, a network, an empty directory in memory, and nothing of the host's environment", async () => {
    process.env["SEALPOD_TEST_SECRET"] = "1";
    const { config, printed } = await configure();
    const machine = await new ProcessDriver().start(config);
    delete process.env["SEALPOD_TEST_SECRET"];
    expect(await ask(machine, "facts")).toMatchObject({
      // In a PID namespace of its own, but not its first process: that is a shell, which reaps orphans.
      pid: expect.toSatisfy((pid: number) => pid > 1 && pid < 100) as number,
      interfaces: ["lo", "tap0"],
      guestInfo: ["marker"],
      kataContainers: [],
      unified: false,
      environment: ["PATH", "PWD"],
    });
    await machine.stop();
    expect(printed()).toContain("the test guest listens\n");
  });

  it("puts the guest into a network namespace that is there already, as it is, and leaves it there", async () => {
    const { config } = await configure();
    const pod = spawn(
      "/usr/bin/setpriv",
      ["--pdeathsig", "KILL", "unshare", "--net", "sh", "-c", "ip link add pod0 type veth; ip link set lo up; echo; exec sleep 600"],
      {
        stdio: ["ignore", "pipe", "inherit"],
      },
    );
    try {
      await once(pod.stdout, "data");
      const namespace = `/proc/${pod.pid}/ns/net`;
      const machine = await new ProcessDriver().start({ ...config, network: { kind: "namespace", namespace } });
      expect(readlinkSync(`/proc/${machine.pid}/ns/net`)).toBe(readlinkSync(namespace));
      expect(machine.guestNetwork).toEqual([]);
      expect(processesOf(config.runDirectory).filter((line) => line.includes("slirp4netns"))).toEqual([]);
      await ask(machine, "serve 8080");
      const { stdout } = await promisify(execFile)("nsenter", [`--net=${namespace}`, "--", process.execPath, "-e", PRINT_ANSWER]);
      expect(stdout).toBe("port 8080");
      await expect(machine.forwardPort(0, 8080)).rejects.toMatchObject({ code: "ERR_VMM_FORWARD" });
      await machine.stop();
      const links = await promisify(execFile)("nsenter", [`--net=${namespace}`, "--", "ip", "-brief", "link"]);
      expect(links.stdout).toMatch(/pod0/);
    } finally {
      pod.kill("SIGKILL");
    }
  });

  it.each(["relative/path", "/nowhere/netns"])("does not start in the network namespace %s", async (namespace) => {
    const { config, launch } = await configure();
    await expect(new ProcessDriver().start({ ...config, network: { kind: "namespace", namespace } })).rejects.toMatchObject({
      code: namespace.startsWith("/") ? "ERR_VMM_BOOT" : "ERR_VMM_CONFIG",
    });
    expect(launch.closed).toBe(launch.requests.length);
    expect(existsSync(config.runDirectory)).toBe(false);
  });

  it("reports a guest that ends by itself, and cleans up after it", async () => {
    const { config, launch } = await configure();
    const machine = await new ProcessDriver().start(config);
    await expect(ask(machine, "exit 3")).rejects.toThrow();
    expect(await machine.exited).toEqual({ kind: "exited", exitCode: 3, signal: null });
    expect(launch.closed).toBe(1);
    expect(existsSync(config.runDirectory)).toBe(false);
  });

  it("ends a guest that does not listen to SIGTERM", async () => {
    const { config } = await configure("stubborn");
    const machine = await new ProcessDriver({ stopLimitMs: 100 }).start(config);
    await machine.stop();
    expect(await machine.exited).toMatchObject({ kind: "killed" });
  });

  it("ends the guest and its network when the driver's own process is killed", async () => {
    const { config } = await configure();
    const { console: _console, launch: _launch, ...plain } = config;
    const script = `
      import { ProcessDriver } from ${JSON.stringify(join(import.meta.dirname, "index.ts"))};
      const config = JSON.parse(process.argv[1]);
      const launch = { launch: async () => ({ guestInfoDirectory: ${JSON.stringify(root)}, close: async () => undefined }) };
      await new ProcessDriver().start({ ...config, launch, hostData: new Uint8Array(32) });
      console.log("started");
    `;
    const owner = spawn(process.execPath, ["--input-type=module", "-e", script, JSON.stringify(plain)], { stdio: ["ignore", "pipe", "inherit"] });
    try {
      await once(owner.stdout, "data");
      expect(processesOf(config.runDirectory).length).toBeGreaterThanOrEqual(3);
    } finally {
      owner.kill("SIGKILL");
    }
    // The kernel tells nobody but the parents, which are gone: so this asks again until they are.
    await vi.waitFor(() => expect(processesOf(config.runDirectory)).toEqual([]), { timeout: 20_000 });
    // What the driver could not remove.
    expect(existsSync(config.runDirectory)).toBe(true);
    await cleanUpMachine(config.runDirectory);
    expect(existsSync(config.runDirectory)).toBe(false);
  });

  const failures: readonly (readonly [string, string, ProcessDriverOptions, RegExp])[] = [
    ["ends at once", "exit", {}, /^the agent ended before it listened \(exit code 7\): the test guest gives up$/],
    ["never listens", "silent", { startLimitMs: 1000 }, /^the agent does not listen after 1000 ms: /],
    ["says too much where it should say that it is ready", "babble", {}, /^readiness pipe: a line is longer than 64 characters$/],
  ];
  it.each(failures)("fails to start a guest that %s, and leaves nothing", async (_what, fault, options, message) => {
    const { config, launch } = await configure(fault);
    await expect(new ProcessDriver(options).start(config)).rejects.toMatchObject({ code: "ERR_VMM_BOOT", message: expect.stringMatching(message) as string });
    expect(launch.closed).toBe(1);
    expect(existsSync(config.runDirectory)).toBe(false);
  });

  it("refuses a run directory that exists, and leaves it alone", async () => {
    const { config, launch } = await configure();
    await mkdir(config.runDirectory);
    await expect(new ProcessDriver().start(config)).rejects.toMatchObject({ code: "ERR_VMM_CONFIG" });
    expect(launch.requests).toEqual([]);
    expect(existsSync(config.runDirectory)).toBe(true);
  });

  it("refuses a command that is not an absolute path", async () => {
    const { config, guest } = await configure();
    for (const command of [[], ["node", "x"]]) {
      await expect(new ProcessDriver().start({ ...config, guest: { ...guest, command } })).rejects.toMatchObject({ code: "ERR_VMM_CONFIG" });
    }
  });

  it("names the programs that are not installed", async () => {
    const { config } = await configure();
    const driver = new ProcessDriver({ programDirectories: ["/nowhere"] });
    for (const attempt of [() => driver.probe(), () => driver.start(config)]) {
      await expect(attempt()).rejects.toMatchObject({
        code: "ERR_VMM_UNAVAILABLE",
        details: { missing: ["sh", "mount", "umount", "mountpoint", "setpriv", "nsenter", "unshare", "chroot", "slirp4netns", "crun"] },
        hint: "On Debian: apt-get install dash mount util-linux coreutils slirp4netns crun",
      });
    }
  });
});
