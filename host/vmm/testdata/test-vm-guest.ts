import { createHash } from "node:crypto";
import { closeSync, constants, openSync, readFileSync, readdirSync, readSync, writeSync } from "node:fs";
import { Socket, createServer } from "node:net";
import { networkInterfaces } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { createMux } from "@sealpod/mux";
import { byteStream, type ByteStream } from "@sealpod/ttrpc";

// Stands in for the agent in a virtual machine, as test-guest.ts does in a process: answers one line of JSON to each line of a stream "agent".

/** The stream to the host that serves the security processor. */
type OpenStream = (service: string) => Promise<ByteStream>;

async function answer(line: string, open: OpenStream): Promise<unknown> {
  const [verb, argument = ""] = line.split(" ");
  switch (verb) {
    case "echo":
      return argument;
    case "disk":
      return createHash("sha256").update(read(await blockDevice(argument))).digest("hex");
    case "write":
      return written(await blockDevice(argument));
    case "device":
      return createHash("sha256").update(read(argument)).digest("hex");
    case "facts":
      return {
        commandLine: readFileSync("/proc/cmdline", "utf8").trim(),
        disks: readdirSync("/sys/block").filter((name) => name.startsWith("vd")).sort(),
        readOnly: readdirSync("/sys/block").filter((name) => name.startsWith("vd")).every((name) => readFileSync(`/sys/block/${name}/ro`, "utf8") === "1\n"),
        interfaces: Object.entries(networkInterfaces()).map(([name, list]) => `${name} ${list?.[0]?.mac ?? ""}`).sort(),
        devices: readdirSync("/sys/bus/pci/devices").length,
        processors: readdirSync("/sys/devices/system/cpu").filter((name) => /^cpu[0-9]+$/.test(name)).length,
        uptime: Number(readFileSync("/proc/uptime", "utf8").split(" ")[0]),
      };
    case "print":
      process.stdout.write(`${line.slice("print ".length)}\n`);
      return true;
    case "serve":
      await new Promise<void>((resolve) => createServer((socket) => socket.end(`port ${argument}`)).listen(Number(argument), "0.0.0.0", resolve));
      return true;
    case "fetch": {
      const response = await fetch(argument);
      return response.text();
    }
    case "processor": {
      const stream = await open("processor");
      await stream.write(Buffer.from(argument));
      for await (const chunk of stream.readable) return Buffer.from(chunk).toString("latin1");
      return "nothing";
    }
    case "exit":
      process.exit(Number(argument));
      break;
    case "hang":
      for (;;);
    default:
      return `unknown: ${line}`;
  }
}

/** The device of a disk at a path of PCI addresses below the root bus; it may still be on its way. */
async function blockDevice(source: string): Promise<string> {
  for (let attempt = 0; attempt < 1000; attempt++) {
    try {
      let directory = "/sys/devices/pci0000:00";
      for (const [index, part] of source.split("/").entries()) {
        const end = part.includes(".") ? `:${part}` : `:${part}.0`;
        const name = readdirSync(directory).find((entry) => (index > 0 || entry.startsWith("0000:00:")) && entry.startsWith("0000:") && entry.endsWith(end));
        directory = `${directory}/${name ?? "absent"}`;
      }
      const virtio = readdirSync(directory).find((entry) => entry.startsWith("virtio")) ?? "absent";
      const device = `/dev/${readdirSync(`${directory}/${virtio}/block`)[0] ?? "absent"}`;
      // Its directory is there before it is.
      closeSync(openSync(device, "r"));
      return device;
    } catch {
      await sleep(10);
    }
  }
  throw new Error(`no disk at ${source}`);
}

/** Writes one block, past every cache of the guest; false if the disk does not let it. */
function written(path: string): boolean {
  try {
    const fd = openSync(path, constants.O_WRONLY | constants.O_SYNC);
    try {
      return writeSync(fd, Buffer.alloc(4096, "written"), 0, 4096, 0) === 4096;
    } finally {
      closeSync(fd);
    }
  } catch {
    return false;
  }
}

function read(path: string): Buffer {
  const fd = openSync(path, "r");
  const block = Buffer.alloc(1024 * 1024);
  const length = readSync(fd, block);
  closeSync(fd);
  return block.subarray(0, length);
}

async function serve(stream: ByteStream, open: OpenStream): Promise<void> {
  let text = "";
  for await (const chunk of stream.readable) {
    text += Buffer.from(chunk).toString("utf8");
    for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n")) {
      const line = text.slice(0, end);
      text = text.slice(end + 1);
      await stream.write(Buffer.from(`${JSON.stringify(await answer(line, open).catch(String))}\n`));
    }
  }
}

async function echo(stream: ByteStream): Promise<void> {
  for await (const chunk of stream.readable) await stream.write(chunk);
}

async function swallow(stream: ByteStream): Promise<void> {
  for await (const chunk of stream.readable) void chunk;
}

function openPort(): ByteStream {
  const ports = "/sys/class/virtio-ports";
  const name = readdirSync(ports).find((entry) => readFileSync(`${ports}/${entry}/name`, "utf8").trim() === "sealpod") ?? "absent";
  const binding = (process as unknown as { binding(name: string): { Pipe: new (kind: number) => { open(fd: number): number }; constants: { SOCKET: number } } }).binding("pipe_wrap");
  const handle = new binding.Pipe(binding.constants.SOCKET);
  handle.open(openSync(`/dev/${name}`, constants.O_RDWR | constants.O_NONBLOCK));
  const options: object = { handle, readable: true, writable: true };
  return byteStream(new Socket(options).pause());
}

const [stubborn] = process.argv.slice(2);
if (stubborn === "silent") setInterval(() => undefined, 60_000);
else {
  process.stdout.write("the test guest listens\n");
  for (;;) {
    const mux = createMux(openPort(), {
      side: "guest",
      accept: (service, stream) => {
        const work = { agent: () => serve(stream, (name) => mux.open(name)), echo: () => echo(stream), swallow: () => swallow(stream) }[service];
        if (work === undefined) throw new Error(`no ${service}`);
        work().catch(() => stream.close());
      },
    });
    mux.ready.catch(() => undefined);
    await mux.closed;
    await sleep(50);
  }
}
