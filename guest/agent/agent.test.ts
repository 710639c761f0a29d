import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { encodeUtf8, sha256, toHex, type JsonValue, type LogFields, type Logger } from "@sealpod/core";
import {
  AgentService,
  create,
  Health,
  isMessage,
  type DescMessage,
  type DescMethodUnary,
  type MessageInitShape,
  type MessageShape,
  SetPolicyRequestSchema,
  type Storage,
  StorageSchema,
} from "@sealpod/proto";
import { memoryStreams, serveTtrpc, STATUS, TtrpcClient, TtrpcError } from "@sealpod/ttrpc";
import { describe, expect, it } from "vitest";
import { createAgent, DEFAULT_POLICY, directoryDevices, PROFILES } from "./index.ts";
import { ownHostData } from "./reports.ts";
import { allowAll, errorOf, FakeRuntime, FakeSystem, inTemporaryDirectory, NO_LIMITS, rootStorages, serveReports } from "./test-support.ts";

const CONTAINER = "c".repeat(64);

/** All methods; the API has no streaming ones. */
const METHODS = AgentService.methods as readonly DescMethodUnary[];

/** A policy that denies everything, with a reason. */
const DENY_ALL = `package agent_policy\n\n${[...new Set(AgentService.methods.map(({ input }) => input.name))]
  .map((rule) => `default ${rule} := false\n\n${rule} { print("asked:", "${rule}"); false }\n`)
  .join("\n")}`;

interface Setup {
  readonly root: string;
  readonly guestInfo: string;
  readonly system: FakeSystem;
  readonly runtime: FakeRuntime;
  readonly log: { readonly message: string; readonly fields: LogFields | undefined }[];
  readonly agent: ReturnType<typeof createAgent>;
  readonly client: TtrpcClient;
  readonly call: <I extends DescMessage, O extends DescMessage>(method: DescMethodUnary<I, O>, request: MessageInitShape<I>) => Promise<MessageShape<O>>;
  /** The status of a call that must fail. */
  readonly status: (method: DescMethodUnary, request: object) => Promise<{ readonly code: number; readonly message: string }>;
  /** CreateSandbox, and CreateContainer with a root of one layer. */
  readonly container: (id?: string) => Promise<void>;
}

/** An agent served over streams in memory. */
async function withAgent(policy: string, use: (setup: Setup) => Promise<void>): Promise<void> {
  await inTemporaryDirectory(async (path) => {
    const root = `${path}/guest`;
    const guestInfo = `${path}/info`;
    for (const directory of [guestInfo, `${path}/devices`]) mkdirSync(directory);
    const system = new FakeSystem();
    const runtime = new FakeRuntime();
    const log: Setup["log"] = [];
    const logger: Logger = { log: (_level, message, fields) => void log.push({ message, fields }) };
    const profile = PROFILES.get("aks");
    if (profile === undefined) throw new Error("no profile");
    const agent = createAgent({
      profile,
      defaultPolicy: { name: "test", text: policy },
      root,
      place: "process",
      disks: directoryDevices(`${path}/devices`),
      guestInfo,
      hostData: ownHostData("directory", guestInfo),
      system,
      runtime: () => runtime,
      limits: NO_LIMITS,
      logger,
    });
    const [near, far] = memoryStreams();
    const served = serveTtrpc(far, agent.services);
    const client = new TtrpcClient(near);
    const call: Setup["call"] = (method, request) => client.unary(method, request);
    try {
      await use({
        root,
        guestInfo,
        system,
        runtime,
        log,
        agent,
        client,
        call,
        async status(method, request) {
          try {
            await client.unary(method, request as MessageInitShape<DescMessage>);
          } catch (error) {
            if (error instanceof TtrpcError) return error.status;
            throw error;
          }
          throw new Error(`${method.name} did not fail`);
        },
        async container(id = CONTAINER) {
          if (!existsSync(root)) await call(AgentService.method.createSandbox, { sandboxId: "s1" });
          await call(AgentService.method.createContainer, containerRequest(root, id));
        },
      });
    } finally {
      client.close();
      await served;
      await agent.close();
    }
  });
}

const processOf = (env: string[] = []) => ({ User: { UID: 0 }, Args: ["/bin/sh"], Env: env, Cwd: "/" });

function containerRequest(root: string, id = CONTAINER, env: string[] = ["A=1", "B=x=y"]): MessageInitShape<typeof AgentService.method.createContainer.input> {
  const path = `${root}/shared/containers/${id}`;
  return {
    containerId: id,
    execId: id,
    storages: rootStorages(root, id),
    OCI: { Process: processOf(env), Root: { Path: path }, Linux: {} },
  };
}

