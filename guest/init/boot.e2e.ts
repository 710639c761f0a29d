import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { compileInit } from "./index.ts";
import { boot, debianPackage, initrdOf, Kernel, MODULES, present, type Root, rootOf, run, type TreeFile, verityParameter } from "./test-support.ts";

const BUSYBOX = "/bin/busybox";
const TESTDATA = join(import.meta.dirname, "testdata");
const VSOCK_MODULES = ["vsock", "vmw_vsock_virtio_transport_common", "vsock_loopback"];

const tcc = debianPackage("tcc");
const kernelPackage = debianPackage("linux-image-cloud-amd64");
const ready = tcc !== undefined && kernelPackage !== undefined && present("qemu-system-x86_64") && present("busybox");

/** What the guest's image says of itself, and the tests change. */
interface Settings {
  /** Arguments of the agent's stand-in. */
  readonly agent?: readonly string[];
  readonly init?: string;
  readonly mounts?: string;
}

// Each machine has one processor, and waits for nothing but it: several at once use all that there are.
describe.skipIf(!ready).concurrent("process 1 (skipped without Debian's tcc and cloud kernel, QEMU and busybox)", () => {
  let directory: string;
  let kernel: Kernel;
  let init: Uint8Array;
  let peer: Uint8Array;

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), "sealpod-boot-"));
    kernel = new Kernel(kernelPackage ?? "");
    init = await compileInit({ tcc: tcc ?? "", output: join(directory, "init"), run });
    peer = await compileInit({ tcc: tcc ?? "", output: join(directory, "peer"), run, source: join(TESTDATA, "peer.c") });
  });
  afterAll(() => rmSync(directory, { recursive: true }));

  function initrd(order: readonly string[] = MODULES): Uint8Array {
    const modules = MODULES.map((name): TreeFile => ({ path: `modules/${name}.ko`, content: kernel.module(name) }));
    const lines = order.map((name) => (name.endsWith("?") ? `${name.slice(0, -1)}.ko?\n` : `${name}.ko\n`)).join("");
    return initrdOf([{ path: "init", content: init }, { path: "dev" }, { path: "modules" }, ...modules, { path: "modules/order", content: lines }]);
  }

  async function root({ agent = ["look"], ...settings }: Settings = {}): Promise<Root> {
    const directories = "bin dev etc etc/sealpod proc run sys tmp usr usr/bin usr/lib usr/lib/sealpod usr/lib/sealpod/modules var var/lib var/lib/sealpod";
    return rootOf([
      ...directories.split(" ").map((path): TreeFile => ({ path })),
      { path: "usr/bin/busybox", content: readFileSync(BUSYBOX) },
      { path: "usr/lib/sealpod/agent.sh", content: readFileSync(join(TESTDATA, "agent.sh")), mode: 0o644 },
      { path: "usr/lib/sealpod/helper", content: init },
      { path: "usr/lib/sealpod/peer", content: peer },
      ...VSOCK_MODULES.map((name): TreeFile => ({ path: `usr/lib/sealpod/modules/${name}.ko`, content: kernel.module(name), mode: 0o644 })),
      {
        path: "etc/sealpod/mounts",
        content: settings.mounts ?? "tmpfs /run nosuid,nodev,mode=755,size=10%\ntmpfs /tmp nosuid,nodev,noexec,mode=1777\ntmpfs /var/lib/sealpod ro\n",
        mode: 0o644,
      },
      { path: "etc/sealpod/init", content: settings.init ?? ["/usr/bin/busybox", "sh", "/usr/lib/sealpod/agent.sh", ...agent, ""].join("\n"), mode: 0o644 },
    ]);
  }

  /** Lines of the console that begin with `name: `, without it. */
  const answers = (console: string, name: string): readonly string[] =>
    console
      .split("\n")
      .filter((line) => line.startsWith(`${name}: `))
      .map((line) => line.slice(name.length + 2));

  it("brings the machine into its verified root, and down again when the agent ends", async () => {
    const made = await root({ agent: ["look", "two words", "", "--flag=1"] });
    // Words that the kernel does not know become arguments and environment of the first process: PATH and the like must not come from there.
    const commandLine = `LD_PRELOAD=/x PATH=/evil NODE_OPTIONS=--inspect word ${verityParameter(made)} root=/dev/dm-0 ro -- more --words`;
    const console = await boot({ kernel, initrd: initrd([...MODULES, "none?"]), disk: made.disk, commandLine, directory });
    const told = (name: string): readonly string[] => answers(console, name);
    expect(told("argument")).toEqual(["look", "two words", "", "--flag=1"]);
    expect(told("environment")).toEqual(["PATH=/usr/sbin:/usr/bin", "HOME=/"]);
    const mounts = told("mount").map((line) => line.replace(/,(?:relatime|inode64|size=\d+k|nr_inodes=\d+|user_xattr|acl|cache_strategy=\w+)/g, ""));
    expect(mounts).toEqual([
      "devtmpfs /dev devtmpfs rw,nosuid,noexec,mode=755",
      "proc /proc proc rw,nosuid,nodev,noexec",
      "sysfs /sys sysfs rw,nosuid,nodev,noexec",
      "/dev/dm-0 / erofs ro,nosuid,nodev",
      "devpts /dev/pts devpts rw,nosuid,noexec,mode=620,ptmxmode=666",
      "tmpfs /dev/shm tmpfs rw,nosuid,nodev",
      "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec,nsdelegate",
      "tmpfs /run tmpfs rw,nosuid,nodev,mode=755",
      "tmpfs /tmp tmpfs rw,nosuid,nodev,noexec",
      "tmpfs /var/lib/sealpod tmpfs ro",
    ]);
    expect(told("controllers")).toEqual(["cpuset cpu io memory pids"]);
    expect(told("loopback")).toEqual(["0x9"]);
    expect(told("ping").join()).toContain("1 packets received");
    expect(told("limit").join()).toMatch(/^Max open files +1048576 +1048576 +files/);
    // A session of its own: its number is that of the process.
    expect(told("status")).toEqual(["Pid: 82", "PPid: 1", "NSsid: 82", "SigBlk: 0000000000000000"].map((line) => line.replace("82", told("process").join())));
    expect(told("descriptor").slice(0, 3)).toEqual(["0 /dev/null", "1 /dev/console", "2 /dev/console"]);
    expect(told("descriptors of 1")).toEqual(["0 1 2"]);
    expect(told("root").join().trim()).toBe(". .. bin dev etc proc run sys tmp usr var");
    expect(told("write").join()).toContain("Read-only file system");
    expect(told("sealpod-init")).toEqual(["load none.ko: error 2", "agent ended with 7"]);
    expect(console).toContain("reboot: Power down");
  });

  it("waits for every orphan, takes no signal, and ends the machine with the agent whatever else runs", async () => {
    const made = await root({ agent: ["orphans"] });
    const console = await boot({ kernel, initrd: initrd(), disk: made.disk, commandLine: verityParameter(made), directory });
    expect(answers(console, "orphans")).toEqual(["all"]);
    expect(answers(console, "unreaped")).toEqual(["0"]);
    expect(answers(console, "sealpod-init")).toEqual(["agent ended with signal 11"]);
    expect(console).toContain("reboot: Power down");
  });

  it("is the agent's helper in the root: load, listen-vsock, power-off", async () => {
    const made = await root({ agent: ["vsock"] });
    const console = await boot({ kernel, initrd: initrd(), disk: made.disk, commandLine: verityParameter(made), directory });
    expect(answers(console, "load")).toEqual(["again", "1"]);
    expect(console).toContain("\nover vsock\n");
    expect(answers(console, "port")).toEqual(["1"]);
    expect(answers(console, "program")).toEqual(["1"]);
    expect(answers(console, "sealpod-init")).toEqual([
      "load modules/none.ko: error 2",
      "load modules/none.ko: error 2",
      "not a number here: 4294967295: error 22",
      "start /nowhere: error 2",
    ]);
    expect(console).not.toContain("came back");
    expect(console).toContain("reboot: Power down");
  });

  it("does not come up with a flipped bit in any block of the root", async () => {
    const made = await root();
    const parameter = verityParameter(made);
    // The superblock stops the mount. A bit in the agent's program stops the machine when it is read.
    const program = Buffer.from(made.disk).indexOf(readFileSync(BUSYBOX).subarray(0, 4096));
    expect(program).toBeGreaterThanOrEqual(4096);
    for (const at of [1024, program + 100]) {
      const disk = made.disk.slice();
      disk[at] = (disk[at] ?? 0) ^ 1;
      const console = await boot({ kernel, initrd: initrd(), disk, commandLine: parameter, directory });
      expect(console).toContain("is corrupted");
      expect(console).toContain("Kernel panic");
      expect(console).not.toContain("argument:");
    }
  });

  it("does not come up with another root hash", async () => {
    const made = await root();
    const rootHash = (made.rootHash.startsWith("0") ? "1" : "0") + made.rootHash.slice(1);
    const console = await boot({ kernel, initrd: initrd(), disk: made.disk, commandLine: verityParameter({ ...made, rootHash }), directory });
    expect(console).toContain("Kernel panic");
    expect(console).not.toContain("argument:");
  });

  it.each([
    { title: "a module is missing", order: [...MODULES.slice(0, 3), "none"], says: /^load none\.ko: error 2$/ },
    { title: "a module lacks what it needs", order: ["virtio_blk"], says: /^load virtio_blk\.ko: error 2$/ },
    { title: "the driver of the disk is missing", order: MODULES.filter((name) => name !== "virtio_blk"), says: /^dm-verity: load: error \d+$/ },
    { title: "dm-verity is missing", order: MODULES.filter((name) => name !== "dm-verity"), says: /^dm-verity: load: error 22$/ },
    { title: "there is no table", commandLine: () => "ro", says: /^not one quoted dm-mod\.create: error 22$/ },
    {
      title: "a wrong block would be an error alone",
      commandLine: (made: Root) => verityParameter(made, ""),
      says: /^no panic_on_corruption: dm-mod\.create: error 22$/,
    },
    { title: "the mounts are no lines", mounts: "tmpfs\n", says: /^not a line of mounts: tmpfs: error 22$/ },
    { title: "a mount point is missing", mounts: "tmpfs /nowhere size=1m\n", says: /^mount \/nowhere: error 2$/ },
    { title: "a mount's options are too long", mounts: `tmpfs /run ${"x".repeat(600)}\n`, says: /^options: \/run: error 7$/ },
    { title: "the mounts are too long", mounts: "tmpfs /run size=1m\n".repeat(500), says: /^too long: \/etc\/sealpod\/mounts: error 7$/ },
    { title: "the agent is missing", init: "/usr/bin/node\n", says: /^start \/usr\/bin\/node: error 2$/ },
    { title: "the agent has too many arguments", init: "/usr/bin/busybox\n".repeat(65), says: /^too many arguments: \/etc\/sealpod\/init: error 7$/ },
    { title: "the agent's text has a NUL", init: "/usr/bin/busybox\0\nsh\n", says: /^not a text: \/etc\/sealpod\/init: error 22$/ },
  ])("stops with one line when $title", async ({ order, commandLine = verityParameter, says, ...settings }) => {
    const made = await root(settings);
    const console = await boot({ kernel, initrd: initrd(order), disk: made.disk, commandLine: commandLine(made), directory });
    const lines = answers(console, "sealpod-init").filter((line) => line !== "agent ended with 1");
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatch(says);
    expect(console).not.toContain("argument:");
    expect(console).toContain("reboot: Power down");
  });
});
