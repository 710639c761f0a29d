import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { silentLogger } from "@sealpod/core";
import { BLOCK, BlockCache, openBlob, serveDevice, type NbdServer } from "./index.ts";
import { FakeStorage } from "./testdata/fake-storage.ts";

const run = promisify(execFile);
const directory = mkdtempSync(join(tmpdir(), "sealpod-nbd-"));
const socketPath = join(directory, "nbd");
const uri = `nbd+unix:///?socket=${socketPath}`;
const tools = join(import.meta.dirname, "../../build/tools/usr");
const env = { ...process.env, PATH: `${process.env["PATH"] ?? ""}:${join(tools, "bin")}`, LD_LIBRARY_PATH: join(tools, "lib/x86_64-linux-gnu") };
const present = ["/usr/bin", join(tools, "bin")].some((place) => existsSync(join(place, "nbdcopy")));

const content = new Uint8Array(randomBytes(5 * BLOCK + 4096));
let storage: FakeStorage;
let server: NbdServer;

async function serve(isReadOnly: boolean): Promise<void> {
  storage = new FakeStorage(Uint8Array.from(content));
  storage.type = "PageBlob";
  server = await serveDevice(socketPath, {
    device: new BlockCache(await openBlob(storage.url, !isReadOnly, storage.ports())),
    isReadOnly,
    logger: silentLogger,
  });
}

afterAll(() => rmSync(directory, { recursive: true }));

describe.skipIf(!present)("the block device and libnbd (skipped without nbdcopy)", () => {
  it("is read whole by a client of others, and shows what it is", async () => {
    await serve(true);
    const { stdout } = await run("nbdinfo", ["--json", uri], { env });
    expect(JSON.parse(stdout)).toMatchObject({ protocol: "newstyle-fixed", exports: [{ is_read_only: true, "export-size": content.length, can_flush: true }] });
    await run("nbdcopy", [uri, join(directory, "copy")], { env });
    expect(readFileSync(join(directory, "copy")).equals(content)).toBe(true);
    await expect(run("nbdinfo", ["--json", `nbd+unix:///other?socket=${socketPath}`], { env })).rejects.toThrow();
    await server.close();
  });

  it("is written by a client of others, and the blob has it", async () => {
    await serve(false);
    await run("nbdcopy", ["--allocated", join(directory, "copy"), uri], { env });
    expect(storage.bytes).toEqual(content);
    await server.close();
  });
});

/** A client that says what it likes. */
class Client {
  readonly #socket: Socket;
  #received: Buffer = Buffer.alloc(0);
  #wake: () => void = () => undefined;
  isClosed = false;

  constructor() {
    this.#socket = connect(socketPath);
    this.#socket.on("error", () => undefined);
    this.#socket.on("data", (chunk: Buffer) => {
      this.#received = Buffer.concat([this.#received, chunk]);
      this.#wake();
    });
    this.#socket.on("close", () => {
      this.isClosed = true;
      this.#wake();
    });
  }

  send(...parts: readonly Buffer[]): void {
    this.#socket.write(Buffer.concat(parts));
  }

  async take(length: number): Promise<Buffer> {
    while (this.#received.length < length) {
      if (this.isClosed) throw new Error("closed");
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const taken = this.#received.subarray(0, length);
    this.#received = this.#received.subarray(length);
    return taken;
  }

  async closed(): Promise<void> {
    if (!this.isClosed) await once(this.#socket, "close");
  }

  destroy(): void {
    this.#socket.destroy();
  }

  /** Through the handshake, by the old way. */
  async begin(): Promise<void> {
    await this.take(18);
    this.send(u32(3), option(1));
    await this.take(10);
  }

  async ask(type: number, offset: number, length: number, data: Buffer = Buffer.alloc(0)): Promise<number> {
    this.send(request(type, offset, length), data);
    return (await this.take(16)).readUInt32BE(4);
  }
}

const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
};
const option = (number: number, data: Buffer = Buffer.alloc(0), length = data.length): Buffer =>
  Buffer.concat([Buffer.from("IHAVEOPT"), u32(number), u32(length), data]);
function request(type: number, offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(28);
  bytes.writeUInt32BE(0x2560_9513, 0);
  bytes.writeUInt16BE(type, 6);
  bytes.writeBigUInt64BE(7n, 8);
  bytes.writeBigUInt64BE(BigInt(offset), 16);
  bytes.writeUInt32BE(length, 24);
  return bytes;
}

describe("the block device and clients that do as they like", () => {
  beforeAll(async () => serve(true));
  afterAll(async () => server.close());

  it.each<[string, (client: Client) => void]>([
    ["flags that do not exist", (client) => client.send(u32(0xff))],
    ["an option without magic", (client) => client.send(u32(3), Buffer.alloc(16))],
    ["an option of 4 GiB", (client) => client.send(u32(3), option(6, Buffer.alloc(0), 0xffff_ffff))],
    ["an export that is not there", (client) => client.send(u32(3), option(1, Buffer.from("other")))],
    ["options without end", (client) => client.send(u32(3), ...Array.from({ length: 100 }, () => option(99)))],
    ["requests of nonsense", (client) => client.send(u32(3), option(1), Buffer.alloc(28, 1))],
    ["a write of 4 GiB", (client) => client.send(u32(3), option(1), request(1, 0, 0xffff_fff0))],
    ["half a request", (client) => (client.send(u32(3), option(1), request(0, 0, 512).subarray(0, 20)), client.destroy())],
  ])("ends the connection over %s, and serves the next one", async (_what, speak) => {
    const rude = new Client();
    speak(rude);
    await rude.closed();
    const client = new Client();
    await client.begin();
    expect(await client.ask(0, 512, 512)).toBe(0);
    expect((await client.take(512)).equals(content.subarray(512, 1024))).toBe(true);
    client.destroy();
  });

  it("answers what it does not do with an error number", async () => {
    const client = new Client();
    await client.begin();
    expect(await client.ask(1, 0, 512, Buffer.alloc(512))).toBe(1);
    expect(await client.ask(0, content.length, 512)).toBe(22);
    expect(await client.ask(0, 0, 0)).toBe(22);
    expect(await client.ask(4, 0, 512)).toBe(95);
    expect(await client.ask(3, 0, 0)).toBe(0);
    storage.troubles.push(404);
    expect(await client.ask(0, 4 * BLOCK, 512)).toBe(5);
    expect(await client.ask(0, 4 * BLOCK, 512)).toBe(0);
    await client.take(512);
    client.send(request(2, 0, 0));
    await client.closed();
  });

  it("refuses options that are no options, and goes on", async () => {
    const client = new Client();
    await client.take(18);
    client.send(u32(3), option(7, Buffer.from([0, 0, 0, 9, 0, 0])));
    expect((await client.take(20)).readUInt32BE(12)).toBe(0x8000_0003);
    client.send(option(7, Buffer.from([0, 0, 0, 1, 0x78, 0, 0])));
    expect((await client.take(20)).readUInt32BE(12)).toBe(0x8000_0006);
    client.send(option(42));
    expect((await client.take(20)).readUInt32BE(12)).toBe(0x8000_0001);
    client.send(option(2));
    expect((await client.take(20)).readUInt32BE(12)).toBe(1);
    await client.closed();
  });
});
