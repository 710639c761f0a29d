import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { readdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname } from "node:path";
import { setImmediate } from "node:timers/promises";
import { silentLogger, type LogFields, type Logger } from "@sealpod/core";
import { createAgent, PROFILES, type GuestSystem, type Runtime } from "@sealpod/agent";
import { AKS_PROFILE, COCO_PROFILE, readOwnRules, readOwnSettings } from "@sealpod/genpolicy";
import { AgentService } from "@sealpod/proto";
import { memoryStreams, serveTtrpc } from "@sealpod/ttrpc";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { AgentClient } from "./agent-client.ts";
import { copyFiles, type CopyFileInit, type FileOwner } from "./copy-files.ts";
import { SandboxError } from "./errors.ts";
import { copiedPath, SHARED_CONTAINERS } from "./guest-paths.ts";
import { copyVolume, type VolumeCopy, type VolumeWatch, watchVolume } from "./volume-watch.ts";

/** Files of root cannot be given away by a test that is not. */
const OWNER: FileOwner = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };

/** The agent itself in this process, with the rules and settings of its generation's policies; there is nothing of it but its files. */
interface Guest {
  readonly shared: string;
  readonly client: AgentClient;
}

let guests: readonly Guest[];
let base: string;
/** Path in the guest, another one for each test. */
let target: string;
let tests = 0;

let directory: string;
let source: string;
let log: { readonly level: string; readonly message: string; readonly fields: LogFields | undefined }[];
let requests: CopyFileInit[];
let watches: VolumeWatch[];
/** Runs before a request is carried out. */
let before: (request: CopyFileInit) => void | Promise<void>;
/** Runs after it. */
let after: () => void;

beforeAll(async () => {
  base = mkdtempSync(`${tmpdir()}/sealpod-volume-`);
  guests = await Promise.all([AKS_PROFILE, COCO_PROFILE].map(startGuest));
});

afterAll(() => {
  for (const { client } of guests) client.close();
  rmSync(base, { recursive: true });
});

beforeEach(() => {
  directory = `${base}/${++tests}`;
  source = `${directory}/volume`;
  target = copiedPath("c1".repeat(32), tests.toString(16).padStart(16, "0"), "/etc/config");
  for (const path of [directory, source]) mkdirSync(path);
  [log, requests, watches] = [[], [], []];
  before = () => undefined;
  after = () => undefined;
});

afterEach(async () => {
  for (const watch of watches) await watch.close();
  const [aks, coco] = guests.map(({ shared }) => filesBelow(target.replace(SHARED_CONTAINERS, shared)));
  expect(coco).toEqual(aks);
});

async function startGuest(generation: typeof AKS_PROFILE): Promise<Guest> {
  const root = `${base}/${generation.name}`;
  const shared = `${root}/shared/containers`;
  const profile = PROFILES.get(generation.name);
  if (profile === undefined) throw new Error(`the agent has no profile ${generation.name}`);
  // The sandbox itself is no matter here.
  const text = `${await readOwnRules()}\nCreateSandboxRequest if true\n\npolicy_data := ${await readOwnSettings(generation)}\n`;
  const agent = createAgent({
    profile,
    place: "process",
    defaultPolicy: { name: "test", text: text.replaceAll("/run/kata-containers", root) },
    root,
    disks: { find: () => Promise.reject(new Error("no disks")) } as never,
    hostData: () => Promise.resolve(new Uint8Array(32)),
    guestInfo: root,
    system: new Proxy({}, { get: () => () => Promise.resolve() }) as GuestSystem,
    runtime: () => ({}) as Runtime,
    limits: { unlimited: true, oomScoreAdj: 0n, hard: new Map() },
    logger: silentLogger,
  });
  const [near, far] = memoryStreams();
  void serveTtrpc(far, agent.services);
  const client = new AgentClient(near);
  await client.call(AgentService.method.createSandbox, { sandboxId: "s1", hostname: "pod" });
  return { shared, client };
}

/** Both agents must allow, and do, what the host sends. */
async function send(request: CopyFileInit): Promise<void> {
  requests.push(request);
  await before(request);
  for (const { client, shared } of guests) {
    await client.call(AgentService.method.copyFile, { ...request, path: (request.path ?? "").replace(SHARED_CONTAINERS, shared) });
  }
  after();
}

/** Paths and what is there: text, the target of a link, or nothing for a directory. */
function filesBelow(path: string): readonly (readonly [string, string | undefined])[] {
  if (!existsSync(path)) return [];
  const files: (readonly [string, string | undefined])[] = [];
  for (const file of readdirSync(path, { recursive: true, withFileTypes: true })) {
    const name = `${file.parentPath}/${file.name}`;
    const content = file.isSymbolicLink() ? readlinkSync(name) : file.isFile() ? readFileSync(name, "utf8") : undefined;
    files.push([name.slice(path.length), content]);
  }
  return files.sort(([one], [other]) => (one < other ? -1 : 1));
}

