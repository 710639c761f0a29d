import { describe, expect, it } from "vitest";
import { checkNode, type Finding, type NodePorts, type NodeReport } from "./index.ts";

interface World {
  readonly files: Readonly<Record<string, string>>;
  readonly devices: readonly string[];
  /** Output by command line; a program is there if a command of it is. */
  readonly commands: Readonly<Record<string, string>>;
  readonly accelerator: "kvm" | "tcg" | undefined;
  readonly nodeVersion: string;
}

const TRIAL = "unshare --net sh";
const FORWARD = "unshare --net /usr/bin/nft";

/** A node with everything. */
const FULL: World = {
  files: {
    "/proc/cpuinfo": "model name\t: AMD EPYC 7763\nflags\t\t: fpu svm\n",
    "/sys/module/kvm_amd/parameters/sev_snp": "Y\n",
    "/sys/fs/cgroup/cgroup.controllers": "cpu",
    "/etc/sealpod/shim.toml": '[hypervisor]\nfirmware = "/fw/OVMF.fd"\n',
    "/fw/OVMF.fd": "",
    "/opt/sealpod/uvm/uvm.json": "{}",
    "/run/sealpod/psp.sock": "",
  },
  devices: ["/dev/kvm", "/dev/sev", "/dev/vhost-vsock"],
  commands: {
    "uname -m": "x86_64\n",
    "uname -r": "6.1\n",
    "qemu-system-x86_64 --version": "QEMU emulator version 9.2.1 (Debian)\n",
    "containerd --version": "containerd github.com/containerd/containerd 1.7.24~ds1 x\n",
    "runc --version": "runc version 1.1.5\n",
    [TRIAL]: "done\n",
    [FORWARD]: "",
    sha256sum: "",
    grep: "",
    date: "",
    mv: "",
    tee: "",
    ip: "",
    tc: "",
    nsenter: "",
    setpriv: "",
    perl: "",
    nft: "",
    "apt-get": "",
  },
  accelerator: "kvm",
  nodeVersion: "24.1.0",
};

const without = (...names: readonly string[]): World => ({
  ...FULL,
  files: Object.fromEntries(Object.entries(FULL.files).filter(([path]) => !names.includes(path))),
  devices: FULL.devices.filter((path) => !names.includes(path)),
  commands: Object.fromEntries(Object.entries(FULL.commands).filter(([command]) => !names.includes(command))),
});

async function check(world: World): Promise<NodeReport> {
  const { files, devices, commands, accelerator, nodeVersion } = world;
  const ports: NodePorts = {
    read: async (path) => files[path],
    canOpen: async (path) => devices.includes(path),
    exists: async (path) => Object.hasOwn(files, path),
    find: async (program) => (Object.keys(commands).some((command) => command.split(" ")[0] === program) ? `/usr/bin/${program}` : undefined),
    run: async (program, args) => commands[[program, ...args].join(" ")] ?? commands[[program, ...args].slice(0, 3).join(" ")],
    accelerator: async () => (accelerator === undefined ? undefined : { kind: accelerator, reason: "tried" }),
    nodeVersion,
  };
  return checkNode(ports);
}

const finding = ({ findings }: NodeReport, id: string): Finding | undefined => findings.find((item) => item.id === id);

