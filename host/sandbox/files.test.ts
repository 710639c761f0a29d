import { chmod, link, mkdir, mkdtemp, realpath, rm, stat, symlink, truncate, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { COPY_CHUNK } from "./index.ts";
import { copyFiles, type CopyFileInit } from "./copy-files.ts";
import { planMounts } from "./mounts.ts";

let directory = "";

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "sealpod-files-"));
});

afterEach(async () => {
  await rm(directory, { recursive: true });
});

const owner = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0, dirMode: 0o755 };

async function requests(source: string, target = "/t"): Promise<CopyFileInit[]> {
  const sent: CopyFileInit[] = [];
  await copyFiles({ source, target }, async (request) => void sent.push(request));
  return sent;
}

describe("CopyFile, specs/runtime.md 2.8", () => {
  it("sends a small file as one request with its mode and size", async () => {
    const path = join(directory, "hosts");
    await writeFile(path, "127.0.0.1 localhost\n");
    await chmod(path, 0o640);
    expect(await requests(path)).toEqual([
      { path: "/t", fileMode: 0o100640, ...owner, fileSize: 20n, offset: 0n, data: new Uint8Array(Buffer.from("127.0.0.1 localhost\n")) },
    ]);
  });

  it("sends an empty file as one request without data", async () => {
    const path = join(directory, "empty");
    await writeFile(path, "");
    await chmod(path, 0o600);
    expect(await requests(path)).toEqual([{ path: "/t", fileMode: 0o100600, ...owner, fileSize: 0n }]);
  });

  it.each([
    ["one byte less than a piece", COPY_CHUNK - 1, [COPY_CHUNK - 1]],
    ["one piece", COPY_CHUNK, [COPY_CHUNK]],
    ["one byte more than a piece", COPY_CHUNK + 1, [COPY_CHUNK, 1]],
    ["several pieces", 3 * COPY_CHUNK + 7, [COPY_CHUNK, COPY_CHUNK, COPY_CHUNK, 7]],
  ])("sends a file of %s in pieces of 1 MiB", async (_what, size, pieces) => {
    const path = join(directory, "large");
    const content = Uint8Array.from({ length: size }, (_unused, index) => index % 253);
    await writeFile(path, content);
    const sent = await requests(path);
    expect(sent.map((request) => request.data?.length)).toEqual(pieces);
    expect(sent.map((request) => request.offset)).toEqual(pieces.map((_unused, index) => BigInt(index * COPY_CHUNK)));
    expect(sent.every((request) => request.fileSize === BigInt(size))).toBe(true);
    expect(Buffer.concat(sent.map((request) => request.data ?? new Uint8Array())).equals(content)).toBe(true);
  });

  it("says who owns a file as it is told, by the path behind links", async () => {
    await mkdir(join(directory, "v", "..2026"), { recursive: true });
    await writeFile(join(directory, "v", "..2026", "key"), "k");
    await symlink("..2026", join(directory, "v", "..data"));
    await symlink(join(directory, "v", "..data", "key"), join(directory, "part"));
    const sent: CopyFileInit[] = [];
    const real = join(await realpath(directory), "v", "..2026", "key");
    const ownerOf = (path: string): { uid: number; gid: number } | undefined => (path === real ? { uid: 7, gid: 8 } : undefined);
    await copyFiles({ source: join(directory, "part"), target: "/t", ownerOf }, async (request) => void sent.push(request));
    expect(sent).toMatchObject([{ path: "/t", uid: 7, gid: 8, fileSize: 1n }]);
  });

  it("sends a directory before what is in it, by name, links as links", async () => {
    await mkdir(join(directory, "v", "..2026"), { recursive: true });
    await chmod(join(directory, "v"), 0o755);
    await chmod(join(directory, "v", "..2026"), 0o750);
    await writeFile(join(directory, "v", "..2026", "key"), "k", { mode: 0o600 });
    await symlink("..2026", join(directory, "v", "..data"));
    await symlink("..data/key", join(directory, "v", "key"));
    const sent = await requests(join(directory, "v"), "/t/v");
    expect(sent.map(({ path, fileMode, data }) => [path, fileMode?.toString(8), data === undefined ? "" : Buffer.from(data).toString("utf8")])).toEqual([
      ["/t/v", "40755", ""],
      ["/t/v/..2026", "40750", ""],
      ["/t/v/..2026/key", "100600", "k"],
      ["/t/v/..data", "120777", "..2026"],
      ["/t/v/key", "120777", "..data/key"],
    ]);
    expect(sent[3]).not.toHaveProperty("fileSize");
  });

  it("follows a link at the top, as a bind mount does, and none below", async () => {
    await writeFile(join(directory, "real"), "content");
    await symlink("real", join(directory, "link"));
    expect((await requests(join(directory, "link"))).map((request) => request.fileMode)).toEqual([(0o100000 | 0o644) & ~(process.umask() & 0o777)]);
  });

  it("leaves out what is neither file, directory nor link", async () => {
    await mkdir(join(directory, "v"));
    await writeFile(join(directory, "v", "file"), "");
    await link(join(directory, "v", "file"), join(directory, "v", "same"));
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(join(directory, "v", "socket"), resolve));
    const sent = await requests(join(directory, "v"));
    await new Promise((resolve) => server.close(resolve));
    expect(sent.map((request) => request.path)).toEqual(["/t", "/t/file", "/t/same"]);
  });

  it("refuses what is too large for the guest's memory, before it sends it", async () => {
    const path = join(directory, "sparse");
    await writeFile(path, "");
    await truncate(path, 512 * 1024 * 1024 + 1);
    const sent: CopyFileInit[] = [];
    await expect(copyFiles({ source: path, target: "/t" }, async (request) => void sent.push(request))).rejects.toMatchObject({ code: "ERR_SANDBOX_FILES" });
    expect(sent).toEqual([]);
  });

  it("refuses what does not exist, and stops where sending fails", async () => {
    await expect(requests(join(directory, "absent"))).rejects.toMatchObject({ code: "ERR_SANDBOX_FILES" });
    await mkdir(join(directory, "v"));
    await writeFile(join(directory, "v", "a"), "");
    let count = 0;
    const send = async (): Promise<void> => {
      if (++count === 1) throw new Error("denied");
    };
    await expect(copyFiles({ source: join(directory, "v"), target: "/t" }, send)).rejects.toThrow("denied");
    expect(count).toBe(1);
  });

  it("refuses a file that becomes shorter while it is copied", async () => {
    const path = join(directory, "large");
    await writeFile(path, new Uint8Array(2 * COPY_CHUNK));
    await expect(copyFiles({ source: path, target: "/t" }, async () => truncate(path, 10))).rejects.toMatchObject({
      code: "ERR_SANDBOX_FILES",
      message: `${path} became shorter while it was copied`,
    });
  });
});

