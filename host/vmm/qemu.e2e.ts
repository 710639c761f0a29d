import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { DRIVER_CASES, RecordingLaunch, ask, caseTitle, processesOf, type DriverFixture, type DriverSubject } from "./driver-cases.ts";
import { PROGRAM_DIRECTORIES, QemuDriver, type Launch, type MachineConfig } from "./index.ts";
import { probeBoot } from "./qemu/accelerator.ts";
import { buildTestVm, kernelDirectory, missingForVm, type TestVm } from "./testdata/test-vm.ts";

const kernel = missingForVm() === undefined ? await kernelDirectory() : undefined;
const missing = missingForVm() ?? (kernel === undefined ? "without the package of the kernel" : undefined);
const skipped = missing === undefined ? "" : ` (skipped: ${missing})`;

const COMMAND_LINE = "console=ttyS0 quiet panic=-1 reboot=t tsc=reliable no_timer_check random.trust_cpu=1 cryptomgr.notests mitigations=off net.ifnames=0";

let root = "";
let vm: TestVm = { kernel: "", initrd: "", root: "" };
let count = 0;

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "sealpod-qemu-"));
  if (kernel === undefined) return;
  vm = await buildTestVm(kernel, join(root, "vm"));
  const { config } = await configure();
  const { id: _id, hostData: _hostData, launch: _launch, ...description } = config;
  await new QemuDriver().createTemplate(description, join(root, "template"));
});

afterAll(async () => {
  await rm(root, { recursive: true });
});

async function configure(change: Partial<MachineConfig> = {}, serve?: Launch["serve"], commandLine = COMMAND_LINE): Promise<DriverFixture> {
  const directory = join(root, String(count++));
  await mkdir(directory);
  const launch = new RecordingLaunch(directory, serve);
  const config: MachineConfig = {
    id: "ab".repeat(32),
    runDirectory: join(directory, "run"),
    guest: { kind: "uvm", ...vm, commandLine },
    hostData: new Uint8Array(32).fill(0xa5),
    launch,
    memoryMiB: 512,
    vcpus: 1,
    ...change,
  };
  return { config, directory, launch };
}

