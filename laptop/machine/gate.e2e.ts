import { readFileSync } from "node:fs";
import { decodeUtf8, encodeUtf8, toHex } from "@sealpod/core";
import { systemRandom } from "@sealpod/io";
import { AgentService, type DescMessage, type DescMethodUnary, Health, type MessageInitShape, type MessageShape } from "@sealpod/proto";
import { type Container, type ContainerLayer, SANDBOX_SHM, SHARED_CONTAINERS } from "@sealpod/sandbox";
import { STATUS, TtrpcClient, TtrpcError } from "@sealpod/ttrpc";
import type { Machine, VmmDriver } from "@sealpod/vmm";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { GUEST_PROC, GUEST_ROOT, GuestShell } from "./testdata/guest-shell.ts";
import { ALLOW_ALL, fileItem, linkItem, noVm, openVmWorld, skippedVm, VM_TIMEOUT, type VmSandbox, type VmWorld } from "./test-support.ts";

/**
 * Every request of the API in a real machine: refused before there is a policy, refused by the policy, allowed by the policy. What it would do is looked for
 * in the guest by a shell that was started before, and the same request, once allowed, does it: so that nothing is refused for another reason.
 */

type Methods = typeof AgentService.method;
type MethodName = keyof Methods;

const NAMES = AgentService.methods.map(({ localName }) => localName as MethodName);
const RULES = [...new Set(AgentService.methods.map(({ input }) => input.name))];

const newId = (): string => toHex(systemRandom.bytes(32));
/** The sandbox and its first container, which has the shell. */
const SHELL = newId();
/** A container that runs, and to which everything happens. */
const TARGET = newId();
/** One that is made and not started. */
const WAITING = newId();
/** One that is paused. */
const PAUSED = newId();
/** One that the host would like to have. */
const WANTED = newId();
const INTERFACE = "02:00:00:00:00:99";

/** None of these is for the console of the machine, which its host reads. */
const SECRETS = {
  policy: "secret-of-the-policy",
  variable: "secret-of-the-environment",
  argument: "secret-of-the-arguments",
  output: "secret-of-the-output",
  input: "secret-of-the-input",
  file: "secret-of-a-file",
  printed: "secret-that-the-policy-prints",
} as const;

const CLOSE = ": close the gate";
const OPEN = ": open the gate";

/** Lets everything pass until the shell gets one line, and nothing from then on until it gets another: but what the shell needs. */
const POLICY = `package agent_policy

# ${SECRETS.policy}

closed { data.pstate.closed }

command(line) { input.container_id == "${SHELL}"; contains(json.marshal(input.data), line) }

${RULES.filter((rule) => rule !== "ReadStreamRequest" && rule !== "WriteStreamRequest")
  .map((rule) => `default ${rule} := false\n${rule} { not closed }\n${rule} { closed; print("${SECRETS.printed}", input); false }\n`)
  .join("")}
default ReadStreamRequest := false
ReadStreamRequest { not closed }
ReadStreamRequest { closed; input.container_id == "${SHELL}" }

default WriteStreamRequest := false
WriteStreamRequest := {"allowed": true, "ops": [{"op": "add", "path": "/pstate/closed", "value": true}]} { command("${bytesOf(CLOSE)}") }
WriteStreamRequest := {"allowed": true, "ops": [{"op": "remove", "path": "/pstate/closed"}]} { closed; command("${bytesOf(OPEN)}") }
WriteStreamRequest { not command("${bytesOf(CLOSE)}"); not command("${bytesOf(OPEN)}"); input.container_id == "${SHELL}" }
WriteStreamRequest { not closed; input.container_id != "${SHELL}" }
WriteStreamRequest { closed; input.container_id != "${SHELL}"; print("${SECRETS.printed}", input); false }
`;

/** As a list of numbers, which is how policies see bytes. */
function bytesOf(text: string): string {
  return encodeUtf8(text).join(",");
}

/** Processes of the target: a number that nothing else has in its command line. */
const PROCESS = { victim: "31337", terminal: "44441", executed: "22222", waiting: "55551" } as const;
/** Files with it in the name of a process, without the search itself. */
const processes = (number: string): string => `grep -l ${number.slice(0, -1)}[${number.slice(-1)}] ${GUEST_PROC}/[0-9]*/cmdline 2>/dev/null`;
const sleep = (number: string): readonly string[] => ["/bin/busybox", "sleep", number];
const processOf = (args: readonly string[], terminal = false): object => ({ Args: [...args], Cwd: "/", User: {}, Env: [], Terminal: terminal });

