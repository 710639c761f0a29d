import { concatBytes, encodeUtf8, fromHex, toHex } from "@sealpod/core";
import {
  AgentService,
  Health,
  HealthCheckResponse_ServingStatus,
  RequestSchema,
  ResponseSchema,
  encodeMessage,
  parseMessage,
  type MessageInitShape,
} from "@sealpod/proto";
import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";
import {
  MAX_DATA_LENGTH,
  MAX_STATUS_MESSAGE_LENGTH,
  STATUS,
  TtrpcClient,
  TtrpcError,
  byteStream,
  encodeFrame,
  implement,
  memoryStreams,
  readFrames,
  serveTtrpc,
  statusError,
  statusName,
  type ByteStream,
  type CallContext,
  type ServeOptions,
  type Timer,
  type TtrpcService,
} from "./index.ts";

const health = implement(Health, { check: () => ({ status: HealthCheckResponse_ServingStatus.SERVING }) });

/** A timer that fires when the test says so. */
class ManualTimer implements Timer {
  readonly delays: number[] = [];
  readonly #callbacks = new Set<() => void>();

  after(milliseconds: number, callback: () => void): () => void {
    this.delays.push(milliseconds);
    this.#callbacks.add(callback);
    return () => this.#callbacks.delete(callback);
  }

  fire(): void {
    for (const callback of this.#callbacks) callback();
  }

  get running(): number {
    return this.#callbacks.size;
  }
}

function connect(
  services: readonly TtrpcService[],
  options: ServeOptions = {},
  timer?: Timer,
): { client: TtrpcClient; served: Promise<void>; host: ByteStream } {
  const [host, guest] = memoryStreams();
  const served = serveTtrpc(guest, services, options);
  return { client: new TtrpcClient(host, timer === undefined ? {} : { timer }), served, host };
}

/** The raw side of a connection whose other side is a server: sends bytes, reads frames. */
class RawClient {
  readonly stream: ByteStream;
  readonly served: Promise<void>;
  readonly #frames: AsyncIterator<{ readonly streamId: number }>;

  constructor(services: readonly TtrpcService[], options: ServeOptions = {}) {
    const [near, far] = memoryStreams();
    this.stream = near;
    this.served = serveTtrpc(far, services, options);
    this.#frames = readFrames(near.readable);
  }

  async send(streamId: number, data: Uint8Array, type = 1, flags = 0): Promise<void> {
    await this.stream.write(encodeFrame({ streamId, type, flags }, data));
  }

