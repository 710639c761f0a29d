import { isSealpodError, messageOf } from "@sealpod/core";
import { DEFAULT_CONFIG_PATH, parseConfig, type ShimConfig } from "@sealpod/shim";
import type { Accelerator } from "@sealpod/vmm";
import { PROCESSOR_UNIT } from "./texts.ts";

/** What {@link checkNode} looks at. Nothing of it changes the node. */
export interface NodePorts {
  /** Text of a small file; undefined if it cannot be read. */
  readonly read: (path: string) => Promise<string | undefined>;
  /** Whether a file can be opened for reading and writing. */
  readonly canOpen: (path: string) => Promise<boolean>;
  readonly exists: (path: string) => Promise<boolean>;
  /** Absolute path of a program. */
  readonly find: (program: string) => Promise<string | undefined>;
  /** Standard output of a program; undefined if it fails or takes too long. */
  readonly run: (program: string, args: readonly string[]) => Promise<string | undefined>;
  /** What runs guests' instructions in QEMU, and why (`QemuDriver.accelerator`); undefined without QEMU. It may boot a tiny machine. */
  readonly accelerator: () => Promise<Accelerator | undefined>;
  /** `process.versions.node`. */
  readonly nodeVersion: string;
}

/** How something is on a node. */
export type FindingState =
  /** As it should be. */
  | "ok"
  /** Not there: something works less well, or not at all, as the note says. */
  | "less"
  /** Software stands in for hardware. */
  | "emulated"
  /** Not there, and without it no pod starts. */
  | "missing";

/** One thing about a node. */
export interface Finding {
  readonly id: string;
  readonly state: FindingState;
  /** What was found, for people. */
  readonly found: string;
  /** What follows from it. */
  readonly note?: string;
  /** Packages that bring it. */
  readonly packages?: Packages;
}

/** Names of packages by the tool that installs them. */
export interface Packages {
  readonly apt: string;
  readonly dnf: string;
}

/** What a node can do. */
export interface NodeReport {
  /** Whether pods can run. */
  readonly usable: boolean;
  /** What separates them from the node with its configuration, or with `isolation = "auto"` if it has none yet; `none` if no pod can run. */
  readonly isolation: "snp" | "vm" | "process" | "none";
  /** What is emulated, in sentences: none of it protects from whoever controls the node. */
  readonly emulated: readonly string[];
  readonly findings: readonly Finding[];
  /** One command that installs what is missing; absent if nothing is, or packages do not help. */
  readonly install?: string;
}

const QEMU: Packages = { apt: "qemu-system-x86", dnf: "qemu-kvm" };
const LAUNCHER_TOOLS: Packages = { apt: "coreutils grep", dnf: "coreutils grep" };
const TOOLS: Packages = { apt: "iproute2", dnf: "iproute iproute-tc" };
const NAMESPACES: Packages = { apt: "util-linux", dnf: "util-linux" };

/** First version of containerd whose calls the shim was tested with. */
const LEAST_CONTAINERD = { major: 1, minor: 6 } as const;

/** First version of QEMU with `sev-snp-guest`. */
const LEAST_SNP_QEMU = { major: 9, minor: 1 } as const;

/**
 * Looks at what a node can do for pods of the runtimes, and what will be emulated.
 * Each finding is looked for by what it does, not by the name of a distribution; what cannot be tried is read from `/proc` and `/sys`.
 */
export async function checkNode(ports: NodePorts): Promise<NodeReport> {
  const qemu = await checkQemu(ports);
  const kvm = await checkKvm(ports, qemu.state !== "missing");
  const snp = await checkSnp(ports, qemu, kvm);
  const network = await checkNetwork(ports);
  const node = await readNode(ports, snp);
  const findings = [
    await checkProcessor(ports),
    kvm,
    snp,
    qemu,
    await checkVsock(ports),
    checkNodeVersion(ports),
    await checkContainerd(ports),
    await checkRunc(ports),
    ...(await checkPrograms(ports)),
    ...network,
    await checkCgroups(ports),
    ...(await checkConfig(ports, node, snp.state === "ok")),
  ];
  const missing = findings.filter(({ state }) => state === "missing");
  const usable = missing.length === 0;
  const emulated = findings.filter(({ state }) => state === "emulated").map(({ note, found }) => note ?? found);
  const install = await installCommand(ports, findings);
  return {
    usable,
    isolation: usable ? node.isolation : "none",
    emulated,
    findings,
    ...(install === undefined ? {} : { install }),
  };
}