/** Logs what it gets. */
const TARGET_SCRIPT = `echo ${SECRETS.output}; while read -r line; do echo "$line" >> /log; done; echo end >> /log; exec /bin/busybox sleep 100000`;
const LOG = `cat ${GUEST_ROOT}${SHARED_CONTAINERS}/${TARGET}/log 2>/dev/null`;
const group = (id: string, file: string): string => `cat ${GUEST_ROOT}/sys/fs/cgroup/sealpod/${id}/${file}`;
const containers = (name: string): string => `ls ${GUEST_ROOT}${SHARED_CONTAINERS} | grep -c ${name}`;

/** One row: a request that does something. */
interface Row<K extends MethodName> {
  readonly request: () => MessageInitShape<Methods[K]["input"]>;
  /** The request as the host's own code makes it. */
  readonly call?: (pod: Pod) => Promise<unknown>;
  /** Command of the shell that shows what the request does: it then writes something else. */
  readonly effect?: string;
  /** Status once it is allowed. Default OK; undefined: it waits. */
  readonly allowed?: number | undefined;
  /** Part of the answer once it is allowed. */
  readonly answer?: object;
}

/** The machine under test. */
interface Pod {
  readonly machine: VmSandbox;
  readonly shell: GuestShell;
  readonly layers: readonly ContainerLayer[];
  readonly client: TtrpcClient;
}

const containerId = TARGET;
const UNIMPLEMENTED = { request: () => ({}), allowed: STATUS.unimplemented };

