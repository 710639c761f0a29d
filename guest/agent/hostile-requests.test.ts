import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import type { Logger } from "@sealpod/core";
import { AgentService, type DescMessage, type DescMethodUnary, Health, type MessageInitShape } from "@sealpod/proto";
import { memoryStreams, serveTtrpc, STATUS, TtrpcClient, TtrpcError } from "@sealpod/ttrpc";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { directoryDevices } from "./block-devices.ts";
import { Gate } from "./gate.ts";
import { agentMethods } from "./methods.ts";
import { IpNetwork } from "./network.ts";
import { guestPaths } from "./paths.ts";
import { PolicyEngine } from "./policy.ts";
import { PROFILES } from "./profile.ts";
import { Sandbox } from "./sandbox.ts";
import { agentServices } from "./services.ts";
import { allowAll, FakeCgroups, FakeRuntime, FakeSystem, inTemporaryDirectory, NO_LIMITS, rootStorages } from "./test-support.ts";
import { volumeStats } from "./volume-stats.ts";

/** All methods; the API has no streaming ones. */
const METHODS = AgentService.methods as readonly DescMethodUnary[];

/** Calls that may wait for what never comes; the others are answered at once. */
const WAITING: ReadonlySet<string> = new Set(["getOOMEvent", "waitProcess", "readStdout", "readStderr", "writeStdin", "destroySandbox"]);

const KNOWN_CODES: ReadonlySet<number> = new Set(Object.values(STATUS));
/** It remembers nothing, so all agents can share it. */
const ALLOW_ALL = new PolicyEngine({ name: "test", text: allowAll() }, { version: "v0" });
/** What the language says when the program is wrong, not the request. */
const BUG = /is not a function|is not iterable|Cannot (?:read|set|convert|mix)|undefined|call stack|Invalid array length|RangeError|TypeError/;

type Message = Readonly<Record<string, unknown>>;
interface Call {
  readonly method: DescMethodUnary;
  readonly request: Message;
}

/** Numbers of scalar types in descriptors (descriptor.proto). */
const SCALAR = { int64: 3, uint64: 4, int32: 5, bool: 8, string: 9, bytes: 12, uint32: 13 } as const;

/** Texts that mean something somewhere, and such as nobody expects. */
function knownTexts(root: string): readonly string[] {
  const share = `${root}/shared/containers`;
  const parent = root.slice(0, root.lastIndexOf("/"));
  return [
    share,
    `${share}/c1`,
    `${share}/link`,
    `${share}/link/x`,
    `${share}/link/directory`,
    `${share}/new/file`,
    `${root}/c1`,
    `${root}/sandbox/layers`,
    `${share}/c1/../../../../outside/x`,
    `${root}/../outside/x`,
    `${root}/../outside`,
    `${parent}/outside/file`,
    "../../../../outside/x",
    "/proc/self/cwd/x",
    "c1",
    "c2",
    "s1",
    "e1",
    "",
    ".",
    "..",
    "../..",
    "-rf",
    "a\0b",
    "a\nb",
    "blk",
    "local",
    "ephemeral",
    "overlayfs",
    "tmpfs",
    "shm",
    "mode=0777",
    "size=1k",
    "bind",
    "lowerdir=c1",
    "lowerdir=../../../outside",
    "fsgid=5",
    "02",
    "02/03",
    "eth0",
    "lo",
    "02:00:00:00:00:01",
    "10.0.0.1",
    "10.0.0.0/8",
    "fd00::1",
    "24",
    "A=1",
    "0",
    "-1",
    "x".repeat(100_000),
    "/".repeat(5000),
    "\0",
    "\u{202e}",
    "__proto__",
    "constructor",
    "termination_log",
    "RLIMIT_NOFILE",
    "%s%n",
  ];
}

function texts(root: string): fc.Arbitrary<string> {
  return fc.oneof(
    { weight: 6, arbitrary: fc.constantFrom(...knownTexts(root)) },
    { weight: 1, arbitrary: fc.string({ unit: "binary", maxLength: 12 }).map((text) => text.toWellFormed()) },
  );
}

/** The request, once for each text in it and each known text: with that one in its place. */
function variants(request: Message, known: readonly string[]): readonly Message[] {
  const changed = (value: unknown): readonly unknown[] => {
    if (typeof value === "string") return known;
    if (Array.isArray(value)) return value.flatMap((item, i) => changed(item).map((other) => value.with(i, other)));
    if (typeof value !== "object" || value === null || value instanceof Uint8Array) return [];
    return Object.entries(value).flatMap(([name, item]) => changed(item).map((other) => ({ ...value, [name]: other })));
  };
  return changed(request) as readonly Message[];
}