function port(): VolumeCopy {
  const logger: Logger = { log: (level, message, fields) => void log.push({ level, message, fields }) };
  return { send, ownerOf: () => OWNER, logger };
}

const guest = (): string => target.replace(SHARED_CONTAINERS, guests[0]?.shared ?? "");

let versions = 0;

/** What kubelet's atomic writer does, in its order; `during` runs between the switch and the removal of the old contents. */
function write(files: Readonly<Record<string, string>>, during: () => void = () => undefined): void {
  const version = `..2026_11_23_00_00_00.${++versions}`;
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(`${source}/${version}/${name}`), { recursive: true });
    writeFileSync(`${source}/${version}/${name}`, text, { mode: 0o640 });
  }
  chmodSync(`${source}/${version}`, 0o2755);
  const old = existsSync(`${source}/..data`) ? readlinkSync(`${source}/..data`) : undefined;
  symlinkSync(version, `${source}/..data_tmp`);
  renameSync(`${source}/..data_tmp`, `${source}/..data`);
  const names = new Set(Object.keys(files).map((name) => name.split("/")[0] ?? ""));
  for (const name of names) if (!readdirSync(source).includes(name)) symlinkSync(`..data/${name}`, `${source}/${name}`);
  for (const name of readdirSync(source)) if (!name.startsWith("..") && !names.has(name)) rmSync(`${source}/${name}`);
  during();
  if (old !== undefined) rmSync(`${source}/${old}`, { recursive: true });
}

/** Copies the volume and follows it. */
async function follow(): Promise<VolumeWatch> {
  const watch = watchVolume(source, target, port(), await copyVolume(source, target, port()));
  watches.push(watch);
  return watch;
}

