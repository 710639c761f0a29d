import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type CgroupHierarchy, joinPodCgroup, type JoinedCgroup, parseHierarchies, podCgroupOf, removeCgroup } from "./pod-cgroup.ts";

describe("the cgroup of a pod", () => {
  it.each([
    ["/kubepods/burstable/pod1/abc", { pod: "/kubepods/burstable/pod1", own: "abc" }],
    [
      "kubepods-burstable-pod1_2.slice:cri-containerd:abc",
      { pod: "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice", own: "cri-containerd-abc.scope" },
    ],
    ["kubepods.slice::abc", { pod: "/kubepods.slice", own: "abc.scope" }],
    ["a.slice:x:b.slice", { pod: "/a.slice", own: "b.slice" }],
    ["/abc", undefined],
    ["-.slice:cri-containerd:abc", undefined],
    ["", undefined],
  ])("of %j", (cgroupsPath, expected) => expect(podCgroupOf({ linux: { cgroupsPath } })).toEqual(expected));

  it("is none if the specification names none", () => expect(podCgroupOf({ linux: {} })).toBeUndefined());

  it.each([
    "abc",
    "kubepods/pod",
    "/a/../b",
    "/a//b",
    "/a/b/",
    "/a/\0",
    "a:b:c",
    "a.slice:b",
    "a/b.slice:c:d",
    "a--b.slice:c:d",
    "..-a.slice:c:d",
    "a.slice:b/..:c",
    "a.slice:b:../c",
    5,
    `/${"x".repeat(5000)}/y`,
  ])("is refused: %j", (cgroupsPath) => expect(() => podCgroupOf({ linux: { cgroupsPath } })).toThrow(/linux.cgroupsPath is .*, expected/));
});

describe("the hierarchies of a host", () => {
  it("are those of version 1, each once, and that of version 2 beside them", () => {
    const mounts = [
      "25 24 0:21 / /sys/fs/cgroup rw,relatime shared:1 - tmpfs tmpfs rw,mode=755",
      "26 25 0:22 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct",
      "27 25 0:23 / /sys/fs/cgroup/memory rw shared:9 master:1 - cgroup cgroup rw,memory",
      "28 25 0:23 / /mnt/again rw - cgroup cgroup rw,memory",
      "29 25 0:24 / /sys/fs/cgroup/sys\\040temd rw - cgroup cgroup rw,xattr,name=systemd",
      "30 25 0:25 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate",
      "31 25 0:26 / /sys/fs/cgroup/other rw - cgroup cgroup rw,net_cls",
      "",
    ].join("\n");
    const own = "4:cpu,cpuacct:/\n3:memory:/system.slice/containerd.service\n2:name=systemd:/s:t\n0::/u\n";
    expect(parseHierarchies(mounts, own)).toEqual([
      { version: 1, directory: "/sys/fs/cgroup/cpu,cpuacct", controllers: ["cpu", "cpuacct"], current: "/" },
      { version: 1, directory: "/sys/fs/cgroup/memory", controllers: ["memory"], current: "/system.slice/containerd.service" },
      { version: 1, directory: "/sys/fs/cgroup/sys temd", controllers: ["name=systemd"], current: "/s:t" },
      { version: 2, directory: "/sys/fs/cgroup/unified", controllers: [], current: "/u" },
    ]);
  });
});