/** Requests that do something, so that one wrong word in them comes far. */
function goodRequests(root: string): readonly Call[] {
  const method = AgentService.method;
  const path = `${root}/shared/containers/new`;
  const file = {
    path,
    dirMode: 0o755,
    fileSize: 1n,
    fileMode: 0o100644,
    data: Uint8Array.of(0x78),
    uid: process.getuid?.() ?? 0,
    gid: process.getgid?.() ?? 0,
  };
  const command = { User: {}, Args: ["/x"], Env: ["A=1"], Cwd: "/" };
  const memory = { driver: "ephemeral", source: "shm", fstype: "tmpfs", options: ["size=1k"], mountPoint: `${root}/sandbox/shm` };
  return [
    { method: method.copyFile, request: file },
    { method: method.copyFile, request: { ...file, fileMode: 0o040755, fileSize: 0n } },
    { method: method.copyFile, request: { ...file, fileMode: 0o120777 } },
    { ...goodContainer(root, "c2") },
    { method: method.execProcess, request: { containerId: "c1", execId: "e1", process: command } },
    { method: method.updateEphemeralMounts, request: { storages: [memory] } },
    { method: method.getVolumeStats, request: { volumeGuestPath: `${root}/shared/containers/c1` } },
    { method: method.getDiagnosticData, request: { containerId: "c1", logType: "termination_log" } },
    {
      method: method.updateInterface,
      request: { interface: { device: "eth0", name: "eth0", hwAddr: "02:00:00:00:00:01", IPAddresses: [{ address: "10.0.0.2", mask: "24" }] } },
    },
    { method: method.updateRoutes, request: { routes: { Routes: [{ dest: "10.9.0.0/16", gateway: "10.0.0.1", device: "eth0", source: "10.0.0.2" }] } } },
    {
      method: method.addARPNeighbors,
      request: { neighbors: { ARPNeighbors: [{ toIPAddress: { address: "10.0.0.9" }, device: "eth0", lladdr: "02:00:00:00:00:09", state: 128 }] } },
    },
    { method: method.createSandbox, request: { sandboxId: "s1", hostname: "pod", dns: ["nameserver 10.0.0.1"], storages: [memory] } },
  ];
}

/** Messages of a type, every field of it as likely unset as set. */
function messages(schema: DescMessage, text: fc.Arbitrary<string>, depth = 0): fc.Arbitrary<Message> {
  const fields: Record<string, fc.Arbitrary<unknown>> = {};
  for (const field of schema.fields) {
    if (field.oneof !== undefined && field.fieldKind !== "scalar") continue;
    const one = (): fc.Arbitrary<unknown> | undefined => {
      if (field.fieldKind === "message" || (field.fieldKind === "list" && field.listKind === "message")) {
        return depth < 5 && field.message !== undefined ? messages(field.message, text, depth + 1) : undefined;
      }
      if (field.fieldKind === "enum" || (field.fieldKind === "list" && field.listKind === "enum")) return fc.constantFrom(0, 1, 2, -1, 2 ** 31 - 1);
      if (field.fieldKind === "map") return undefined;
      return scalars(field.scalar, text);
    };
    if (field.fieldKind === "map") {
      if (field.mapKind === "scalar") fields[field.localName] = fc.dictionary(text, scalars(field.scalar, text), { maxKeys: 2 });
      continue;
    }
    // A oneof is set by its case; the API has one, deep inside seccomp.
    if (field.oneof !== undefined) continue;
    const arbitrary = one();
    if (arbitrary !== undefined) fields[field.localName] = field.fieldKind === "list" ? fc.array(arbitrary, { maxLength: 3 }) : arbitrary;
  }
  return fc.record(fields, { requiredKeys: [] });
}

function scalars(scalar: number | undefined, text: fc.Arbitrary<string>): fc.Arbitrary<unknown> {
  switch (scalar) {
    case SCALAR.string:
      return text;
    case SCALAR.bytes:
      return fc.oneof(
        fc.uint8Array({ maxLength: 20 }),
        text.map((value) => new TextEncoder().encode(value)),
      );
    case SCALAR.bool:
      return fc.boolean();
    case SCALAR.int64:
      return fc.oneof(fc.constantFrom(0n, 1n, -1n, 2n ** 63n - 1n, -(2n ** 63n)), fc.bigInt({ min: -5n, max: 5000n }));
    case SCALAR.uint64:
      return fc.oneof(fc.constantFrom(0n, 1n, 2n ** 64n - 1n), fc.bigInt({ min: 0n, max: 5000n }));
    case SCALAR.int32:
      return fc.constantFrom(0, 1, -1, 128, 1000, 2 ** 31 - 1, -(2 ** 31));
    case SCALAR.uint32:
      return fc.constantFrom(0, 1, 9, 15, 64, 65, 0o100644, 0o120777, 0o040755, 0o020644, 65_536, 2 ** 32 - 1);
    default:
      throw new Error(`no values for scalar ${scalar}`);
  }
}

