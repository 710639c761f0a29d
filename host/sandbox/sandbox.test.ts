import { EventEmitter, once } from "node:events";
import { mkdir, mkdtemp, rename, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeUtf8, sha256, toHex, type ByteSink } from "@sealpod/core";
import { AgentService, Health, HealthCheckResponse_ServingStatus, isMessage, type CreateContainerRequest, type Message } from "@sealpod/proto";
import { STATUS, implement, memoryStreams, serveTtrpc, statusError, type ByteStream, type Handlers } from "@sealpod/ttrpc";
import type { Machine, MachineConfig, MachineExit, VmmDriver } from "@sealpod/vmm";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { COCO_LAYOUT, createSandbox, policyHostData, type ContainerOptions, type Sandbox, type SandboxOptions } from "./index.ts";

/** A driver whose machines have an agent that remembers what it is asked and answers as the test says. */
class ScriptedDriver implements VmmDriver {
  readonly name = "scripted";
  readonly isolation = "none";
  readonly configs: MachineConfig[] = [];
  readonly requests: Message[] = [];
  readonly disks: string[] = [];
  /** Those of them that the guest may write to. */
  readonly written: string[] = [];
  network: Machine["guestNetwork"] = [];
  stopped = 0;
  serving: HealthCheckResponse_ServingStatus = HealthCheckResponse_ServingStatus.SERVING;
  #far: ByteStream | undefined;
  readonly #handlers: Handlers<typeof AgentService>;

  constructor(handlers: Handlers<typeof AgentService> = {}) {
    this.#handlers = handlers;
  }

  async probe(): Promise<void> {}

  async start(config: MachineConfig): Promise<Machine> {
    this.configs.push(config);
    const exited = Promise.withResolvers<MachineExit>();
    return {
      id: config.id,
      pid: 4711,
      guestNetwork: this.network,
      exited: exited.promise,
      connectAgent: async () => this.#serve(),
      attachDisk: async (path, { readonly = true } = {}) => {
        if (path === "absent") throw new Error("no such disk");
        if (!readonly) this.written.push(path);
        return { source: (this.disks.push(path) + 1).toString(16).padStart(2, "0") };
      },
      forwardPort: async (port) => port,
      stop: async () => {
        this.stopped++;
        this.#far?.close();
        exited.resolve({ kind: "stopped", exitCode: 0, signal: null });
      },
    };
  }

  /** The machine dies. */
  die(): void {
    this.#far?.close();
  }

  /** Names of the requests so far. */
  get names(): readonly string[] {
    return this.requests.map((request) => request.$typeName.replace("grpc.", ""));
  }

  #serve(): ByteStream {
    const [near, far] = memoryStreams();
    this.#far = far;
    const health = implement(Health, { check: () => ({ status: this.serving }) });
    // Everything goes through the fallback, so that everything is remembered.
    const agent = implement(AgentService, {}, async (method, request, context) => {
      this.requests.push(request);
      const handler = (this.#handlers as Readonly<Record<string, ((request: Message, context: unknown) => object | Promise<object>) | undefined>>)[
        method.localName
      ];
      return ((await handler?.(request, context)) as Record<string, unknown> | undefined) ?? {};
    });
    void serveTtrpc(far, [health, agent]);
    return near;
  }
}

const ID = "5".repeat(64);
const CONTAINER = "c".repeat(64);
const POLICY = "package agent_policy\n";

function options(driver: VmmDriver, change: Partial<SandboxOptions> = {}): SandboxOptions {
  let count = 0;
  return {
    id: ID,
    driver,
    machine: {
      runDirectory: "/run/x",
      guest: { kind: "process", command: ["/agent"], measuredFiles: [], commandLine: "" },
      launch: { launch: () => Promise.reject(new Error("not used")) },
      memoryMiB: 2048,
      vcpus: 1,
    },
    policy: POLICY,
    hostname: "pod",
    dns: ["nameserver 10.0.2.3"],
    random: { bytes: (length) => new Uint8Array(length).fill(++count) },
    ...change,
  };
}

function layer(name: string): ContainerOptions["layers"][number] {
  return { layerId: name.repeat(64), format: "erofs", rootHash: new Uint8Array(32).fill(Number.parseInt(name.repeat(2), 16)), path: `/layers/${name}` };
}

function container(change: Partial<ContainerOptions> = {}): ContainerOptions {
  const spec = { ociVersion: "1.1.0", process: { args: ["/bin/true"], cwd: "/" }, root: { path: "rootfs", readonly: false }, mounts: [], linux: {} };
  return { id: CONTAINER, spec, bundle: `/bundles/${CONTAINER}`, layers: [layer("a"), layer("b")], ...change };
}