/** The table, in the order in which requests are allowed in the end. The compiler refuses it with a method missing. */
const TABLE: { readonly [K in MethodName]: Row<K> } = {
  createSandbox: { request: () => ({ sandboxId: "other", hostname: "intruder" }), effect: "hostname", allowed: STATUS.failedPrecondition },
  setPolicy: { request: () => ({ policy: ALLOW_ALL }), allowed: STATUS.invalidArgument },
  createContainer: {
    request: () => ({ containerId: WANTED, execId: WANTED, OCI: { Process: processOf(sleep("1")), Root: { Path: "/" }, Linux: {} } }),
    call: async ({ machine, layers }) => createContainer(machine, WANTED, layers, sleep("1")),
    effect: containers(WANTED),
  },
  startContainer: { request: () => ({ containerId: WAITING }), effect: processes(PROCESS.waiting) },
  removeContainer: { request: () => ({ containerId: WAITING }), effect: containers(WAITING) },
  execProcess: {
    request: () => ({ containerId, execId: "executed", process: processOf(sleep(PROCESS.executed)) }),
    effect: processes(PROCESS.executed),
  },
  signalProcess: { request: () => ({ containerId, execId: "victim", signal: 9 }), effect: processes(PROCESS.victim) },
  waitProcess: { request: () => ({ containerId, execId: "victim" }), answer: { status: 137 } },
  updateContainer: { request: () => ({ containerId, resources: { Pids: { Limit: 77n } } }), effect: group(TARGET, "c/pids.max") },
  updateEphemeralMounts: {
    request: () => ({ storages: [{ driver: "ephemeral", fstype: "tmpfs", source: "tmpfs", options: ["remount", "size=1048576"], mountPoint: SANDBOX_SHM }] }),
    effect: `grep ${SANDBOX_SHM} ${GUEST_PROC}/1/mounts`,
  },
  statsContainer: { request: () => ({ containerId }), answer: { cgroupStats: { pidsStats: { limit: 77n } } } },
  removeStaleVirtiofsShareMounts: { request: () => ({}) },
  getDiagnosticData: { request: () => ({ containerId, logType: "termination_log" }) },
  writeStdin: { request: () => ({ containerId, data: encodeUtf8(`${SECRETS.input}\n`) }), effect: LOG },
  readStdout: { request: () => ({ containerId, execId: "quiet", len: 100 }), allowed: undefined },
  readStderr: { request: () => ({ containerId, execId: "quiet", len: 100 }), allowed: undefined },
  closeStdin: { request: () => ({ containerId }), effect: LOG },
  ttyWinResize: {
    request: () => ({ containerId, execId: "terminal", row: 33, column: 99 }),
    effect: `stty size < $(dirname $(${processes(PROCESS.terminal)}))/fd/0`,
  },
  pauseContainer: { request: () => ({ containerId }), effect: group(TARGET, "cgroup.freeze") },
  resumeContainer: { request: () => ({ containerId: PAUSED }), effect: group(PAUSED, "cgroup.freeze") },
  copyFile: {
    request: () => ({
      path: `${SHARED_CONTAINERS}/copied`,
      fileMode: 0o100644,
      dirMode: 0o755,
      fileSize: BigInt(SECRETS.file.length),
      data: encodeUtf8(SECRETS.file),
    }),
    effect: containers("copied"),
  },
  addARPNeighbors: {
    request: () => ({ neighbors: { ARPNeighbors: [{ toIPAddress: { address: "10.0.2.99" }, device: "eth0", lladdr: INTERFACE, state: 128 }] } }),
    effect: `grep -c ${INTERFACE} /proc/net/arp`,
  },
  updateRoutes: {
    request: () => ({ routes: { Routes: [{ dest: "10.77.0.0/16", gateway: "10.0.2.2", device: "eth0" }] } }),
    effect: "ip route | grep -c 10.77.0.0",
  },
  updateInterface: {
    request: () => ({ interface: { name: "eth0", hwAddr: "52:54:00:5e:a1:0d", IPAddresses: [{ address: "10.9.9.9", mask: "24" }] } }),
    effect: "ip address show dev eth0 | grep -c 10.9.9.9",
  },
  listInterfaces: { request: () => ({}), answer: { Interfaces: [{ name: "lo" }, { name: "eth0" }] } },
  listRoutes: { request: () => ({}) },
  getMetrics: { request: () => ({}), answer: { metrics: expect.stringContaining("kata_agent") as string } },
  onlineCPUMem: { request: () => ({ nbCpus: 1, wait: true }) },
  reseedRandomDev: { request: () => ({ data: Uint8Array.of(1, 2, 3) }) },
  getGuestDetails: { request: () => ({ memBlockSize: true }), answer: { agentDetails: { version: "0.1.0" } } },
  getOOMEvent: { request: () => ({}), allowed: undefined },
  getVolumeStats: { request: () => ({ volumeGuestPath: `${SHARED_CONTAINERS}/${TARGET}` }) },
  setGuestDateTime: { request: () => ({ Sec: 4_102_444_800n, Usec: 0n }), effect: "date +%Y" },

  addSwap: UNIMPLEMENTED,
  addSwapPath: { ...UNIMPLEMENTED, request: () => ({ path: "/dev/vda" }) },
  getIPTables: UNIMPLEMENTED,
  memAgentCompactSet: UNIMPLEMENTED,
  memAgentMemcgSet: UNIMPLEMENTED,
  memHotplugByProbe: { ...UNIMPLEMENTED, request: () => ({ memHotplugProbeAddr: [4096n] }) },
  resizeVolume: { ...UNIMPLEMENTED, request: () => ({ volumeGuestPath: "/", size: 1n }) },
  setIPTables: { ...UNIMPLEMENTED, request: () => ({ data: encodeUtf8("*filter\n") }) },

  destroySandbox: { request: () => ({}), effect: containers(TARGET) },
};

const ORDER = Object.keys(TABLE) as readonly MethodName[];

/** Denied, they give success and nothing (specs/runtime.md 3.9). */
const SILENT: ReadonlySet<MethodName> = new Set(["readStdout", "readStderr"]);

/** How a call ended. */
interface Answer {
  readonly code: number;
  readonly message: string;
  readonly body?: MessageShape<DescMessage>;
}

const methodOf = (name: MethodName): DescMethodUnary => AgentService.method[name];
const rowOf = (name: MethodName): Row<MethodName> => TABLE[name];

async function send(client: TtrpcClient, name: MethodName, request: object = rowOf(name).request()): Promise<Answer> {
  try {
    return { code: STATUS.ok, message: "", body: await client.unary(methodOf(name), request as MessageInitShape<DescMessage>) };
  } catch (error) {
    if (error instanceof TtrpcError) return error.status;
    throw error;
  }
}

/** What a read gave; undefined if it failed. */
function dataOf(answer: Answer | undefined): string | undefined {
  const data = (answer?.body as { readonly data?: Uint8Array } | undefined)?.data;
  return data && decodeUtf8(data);
}

/** As {@link send}, by the host's own code where the table says so. */
async function sendFull(pod: Pod, name: MethodName): Promise<Answer> {
  const { call } = rowOf(name);
  if (call === undefined) return send(pod.client, name);
  try {
    await call(pod);
    return { code: STATUS.ok, message: "" };
  } catch (error) {
    if (error instanceof Error && error.cause instanceof TtrpcError) return error.cause.status;
    throw error;
  }
}