/** A request for each method that would do something, were it allowed. */
function requests(root: string): Readonly<Record<keyof typeof AgentService.method, Record<string, unknown>>> {
  const containerId = CONTAINER;
  const file = {
    path: `${root}/shared/containers/file`,
    fileSize: 1n,
    fileMode: 0o100644,
    dirMode: 0o755,
    data: encodeUtf8("x"),
    uid: process.getuid?.() ?? 0,
    gid: process.getgid?.() ?? 0,
  };
  return {
    addARPNeighbors: {},
    addSwap: {},
    addSwapPath: { path: "/dev/x" },
    closeStdin: { containerId },
    copyFile: file,
    createContainer: containerRequest(root),
    createSandbox: { sandboxId: "s1", hostname: "pod" },
    destroySandbox: {},
    execProcess: { containerId, execId: "e1", process: processOf() },
    getDiagnosticData: { containerId, logType: "termination_log" },
    getGuestDetails: {},
    getIPTables: {},
    getMetrics: {},
    getOOMEvent: {},
    getVolumeStats: { volumeGuestPath: "/" },
    listInterfaces: {},
    listRoutes: {},
    memAgentCompactSet: {},
    memAgentMemcgSet: {},
    memHotplugByProbe: {},
    onlineCPUMem: {},
    pauseContainer: { containerId },
    readStderr: { containerId, len: 1 },
    readStdout: { containerId, len: 1 },
    removeContainer: { containerId },
    removeStaleVirtiofsShareMounts: {},
    reseedRandomDev: {},
    resizeVolume: {},
    resumeContainer: { containerId },
    setGuestDateTime: {},
    setIPTables: {},
    setPolicy: { policy: allowAll() },
    signalProcess: { containerId, signal: 15 },
    startContainer: { containerId },
    statsContainer: { containerId },
    ttyWinResize: { containerId },
    updateContainer: { containerId },
    updateEphemeralMounts: {},
    updateInterface: {},
    updateRoutes: {},
    waitProcess: { containerId },
    writeStdin: { containerId, data: encodeUtf8("x") },
  };
}

/** Methods whose denial is an answer: nothing to read. */
const SILENT: readonly string[] = ["ReadStdout", "ReadStderr"];

describe("the policy gate", () => {
  it("stands before every method of the service: a policy that denies all lets nothing happen", () =>
    withAgent(allowAll(["SetPolicyRequest"], "default SetPolicyRequest := true"), async (setup) => {
      const { root, guestInfo, system, runtime, call } = setup;
      await setup.container();
      const init = runtime.processes.get(CONTAINER);
      init?.stdout.write("secret");
      const reports = serveReports(`${guestInfo}/tsm/report`, sha256(encodeUtf8(DENY_ALL)));
      await call(AgentService.method.setPolicy, { policy: DENY_ALL });
      const before = { mounts: system.mounts.length, created: runtime.created.length, files: readdirSync(root, { recursive: true }) };

      for (const method of METHODS) {
        const request = requests(root)[method.localName as keyof typeof AgentService.method];
        if (SILENT.includes(method.name)) {
          expect(await call(method, request), method.name).toMatchObject({ data: new Uint8Array(0) });
          continue;
        }
        expect(await setup.status(method, request), method.name).toEqual({
          code: STATUS.permissionDenied,
          message: expect.stringMatching(new RegExp(`^${method.input.name} is blocked by policy: agent_policy:[0-9]+: asked: ${method.input.name}$`)) as string,
        });
      }
      reports.close();
      expect({ mounts: system.mounts.length, created: runtime.created.length, files: readdirSync(root, { recursive: true }) }).toEqual(before);
      expect(runtime.started).toEqual([]);
      expect(runtime.removed).toEqual([]);
      expect(runtime.executed).toEqual([]);
      expect(init?.signals).toEqual([]);
      expect(init?.stdin.readableLength).toBe(0);
      expect(system.unmounted).toEqual([]);
    }));

  it("asks under the name of the request message, with the request as input, before each method", () =>
    withAgent(
      `package agent_policy\n\n${[...new Set(AgentService.methods.map(({ input }) => input.name))].map((rule) => `default ${rule} := false\n\n${rule} { print(input); false }\n`).join("\n")}`,
      async ({ root, status, call }) => {
        for (const method of METHODS) {
          const request = requests(root)[method.localName as keyof typeof AgentService.method];
          if (SILENT.includes(method.name)) {
            expect(isMessage(await call(method, request))).toBe(true);
            continue;
          }
          const { message } = await status(method, request);
          const wanted = method.name === "CreateContainer" ? "base" : method.input.fields[0]?.name;
          expect(message, method.name).toMatch(new RegExp(`^${method.input.name} is blocked by policy: test:[0-9]+: .*${wanted ?? "{"}`, "s"));
        }
      },
    ));

  it("answers INTERNAL where the policy has no answer", () =>
    withAgent(
      `package agent_policy
GetMetricsRequest = "yes"
ListRoutesRequest = {"allowed": "yes"}
ListInterfacesRequest = {"allowed": true, "ops": "none"}
UpdateRoutesRequest = 1 { true }
UpdateRoutesRequest = 2 { true }
`,
      async ({ status }) => {
        for (const name of ["getMetrics", "listRoutes", "listInterfaces", "updateRoutes", "createSandbox"] as const) {
          const method = AgentService.method[name];
          const { code, message } = await status(method, { sandboxId: "s1" });
          expect(code, name).toBe(STATUS.internal);
          expect(message).toMatch(new RegExp(`^${method.input.name}: internal error policy check: `));
        }
      },
    ));

  it("refuses ids before the policy sees them", () =>
    withAgent(DENY_ALL, async ({ status }) => {
      for (const containerId of ["namespace", "a/b", "..", ""])
        expect((await status(AgentService.method.startContainer, { containerId })).code).toBe(STATUS.invalidArgument);
    }));

  it("answers UNIMPLEMENTED only to those who may ask", () =>
    withAgent(allowAll(), async ({ status }) => {
      expect(await status(AgentService.method.resizeVolume, {})).toEqual({ code: STATUS.unimplemented, message: "ResizeVolume is not implemented" });
    }));

  it("leaves Health open", () =>
    withAgent(DENY_ALL, async ({ call }) => {
      expect((await call(Health.method.check, {})).status).toBe(1);
      expect(await call(Health.method.version, {})).toMatchObject({ grpcVersion: "0.0.1", agentVersion: "0.1.0" });
    }));

  it("lets failing requests pass only if the policy itself says so", () =>
    withAgent("package agent_policy\nAllowRequestsFailingPolicy := true\ndefault MemHotplugByProbeRequest := false\n", async ({ status, call }) => {
      await call(AgentService.method.onlineCPUMem, {});
      expect((await status(AgentService.method.memHotplugByProbe, {})).code).toBe(STATUS.unimplemented);
    }));

  it("does not take AllowRequestsFailingPolicy for true when it is anything else", () =>
    withAgent('package agent_policy\nAllowRequestsFailingPolicy := "true"\ndefault MemHotplugByProbeRequest := false\n', async ({ status }) => {
      expect((await status(AgentService.method.memHotplugByProbe, {})).code).toBe(STATUS.permissionDenied);
    }));

  it("writes no request and no print into the log", () =>
    withAgent(
      `package agent_policy\nCreateContainerRequest { print(input); false }\ndefault CreateContainerRequest := false\n`,
      async ({ root, status, log }) => {
        expect((await status(AgentService.method.createContainer, containerRequest(root, CONTAINER, ["PASSWORD=hunter2"]))).message).toContain("hunter2");
        expect(JSON.stringify(log)).not.toContain("hunter2");
        expect(log).toContainEqual({ message: "request failed", fields: { method: "CreateContainer", code: "ERR_AGENT_DENIED" } });
      },
    ));
});

