import { access, open } from "node:fs/promises";
import { posix } from "node:path";
import { decodeUtf8, editDistance, fromBase64, isSealpodError, messageOf } from "@sealpod/core";
import { AKS_SIZING } from "@sealpod/sandbox";
import { DEFAULT_SNP_CPU, DEFAULT_SNP_POLICY } from "@sealpod/vmm";
import { parse, TomlError } from "smol-toml";
import type { ShimConfig } from "./config.ts";
import { ShimError } from "./errors.ts";

/** Where the configuration is, unless containerd's configuration of the runtime names another (`ConfigPath`). */
export const DEFAULT_CONFIG_PATH = "/etc/sealpod/shim.toml";

/** Where `sealpod host install` puts its files, unless it is told another place. */
export const DEFAULT_PREFIX = "/opt/sealpod";

/** Largest configuration file: ours has 6 KiB. */
const MAX_CONFIG = 256 * 1024;

/**
 * Longest `run_directory` in bytes. A machine's directory in it is `<32 hex digits>/vm`, and monitors take one of at most 90 bytes, because unix
 * sockets are in it (`validateMachineConfig` of @sealpod/vmm).
 */
const MAX_RUN_DIRECTORY = 90 - "/vm".length - 32 - "/".length;

/** Longest path of a unix socket on Linux, without the zero byte. */
const MAX_SOCKET = 107;

/** Length of an ID block and of its authentication (SEV-SNP firmware ABI, section 8.17). */
const ID_LENGTHS = { block: 96, authentication: 4096 } as const;

/** One key of the file. */
interface Setting<T> {
  readonly table: "hypervisor" | "runtime" | "processor";
  readonly key: string;
  /** Lines above the key in the default file. */
  readonly doc: readonly string[];
  /** Value where the file has none. */
  readonly initial: T;
  /** For the message when {@link Setting.read} refuses a value. */
  readonly expected: string;
  /** Undefined for what is no value of this key. */
  read(value: unknown): T | undefined;
}

type Place = Pick<Setting<never>, "table" | "key">;
const hypervisor = (key: string): Place => ({ table: "hypervisor", key });
const runtime = (key: string): Place => ({ table: "runtime", key });

function oneOf<const T extends string>(place: Place, choices: readonly T[], initial: NoInfer<T>, doc: readonly string[]): Setting<T> {
  const expected = choices.map((choice) => JSON.stringify(choice)).join(" or ");
  return { ...place, doc, initial, expected, read: (value) => choices.find((choice) => choice === value) };
}

function flag(place: Place, initial: boolean, doc: readonly string[]): Setting<boolean> {
  return { ...place, doc, initial, expected: "true or false", read: (value) => (typeof value === "boolean" ? value : undefined) };
}

function number(
  place: Place,
  range: { readonly least: number; readonly most: number; readonly whole: boolean },
  initial: number,
  doc: readonly string[],
): Setting<number> {
  const { least, most, whole } = range;
  return {
    ...place,
    doc,
    initial,
    expected: `${whole ? "an integer" : "a number"} from ${least} to ${most}`,
    read: (value) => (typeof value === "number" && value >= least && value <= most && (!whole || Number.isInteger(value)) ? value : undefined),
  };
}

/**
 * Linux takes paths of 4096 bytes; a relative one would depend on who started the shim. One with `..` or `//` in it is not what it looks like, and
 * what is compared with it as a text is not found equal. A slash at the end is taken, and left out.
 */
function readPath(value: unknown, most = 4095): string | undefined {
  if (typeof value !== "string" || value.includes("\0")) return undefined;
  const path = value.length > 1 && value.endsWith("/") ? value.slice(0, -1) : value;
  const isPath = path.startsWith("/") && path !== "/" && Buffer.byteLength(path) <= most && posix.normalize(path) === path && !path.endsWith("/");
  return isPath ? path : undefined;
}

function path(place: Place, initial: string, doc: readonly string[], most?: number): Setting<string> {
  return {
    ...place,
    doc,
    initial,
    expected: `an absolute path without "." and ".." and double slashes${most === undefined ? "" : `, of at most ${most} bytes`}`,
    read: (value) => readPath(value, most),
  };
}