function digest(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

const SOURCE = /^0[89]\/[01][0-9a-f]$/;

describe.skipIf(missing !== undefined)(`every driver: QEMU${skipped}`, () => {
  // From a template the cases take seconds instead of minutes, and each of them is a test of it as well.
  const subject = (): DriverSubject => ({
    driver: new QemuDriver({ template: join(root, "template") }),
    configure,
    source: SOURCE,
    networks: ["none", "user", "tap"],
  });
  const cold = (): DriverSubject => ({ ...subject(), driver: new QemuDriver() });
  const table = DRIVER_CASES.map((item) => ({ ...item, title: caseTitle(subject(), item) }));
  it.each(table)("$title", async ({ name, run }) => {
    // Each network is another machine, so no template fits all of them.
    await run(name === "networks" ? cold() : subject());
  });
});

describe.skipIf(missing !== undefined)(`the QEMU driver${skipped}`, () => {
  it("says what runs its guests, and why", async () => {
    const driver = new QemuDriver();
    await driver.probe();
    expect([driver.name, driver.isolation]).toEqual(["qemu", "vm"]);
    const { kind, reason } = await driver.accelerator();
    const flags = await readFile("/proc/cpuinfo", "latin1");
    if (!/\b(svm|vmx)\b/.test(flags)) expect([kind, reason]).toEqual(["tcg", expect.stringContaining("neither svm nor vmx") as string]);
  });

  it("boots what it was given: its command line, its disks in order and read-only, its processors, its card", async () => {
    const initdata = join(root, "initdata");
    await writeFile(initdata, Buffer.alloc(512, "initdata"));
    const { config, launch } = await configure({ initdata, vcpus: 2 });
    const machine = await new QemuDriver().start(config);
    expect(await ask(machine, "facts")).toMatchObject({
      commandLine: COMMAND_LINE,
      disks: ["vda", "vdb"],
      readOnly: true,
      interfaces: [expect.stringMatching(/^eth0 52:54:00:5e:a1:0d$/) as string, expect.stringMatching(/^lo /) as string],
      processors: 2,
    });
    expect(await ask(machine, "device /dev/vda")).toBe(digest(await readFile(vm.root)));
    expect(await ask(machine, "device /dev/vdb")).toBe(digest(await readFile(initdata)));
    expect(machine.guestNetwork).toEqual([{ name: "eth0", mac: "52:54:00:5e:a1:0d", addresses: ["10.0.2.100/24"], mtu: 1500, gateway: "10.0.2.2" }]);
    expect(launch.requests).toEqual([Buffer.alloc(32, 0xa5).toString("hex")]);
    await machine.stop();
  });

  it("ends with what the guest says of its agent", async () => {
    const { config } = await configure();
    const machine = await new QemuDriver({ template: join(root, "template") }).start(config);
    await expect(ask(machine, "exit 3")).rejects.toThrow();
    expect(await machine.exited).toEqual({ kind: "exited", exitCode: 3, signal: null });
  });

  it("serves the guest's security processor, and nothing else that it asks for", async () => {
    const { config } = await configure({}, (stream) => {
      const sign = async (): Promise<void> => {
        for await (const chunk of stream.readable) await stream.write(Buffer.from(`signed ${Buffer.from(chunk).toString("latin1")}`));
      };
      // It ends with the machine.
      sign().catch(() => undefined);
    });
    const machine = await new QemuDriver({ template: join(root, "template") }).start(config);
    expect(await ask(machine, "processor report")).toBe("signed report");
    await machine.stop();
    const without = await configure();
    const other = await new QemuDriver({ template: join(root, "template") }).start(without.config);
    expect(await ask(other, "processor report")).toMatch(/ERR_MUX_REFUSED|refuse|no processor/);
    await other.stop();
  });

  it("lets the guest reach the host's loopback by its user network", async () => {
    const server = createServer((socket) => socket.end("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")).listen(0, "127.0.0.1");
    await once(server, "listening");
    const { config } = await configure();
    const machine = await new QemuDriver({ template: join(root, "template") }).start(config);
    expect(await ask(machine, `fetch http://10.0.2.2:${(server.address() as AddressInfo).port}/`)).toBe("hello");
    await machine.stop();
    server.close();
  });

  it("takes as many disks as it says, and refuses the next", async () => {
    const { config, directory } = await configure();
    const machine = await new QemuDriver({ template: join(root, "template") }).start(config);
    const path = join(directory, "layer");
    await writeFile(path, Buffer.alloc(4096, 1));
    const sources: string[] = [];
    for (let index = 0; index < 62; index++) sources.push((await machine.attachDisk(path)).source);
    expect(new Set(sources).size).toBe(62);
    await expect(machine.attachDisk(path)).rejects.toMatchObject({ code: "ERR_VMM_DISK", message: expect.stringContaining("all 62 places") as string });
    for (const source of ["08/01", "08/1f", "09/1f"]) expect(await ask(machine, `disk ${source}`)).toBe(digest(Buffer.alloc(4096, 1)));
    await machine.stop();
  });

  it("starts inside the network namespace of its taps, with the addresses of the interfaces whose place they take", async () => {
    const holder = spawn(
      "unshare",
      ["--net", "--", "sh", "-c", "ip tuntap add dev tap0_kata mode tap vnet_hdr && ip link set tap0_kata up && echo ready && exec sleep 1000"],
      {
        stdio: ["ignore", "pipe", "inherit"],
      },
    );
    try {
      await once(holder.stdout, "data");
      const { config } = await configure({
        network: { kind: "tap", namespace: `/proc/${holder.pid}/ns/net`, interfaces: [{ tap: "tap0_kata", mac: "02:42:ac:11:00:02" }] },
      });
      const machine = await new QemuDriver().start(config);
      expect(await ask(machine, "facts")).toMatchObject({ interfaces: expect.arrayContaining(["eth0 02:42:ac:11:00:02"]) as string[] });
      expect(machine.guestNetwork).toEqual([]);
      await expect(machine.forwardPort(0, 80)).rejects.toMatchObject({ code: "ERR_VMM_FORWARD" });
      await machine.stop();
    } finally {
      holder.kill("SIGKILL");
    }
  });

  it("ends the guest when the driver's own process is killed", async () => {
    const { config } = await configure();
    const { launch: _launch, hostData: _hostData, ...plain } = config;
    const script = `
      import { QemuDriver } from ${JSON.stringify(join(import.meta.dirname, "index.ts"))};
      const [config, template] = JSON.parse(process.argv[1]);
      const launch = { launch: async () => ({ guestInfoDirectory: "/", close: async () => undefined }) };
      await new QemuDriver({ template }).start({ ...config, launch, hostData: new Uint8Array(32) });
      console.log("started");
    `;
    const parameters = JSON.stringify([plain, join(root, "template")]);
    const owner = spawn(process.execPath, ["--input-type=module", "-e", script, parameters], { stdio: ["ignore", "pipe", "inherit"] });
    const qemus = (): readonly string[] => processesOf(config.runDirectory).filter((line) => line.startsWith("/usr/bin/qemu"));
    try {
      await once(owner.stdout, "data");
      expect(qemus()).toHaveLength(1);
    } finally {
      owner.kill("SIGKILL");
    }
    // The kernel tells nobody but the parents, which are gone: so this asks again until they are.
    await vi.waitFor(() => expect(qemus()).toEqual([]), { timeout: 20_000 });
  });

  it("says how a guest failed to start, with the end of its console, and leaves nothing", async () => {
    const { config, launch } = await configure({}, undefined, `${COMMAND_LINE} rdinit=/absent init=/absent`);
    const events: string[] = [];
    const start = new QemuDriver().start({ ...config, onEvent: (event) => events.push(event.kind) });
    await expect(start).rejects.toMatchObject({
      code: "ERR_VMM_BOOT",
      message: expect.stringMatching(/ended before its agent answered[^]*Kernel panic/) as string,
    });
    expect(events).toEqual(["panic"]);
    expect(launch.closed).toBe(1);
    expect(existsSync(config.runDirectory)).toBe(false);
  });

  it("gives up on a guest whose agent never answers, and leaves nothing", async () => {
    const { config, launch } = await configure({}, undefined, `${COMMAND_LINE} sealpod.test=silent`);
    await expect(new QemuDriver({ startLimitMs: 1000 }).start(config)).rejects.toMatchObject({
      code: "ERR_VMM_BOOT",
      message: expect.stringMatching(/^the agent does not answer after 1000 ms: /) as string,
    });
    expect(launch.closed).toBe(1);
    expect(processesOf(config.runDirectory)).toEqual([]);
  });

  it("refuses what it cannot start, before anything is launched", async () => {
    const { config, launch } = await configure();
    const wrong: readonly Partial<MachineConfig>[] = [
      { guest: { kind: "process", command: ["/bin/true"], measuredFiles: [], commandLine: "" } },
      { guest: { kind: "uvm", ...vm, commandLine: "", root: "relative" } },
      { initdata: "relative" },
      { network: { kind: "tap", interfaces: [{ tap: "tap0,script=/x", mac: "02:00:00:00:00:01" }] } },
      { network: { kind: "tap", interfaces: [{ tap: "tap0", mac: "02:00" }] } },
      { network: { kind: "tap", interfaces: Array.from({ length: 9 }, (_, index) => ({ tap: `tap${index}`, mac: "02:00:00:00:00:01" })) } },
      { network: { kind: "tap", namespace: "x", interfaces: [] } },
    ];
    for (const change of wrong) await expect(new QemuDriver().start({ ...config, ...change })).rejects.toMatchObject({ code: "ERR_VMM_CONFIG" });
    if (!existsSync("/dev/sev")) await expect(new QemuDriver({ snp: {} }).probe()).rejects.toMatchObject({ code: "ERR_VMM_UNAVAILABLE" });
    await expect(new QemuDriver({ programDirectories: ["/nowhere"] }).probe()).rejects.toMatchObject({
      code: "ERR_VMM_UNAVAILABLE",
      hint: "On Debian: apt-get install qemu-system-x86 util-linux",
    });
    expect(launch.requests).toEqual([]);
  });

  it("probes an accelerator with a machine that answers or does not", async () => {
    const options = { qemu: "/usr/bin/qemu-system-x86_64", directories: PROGRAM_DIRECTORIES, accelerator: "tcg" } as const;
    expect(await probeBoot({ ...options, limitMs: 60_000 })).toBeUndefined();
    expect(await probeBoot({ ...options, limitMs: 0 })).toBe("nothing after 0 ms");
    expect(await probeBoot({ ...options, qemu: "/bin/false" })).toMatch(/^QEMU ended with 1/);
  });
});

describe.skipIf(missing !== undefined)(`a template${skipped}`, () => {
  const template = (): string => join(root, "template");

  it("is refused for another machine, before anything is launched", async () => {
    const driver = new QemuDriver({ template: template() });
    const { config, launch, directory } = await configure();
    const initrd = join(directory, "initrd");
    await writeFile(initrd, "another one");
    const changes: readonly Partial<MachineConfig>[] = [
      { vcpus: 2 },
      { memoryMiB: 513 },
      { network: { kind: "none" } },
      { guest: { kind: "uvm", ...vm, commandLine: `${COMMAND_LINE} x` } },
      { guest: { kind: "uvm", ...vm, commandLine: COMMAND_LINE, initrd } },
      { initdata: initrd },
    ];
    for (const change of changes) await expect(driver.start({ ...config, ...change })).rejects.toMatchObject({ code: "ERR_VMM_TEMPLATE" });
    await expect(new QemuDriver({ template: directory }).start(config)).rejects.toMatchObject({ code: "ERR_VMM_TEMPLATE" });
    await writeFile(join(directory, "template.json"), '{"version": 2, "shape": []}');
    await expect(new QemuDriver({ template: directory }).start(config)).rejects.toMatchObject({ code: "ERR_VMM_TEMPLATE" });
    const description = await readFile(join(template(), "template.json"), "utf8");
    await writeFile(join(directory, "template.json"), description.replace("QEMU emulator version", "QEMU emulator version 6, or"));
    await expect(new QemuDriver({ template: directory }).start(config)).rejects.toMatchObject({
      code: "ERR_VMM_TEMPLATE",
      message: expect.stringMatching(/: QEMU is "QEMU emulator version 6, or/) as string,
    });
    expect(launch.requests).toEqual([]);
  });

  it("whose state is cut short starts nothing", async () => {
    const { config, launch, directory } = await configure();
    const broken = join(directory, "template");
    await mkdir(broken);
    const state = await readFile(join(template(), "state"));
    await writeFile(join(broken, "state"), state.subarray(0, state.length / 2));
    for (const name of ["template.json", "memory"]) await symlink(join(template(), name), join(broken, name));
    await expect(new QemuDriver({ template: broken }).start(config)).rejects.toMatchObject({
      code: expect.stringMatching(/^ERR_VMM_(TEMPLATE|BOOT)$/) as string,
    });
    expect([launch.closed, existsSync(config.runDirectory), processesOf(config.runDirectory)]).toEqual([1, false, []]);
  });

  it("stays as it is, whatever its machines do", async () => {
    const before = digest(await readFile(join(template(), "memory")));
    const { config } = await configure();
    const machine = await new QemuDriver({ template: template() }).start(config);
    await ask(machine, "print something");
    await machine.stop();
    expect(digest(await readFile(join(template(), "memory")))).toBe(before);
  });

  it("is not left half-made, and not made over another", async () => {
    const { config, directory } = await configure();
    const output = join(directory, "template");
    const { id: _id, hostData: _hostData, launch: _launch, ...description } = config;
    await expect(new QemuDriver({ startLimitMs: 500 }).createTemplate(description, output)).rejects.toMatchObject({ code: "ERR_VMM_BOOT" });
    expect([existsSync(output), existsSync(`${output}.unfinished`), existsSync(config.runDirectory)]).toEqual([false, false, false]);
    await mkdir(`${output}.unfinished`);
    await expect(new QemuDriver().createTemplate(description, output)).rejects.toMatchObject({ code: "ERR_VMM_TEMPLATE" });
  });
});