describe("policy input of profile aks", () => {
  const printInput = (rule: string): string => `package agent_policy\ndefault ${rule} := false\n${rule} { print(json.marshal(input)); false }\n`;
  const inputOf = (message: string): JsonValue => JSON.parse(message.slice(message.indexOf("{"))) as JsonValue;

  it("wraps CreateContainer and adds the environment by name", () =>
    withAgent(printInput("CreateContainerRequest"), async ({ root, status }) => {
      const { message } = await status(AgentService.method.createContainer, containerRequest(root, CONTAINER, ["A=1", "B=x=y", "EMPTY=", "__proto__=p"]));
      const input = inputOf(message) as { base: { container_id: string; OCI: { Process: { Env: string[] } } }; env_map: object };
      expect(Object.keys(input).sort()).toEqual(["base", "env_map"]);
      expect(input.base.container_id).toBe(CONTAINER);
      expect(input.base.OCI.Process.Env).toHaveLength(4);
      expect(new Map(Object.entries(input.env_map))).toEqual(
        new Map([
          ["A", "1"],
          ["B", "x=y"],
          ["EMPTY", ""],
          ["__proto__", "p"],
        ]),
      );
    }));

  it.each([[["A=1", "A=2"]], [["NOVALUE"]], [["=x"]]])("refuses the environment %j, of which the map would show something else", (env) =>
    withAgent(allowAll(), async ({ root, status }) => {
      expect((await status(AgentService.method.createContainer, containerRequest(root, CONTAINER, env))).code).toBe(STATUS.invalidArgument);
    }),
  );

  it("reduces CopyFile: no data, and the target of a link", () =>
    withAgent(printInput("CopyFileRequest"), async ({ status }) => {
      const file = { path: "/p", fileSize: 3n, dirMode: 0o755, uid: 1, gid: 2, data: encodeUtf8("abc") };
      expect(inputOf((await status(AgentService.method.copyFile, { ...file, fileMode: 0o100644 })).message)).toEqual({
        path: "/p",
        file_size: 3,
        file_mode: 0o100644,
        dir_mode: 0o755,
        uid: 1,
        gid: 2,
        offset: 0,
        symlink_src: "",
      });
      expect(inputOf((await status(AgentService.method.copyFile, { ...file, fileMode: 0o120777 })).message)).toMatchObject({ symlink_src: "abc" });
    }));

  it("refuses a link whose target the policy could not read", () =>
    withAgent(DENY_ALL, async ({ status }) => {
      expect((await status(AgentService.method.copyFile, { path: "/p", fileMode: 0o120777, data: Uint8Array.of(0xff) })).code).toBe(STATUS.invalidArgument);
    }));
});