/** A path that need not be there: the empty text stands for none, as in Kata's file. */
function optionalPath(place: Place, initial: string, doc: readonly string[]): Setting<string> {
  return {
    ...path(place, initial, doc),
    expected: 'an absolute path without "." and ".." and double slashes, or "" for none',
    read: (value) => (value === "" ? "" : readPath(value)),
  };
}

function base64(place: Place, length: number, doc: readonly string[]): Setting<string> {
  return {
    ...place,
    doc,
    initial: "",
    expected: `${length} bytes in base64, or "" for none`,
    read: (value) => (value === "" || bytesOf(value)?.length === length ? String(value) : undefined),
  };
}

function bytesOf(value: unknown): Uint8Array | undefined {
  try {
    return typeof value === "string" ? fromBase64(value) : undefined;
  } catch {
    return undefined;
  }
}

/** All keys, in the order of the file. */
const SETTINGS = {
  isolation: oneOf(hypervisor("isolation"), ["auto", "snp", "vm", "process"], "auto", [
    "What separates a pod from its node:",
    '"snp"      a virtual machine whose memory the node cannot read (SEV-SNP); a node without it refuses pods',
    '"vm"       a virtual machine with an EMULATED security processor: NO HARDWARE PROTECTION from whoever controls the node',
    '"auto"     "snp" where the node has it, else "vm"',
    '"process"  namespaces of the node, no machine at all: for trying things out only',
  ]),
  uvm: path(hypervisor("uvm"), `${DEFAULT_PREFIX}/uvm`, ["Directory of the utility VM's image (sealpod uvm build)."]),
  firmware: optionalPath(hypervisor("firmware"), "", [
    'Firmware for "snp": an OVMF of the AmdSev kind. It is measured, as are the kernel, its command line and the initial RAM disk.',
  ]),
  snpCpu: {
    ...hypervisor("snp_cpu"),
    doc: ['Model of processor that machines have with "snp". It is measured: all nodes whose pods shall have one measurement need the same.'],
    initial: DEFAULT_SNP_CPU,
    expected: 'a name of QEMU\'s, such as "EPYC-v4"',
    read: (value) => (typeof value === "string" && /^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/.test(value) ? value : undefined),
  } satisfies Setting<string>,
  snpPolicy: number(hypervisor("snp_guest_policy"), { least: 0, most: Number.MAX_SAFE_INTEGER, whole: true }, Number(DEFAULT_SNP_POLICY), [
    "POLICY of SEV-SNP guests; 196608 (0x30000): SMT allowed, no debugging, no migration.",
  ]),
  snpIdBlock: base64(hypervisor("snp_id_block"), ID_LENGTHS.block, [
    "Signed identity of the launch (sealpod attest id-block create): ID block and its authentication, both or none.",
  ]),
  snpIdAuth: base64(hypervisor("snp_id_auth"), ID_LENGTHS.authentication, []),
  agent: optionalPath(hypervisor("agent"), `${DEFAULT_PREFIX}/agent.mjs`, ['The agent\'s bundle, for "process".']),
  defaultMemory: number(hypervisor("default_memory"), { least: 0, most: 64 * 1024 * 1024, whole: true }, AKS_SIZING.defaultMemoryMiB, [
    "MiB of memory that a machine has for its own system, beside the limits of its containers.",
  ]),
  defaultVcpus: number(hypervisor("default_vcpus"), { least: 0, most: 4096, whole: false }, AKS_SIZING.defaultVcpus, [
    "Processors that a machine has for its own system, beside the limits of its containers; the sum is rounded up.",
  ]),
  enableAnnotations: {
    ...hypervisor("enable_annotations"),
    doc: [
      "Annotations io.katacontainers.config.hypervisor.NAME by which a pod's author may change its machine. What is not listed here is refused.",
      'With "default_memory" and "default_vcpus" a pod takes more of the node than the scheduler has counted.',
    ],
    initial: ["cc_init_data"],
    expected: "a list of at most 64 names, of letters, digits and _",
    read: (value) =>
      Array.isArray(value) && value.length <= 64 && value.every((item): item is string => typeof item === "string" && /^[A-Za-z0-9_]{1,64}$/.test(item))
        ? value
        : undefined,
  } satisfies Setting<readonly string[]>,
  staticSandbox: flag(runtime("static_sandbox_resource_mgmt"), AKS_SIZING.staticSandbox, [
    "A machine has its final size from the start. Confidential machines cannot grow.",
  ]),
  workloadMemory: number(
    runtime("static_sandbox_default_workload_mem"),
    { least: 0, most: 64 * 1024 * 1024, whole: true },
    AKS_SIZING.defaultWorkloadMemoryMiB,
    ["MiB for the containers of a pod without a memory limit."],
  ),
  workloadVcpus: number(runtime("static_sandbox_default_workload_vcpus"), { least: 0, most: 4096, whole: false }, AKS_SIZING.defaultWorkloadVcpus, [
    "Processors for the containers of a pod without a CPU limit.",
  ]),
  containerCpuLimits: oneOf(runtime("container_cpu_limits"), ["auto", "always", "never"], "auto", [
    'Whether CPU limits of single containers hold in the guest. "auto": not where the node has no KVM, since a part of an emulated processor starts nothing.',
  ]),
  network: oneOf(runtime("internetworking_model"), ["tcfilter", "none"], "tcfilter", [
    'How a pod reaches the network: "tcfilter" joins the interfaces that CNI made to those of the machine; "none": not at all.',
  ]),
  portForward: flag(runtime("port_forward"), true, [
    "Whether connections to the pod's loopback address (kubectl port-forward) reach the guest. The node needs nft for it.",
  ]),
  emptyDir: oneOf(runtime("emptydir_mode"), ["memory", "encrypted"], "memory", [
    'Where emptyDir volumes are: in the "memory" of the guest, or on a disk of the node, "encrypted" by the guest with a key that never leaves it.',
  ]),
  sandboxCgroupOnly: flag(runtime("sandbox_cgroup_only"), false, [
    "Whether the shim and the machine run in the cgroup that the kubelet made for the pod: its statistics show them, and its limits hold for them.",
    "Set it to true only with a RuntimeClass whose overhead covers a machine's own memory (default_memory and about 200 MiB, not 600Mi): the kernel ends",
    "the machine where its memory exceeds the pod's limit. Of a pod without limits nothing is ended.",
  ]),
  createContainerTimeout: number(runtime("create_container_timeout"), { least: 1, most: 86_400, whole: true }, 300, [
    "Seconds for making one container in the guest.",
  ]),
  runDirectory: path(runtime("run_directory"), "/run/sealpod/pods", ["Sockets and records of running pods."], MAX_RUN_DIRECTORY),
  layerDirectory: path(runtime("layer_directory"), "/var/lib/sealpod/layers", ["Cache of image layers, as the file systems that machines are given."]),
  logLevel: oneOf(runtime("log_level"), ["debug", "info", "warn", "error"], "info", ["Least level of what the shim writes to containerd's log."]),
  processorSocket: path(
    { table: "processor", key: "socket" },
    "/run/sealpod/psp.sock",
    ["Socket of the EMULATED security processor (sealpod host processor), for nodes without SEV-SNP. What it signs proves nothing about hardware."],
    MAX_SOCKET,
  ),
} as const;