/** All there is below a directory, with what files and links hold. */
function tree(path: string): readonly string[] {
  return readdirSync(path, { recursive: true, encoding: "utf8" })
    .sort()
    .map((name) => {
      const stat = lstatSync(`${path}/${name}`);
      return `${name} ${stat.mode.toString(8)} ${stat.uid} ${stat.isFile() ? readFileSync(`${path}/${name}`, "latin1") : ""}`;
    });
}

const GOOD_SANDBOX: Call = { method: AgentService.method.createSandbox, request: { sandboxId: "s1" } };
const goodContainer = (root: string, id: string): Call => {
  const path = `${root}/shared/containers/${id}`;
  const storages = rootStorages(root, id);
  return {
    method: AgentService.method.createContainer,
    request: { containerId: id, storages, OCI: { Process: { User: {}, Args: ["/x"], Cwd: "/" }, Root: { Path: path }, Linux: {} } },
  };
};

/**
 * Sends calls, one after the other, to an agent that allows all of them: real gate, methods and sandbox, and a runtime, a system and a network that write
 * down what they are asked. Everything must end in an answer, nothing may be touched outside the guest's root.
 */
async function play(path: string, profileName: string, calls: readonly Call[]): Promise<readonly number[]> {
  const root = `${path}/guest`;
  for (const entry of readdirSync(path)) rmSync(`${path}/${entry}`, { recursive: true, force: true });
  for (const directory of ["outside/directory", "devices", "info/tsm/report", "guest"]) mkdirSync(`${path}/${directory}`, { recursive: true });
  writeFileSync(`${path}/outside/file`, "untouched");
  // Puts the layer there that good containers have.
  rootStorages(root, "c1");
  const before = ["outside", "devices", "info"].map((name) => tree(`${path}/${name}`));

  const profile = PROFILES.get(profileName);
  if (profile === undefined) throw new Error("no profile");
  const paths = guestPaths(root);
  const [system, runtime] = [new FakeSystem(), new FakeRuntime()];
  const ip: { readonly args: readonly string[]; readonly input: string }[] = [];
  const logger: Logger = { log: () => undefined };
  const ports = {
    paths,
    devices: `${path}/devices`,
    disks: directoryDevices(`${path}/devices`),
    guestInfo: `${path}/info`,
    system,
    runtime,
    limits: NO_LIMITS,
    cgroups: new FakeCgroups(),
    logger,
  };
  const sandbox = new Sandbox(ports);
  const network = new IpNetwork({
    ip(args, input = "") {
      ip.push({ args, input });
      const eth0 = { ifname: "eth0", flags: [], mtu: 1500, address: "02:00:00:00:00:01", link_type: "ether", addr_info: [] };
      return Promise.resolve(args.includes("address") ? JSON.stringify([eth0]) : "[]");
    },
    hasIpv6: () => true,
    pause: () => Promise.resolve(),
  });
  const machine = {
    network,
    setTime: () => Promise.resolve(),
    mixRandom: () => undefined,
    onlineProcessors: () => undefined,
    memoryBlockSize: () => 0n,
    metrics: () => "",
    volumeStats: (volume: string) => volumeStats(volume, paths, () => new Set([volume])),
  };
  const gate = new Gate(profile, ALLOW_ALL, logger);
  const [near, far] = memoryStreams();
  const served = serveTtrpc(
    far,
    agentServices(
      gate,
      agentMethods(sandbox, paths.shared, () => Promise.resolve(), machine),
    ),
  );
  const client = new TtrpcClient(near);

  const codes: number[] = [];
  const answer = async ({ method, request }: Call): Promise<void> => {
    try {
      await client.unary(method, request as MessageInitShape<DescMessage>);
      codes.push(STATUS.ok);
    } catch (error) {
      if (!(error instanceof TtrpcError)) throw error;
      if (error.code === "ERR_TTRPC_CLOSED") return;
      const { code, message } = error.status;
      expect(KNOWN_CODES.has(code), `${method.name}: ${code}`).toBe(true);
      expect(message, method.name).not.toMatch(BUG);
      codes.push(code);
    }
  };
  const waiting: Promise<void>[] = [];
  try {
    for (const call of calls) {
      plantLink(paths.shared, `${path}/outside`);
      const done = answer(call);
      if (WAITING.has(call.method.localName)) waiting.push(done);
      else await done;
    }
    expect((await client.unary(Health.method.check, {})).status).toBe(1);
    await sandbox.destroy();
  } finally {
    client.close();
    await served;
  }
  await Promise.all(waiting);

  expect(["outside", "devices", "info"].map((name) => tree(`${path}/${name}`))).toEqual(before);
  expect(readdirSync(path).sort()).toEqual(["devices", "guest", "info", "outside"]);
  for (const target of [...system.mounts.map((mount) => mount.target), ...system.unmounted]) expect(`${target}/`.startsWith(`${root}/`), target).toBe(true);
  for (const { id, bundle } of runtime.created) expect([id, bundle]).toEqual([expect.stringMatching(/^[A-Za-z0-9][A-Za-z0-9_.-]+$/), `${root}/${id}`]);
  for (const { input } of ip) expect(input).toMatch(/^(?:(?:link|address|route|neighbour)(?: [A-Za-z0-9:][A-Za-z0-9.:/_-]*)+\n)*$/);
  return codes;
}