describe("state of the policy", () => {
  const STATEFUL = `package agent_policy
default OnlineCPUMemRequest := false
OnlineCPUMemRequest := {"allowed": true, "ops": [
  {"op": "add", "path": "/pstate/count", "value": data.pstate.count + 1}]} { data.pstate.count < 2 }
OnlineCPUMemRequest := {"allowed": true, "ops": [{"op": "add", "path": "/pstate/count", "value": 1}]} { not data.pstate.count }
default GetMetricsRequest := {"allowed": true, "ops": [
  {"op": "add", "path": "/pstate/half", "value": true}, {"op": "remove", "path": "/pstate/missing"}]}
default MemHotplugByProbeRequest := false
MemHotplugByProbeRequest { data.pstate.half }
default GetIPTablesRequest := {"allowed": false, "ops": [{"op": "add", "path": "/pstate/half", "value": true}]}
default CreateSandboxRequest := true
default CreateContainerRequest := true
default RemoveContainerRequest := {"allowed": true, "ops": [{"op": "add", "path": "/pstate/half", "value": true}]}
`;

  it("changes with each allowed request", () =>
    withAgent(STATEFUL, async ({ call, status }) => {
      await call(AgentService.method.onlineCPUMem, {});
      await call(AgentService.method.onlineCPUMem, {});
      expect((await status(AgentService.method.onlineCPUMem, {})).code).toBe(STATUS.permissionDenied);
    }));

  it("changes all or not at all: a patch that fails denies the request", () =>
    withAgent(STATEFUL, async ({ status }) => {
      expect(await status(AgentService.method.getMetrics, {})).toEqual({
        code: STATUS.internal,
        message: expect.stringMatching(/^GetMetricsRequest: internal error policy check: its changes of state do not apply: /) as string,
      });
      expect((await status(AgentService.method.memHotplugByProbe, {})).code).toBe(STATUS.permissionDenied);
    }));

  it("does not change for a denied request", () =>
    withAgent(STATEFUL, async ({ status }) => {
      expect((await status(AgentService.method.getIPTables, {})).code).toBe(STATUS.permissionDenied);
      expect((await status(AgentService.method.memHotplugByProbe, {})).code).toBe(STATUS.permissionDenied);
    }));

  it("does not change for the removal of a container that is not there, nor for a second one of an id", () =>
    withAgent(STATEFUL, async (setup) => {
      expect((await setup.status(AgentService.method.removeContainer, { containerId: "unknown" })).code).toBe(STATUS.invalidArgument);
      await setup.container();
      expect((await setup.status(AgentService.method.createContainer, containerRequest(setup.root))).code).toBe(STATUS.alreadyExists);
      expect((await setup.status(AgentService.method.memHotplugByProbe, {})).code).toBe(STATUS.permissionDenied);
      await setup.call(AgentService.method.removeContainer, { containerId: CONTAINER });
      expect((await setup.status(AgentService.method.memHotplugByProbe, {})).code).toBe(STATUS.unimplemented);
    }));
});