const HINTS = { default: "sealpod host install writes a file with all keys, documented; containerd names another file by ConfigPath." } as const;

/**
 * The configuration in a file.
 * @param path absolute
 * @throws {ShimError} ERR_SHIM_CONFIG if it is missing or malformed, has a key that there is not, or names an image or agent that is not there
 */
export async function loadConfig(path: string = DEFAULT_CONFIG_PATH): Promise<ShimConfig> {
  const config = parseConfig(await readConfig(path), path);
  const fail = async (key: string, file: string, hint: string): Promise<void> => {
    await access(file).catch((cause: unknown) => {
      throw new ShimError("ERR_SHIM_CONFIG", `${path}: ${key} names ${file}, which cannot be read: ${messageOf(cause)}`, {
        cause,
        hint,
        details: { file: path, key },
      });
    });
  };
  if (config.isolation === "process") {
    if (config.agent === undefined)
      throw new ShimError("ERR_SHIM_CONFIG", `${path}: hypervisor.agent is "", expected the agent's bundle for isolation "process"`);
    await fail("hypervisor.agent", config.agent, "Install it (sealpod host install), or name the agent's bundle, agent.mjs.");
  } else await fail("hypervisor.uvm", `${config.uvm}/uvm.json`, "Install one (sealpod host install), or name the directory that sealpod uvm build made.");
  if (config.firmware !== undefined) await fail("hypervisor.firmware", config.firmware, "Name an OVMF of the AmdSev kind.");
  return config;
}