describe("a node", () => {
  it("with everything runs pods whose memory it cannot read", async () => {
    const report = await check(FULL);
    expect(report.findings.filter(({ state }) => state !== "ok")).toEqual([]);
    expect(report).toMatchObject({ usable: true, isolation: "snp", emulated: [] });
    expect(report.install).toBeUndefined();
  });

  it.each<[string, World]>([
    ["kvm_amd's parameter", without("/sys/module/kvm_amd/parameters/sev_snp")],
    ["the parameter switched on", { ...FULL, files: { ...FULL.files, "/sys/module/kvm_amd/parameters/sev_snp": "N\n" } }],
    ["/dev/sev", without("/dev/sev")],
    ["a QEMU that knows it", { ...FULL, commands: { ...FULL.commands, "qemu-system-x86_64 --version": "QEMU emulator version 9.0.9\n" } }],
    ["KVM", { ...FULL, accelerator: "tcg" }],
  ])("without %s has no SEV-SNP, and says so", async (_name, world) => {
    const report = await check(world);
    expect(finding(report, "sev-snp")).toMatchObject({ state: "emulated", note: expect.stringContaining("NO HARDWARE PROTECTION") as string });
    expect(report).toMatchObject({ usable: true, isolation: "vm" });
    expect(report.emulated.join()).toContain("NO HARDWARE PROTECTION");
  });

  const configured = (text: string, world: World = FULL): World => ({ ...world, files: { ...world.files, "/etc/sealpod/shim.toml": text } });
  const NO_SNP = without("/dev/sev");

  it.each<[string, World, string, RegExp]>([
    ["names no firmware", configured(""), "firmware", /shim\.toml names none/],
    ["names no firmware yet, since there is none", without("/etc/sealpod/shim.toml"), "firmware", /shim\.toml names none/],
    ["names firmware that is not there", without("/fw/OVMF.fd"), "firmware", /OVMF\.fd is not there/],
    ["wants hardware that is not there", configured('[hypervisor]\nisolation = "snp"\nfirmware = "/fw/OVMF.fd"', NO_SNP), "isolation", /no SEV-SNP/],
    ["has a key that is misspelt", configured("[hypervisor]\nfirmwear = 1"), "shim.toml", /"firmwear".*Did you mean firmware/],
    ["names an image that is not there", without("/opt/sealpod/uvm/uvm.json"), "uvm", /uvm\.json is not there/],
    ["names a processor that does not run", without("/dev/sev", "/run/sealpod/psp.sock"), "emulated security processor", /psp\.sock is not there/],
    ["names no agent for its processes", configured('[hypervisor]\nisolation = "process"\nagent = ""'), "agent", /names none/],
  ])("whose configuration %s runs no pods, and says so", async (_name, world, id, found) => {
    const report = await check(world);
    expect(finding(report, id)).toMatchObject({ state: "missing", found: expect.stringMatching(found) as string });
    expect(report).toMatchObject({ usable: false, isolation: "none" });
    expect(JSON.stringify(report)).not.toContain("or pods run as");
  });

  it.each<[string, string]>([
    ["vm", 'isolation = "vm"'],
    ["process", 'isolation = "process"\nagent = "/fw/OVMF.fd"'],
  ])("that is told to run them as %s does not say that its hardware protects them", async (isolation, text) => {
    expect(await check(configured(`[hypervisor]\n${text}\n`))).toMatchObject({ usable: true, isolation });
  });

  it("that has no configuration yet is not asked for what the installation brings", async () => {
    expect(await check(without("/dev/sev", "/etc/sealpod/shim.toml", "/opt/sealpod/uvm/uvm.json", "/run/sealpod/psp.sock"))).toMatchObject({
      usable: true,
      isolation: "vm",
    });
  });

  it("whose KVM does not answer emulates processors", async () => {
    const report = await check({ ...FULL, accelerator: "tcg" });
    expect(finding(report, "kvm")).toMatchObject({ state: "emulated", found: "tried" });
    expect(report.emulated).toHaveLength(2);
  });

  it.each<[string, readonly string[], string, string]>([
    ["QEMU", ["qemu-system-x86_64 --version"], "qemu", "qemu-system-x86"],
    ["containerd", ["containerd --version"], "containerd", "containerd"],
    ["tc", ["tc"], "ip, tc", "iproute2"],
    ["nsenter", ["nsenter"], "nsenter, setpriv", "util-linux"],
    ["what the launcher's socket is named by", ["sha256sum"], "sha256sum, grep, date, mv", "coreutils grep"],
    ["what the launcher finds the pod by", ["grep"], "sha256sum, grep, date, mv", "coreutils grep"],
    ["what the launcher says the time by", ["date"], "sha256sum, grep, date, mv", "coreutils grep"],
    ["what the launcher writes the address by", ["mv"], "sha256sum, grep, date, mv", "coreutils grep"],
  ])("without %s runs no pods, and says what to install", async (_name, names, id, packages) => {
    const report = await check(without(...names));
    expect(finding(report, id)?.state).toBe("missing");
    expect(report).toMatchObject({ usable: false, isolation: "none", install: `apt-get install -y --no-install-recommends ${packages}` });
    expect((await check({ ...without(...names, "apt-get"), commands: { ...without(...names, "apt-get").commands, dnf: "" } })).install).toMatch(
      /^dnf install -y /,
    );
    expect((await check(without(...names, "apt-get"))).install).toBeUndefined();
  });

  it.each<[string, readonly string[], string]>([
    ["perl", ["perl"], "perl"],
    ["nft", ["nft"], "nft"],
    ["tee", ["tee"], "nft"],
    ["rules in the kernel", [FORWARD], "nft"],
    ["runc", ["runc --version"], "runc"],
  ])("without %s runs pods all the same", async (_name, names, id) => {
    const report = await check(without(...names));
    expect(finding(report, id)?.state).toBe("less");
    expect(report.usable).toBe(true);
  });

  it("of another processor, with an older containerd or Node runs none", async () => {
    const commands = (more: Readonly<Record<string, string>>): World => ({ ...FULL, commands: { ...FULL.commands, ...more } });
    expect(finding(await check(commands({ "uname -m": "aarch64\n" })), "processor")).toMatchObject({ state: "missing", found: "aarch64" });
    expect(finding(await check(commands({ "containerd --version": "containerd x 1.5.9 y\n" })), "containerd")).toMatchObject({ state: "missing" });
    expect(finding(await check(commands({ "containerd --version": "containerd x v2.1.9 y\n" })), "containerd")).toMatchObject({
      state: "ok",
      found: "containerd 2.1.9",
    });
    expect(finding(await check({ ...FULL, nodeVersion: "20.20.2" }), "node")).toMatchObject({ state: "missing" });
  });

  it("whose modules cannot be tried is read", async () => {
    const world = without(TRIAL);
    const id = "tap, sch_ingress, act_mirred, cls_u32";
    expect(finding(await check(world), id)).toMatchObject({ state: "missing", found: "not found: tun, sch_ingress, act_mirred, cls_u32" });
    const files = {
      ...world.files,
      "/proc/modules": "tun 1 0 - Live\nxcls_u32 1\n",
      "/lib/modules/6.1/modules.builtin": "kernel/net/sched/sch_ingress.ko\n",
      "/lib/modules/6.1/modules.dep": "kernel/net/sched/act_mirred.ko.xz: \n",
    };
    expect(finding(await check({ ...world, files }), id)).toMatchObject({ state: "missing", found: "not found: cls_u32" });
    const all = { ...files, "/proc/modules": "tun 1\ncls_u32 1\n" };
    expect(finding(await check({ ...world, files: all }), id)).toMatchObject({ state: "less" });
  });

  it("with cgroups of version 1 says so", async () => {
    expect(finding(await check(without("/sys/fs/cgroup/cgroup.controllers")), "cgroups")?.found).toBe("version 1");
    expect(finding(await check(FULL), "cgroups")?.found).toBe("version 2");
  });
});