/** The specification of {@link container} with mounts. */
function withMounts(...mounts: readonly object[]): object {
  return { ...(container().spec as object), mounts };
}

/** Sink that keeps text. */
class TextSink implements ByteSink {
  text = "";

  async write(bytes: Uint8Array): Promise<void> {
    this.text += Buffer.from(bytes).toString("utf8");
  }
}

let directory = "";
let sandboxes: Sandbox[] = [];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "sealpod-sandbox-"));
  sandboxes = [];
});

afterEach(async () => {
  for (const sandbox of sandboxes) await sandbox.destroy();
  await rm(directory, { recursive: true });
});

async function boot(driver: VmmDriver, change: Partial<SandboxOptions> = {}): Promise<Sandbox> {
  const sandbox = await createSandbox(options(driver, change));
  sandboxes.push(sandbox);
  return sandbox;
}

describe("starting a sandbox, specs/runtime.md 4.1", () => {
  it("sets the policy before anything else, under the HOST_DATA that is its digest", async () => {
    const driver = new ScriptedDriver();
    const sandbox = await boot(driver);
    expect(sandbox.id).toBe(ID);
    expect(driver.configs).toHaveLength(1);
    expect(driver.configs[0]).toMatchObject({ id: ID, memoryMiB: 2048 });
    expect(toHex(driver.configs[0]?.hostData ?? new Uint8Array())).toBe(toHex(sha256(encodeUtf8(POLICY))));
    expect(driver.requests).toMatchObject([
      { $typeName: "grpc.SetPolicyRequest", policy: POLICY },
      {
        $typeName: "grpc.CreateSandboxRequest",
        hostname: "pod",
        dns: ["nameserver 10.0.2.3"],
        sandboxId: ID,
        sandboxPidns: false,
        guestHookPath: "",
        kernelModules: [],
        storages: [
          {
            driver: "ephemeral",
            driverOptions: [],
            source: "shm",
            fstype: "tmpfs",
            options: ["noexec", "nosuid", "nodev", "mode=1777", "size=67108864"],
            mountPoint: "/run/kata-containers/sandbox/shm",
            shared: false,
          },
        ],
      },
    ]);
  });

  it("without a policy sets none and leaves HOST_DATA zero", async () => {
    const driver = new ScriptedDriver();
    const { policy: _policy, ...rest } = options(driver);
    sandboxes.push(await createSandbox(rest));
    expect(driver.names).toEqual(["CreateSandboxRequest"]);
    expect(driver.configs[0]?.hostData).toEqual(new Uint8Array(32));
    expect(policyHostData(undefined)).toEqual(new Uint8Array(32));
  });

  it("starts a machine with initdata under its digest, and sets no policy", async () => {
    const driver = new ScriptedDriver();
    const { policy: _policy, ...rest } = options(driver);
    const hostData = new Uint8Array(32).fill(7);
    sandboxes.push(await createSandbox({ ...rest, initdata: { path: "/run/x.img", hostData } }));
    expect(driver.names).toEqual(["CreateSandboxRequest"]);
    expect(driver.configs[0]).toMatchObject({ initdata: "/run/x.img", hostData });
  });

  it("refuses a policy beside initdata before it starts a machine", async () => {
    const driver = new ScriptedDriver();
    const both = { ...options(driver), initdata: { path: "/run/x.img", hostData: new Uint8Array(32) } };
    await expect(createSandbox(both)).rejects.toMatchObject({ code: "ERR_SANDBOX_SPEC" });
    expect(driver.configs).toEqual([]);
  });

  it("gives a machine the network that the caller names, not its driver's", async () => {
    const driver = new ScriptedDriver();
    driver.network = [{ name: "eth0", mac: "52:54:00:12:34:56", addresses: ["10.0.2.100/24"], mtu: 1500 }];
    const interfaces = [{ name: "net1", mac: "52:54:00:00:00:01", mtu: 1400, noArp: false, addresses: [] }];
    await boot(driver, { network: { interfaces, routes: [], neighbours: [] } });
    expect(driver.requests[1]).toMatchObject({ $typeName: "grpc.UpdateInterfaceRequest", interface: { name: "net1", mtu: 1400n } });
  });

  it("gives a machine its network once the policy can judge it, before anything else", async () => {
    const driver = new ScriptedDriver();
    driver.network = [{ name: "eth0", mac: "52:54:00:12:34:56", addresses: ["10.0.2.100/24"], mtu: 1500, gateway: "10.0.2.2" }];
    sandboxes.push(await createSandbox(options(driver)));
    expect(driver.names).toEqual(["SetPolicyRequest", "UpdateInterfaceRequest", "UpdateRoutesRequest", "CreateSandboxRequest"]);
  });

  it("tells a policy that the agent does not take from one that it takes and that denies", async () => {
    const mismatch = new ScriptedDriver({
      setPolicy: () => {
        throw statusError(STATUS.invalidArgument, "the policy's SHA-256 is not HOST_DATA");
      },
    });
    await expect(createSandbox(options(mismatch))).rejects.toMatchObject({
      code: "ERR_SANDBOX_POLICY",
      row: { exit: 3 },
      message: expect.stringContaining("the policy's SHA-256 is not HOST_DATA") as string,
    });
    const denied = new ScriptedDriver({
      setPolicy: () => {
        throw statusError(STATUS.permissionDenied, "SetPolicyRequest is blocked by policy: ");
      },
    });
    await expect(createSandbox(options(denied))).rejects.toMatchObject({ code: "ERR_SANDBOX_DENIED" });
    expect([mismatch.stopped, denied.stopped]).toEqual([1, 1]);
    expect([mismatch.names, denied.names]).toEqual([["SetPolicyRequest"], ["SetPolicyRequest"]]);
  });

  it("stops the machine if the agent is not healthy", async () => {
    const driver = new ScriptedDriver();
    driver.serving = HealthCheckResponse_ServingStatus.NOT_SERVING;
    await expect(createSandbox(options(driver))).rejects.toMatchObject({ code: "ERR_SANDBOX_AGENT" });
    expect([driver.stopped, driver.names]).toEqual([1, []]);
  });
});