/**
 * Reads the text of a configuration file. Keys that there are not are refused: one that is misspelt would leave a pod with less than was meant.
 * @param name of the file, for messages
 * @throws {ShimError} ERR_SHIM_CONFIG
 */
export function parseConfig(text: string, name: string): ShimConfig {
  const fail = (problem: string, hint?: string, cause?: unknown): never => {
    throw new ShimError("ERR_SHIM_CONFIG", `${name}: ${problem}`, { cause, details: { file: name }, ...(hint === undefined ? {} : { hint }) });
  };
  if (text.length > MAX_CONFIG) fail(`has ${text.length} characters, more than ${MAX_CONFIG}`);
  const file = parseToml(text, name);
  const known = Object.values(SETTINGS) as readonly Place[];
  const tables = [...new Set(known.map(({ table }) => table as string))];
  for (const [table, content] of Object.entries(file)) {
    if (!tables.includes(table)) {
      const home = known.find(({ key }) => key === table);
      fail(
        `has ${JSON.stringify(shorten(table))} at the top, expected ${tables.map((item) => `[${item}]`).join(", ")}`,
        home === undefined ? nearest(table, tables) : `${table} stands in [${home.table}].`,
      );
    }
    if (!isTable(content)) return fail(`${table} is ${shown(content)}, expected a table`);
    const keys = known.filter((place) => place.table === table).map(({ key }) => key);
    for (const key of Object.keys(content)) {
      if (keys.includes(key)) continue;
      const home = known.find((place) => place.key === key);
      fail(`[${table}] has ${JSON.stringify(shorten(key))}, which there is not`, home === undefined ? nearest(key, keys) : `${key} stands in [${home.table}].`);
    }
  }
  const take = <T>(setting: Setting<T>): T => {
    const content = Object.hasOwn(file, setting.table) ? file[setting.table] : undefined;
    if (!isTable(content) || !Object.hasOwn(content, setting.key)) return setting.initial;
    const found = content[setting.key];
    return setting.read(found) ?? fail(`${setting.table}.${setting.key} is ${shown(found)}, expected ${setting.expected}`);
  };
  const optional = (text: string): string | undefined => (text === "" ? undefined : text);
  const [block, authentication] = [take(SETTINGS.snpIdBlock), take(SETTINGS.snpIdAuth)];
  if ((block === "") !== (authentication === "")) fail("has one of snp_id_block and snp_id_auth, expected both or none");
  const isolation = take(SETTINGS.isolation);
  const firmware = optional(take(SETTINGS.firmware));
  if (isolation === "snp" && firmware === undefined) fail('hypervisor.firmware is "", expected a path for isolation "snp"', "Name an OVMF of the AmdSev kind.");
  return {
    isolation,
    uvm: take(SETTINGS.uvm),
    firmware,
    snp: {
      cpu: take(SETTINGS.snpCpu),
      policy: BigInt(take(SETTINGS.snpPolicy)),
      ...(block === "" ? {} : { id: { block: fromBase64(block), authentication: fromBase64(authentication) } }),
    },
    agent: optional(take(SETTINGS.agent)),
    sizing: {
      defaultMemoryMiB: take(SETTINGS.defaultMemory),
      defaultVcpus: take(SETTINGS.defaultVcpus),
      staticSandbox: take(SETTINGS.staticSandbox),
      defaultWorkloadMemoryMiB: take(SETTINGS.workloadMemory),
      defaultWorkloadVcpus: take(SETTINGS.workloadVcpus),
    },
    enableAnnotations: take(SETTINGS.enableAnnotations),
    containerCpuLimits: take(SETTINGS.containerCpuLimits),
    processorSocket: take(SETTINGS.processorSocket),
    runDirectory: take(SETTINGS.runDirectory),
    layerDirectory: take(SETTINGS.layerDirectory),
    network: take(SETTINGS.network),
    portForward: take(SETTINGS.portForward),
    emptyDir: take(SETTINGS.emptyDir),
    sandboxCgroupOnly: take(SETTINGS.sandboxCgroupOnly),
    createContainerTimeoutMs: take(SETTINGS.createContainerTimeout) * 1000,
    logLevel: take(SETTINGS.logLevel),
  };
}