describe("mounts, specs/runtime.md 4.2 and 4.11", () => {
  let count = 0;
  const context = { sandboxId: "5".repeat(64), containerId: "c".repeat(64), unique: () => (count++).toString(16).padStart(16, "0") };
  const shared = "/run/kata-containers/shared/containers";

  beforeEach(() => {
    count = 0;
  });

  it("keeps what the guest mounts by itself", async () => {
    const mounts = [
      { destination: "/proc", type: "proc", source: "proc", options: ["nosuid"] },
      { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["mode=755"] },
      { destination: "/host/sys", type: "bind", source: "/sys", options: ["rbind", "rprivate", "ro"] },
      { destination: "/host/fuse", type: "bind", source: "/dev/fuse", options: ["rbind", "rprivate", "rw"] },
    ];
    expect(await planMounts(mounts, context)).toEqual({ mounts, storages: [], copies: [], dropped: [] });
  });

  it("leaves of mounts at one place the last, which would hide the others", async () => {
    const shm = (type: string): Parameters<typeof planMounts>[0][number] => ({ destination: "/dev/shm", type, source: "shm", options: ["nosuid"] });
    const proc = { destination: "/proc", type: "proc", source: "proc", options: [] };
    expect((await planMounts([shm("tmpfs"), proc, shm("bind")], context)).mounts.map(({ destination }) => destination)).toEqual(["/proc", "/dev/shm"]);
  });

  it.each([
    { destination: "/dev/shm", type: "tmpfs", source: "shm", options: ["nosuid", "size=65536k"] },
    { destination: "/dev/shm", type: "bind", source: "/run/containerd/sandboxes/x/shm", options: ["rbind", "ro"] },
  ])("gives the pod's shared memory for $type", async (mount) => {
    expect((await planMounts([mount], context)).mounts).toEqual([
      { destination: "/dev/shm", type: "bind", source: "/run/kata-containers/sandbox/shm", options: ["rbind"] },
    ]);
  });

  it("copies files and directories to paths that policies expect, each mount by itself", async () => {
    const file = join(directory, "hosts");
    await writeFile(file, "");
    const bind = (destination: string, source: string): Parameters<typeof planMounts>[0][number] => ({
      destination,
      type: "bind",
      source,
      options: ["rbind", "rprivate", "rw"],
    });
    const mounts = [bind("/etc/hosts", file), bind("/var/run/secrets/", directory), bind("/again/hosts", file)];
    const targets = [
      `${shared}/${context.containerId}-0000000000000000-hosts`,
      `${shared}/${context.containerId}-0000000000000001-secrets`,
      `${shared}/${context.containerId}-0000000000000002-hosts`,
    ];
    expect(await planMounts(mounts, context)).toEqual({
      mounts: mounts.map((mount, index) => ({ ...mount, source: targets[index] })),
      storages: [],
      copies: mounts.map((mount, index) => ({ source: mount.source, target: targets[index] })),
      dropped: [],
    });
  });

  it("makes an emptyDir in the guest", async () => {
    const source = `${directory}/volumes/kubernetes.io~empty-dir/cache`;
    const mount = { destination: "/cache", type: "bind", source, options: ["rbind", "rprivate", "rw"] };
    const path = `${shared}/${context.sandboxId}/local/cache`;
    await mkdir(source, { recursive: true });
    const group = (await stat(source)).gid;
    const options = ["mode=0777", ...(group === 0 ? [] : [`fsgid=${group}`])];
    expect(await planMounts([mount], context)).toEqual({
      mounts: [{ destination: "/cache", type: "local", source: path, options: ["rbind", "rprivate", "rw"] }],
      storages: [{ driver: "local", source: "local", fstype: "local", options, mountPoint: path }],
      copies: [],
      dropped: [],
    });
  });

  it("makes it in memory and for a group, if the host says so", async () => {
    const source = `${directory}/volumes/kubernetes.io~empty-dir/fast`;
    const mount = { destination: "/fast", type: "bind", source, options: ["rbind", "rslave", "rw"] };
    const path = "/run/kata-containers/sandbox/ephemeral/fast";
    const volumes = { owner: () => ({ uid: 0, gid: 2000 }), isTmpfs: async (at: string) => at === source };
    expect(await planMounts([mount], { ...context, volumes })).toEqual({
      mounts: [{ destination: "/fast", type: "bind", source: path, options: ["rbind", "rprivate", "rw"] }],
      storages: [{ driver: "ephemeral", source: "tmpfs", fstype: "tmpfs", options: ["fsgid=2000"], mountPoint: path }],
      copies: [],
      dropped: [],
    });
  });

  it("makes shared memory of a pod's own volume", async () => {
    const source = `${directory}/volumes/kubernetes.io~empty-dir/shm`;
    const volumes = { owner: () => ({ uid: 0, gid: 0 }), isTmpfs: async () => true };
    const plan = await planMounts([{ destination: "/dev/shm", type: "bind", source, options: ["rbind", "rprivate", "rw"] }], { ...context, volumes });
    const path = "/run/kata-containers/sandbox/ephemeral/shm";
    expect(plan.mounts).toEqual([{ destination: "/dev/shm", type: "bind", source: path, options: ["rbind", "rprivate", "rw"] }]);
    expect(plan.storages).toHaveLength(1);
  });

  it("copies a part of an emptyDir: nothing tells it from other files", async () => {
    const part = `${directory}/volumes/kubernetes.io~empty-dir/cache/part`;
    await mkdir(part, { recursive: true });
    const source = `${directory}/volume-subpaths-cache-0`;
    await symlink(part, source);
    const mount = { destination: "/part", type: "bind", source, options: ["rbind", "rslave", "rw"] };
    const plan = await planMounts([mount], context);
    expect(plan.storages).toEqual([]);
    expect(plan.copies).toEqual([{ source, target: plan.mounts[0]?.source }]);
    // What is a copy follows no mounts of the host.
    expect(plan.mounts[0]?.options).toEqual(["rbind", "rprivate", "rw"]);
  });

  it("drops mounts of sockets and devices, and refuses those of nothing", async () => {
    const socket = join(directory, "socket");
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(socket, resolve));
    const bind = { destination: "/s", type: "bind", source: socket, options: ["rbind"] };
    expect(await planMounts([bind], context)).toEqual({ mounts: [], storages: [], copies: [], dropped: ["/s"] });
    await new Promise((resolve) => server.close(resolve));
    await expect(planMounts([{ ...bind, source: join(directory, "absent") }], context)).rejects.toMatchObject({ code: "ERR_SANDBOX_FILES" });
  });
});