  /** Stream id, status code and message of the next answer. */
  async answer(): Promise<readonly [number, number, string]> {
    const { value } = await this.#frames.next();
    const frame = value as { streamId: number; type: number; flags: number; data: Uint8Array };
    expect([frame.type, frame.flags]).toEqual([2, 0]);
    const response = parseMessage(ResponseSchema, frame.data);
    return [frame.streamId, response.status?.code ?? 0, response.status?.message ?? ""];
  }
}

function request(service: string, method: string, extra: MessageInitShape<typeof RequestSchema> = {}): Uint8Array {
  return encodeMessage(RequestSchema, { ...extra, service, method });
}

const CHECK = request("grpc.Health", "Check");

describe("on the wire", () => {
  it("a call is what a Go server reads, an answer what a Go server writes", async () => {
    const [host, guest] = memoryStreams();
    const client = new TtrpcClient(host);
    const call = client.unary(Health.method.check, { service: "x" });
    const sent = await guest.readable[Symbol.asyncIterator]().next();
    // length 25, stream 1, Request; service = "grpc.Health", method = "Check", payload = {service: "x"}
    const expected = `000000190000000101000a0b${toHex(encodeUtf8("grpc.Health"))}1205${toHex(encodeUtf8("Check"))}1a030a0178`;
    expect(toHex(sent.value as Uint8Array)).toBe(expected);
    await guest.write(fromHex("0000000400000001020012020801"));
    expect((await call).status).toBe(1);

    const raw = new RawClient([health]);
    await raw.stream.write(fromHex(expected));
    const frames = raw.stream.readable[Symbol.asyncIterator]();
    expect(toHex((await frames.next()).value as Uint8Array)).toBe("0000000400000001020012020801");
  });

  it("a status with code 0, as the Rust implementation writes it, is success", async () => {
    const [host, guest] = memoryStreams();
    const call = new TtrpcClient(host).unary(Health.method.check, {});
    await guest.write(fromHex("000000060000000102000a0012020801"));
    expect((await call).status).toBe(1);
    guest.close();
  });

  it("an error is a status and nothing else", async () => {
    const service = implement(Health, {
      check: () => {
        throw statusError(STATUS.permissionDenied, "no");
      },
    });
    const raw = new RawClient([service]);
    await raw.send(1, CHECK);
    const frames = raw.stream.readable[Symbol.asyncIterator]();
    expect(toHex((await frames.next()).value as Uint8Array)).toBe("000000080000000102000a06080712026e6f");
  });

  it("ids are 1, 3, 5; the time limit is in nanoseconds; metadata repeats its key", async () => {
    const [host, guest] = memoryStreams();
    const client = new TtrpcClient(host, { timer: new ManualTimer() });
    const metadata = new Map([
      ["containerd-namespace-ttrpc", ["k8s.io"]],
      ["a", ["1", "2"]],
    ]);
    const calls = [
      client.unary(Health.method.check, {}),
      client.unary(Health.method.version, {}, { timeoutMs: 1.5, metadata }),
      client.unary(Health.method.check, {}),
    ];
    const seen: unknown[] = [];
    for await (const frame of readFrames(guest.readable)) {
      if (frame.kind === "oversized") throw new Error("not sent");
      const { method, timeoutNano, metadata: pairs } = parseMessage(RequestSchema, frame.data);
      seen.push([frame.streamId, method, timeoutNano, pairs.map(({ key, value }) => `${key}=${value}`)]);
      if (seen.length === 3) break;
    }
    expect(seen).toEqual([
      [1, "Check", 0n, []],
      [3, "Version", 1_500_000n, ["containerd-namespace-ttrpc=k8s.io", "a=1", "a=2"]],
      [5, "Check", 0n, []],
    ]);
    client.close();
    expect(await Promise.all(calls.map((call) => call.catch((error: TtrpcError) => error.code)))).toEqual(Array(3).fill("ERR_TTRPC_CLOSED"));
  });

  it("status names are those of gRPC", () => {
    expect([0, 7, 8, 16, 99].map(statusName)).toEqual(["OK", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED", "code 99"]);
  });
});

describe("server", () => {
  it.each([
    ["an even stream id", 2, CHECK, 1, 0, [2, 3, "StreamID must be odd for client initiated streams"]],
    ["stream id 0", 0, CHECK, 1, 0, [0, 3, "StreamID must be odd for client initiated streams"]],
    ["data for a stream that is not open", 1, new Uint8Array(), 3, 5, [1, 3, "StreamID is no longer active"]],
    ["an unknown service", 1, request("grpc.Nothing", "Check"), 1, 0, [1, 12, "service grpc.Nothing"]],
    ["an unknown method", 1, request("grpc.Health", "Chuck"), 1, 0, [1, 12, "method Chuck"]],
    ["a method without handler", 1, request("grpc.Health", "Version"), 1, 0, [1, 12, "method Version"]],
    ["a method named like a property of objects", 1, request("grpc.Health", "constructor"), 1, 0, [1, 12, "method constructor"]],
    [
      "a payload that is not the method's message",
      1,
      request("grpc.Health", "Check", { payload: Uint8Array.of(0x0a, 9) }),
      1,
      0,
      [1, 3, "cannot decode grpc.CheckRequest"],
    ],
  ] as const)("refuses %s", async (_what, streamId, data, type, flags, expected) => {
    const raw = new RawClient([health]);
    await raw.send(streamId, data, type, flags);
    expect(await raw.answer()).toEqual(expected);
    // The connection goes on.
    await raw.send(3, CHECK);
    expect(await raw.answer()).toEqual([3, 0, ""]);
  });

  it("refuses data that is not a request", async () => {
    const raw = new RawClient([health]);
    await raw.send(1, Uint8Array.of(0xff));
    const [streamId, code, message] = await raw.answer();
    expect([streamId, code]).toEqual([1, STATUS.invalidArgument]);
    expect(message).toMatch(/^unmarshal request error: /);
  });

  it("refuses ids that do not increase", async () => {
    const raw = new RawClient([health]);
    await raw.send(5, CHECK);
    expect(await raw.answer()).toEqual([5, 0, ""]);
    for (const streamId of [5, 3, 1]) {
      await raw.send(streamId, CHECK);
      expect(await raw.answer()).toEqual([streamId, 3, "StreamID cannot be re-used and must increment"]);
    }
    await raw.send(0xffffffff, CHECK);
    expect(await raw.answer()).toEqual([0xffffffff, 0, ""]);
  });

  it("ignores responses and unknown types", async () => {
    const raw = new RawClient([health]);
    await raw.send(1, CHECK, 2);
    await raw.send(1, CHECK, 200);
    await raw.send(1, CHECK);
    expect(await raw.answer()).toEqual([1, 0, ""]);
  });

  it("drains a frame that is too long, answers it, and goes on", async () => {
    const raw = new RawClient([health]);
    const length = MAX_DATA_LENGTH + 1;
    const header = new Uint8Array(10);
    new DataView(header.buffer).setUint32(0, length);
    header[7] = 1;
    header[8] = 1;
    await raw.stream.write(concatBytes(header, new Uint8Array(length), encodeFrame({ streamId: 3, type: 1, flags: 0 }, CHECK)));
    expect(await raw.answer()).toEqual([1, 8, `message length ${length} exceed maximum message size of 4194304`]);
    expect(await raw.answer()).toEqual([3, 0, ""]);
  });

  it("takes a request of exactly 4 MiB", async () => {
    const empty = request("grpc.AgentService", "CopyFile", {
      payload: encodeMessage(AgentService.method.copyFile.input, { data: new Uint8Array(MAX_DATA_LENGTH - 64) }),
    });
    const room = MAX_DATA_LENGTH - empty.length;
    const payload = encodeMessage(AgentService.method.copyFile.input, { data: new Uint8Array(MAX_DATA_LENGTH - 64 + room) });
    const data = request("grpc.AgentService", "CopyFile", { payload });
    expect(data.length).toBe(MAX_DATA_LENGTH);
    const sizes: number[] = [];
    const service = implement(AgentService, {
      copyFile: ({ data }) => {
        sizes.push(data.length);
        return {};
      },
    });
    const raw = new RawClient([service]);
    await raw.send(1, data);
    expect(await raw.answer()).toEqual([1, 0, ""]);
    expect(sizes).toEqual([MAX_DATA_LENGTH - 64 + room]);
  });

  it("answers in the order in which calls end", async () => {
    const first = Promise.withResolvers<object>();
    const service = implement(Health, { check: () => first.promise, version: () => ({ agentVersion: "1" }) });
    const { client } = connect([service]);
    const ended: string[] = [];
    const slow = client.unary(Health.method.check, {}).then(() => ended.push("check"));
    await client.unary(Health.method.version, {}).then(() => ended.push("version"));
    first.resolve({});
    await slow;
    expect(ended).toEqual(["version", "check"]);
    client.close();
  });

  it("answers an error without a status as UNKNOWN with its text, and never as OK", async () => {
    let thrown: unknown = new RangeError("out of it");
    const service = implement(Health, { check: () => Promise.reject(thrown as Error) });
    const { client } = connect([service]);
    const check = (): Promise<unknown> => client.unary(Health.method.check, {});
    await expect(check()).rejects.toMatchObject({ code: "ERR_TTRPC_STATUS", status: { code: STATUS.unknown, message: "out of it" } });
    thrown = statusError(STATUS.ok, "not an error");
    await expect(check()).rejects.toMatchObject({ status: { code: STATUS.unknown } });
    thrown = "text";
    await expect(check()).rejects.toMatchObject({ status: { code: STATUS.unknown, message: "text" } });
    client.close();
  });

  it("cuts long messages, not inside a character, and answers RESOURCE_EXHAUSTED for a result that is too large", async () => {
    const service = implement(Health, {
      check: () => {
        throw statusError(STATUS.permissionDenied, `a${"é".repeat(MAX_STATUS_MESSAGE_LENGTH)}\u{d800}`);
      },
      version: () => ({ agentVersion: "v".repeat(MAX_DATA_LENGTH) }),
    });
    const { client } = connect([service]);
    const error = await client.unary(Health.method.check, {}).then(
      () => undefined,
      (error: TtrpcError) => error.status,
    );
    expect(error?.code).toBe(STATUS.permissionDenied);
    expect(error?.message).toMatch(/^aé+… \(\d+ more bytes\)$/);
    expect(error?.message.length).toBeLessThan(MAX_STATUS_MESSAGE_LENGTH);
    await expect(client.unary(Health.method.version, {})).rejects.toMatchObject({ status: { code: STATUS.resourceExhausted } });
    client.close();
  });

  it("ends a call when its time is over, tells the handler, and drops the late answer", async () => {
    const timer = new ManualTimer();
    const late = Promise.withResolvers<object>();
    const contexts: CallContext[] = [];
    const service = implement(Health, {
      check: (_request, context) => {
        contexts.push(context);
        return late.promise;
      },
      version: () => ({}),
    });
    const { client } = connect([service], { timer });
    const call = client.unary(Health.method.check, {}, { timeoutMs: 60_000 });
    await vi.waitFor(() => expect(timer.delays).toEqual([60_000]));
    expect(contexts[0]?.signal.aborted).toBe(false);
    timer.fire();
    await expect(call).rejects.toMatchObject({ status: { code: STATUS.deadlineExceeded, message: "context deadline exceeded" } });
    expect(contexts[0]?.signal.aborted).toBe(true);
    expect(timer.running).toBe(0);
    late.resolve({});
    await client.unary(Health.method.version, {});
    client.close();
  });

  it("stops reading at the bound of calls, and goes on when one is answered", async () => {
    const waiting: ((answer: object) => void)[] = [];
    const service = implement(Health, { check: () => new Promise((resolve) => waiting.push(resolve)) });
    const raw = new RawClient([service], { maxCalls: 2 });
    for (const streamId of [1, 3, 5, 7]) await raw.send(streamId, CHECK);
    await vi.waitFor(() => expect(waiting).toHaveLength(2));
    waiting[1]?.({});
    expect(await raw.answer()).toEqual([3, 0, ""]);
    await vi.waitFor(() => expect(waiting).toHaveLength(3));
    waiting[0]?.({});
    waiting[2]?.({});
    expect(await raw.answer()).toEqual([1, 0, ""]);
    expect(await raw.answer()).toEqual([5, 0, ""]);
    await vi.waitFor(() => expect(waiting).toHaveLength(4));
    raw.stream.close();
    await raw.served;
  });

  it("stops reading at the bound of bytes, also for a client that never reads its answers", async () => {
    let calls = 0;
    const service = implement(Health, {
      version: () => {
        calls++;
        return { agentVersion: "v".repeat(100_000) };
      },
    });
    const raw = new RawClient([service], { maxCallBytes: 300_000 });
    const sending = (async () => {
      for (let streamId = 1; streamId < 20_001; streamId += 2) await raw.send(streamId, request("grpc.Health", "Version"));
    })();
    const rejected = expect(sending).rejects.toMatchObject({ code: "ERR_TTRPC_CLOSED" });
    // The client's own writes come to a stand-still; nothing else signals that, so wait until the count no longer changes.
    let before = -1;
    while (before !== calls) {
      before = calls;
      for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => setImmediate(resolve));
    }
    // 256 KiB fit the connection, 300 kB the bound: seven or eight answers of 100 kB, never ten thousand.
    expect(calls).toBeGreaterThanOrEqual(3);
    expect(calls).toBeLessThanOrEqual(10);
    raw.stream.close();
    await raw.served;
    await rejected;
  });

  it("aborts handlers when the connection ends, and resolves", async () => {
    const aborted = Promise.withResolvers<void>();
    const service = implement(Health, {
      check: (_request, { signal }) => {
        signal.addEventListener("abort", () => aborted.resolve());
        return new Promise(() => undefined);
      },
    });
    const { client, served } = connect([service]);
    const call = client.unary(Health.method.check, {});
    const rejected = expect(call).rejects.toMatchObject({ code: "ERR_TTRPC_CLOSED" });
    await new Promise((resolve) => setImmediate(resolve));
    client.close();
    await Promise.all([aborted.promise, served, rejected, client.closed]);
  });

  it("resolves and logs when the stream breaks inside a frame", async () => {
    const lines: string[] = [];
    const raw = new RawClient([health], { logger: { log: (level, message, fields) => lines.push(`${level} ${message} ${String(fields?.["error"])}`) } });
    await raw.stream.write(fromHex("0000"));
    raw.stream.close();
    await raw.served;
    expect(lines).toEqual(["warn ttRPC connection ended with an error stream ends inside the header of a frame: found 2 bytes of 10"]);
  });

  it("gives methods without a handler to the fallback", async () => {
    const service = implement(AgentService, { getMetrics: () => ({ metrics: "m" }) }, (method, request) => {
      throw statusError(STATUS.permissionDenied, `${method.name} ${request.$typeName}`);
    });
    const { client } = connect([health, service]);
    expect((await client.unary(AgentService.method.getMetrics, {})).metrics).toBe("m");
    await expect(client.unary(AgentService.method.setPolicy, { policy: "p" })).rejects.toMatchObject({
      status: { code: 7, message: "SetPolicy grpc.SetPolicyRequest" },
      message: "grpc.AgentService/SetPolicy: PERMISSION_DENIED: SetPolicy grpc.SetPolicyRequest",
    });
    expect((await client.unary(Health.method.check, {})).status).toBe(1);
    client.close();
  });

  it("gives handlers service, method and metadata", async () => {
    let context: CallContext | undefined;
    const service = implement(Health, {
      check: (_request, given) => {
        context = given;
        return {};
      },
    });
    const { client } = connect([service]);
    await client.unary(Health.method.check, {}, { metadata: new Map([["k", ["1", "2"]]]) });
    expect(context).toMatchObject({ service: "grpc.Health", method: "Check", metadata: new Map([["k", ["1", "2"]]]) });
    client.close();
  });

  it("survives hostile bytes and lets nothing escape", async () => {
    const frame = fc.record({
      streamId: fc.nat({ max: 9 }),
      type: fc.nat({ max: 4 }),
      flags: fc.nat({ max: 7 }),
      data: fc.oneof(fc.constant(CHECK), fc.uint8Array({ maxLength: 60 })),
    });
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: 100 }),
      frame.map(({ data, ...header }) => encodeFrame(header, data)),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(bytes, { maxLength: 12 }), async (chunks) => {
        const [near, far] = memoryStreams();
        const served = serveTtrpc(far, [health]);
        const read = (async () => {
          for await (const answer of readFrames(near.readable)) expect(answer.type).toBe(2);
        })();
        for (const chunk of chunks) await near.write(chunk).catch((error: unknown) => expect(error).toBeInstanceOf(TtrpcError));
        await new Promise((resolve) => setImmediate(resolve));
        near.close();
        await Promise.all([served, read]);
      }),
      { numRuns: 300 },
    );
  });
});

