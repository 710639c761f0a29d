/**
 * What a client that others have written sees of our ttRPC: frames are built and read here byte by byte from specs/runtime.md 1.2 to 1.8, without
 * lib/ttrpc and lib/proto. The same table runs against the server in memory and against the agent as a process, started as the known agent is:
 * by KATA_AGENT_SERVER_ADDR and KATA_AGENT_POLICY_FILE.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import type { Readable } from "node:stream";
import { AgentService, Health } from "@sealpod/proto";
import { byteStream, implement, memoryStreams, serveTtrpc, statusError, TtrpcClient, type ByteStream } from "@sealpod/ttrpc";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

const MAX_DATA = 4 * 1024 * 1024;
const REQUEST = 1;
const RESPONSE = 2;
const DATA = 3;

/** Base-128, least significant group first. */
function varint(value: number): Buffer {
  const bytes: number[] = [];
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return Buffer.from([...bytes, rest]);
    bytes.push((rest % 128) + 128);
  }
}

/** A field with a length: string, bytes, message. */
function field(number: number, content: string | Uint8Array): Buffer {
  const bytes = Buffer.from(content);
  return Buffer.concat([varint(number * 8 + 2), varint(bytes.length), bytes]);
}

/** A field with a number. */
function numberField(number: number, value: number): Buffer {
  return Buffer.concat([varint(number * 8), varint(value)]);
}