async function createContainer(pod: VmSandbox, id: string, layers: readonly ContainerLayer[], args: readonly string[]): Promise<Container> {
  return pod.sandbox.createContainer({
    id,
    bundle: `/run/containerd/${id}`,
    layers,
    spec: {
      ociVersion: "1.1.0",
      process: { user: { uid: 0, gid: 0 }, args, env: [`SECRET=${SECRETS.variable}`], cwd: "/" },
      root: { path: "rootfs" },
      mounts: [
        { destination: "/proc", type: "proc", source: "proc", options: [] },
        { destination: "/dev", type: "tmpfs", source: "tmpfs", options: [] },
        { destination: "/dev/pts", type: "devpts", source: "devpts", options: ["newinstance", "ptmxmode=0666"] },
      ],
      linux: { resources: {}, namespaces: [{ type: "mount" }] },
    },
  });
}

it("the table has all 42 methods", () => {
  expect([...ORDER].sort()).toEqual([...NAMES].sort());
  expect([NAMES.length, RULES.length]).toEqual([42, 41]);
});

describe.skipIf(noVm !== undefined)(`the agent of a utility VM and its policy${skippedVm}`, { timeout: VM_TIMEOUT }, () => {
  let world: VmWorld;
  let pod: Pod;
  /** Answers of an agent that has no policy yet. */
  const early = new Map<string, Answer>();

  const before = async (machine: Machine): Promise<void> => {
    const client = new TtrpcClient(await machine.connectAgent());
    for (const name of ORDER) if (name !== "setPolicy") early.set(name, await send(client, name));
    for (const [key, policy] of Object.entries({ other: ALLOW_ALL, longer: `${POLICY}\n`, empty: "", broken: "package agent_policy\n}" })) {
      early.set(`setPolicy ${key}`, await send(client, "setPolicy", { policy }));
    }
    early.set("health", { code: (await client.unary(Health.method.check, {})).status, message: "" });
    client.close();
  };

  beforeAll(async () => {
    world = await openVmWorld();
    const inner = world.machine.driver;
    const driver: VmmDriver = {
      name: inner.name,
      isolation: inner.isolation,
      probe: async () => inner.probe(),
      async start(config) {
        const machine = await inner.start(config);
        try {
          await before(machine);
        } catch (error) {
          await machine.stop();
          throw error;
        }
        return machine;
      },
    };
    const layers = [await world.layer([fileItem("bin/busybox", readFileSync("/usr/bin/busybox")), linkItem("bin/sh", "busybox")])];
    const machine = await world.boot({ id: SHELL, policy: POLICY, driver });
    const shell = await GuestShell.start(machine, layers);
    const client = new TtrpcClient(await machine.sandbox.machine.connectAgent());
    pod = { machine, shell, layers, client };

    await createContainer(machine, TARGET, layers, ["/bin/sh", "-c", TARGET_SCRIPT, SECRETS.argument]);
    await createContainer(machine, WAITING, layers, sleep(PROCESS.waiting));
    await createContainer(machine, PAUSED, layers, sleep("100001"));
    const must = async (name: MethodName, request: object): Promise<Answer> => {
      const answer = await send(client, name, request);
      if (answer.code !== STATUS.ok) throw new Error(`${name}: ${answer.message}`);
      return answer;
    };
    await must("startContainer", { containerId: TARGET });
    await must("startContainer", { containerId: PAUSED });
    await must("pauseContainer", { containerId: PAUSED });
    await must("execProcess", { containerId, execId: "victim", process: processOf(sleep(PROCESS.victim)) });
    await must("execProcess", { containerId, execId: "terminal", process: processOf(sleep(PROCESS.terminal), true) });
    for (const execId of ["loud", "quiet"]) {
      await must("execProcess", {
        containerId,
        execId,
        process: processOf(["/bin/sh", "-c", `echo ${SECRETS.output}; echo ${SECRETS.output} >&2; exec busybox sleep 100002`]),
      });
    }
  }, VM_TIMEOUT);

  afterAll(async () => {
    await world[Symbol.asyncDispose]();
  });

  it("before SetPolicy refuses everything else", () => {
    for (const name of ORDER) {
      if (name === "setPolicy") continue;
      const answer = early.get(name);
      if (SILENT.has(name)) expect(dataOf(answer), name).toBe("");
      else {
        const message = `${methodOf(name).input.name}: internal error policy check: unexpected eval_query result len 0: the rule is undefined`;
        expect(answer, name).toEqual({ code: STATUS.internal, message });
      }
    }
    expect(early.get("health")).toEqual({ code: 1, message: "" });
  });

  it("takes no policy but that of HOST_DATA", () => {
    for (const key of ["other", "longer", "empty", "broken"]) {
      expect(early.get(`setPolicy ${key}`), key).toEqual({
        code: STATUS.invalidArgument,
        message: expect.stringMatching(/^the policy's SHA-256 is [0-9a-f]{64}, but HOST_DATA of this machine is [0-9a-f]{64}$/) as string,
      });
    }
  });

  it("did none of what it was asked for before", async () => {
    expect(await pod.shell.ask("hostname")).toBe("pod");
    expect(Number(await pod.shell.ask("date +%Y"))).toBeLessThan(2100);
    for (const name of ["copyFile", "addARPNeighbors", "updateRoutes", "updateInterface", "createContainer"] as const) {
      expect(await pod.shell.ask(TABLE[name].effect ?? ""), name).toBe("0");
    }
  });

  it("refuses each of its methods when the policy says no, and does nothing of it", async () => {
    const { shell, client } = pod;
    // What is silent when denied speaks when it may.
    for (const name of ["readStdout", "readStderr"] as const) {
      expect(dataOf(await send(client, name, { containerId, execId: "loud", len: 100 })), name).toBe(`${SECRETS.output}\n`);
    }
    await shell.ask(CLOSE);
    const states = new Map<string, string>();
    for (const name of ORDER) {
      const { effect = "true" } = rowOf(name);
      const state = await shell.ask(effect);
      states.set(effect, state);
      const answer = await sendFull(pod, name);
      if (SILENT.has(name)) expect(dataOf(answer), name).toBe("");
      else {
        const message = expect.stringMatching(new RegExp(`^${methodOf(name).input.name} is blocked by policy: .*${SECRETS.printed}`)) as string;
        expect(answer, name).toEqual({ code: STATUS.permissionDenied, message });
      }
      expect(await shell.ask(effect), name).toBe(state);
    }
    // Once more: some of it would have taken a moment to show.
    for (const [effect, state] of states) expect(await shell.ask(effect), effect).toBe(state);
    // Nor did SetPolicy: the policy still says no.
    expect(await send(client, "getGuestDetails")).toMatchObject({ code: STATUS.permissionDenied });
    await shell.ask(OPEN);
  });

  it("keeps its console free of what pods and policies say", () => {
    const text = pod.machine.console();
    expect(text).toContain("request failed");
    for (const [what, secret] of Object.entries(SECRETS)) expect(text, what).not.toContain(secret);
    expect(text).not.toContain("package agent_policy");
  });

  it("does all of it when the policy says yes", async () => {
    const { shell, client } = pod;
    const waiting: Promise<unknown>[] = [];
    for (const name of ORDER) {
      const row = rowOf(name);
      if ("allowed" in row && row.allowed === undefined) {
        waiting.push(send(client, name).catch(() => undefined));
        continue;
      }
      if (name === "destroySandbox") continue;
      const { effect, allowed = STATUS.ok, answer = {} } = row;
      const state = effect === undefined ? "" : await shell.ask(effect);
      const found = await sendFull(pod, name);
      expect(found, `${name}: ${found.message}`).toMatchObject({ code: allowed });
      if (found.code !== STATUS.ok) continue;
      if (found.body !== undefined) expect(found.body, name).toMatchObject(answer);
      if (effect !== undefined) expect(await shell.changed(effect, state), name).not.toBe(state);
    }
    expect(await shell.ask(`cat ${GUEST_ROOT}${SHARED_CONTAINERS}/copied`)).toBe(SECRETS.file);
    // What the policy allows is still not another policy; and the same one again begins with an empty state.
    expect(await send(client, "setPolicy", { policy: POLICY })).toMatchObject({ code: STATUS.ok });
    expect(await send(client, "destroySandbox")).toMatchObject({ code: STATUS.ok });
    await Promise.all(waiting);
    client.close();
    await pod.machine.sandbox.destroy();
    expect(await pod.machine.sandbox.exited).toMatchObject({ kind: "stopped" });
    for (const [what, secret] of Object.entries(SECRETS)) expect(pod.machine.console(), what).not.toContain(secret);
  });
});
