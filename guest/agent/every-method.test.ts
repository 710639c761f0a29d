import { lstatSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { encodeUtf8, type Logger } from "@sealpod/core";
import { AgentService, type DescMessage, type DescMethodUnary, Health, IPFamily, type MessageInitShape, type MessageShape } from "@sealpod/proto";
import { memoryStreams, serveTtrpc, STATUS, TtrpcClient, TtrpcError } from "@sealpod/ttrpc";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { DEFAULT_POLICY } from "./index.ts";
import { Gate } from "./gate.ts";
import type { GuestMachine } from "./machine.ts";
import { agentMethods } from "./methods.ts";
import { IpNetwork } from "./network.ts";
import { guestPaths } from "./paths.ts";
import { PolicyEngine } from "./policy.ts";
import { PROFILES } from "./profile.ts";
import type { Sandbox } from "./sandbox.ts";
import { agentServices } from "./services.ts";
import { allowAll, inTemporaryDirectory } from "./test-support.ts";
import { volumeStats } from "./volume-stats.ts";

type Methods = typeof AgentService.method;
type MethodName = keyof Methods;

const NAMES = AgentService.methods.map(({ localName }) => localName as MethodName);
const RULES = [...new Set(AgentService.methods.map(({ input }) => input.name))];

/** The service in numbers, so that who adds a method comes by here. */
it("has 42 methods under 41 rules", () => {
  expect([NAMES.length, RULES.length]).toEqual([42, 41]);
});

const DENY_ALL = `package agent_policy\n\n${RULES.map((rule) => `default ${rule} := false\n${rule} { print("asked", "${rule}"); false }\n`).join("")}`;
const NO_ANSWER = "package agent_policy\n";

const CONTAINER = "c".repeat(64);
const MAC = "02:00:00:00:00:01";
const LINKS = JSON.stringify([
  { ifname: "lo", flags: ["LOOPBACK"], mtu: 65536, address: "00:00:00:00:00:00", link_type: "loopback", addr_info: [] },
  { ifname: "eth0", flags: ["UP"], mtu: 1500, address: MAC, link_type: "ether", addr_info: [] },
]);
const ROUTES = JSON.stringify([{ dst: "default", gateway: "10.0.0.1", dev: "eth0" }]);

/** What the agent did: who was asked for what. */
type Act = readonly [what: string, ...args: unknown[]];

/** Everything behind the gate, writing down what it is asked to do. */
interface Recorded {
  readonly root: string;
  readonly acts: Act[];
  readonly sandbox: Sandbox;
  readonly machine: GuestMachine;
  readonly setPolicy: (policy: string) => Promise<void>;
}

/** Looking changes nothing, so these are not written down. */
const CHECKS: ReadonlySet<string> = new Set(["requireReady", "requireNew", "requireContainer"]);

function recorded(root: string): Recorded {
  const acts: Act[] = [];
  const note =
    (what: string, answer?: unknown) =>
    (...args: readonly unknown[]): unknown => {
      acts.push([what, ...args]);
      return answer;
    };
  const stream = (name: string): object => ({ read: note(`${name}.read`, Promise.resolve(encodeUtf8("secret"))), discard: note(`${name}.discard`) });
  const process = {
    stdout: stream("stdout"),
    stderr: stream("stderr"),
    signal: note("process.signal"),
    write: note("process.write", Promise.resolve()),
    closeStdin: note("process.closeStdin"),
  };
  const answers: Readonly<Record<string, unknown>> = {
    wait: Promise.resolve(3),
    oomEvent: Promise.resolve(CONTAINER),
    stats: { cgroupStats: { pidsStats: { current: 7n } } },
    terminationMessage: Uint8Array.of(0x62, 0x79, 0x65, 0xff),
  };
  const sandbox = new Proxy({} as Sandbox, {
    get(_target, property) {
      const name = String(property);
      if (CHECKS.has(name)) return () => undefined;
      if (name === "process" || name === "readable") return () => process;
      return note(`sandbox.${name}`, answers[name]);
    },
  });
  const paths = guestPaths(root);
  const machine: GuestMachine = {
    network: new IpNetwork({
      ip(args, input) {
        acts.push(["ip", args.join(" "), ...(input === undefined ? [] : [input])]);
        return Promise.resolve(args.includes("-batch") ? "" : args.includes("address") ? LINKS : ROUTES);
      },
      hasIpv6: () => false,
      pause: () => Promise.resolve(),
    }),
    setTime: (seconds, microseconds) => note("machine.setTime", Promise.resolve())(seconds, microseconds) as Promise<void>,
    mixRandom: note("machine.mixRandom"),
    onlineProcessors: note("machine.onlineProcessors"),
    memoryBlockSize: note("machine.memoryBlockSize", 4096n) as () => bigint,
    metrics: note("machine.metrics", "kata_agent_threads 1\n") as () => string,
    volumeStats(path) {
      acts.push(["machine.volumeStats", path]);
      return volumeStats(path, paths, () => new Set());
    },
  };
  return { root, acts, sandbox, machine, setPolicy: note("setPolicy", Promise.resolve()) as Recorded["setPolicy"] };
}

interface Setup extends Recorded {
  readonly client: TtrpcClient;
  readonly call: (name: MethodName, request: object) => Promise<MessageShape<DescMessage>>;
  /** The status of a call; OK if it did not fail. */
  readonly status: (name: MethodName, request: object) => Promise<{ readonly code: number; readonly message: string }>;
}

const methodOf = (name: MethodName): DescMethodUnary => AgentService.method[name];

/** The real gate and the real methods, with something recorded behind them. */
async function withGate(policy: string, use: (setup: Setup) => Promise<void>, profile = "aks"): Promise<void> {
  await inTemporaryDirectory(async (path) => {
    const root = `${path}/guest`;
    mkdirSync(`${root}/shared/containers/volume`, { recursive: true });
    const behind = recorded(root);
    await serving(policy, behind, use, profile);
  });
}

async function serving(policy: string, behind: Recorded, use: (setup: Setup) => Promise<void>, profileName: string): Promise<void> {
  const profile = PROFILES.get(profileName);
  if (profile === undefined) throw new Error("no profile");
  const logger: Logger = { log: () => undefined };
  const gate = new Gate(profile, new PolicyEngine({ name: "test", text: policy }, profile.rego), logger);
  const methods = agentMethods(behind.sandbox, guestPaths(behind.root).shared, behind.setPolicy, behind.machine);
  const [near, far] = memoryStreams();
  const served = serveTtrpc(far, agentServices(gate, methods));
  const client = new TtrpcClient(near);
  const call: Setup["call"] = (name, request) => client.unary(methodOf(name), request as MessageInitShape<DescMessage>);
  try {
    await use({
      ...behind,
      client,
      call,
      async status(name, request) {
        try {
          await call(name, request);
          return { code: STATUS.ok, message: "" };
        } catch (error) {
          if (error instanceof TtrpcError) return error.status;
          throw error;
        }
      },
    });
  } finally {
    client.close();
    await served;
  }
}

/** All there is below a directory, with what files and links hold. */
function tree(path: string): readonly string[] {
  return readdirSync(path, { recursive: true, encoding: "utf8" })
    .sort()
    .map((name) => {
      const stat = lstatSync(`${path}/${name}`);
      return `${name} ${stat.mode.toString(8)} ${stat.isFile() ? readFileSync(`${path}/${name}`, "latin1") : ""}`;
    });
}

/** One row: a request that does something, and what it does once it is allowed. */
interface Row<K extends MethodName> {
  readonly request: (root: string) => MessageInitShape<Methods[K]["input"]>;
  /** Acts, in their order; of the arguments, as many as the row names. None for a method that is left out. */
  readonly acts: readonly Act[];
  /** Fields of the answer. */
  readonly answer?: object;
  /** Files that are there afterwards, below the share root. */
  readonly files?: readonly string[];
  readonly unimplemented?: true;
}

const containerId = CONTAINER;
const own = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
const NOTHING_TO_DO = { request: () => ({}), acts: [] };
const LEFT_OUT = { ...NOTHING_TO_DO, unimplemented: true } as const;

/** The table: the compiler refuses it with a method missing. */
const TABLE: { readonly [K in MethodName]: Row<K> } = {
  createSandbox: { request: () => ({ sandboxId: "s1", hostname: "pod" }), acts: [["sandbox.create", { sandboxId: "s1", hostname: "pod" }]] },
  destroySandbox: { request: () => ({}), acts: [["sandbox.destroy"]] },
  createContainer: { request: () => ({ containerId, OCI: {} }), acts: [["sandbox.createContainer", { containerId }]] },
  startContainer: { request: () => ({ containerId }), acts: [["sandbox.startContainer", containerId]] },
  removeContainer: { request: () => ({ containerId }), acts: [["sandbox.removeContainer", containerId]] },
  execProcess: { request: () => ({ containerId, execId: "e1" }), acts: [["sandbox.exec", { containerId, execId: "e1" }]] },
  signalProcess: { request: () => ({ containerId, signal: 15 }), acts: [["process.signal", 15]] },
  waitProcess: { request: () => ({ containerId }), acts: [["sandbox.wait", containerId, ""]], answer: { status: 3 } },
  updateContainer: { request: () => ({ containerId, resources: { Pids: { Limit: 5n } } }), acts: [["sandbox.update", containerId, { Pids: { Limit: 5n } }]] },
  updateEphemeralMounts: { request: () => ({ storages: [{ driver: "ephemeral" }] }), acts: [["sandbox.updateEphemeral", [{ driver: "ephemeral" }]]] },
  statsContainer: {
    request: () => ({ containerId }),
    acts: [["sandbox.stats", containerId]],
    answer: { cgroupStats: { pidsStats: { current: 7n } } },
  },
  pauseContainer: { request: () => ({ containerId }), acts: [["sandbox.pause", containerId]] },
  resumeContainer: { request: () => ({ containerId }), acts: [["sandbox.resume", containerId]] },
  removeStaleVirtiofsShareMounts: NOTHING_TO_DO,
  getDiagnosticData: {
    request: () => ({ containerId, logType: "termination_log" }),
    acts: [["sandbox.terminationMessage", containerId]],
    answer: { data: "bye\u{fffd}" },
  },

  writeStdin: { request: () => ({ containerId, data: encodeUtf8("xyz") }), acts: [["process.write", encodeUtf8("xyz")]], answer: { len: 3 } },
  readStdout: { request: () => ({ containerId, len: 10 }), acts: [["stdout.read", 10]], answer: { data: encodeUtf8("secret") } },
  readStderr: { request: () => ({ containerId, len: 10 }), acts: [["stderr.read", 10]], answer: { data: encodeUtf8("secret") } },
  closeStdin: { request: () => ({ containerId }), acts: [["process.closeStdin"]] },
  ttyWinResize: { request: () => ({ containerId, execId: "e1", row: 24, column: 80 }), acts: [["sandbox.resize", containerId, "e1", 24, 80]] },

  updateInterface: {
    request: () => ({ interface: { name: "eth0", hwAddr: MAC, IPAddresses: [{ address: "10.0.0.2", mask: "24" }] } }),
    acts: [
      ["ip", "-json address show"],
      [
        "ip",
        "-batch -",
        "link set dev eth0 down\naddress flush dev eth0\nlink set dev eth0 arp on\naddress replace 10.0.0.2/24 dev eth0\nlink set dev eth0 up\n",
      ],
    ],
    answer: { name: "eth0", hwAddr: MAC },
  },
  updateRoutes: {
    request: () => ({ routes: { Routes: [{ gateway: "10.0.0.1", device: "eth0" }] } }),
    acts: [
      ["ip", "-4 -batch -", "route replace unicast default via 10.0.0.1 dev eth0 scope 0 proto boot table main\n"],
      ["ip", "-N -json -4 route show table main"],
    ],
    answer: { Routes: [{ gateway: "10.0.0.1" }] },
  },
  listInterfaces: { request: () => ({}), acts: [["ip", "-json address show"]], answer: { Interfaces: [{ name: "lo" }, { name: "eth0" }] } },
  listRoutes: { request: () => ({}), acts: [["ip", "-N -json -4 route show table main"]], answer: { Routes: [{ dest: "", family: IPFamily.v4 }] } },
  addARPNeighbors: {
    request: () => ({ neighbors: { ARPNeighbors: [{ toIPAddress: { address: "10.0.0.9" }, device: "eth0", lladdr: MAC, state: 128 }] } }),
    acts: [["ip", "-batch -", `neighbour replace 10.0.0.9 lladdr ${MAC} dev eth0 nud permanent\n`]],
  },

  getMetrics: { request: () => ({}), acts: [["machine.metrics"]], answer: { metrics: "kata_agent_threads 1\n" } },
  onlineCPUMem: { request: () => ({ nbCpus: 4, wait: true }), acts: [["machine.onlineProcessors", 4]] },
  reseedRandomDev: { request: () => ({ data: Uint8Array.of(1, 2) }), acts: [["machine.mixRandom", Uint8Array.of(1, 2)]] },
  getGuestDetails: {
    request: () => ({ memBlockSize: true }),
    acts: [["machine.memoryBlockSize"]],
    answer: { memBlockSizeBytes: 4096n, agentDetails: { version: "0.1.0" }, supportMemHotplugProbe: false },
  },
  setGuestDateTime: { request: () => ({ Sec: 1_700_000_000n, Usec: 5n }), acts: [["machine.setTime", 1_700_000_000n, 5n]] },
  copyFile: {
    request: (root) => ({ path: `${root}/shared/containers/new/file`, fileMode: 0o100644, dirMode: 0o755, fileSize: 1n, data: encodeUtf8("x"), ...own }),
    acts: [],
    files: ["new 40755 ", "new/file 100644 x"],
  },
  getOOMEvent: { request: () => ({}), acts: [["sandbox.oomEvent"]], answer: { containerId } },
  getVolumeStats: {
    request: (root) => ({ volumeGuestPath: `${root}/shared/containers/volume` }),
    acts: [["machine.volumeStats"]],
    answer: { usage: [{ unit: 1 }, { unit: 2 }], volumeCondition: { abnormal: false, message: "OK" } },
  },
  setPolicy: { request: () => ({ policy: "package agent_policy" }), acts: [["setPolicy", "package agent_policy"]] },

  addSwap: LEFT_OUT,
  addSwapPath: { ...LEFT_OUT, request: () => ({ path: "/dev/x" }) },
  getIPTables: LEFT_OUT,
  memAgentCompactSet: LEFT_OUT,
  memAgentMemcgSet: LEFT_OUT,
  memHotplugByProbe: { ...LEFT_OUT, request: () => ({ memHotplugProbeAddr: [4096n] }) },
  resizeVolume: { ...LEFT_OUT, request: () => ({ volumeGuestPath: "/", size: 1n }) },
  setIPTables: { ...LEFT_OUT, request: () => ({ data: encodeUtf8("*filter\n") }) },
};

/** Methods whose denial is an answer: nothing to read; and the output is thrown away, so that the process is not held up (specs/runtime.md 3.9). */
const SILENT: ReadonlyMap<MethodName, Act> = new Map([
  ["readStdout", ["stdout.discard"]],
  ["readStderr", ["stderr.discard"]],
]);

describe.each(NAMES)("%s", (name) => {
  const { request, acts: expected, answer, files = [], unimplemented }: Row<MethodName> = TABLE[name];
  const rule = methodOf(name).input.name;

  it("denied has no effect", () =>
    withGate(DENY_ALL, async ({ root, acts, call, status }) => {
      const before = tree(root);
      const silent = SILENT.get(name);
      if (silent === undefined) {
        expect(await status(name, request(root))).toEqual({
          code: STATUS.permissionDenied,
          message: expect.stringMatching(new RegExp(`^${rule} is blocked by policy: test:[0-9]+: asked ${rule}$`)) as string,
        });
        expect(acts).toEqual([]);
      } else {
        expect(await call(name, request(root))).toMatchObject({ data: new Uint8Array(0) });
        expect(acts).toEqual([silent]);
      }
      expect(tree(root)).toEqual(before);
    }));

  it("without a rule has no effect either", () =>
    withGate(NO_ANSWER, async ({ root, acts, call, status }) => {
      const before = tree(root);
      const silent = SILENT.get(name);
      if (silent === undefined) {
        const message = `${rule}: internal error policy check: unexpected eval_query result len 0: the rule is undefined`;
        expect(await status(name, request(root))).toEqual({ code: STATUS.internal, message });
        expect(acts).toEqual([]);
      } else {
        expect(await call(name, request(root))).toMatchObject({ data: new Uint8Array(0) });
        expect(acts).toEqual([silent]);
      }
      expect(tree(root)).toEqual(before);
    }));

  it(unimplemented === true ? "allowed is told to be unimplemented, and has no effect" : "allowed, by its own rule alone, does what it is for", () =>
    withGate(`package agent_policy\n${rule} := true\n`, async ({ root, acts, call, status }) => {
      const before = tree(root);
      if (unimplemented === true) {
        expect(await status(name, request(root))).toEqual({ code: STATUS.unimplemented, message: `${methodOf(name).name} is not implemented` });
      } else {
        expect(await call(name, request(root))).toMatchObject(answer ?? {});
      }
      expect(acts).toHaveLength(expected.length);
      for (const [i, act] of expected.entries()) expect(acts[i]?.slice(0, act.length)).toMatchObject(act);
      const after = tree(root).filter((entry) => !before.includes(entry));
      expect(after).toEqual(files.map((entry) => `shared/containers/${entry}`));
    }),
  );

  it.each([...PROFILES.keys()])("shows the policy every field of the request, profile %s", (profile) =>
    withGate(
      `package agent_policy\ndefault ${rule} := false\n${rule} { print("input", json.marshal(input)); false }\n`,
      async ({ root, status }) => {
        if (SILENT.has(name)) return;
        const { message } = await status(name, request(root));
        expect(message).toMatch(new RegExp(`^${rule} is blocked by policy: test:[0-9]+: input \\{.*\\}$`));
        const input = JSON.parse(message.slice(message.indexOf("{"))) as Record<string, unknown>;
        const fields = methodOf(name).input.fields.map((field) => (field.name === "type" ? "type_" : field.name));
        expect(Object.keys(input).sort()).toEqual([...(SPECIAL_INPUTS[profile]?.[name] ?? fields)].sort());
      },
      profile,
    ),
  );
});

/** Inputs that are not simply the request (specs/runtime.md 3.5). */
const COPIED = ["path", "file_size", "file_mode", "dir_mode", "uid", "gid", "offset"];
const SPECIAL_INPUTS: Readonly<Record<string, Partial<Record<MethodName, readonly string[]>>>> = {
  aks: { createContainer: ["base", "env_map"], copyFile: [...COPIED, "symlink_src"] },
  coco: { copyFile: [...COPIED, "file_type", "symlink_target"] },
};

describe("Health", () => {
  it.each([
    ["denies everything", DENY_ALL],
    ["has no rules", NO_ANSWER],
    ["is the first one", DEFAULT_POLICY],
    ["denies Health by name", "package agent_policy\nCheckRequest := false\n"],
  ])("is never asked of a policy that %s", (_what, policy) =>
    withGate(policy, async ({ client, acts }) => {
      expect((await client.unary(Health.method.check, { service: "x".repeat(1000) })).status).toBe(1);
      expect(await client.unary(Health.method.version, {})).toMatchObject({ grpcVersion: "0.0.1", agentVersion: "0.1.0" });
      expect(acts).toEqual([]);
    }),
  );
});

it("bytes that are no message are refused, or decided like one", () => {
  const profile = PROFILES.get("aks");
  if (profile === undefined) throw new Error("no profile");
  const behind = recorded("/nowhere");
  const gate = new Gate(profile, new PolicyEngine({ name: "test", text: DENY_ALL }, profile.rego), { log: () => undefined });
  const [, service] = agentServices(gate, agentMethods(behind.sandbox, "/nowhere", behind.setPolicy, behind.machine));
  const context = { service: AgentService.typeName, method: "", metadata: new Map(), signal: new AbortController().signal };
  return fc.assert(
    fc.asyncProperty(fc.constantFrom(...AgentService.methods), fc.uint8Array({ maxLength: 300 }), async ({ name, localName }, bytes) => {
      const expected = SILENT.has(localName as MethodName) ? [STATUS.ok, STATUS.invalidArgument] : [STATUS.permissionDenied, STATUS.invalidArgument];
      expect(expected).toContain(await codeOf(async () => service?.invoke(name, bytes, context)));
      expect(behind.acts.filter(([what]) => !what.endsWith(".discard"))).toEqual([]);
    }),
    { numRuns: 1000 },
  );
});

async function codeOf(call: () => Promise<unknown>): Promise<number> {
  try {
    await call();
    return STATUS.ok;
  } catch (error) {
    if (error instanceof TtrpcError) return error.status.code;
    throw error;
  }
}

describe("hostile ids", () => {
  const withIds = NAMES.flatMap((name) =>
    methodOf(name)
      .input.fields.filter((field) => field.name.endsWith("_id"))
      .map((field) => [name, field.localName] as const),
  );
  const RESERVED = ["namespace", "shared"];
  const HOSTILE = [
    "..",
    "a/b",
    "../../x",
    "a b",
    "a\nb",
    "a\0b",
    "-a",
    ".a",
    "a~1b",
    "\u{202e}a",
    "x".repeat(129),
    "x".repeat(1_000_000),
    "namespace",
    "shared",
  ];

  it.each(withIds)("%s refuses them in %s, before the policy sees them", (name, field) =>
    withGate(DENY_ALL, async ({ root, acts, status }) => {
      for (const id of field === "sandboxId" ? HOSTILE.filter((text) => !RESERVED.includes(text)) : HOSTILE) {
        const { code, message } = await status(name, { ...TABLE[name].request(root), [field]: id });
        expect(code, JSON.stringify(id.slice(0, 20))).toBe(STATUS.invalidArgument);
        expect(message.length).toBeLessThan(1000);
      }
      expect(acts).toEqual([]);
    }),
  );
});

describe("requests that the policy allows and the agent does not", () => {
  it.each<[MethodName, string, object, number]>([
    ["updateInterface", "without an interface", {}, STATUS.invalidArgument],
    ["updateInterface", "of lo", { interface: { name: "lo", hwAddr: MAC } }, STATUS.invalidArgument],
    ["updateInterface", "that is not there", { interface: { name: "eth9", hwAddr: "02:00:00:00:00:77" } }, STATUS.failedPrecondition],
    ["updateRoutes", "with words in it", { routes: { Routes: [{ dest: "0.0.0.0/0 dev lo", device: "eth0" }] } }, STATUS.invalidArgument],
    ["addARPNeighbors", "without address", { neighbors: { ARPNeighbors: [{ device: "eth0" }] } }, STATUS.invalidArgument],
    ["reseedRandomDev", "with nothing", {}, STATUS.invalidArgument],
    ["setGuestDateTime", "before 1970", { Sec: -1n }, STATUS.invalidArgument],
    ["setGuestDateTime", "after 9999", { Sec: 253_402_300_800n }, STATUS.invalidArgument],
    ["setGuestDateTime", "with a million microseconds", { Sec: 1n, Usec: 1_000_000n }, STATUS.invalidArgument],
    ["setGuestDateTime", "with microseconds below zero", { Sec: 1n, Usec: -1n }, STATUS.invalidArgument],
    ["getDiagnosticData", "of another log", { containerId, logType: "kernel" }, STATUS.invalidArgument],
    ["readStdout", "of no bytes", { containerId, len: 0 }, STATUS.invalidArgument],
  ])("%s %s", (name, _what, request, code) =>
    withGate(allowAll(), async ({ acts, status }) => {
      expect((await status(name, request)).code).toBe(code);
      expect(acts.filter(([what, args]) => what !== "ip" || String(args).includes("-batch"))).toEqual([]);
    }),
  );

  it("leaves nothing of routes of which one is bad", () =>
    withGate(allowAll(), async ({ acts, status }) => {
      const good = { gateway: "10.0.0.1", device: "eth0" };
      expect((await status("updateRoutes", { routes: { Routes: [good, { ...good, gateway: "x" }] } })).code).toBe(STATUS.invalidArgument);
      expect(acts).toEqual([]);
    }));
});

/** The engine prints a mebibyte of characters at most, ttRPC cuts a status at 256 KiB: what is left always fits into a frame. */
describe("a policy that prints everything", () => {
  it.each([1000, 100_000, 1_500_000])("answers %i bytes with a denial that arrives", (length) =>
    withGate(`package agent_policy\ndefault WriteStreamRequest := false\nWriteStreamRequest { print("came:", input); false }\n`, async ({ status, acts }) => {
      const { code, message } = await status("writeStdin", { containerId, data: new Uint8Array(length).fill(200) });
      expect(code).toBe(STATUS.permissionDenied);
      expect(message).toMatch(/^WriteStreamRequest is blocked by policy: /);
      expect(message).toMatch(length < 1_000_000 ? /came: \{.*200, 200/ : /prints left out/);
      expect(Buffer.byteLength(message)).toBeLessThan(257 * 1024);
      expect(acts).toEqual([]);
    }),
  );
});