/** Fields of a message: numbers as they are, the rest as bytes. */
function fields(bytes: Buffer): Map<number, number | Buffer> {
  const found = new Map<number, number | Buffer>();
  let at = 0;
  const next = (): number => {
    let value = 0;
    for (let weight = 1; ; weight *= 128) {
      const byte = bytes.readUInt8(at++);
      value += (byte % 128) * weight;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = next();
    const value = next();
    if (key % 8 === 0) found.set(Math.floor(key / 8), value);
    else if (key % 8 === 2) found.set(Math.floor(key / 8), bytes.subarray(at, (at += value)));
    else throw new Error(`wire type ${key % 8}`);
  }
  return found;
}

function frame(streamId: number, type: number, data: Uint8Array, flags = 0): Buffer {
  const header = Buffer.alloc(10);
  header.writeUInt32BE(data.length, 0);
  header.writeUInt32BE(streamId, 4);
  header.writeUInt8(type, 8);
  header.writeUInt8(flags, 9);
  return Buffer.concat([header, data]);
}

interface CallOptions {
  readonly payload?: Uint8Array;
  readonly timeoutNano?: number;
  readonly metadata?: readonly (readonly [string, string])[];
}

function call(service: string, method: string, options: CallOptions = {}): Buffer {
  return Buffer.concat([
    field(1, service),
    field(2, method),
    ...(options.payload === undefined ? [] : [field(3, options.payload)]),
    ...(options.timeoutNano === undefined ? [] : [numberField(4, options.timeoutNano)]),
    ...(options.metadata ?? []).map(([key, value]) => field(5, Buffer.concat([field(1, key), field(2, value)]))),
  ]);
}

const CHECK = call("grpc.Health", "Check");
/** A `ttrpc.Response` without status, whose payload is a HealthCheckResponse with status SERVING. */
const SERVING = Buffer.from("12020801", "hex");

interface Answer {
  readonly streamId: number;
  readonly code: number;
  readonly message: string;
  readonly payload: Buffer;
}

/** A connection of the foreign client. */
class Wire {
  readonly stream: ByteStream;
  readonly #chunks: AsyncIterator<Uint8Array>;
  #held: Buffer = Buffer.alloc(0);

  constructor(stream: ByteStream) {
    this.stream = stream;
    this.#chunks = stream.readable[Symbol.asyncIterator]();
  }

  send(...parts: readonly Uint8Array[]): Promise<void> {
    return this.stream.write(Buffer.concat(parts));
  }

  async #bytes(length: number): Promise<Buffer> {
    while (this.#held.length < length) {
      const { value, done } = await this.#chunks.next();
      if (done === true) throw new Error("the connection ended");
      this.#held = Buffer.concat([this.#held, value as Uint8Array]);
    }
    const bytes = this.#held.subarray(0, length);
    this.#held = this.#held.subarray(length);
    return bytes;
  }

  /** The next frame, header and all. */
  async frame(): Promise<Buffer> {
    const header = await this.#bytes(10);
    return Buffer.concat([header, await this.#bytes(header.readUInt32BE(0))]);
  }

  /** The next answer. Every frame of a server is a Response without flags. */
  async answer(): Promise<Answer> {
    const bytes = await this.frame();
    expect([bytes.readUInt8(8), bytes.readUInt8(9)]).toEqual([RESPONSE, 0]);
    const response = fields(bytes.subarray(10));
    const status = fields((response.get(1) as Buffer | undefined) ?? Buffer.alloc(0));
    return {
      streamId: bytes.readUInt32BE(4),
      code: (status.get(1) as number | undefined) ?? 0,
      message: ((status.get(2) as Buffer | undefined) ?? "").toString(),
      payload: (response.get(2) as Buffer | undefined) ?? Buffer.alloc(0),
    };
  }

  /** Asserts that the connection still serves. */
  async alive(streamId: number): Promise<void> {
    await this.send(frame(streamId, REQUEST, CHECK));
    expect(await this.frame()).toEqual(frame(streamId, RESPONSE, SERVING));
  }

  close(): void {
    this.stream.close();
  }
}

interface Subject {
  start(): Promise<void>;
  connect(): Promise<Wire>;
  stop(): Promise<void>;
}

const inMemory: Subject = {
  start: () => Promise.resolve(),
  stop: () => Promise.resolve(),
  connect() {
    const [near, far] = memoryStreams();
    const health = implement(Health, { check: () => ({ status: 1 }), version: () => ({ grpcVersion: "0.0.1", agentVersion: "x" }) });
    const agent = implement(AgentService, { getOOMEvent: () => new Promise(() => undefined) }, (method) => {
      throw statusError(7, `${method.input.name} is blocked by policy: `);
    });
    void serveTtrpc(far, [health, agent]);
    return Promise.resolve(new Wire(near));
  },
};

/** The agent, with no namespaces of its own: without a sandbox it touches nothing. */
class AgentProcess implements Subject {
  readonly #directory = mkdtempSync(`${tmpdir()}/sealpod-foreign-`);
  readonly #name = `/sealpod-foreign-${randomBytes(8).toString("hex")}`;
  #child: ChildProcess | undefined;

  async start(): Promise<void> {
    for (const name of ["devices", "guest-info"]) mkdirSync(`${this.#directory}/${name}`);
    writeFileSync(
      `${this.#directory}/policy.rego`,
      "package agent_policy\n\ndefault GetOOMEventRequest := true\n\ndefault SetPolicyRequest := false\n\ndefault CreateSandboxRequest := false\n",
    );
    const child = spawn(
      process.execPath,
      [`${import.meta.dirname}/main.ts`, "--devices", `${this.#directory}/devices`, "--guest-info", `${this.#directory}/guest-info`, "--ready-fd", "3"],
      {
        env: {
          PATH: "/usr/sbin:/usr/bin:/sbin:/bin",
          KATA_AGENT_SERVER_ADDR: `unix://@${this.#name}`,
          KATA_AGENT_POLICY_FILE: `${this.#directory}/policy.rego`,
        },
        stdio: ["ignore", "inherit", "pipe", "pipe"],
      },
    );
    this.#child = child;
    let log = "";
    child.stderr?.setEncoding("utf8").on("data", (text: string) => (log += text));
    await new Promise<void>((resolve, reject) => {
      (child.stdio[3] as Readable).once("data", () => resolve());
      child.once("exit", (code) => reject(new Error(`the agent ended with ${code}: ${log}`)));
    });
  }

  async connect(): Promise<Wire> {
    const socket = connect(`\0${this.#name}`);
    await new Promise<void>((resolve, reject) => socket.once("connect", resolve).once("error", reject));
    return new Wire(byteStream(socket));
  }

  async stop(): Promise<void> {
    const child = this.#child;
    if (child !== undefined && child.exitCode === null) {
      const exit = new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGTERM");
      await exit;
    }
    rmSync(this.#directory, { recursive: true });
  }
}

describe.each([
  ["the server in memory", inMemory],
  ["the agent as a process", new AgentProcess()],
])("a client of others and %s", (_what, subject) => {
  beforeAll(() => subject.start());
  afterAll(() => subject.stop());

  async function open(work: (wire: Wire) => Promise<void>): Promise<void> {
    const wire = await subject.connect();
    try {
      await work(wire);
    } finally {
      wire.close();
    }
  }

  it("a call and its answer, byte for byte", () =>
    open(async (wire) => {
      // 20 bytes for stream 1: service "grpc.Health" (11 bytes), method "Check" (5).
      await wire.send(Buffer.from("000000140000000101000a0b677270632e4865616c74681205436865636b", "hex"));
      expect((await wire.frame()).toString("hex")).toBe("0000000400000001020012020801");
      await wire.send(frame(3, REQUEST, call("grpc.Health", "Version")));
      const { code, payload } = await wire.answer();
      expect([code, fields(payload).get(1)?.toString()]).toEqual([0, "0.0.1"]);
    }));

  it("frames cut at every byte, and many frames in one write", () =>
    open(async (wire) => {
      for (const byte of frame(1, REQUEST, CHECK)) await wire.send(Uint8Array.of(byte));
      expect(await wire.frame()).toEqual(frame(1, RESPONSE, SERVING));
      const ids = Array.from({ length: 200 }, (_, index) => 3 + 2 * index);
      await wire.send(...ids.map((id) => frame(id, REQUEST, CHECK)));
      const answered: number[] = [];
      for (const _ of ids) {
        const bytes = await wire.frame();
        expect(bytes.subarray(8)).toEqual(frame(0, RESPONSE, SERVING).subarray(8));
        answered.push(bytes.readUInt32BE(4));
      }
      expect(answered.toSorted((a, b) => a - b)).toEqual(ids);
      // A frame that ends with the first half of the next one's header.
      const next = frame(1003, REQUEST, CHECK);
      await wire.send(frame(1001, REQUEST, CHECK), next.subarray(0, 5));
      expect((await wire.answer()).streamId).toBe(1001);
      await wire.send(next.subarray(5));
      expect((await wire.answer()).streamId).toBe(1003);
    }));

  it("stream ids: odd, and each above the last; gaps and the largest are fine", () =>
    open(async (wire) => {
      await wire.alive(5);
      for (const id of [5, 3, 1]) {
        await wire.send(frame(id, REQUEST, CHECK));
        expect(await wire.answer()).toMatchObject({ streamId: id, code: 3, message: "StreamID cannot be re-used and must increment" });
      }
      for (const id of [0, 6, 4_294_967_294]) {
        await wire.send(frame(id, REQUEST, CHECK));
        expect(await wire.answer()).toMatchObject({ streamId: id, code: 3, message: "StreamID must be odd for client initiated streams" });
      }
      await wire.alive(7);
      await wire.alive(0x80000001);
      await wire.alive(4_294_967_295);
    }));

  it("calls side by side: a call that waits holds up no other", () =>
    open(async (wire) => {
      await wire.send(frame(1, REQUEST, call("grpc.AgentService", "GetOOMEvent")));
      await wire.alive(3);
      await wire.send(frame(5, REQUEST, call("grpc.AgentService", "GetOOMEvent", { timeoutNano: 20_000_000 })), frame(7, REQUEST, CHECK));
      expect((await wire.answer()).streamId).toBe(7);
      expect(await wire.answer()).toMatchObject({ streamId: 5, code: 4, message: "context deadline exceeded" });
      await wire.alive(9);
    }));

  it("a connection that is cut in a frame, or with calls under way, harms no other", async () => {
    const [first, second] = [await subject.connect(), await subject.connect()];
    await first.send(frame(1, REQUEST, call("grpc.AgentService", "GetOOMEvent")), frame(3, REQUEST, CHECK).subarray(0, 17));
    first.close();
    await second.alive(1);
    second.close();
    await open((wire) => wire.alive(1));
  });

  it("a limit of time that is not reached, metadata, unknown fields: all taken", () =>
    open(async (wire) => {
      const metadata = [
        ["containerd-namespace-ttrpc", "k8s.io"],
        ["traceparent", "00-1-2-03"],
        ["k", "1"],
        ["k", "2"],
        ["", ""],
      ] as const;
      const data = Buffer.concat([call("grpc.Health", "Check", { timeoutNano: 60_000_000_000, metadata }), field(99, "later"), numberField(100, 7)]);
      await wire.send(frame(1, REQUEST, data));
      expect(await wire.frame()).toEqual(frame(1, RESPONSE, SERVING));
      // An unknown field in the request itself.
      await wire.send(frame(3, REQUEST, call("grpc.Health", "Check", { payload: Buffer.concat([field(1, "x"), field(77, "y")]) })));
      expect(await wire.frame()).toEqual(frame(3, RESPONSE, SERVING));
    }));

  it.each([
    ["an unknown service", call("grpc.Nothing", "Check"), 12, "service grpc.Nothing"],
    ["a service without its package", call("AgentService", "CreateSandbox"), 12, "service AgentService"],
    ["an unknown method", call("grpc.Health", "Chuck"), 12, "method Chuck"],
    ["a method by its path, as gRPC has it", call("grpc.Health", "/grpc.Health/Check"), 12, "method /grpc.Health/Check"],
    ["a method with another first letter", call("grpc.Health", "check"), 12, "method check"],
    ["neither service nor method", Buffer.alloc(0), 12, "service "],
    ["a payload that is not the request", call("grpc.Health", "Check", { payload: Buffer.from("0a09", "hex") }), 3, "cannot decode grpc.CheckRequest"],
    [
      "what a policy does not allow",
      call("grpc.AgentService", "CreateSandbox", { payload: field(5, "pod-1") }),
      7,
      "CreateSandboxRequest is blocked by policy: ",
    ],
  ])("%s is answered with a status, and the connection goes on", (_name, data, code, message) =>
    open(async (wire) => {
      await wire.send(frame(1, REQUEST, data));
      expect(await wire.answer()).toEqual({ streamId: 1, code, message, payload: Buffer.alloc(0) });
      await wire.alive(3);
    }),
  );

  it("data that is no request is answered INVALID_ARGUMENT", () =>
    open(async (wire) => {
      await wire.send(frame(1, REQUEST, Buffer.from("0aff", "hex")));
      const { streamId, code, message } = await wire.answer();
      expect([streamId, code]).toEqual([1, 3]);
      expect(message).toMatch(/^unmarshal request error: /);
      await wire.alive(3);
    }));

  it("the most a frame may hold is taken; one byte more is skipped and answered RESOURCE_EXHAUSTED", () =>
    open(async (wire) => {
      // Lengths above 2 MiB take four bytes, so the two envelopes are 5 bytes each.
      const rest = CHECK.length + 5 + 5;
      const full = call("grpc.Health", "Check", { payload: field(1, Buffer.alloc(MAX_DATA - rest, "x")) });
      expect(full.length).toBe(MAX_DATA);
      await wire.send(frame(1, REQUEST, full));
      expect(await wire.frame()).toEqual(frame(1, RESPONSE, SERVING));
      for (const [id, length] of [
        [3, MAX_DATA + 1],
        [5, MAX_DATA * 2],
      ] as const) {
        const message = `message length ${length} exceed maximum message size of 4194304`;
        const sent = wire.send(frame(id, REQUEST, Buffer.alloc(length, frame(99, REQUEST, CHECK))), frame(id + 100, REQUEST, CHECK));
        expect(await wire.answer()).toMatchObject({ streamId: id, code: 8, message });
        expect((await wire.answer()).streamId).toBe(id + 100);
        await sent;
        // The id of what was skipped was never used.
        await wire.send(frame(id + 100, REQUEST, CHECK));
        expect((await wire.answer()).code).toBe(3);
      }
    }));

  it("frames of other types are ignored, data of streams that are over are refused, flags of a unary call change nothing", () =>
    open(async (wire) => {
      await wire.send(frame(1, 4, Buffer.from("later")), frame(1, 0, CHECK), frame(1, 0xff, CHECK, 0xff), frame(1, RESPONSE, SERVING));
      await wire.alive(1);
      for (const flags of [0, 1, 5]) {
        await wire.send(frame(1, DATA, flags === 5 ? Buffer.alloc(0) : CHECK, flags));
        expect(await wire.answer()).toMatchObject({ streamId: 1, code: 3, message: "StreamID is no longer active" });
      }
      for (const [id, flags] of [
        [3, 1],
        [5, 0x80],
      ] as const) {
        await wire.send(frame(id, REQUEST, CHECK, flags));
        expect(await wire.frame()).toEqual(frame(id, RESPONSE, SERVING));
      }
    }));
});

describe("our client and a server of others", () => {
  it("takes a success with a status of code 0 and one without, frames cut anywhere, in any order, between frames that it does not know", async () => {
    const [near, far] = memoryStreams();
    const client = new TtrpcClient(near);
    const server = new Wire(far);
    const calls = Promise.all([1, 2, 3].map(() => client.unary(Health.method.check, {})));
    for (const id of [1, 3, 5]) expect(await server.frame()).toEqual(frame(id, REQUEST, CHECK));
    const bytes = Buffer.concat([
      frame(1, 9, Buffer.from("unknown")),
      frame(5, RESPONSE, Buffer.concat([Buffer.from("0a00", "hex"), SERVING])),
      frame(2, RESPONSE, SERVING),
      frame(3, RESPONSE, Buffer.from("0a02080012020802", "hex")),
      frame(3, RESPONSE, SERVING),
      frame(1, RESPONSE, Buffer.concat([SERVING, Buffer.from("0a00", "hex")])),
    ]);
    for (const byte of bytes) await server.send(Uint8Array.of(byte));
    expect((await calls).map(({ status }) => status)).toEqual([1, 2, 1]);
    client.close();
  });

  it("gives the code and the message of a failure, whatever else the status holds", async () => {
    const [near, far] = memoryStreams();
    const client = new TtrpcClient(near);
    const server = new Wire(far);
    const failing = client.unary(Health.method.check, {}).catch((error: unknown) => error);
    await server.frame();
    const details = field(3, Buffer.concat([field(1, "type.googleapis.com/x"), field(2, "y")]));
    await server.send(frame(1, RESPONSE, field(1, Buffer.concat([numberField(1, 5), field(2, "not here"), details]))));
    expect(await failing).toMatchObject({ code: "ERR_TTRPC_STATUS", status: { code: 5, message: "not here" } });
    client.close();
  });
});
