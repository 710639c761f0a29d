import { readFileSync } from "node:fs";
import { encodeUtf8, toBase64, toHex } from "@sealpod/core";
import { AgentService, Health, type DescMessage, type DescMethodUnary, type MessageInitShape } from "@sealpod/proto";
import { SANDBOX_SHM, SHARED_CONTAINERS, LAYER_DIRECTORY, type ContainerLayer } from "@sealpod/sandbox";
import { FRAME_TYPE, encodeFrame, STATUS, TtrpcClient, TtrpcError, type ByteStream } from "@sealpod/ttrpc";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { fileItem, linkItem, noVm, openVmWorld, skippedVm, VM_TIMEOUT, type RunningContainer, type VmSandbox, type VmWorld } from "./test-support.ts";

/** What a host that means no good can send to the agent of a running pod, past the host's own code; the policy allows all of it. */

const METHODS = AgentService.method;
/** What the language says when the program is wrong, not the request. */
const BUG = /is not a function|is not iterable|Cannot (?:read|set|convert|mix)|(?<!rule is )undefined|call stack|Invalid array length|RangeError|TypeError/;
/** Most that the agent may hold once all of this is over. */
const MAX_RESIDENT = 90 * 1024 * 1024;
/** Streams that the guest lets its host have at once. */
const MAX_STREAMS = 16;
const OPTION = "io.katacontainers.fs-opt.";
const SHARE = SHARED_CONTAINERS;

interface Answer {
  readonly code: number;
  readonly message: string;
}

/** A layer, and the disk that has it. */
interface Disk extends ContainerLayer {
  readonly source: string;
}

/** Requests as far as they are changed here. */
interface StorageInit {
  driver: string;
  source: string;
  fstype: string;
  options: string[];
  driverOptions?: string[];
  mountPoint: string;
}
interface ContainerInit {
  readonly containerId: string;
  readonly execId: string;
  readonly storages: StorageInit[];
  readonly OCI: {
    readonly Process: { readonly User: object; readonly Args: string[]; readonly Env: string[]; readonly Cwd: string };
    readonly Root: { readonly Path: string };
    readonly Mounts: { destination: string; type: string; source: string; options: string[] }[];
    readonly Linux: { readonly Namespaces: { Type: string }[] };
  };
}

/** What the guest's kernel holds for the agent. */
interface Holdings {
  readonly mounts: number;
  readonly devices: number;
  readonly groups: number;
  readonly descriptors: number;
  readonly processes: number;
  readonly entries: string;
}