/** The configuration of an empty file. */
export function defaultConfig(): ShimConfig {
  return parseConfig("", "the defaults");
}

/** Values that the file which is written has in place of the defaults. */
export interface ConfigPlaces {
  readonly uvm?: string;
  readonly agent?: string;
}

/** A file with all keys, documented, at their defaults. */
export function defaultConfigText(places: ConfigPlaces = {}): string {
  const lines = [
    "# Configuration of Sealpod's containerd shim, containerd-shim-kata-cc-v2 (docs/host.md). Read at the start of each pod.",
    "# Names are Kata Containers' where it has the same key. Keys that there are not are refused.",
  ];
  let table = "";
  for (const setting of Object.values(SETTINGS) as readonly Setting<unknown>[]) {
    if (setting.table !== table) lines.push("", `[${setting.table}]`);
    else if (setting.doc.length > 0) lines.push("");
    table = setting.table;
    const value = setting.key === "uvm" ? (places.uvm ?? setting.initial) : setting.key === "agent" ? (places.agent ?? setting.initial) : setting.initial;
    // JSON's texts, numbers, truth values and lists of texts are TOML's too.
    lines.push(...setting.doc.map((line) => `# ${line}`), `${setting.key} = ${JSON.stringify(value)}`);
  }
  return `${lines.join("\n")}\n`;
}

async function readConfig(path: string): Promise<string> {
  try {
    await using file = await open(path);
    const status = await file.stat();
    if (!status.isFile()) throw new Error("it is not a file");
    if (status.size > MAX_CONFIG) throw new Error(`it has ${status.size} bytes, more than ${MAX_CONFIG}`);
    return decodeUtf8(await file.readFile(), path);
  } catch (cause) {
    if (isSealpodError(cause) && cause.code === "ERR_SHIM_CONFIG") throw cause;
    throw new ShimError("ERR_SHIM_CONFIG", `${path} cannot be read: ${messageOf(cause)}`, { cause, hint: HINTS.default, details: { file: path } });
  }
}

/**
 * Parses TOML.
 * @param name of the file, for messages
 * @throws {ShimError} ERR_SHIM_CONFIG with line and column
 */
export function parseToml(text: string, name: string): Readonly<Record<string, unknown>> {
  try {
    return parse(text, { maxDepth: 32, unsafeKeyBehaviour: "throw" });
  } catch (cause) {
    const at = cause instanceof TomlError ? `:${cause.line}:${cause.column}` : "";
    throw new ShimError("ERR_SHIM_CONFIG", `${name}${at}: not TOML: ${messageOf(cause).split("\n")[0] ?? ""}`, { cause, details: { file: name } });
  }
}

function isTable(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Date);
}

function shorten(text: string): string {
  return text.length > 40 ? `${text.slice(0, 40)}…` : text;
}

function shown(value: unknown): string {
  return isTable(value) ? "a table" : shorten(JSON.stringify(value) ?? String(value));
}

/** The known name that is most like what was written, if one is. */
function nearest(written: string, names: readonly string[]): string {
  const [best] = names.map((name) => ({ name, distance: editDistance(shorten(written), name) })).toSorted((left, right) => left.distance - right.distance);
  return best !== undefined && best.distance <= Math.max(2, best.name.length / 3) ? `Did you mean ${best.name}?` : `There are: ${names.join(", ")}.`;
}