/** What a container reads by a name; undefined if there is nothing. */
function read(name: string): string | undefined {
  try {
    return readFileSync(`${guest()}/${name}`, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** Turns of the event loop until something is so. */
async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await setImmediate();
}

/** Until nothing has been sent for far more turns through the file system than any step between two requests takes: those of the watch are as fast as these. */
async function quiet(): Promise<void> {
  for (let turns = 0, seen = requests.length; turns < 100; turns++) {
    await readdir(directory);
    await setImmediate();
    if (requests.length !== seen) [turns, seen] = [0, requests.length];
  }
}

const denied = (): never => {
  throw new SandboxError("ERR_SANDBOX_DENIED", "CopyFile is blocked by policy");
};

describe("a volume of kubelet", () => {
  it("is copied as it is, links and all, under the policies of both generations", async () => {
    write({ key: "one", "nested/dir/other": "1" });
    await copyVolume(source, target, port());
    expect(readlinkSync(`${guest()}/..data`)).toBe(readlinkSync(`${source}/..data`));
    expect(readlinkSync(`${guest()}/key`)).toBe("..data/key");
    expect([read("key"), read("nested/dir/other")]).toEqual(["one", "1"]);
    expect(statSync(`${guest()}/key`).mode).toBe(0o100640);
    expect(statSync(`${guest()}/..data`).mode & 0o7777).toBe(0o2755);
  });

  it("changes in the guest in one step", async () => {
    write({ a: "1", b: "1", c: "1" });
    const seen = new Set<string>();
    await follow();
    after = () => void seen.add([read("a"), read("b"), read("c")].join(","));
    write({ a: "2", b: "2", c: "2" });
    await until(() => read("a") === "2");
    write({ a: "3", b: "3", c: "3" });
    await until(() => read("a") === "3");
    await quiet();
    expect([...seen]).toEqual(["1,1,1", "2,2,2", "3,3,3"]);
    // What changes nothing that containers see is nothing for the guest.
    requests = [];
    writeFileSync(`${source}/..stray`, "");
    await quiet();
    expect(requests).toEqual([]);
    expect(log.filter(({ level }) => level !== "debug")).toEqual([]);
  });

  it("gets keys that are new, and loses those that are no more, also where they were", async () => {
    write({ old: "x".repeat(5000), kept: "1" });
    await follow();
    const first = readlinkSync(`${guest()}/..data`);
    write({ kept: "2", added: "3", "deep/er": "4" });
    await until(() => read("added") === "3" && read("deep/er") === "4");
    await quiet();
    expect([read("old"), read("..data/old"), read(`${first}/old`), read("kept")]).toEqual([undefined, undefined, undefined, "2"]);
    write({ old: "again" });
    await until(() => read("old") === "again");
    await quiet();
    expect([read("kept"), read("added"), read("deep/er")]).toEqual([undefined, undefined, undefined]);
  });

  it("takes no more room in the guest with each update", async () => {
    write({ token: "0" });
    await follow();
    for (let update = 1; update <= 40; update++) {
      write({ token: `${update}` });
      await until(() => read("token") === `${update}`);
      await quiet();
      const contents = readdirSync(guest()).filter((name) => name.startsWith("..") && name !== "..data");
      expect(contents.length).toBeLessThanOrEqual(2);
      // Only one of them has anything in it.
      expect(contents.filter((name) => read(`${name}/token`) !== undefined)).toEqual([readlinkSync(`${guest()}/..data`)]);
    }
  });

  it("may become a directory where a file was, and a file where a directory was", async () => {
    write({ "x/y": "1", z: "1" });
    await follow();
    for (const files of [{ x: "2", "z/y": "2" }, { "x/y": "3", z: "3" }, { x: "4", "z/y/w": "4" }, { x: "5" }, { "x/y": "6" }]) {
      write(files);
      const [[name, text]] = Object.entries(files) as [[string, string]];
      await until(() => statSync(`${guest()}/x`, { throwIfNoEntry: false })?.isDirectory() === name.includes("/") && read(name) === text);
      await quiet();
    }
    expect(log.filter(({ level }) => level !== "debug")).toEqual([]);
  });

  it("is brought to its last state when it changes faster than it is copied", async () => {
    write({ a: "0", b: "0" });
    await follow();
    await quiet();
    const gate = Promise.withResolvers<void>();
    before = () => gate.promise;
    requests = [];
    write({ a: "1", b: "1" });
    await until(() => requests.length === 1);
    for (let update = 2; update <= 30; update++) write({ a: `${update}`, b: `${update}` });
    gate.resolve();
    await until(() => read("a") === "30");
    await quiet();
    expect(read("b")).toBe("30");
    // The one that was begun and the last: not thirty.
    expect(requests.filter(({ path }) => path?.endsWith("/..data")).length).toBeLessThanOrEqual(2);
  });

  it("never shows contents that kubelet removed while they were copied", async () => {
    write({ a: "1", b: "1", c: "1" });
    await follow();
    await quiet();
    const seen = new Set<string>();
    after = () => void seen.add([read("a"), read("b"), read("c")].join(","));
    let copied = 0;
    before = () => {
      // In the midst of the copy of 2, which goes away half copied.
      if (++copied === 2) write({ a: "3", b: "3", c: "3" });
    };
    write({ a: "2", b: "2", c: "2" });
    await until(() => read("a") === "3");
    await quiet();
    expect([...seen]).toEqual(["1,1,1", "3,3,3"]);
    expect(log.filter(({ level }) => level !== "debug")).toEqual([]);
  });

  // In the midst of the contents, the rest of which is missing then; and after them, when only the link to them is to come, which leads to others by now.
  it.each(["a", "b"])("is copied again at first if it changes after %s, and a change before it is followed is not missed", async (key) => {
    write({ a: "1", b: "1" });
    before = ({ path = "" }) => {
      if (path.endsWith(`/${key}`) && requests.filter((other) => other.path?.endsWith(`/${key}`)).length === 1) write({ a: "2", b: "2" });
    };
    const copied = await copyVolume(source, target, port());
    expect([read("a"), read("b")]).toEqual(["2", "2"]);
    write({ a: "3", b: "3" });
    watches.push(watchVolume(source, target, port(), copied));
    await until(() => read("b") === "3");
    await quiet();
    // What the first copy began is cleared away too.
    const contents = readdirSync(guest()).filter((name) => name.startsWith("..") && name !== "..data");
    expect(contents.filter((name) => read(`${name}/a`) !== undefined)).toEqual([readlinkSync(`${guest()}/..data`)]);
  });

  it("that never rests is given up after some attempts, with what is missing", async () => {
    write({ a: "1" });
    before = (request) => {
      if (request.path?.split("/").at(-1)?.startsWith("..2026") === true) write({ a: "again" });
    };
    await expect(copyVolume(source, target, port())).rejects.toEqual(expect.objectContaining({ code: "ERR_SANDBOX_FILES" }));
    expect(requests.filter(({ path }) => path === target).length).toBe(5);
  });

  it("has nothing of contents that were not copied to their end", async () => {
    write({ a: "1" });
    await follow();
    await quiet();
    let copied = 0;
    before = () => {
      if (++copied === 3) write({ a: "3" });
    };
    write({ a: "2", aa: "2", b: "2" });
    await until(() => read("a") === "3");
    await quiet();
    expect(requests.some(({ path }) => path?.endsWith("/aa"))).toBe(true);
    expect([read("aa"), read("..data/aa"), read("b")]).toEqual([undefined, undefined, undefined]);
  });

  it("is copied once more at the start by a watch that is told nothing", async () => {
    write({ a: "1" });
    await copyFiles({ source, target, ownerOf: () => OWNER }, send);
    requests = [];
    watches.push(watchVolume(source, target, port()));
    await until(() => requests.some(({ path }) => path?.endsWith("/..data")));
    write({ a: "2" });
    await until(() => read("a") === "2");
  });

  it("gives its files to whom the caller says they belong", async () => {
    write({ a: "1" });
    const owners: (string | undefined)[] = [];
    const copy: VolumeCopy = {
      ...port(),
      ownerOf: (path) => {
        owners.push(path.slice(source.length));
        return OWNER;
      },
    };
    const copied = await copyVolume(source, target, copy);
    owners.length = 0;
    watches.push(watchVolume(source, target, copy, copied));
    write({ b: "2" });
    await until(() => read("b") === "2");
    expect(owners).toEqual(expect.arrayContaining(["/..data", `/${readlinkSync(`${source}/..data`)}/b`, "/b"]));
    expect(requests.every(({ uid, gid }) => uid === OWNER.uid && gid === OWNER.gid)).toBe(true);
  });
});

describe("following", () => {
  it("ends with one line when the policy denies a request", async () => {
    write({ a: "1" });
    await follow();
    await quiet();
    before = denied;
    requests = [];
    write({ a: "2" });
    await until(() => log.length > 0);
    write({ a: "3" });
    await quiet();
    expect(requests.length).toBe(1);
    expect(log).toEqual([
      {
        level: "warn",
        message: "the policy does not allow a volume to be updated: the guest keeps what it has",
        fields: { source, target, error: "CopyFile is blocked by policy" },
      },
    ]);
    expect(read("a")).toBe("1");
  });

  it("ends without a word when the guest has ended", async () => {
    write({ a: "1" });
    await follow();
    await quiet();
    requests = [];
    before = () => {
      throw new SandboxError("ERR_SANDBOX_CLOSED", "gone");
    };
    write({ a: "2" });
    await until(() => requests.length > 0);
    write({ a: "3" });
    await quiet();
    expect([requests.length, log]).toEqual([1, []]);
  });

  it("goes on after any other failure, and brings what came meanwhile", async () => {
    write({ a: "1" });
    await follow();
    await quiet();
    let failures = 0;
    before = () => {
      if (++failures > 1) return;
      write({ a: "3" });
      throw new SandboxError("ERR_SANDBOX_AGENT", "no room");
    };
    write({ a: "2" });
    await until(() => read("a") === "3");
    await quiet();
    expect(log.filter(({ level }) => level !== "debug")).toEqual([
      { level: "warn", message: "an update of a volume did not reach the guest", fields: { target, error: "no room" } },
    ]);
  });

  it("sends nothing once it has been closed, which waits for what is being sent", async () => {
    write({ a: "1" });
    const watch = await follow();
    await quiet();
    const gate = Promise.withResolvers<void>();
    before = () => gate.promise;
    requests = [];
    write({ a: "2", b: "2" });
    await until(() => requests.length === 1);
    let closed = false;
    const closing = watch.close().then(() => (closed = true));
    await quiet();
    expect(closed).toBe(false);
    gate.resolve();
    await closing;
    write({ a: "3" });
    await quiet();
    await watch.close();
    expect([requests.length, read("a"), log]).toEqual([1, "1", []]);
  });

  it("can be closed before it began", async () => {
    write({ a: "1" });
    const watch = await follow();
    await watch.close();
    requests = [];
    write({ a: "2" });
    await quiet();
    expect(requests).toEqual([]);
  });

  it("ends quietly with its volume", async () => {
    write({ a: "1" });
    await follow();
    await quiet();
    requests = [];
    rmSync(source, { recursive: true });
    await quiet();
    expect([requests, log]).toEqual([[], []]);
  });

  it.each([
    ["a directory without ..data", () => writeFileSync(`${source}/a`, "1")],
    ["a file", () => (rmSync(source, { recursive: true }), writeFileSync(source, "1"))],
    ["nothing", () => rmSync(source, { recursive: true })],
    ["..data that is a directory", () => mkdirSync(`${source}/..data`)],
    ...["/etc", "..", "../volume", "..2026/x", "..data", "plain", "."].map((to) => [`..data to ${to}`, () => symlinkSync(to, `${source}/..data`)] as const),
  ] as const)("is not done for %s", async (_name, make) => {
    make();
    watches.push(watchVolume(source, target, port()));
    await quiet();
    if (existsSync(source) && statSync(source).isDirectory()) writeFileSync(`${source}/new`, "2");
    await quiet();
    expect([requests, log]).toEqual([[], []]);
  });
});
