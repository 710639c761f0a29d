import { type ChildProcess, spawn } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable, Writable } from "node:stream";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { compileInit } from "./index.ts";
import { debianPackage, present, run } from "./test-support.ts";

const tcc = debianPackage("tcc");
const ready = tcc !== undefined && present("busybox");

/** A relay under test: its ends, as the agent has them. */
interface Relay {
  readonly child: ChildProcess;
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly sizes: Writable;
  /** Exit code and what it said on descriptor 2. */
  readonly ended: Promise<{ readonly code: number | null; readonly said: string }>;
}

describe.skipIf(!ready)("helper console (skipped without Debian's tcc and busybox)", () => {
  let directory: string;
  let helper: string;
  let peer: string;
  let socket: string;
  const children: ChildProcess[] = [];

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), "sealpod-console-"));
    [helper, peer] = [join(directory, "helper"), join(directory, "peer")];
    await compileInit({ tcc: tcc ?? "", output: helper, run });
    await compileInit({ tcc: tcc ?? "", output: peer, run, source: join(import.meta.dirname, "testdata", "peer.c") });
    socket = join(directory, "socket");
  });
  afterEach(() => {
    // A program on a terminal goes with the relay, which held the terminal's other side.
    for (const child of children.splice(0)) child.kill("SIGKILL");
    rmSync(socket, { force: true });
  });
  afterAll(() => rmSync(directory, { recursive: true }));

  function start(path = socket): Relay {
    const child = spawn(helper, ["console", path], { stdio: ["pipe", "pipe", "pipe", "pipe", "pipe"] });
    children.push(child);
    for (const stream of child.stdio) stream?.on("error", () => undefined);
    let said = "";
    child.stderr?.setEncoding("utf8").on("data", (text: string) => (said += text));
    const exited = new Promise<number | null>((resolve) => child.once("exit", resolve));
    const closed = new Promise((resolve) => child.stderr?.once("close", resolve));
    const ended = Promise.all([exited, closed]).then(([code]) => ({ code, said }));
    const [stdin, stdout, , sizes] = child.stdio as [Writable, Readable, Readable, Writable, Readable];
    return { child, stdin, stdout, sizes, ended };
  }

  /** A relay that listens. */
  async function listening(): Promise<Relay> {
    const relay = start();
    expect(await textUntil(relay.child.stdio[4] as Readable, "\n")).toBe("ready\n");
    return relay;
  }

  /** A relay whose terminal runs a shell script. */
  async function relayOf(script: string, args: readonly string[] = []): Promise<Relay> {
    const relay = await listening();
    children.push(spawn(peer, ["terminal", socket, "/bin/busybox", "sh", "-c", script, "sh", ...args], { stdio: "ignore", env: { PATH: "/bin:/usr/bin" } }));
    return relay;
  }

  it("relays both directions and ends with 0 when the terminal's last program does", async () => {
    const relay = await relayOf(`stty -echo; echo question; read -r line; echo "answer $line"`);
    expect(await textUntil(relay.stdout, "question\r\n")).toBe("question\r\n");
    relay.stdin.write("one\n");
    expect(await textOf(relay.stdout)).toBe("answer one\r\n");
    expect(await relay.ended).toEqual({ code: 0, said: "" });
  });

  it("is reachable by its owner alone, and once", async () => {
    const relay = await listening();
    expect(statSync(socket).mode & 0o777).toBe(0o600);
    const program = spawn(peer, ["terminal", socket, "/bin/busybox", "sh", "-c", "stty -echo; echo on; read -r line"], { stdio: "ignore" });
    children.push(program);
    await textUntil(relay.stdout, "on\r\n");
    expect(existsSync(socket)).toBe(false);
    relay.stdin.write("\n");
    expect((await relay.ended).code).toBe(0);
  });

  it("passes sizes on, however their bytes are cut", async () => {
    const relay = await relayOf("stty -echo; echo on; while read -r line; do stty size; done");
    await textUntil(relay.stdout, "on\r\n");
    const shown = async (expected: string): Promise<void> => {
      // The size comes on another descriptor than the line: asks until the answer is there.
      for (let text = ""; text !== `${expected}\r\n`;) {
        relay.stdin.write("\n");
        text = await textUntil(relay.stdout, "\n");
      }
    };
    relay.sizes.write(Uint8Array.of(24, 0, 80, 0));
    await shown("24 80");
    relay.sizes.write(Uint8Array.of(1, 2, 3, 4, 50));
    await shown(`${1 + 2 * 256} ${3 + 4 * 256}`);
    relay.sizes.write(Uint8Array.of(0, 132, 0, 41, 0));
    relay.sizes.end(Uint8Array.of(120, 0));
    await shown("41 120");
  });

  it("keeps the terminal open when the input has ended", async () => {
    const relay = await relayOf(`stty -echo; echo on; while [ "$(stty size 2> /dev/null)" != "41 120" ]; do :; done; echo still here`);
    await textUntil(relay.stdout, "on\r\n");
    // The relay comes to the size after the input: when the program sees it, the end of the input has been seen too.
    await new Promise<void>((resolve) => relay.stdin.end(resolve));
    relay.sizes.write(Uint8Array.of(41, 0, 120, 0));
    expect(await textOf(relay.stdout)).toBe("still here\r\n");
    expect((await relay.ended).code).toBe(0);
  });

  it("takes input while nobody reads the output, and holds the writer up meanwhile", async () => {
    const [done, echoed] = [join(directory, "writer-done"), join(directory, "echoed")];
    const relay = await relayOf(
      `stty -echo -opost; echo on; (head -c 8000000 /dev/zero; : > "$1") & while read -r line; do echo "$line" > "$2.new"; mv "$2.new" "$2"; [ "$line" = last ] && break; done; wait`,
      [done, echoed],
    );
    await textUntil(relay.stdout, "on\n");
    const idle = relay.stdout.readableLength;
    for (const word of [...Array.from({ length: 50 }, (_, index) => `word ${index}`), "last"]) {
      relay.stdin.write(`${word}\n`);
      await until(() => existsSync(echoed) && readFileSync(echoed, "utf8") === `${word}\n`);
    }
    expect(existsSync(done)).toBe(false);
    expect(idle).toBeLessThan(1_000_000);
    expect((await bytesOf(relay.stdout)).length).toBe(8_000_000);
    expect(existsSync(done)).toBe(true);
    expect((await relay.ended).code).toBe(0);
  });

  it("passes output on while nobody takes the input, and loses none of it", async () => {
    const gate = join(directory, "gate");
    const relay = await relayOf(
      `stty raw -echo; echo on; i=0; while [ ! -e "$1" ]; do echo $i; i=$((i + 1)); done; echo; echo taking; head -c 3000000 | md5sum`,
      [gate],
    );
    await textUntil(relay.stdout, "on\n");
    const input = Buffer.alloc(3_000_000, "0123456789abcdefghijklmnopqrstuvwxyz\n");
    let taken = false;
    relay.stdin.write(input, () => (taken = true));
    // Enough lines that the input is at a stand in the terminal by now; they come past it all the same.
    await textUntil(relay.stdout, "\n3000\n");
    expect(taken).toBe(false);
    writeFileSync(gate, "");
    await textUntil(relay.stdout, "taking\n");
    expect(await textOf(relay.stdout)).toBe(`${(await md5Of(input)).trim()}\n`);
    expect((await relay.ended).code).toBe(0);
  });

  it("passes everything on that was written before the end, also to a slow reader", async () => {
    const relay = await relayOf(`stty -opost; seq 1 40000`);
    // Nothing is read before the program is gone, unless it waits for room.
    await Promise.race([new Promise((resolve) => children.at(-1)?.once("exit", resolve)), new Promise((resolve) => relay.stdout.once("readable", resolve))]);
    expect(await textOf(relay.stdout)).toBe(Array.from({ length: 40000 }, (_, index) => `${index + 1}\n`).join(""));
    expect(await relay.ended).toEqual({ code: 0, said: "" });
  });

  it("drops output that nobody will read, so that its writer goes on", async () => {
    const done = join(directory, "nobody-reads");
    const relay = await relayOf(`stty -echo; echo on; read -r line; head -c 3000000 /dev/zero; : > "$1"; read -r line`, [done]);
    await textUntil(relay.stdout, "on\r\n");
    relay.stdout.destroy();
    relay.stdin.write("go\n");
    await until(() => existsSync(done));
    relay.stdin.write("end\n");
    expect(await relay.ended).toEqual({ code: 0, said: "" });
  });

  it.skipIf(!present("crun") || process.getuid?.() !== 0)("is what crun sends a container's terminal to (skipped without crun or as a user)", async () => {
    const [bundle, state, id] = [join(directory, "bundle"), join(directory, "state"), "sealpod-console-test"];
    mkdirSync(join(bundle, "rootfs", "bin"), { recursive: true });
    copyFileSync("/bin/busybox", join(bundle, "rootfs", "bin", "busybox"));
    const script = "stty -echo; tty; read -r line; stty size; echo got $line; exit 5";
    const mounts = [
      { destination: "/proc", type: "proc", source: "proc" },
      { destination: "/dev", type: "tmpfs", source: "tmpfs" },
      { destination: "/dev/pts", type: "devpts", source: "devpts", options: ["newinstance", "ptmxmode=0666"] },
    ];
    const init = { terminal: true, user: { uid: 0, gid: 0 }, cwd: "/", env: ["PATH=/bin"], args: ["/bin/busybox", "sh", "-c", script] };
    const namespaces = ["mount", "pid", "ipc", "uts"].map((type) => ({ type }));
    writeFileSync(join(bundle, "config.json"), JSON.stringify({ ociVersion: "1.0.2", process: init, root: { path: "rootfs" }, mounts, linux: { namespaces } }));
    const relay = await listening();
    // crun wants one cgroup hierarchy, which not every host has; a mount of its own does for it.
    const single = 'umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; exec "$@"';
    const crun = async (...args: readonly string[]): Promise<void> =>
      run("unshare", ["--mount", "sh", "-c", single, "sh", "crun", "--root", state, "--cgroup-manager=disabled", ...args]);
    try {
      await crun("create", "--bundle", bundle, "--console-socket", socket, id);
      relay.sizes.write(Uint8Array.of(30, 0, 100, 0));
      await crun("start", id);
      expect(await textUntil(relay.stdout, "\n")).toMatch(/^\/dev\/.*\r\n$/);
      relay.stdin.write("word\n");
      expect(await textOf(relay.stdout)).toBe("30 100\r\ngot word\r\n");
      expect(await relay.ended).toEqual({ code: 0, said: "" });
    } finally {
      await crun("delete", "--force", id);
    }
  });

  it.each([
    { title: "no descriptor", args: ["0", "/dev/ptmx"], says: "no terminal came through" },
    { title: "two descriptors", args: ["2", "/dev/ptmx"], says: "no terminal came through" },
    { title: "a file", args: ["1", "/dev/null"], says: "not a terminal" },
  ])("refuses a runtime that sends $title", async ({ args, says }) => {
    const relay = await listening();
    await run(peer, ["send", socket, ...args]);
    const { code, said } = await relay.ended;
    expect(code).toBe(1);
    expect(said).toMatch(new RegExp(`^sealpod-init: ${says}.*: error \\d+\\n$`));
  });

  it.each([
    { title: "empty", path: "" },
    { title: "longer than a socket's path", path: `/tmp/${"x".repeat(103)}` },
    { title: "as long as a program's argument may be", path: `/${"x".repeat(100_000)}` },
    { title: "in no directory", path: "/nowhere/at/all" },
  ])("refuses a path that is $title", async ({ path }) => {
    const { code, said } = await start(path).ended;
    expect(code).toBe(1);
    expect(said).toMatch(/^sealpod-init: .*: error \d+\n$/);
  });

  it("takes a path of 107 bytes", async () => {
    const base = mkdtempSync(join(tmpdir(), "s-"));
    try {
      const path = join(base, "x".repeat(107 - base.length - 1));
      expect(await textUntil(start(path).child.stdio[4] as Readable, "\n")).toBe("ready\n");
    } finally {
      rmSync(base, { recursive: true });
    }
  });

  it("refuses to start without its five descriptors", async () => {
    const child = spawn(helper, ["console", socket], { stdio: ["pipe", "pipe", "pipe"] });
    expect(await textOf(child.stderr)).toBe("sealpod-init: a descriptor of 0 to 4 is not open: error 9\n");
  });

  it.each([[[]], [["console"]], [["console", "a", "b"]], [["power-off", "now"]], [["load"]], [["listen-vsock", "1"]], [["shell"]], [[""]]])(
    "says what it is for: %j",
    async (args) => {
      const child = spawn(helper, args, { stdio: ["ignore", "pipe", "pipe"] });
      const code = new Promise((resolve) => child.once("exit", resolve));
      expect(await textOf(child.stderr)).toMatch(/^sealpod-init: usage: .*; arguments: \d\n$/);
      expect(await code).toBe(2);
    },
  );
});

/** What is read until it ends with `end`. */
async function textUntil(stream: Readable, end: string): Promise<string> {
  let text = "";
  while (!text.endsWith(end)) {
    const chunk: unknown = stream.read(1);
    if (chunk instanceof Uint8Array) text = (text + String.fromCharCode(chunk[0] ?? 0)).slice(-100_000);
    else if (stream.readableEnded || stream.destroyed) throw new Error(`the stream ended after ${JSON.stringify(text.slice(-500))}`);
    else await new Promise<void>((resolve) => void stream.once("readable", resolve).once("close", resolve));
  }
  return text;
}

async function bytesOf(stream: Readable): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

async function textOf(stream: Readable): Promise<string> {
  return (await bytesOf(stream)).toString("utf8");
}

async function md5Of(bytes: Uint8Array): Promise<string> {
  const child = spawn("/bin/busybox", ["md5sum"], { stdio: ["pipe", "pipe", "inherit"] });
  child.stdin.end(bytes);
  return textOf(child.stdout);
}

/** Waits for something that other processes do. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 2));
}