async function checkProcessor(ports: NodePorts): Promise<Finding> {
  const machine = (await ports.run("uname", ["-m"]))?.trim() ?? "unknown";
  if (machine !== "x86_64") return { id: "processor", state: "missing", found: machine, note: "Utility VMs are made for x86_64 alone." };
  const cpuInfo = (await ports.read("/proc/cpuinfo")) ?? "";
  const model = /^model name\s*:\s*(.{1,100})$/m.exec(cpuInfo)?.[1] ?? "x86_64";
  return { id: "processor", state: "ok", found: model };
}

async function checkKvm(ports: NodePorts, hasQemu: boolean): Promise<Finding> {
  const id = "kvm";
  const note = "Processors of machines are emulated (QEMU's TCG): about ten times slower, and a machine boots in seconds instead of a part of one.";
  const accelerator = hasQemu ? await ports.accelerator() : undefined;
  if (accelerator !== undefined)
    return accelerator.kind === "kvm" ? { id, state: "ok", found: accelerator.reason } : { id, state: "emulated", found: accelerator.reason, note };
  const flag = /^flags\s*:.*\b(svm|vmx)\b/m.exec((await ports.read("/proc/cpuinfo")) ?? "")?.[1];
  if (flag === undefined) return { id, state: "emulated", found: "the processor's flags show neither svm nor vmx", note };
  if (!(await ports.canOpen("/dev/kvm"))) return { id, state: "emulated", found: "/dev/kvm is not there, or not for this user", note };
  return { id, state: "less", found: `the processor has ${flag}, and /dev/kvm can be opened`, note: "Without QEMU it was not tried." };
}

async function checkSnp(ports: NodePorts, qemu: Finding, kvm: Finding): Promise<Finding> {
  const id = "sev-snp";
  const parameter = (await ports.read("/sys/module/kvm_amd/parameters/sev_snp"))?.trim();
  const problems: string[] = [];
  if (parameter !== "Y" && parameter !== "1")
    problems.push(parameter === undefined ? "kvm_amd is not loaded" : `kvm_amd has sev_snp=${parameter.slice(0, 20)}`);
  if (!(await ports.canOpen("/dev/sev"))) problems.push("/dev/sev is not there");
  if (problems.length === 0 && kvm.state !== "ok") problems.push("KVM does not work");
  if (problems.length === 0 && !isAtLeast(qemu.found, LEAST_SNP_QEMU))
    problems.push(`${qemu.found} is older than ${LEAST_SNP_QEMU.major}.${LEAST_SNP_QEMU.minor}`);
  if (problems.length === 0) return { id, state: "ok", found: "kvm_amd has it, /dev/sev is there" };
  return {
    id,
    state: "emulated",
    found: problems.join("; "),
    note: "The security processor is emulated: NO HARDWARE PROTECTION. The node can read its pods' memory, and verifiers refuse their evidence unless they are told to accept the emulator's root.",
  };
}

/** The node's configuration, and what pods are in with it. */
interface Configured {
  /** Undefined if there is no file, or none that can be read. */
  readonly config: ShimConfig | undefined;
  /** Why it cannot be read. */
  readonly problem: string | undefined;
  readonly isolation: "snp" | "vm" | "process";
}

async function readNode(ports: NodePorts, snp: Finding): Promise<Configured> {
  const auto = snp.state === "ok" ? "snp" : "vm";
  const text = await ports.read(DEFAULT_CONFIG_PATH);
  if (text === undefined) return { config: undefined, problem: undefined, isolation: auto };
  try {
    const config = parseConfig(text, DEFAULT_CONFIG_PATH);
    return { config, problem: undefined, isolation: config.isolation === "auto" ? auto : config.isolation };
  } catch (error) {
    const hint = isSealpodError(error) && error.hint !== undefined ? ` ${error.hint}` : "";
    return { config: undefined, problem: `${messageOf(error)}.${hint}`, isolation: auto };
  }
}

/** What every pod needs by the configuration. Before the installation only what nobody but the administrator can bring. */
async function checkConfig(ports: NodePorts, { config, problem, isolation }: Configured, hasSnp: boolean): Promise<readonly Finding[]> {
  if (problem !== undefined) return [{ id: "shim.toml", state: "missing", found: problem, note: "Every pod is refused until that is mended." }];
  const found: Finding[] = [];
  const need = async (id: string, key: string, path: string | undefined, note: string): Promise<void> => {
    if (path === undefined) found.push({ id, state: "missing", found: `${DEFAULT_CONFIG_PATH} names none (${key})`, note });
    else if (!(await ports.exists(path))) found.push({ id, state: "missing", found: `${path} is not there (${key} in ${DEFAULT_CONFIG_PATH})`, note });
    else found.push({ id, state: "ok", found: path });
  };
  if (isolation === "snp" && !hasSnp) {
    const note = "Every pod is refused, as that setting wants it.";
    found.push({ id: "isolation", state: "missing", found: `${DEFAULT_CONFIG_PATH} has isolation = "snp", and this node has no SEV-SNP`, note });
  }
  if (isolation === "snp") {
    const note = 'Without it every pod is refused. Name an OVMF of the AmdSev kind, or isolation = "vm" for machines without protection from this node.';
    await need("firmware", "hypervisor.firmware", config?.firmware, note);
  }
  if (config === undefined) return found;
  if (isolation === "process") await need("agent", "hypervisor.agent", config.agent, "sealpod host install brings it.");
  else await need("uvm", "hypervisor.uvm", `${config.uvm}/uvm.json`, "sealpod host install brings it; sealpod uvm build makes another.");
  if (isolation !== "snp")
    await need("emulated security processor", "processor.socket", config.processorSocket, `No pod starts without it: systemctl enable --now ${PROCESSOR_UNIT}`);
  return found;
}