describe.skipIf(noVm !== undefined)(`a pod in a utility VM under a hostile host${skippedVm}`, { timeout: VM_TIMEOUT }, () => {
  let world: VmWorld;
  let pod: VmSandbox;
  let observer: RunningContainer;
  let base: Disk;
  let leaf: Disk;
  let client: TtrpcClient;
  let before: Holdings;

  const connect = async (): Promise<TtrpcClient> => new TtrpcClient(await pod.sandbox.machine.connectAgent());
  /** A stream that was closed here counts until the guest has closed it too: until then there may be no place for another. */
  const connectRaw = async (): Promise<ByteStream> => {
    for (;;) {
      try {
        return await pod.sandbox.machine.connectAgent();
      } catch (error) {
        if (!/the peer allows/.test(String(error))) throw error;
        await client.unary(Health.method.check, {});
      }
    }
  };
  const attach = async (layer: ContainerLayer): Promise<Disk> => ({ ...layer, ...(await pod.sandbox.machine.attachDisk(layer.path)) });

  /** How a call ends: every one must, with a status whose text is a reason. */
  const answer = async <I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    over: TtrpcClient = client,
  ): Promise<Answer> => {
    try {
      await over.unary(method, request);
      return { code: STATUS.ok, message: "" };
    } catch (error) {
      if (!(error instanceof TtrpcError)) throw error;
      expect(error.code, error.message).not.toBe("ERR_TTRPC_CLOSED");
      const { code, message } = error.status;
      expect(message, method.name).toMatch(/./);
      expect(message, method.name).not.toMatch(BUG);
      return { code, message };
    }
  };

  /** What the guest's kernel holds, as a container sees it that was given the guest's own /proc and /sys. */
  const holdings = async (): Promise<Holdings> => {
    const script = `
      p=$(busybox grep -l -e "[a]gent.mjs" -e "[s]ealpod-agent" /guest/proc/[0-9]*/cmdline | busybox head -n 1); p=\${p%/cmdline}
      busybox wc -l < $p/mountinfo
      busybox ls /guest/sys/block | busybox grep -c dm-
      busybox find /guest/sys/fs/cgroup -type d | busybox wc -l
      busybox ls $p/fd | busybox wc -l
      busybox ls -d /guest/proc/[0-9]* | busybox xargs -n 1 -I X busybox readlink X/exe | busybox grep -vc busybox
      busybox ls -A $p/root/run/kata-containers $p/root/run/kata-containers/sandbox $p/root/run/kata-containers/sandbox/layers $p/root/run/kata-containers/shared/containers`;
    const { status, stdout, stderr } = await observer.exec("/bin/sh", "-c", script);
    expect([status, stderr]).toEqual([0, ""]);
    const [mounts, devices, groups, descriptors, processes, ...entries] = stdout.split("\n");
    return {
      mounts: Number(mounts),
      devices: Number(devices),
      groups: Number(groups),
      descriptors: Number(descriptors),
      processes: Number(processes),
      entries: entries.join("\n"),
    };
  };

  /** The agent's own memory in bytes. */
  const resident = async (): Promise<number> => {
    const { metrics } = await client.unary(METHODS.getMetrics, {});
    return Number(/^kata_agent_total_rss (\d+)$/m.exec(metrics)?.[1]) * 4096;
  };

  const hashOption = (rootHash: Uint8Array): string => `${OPTION}root-hash=${toHex(rootHash)}`;
  const layerOptions = ({ rootHash }: ContainerLayer): string[] => ["ro", `${OPTION}block_device=file`, `${OPTION}is-layer`, hashOption(rootHash)];

  const layerStorage = (disk: Disk): StorageInit => ({
    driver: "blk",
    source: disk.source,
    fstype: "erofs",
    options: layerOptions(disk),
    mountPoint: `${LAYER_DIRECTORY}/${disk.layerId}`,
  });

  /** A request for a container of these layers, top first; it works as it is. */
  const containerRequest = (id: string, disks: readonly Disk[], args: readonly string[] = ["/bin/busybox", "true"]): ContainerInit => ({
    containerId: id,
    execId: id,
    storages: [
      ...disks.map(layerStorage),
      {
        driver: "overlayfs",
        source: "none",
        fstype: "fuse3.kata-overlay",
        options: [
          ...disks.map((disk) => `${OPTION}layer=${toBase64(encodeUtf8([disk.layerId, "erofs", ...layerOptions(disk)].join(",")))}`),
          `${OPTION}overlay-rw`,
          `lowerdir=${disks.map(({ layerId }) => layerId).join(":")}`,
        ],
        mountPoint: `${SHARE}/${id}`,
      },
    ],
    OCI: {
      Process: { User: {}, Args: [...args], Env: ["PATH=/bin"], Cwd: "/" },
      Root: { Path: `${SHARE}/${id}` },
      Mounts: [
        { destination: "/proc", type: "proc", source: "proc", options: [] },
        { destination: "/dev", type: "tmpfs", source: "tmpfs", options: [] },
      ],
      Linux: { Namespaces: [{ Type: "pid" }, { Type: "mount" }] },
    },
  });

  /** Runs a container to its end and removes it. */
  const runThrough = async (id: string, disks: readonly Disk[], args?: readonly string[]): Promise<{ readonly status: number; readonly stdout: string }> => {
    await client.unary(METHODS.createContainer, containerRequest(id, disks, args));
    await client.unary(METHODS.startContainer, { containerId: id });
    let stdout = "";
    for (;;) {
      const { data } = await client.unary(METHODS.readStdout, { containerId: id, execId: "", len: 4096 });
      if (data.length === 0) break;
      stdout += Buffer.from(data).toString("utf8");
    }
    const { status } = await client.unary(METHODS.waitProcess, { containerId: id, execId: "" });
    await client.unary(METHODS.removeContainer, { containerId: id });
    return { status, stdout };
  };

  const expectRefused = async (request: ContainerInit, reason: RegExp): Promise<void> => {
    const { code, message } = await answer(METHODS.createContainer, request);
    expect([code, message]).toEqual([expect.not.stringMatching(/^0$/), expect.stringMatching(reason)]);
    expect(code).not.toBe(STATUS.ok);
  };

  /** Some things of the kernel go a moment after the call that ended them: a look takes longer than that. */
  const expectNothingLeft = async (): Promise<void> => {
    let found = await holdings();
    for (let look = 0; look < 5 && JSON.stringify(found) !== JSON.stringify(before); look++) found = await holdings();
    expect(found).toEqual(before);
  };

  beforeAll(async () => {
    world = await openVmWorld();
    pod = await world.boot();
    const busybox = await world.layer([fileItem("bin/busybox", readFileSync("/usr/bin/busybox")), linkItem("bin/sh", "busybox")]);
    const small = await world.layer([fileItem("etc/leaf", "a leaf\n", 0o644)]);
    observer = await pod.run({
      layers: [busybox],
      args: ["/bin/busybox", "sleep", "100000"],
      capabilities: ["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH"],
      mounts: [
        { destination: "/guest/proc", type: "bind", source: "/proc", options: ["rbind"] },
        { destination: "/guest/sys", type: "bind", source: "/sys", options: ["rbind"] },
      ],
    });
    client = await connect();
    [base, leaf] = [await attach(busybox), await attach(small)];
    // Once what is needed once is there.
    expect(await runThrough("first", [leaf, base], ["/bin/busybox", "cat", "/etc/leaf"])).toEqual({ status: 0, stdout: "a leaf\n" });
    await holdings();
    before = await holdings();
    expect(before.devices).toBe(2);
  }, VM_TIMEOUT);

  afterAll(async () => {
    if (client !== undefined) client.close();
    await world[Symbol.asyncDispose]();
  });

  it("refuses ids that are none, whatever the method", async () => {
    const ids = [
      "",
      ".",
      "..",
      "../../etc",
      "/",
      "a/b",
      "-rf",
      "a\0b",
      "a b",
      "a\nb",
      "\u{202e}x",
      "__proto__",
      "x",
      "sandbox",
      "shared",
      "namespace",
      "y".repeat(129),
      "z".repeat(1e6),
    ];
    for (const id of ids) {
      const answers = await Promise.all([
        answer(METHODS.createContainer, { ...containerRequest("good", [leaf, base]), containerId: id }),
        answer(METHODS.startContainer, { containerId: id }),
        answer(METHODS.removeContainer, { containerId: id }),
        answer(METHODS.execProcess, { containerId: id, execId: "e1", process: { User: {}, Args: ["/x"], Cwd: "/" } }),
        answer(METHODS.signalProcess, { containerId: id, signal: 9 }),
        answer(METHODS.statsContainer, { containerId: id }),
        answer(METHODS.pauseContainer, { containerId: id }),
        answer(METHODS.getDiagnosticData, { containerId: id, logType: "termination_log" }),
      ]);
      for (const { code, message } of answers) expect([code, message]).toEqual([STATUS.invalidArgument, expect.stringMatching(/container_id .* is not an id/)]);
    }
    await expectNothingLeft();
  });

  it("writes nothing through links and `..`, and mounts nothing outside its root", async () => {
    const id = "planter";
    const request = containerRequest(
      id,
      [leaf, base],
      ["/bin/sh", "-c", "busybox ln -s /run /volume/link; busybox ln -s ../../../../../etc /volume/up; busybox sleep 100000"],
    );
    const volume = `${SHARE}/${id}-volume`;
    request.storages.push({ driver: "local", source: "local", fstype: "local", options: ["mode=0777"], mountPoint: volume });
    const mounts = [...request.OCI.Mounts, { destination: "/volume", type: "bind", source: volume, options: ["rbind", "rw"] }];
    await client.unary(METHODS.createContainer, { ...request, OCI: { ...request.OCI, Mounts: mounts } });
    await client.unary(METHODS.startContainer, { containerId: id });
    while (!(await observer.exec("/bin/sh", "-c", `busybox ls /guest/proc/1/root${volume}`)).stdout.includes("up")) continue;

    const file = { fileSize: 1n, fileMode: 0o100644, dirMode: 0o755, data: Uint8Array.of(0x78) };
    const paths = [
      `${volume}/link/owned`,
      `${volume}/up/owned`,
      `${volume}/link/kata-containers/owned`,
      `${SHARE}/../../../owned`,
      `${SHARE}/x/../../../../owned`,
      "/run/owned",
      "/etc/owned",
      "owned",
      "",
      "/",
      SHARE,
      `${SHARE}/`,
      `${SHARE}/./owned`,
      `${SHARE}//owned`,
      `${SHARE}/a\0b`,
      `${SHARE}/${"d/".repeat(3000)}owned`,
      `${SHARE}/${"n".repeat(300)}`,
      "/proc/self/fd/3",
    ];
    for (const path of paths) {
      for (const fileMode of [0o100644, 0o040755, 0o120777]) {
        const { code, message } = await answer(METHODS.copyFile, {
          ...file,
          path,
          fileMode,
          ...(fileMode === 0o040755 ? { fileSize: 0n, data: new Uint8Array(0) } : {}),
        });
        expect([path.slice(0, 100), fileMode, code], message).toEqual([path.slice(0, 100), fileMode, STATUS.invalidArgument]);
      }
    }
    for (const mountPoint of [...paths, "/run/kata-containers", LAYER_DIRECTORY, `${LAYER_DIRECTORY}/mine`, SANDBOX_SHM, "/dev/shm", "/proc/1", "/usr"]) {
      for (const driver of ["ephemeral", "local"]) {
        const hostile = containerRequest("victim", [leaf, base]);
        hostile.storages.unshift({ driver, source: "x", fstype: driver === "local" ? "local" : "tmpfs", options: [], mountPoint });
        const { code, message } = await answer(METHODS.createContainer, hostile);
        expect([mountPoint.slice(0, 100), code === STATUS.ok], message).toEqual([mountPoint.slice(0, 100), false]);
      }
    }
    const owned = await observer.exec("/bin/sh", "-c", "cd /guest/proc/1/root; busybox find run tmp etc dev/shm -xdev -name 'owned*'");
    expect(owned.stdout).toBe("");
    await client.unary(METHODS.removeContainer, { containerId: id });
    // The volume is the pod's, and stays as long.
    before = { ...before, entries: `${before.entries}${id}-volume\n` };
    await expectNothingLeft();
  });

  it("takes no disk but one that is free, and under no other hash than its own", async () => {
    const wrong = { ...leaf, layerId: "d".repeat(64), rootHash: new Uint8Array(32).fill(7) };
    // The root disk is the second one that a path of this bus finds; its names in the guest, and others of it, and none.
    for (const source of [
      "/dev/vda",
      "/dev/mapper/sealpod-root",
      "/dev/dm-0",
      "dm-0",
      "../vda",
      "/dev/../dev/vda",
      "/dev/vdb1",
      "/dev/vda\0",
      "/proc/kcore",
      "",
      "ff/ff",
      "1f/1f",
    ]) {
      await expectRefused(containerRequest("victim", [{ ...leaf, layerId: "e".repeat(64), source }, base]), /in use|is no disk|there is no disk|NUL/);
    }
    await expectRefused(containerRequest("victim", [wrong, base]), /root hash/);
    await expectRefused(containerRequest("victim", [leaf, wrong, base]), /is another storage|in use/);
    await expectRefused(containerRequest("victim", [leaf, { ...wrong, layerId: leaf.layerId }, base]), /two storages are to be mounted/);

    // A container holds the leaf; the same disk again, under its own hash and another, elsewhere and in the same place.
    await client.unary(METHODS.createContainer, containerRequest("holder", [leaf, base]));
    await expectRefused(containerRequest("victim", [wrong, base]), /is another storage|in use/);
    await expectRefused(containerRequest("victim", [{ ...wrong, layerId: leaf.layerId }, base]), /another storage is mounted there/);
    await expectRefused(containerRequest("victim", [{ ...leaf, layerId: "c".repeat(64) }, base]), /is another storage|in use/);
    const scratch = containerRequest("victim", [base]);
    scratch.storages.unshift({
      driver: "blk",
      source: leaf.source,
      fstype: "ext4",
      options: [],
      driverOptions: ["encryption_key=ephemeral"],
      mountPoint: `${SHARE}/scratch`,
    });
    await expectRefused(scratch, /is another storage|in use/);
    await client.unary(METHODS.removeContainer, { containerId: "holder" });

    // A free disk that nobody may write to.
    const large = await attach(await world.layer([fileItem("etc/large", new Uint8Array(4 << 20).fill(1), 0o644)]));
    scratch.storages.splice(0, 1, {
      ...layerStorage(large),
      fstype: "ext4",
      options: [],
      driverOptions: ["encryption_key=ephemeral"],
      mountPoint: `${SHARE}/scratch`,
    });
    await expectRefused(scratch, /(?:dmsetup|mkfs.ext4) failed/);

    for (const lowerdir of ["..", ".", `${leaf.layerId}/..`, leaf.layerId, `${base.layerId}:../../sandbox`, "", "/"]) {
      const request = containerRequest("victim", [base]);
      request.storages.splice(-1, 1, {
        driver: "overlayfs",
        source: "none",
        fstype: "fuse3.kata-overlay",
        mountPoint: `${SHARE}/victim`,
        options: [`${OPTION}overlay-rw`, `lowerdir=${lowerdir}`],
      });
      await expectRefused(request, /is no layer of this container|is not that of the layer/);
    }
    for (const change of [
      { mountPoint: "/etc" },
      { mountPoint: `${SHARE}/elsewhere` },
      { mountPoint: `${LAYER_DIRECTORY}/../x` },
      { fstype: "ext4" },
      { options: ["rw"] },
      { driver: "nvdimm" },
    ]) {
      const request = containerRequest("victim", [leaf, base]);
      request.storages.splice(0, 1, { ...layerStorage(leaf), ...change });
      await expectRefused(request, /./);
    }
    // All of that cost the disk nothing.
    expect(await runThrough("after", [leaf, base], ["/bin/busybox", "cat", "/etc/leaf"])).toEqual({ status: 0, stdout: "a leaf\n" });
    await expectNothingLeft();
  });

  it("answers messages of any size with a status, and goes on", async () => {
    const mebibytes = 1024 * 1024;
    const text = "a".repeat(3.9 * mebibytes);
    const many = Array.from({ length: 10_000 }, (_, index) => `A${index}=${index}`);
    const container = containerRequest("giant", [leaf, base]);
    const { Process: process } = container.OCI;
    for (const request of [
      { ...container, OCI: { ...container.OCI, Process: { ...process, Args: [text] } } },
      { ...container, OCI: { ...container.OCI, Process: { ...process, Env: many } } },
      { ...container, OCI: { ...container.OCI, Annotations: Object.fromEntries(many.map((name) => [name, name])) } },
      {
        ...container,
        OCI: { ...container.OCI, Mounts: many.slice(0, 100).map((name) => ({ destination: `/${name}`, type: "tmpfs", source: "tmpfs", options: [] })) },
      },
      {
        ...container,
        storages: many.slice(0, 2000).map((name) => ({ driver: "local", source: "local", fstype: "local", options: [], mountPoint: `${SHARE}/${name}` })),
      },
    ]) {
      const { code } = await answer(METHODS.createContainer, request);
      if (code === STATUS.ok) await client.unary(METHODS.removeContainer, { containerId: "giant" });
    }
    expect((await answer(METHODS.setPolicy, { policy: text })).code).not.toBe(STATUS.ok);
    expect((await answer(METHODS.reseedRandomDev, { data: new Uint8Array(4 * mebibytes - 100) })).code).toBeDefined();

    // Longer than a message may be: refused here, so by hand.
    for (const length of [4 * mebibytes + 1, 16 * mebibytes]) {
      const stream = await connectRaw();
      const header = new Uint8Array(10);
      new DataView(header.buffer).setUint32(0, length);
      new DataView(header.buffer).setUint32(4, 1_000_001);
      header[8] = FRAME_TYPE.request;
      await stream.write(header);
      for (let sent = 0; sent < length;) {
        const piece = new Uint8Array(Math.min(mebibytes, length - sent));
        await stream.write(piece);
        sent += piece.length;
      }
      const own = new TtrpcClient(stream);
      expect((await own.unary(Health.method.check, {})).status).toBe(1);
      own.close();
    }
    // Bytes that are no message, and a length that never comes.
    for (const bytes of [Uint8Array.of(255, 255, 255, 255, 0, 0, 0, 1, 1, 0), new Uint8Array(100_000).fill(0xff), new Uint8Array(100_000)]) {
      const stream = await connectRaw();
      await stream.write(bytes);
      stream.close();
    }
    await expectNothingLeft();
  });

  it("takes thousands of calls at once, on one stream and on many", async () => {
    const refused = await Promise.all(Array.from({ length: 2000 }, (_, index) => answer(METHODS.statsContainer, { containerId: `c${index}` })));
    expect(new Set(refused.map(({ code }) => code))).toEqual(new Set([STATUS.invalidArgument]));
    // Those that are there already are the observer's and this one's.
    const clients = await Promise.all(Array.from({ length: MAX_STREAMS - 2 }, connect));
    await expect(connect()).rejects.toMatchObject({ code: "ERR_VMM_AGENT", message: expect.stringContaining("the peer allows 16") as string });
    const checks = await Promise.all(clients.flatMap((own) => Array.from({ length: 50 }, async () => (await own.unary(Health.method.check, {})).status)));
    expect(new Set(checks)).toEqual(new Set([1]));
    // Polls that nobody waits for: more than the agent holds, on streams that end under them.
    for (const own of clients) for (let count = 0; count < 20; count++) own.unary(METHODS.getOOMEvent, {}).catch(() => undefined);
    for (const own of clients)
      for (let count = 0; count < 20; count++) own.unary(METHODS.waitProcess, { containerId: pod.id, execId: "" }).catch(() => undefined);
    for (const own of clients) own.close();
    await expectNothingLeft();
  });

  it("is left nothing of streams that end in the middle of something", async () => {
    const frame = encodeFrame({ streamId: 1, type: FRAME_TYPE.request, flags: 0 }, new Uint8Array(1000));
    for (let count = 0; count < 100; count++) {
      const stream = await connectRaw();
      const length = (count * 7) % 200;
      if (length > 0) await stream.write(frame.subarray(0, length));
      stream.close();
    }
    expect((await client.unary(Health.method.check, {})).status).toBe(1);
    await expectNothingLeft();
  });

  it("makes one container of many requests for one id, whatever is asked of it meanwhile", async () => {
    for (let round = 0; round < 4; round++) {
      const request = containerRequest("raced", [leaf, base], ["/bin/busybox", "sleep", "100000"]);
      const calls = Array.from({ length: 6 }, () => [
        answer(METHODS.createContainer, request),
        answer(METHODS.startContainer, { containerId: "raced" }),
        answer(METHODS.execProcess, { containerId: "raced", execId: "e1", process: { User: {}, Args: ["/bin/busybox", "true"], Cwd: "/" } }),
        answer(METHODS.signalProcess, { containerId: "raced", signal: 9 }),
      ]).flat();
      const codes = (await Promise.all(calls)).map(({ code }) => code);
      // The four kinds alternate.
      expect(codes.filter((code, index) => index % 4 === 0 && code === STATUS.ok)).toHaveLength(1);
      const ends = await Promise.all([
        ...Array.from({ length: 4 }, () => answer(METHODS.removeContainer, { containerId: "raced" })),
        ...Array.from({ length: 2 }, () => answer(METHODS.createContainer, request)),
        answer(METHODS.startContainer, { containerId: "raced" }),
      ]);
      expect(ends.slice(0, 4).filter(({ code }) => code === STATUS.ok)).toHaveLength(1);
      await answer(METHODS.removeContainer, { containerId: "raced" });
      expect((await answer(METHODS.removeContainer, { containerId: "raced" })).message).toMatch(/there is no container/);
    }
    await expectNothingLeft();
  });

  it("takes calls in any order", async () => {
    // The same order each time: xorshift.
    let state = 0x9e3779b9;
    const pick = <T>(values: readonly [T, ...T[]]): T => {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      return values[(state >>> 0) % values.length] ?? values[0];
    };
    const ids = ["o1", "o2", "o3"] as const;
    const process = { User: {}, Args: ["/bin/busybox", "echo", "x"], Cwd: "/" };
    const next = (): Promise<Answer> => {
      const containerId = pick(ids);
      const execId = pick(["", "e1", "e2", containerId]);
      return pick<() => Promise<Answer>>([
        () =>
          answer(
            METHODS.createContainer,
            containerRequest(containerId, [leaf, base], pick([["/bin/busybox", "sleep", "1000"], ["/bin/busybox", "true"], ["/none"]])),
          ),
        () => answer(METHODS.createSandbox, { sandboxId: containerId }),
        () => answer(METHODS.startContainer, { containerId }),
        () => answer(METHODS.removeContainer, { containerId }),
        () => answer(METHODS.execProcess, { containerId, execId, process }),
        () => answer(METHODS.signalProcess, { containerId, execId, signal: pick([9, 15, 0, 64, 4_000_000_000]) }),
        () => answer(METHODS.pauseContainer, { containerId }),
        () => answer(METHODS.resumeContainer, { containerId }),
        () => answer(METHODS.updateContainer, { containerId, resources: { Memory: { Limit: pick([0n, 1n << 26n, -1n, -5n]) } } }),
        () => answer(METHODS.statsContainer, { containerId }),
        () => answer(METHODS.writeStdin, { containerId, execId, data: new Uint8Array(10) }),
        () => answer(METHODS.closeStdin, { containerId, execId }),
        () => answer(METHODS.ttyWinResize, { containerId, execId, row: 10, column: 4_000_000_000 }),
        () => answer(METHODS.getDiagnosticData, { containerId, logType: "termination_log" }),
        () => answer(METHODS.getVolumeStats, { volumeGuestPath: `${SHARE}/${containerId}` }),
        () => answer(METHODS.updateEphemeralMounts, { storages: [{ driver: "ephemeral", fstype: "tmpfs", options: ["size=1m"], mountPoint: SANDBOX_SHM }] }),
      ])();
    };
    // Several at a time; a poll may not end before its container does.
    const lanes = Array.from({ length: 4 }, async () => {
      for (let count = 0; count < 30; count++) await next();
    });
    await Promise.all(lanes);
    for (const containerId of ids) {
      await answer(METHODS.resumeContainer, { containerId });
      await answer(METHODS.removeContainer, { containerId });
    }
    await expectNothingLeft();
  });

  it("has nothing left of dozens of containers, and runs another", async () => {
    for (let round = 0; round < 6; round++) {
      const outcomes = await Promise.all(
        Array.from({ length: 4 }, (_, lane) => runThrough(`many-${round}-${lane}`, [leaf, base], ["/bin/busybox", "cat", "/etc/leaf"])),
      );
      for (const outcome of outcomes) expect(outcome).toEqual({ status: 0, stdout: "a leaf\n" });
    }
    await expectNothingLeft();
    const { process } = await pod.run({ layers: [leaf, base].toReversed(), args: ["/bin/busybox", "grep", "-q", "leaf", "/etc/leaf"] });
    expect(await process.exited).toBe(0);
    const bytes = await resident();
    expect(bytes).toBeLessThan(MAX_RESIDENT);
    await pod.sandbox.destroy();
    expect((await pod.sandbox.exited).kind).not.toBe("killed");
  });
});