describe("client", () => {
  /** A client whose server is played by the test. */
  function lone(timer?: Timer): { client: TtrpcClient; server: ByteStream } {
    const [host, server] = memoryStreams();
    return { client: new TtrpcClient(host, timer === undefined ? {} : { timer }), server };
  }

  function response(streamId: number, data: Uint8Array): Uint8Array {
    return encodeFrame({ streamId, type: 2, flags: 0 }, data);
  }

  it("takes answers wherever the chunks are cut", async () => {
    const { client, server } = lone();
    const calls = Promise.all([client.unary(Health.method.check, {}), client.unary(Health.method.check, {})]);
    const bytes = concatBytes(response(3, fromHex("12020802")), response(1, fromHex("12020801")));
    for (const byte of bytes) await server.write(Uint8Array.of(byte));
    expect((await calls).map((answer) => answer.status)).toEqual([1, 2]);
    client.close();
  });

  it.each([
    ["an envelope that is none", response(1, Uint8Array.of(0xff)), "ERR_TTRPC_MALFORMED"],
    ["a payload that is none", response(1, fromHex("1201ff")), "ERR_TTRPC_MALFORMED"],
    ["an answer that is too long", concatBytes(fromHex("00400001000000010200"), new Uint8Array(MAX_DATA_LENGTH + 1)), "ERR_TTRPC_LIMIT"],
  ])("rejects %s, and the connection goes on", async (_what, bytes, code) => {
    const { client, server } = lone();
    const call = client.unary(Health.method.check, {});
    const rejected = expect(call).rejects.toMatchObject({ code });
    const written = server.write(bytes);
    await rejected;
    await written;
    const next = client.unary(Health.method.check, {});
    await server.write(response(3, fromHex("12020801")));
    expect((await next).status).toBe(1);
    client.close();
  });

  it("ignores answers to ids it does not know, and frames that are no answers", async () => {
    const { client, server } = lone();
    const call = client.unary(Health.method.check, {});
    await server.write(response(9, Uint8Array.of(0xff)));
    await server.write(encodeFrame({ streamId: 1, type: 3, flags: 0 }, Uint8Array.of(1)));
    await server.write(encodeFrame({ streamId: 1, type: 1, flags: 0 }, CHECK));
    await server.write(response(1, fromHex("12020801")));
    expect((await call).status).toBe(1);
    client.close();
  });

  it("gives up when its time is over, and drops the late answer", async () => {
    const timer = new ManualTimer();
    const { client, server } = lone(timer);
    const call = client.unary(Health.method.check, {}, { timeoutMs: 5000 });
    const rejected = expect(call).rejects.toMatchObject({ code: "ERR_TTRPC_TIMEOUT", status: { code: 4 }, details: { timeoutMs: 5000 } });
    expect(timer.delays).toEqual([5000]);
    timer.fire();
    await rejected;
    expect(timer.running).toBe(0);
    const next = client.unary(Health.method.check, {}, { timeoutMs: 5000 });
    await server.write(concatBytes(response(1, fromHex("12020802")), response(3, fromHex("12020801"))));
    expect((await next).status).toBe(1);
    expect(timer.running).toBe(0);
    client.close();
  });

  it("gives up when the signal aborts", async () => {
    const { client } = lone();
    const controller = new AbortController();
    const call = client.unary(Health.method.check, {}, { signal: controller.signal });
    const rejected = expect(call).rejects.toMatchObject({ code: "ERR_TTRPC_CANCELLED" });
    controller.abort();
    await rejected;
    await expect(client.unary(Health.method.check, {}, { signal: controller.signal })).rejects.toMatchObject({ code: "ERR_TTRPC_CANCELLED" });
    client.close();
  });

  it("rejects what is under way, and what comes after, when the peer closes", async () => {
    const { client, server } = lone();
    const calls = [1, 2, 3].map(() => client.unary(Health.method.check, {}).catch((error: TtrpcError) => [error.code, error.status.code]));
    server.close();
    await client.closed;
    expect(await Promise.all(calls)).toEqual(calls.map(() => ["ERR_TTRPC_CLOSED", STATUS.unavailable]));
    await expect(client.unary(Health.method.check, {})).rejects.toMatchObject({
      code: "ERR_TTRPC_CLOSED",
      message: "the connection is closed: the peer closed it",
    });
  });

  it("rejects what is under way when the stream breaks inside a frame", async () => {
    const { client, server } = lone();
    const rejected = expect(client.unary(Health.method.check, {})).rejects.toMatchObject({
      code: "ERR_TTRPC_CLOSED",
      cause: { code: "ERR_TTRPC_MALFORMED" },
    });
    await server.write(fromHex("000000"));
    server.close();
    await rejected;
  });

  it("refuses a request that is too large without using an id", async () => {
    const { client, server } = lone();
    await expect(client.unary(AgentService.method.writeStdin, { data: new Uint8Array(MAX_DATA_LENGTH) })).rejects.toMatchObject({ code: "ERR_TTRPC_LIMIT" });
    const next = client.unary(Health.method.check, {});
    await server.write(response(1, fromHex("12020801")));
    expect((await next).status).toBe(1);
    client.close();
  });

  it("survives hostile answers and lets only its own errors escape", async () => {
    const frame = fc.record({ streamId: fc.nat({ max: 3 }), type: fc.nat({ max: 3 }), flags: fc.nat({ max: 7 }), data: fc.uint8Array({ maxLength: 30 }) });
    await fc.assert(
      fc.asyncProperty(fc.array(frame, { maxLength: 6 }), fc.uint8Array({ maxLength: 20 }), async (frames, tail) => {
        const { client, server } = lone();
        const call = client.unary(Health.method.check, {}).then(
          (answer) => expect(answer.$typeName).toBe("grpc.HealthCheckResponse"),
          (error: unknown) => expect(error).toBeInstanceOf(TtrpcError),
        );
        for (const { data, ...header } of frames) await server.write(encodeFrame(header, data));
        await server.write(tail);
        server.close();
        await Promise.all([call, client.closed]);
      }),
      { numRuns: 500 },
    );
  });
});