async function checkQemu(ports: NodePorts): Promise<Finding> {
  const text = await ports.run("qemu-system-x86_64", ["--version"]);
  const version = /\bversion ([0-9]{1,4}\.[0-9]{1,4}(?:\.[0-9]{1,4})?)/.exec(text ?? "")?.[1];
  if (version !== undefined) return { id: "qemu", state: "ok", found: `QEMU ${version}` };
  return { id: "qemu", state: "missing", found: "no qemu-system-x86_64", note: "It is the machine that pods run in.", packages: QEMU };
}

async function checkVsock(ports: NodePorts): Promise<Finding> {
  const id = "vhost-vsock";
  if (await ports.canOpen("/dev/vhost-vsock")) return { id, state: "ok", found: "/dev/vhost-vsock" };
  return {
    id,
    state: "ok",
    found: "not there",
    note: "Not needed: machines speak to the node through a serial port (QEMU), or the monitor's own vsock (Cloud Hypervisor).",
  };
}

function checkNodeVersion({ nodeVersion }: NodePorts): Finding {
  const isNew = Number(nodeVersion.split(".")[0]) >= 24;
  return { id: "node", state: isNew ? "ok" : "missing", found: `Node.js ${nodeVersion}`, ...(isNew ? {} : { note: "The shim needs version 24." }) };
}

async function checkContainerd(ports: NodePorts): Promise<Finding> {
  const id = "containerd";
  const text = await ports.run("containerd", ["--version"]);
  const version = /\bv?([0-9]{1,4}\.[0-9]{1,4}\.[0-9]{1,4})/.exec(text ?? "")?.[1];
  const packages = { apt: "containerd", dnf: "containerd" };
  if (version === undefined) return { id, state: "missing", found: "no containerd", packages };
  if (!isAtLeast(version, LEAST_CONTAINERD)) return { id, state: "missing", found: `containerd ${version}`, note: "Older than 1.6.", packages };
  return { id, state: "ok", found: `containerd ${version}` };
}

async function checkRunc(ports: NodePorts): Promise<Finding> {
  for (const program of ["runc", "crun"]) {
    const version = /\b([0-9]{1,4}\.[0-9]{1,4}(?:\.[0-9]{1,4})?)/.exec((await ports.run(program, ["--version"])) ?? "")?.[1];
    if (version !== undefined) return { id: "runc", state: "ok", found: `${program} ${version}` };
  }
  return {
    id: "runc",
    state: "less",
    found: "neither runc nor crun",
    note: "Only other pods need it: ours have their own in the machine.",
    packages: { apt: "runc", dnf: "runc" },
  };
}

async function checkPrograms(ports: NodePorts): Promise<readonly Finding[]> {
  const program = async (names: readonly string[], packages: Packages, absent: Pick<Finding, "state" | "note">): Promise<Finding> => {
    const found: string[] = [];
    for (const name of names) {
      const path = await ports.find(name);
      if (path !== undefined) found.push(path);
    }
    const id = names.join(", ");
    if (found.length === names.length) return { id, state: "ok", found: found.join(", ") };
    return { id, found: `no ${names.filter((name) => !found.some((path) => path.endsWith(`/${name}`))).join(", ")}`, packages, ...absent };
  };
  return [
    await program(["sha256sum", "grep", "date", "mv"], LAUNCHER_TOOLS, { state: "missing", note: "containerd-shim-kata-cc-v2 calls them." }),
    await program(["ip", "tc"], TOOLS, { state: "missing", note: "They join the pod's interfaces to the machine's." }),
    await program(["nsenter", "setpriv"], NAMESPACES, { state: "missing", note: "They start machines." }),
    await program(
      ["perl"],
      { apt: "perl-base", dnf: "perl-interpreter" },
      { state: "less", note: "Without it a pod's shim starts some tens of milliseconds later." },
    ),
    await checkForwarding(ports),
  ];
}