/** As a container might that has a volume in the share root, and again when something took its place. */
function plantLink(shared: string, target: string): void {
  if (!existsSync(shared)) return;
  rmSync(`${shared}/link`, { recursive: true, force: true });
  symlinkSync(target, `${shared}/link`);
}

describe.each([...PROFILES.keys()])("requests that mean no good, profile %s", (profile) => {
  it.each(METHODS.map((method) => [method.name, method] as const))("%s: any message ends in a status, with nothing touched outside", (_name, method) =>
    inTemporaryDirectory(async (path) => {
      const root = `${path}/guest`;
      const text = texts(root);
      const random = fc.array(messages(method.input, text), { minLength: 5, maxLength: 12 });
      await fc.assert(
        fc.asyncProperty(random, fc.boolean(), async (requests, early) => {
          const calls = requests.map((request) => ({ method, request }));
          await play(path, profile, early ? calls : [GOOD_SANDBOX, goodContainer(root, "c1"), ...calls]);
        }),
        { numRuns: 2 },
      );
    }),
  );

  it("one wrong word in a good request changes nothing outside", () =>
    inTemporaryDirectory(async (path) => {
      const root = `${path}/guest`;
      const known = knownTexts(root);
      for (const { method, request } of goodRequests(root)) {
        // Only two requests are shown to the policy in another form by each profile.
        if (profile !== "aks" && method !== AgentService.method.copyFile && method !== AgentService.method.createContainer) continue;
        const once = method === AgentService.method.createSandbox;
        // There is one sandbox in an agent's life: an agent for each, and only for texts that lead somewhere.
        const chosen = once ? known.filter((text) => text.includes("..") || text.includes("link")) : known;
        const calls = variants(request, chosen).map((variant) => ({ method, request: variant }));
        if (once) {
          for (const call of calls) await play(path, profile, [call]);
          continue;
        }
        const remove = { method: AgentService.method.removeContainer, request: { containerId: "c2" } };
        const isContainer = method === AgentService.method.createContainer;
        await play(path, profile, [GOOD_SANDBOX, goodContainer(root, "c1"), ...calls.flatMap((call) => (isContainer ? [call, remove] : [call]))]);
      }
    }));

  it("calls in any order end in statuses too", () =>
    inTemporaryDirectory(async (path) => {
      const root = `${path}/guest`;
      const text = texts(root);
      const ids = { containerId: fc.constantFrom("c1", "c2"), execId: fc.constantFrom("", "e1") };
      const good = fc.constantFrom(GOOD_SANDBOX, goodContainer(root, "c1"), goodContainer(root, "c2"), {
        method: AgentService.method.execProcess,
        request: { containerId: "c1", execId: "e1", process: { User: {}, Args: ["/x"], Cwd: "/" } },
      });
      const aimed = fc
        .constantFrom(...METHODS)
        .chain((method) =>
          fc.tuple(messages(method.input, text), fc.record(ids)).map(([request, known]) => ({ method, request: withIds(method.input, request, known) })),
        );
      await fc.assert(
        fc.asyncProperty(fc.array(fc.oneof(good, aimed), { minLength: 10, maxLength: 40 }), (calls) => play(path, profile, calls).then(() => undefined)),
        { numRuns: 15 },
      );
    }));

  it("the calls that the others are aimed at do work", () =>
    inTemporaryDirectory(async (path) => {
      mkdirSync(`${path}/guest`);
      const codes = await play(path, profile, [
        GOOD_SANDBOX,
        goodContainer(`${path}/guest`, "c1"),
        { method: AgentService.method.startContainer, request: { containerId: "c1" } },
      ]);
      // Otherwise the tests above would see refusals alone.
      expect(codes).toEqual([STATUS.ok, STATUS.ok, STATUS.ok]);
    }));
});

/** The request with ids that exist, where it has ids. */
function withIds(schema: DescMessage, request: Message, known: Readonly<Record<string, string>>): Message {
  const mine = Object.entries(known).filter(([name]) => schema.fields.some(({ localName }) => localName === name));
  return { ...request, ...Object.fromEntries(mine) };
}