describe("byte streams", () => {
  it("in memory: a writer waits for a reader that does not read", async () => {
    const [near, far] = memoryStreams();
    let written = 0;
    const writing = (async () => {
      for (let index = 0; index < 10; index++) {
        await near.write(new Uint8Array(100_000));
        written++;
      }
    })();
    for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
    expect(written).toBe(2);
    let read = 0;
    for await (const chunk of far.readable) {
      read += chunk.length;
      if (read === 1_000_000) break;
    }
    await writing;
    expect(written).toBe(10);
  });

  it("in memory: what was written before closing can be read, and writing after it fails", async () => {
    const [near, far] = memoryStreams();
    const bytes = Uint8Array.of(1, 2);
    await near.write(bytes);
    bytes.fill(9);
    near.close();
    near.close();
    const chunks: Uint8Array[] = [];
    for await (const chunk of far.readable) chunks.push(chunk);
    expect(chunks).toEqual([Uint8Array.of(1, 2)]);
    await expect(far.write(bytes)).rejects.toMatchObject({ code: "ERR_TTRPC_CLOSED" });
    await expect(near.write(bytes)).rejects.toMatchObject({ code: "ERR_TTRPC_CLOSED" });
  });

  it("over a duplex: destroying it on this side ends its reading, other errors break it", async () => {
    const reading = async (code: string): Promise<number> => {
      let count = 0;
      const stream = byteStream({
        write: () => true,
        destroy: () => undefined,
        on: () => undefined,
        async *[Symbol.asyncIterator]() {
          yield Uint8Array.of(1);
          throw Object.assign(new Error(code), { code });
        },
      });
      for await (const chunk of stream.readable) count += chunk.length;
      return count;
    };
    expect(await reading("ERR_STREAM_PREMATURE_CLOSE")).toBe(1);
    await expect(reading("ECONNRESET")).rejects.toThrow("ECONNRESET");
  });

  it("over a duplex: errors are rejections, not events", async () => {
    let listener: ((error: Error) => void) | undefined;
    let destroyed = 0;
    const stream = byteStream({
      write: (_bytes, done) => {
        done(new Error("broken pipe"));
        return false;
      },
      destroy: () => destroyed++,
      on: (_event, given) => {
        listener = given;
      },
      async *[Symbol.asyncIterator]() {
        yield Uint8Array.of(1);
      },
    });
    expect(() => listener?.(new Error("reset"))).not.toThrow();
    await expect(stream.write(new Uint8Array(1))).rejects.toMatchObject({ code: "ERR_TTRPC_CLOSED", message: "cannot write to the connection: broken pipe" });
    stream.close();
    expect(destroyed).toBe(1);
  });
});

it("gives handlers the types of their methods", () => {
  const service = implement(AgentService, {
    readStdout: ({ len }) => ({ data: new Uint8Array(len) }),
    // @ts-expect-error -- a number is not bytes
    readStderr: () => ({ data: 1 }),
  });
  expect(service.name).toBe("grpc.AgentService");
});