describe("SetPolicy", () => {
  const policy = allowAll(["SetPolicyRequest"], "default SetPolicyRequest := false\n");

  it("takes the policy whose SHA-256 is HOST_DATA, once; before it nothing is allowed", () =>
    withAgent(DEFAULT_POLICY, async ({ guestInfo, status, call }) => {
      const reports = serveReports(`${guestInfo}/tsm/report`, sha256(encodeUtf8(policy)));
      expect((await status(AgentService.method.onlineCPUMem, {})).code).toBe(STATUS.internal);
      await call(AgentService.method.setPolicy, { policy });
      await call(AgentService.method.onlineCPUMem, {});
      expect((await status(AgentService.method.setPolicy, { policy })).code).toBe(STATUS.permissionDenied);
      reports.close();
    }));

  it("refuses another one, naming both digests, and the old policy stays", () =>
    withAgent(DEFAULT_POLICY, async ({ guestInfo, status }) => {
      const hostData = sha256(encodeUtf8(policy));
      const reports = serveReports(`${guestInfo}/tsm/report`, hostData);
      const { code, message } = await status(AgentService.method.setPolicy, { policy: `${policy} ` });
      expect(code).toBe(STATUS.invalidArgument);
      expect(message).toContain(toHex(hostData));
      expect(message).toContain(toHex(sha256(encodeUtf8(`${policy} `))));
      expect((await status(AgentService.method.onlineCPUMem, {})).code).toBe(STATUS.internal);
      reports.close();
    }));

  it("refuses text that does not compile, and the old policy stays", () =>
    withAgent(allowAll(), async ({ guestInfo, status, call }) => {
      const bad = "package agent_policy\nallow {";
      const reports = serveReports(`${guestInfo}/tsm/report`, sha256(encodeUtf8(bad)));
      expect((await status(AgentService.method.setPolicy, { policy: bad })).code).toBe(STATUS.invalidArgument);
      await call(AgentService.method.onlineCPUMem, {});
      reports.close();
    }));

  it("refuses everything where there is no report", () =>
    withAgent(DEFAULT_POLICY, async ({ status }) => {
      expect((await status(AgentService.method.setPolicy, { policy })).code).toBe(STATUS.internal);
    }));

  it("held back until another one went through does not reset what that one remembers", () =>
    withAgent(DEFAULT_POLICY, async ({ guestInfo, client }) => {
      const reports = serveReports(`${guestInfo}/tsm/report`, sha256(encodeUtf8(policy)));
      const both = await Promise.allSettled([1, 2].map(() => client.unary(AgentService.method.setPolicy, create(SetPolicyRequestSchema, { policy }))));
      expect(both.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
      reports.close();
    }));

  it("is the only way in: an agent whose own policy does not compile is not made", async () => {
    expect((await errorOf(() => withAgent("package agent_policy\nallow {", () => Promise.resolve()))).code).toBe("ERR_AGENT_POLICY");
  });
});

describe("sandbox and containers, in any order", () => {
  it("makes the sandbox once", () =>
    withAgent(allowAll(), async ({ root, system, call, status }) => {
      await call(AgentService.method.createSandbox, {
        sandboxId: "s1",
        hostname: "pod-1",
        dns: ["nameserver 10.0.0.1", "search x"],
        storages: [{ driver: "ephemeral", source: "shm", fstype: "tmpfs", options: ["mode=1777"], mountPoint: `${root}/sandbox/shm` }],
      });
      expect(system.mounts.map(({ target }) => target)).toEqual([root, `${root}/sandbox/shm`]);
      expect(system.hostname).toBe("pod-1");
      expect(readFileSync(`${root}/sandbox/resolv.conf`, "utf8")).toBe("nameserver 10.0.0.1\nsearch x\n");
      expect((await status(AgentService.method.createSandbox, { sandboxId: "s1" })).code).toBe(STATUS.failedPrecondition);
    }));

  it.each([
    ["kernel modules", { kernelModules: [{ name: "evil" }] }],
    ["guest hooks", { guestHookPath: "/hooks" }],
    ["a host name with a newline", { hostname: "a\nb" }],
  ])("takes no %s from the host", (_what, fields) =>
    withAgent(allowAll(), async ({ root, status }) => {
      expect((await status(AgentService.method.createSandbox, { sandboxId: "s1", ...fields })).code).toBe(STATUS.invalidArgument);
      expect(existsSync(root)).toBe(false);
    }),
  );

  it("can make a sandbox again after it could not, with nothing left of the first try", () =>
    withAgent(allowAll(), async ({ root, system, call, status }) => {
      const shm = { driver: "ephemeral", source: "shm", fstype: "tmpfs", options: [], mountPoint: `${root}/sandbox/shm` };
      const failing = { sandboxId: "s1", storages: [shm, { ...shm, driver: "9p", mountPoint: `${root}/x` }] };
      expect((await status(AgentService.method.createSandbox, failing)).message).toBe("Failed to find the storage handler 9p");
      expect(system.unmounted).toEqual([`${root}/sandbox/shm`, root]);
      await call(AgentService.method.createSandbox, { sandboxId: "s1", storages: [shm] });
      expect(system.mounts.map(({ target }) => target)).toEqual([root, `${root}/sandbox/shm`, root, `${root}/sandbox/shm`]);
    }));

  it("is destroyed also while it, or a container, is being made", () =>
    withAgent(allowAll(), async (setup) => {
      const { root, runtime, system, client } = setup;
      const making = [
        client.unary(AgentService.method.createSandbox, { sandboxId: "s1" }),
        client.unary(AgentService.method.destroySandbox, {}),
        client.unary(AgentService.method.destroySandbox, {}),
      ];
      await Promise.allSettled(making);
      await setup.agent.ended;
      expect(system.unmounted).toEqual([root]);
      expect((await setup.status(AgentService.method.createContainer, containerRequest(root))).code).toBe(STATUS.failedPrecondition);
      expect(runtime.created).toEqual([]);
    }));

  it("does nothing without a sandbox, and nothing after it", () =>
    withAgent(allowAll(), async ({ root, call, status }) => {
      const all = requests(root);
      for (const name of ["createContainer", "copyFile"] as const)
        expect((await status(AgentService.method[name], all[name])).code).toBe(STATUS.failedPrecondition);
      await call(AgentService.method.destroySandbox, {});
      for (const name of ["createContainer", "copyFile", "createSandbox"] as const)
        expect((await status(AgentService.method[name], all[name])).code).toBe(STATUS.failedPrecondition);
    }));

  it("creates, starts, waits for and removes a container", () =>
    withAgent(allowAll(), async (setup) => {
      const { root, runtime, call, status } = setup;
      await setup.container();
      expect(runtime.created[0]).toMatchObject({
        id: CONTAINER,
        bundle: `${root}/${CONTAINER}`,
        spec: { root: { path: `${root}/shared/containers/${CONTAINER}` } },
      });
      await call(AgentService.method.startContainer, { containerId: CONTAINER });
      expect(runtime.started).toEqual([CONTAINER]);
      await call(AgentService.method.signalProcess, { containerId: CONTAINER, signal: 10 });
      expect(runtime.processes.get(CONTAINER)?.signals).toEqual([10]);
      for (const signal of [0, 65, 2 ** 32 - 1])
        expect((await status(AgentService.method.signalProcess, { containerId: CONTAINER, signal })).code).toBe(STATUS.invalidArgument);

      const waits = [1, 2].map(() => call(AgentService.method.waitProcess, { containerId: CONTAINER }));
      await call(AgentService.method.onlineCPUMem, {});
      runtime.processes.get(CONTAINER)?.stdout.write("late");
      runtime.processes.get(CONTAINER)?.exit(7);
      expect((await Promise.all(waits)).map((answer) => answer.status)).toEqual([7, 7]);
      expect((await status(AgentService.method.waitProcess, { containerId: CONTAINER })).code).toBe(STATUS.notFound);
      expect((await status(AgentService.method.signalProcess, { containerId: CONTAINER, signal: 9 })).code).toBe(STATUS.notFound);
      // What it said last is not lost.
      expect((await call(AgentService.method.readStdout, { containerId: CONTAINER, len: 100 })).data).toEqual(encodeUtf8("late"));
      expect((await call(AgentService.method.readStdout, { containerId: CONTAINER, len: 100 })).data).toHaveLength(0);

      await call(AgentService.method.removeContainer, { containerId: CONTAINER });
      expect(runtime.removed).toEqual([CONTAINER]);
      expect(readdirSync(root).sort()).toEqual(["sandbox", "shared"]);
      expect(readdirSync(`${root}/shared/containers`)).toEqual([]);
      expect((await status(AgentService.method.startContainer, { containerId: CONTAINER })).code).toBe(STATUS.invalidArgument);
    }));

  it("gives streams to and from a process", () =>
    withAgent(allowAll(), async (setup) => {
      const { runtime, call, status } = setup;
      await setup.container();
      const init = runtime.processes.get(CONTAINER);
      expect((await call(AgentService.method.writeStdin, { containerId: CONTAINER, data: encodeUtf8("input") })).len).toBe(5);
      expect(String(init?.stdin.read())).toBe("input");
      const reading = call(AgentService.method.readStderr, { containerId: CONTAINER, execId: CONTAINER, len: 3 });
      init?.stderr.write("warning");
      expect((await reading).data).toEqual(encodeUtf8("war"));
      expect((await status(AgentService.method.readStdout, { containerId: CONTAINER, len: 0 })).code).toBe(STATUS.invalidArgument);
      await call(AgentService.method.writeStdin, { containerId: CONTAINER, data: new Uint8Array(0) });
      expect(init?.stdin.writableEnded).toBe(true);
      expect((await status(AgentService.method.writeStdin, { containerId: CONTAINER, data: encodeUtf8("x") })).code).toBe(STATUS.failedPrecondition);
      expect((await status(AgentService.method.readStdout, { containerId: CONTAINER, execId: "none", len: 1 })).code).toBe(STATUS.notFound);
    }));

  it("lets nobody read what the policy keeps, and the process does not block on it", () =>
    withAgent(allowAll(["ReadStreamRequest"], "default ReadStreamRequest := false\n"), async (setup) => {
      await setup.container();
      const init = setup.runtime.processes.get(CONTAINER);
      expect((await setup.call(AgentService.method.readStdout, { containerId: CONTAINER, len: 10 })).data).toHaveLength(0);
      let written = 0;
      for (let i = 0; i < 100; i++) init?.stdout.write("x".repeat(10_000), () => written++);
      const end = new Promise((resolve) => init?.stdout.once("end", resolve));
      init?.stdout.end();
      await end;
      expect(written).toBe(100);
      expect((await setup.call(AgentService.method.readStdout, { containerId: CONTAINER, len: 10 })).data).toHaveLength(0);
      expect((await setup.call(AgentService.method.readStdout, { containerId: "unknown", len: 10 })).data).toHaveLength(0);
    }));

  it("lets nobody read where the policy has no answer either", () =>
    withAgent(allowAll(["ReadStreamRequest"]), async (setup) => {
      await setup.container();
      setup.runtime.processes.get(CONTAINER)?.stdout.write("secret");
      expect((await setup.call(AgentService.method.readStdout, { containerId: CONTAINER, len: 10 })).data).toHaveLength(0);
    }));

  it("runs other processes, and forgets those nobody reads", () =>
    withAgent(allowAll(), async (setup) => {
      const { runtime, call, status } = setup;
      await setup.container();
      const exec = (execId: string): Promise<unknown> => call(AgentService.method.execProcess, { containerId: CONTAINER, execId, process: processOf() });
      await exec("e0");
      expect((await status(AgentService.method.execProcess, { containerId: CONTAINER, execId: "e0", process: processOf() })).code).toBe(STATUS.alreadyExists);
      expect((await status(AgentService.method.execProcess, { containerId: CONTAINER, execId: "", process: processOf() })).code).toBe(STATUS.invalidArgument);
      const run = async (execId: string): Promise<number> => {
        const made = runtime.processes.get(`${CONTAINER}/${execId}`);
        made?.stdout.write(execId);
        made?.exit(3);
        return (await call(AgentService.method.waitProcess, { containerId: CONTAINER, execId })).status;
      };
      expect(await run("e0")).toBe(3);
      for (let i = 1; i <= 16; i++) {
        await exec(`e${i}`);
        expect(await run(`e${i}`)).toBe(3);
      }
      expect((await status(AgentService.method.readStdout, { containerId: CONTAINER, execId: "e0", len: 10 })).code).toBe(STATUS.notFound);
      expect((await call(AgentService.method.readStdout, { containerId: CONTAINER, execId: "e1", len: 10 })).data).toEqual(encodeUtf8("e1"));
      await exec("e1");
    }));

  it("leaves nothing of a container that could not be made", () =>
    withAgent(allowAll(), async (setup) => {
      const { root, runtime, status } = setup;
      await setup.call(AgentService.method.createSandbox, { sandboxId: "s1" });
      runtime.createError = new Error("crun said no");
      expect((await status(AgentService.method.createContainer, containerRequest(root))).code).toBe(STATUS.internal);
      expect(readdirSync(root).sort()).toEqual(["sandbox", "shared"]);
      expect(readdirSync(`${root}/shared/containers`)).toEqual([]);
      runtime.createError = undefined;
      await setup.container();
    }));

  it("removes a container that was being made when the sandbox was destroyed", () =>
    withAgent(allowAll(), async (setup) => {
      await setup.call(AgentService.method.createSandbox, { sandboxId: "s1" });
      await Promise.allSettled([
        setup.client.unary(AgentService.method.createContainer, containerRequest(setup.root)),
        setup.client.unary(AgentService.method.destroySandbox, {}),
      ]);
      expect(setup.runtime.created).toHaveLength(1);
      expect(setup.runtime.removed).toEqual([CONTAINER]);
    }));

  it("makes the root of a container of its own storages alone", () =>
    withAgent(allowAll(), async (setup) => {
      await setup.container("c1");
      const request = { ...containerRequest(setup.root, "c2"), storages: [] };
      expect((await setup.status(AgentService.method.createContainer, request)).code).toBe(STATUS.invalidArgument);
      const stolen = { ...request, OCI: { ...containerRequest(setup.root, "c1").OCI } };
      expect((await setup.status(AgentService.method.createContainer, stolen)).code).toBe(STATUS.invalidArgument);
      expect(
        (await setup.status(AgentService.method.createContainer, { ...request, OCI: { Process: processOf(), Root: { Path: "/" }, Linux: {} } })).code,
      ).toBe(STATUS.invalidArgument);
    }));

  it.each(["a volume", "memory", "a layer"])("makes no container whose root is %s", (kind) =>
    withAgent(allowAll(), async (setup) => {
      await setup.call(AgentService.method.createSandbox, { sandboxId: "s1" });
      const request = containerRequest(setup.root);
      const [layer, overlay] = request.storages ?? [];
      const mountPoint = overlay?.mountPoint ?? "";
      const storages =
        kind === "a volume"
          ? [{ driver: "local", source: "local", fstype: "local", options: ["mode=0755"], mountPoint }]
          : kind === "memory"
            ? [{ driver: "ephemeral", source: "tmpfs", fstype: "tmpfs", mountPoint }]
            : [layer ?? {}];
      const root = storages[0]?.mountPoint ?? "";
      const other = { ...request, storages, OCI: { Process: processOf(), Root: { Path: root }, Linux: {} } };
      const { code, message } = await setup.status(AgentService.method.createContainer, other);
      expect([code, message]).toEqual([STATUS.invalidArgument, expect.stringContaining("is no root that was made for the container")]);
      await setup.call(AgentService.method.createContainer, request);
    }),
  );

  it("keeps a volume for the containers that come after the one that wrote to it, and no volume of one that was not made", () =>
    withAgent(allowAll(), async (setup) => {
      await setup.call(AgentService.method.createSandbox, { sandboxId: "s1" });
      const request = containerRequest(setup.root);
      const volume = (name: string): Storage =>
        create(StorageSchema, {
          driver: "local",
          source: "local",
          fstype: "local",
          options: ["mode=0777"],
          mountPoint: `${setup.root}/shared/containers/${name}`,
        });
      const own = rootStorages(setup.root, CONTAINER).map((storage) => create(StorageSchema, storage));
      const bad = { ...request, storages: [volume("lost")], OCI: { Process: processOf(), Root: { Path: "/" }, Linux: {} } };
      expect((await setup.status(AgentService.method.createContainer, bad)).code).toBe(STATUS.invalidArgument);
      await setup.call(AgentService.method.createContainer, { ...request, storages: [...own, volume("data")] });
      writeFileSync(`${setup.root}/shared/containers/data/state`, "prepared");
      await setup.call(AgentService.method.removeContainer, { containerId: CONTAINER });
      expect(readdirSync(`${setup.root}/shared/containers`)).toEqual(["data"]);
      await setup.call(AgentService.method.createContainer, { ...request, storages: [...own, volume("data")] });
      expect(readFileSync(`${setup.root}/shared/containers/data/state`, "utf8")).toBe("prepared");
      await setup.call(AgentService.method.destroySandbox, {});
      expect(existsSync(`${setup.root}/shared/containers/data`)).toBe(false);
    }));

  it("removes what was copied for a container with it, and nothing else", () =>
    withAgent(allowAll(), async (setup) => {
      await setup.call(AgentService.method.createSandbox, { sandboxId: "s1" });
      const share = `${setup.root}/shared/containers`;
      mkdirSync(`${share}/outside`);
      writeFileSync(`${share}/outside/file`, "");
      const put = (name: string): void => {
        mkdirSync(`${share}/${name}`);
        writeFileSync(`${share}/${name}/file`, "secret");
        symlinkSync(`${share}/outside`, `${share}/${name}/link`);
      };
      const others = [`${"d".repeat(64)}-0123456789abcdef-hosts`, `${CONTAINER}x-0123456789abcdef-hosts`, `${CONTAINER}-short-hosts`, "outside"];
      for (const name of [`${CONTAINER}-0123456789abcdef-settings`, `${CONTAINER}-00000000000000zz-a-b`, ...others.slice(0, 3)]) put(name);
      const request = containerRequest(setup.root);
      await setup.call(AgentService.method.createContainer, request);
      await setup.call(AgentService.method.removeContainer, { containerId: CONTAINER });
      expect(readdirSync(share).toSorted()).toEqual(others.toSorted());
      expect(readdirSync(`${share}/outside`)).toEqual(["file"]);
      // One that was not made needs them no more, either.
      put(`${CONTAINER}-0123456789abcdef-again`);
      const bad = { ...request, OCI: { Process: processOf(), Root: { Path: "/" }, Linux: {} } };
      expect((await setup.status(AgentService.method.createContainer, bad)).code).toBe(STATUS.invalidArgument);
      expect(readdirSync(share).toSorted()).toEqual(others.toSorted());
    }));

  it("removes no copied file that may be another container's", () =>
    withAgent(allowAll(), async (setup) => {
      await setup.call(AgentService.method.createSandbox, { sandboxId: "s1" });
      const share = `${setup.root}/shared/containers`;
      const [short, long] = ["ab", "ab-0123456789abcdef"];
      for (const id of [short, long])
        await setup.call(AgentService.method.createContainer, {
          containerId: id,
          storages: rootStorages(setup.root, id),
          OCI: { Process: processOf(), Root: { Path: `${share}/${id}` }, Linux: {} },
        });
      writeFileSync(`${share}/${long}-fedcba9876543210-hosts`, "");
      await setup.call(AgentService.method.removeContainer, { containerId: short });
      expect(readdirSync(share)).toContain(`${long}-fedcba9876543210-hosts`);
      await setup.call(AgentService.method.removeContainer, { containerId: long });
      expect(readdirSync(share)).toEqual([]);
    }));

  it("makes no container with a bind mount of what a link leads to", () =>
    withAgent(allowAll(), async (setup) => {
      await setup.call(AgentService.method.createSandbox, { sandboxId: "s1" });
      const share = `${setup.root}/shared/containers`;
      mkdirSync(`${share}/volume`);
      symlinkSync("../../sandbox", `${share}/link`);
      symlinkSync("../../sandbox", `${share}/volume/..data`);
      const withMount = (source: string): MessageInitShape<typeof AgentService.method.createContainer.input> => ({
        containerId: CONTAINER,
        storages: rootStorages(setup.root, CONTAINER),
        OCI: {
          Process: processOf(),
          Root: { Path: `${share}/${CONTAINER}` },
          Mounts: [{ destination: "/x", type: "bind", source, options: ["rbind"] }],
          Linux: {},
        },
      });
      expect((await setup.status(AgentService.method.createContainer, withMount(`${share}/link`))).code).not.toBe(STATUS.ok);
      expect(setup.runtime.created).toEqual([]);
      await setup.call(AgentService.method.createContainer, withMount(`${share}/volume`));
    }));

  it("mounts no two storages of a container at one place", () =>
    withAgent(allowAll(), async (setup) => {
      await setup.call(AgentService.method.createSandbox, { sandboxId: "s1" });
      const request = containerRequest(setup.root);
      const twice = { ...request, storages: [...(request.storages ?? []), ...(request.storages ?? [])] };
      expect((await setup.status(AgentService.method.createContainer, twice)).code).toBe(STATUS.invalidArgument);
      expect(readdirSync(`${setup.root}/shared/containers`)).toEqual([]);
    }));

  it("shares the pid namespace of the first container with those that ask", () =>
    withAgent(allowAll(), async (setup) => {
      await setup.container("c1");
      await setup.call(AgentService.method.createContainer, { ...containerRequest(setup.root, "c2"), sandboxPidns: true });
      expect(setup.runtime.created[1]?.spec["linux"]).toEqual({ namespaces: [{ type: "mount" }, { type: "pid", path: "/proc/1/fd/c1" }] });
    }));

  it("answers GetOOMEvent when the sandbox ends, which takes its containers along", () =>
    withAgent(allowAll(), async (setup) => {
      await setup.container();
      const event = setup.status(AgentService.method.getOOMEvent, {});
      await setup.call(AgentService.method.destroySandbox, {});
      expect((await event).code).toBe(STATUS.internal);
      expect(setup.runtime.removed).toEqual([CONTAINER]);
      expect(setup.system.unmounted).toEqual([`${setup.root}/shared/containers/${CONTAINER}`, setup.root]);
      await setup.agent.ended;
    }));

  it("describes the guest and a container's use", () =>
    withAgent(allowAll(), async (setup) => {
      expect((await setup.call(AgentService.method.getGuestDetails, {})).agentDetails).toMatchObject({
        version: "0.1.0",
        storageHandlers: ["blk", "overlayfs", "ephemeral", "local"],
      });
      await setup.container();
      expect((await setup.call(AgentService.method.statsContainer, { containerId: CONTAINER })).cgroupStats).toMatchObject({
        cpuStats: { cpuUsage: { totalUsage: 3n } },
        memoryStats: { usage: { usage: 4096n } },
        pidsStats: { current: 1n },
      });
    }));

  it("copies files into the share root", () =>
    withAgent(allowAll(), async (setup) => {
      await setup.call(AgentService.method.createSandbox, { sandboxId: "s1" });
      const file = requests(setup.root).copyFile;
      await setup.call(AgentService.method.copyFile, file);
      expect(readFileSync(`${setup.root}/shared/containers/file`, "utf8")).toBe("x");
      writeFileSync(`${setup.root}/outside`, "");
      expect((await setup.status(AgentService.method.copyFile, { ...file, path: `${setup.root}/outside` })).code).toBe(STATUS.invalidArgument);
    }));
});