describe("a guest that ends while the sandbox is made", () => {
  const ending = (printed: string): ScriptedDriver => {
    const driver: ScriptedDriver = new ScriptedDriver({
      createSandbox: () => {
        driver.configs[0]?.console?.(encodeUtf8(printed));
        driver.die();
        return {};
      },
    });
    return driver;
  };

  it("is quoted with what its agent said last", async () => {
    const driver = ending("boot\nsealpod-agent: one\r\nsealpod-agent: the \u001b[31minitdata are not HOST_DATA\r\nsealpod-init: agent ended with 1\r\n");
    const seen: string[] = [];
    const { machine, ...others } = options(driver);
    const failed = createSandbox({ ...others, machine: { ...machine, console: (bytes) => seen.push(new TextDecoder().decode(bytes)) } });
    await expect(failed).rejects.toMatchObject({
      code: "ERR_SANDBOX_CLOSED",
      message: expect.stringMatching(/; the guest's last words: the \?\[31minitdata are not HOST_DATA$/) as string,
    });
    expect([driver.stopped, seen.length]).toEqual([1, 1]);
  });

  it("that said nothing is not quoted", async () => {
    await expect(createSandbox(options(ending("boot\n")))).rejects.toMatchObject({
      code: "ERR_SANDBOX_CLOSED",
      message: expect.not.stringContaining("last words") as string,
    });
  });
});

describe("making a container", () => {
  it.each<[string, number, boolean]>([
    ["failed", STATUS.internal, true],
    ["was denied", STATUS.permissionDenied, false],
    ["was there already", STATUS.alreadyExists, false],
  ])("that %s tells the guest's policy of it only if the policy had allowed it", async (_what, status, isRemoved) => {
    const driver = new ScriptedDriver({
      createContainer: () => {
        throw statusError(status, "no");
      },
    });
    const sandbox = await boot(driver);
    await expect(sandbox.createContainer(container())).rejects.toThrow("no");
    expect(driver.names.filter((name) => name === "RemoveContainerRequest")).toHaveLength(isRemoved ? 1 : 0);
  });

  it("attaches the layers, copies the files, then asks for the container", async () => {
    const driver = new ScriptedDriver();
    const sandbox = await boot(driver);
    await writeFile(join(directory, "hosts"), "127.0.0.1\n", { mode: 0o644 });
    const volume = join(directory, "token");
    await mkdir(volume, { mode: 0o755 });
    await symlink("..data/token", join(volume, "token"));
    await mkdir(join(directory, "kubernetes.io~empty-dir", "cache"), { recursive: true });
    const bind = (destination: string, source: string, mode: string): object => ({ destination, type: "bind", source, options: ["rbind", "rprivate", mode] });
    const mounts = [
      { destination: "/proc", type: "proc", source: "proc", options: ["nosuid"] },
      { destination: "/dev/shm", type: "bind", source: "/host/shm", options: ["rbind", "ro"] },
      bind("/etc/hosts", join(directory, "hosts"), "rw"),
      bind("/var/run/secrets/tokens", volume, "ro"),
      bind("/cache", join(directory, "kubernetes.io~empty-dir", "cache"), "rw"),
    ];
    await sandbox.createContainer(container({ spec: { ...(container().spec as object), mounts } }));

    expect(driver.disks).toEqual(["/layers/b", "/layers/a"]);
    const root = "/run/kata-containers/shared/containers";
    const hosts = `${root}/${CONTAINER}-${"01".repeat(8)}-hosts`;
    const tokens = `${root}/${CONTAINER}-${"02".repeat(8)}-tokens`;
    const [, , ...requests] = driver.requests;
    const paths = requests.map((request) => ("path" in request ? String(request.path) : ""));
    // Mounts are copied side by side; what is in a directory comes after it, and the container after all of them.
    expect(paths.indexOf(tokens)).toBeLessThan(paths.indexOf(`${tokens}/token`));
    const ordered = [
      ...requests.slice(0, -1).toSorted((left, right) => (paths[requests.indexOf(left)] ?? "").localeCompare(paths[requests.indexOf(right)] ?? "")),
      requests.at(-1),
    ];
    expect(ordered).toMatchObject([
      {
        $typeName: "grpc.CopyFileRequest",
        path: hosts,
        fileSize: 10n,
        fileMode: 0o100644,
        dirMode: 0o755,
        offset: 0n,
        data: new Uint8Array(encodeUtf8("127.0.0.1\n")),
      },
      { $typeName: "grpc.CopyFileRequest", path: tokens, fileSize: 0n, fileMode: 0o40755, data: new Uint8Array() },
      { $typeName: "grpc.CopyFileRequest", path: `${tokens}/token`, fileSize: 0n, fileMode: 0o120777, data: new Uint8Array(encodeUtf8("..data/token")) },
      { $typeName: "grpc.CreateContainerRequest" },
    ]);
    const request = requests.at(-1) as CreateContainerRequest;
    expect(request).toMatchObject({ containerId: CONTAINER, execId: CONTAINER, sandboxPidns: false, devices: [], sharedMounts: [], stdinPort: 0 });
    expect(request.stringUser).toBeUndefined();
    expect(request.OCI).toMatchObject({
      Root: { Path: `${root}/${CONTAINER}`, Readonly: false },
      Annotations: {
        "io.katacontainers.pkg.oci.bundle_path": `/bundles/${CONTAINER}`,
        "io.katacontainers.pkg.oci.container_type": "single_container",
      },
    });
    expect([request.OCI?.Hooks, request.OCI?.Linux?.Seccomp, request.OCI?.Linux?.Resources?.Pids, request.OCI?.Linux?.IntelRdt]).toEqual(
      Array(4).fill(undefined),
    );
    expect(request.OCI?.Mounts.map(({ destination, type, source, options }) => [destination, type, source, options.join()])).toEqual([
      ["/proc", "proc", "proc", "nosuid"],
      ["/dev/shm", "bind", "/run/kata-containers/sandbox/shm", "rbind"],
      ["/etc/hosts", "bind", hosts, "rbind,rprivate,rw"],
      ["/var/run/secrets/tokens", "bind", tokens, "rbind,rprivate,ro"],
      ["/cache", "local", `${root}/${ID}/local/cache`, "rbind,rprivate,rw"],
    ]);
    expect(request.storages.map(({ driver, source, fstype, mountPoint }) => [driver, source, fstype, mountPoint])).toEqual([
      ["blk", "02", "erofs", `/run/kata-containers/sandbox/layers/${"b".repeat(64)}`],
      ["blk", "03", "erofs", `/run/kata-containers/sandbox/layers/${"a".repeat(64)}`],
      ["overlayfs", "none", "fuse3.kata-overlay", `${root}/${CONTAINER}`],
      ["local", "local", "local", `${root}/${ID}/local/cache`],
    ]);
    expect(request.storages.every((storage) => storage.fsGroup === undefined && storage.driverOptions.length === 0 && !storage.shared)).toBe(true);
    expect(request.storages[2]?.options).toHaveLength(5);
  });

  it("puts the root and memory volumes where the second generation's policies want them", async () => {
    const driver = new ScriptedDriver();
    const sandbox = await boot(driver, { layout: COCO_LAYOUT });
    const source = join(directory, "kubernetes.io~empty-dir", "cache");
    await mkdir(source, { recursive: true });
    await sandbox.createContainer(container({ spec: withMounts({ destination: "/cache", type: "bind", source, options: ["rbind"] }) }));
    const { storages, OCI } = driver.requests.at(-1) as CreateContainerRequest;
    const root = `/run/kata-containers/${CONTAINER}/rootfs`;
    expect([OCI?.Root?.Path, storages[2]?.mountPoint]).toEqual([root, root]);
    const local = `/run/kata-containers/shared/containers/${ID}/rootfs/local/cache`;
    expect([OCI?.Mounts[0]?.source, storages[3]?.mountPoint]).toEqual([local, local]);
  });

  it("gives containers that share an emptyDir one disk that the guest writes to", async () => {
    const driver = new ScriptedDriver();
    const made: string[] = [];
    const sandbox = await boot(driver, {
      makeDisk: async (emptyDir) => {
        made.push(emptyDir);
        return `/disks/${made.length}`;
      },
    });
    const [one, other] = ["one", "other"].map((name) => join(directory, "kubernetes.io~empty-dir", name));
    for (const path of [one, other]) await mkdir(path ?? "", { recursive: true });
    const spec = withMounts(...[one, other].map((source, at) => ({ destination: `/v${at}`, type: "bind", source, options: ["rbind", "rslave", "rw"] })));
    const volumes = { owner: () => ({ uid: 0, gid: 42 }), isTmpfs: async () => false };
    for (const id of ["1", "2"]) await sandbox.createContainer(container({ id: id.repeat(64), layers: [layer("a")], spec, volumes }));
    expect(made).toEqual([one, other]);
    expect(driver.written).toEqual(["/disks/1", "/disks/2"]);
    const created = driver.requests.filter((request) => isMessage(request, AgentService.method.createContainer.input));
    // Both containers name a volume with the same words: to the agent that is one storage.
    expect(created[0]?.storages.slice(2)).toEqual(created[1]?.storages.slice(2));
    expect(created[0]?.storages.slice(2)).toMatchObject([
      {
        driver: "blk",
        source: "02",
        fstype: "ext4",
        driverOptions: ["encryption_key=ephemeral", "create_filesystem"],
        options: [],
        mountPoint: "/run/kata-containers/sandbox/storage/MDI=",
        fsGroup: { groupId: 42, groupChangePolicy: 0 },
        shared: true,
      },
      { source: "03", mountPoint: "/run/kata-containers/sandbox/storage/MDM=" },
    ]);
    expect(created[0]?.OCI?.Mounts.map(({ type, source, options }) => [type, source, options.join()])).toEqual([
      ["bind", "/run/kata-containers/sandbox/storage/MDI=", "rbind,rprivate,rw"],
      ["bind", "/run/kata-containers/sandbox/storage/MDM=", "rbind,rprivate,rw"],
    ]);
  });

  it("follows the volumes that the kubelet switches by a link, until the container is removed", async () => {
    const news = new EventEmitter();
    const copied: string[] = [];
    const driver = new ScriptedDriver({
      copyFile({ path }) {
        copied.push(path);
        news.emit("copied");
        return {};
      },
    });
    const sandbox = await boot(driver);
    const source = join(directory, "config");
    const publish = async (version: string): Promise<void> => {
      await mkdir(join(source, version), { recursive: true });
      await writeFile(join(source, version, "key"), version);
      await symlink(version, join(source, "..data_tmp"));
      await rename(join(source, "..data_tmp"), join(source, "..data"));
    };
    await publish("..1");
    const spec = withMounts({ destination: "/v", type: "bind", source, options: ["rbind"] });
    const [first, second] = await Promise.all(["1", "2"].map((id) => sandbox.createContainer(container({ id: id.repeat(64), spec }))));
    /** Resolves when the link of the container's copy was set once more. */
    const switched = async (id: string, times: number): Promise<void> => {
      while (copied.filter((path) => path.includes(`/${id.repeat(64)}-`) && path.endsWith("/..data")).length < times) await once(news, "copied");
    };
    await publish("..2");
    await Promise.all([switched("1", 2), switched("2", 2)]);
    await first?.remove();
    const before = copied.length;
    await publish("..3");
    await switched("2", 3);
    expect(copied.slice(before).filter((path) => path.includes("1".repeat(64)))).toEqual([]);
    await second?.remove();
  });

  it("attaches a layer once per machine, also for containers that are made side by side", async () => {
    const driver = new ScriptedDriver();
    const sandbox = await boot(driver);
    await Promise.all(["1", "2"].map((name) => sandbox.createContainer(container({ id: name.repeat(64), layers: [layer("a"), layer(name)] }))));
    expect(driver.disks.toSorted()).toEqual(["/layers/1", "/layers/2", "/layers/a"]);
    const bottoms = driver.requests
      .filter((request) => isMessage(request, AgentService.method.createContainer.input))
      .map((request) => request.storages[1]?.source);
    expect(new Set(bottoms).size).toBe(1);
  });

  it("tries a disk again that could not be attached", async () => {
    const driver = new ScriptedDriver();
    const sandbox = await boot(driver);
    const absent = { ...layer("a"), path: "absent" };
    for (const _attempt of [1, 2]) await expect(sandbox.createContainer(container({ layers: [absent] }))).rejects.toThrow("no such disk");
    expect(driver.names).toEqual(["SetPolicyRequest", "CreateSandboxRequest"]);
  });

  it.each([[{ id: "../../etc" }], [{ id: "a" }], [{ layers: [] }], [{ spec: {} }], [{ spec: null }]])("refuses %j without asking the agent", async (change) => {
    const driver = new ScriptedDriver();
    const sandbox = await boot(driver);
    await expect(sandbox.createContainer(container(change))).rejects.toMatchObject({ code: "ERR_SANDBOX_SPEC" });
    expect(driver.names).toEqual(["SetPolicyRequest", "CreateSandboxRequest"]);
    expect(driver.disks).toEqual([]);
  });

  it("stops at a file that the policy does not let in", async () => {
    const driver = new ScriptedDriver({
      copyFile: () => {
        throw statusError(STATUS.permissionDenied, "CopyFileRequest is blocked by policy: ");
      },
    });
    const sandbox = await boot(driver);
    const mounts = [{ destination: "/x", type: "bind", source: directory, options: ["rbind"] }];
    await expect(sandbox.createContainer(container({ spec: { ...(container().spec as object), mounts } }))).rejects.toMatchObject({
      code: "ERR_SANDBOX_DENIED",
      details: { request: "CopyFileRequest" },
    });
    expect(driver.names).not.toContain("CreateContainerRequest");
  });
});

describe("errors of the agent", () => {
  async function failure(code: number, message: string): Promise<unknown> {
    const driver = new ScriptedDriver({
      createContainer: () => {
        throw statusError(code, message);
      },
    });
    const sandbox = await boot(driver);
    return sandbox.createContainer(container()).catch((error: unknown) => error);
  }

  it("a denial carries the request and the agent's message", async () => {
    const message = 'CreateContainerRequest is blocked by policy: agent_policy:114: input = {"OCI": 1}';
    expect(await failure(STATUS.permissionDenied, message)).toMatchObject({
      code: "ERR_SANDBOX_DENIED",
      message,
      details: { request: "CreateContainerRequest" },
      row: { exit: 3 },
    });
  });

  it("a denial of the agent written in Rust reads the same", async () => {
    const literal = '"CreateContainerRequest is blocked by policy: agent_policy:1: \\"a\\"\\n\\u{e9}\\\\ "';
    expect(await failure(STATUS.permissionDenied, literal)).toMatchObject({
      message: 'CreateContainerRequest is blocked by policy: agent_policy:1: "a"\né\\ ',
    });
  });

  it.each([
    "CreateContainerRequest: internal error policy check: unexpected eval_query result len 0",
    '"CreateContainerRequest: internal error policy check: unexpected eval_query result len 0"',
  ])("a policy without an answer denies: %s", async (message) => {
    expect(await failure(STATUS.internal, message)).toMatchObject({ code: "ERR_SANDBOX_DENIED" });
  });

  it("anything else is the agent's failure", async () => {
    expect(await failure(STATUS.internal, "crun: no such file")).toMatchObject({
      code: "ERR_SANDBOX_AGENT",
      message: "CreateContainerRequest: INTERNAL: crun: no such file",
      details: { status: "INTERNAL" },
    });
  });

  it("a connection that ends is said to have ended", async () => {
    const driver = new ScriptedDriver({
      createContainer: () => {
        driver.die();
        return {};
      },
    });
    const sandbox = await boot(driver);
    await expect(sandbox.createContainer(container())).rejects.toMatchObject({ code: "ERR_SANDBOX_CLOSED" });
  });
});

describe("processes", () => {
  /** An agent whose streams give the chunks and then end. */
  function streaming(stdout: readonly string[], stderr: readonly string[], status: number): { driver: ScriptedDriver; order: string[] } {
    const order: string[] = [];
    const reader = (name: string, chunks: readonly string[]) => {
      const left = [...chunks];
      return ({ len }: { len: number }): { data: Uint8Array } => {
        const next = left.shift();
        order.push(`${name} ${len}`);
        return { data: next === undefined ? new Uint8Array() : encodeUtf8(next) };
      };
    };
    const driver = new ScriptedDriver({
      readStdout: reader("stdout", stdout),
      readStderr: reader("stderr", stderr),
      waitProcess: () => {
        order.push("wait");
        return { status };
      },
    });
    return { driver, order };
  }

  it("gives all output before the exit status", async () => {
    const { driver, order } = streaming(["one ", "two"], ["error"], 137);
    const made = await (await boot(driver)).createContainer(container());
    const [stdout, stderr] = [new TextSink(), new TextSink()];
    const process = await made.start({ stdout, stderr });
    expect(await process.exited).toBe(137);
    expect([stdout.text, stderr.text]).toEqual(["one two", "error"]);
    expect(order.slice(0, -1).toSorted()).toEqual(["stderr 65536", "stderr 65536", "stdout 65536", "stdout 65536", "stdout 65536"]);
    expect(order.at(-1)).toBe("wait");
    expect(driver.requests.at(-1)).toMatchObject({ $typeName: "grpc.WaitProcessRequest", containerId: CONTAINER, execId: CONTAINER });
  });

  it("reads a terminal's one stream, and reads without a sink too", async () => {
    const { driver, order } = streaming(["prompt"], [], 0);
    const spec = { ...(container().spec as object), process: { terminal: true, args: ["sh"], cwd: "/" } };
    const made = await (await boot(driver)).createContainer(container({ spec }));
    expect(await (await made.start()).exited).toBe(0);
    expect(order).toEqual(["stdout 65536", "stdout 65536", "wait"]);
  });

  it("goes on reading when a sink fails", async () => {
    const { driver, order } = streaming(["one", "two"], [], 0);
    const made = await (await boot(driver)).createContainer(container());
    let writes = 0;
    const stdout: ByteSink = {
      write: async () => {
        writes++;
        throw new Error("pipe closed");
      },
    };
    expect(await (await made.start({ stdout })).exited).toBe(0);
    expect(writes).toBe(1);
    expect(order.filter((line) => line.startsWith("stdout"))).toHaveLength(3);
  });

  it("takes a stream that the agent does not know for one that has ended", async () => {
    const { driver } = streaming([], [], 3);
    const broken = new ScriptedDriver({
      readStdout: () => {
        throw statusError(STATUS.notFound, "no such process");
      },
      waitProcess: () => ({ status: 3 }),
    });
    for (const each of [driver, broken]) expect(await (await (await (await boot(each)).createContainer(container())).start()).exited).toBe(3);
  });

  it("rejects the exit of a process whose machine ended", async () => {
    const driver = new ScriptedDriver({ waitProcess: () => new Promise(() => undefined) });
    const made = await (await boot(driver)).createContainer(container());
    const process = await made.start();
    driver.die();
    await expect(process.exited).rejects.toMatchObject({ code: "ERR_SANDBOX_CLOSED" });
  });

  it("writes, closes, resizes, signals and removes", async () => {
    const driver = new ScriptedDriver({ waitProcess: () => new Promise(() => undefined) });
    const made = await (await boot(driver)).createContainer(container());
    const process = await made.start();
    driver.requests.length = 0;
    await process.writeStdin(new Uint8Array(1024 * 1024 + 1));
    await process.writeStdin(new Uint8Array());
    await process.closeStdin();
    await process.resize(24, 80);
    await process.signal(15);
    await made.signal(9);
    await made.signal(15, false);
    await made.remove();
    const id = { containerId: CONTAINER, execId: CONTAINER };
    const asked = driver.requests.filter((request) => !/Read|Wait/.test(request.$typeName));
    expect(asked.map((request) => (isMessage(request, AgentService.method.writeStdin.input) ? request.data.length : request.$typeName))).toEqual([
      1024 * 1024,
      1,
      "grpc.CloseStdinRequest",
      "grpc.TtyWinResizeRequest",
      "grpc.SignalProcessRequest",
      "grpc.SignalProcessRequest",
      "grpc.SignalProcessRequest",
      "grpc.RemoveContainerRequest",
    ]);
    expect(asked.slice(2)).toMatchObject([
      id,
      { ...id, row: 24, column: 80 },
      { ...id, signal: 15 },
      // No exec id: with signal 9 the agent ends all processes of the container.
      { containerId: CONTAINER, execId: "", signal: 9 },
      { ...id, signal: 15 },
      { containerId: CONTAINER, timeout: 0 },
    ]);
  });

  it("starts another process with the user and environment that it is given", async () => {
    const { driver } = streaming(["out"], [], 0);
    const made = await (await boot(driver)).createContainer(container());
    const stdout = new TextSink();
    const process = { args: ["ls"], cwd: "/", env: ["A=b"], user: { uid: 5, gid: 6 }, capabilities: { bounding: ["CAP_X"] } };
    const started = await made.exec({ execId: "probe-1", process, stdout });
    expect([await started.exited, stdout.text]).toEqual([0, "out"]);
    const request = driver.requests.find((each) => each.$typeName === "grpc.ExecProcessRequest");
    expect(request).toMatchObject({
      containerId: CONTAINER,
      execId: "probe-1",
      process: { Args: ["ls"], Cwd: "/", Env: ["A=b"], User: { UID: 5, GID: 6 }, Terminal: false },
    });
    expect(request).not.toHaveProperty("process.Capabilities");
    expect(driver.requests.at(-1)).toMatchObject({ $typeName: "grpc.WaitProcessRequest", execId: "probe-1" });
  });
});

describe("a container that runs", () => {
  it("is paused, resumed, given other limits, and says what it uses", async () => {
    const driver = new ScriptedDriver({ statsContainer: () => ({ cgroupStats: { memoryStats: { usage: { usage: 5n } } } }) });
    const made = await (await boot(driver)).createContainer(container());
    driver.requests.length = 0;
    await made.pause();
    await made.resume();
    await made.update({ memory: { limit: 268435456 }, cpu: { shares: 512, quota: -1, cpus: "0-3" }, pids: { limit: 5 } });
    expect((await made.stats()).cgroupStats?.memoryStats?.usage?.usage).toBe(5n);
    const of = { containerId: CONTAINER };
    expect(driver.requests).toMatchObject([
      { $typeName: "grpc.PauseContainerRequest", ...of },
      { $typeName: "grpc.ResumeContainerRequest", ...of },
      // Which processors of the host means nothing in the guest, and the number of processes is not for the host to say.
      { ...of, resources: { Memory: { Limit: 268435456n }, CPU: { Shares: 512n, Quota: -1n, Cpus: "" }, HugepageLimits: [] } },
      { $typeName: "grpc.StatsContainerRequest", ...of },
    ]);
    expect(driver.requests[2]).not.toHaveProperty("resources.Pids.Limit");
    await expect(made.update({ memory: { limit: "much" } })).rejects.toMatchObject({ code: "ERR_SANDBOX_SPEC" });
    await expect(made.update(null)).rejects.toMatchObject({ code: "ERR_SANDBOX_SPEC" });
  });

  it("is named when the guest's kernel ends one of its processes for want of memory", async () => {
    const events = [CONTAINER, "other"];
    const driver = new ScriptedDriver({ getOOMEvent: () => ({ containerId: events.shift() ?? "" }) });
    const sandbox = await boot(driver);
    expect([await sandbox.nextOutOfMemory(), await sandbox.nextOutOfMemory()]).toEqual([CONTAINER, "other"]);
    const waiting = new ScriptedDriver({ getOOMEvent: () => new Promise(() => undefined) });
    const asked = (await boot(waiting)).nextOutOfMemory();
    asked.catch(() => undefined);
    waiting.die();
    await expect(asked).rejects.toMatchObject({ code: "ERR_SANDBOX_CLOSED" });
  });
});

describe("ending a sandbox", () => {
  it("asks the agent, then stops the machine", async () => {
    const driver = new ScriptedDriver();
    const sandbox = await createSandbox(options(driver));
    await sandbox.destroy();
    expect([driver.names.at(-1), driver.stopped]).toEqual(["DestroySandboxRequest", 1]);
    expect(await sandbox.exited).toMatchObject({ kind: "stopped" });
  });

  it("stops the machine also if the agent does not answer or refuses", async () => {
    const refusing = new ScriptedDriver({
      destroySandbox: () => {
        throw statusError(STATUS.permissionDenied, "DestroySandboxRequest is blocked by policy: ");
      },
    });
    const lines: string[] = [];
    const logger = { log: (_level: string, message: string) => void lines.push(message) };
    const sandbox = await createSandbox(options(refusing, { logger }));
    await sandbox.destroy();
    const dead = new ScriptedDriver();
    const other = await createSandbox(options(dead, { logger }));
    dead.die();
    await other.destroy();
    expect([refusing.stopped, dead.stopped]).toEqual([1, 1]);
    expect(lines).toEqual(Array(2).fill("the agent did not end the sandbox; the machine is stopped"));
  });
});