describe("a shim that joins its pod's cgroup", () => {
  const POD = { pod: "/kubepods/pod1", own: "abc" };
  let root = "";
  let lines: string[] = [];
  let made: string[] = [];

  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), "cgroup-"));
    lines = [];
    made = [];
  });
  afterEach(() => rm(root, { recursive: true }));

  /** A directory that looks like a hierarchy: the kernel's files are plain ones. */
  async function hierarchy(name: string, version: 1 | 2, groups: readonly string[], controllers: readonly string[] = [name]): Promise<CgroupHierarchy> {
    for (const group of ["", "/service", ...groups]) {
      await mkdir(join(root, name, group), { recursive: true });
      await writeFile(join(root, name, group, "cgroup.procs"), "");
    }
    return { version, directory: join(root, name), controllers: version === 2 ? [] : controllers, current: "/service" };
  }
  const join_ = (hierarchies: readonly CgroupHierarchy[]): Promise<JoinedCgroup> =>
    joinPodCgroup(POD, {
      pid: 42,
      logger: { log: (level, text) => void lines.push(`${level}: ${text}`) },
      making: (path) => void made.push(path.slice(root.length)),
      hierarchies: async () => hierarchies,
    });
  const procs = (path: string): Promise<string> => readFile(join(root, path, "cgroup.procs"), "utf8");

  it("is in the pod's own one in each hierarchy of version 1 that has it, and goes back to where it was", async () => {
    const joined = await join_([await hierarchy("memory", 1, [POD.pod]), await hierarchy("cpu", 1, [POD.pod]), await hierarchy("blkio", 1, [])]);
    expect([await procs(`memory${POD.pod}`), await procs(`cpu${POD.pod}`), await procs("blkio/service")]).toEqual(["42", "42", ""]);
    expect([made, lines]).toEqual([[], []]);
    await joined.leave();
    expect([await procs("memory/service"), await procs("cpu/service"), await procs("blkio/service")]).toEqual(["42", "42", ""]);
  });

  it("has one of its own in version 2, which is written down before it is made", async () => {
    const two = await hierarchy("two", 2, [POD.pod, `${POD.pod}/abc`]);
    const joined = await join_([two]);
    expect(made).toEqual(["/two/kubepods/pod1/abc"]);
    expect([await procs("two/kubepods/pod1"), await procs("two/kubepods/pod1/abc")]).toEqual(["", "42"]);
    // A directory of the kernel's is removed with its files.
    await rm(join(root, "two/kubepods/pod1/abc/cgroup.procs"));
    await joined.leave();
    expect(existsSync(join(root, "two/kubepods/pod1/abc"))).toBe(false);
    expect(await procs("two/service")).toBe("42");
  });

  it("says that nobody made the pod's", async () => {
    await join_([await hierarchy("memory", 1, [])]);
    expect(lines).toEqual(["warn: the pod has no cgroup that counts its memory: nobody made it"]);
  });

  it("goes on without a hierarchy that takes nobody, but not without the one that counts memory, and is then in none", async () => {
    const broken = async (name: string): Promise<CgroupHierarchy> => {
      const found = await hierarchy(name, 1, [POD.pod]);
      await rm(join(root, name, POD.pod, "cgroup.procs"));
      await mkdir(join(root, name, POD.pod, "cgroup.procs"));
      return found;
    };
    const memory = await hierarchy("memory", 1, [POD.pod]);
    await join_([await broken("cpuset"), memory]);
    expect(lines).toEqual(["warn: a hierarchy of cgroups does not count the pod"]);
    const cpu = await hierarchy("cpu", 1, [POD.pod]);
    await expect(join_([cpu, { ...(await broken("memory2")), controllers: ["memory"] }])).rejects.toMatchObject({ code: "ERR_SHIM_POD" });
    expect(await procs("cpu/service")).toBe("42");
  });

  it("goes to the root if the cgroup of the service that started it is gone", async () => {
    const joined = await join_([await hierarchy("memory", 1, [POD.pod])]);
    await rm(join(root, "memory/service"), { recursive: true });
    await joined.leave();
    expect(await procs("memory")).toBe("42");
  });

  it("removes a cgroup once nobody is in it, and none that is not there", async () => {
    await removeCgroup(join(root, "absent"));
    await mkdir(join(root, "c"));
    await removeCgroup(join(root, "c"));
    await expect(removeCgroup(root.slice(0, 1))).rejects.toMatchObject({ code: "EBUSY" });
  });
});
