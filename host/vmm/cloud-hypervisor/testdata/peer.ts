import { appendFileSync, existsSync, openSync, readFileSync, statSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { connect, createServer as createSocketServer, type Socket } from "node:net";
import { mkdir, symlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";

// Stands in for the program cloud-hypervisor: speaks its HTTP interface as specs/runtime.md 4.6 has it, takes nothing else, and runs the
// test guest behind its vsock socket, in this process. What the driver must not send is answered with 400 and the reason.

const { values: options } = parseArgs({
  options: {
    "api-socket": { type: "string" },
    /** File that gets a line of JSON for each call. */
    log: { type: "string" },
    /** What goes wrong, if anything should. */
    fault: { type: "string" },
  },
});

const apiSocket = options["api-socket"] ?? "";
const guestDirectory = join(dirname(apiSocket), "peer");
const devices = join(guestDirectory, "devices");
const guestSocket = join(guestDirectory, "guest.sock");

let state: "None" | "Created" | "Running" | "Shutdown" = "None";
let machine: Json = {};
let cards = 0;
const disks = new Map<string, string>();
const slots = new Map<number, number>();
let refusedConnections = 0;

type Json = Readonly<Record<string, unknown>>;

class Refusal extends Error {}

function check(condition: boolean, reason: string): asserts condition {
  if (!condition) throw new Refusal(reason);
}

/** A value with exactly these names. */
function object(value: unknown, what: string, names: readonly string[]): Json {
  check(typeof value === "object" && value !== null && !Array.isArray(value), `${what} is no object`);
  const found = Object.keys(value).sort();
  check(JSON.stringify(found) === JSON.stringify([...names].sort()), `${what} has ${found.join(",")}, expected ${names.join(",")}`);
  return value as Json;
}

function count(value: unknown, what: string, least: number, most: number): number {
  check(typeof value === "number" && Number.isInteger(value) && value >= least && value <= most, `${what} is ${String(value)}`);
  return value;
}

function file(value: unknown, what: string): string {
  check(typeof value === "string" && value.startsWith("/") && existsSync(value) && statSync(value).isFile(), `${what} ${String(value)} is no file`);
  return value;
}

function create(body: unknown): void {
  check(state === "None", "VM is already created");
  const vm = object(body, "VmConfig", ["payload", "platform", "cpus", "memory", "disks", "rng", "console", "serial", "vsock"]);
  const platform = vm["platform"] as Json;
  const snp = Object.hasOwn(platform, "sev_snp");
  object(platform, "platform", ["num_pci_segments", ...(snp ? ["sev_snp"] : [])]);
  count(platform["num_pci_segments"], "num_pci_segments", 1, 96);
  check(!snp || platform["sev_snp"] === true, "sev_snp");
  const payload = object(vm["payload"], "payload", snp ? ["igvm", "host_data"] : ["kernel", "initramfs", "cmdline"]);
  if (snp) {
    file(payload["igvm"], "igvm");
    check(/^[0-9a-f]{64}$/.test(String(payload["host_data"])), "host_data");
  } else {
    file(payload["kernel"], "kernel");
    file(payload["initramfs"], "initramfs");
    check(typeof payload["cmdline"] === "string", "cmdline");
  }
  const cpus = object(vm["cpus"], "cpus", ["boot_vcpus", "max_vcpus", "topology"]);
  const most = count(cpus["max_vcpus"], "max_vcpus", 1, 255);
  check(cpus["boot_vcpus"] === most, "boot_vcpus");
  const topology = object(cpus["topology"], "topology", ["threads_per_core", "cores_per_die", "dies_per_package", "packages"]);
  const product = Object.values(topology).reduce((all: number, part) => all * count(part, "topology", 1, 255), 1);
  check(product === most, `the topology has ${product} CPUs`);
  const memory = object(vm["memory"], "memory", ["size", "shared", "hugepages"]);
  check(count(memory["size"], "memory.size", 1, Number.MAX_SAFE_INTEGER) % 1048576 === 0, "memory.size");
  check(memory["shared"] === false && memory["hugepages"] === false, "memory");
  check(Array.isArray(vm["disks"]) && vm["disks"].length >= 1, "disks");
  for (const item of vm["disks"] as readonly unknown[]) {
    const disk = object(item, "disk", ["path", "readonly"]);
    file(disk["path"], "disk");
    check(disk["readonly"] === true, "readonly");
  }
  check(object(vm["rng"], "rng", ["src"])["src"] === "/dev/urandom", "rng");
  check(object(vm["console"], "console", ["mode"])["mode"] === "Off", "console");
  check(object(vm["serial"], "serial", ["mode"])["mode"] === (snp ? "Off" : "Tty"), "serial");
  const vsock = object(vm["vsock"], "vsock", ["cid", "socket"]);
  check(vsock["cid"] === 3 && typeof vsock["socket"] === "string" && dirname(vsock["socket"]) === dirname(apiSocket), "vsock");
  machine = vm;
  state = "Created";
}

function addNet(body: unknown): void {
  check(state === "Created", "the machine is not Created");
  const net = object(body, "NetConfig", ["tap", "mac", "num_queues", "queue_size"]);
  check(/^[A-Za-z0-9_.-]{1,15}$/.test(String(net["tap"])) && /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/.test(String(net["mac"])), "tap or mac");
  check(count(net["num_queues"], "num_queues", 2, 512) % 2 === 0, "num_queues");
  count(net["queue_size"], "queue_size", 2, 1024);
  cards++;
}

async function boot(): Promise<void> {
  check(state === "Created", "the machine is not Created");
  await mkdir(devices, { recursive: true });
  if (options.fault !== "deaf") await startGuest();
  createSocketServer(serveVsock).listen((machine["vsock"] as Json)["socket"] as string);
  state = "Running";
}

/** The test guest in this process: when it exits the machine is off, and the monitor ends with it. */
async function startGuest(): Promise<void> {
  if ((machine["serial"] as Json)["mode"] === "Off") process.stdout.write = () => true;
  const ready = String(openSync("/dev/null", "w"));
  process.argv = [process.execPath, "test-guest", "--listen", `unix:${guestSocket}`, "--devices", devices, "--guest-info", guestDirectory, "--ready-fd", ready];
  await import("../../testdata/test-guest.ts");
  // The guest's own way to end is not the monitor's.
  process.removeAllListeners("SIGTERM");
}

/** Hybrid vsock: one line, one line in answer, then the guest's bytes. */
function serveVsock(socket: Socket): void {
  socket.on("error", () => undefined);
  let text = "";
  const take = (chunk: Buffer): void => {
    text += chunk.toString("latin1");
    const end = text.indexOf("\n");
    if (end < 0) return;
    socket.off("data", take);
    socket.pause();
    const port = /^CONNECT ([0-9]{1,10})$/.exec(text.slice(0, end))?.[1];
    if (options.fault === "babble") return void socket.write("x".repeat(100_000));
    if (options.fault === "mute") return;
    // A guest that is not up yet.
    if (options.fault === "late" && refusedConnections++ < 3) return void socket.destroy();
    if (port !== "1024") return void socket.destroy();
    const guest = connect(guestSocket);
    guest.on("error", () => socket.destroy());
    guest.once("connect", () => {
      guest.write(text.slice(end + 1));
      // The answer and the first bytes of the guest may come in one piece: a driver must take the line alone.
      socket.write(`OK ${1_073_741_824 + port.length}\n`);
      socket.pipe(guest).pipe(socket);
    });
    socket.once("close", () => guest.destroy());
    guest.once("close", () => socket.destroy());
  };
  socket.on("data", take);
}

async function addDisk(body: unknown): Promise<Json> {
  check(state === "Running", "the machine is not Running");
  const disk = object(body, "DiskConfig", ["path", "readonly", "direct", "vhost_user", "num_queues", "queue_size", "pci_segment"]);
  const path = file(disk["path"], "disk");
  check(typeof disk["readonly"] === "boolean" && disk["direct"] === false && disk["vhost_user"] === false, "disk flags");
  check(disk["num_queues"] === (machine["cpus"] as Json)["boot_vcpus"] && disk["queue_size"] === 1024, "queues");
  const segment = count(disk["pci_segment"], "pci_segment", 1, Number((machine["platform"] as Json)["num_pci_segments"]) - 1);
  const slot = (slots.get(segment) ?? 0) + 1;
  check(slot <= 31, `segment ${segment} is full`);
  check(!path.endsWith("refused"), "Cannot open disk path: Permission denied (os error 13)");
  slots.set(segment, slot);
  const bdf = `${segment.toString(16).padStart(4, "0")}:00:${slot.toString(16).padStart(2, "0")}.0`;
  const id = `_disk${disks.size + 2}`;
  disks.set(id, bdf);
  await symlink(path, join(devices, bdf));
  if (!disk["readonly"]) await symlink(path, join(devices, `${bdf}.writable`));
  return { id, bdf: options.fault === "bad-bdf" ? "../../etc" : bdf };
}

async function handle(method: string, path: string, body: unknown): Promise<{ readonly status: number; readonly body?: unknown }> {
  switch (`${method} ${path}`) {
    case "GET /api/v1/vmm.ping":
      return { status: 200, body: { build_version: "v0.0.0", version: "0.0.0", pid: process.pid, features: [] } };
    case "PUT /api/v1/vm.create":
      check(options.fault !== "create", "Error creating a VM: no memory");
      create(body);
      return { status: 204 };
    case "GET /api/v1/vm.info":
      check(state !== "None", "VM is not created");
      if (options.fault === "huge") return { status: 200, body: { state, config: "x".repeat(4_000_000) } };
      return { status: 200, body: { config: machine, state: options.fault === "state" ? "Paused" : state, cards } };
    case "PUT /api/v1/vm.add-net":
      addNet(body);
      return { status: 204 };
    case "PUT /api/v1/vm.boot":
      if (options.fault === "boot-exit") process.exit(9);
      if (options.fault === "boot-silent") return new Promise(() => undefined);
      await boot();
      return { status: 204 };
    case "PUT /api/v1/vm.add-disk":
      return { status: 200, body: await addDisk(body) };
    case "PUT /api/v1/vm.remove-device": {
      const id = String(object(body, "VmRemoveDevice", ["id"])["id"]);
      check(disks.delete(id), `unknown device ${id}`);
      return { status: 204 };
    }
    case "PUT /api/v1/vm.shutdown":
      check(state === "Running", "VM is not running");
      state = "Shutdown";
      return { status: 204 };
    case "PUT /api/v1/vmm.shutdown":
      return { status: 204 };
    default:
      return { status: 404 };
  }
}

function record(call: string, text: string): void {
  if (options.log === undefined) return;
  const body = text === "" ? {} : { body: JSON.parse(text) as Json };
  // Whether the monitor could open the tap: it has to run in the namespace that has it.
  const tap = call === "vm.add-net" ? { found: readFileSync("/proc/self/net/dev", "latin1").includes(`${String(body.body?.["tap"])}:`) } : {};
  appendFileSync(options.log, `${JSON.stringify({ call, ...body, ...tap })}\n`);
}

async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { method = "", url = "", headers } = request;
  let text = "";
  for await (const chunk of request) text += (chunk as Buffer).toString("utf8");
  const call = url.replace("/api/v1/", "");
  if (call !== "vmm.ping") record(call, text);
  if (options.fault === "stubborn" && call.endsWith("shutdown")) return;
  try {
    check(headers["transfer-encoding"] === undefined && headers["content-length"] === String(Buffer.byteLength(text)), "no length");
    check(text === "" || headers["content-type"] === "application/json", "no JSON");
    const { status, body } = await handle(method, url, text === "" ? undefined : (JSON.parse(text) as unknown));
    const bytes = body === undefined ? "" : JSON.stringify(body);
    response.writeHead(status, { "Content-Length": Buffer.byteLength(bytes) }).end(bytes, () => {
      if (call === "vmm.shutdown") process.exit(0);
    });
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    response.writeHead(400).end(JSON.stringify([error.message]));
  }
}

if (options.fault === "exit") {
  process.stderr.write("Error booting VM: no hypervisor\n");
  process.exitCode = 7;
} else if (options.fault === "no-socket") {
  setInterval(() => undefined, 60_000);
} else {
  createServer((request, response) => {
    answer(request, response).catch((error: unknown) => {
      process.stderr.write(`${String(error)}\n`);
      process.exit(70);
    });
  }).listen(apiSocket);
}