/** One rule of each kind that forwards a connection to the pod's loopback address (port-forward), for a namespace that is gone at once. */
const FORWARD_TRIAL = [
  "add table ip sealpod",
  "add chain ip sealpod out { type nat hook output priority -110; }",
  "add rule ip sealpod out dnat to 192.0.2.1",
  "add table netdev sealpod4",
  'add chain netdev sealpod4 way { type filter hook ingress device "lo" priority 0; }',
  'add rule netdev sealpod4 way fwd ip to 192.0.2.1 device "lo"',
].join("; ");

async function checkForwarding(ports: NodePorts): Promise<Finding> {
  const id = "nft";
  const note = "kubectl port-forward does not reach pods.";
  const path = await ports.find("nft");
  if (path === undefined) return { id, state: "less", found: "no nft", note, packages: { apt: "nftables", dnf: "nftables" } };
  if ((await ports.find("tee")) === undefined)
    return { id, state: "less", found: `${path}, but no tee`, note, packages: { apt: "coreutils", dnf: "coreutils" } };
  if ((await ports.run("unshare", ["--net", path, FORWARD_TRIAL])) !== undefined) return { id, state: "ok", found: `${path}: tried, and it works` };
  return {
    id,
    state: "less",
    found: `${path} is there, and cannot forward`,
    note: `${note} Run as root to try it; else the kernel lacks nf_tables, nft_chain_nat, nft_ct or nft_fwd_netdev.`,
  };
}

/** Commands that a pod's network is made by, tried in a namespace of their own, which is gone at once. */
const NETWORK_TRIAL =
  "ip tuntap add dev sealpod0 mode tap && ip tuntap add dev sealpod1 mode tap && tc qdisc add dev sealpod0 ingress && " +
  "tc filter add dev sealpod0 parent ffff: protocol all u32 match u8 0 0 action mirred egress redirect dev sealpod1 && echo done";

async function checkNetwork(ports: NodePorts): Promise<readonly Finding[]> {
  const id = "tap, sch_ingress, act_mirred, cls_u32";
  if ((await ports.run("unshare", ["--net", "sh", "-c", NETWORK_TRIAL]))?.trim() === "done") return [{ id, state: "ok", found: "tried, and it works" }];
  const release = (await ports.run("uname", ["-r"]))?.trim() ?? "";
  const loaded = (await ports.read("/proc/modules")) ?? "";
  const builtIn = (await ports.read(`/lib/modules/${release}/modules.builtin`)) ?? "";
  const loadable = (await ports.read(`/lib/modules/${release}/modules.dep`)) ?? "";
  const missing = ["tun", "sch_ingress", "act_mirred", "cls_u32"].filter(
    (name) => !new RegExp(`^${name} `, "m").test(loaded) && !`${builtIn}\n${loadable}`.includes(`/${name}.ko`),
  );
  if (missing.length === 0)
    return [{ id, state: "less", found: "the kernel has them; they could not be tried", note: "Run sealpod host check as root to try them." }];
  return [
    {
      id,
      state: "missing",
      found: `not found: ${missing.join(", ")}`,
      note: "Pods with a network need them: modprobe, or another kernel. Run as root to try them.",
    },
  ];
}

async function checkCgroups(ports: NodePorts): Promise<Finding> {
  const id = "cgroups";
  if (await ports.exists("/sys/fs/cgroup/cgroup.controllers")) return { id, state: "ok", found: "version 2" };
  return { id, state: "ok", found: "version 1", note: "Metrics of containers are in version 1's form. Pods have version 2 in their machine all the same." };
}

/** One command for the packages that are missing, by the node's own tool. */
async function installCommand(ports: NodePorts, findings: readonly Finding[]): Promise<string | undefined> {
  const wanted = findings.flatMap(({ state, packages }) => (packages !== undefined && state !== "ok" ? [packages] : []));
  if (wanted.length === 0) return undefined;
  const names = (tool: keyof Packages): string => [...new Set(wanted.flatMap((packages) => packages[tool].split(" ")))].join(" ");
  if ((await ports.find("apt-get")) !== undefined) return `apt-get install -y --no-install-recommends ${names("apt")}`;
  if ((await ports.find("dnf")) !== undefined) return `dnf install -y ${names("dnf")}`;
  return undefined;
}

function isAtLeast(text: string, least: { readonly major: number; readonly minor: number }): boolean {
  const [major = 0, minor = 0] = (/([0-9]+)\.([0-9]+)/.exec(text) ?? []).slice(1).map(Number);
  return major > least.major || (major === least.major && minor >= least.minor);
}
