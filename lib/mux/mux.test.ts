import { concatBytes, encodeUtf8, equalBytes } from "@sealpod/core";
import { memoryStreams, type ByteStream, type Timer } from "@sealpod/ttrpc";
import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";
import { encodeMuxFrame, MAX_FRAME_DATA, MuxFrameParser, type FrameName, type MuxFrame } from "./frame.ts";
import { encodeGreeting, FLUSH_LENGTH, GREETING_LENGTH, GreetingFinder, sessionTag, type Greeting } from "./greeting.ts";
import { createMux, DEFAULT_MAX_STREAMS, MuxError, type Mux, type MuxLimits, type MuxOptions } from "./index.ts";

/** A timer that fires when the test says so. */
class ManualTimer implements Timer {
  readonly #callbacks = new Set<() => void>();

  after(_milliseconds: number, callback: () => void): () => void {
    this.#callbacks.add(callback);
    return () => this.#callbacks.delete(callback);
  }

  fire(): void {
    const due = [...this.#callbacks];
    this.#callbacks.clear();
    for (const callback of due) callback();
  }

  get running(): number {
    return this.#callbacks.size;
  }
}

const settle = async (turns = 20): Promise<void> => {
  for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve));
};

/** Reads a stream to its end. */
async function readAll(stream: ByteStream): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of stream.readable) chunks.push(chunk);
  return concatBytes(...chunks);
}

async function failureOf(work: Promise<unknown>): Promise<MuxError> {
  try {
    await work;
  } catch (error) {
    if (error instanceof MuxError) return error;
    throw error;
  }
  throw new Error("it did not fail");
}

/** A source of chunks: those of `inner`, cut to the lengths that `cuts` says. */
function cut(inner: ByteStream, cuts: readonly number[]): ByteStream {
  let turn = 0;
  async function* pieces(): AsyncGenerator<Uint8Array, void, undefined> {
    for await (const chunk of inner.readable) {
      for (let at = 0; at < chunk.length;) {
        const length = cuts[turn++ % cuts.length] ?? 1;
        yield chunk.slice(at, at + length);
        at += length;
      }
    }
  }
  return { readable: pieces(), write: (bytes) => inner.write(bytes), close: () => inner.close() };
}

interface Pair {
  readonly host: Mux;
  readonly guest: Mux;
}

/** Both ends over one connection in memory. The guest echoes "echo", and gives what else comes to `accept`. */
function pair(options: { readonly host?: Partial<MuxOptions>; readonly guest?: Partial<MuxOptions>; readonly cuts?: readonly number[] } = {}): Pair {
  const [near, far] = memoryStreams();
  const { cuts = [1 << 20] } = options;
  const timer = new ManualTimer();
  return {
    host: createMux(cut(near, cuts), { side: "host", timer, ...options.host }),
    guest: createMux(cut(far, cuts), { side: "guest", timer, accept: (_service, stream) => void echo(stream), ...options.guest }),
  };
}

async function echo(stream: ByteStream): Promise<void> {
  try {
    for await (const chunk of stream.readable) await stream.write(chunk);
  } catch {
    // The other end closed while it was being echoed to.
  }
  stream.close();
}

/** Streams that one end took, to be looked at by the test. */
class Accepted {
  readonly services: string[] = [];
  readonly #streams: ByteStream[] = [];
  readonly #waiting: ((stream: ByteStream) => void)[] = [];

  readonly accept = (service: string, stream: ByteStream): void => {
    this.services.push(service);
    const next = this.#waiting.shift();
    if (next === undefined) this.#streams.push(stream);
    else next(stream);
  };

  next(): Promise<ByteStream> {
    const stream = this.#streams.shift();
    return stream === undefined ? new Promise((resolve) => this.#waiting.push(resolve)) : Promise.resolve(stream);
  }
}

const pattern = (length: number, seed = 0): Uint8Array => Uint8Array.from({ length }, (_, index) => (index * 31 + (index >> 8) + seed) & 0xff);

describe("streams", () => {
  it("carry bytes both ways, opened from either side, many at once", async () => {
    const hosted = new Accepted();
    const { host, guest } = pair({ host: { accept: hosted.accept } });
    const fromHost = await Promise.all([1, 2, 3].map(() => host.open("echo")));
    const fromGuest = await guest.open("processor");
    const atHost = await hosted.next();
    expect(hosted.services).toEqual(["processor"]);
    await fromGuest.write(encodeUtf8("question"));
    fromGuest.close();
    expect(await readAll(atHost)).toEqual(encodeUtf8("question"));
    await Promise.all(
      fromHost.map(async (stream, index) => {
        const bytes = pattern(300_000, index);
        let read = 0;
        const reading = (async () => {
          for await (const chunk of stream.readable) {
            expect(chunk).toEqual(bytes.subarray(read, read + chunk.length));
            read += chunk.length;
            if (read === bytes.length) return;
          }
        })();
        await stream.write(bytes);
        await reading;
        stream.close();
      }),
    );
    host.close();
    expect(await host.closed).toEqual({ reason: "it was closed here" });
    expect(await guest.closed).toEqual({ reason: "the peer ended the session: it was closed here" });
  });

  it("deliver the same bytes whatever the windows, the sizes of writes, the order of streams and the cuts of chunks", async () => {
    const writes = fc.array(fc.oneof({ weight: 3, arbitrary: fc.nat({ max: 40 }) }, fc.nat({ max: 90_000 })), { maxLength: 6 });
    const script = fc.record({
      streams: fc.array(writes, { minLength: 1, maxLength: 5 }),
      cuts: fc.array(fc.integer({ min: 1, max: 70_000 }), { minLength: 1, maxLength: 8 }),
      window: fc.oneof(fc.integer({ min: 200, max: 3000 }), fc.integer({ min: 3000, max: 200_000 })),
      hostWindow: fc.integer({ min: 500, max: 200_000 }),
    });
    await fc.assert(
      fc.asyncProperty(script, async ({ streams, cuts, window, hostWindow }) => {
        const { host, guest } = pair({ cuts, guest: { limits: { streamWindow: window } }, host: { limits: { streamWindow: hostWindow } } });
        await Promise.all(
          streams.map(async (lengths, seed) => {
            const stream = await host.open("echo");
            const expected = concatBytes(...lengths.map((length, index) => pattern(length, seed * 16 + index)));
            const reader = stream.readable[Symbol.asyncIterator]();
            const reading = (async () => {
              const back: Uint8Array[] = [];
              for (let held = 0; held < expected.length;) {
                const { value } = await reader.next();
                back.push((value as Uint8Array).slice());
                held += (value as Uint8Array).length;
              }
              return concatBytes(...back);
            })();
            for (const [index, length] of lengths.entries()) await stream.write(pattern(length, seed * 16 + index));
            expect(Buffer.compare(await reading, expected)).toBe(0);
            stream.close();
          }),
        );
        host.close();
        await guest.closed;
      }),
      { numRuns: 60 },
    );
  });

  it("give all bytes before their end, also to a reader who comes late, and end both directions", async () => {
    const accepted = new Accepted();
    const { host } = pair({ guest: { accept: accepted.accept } });
    const stream = await host.open("x");
    const there = await accepted.next();
    const bytes = pattern(200_000);
    await stream.write(bytes);
    stream.close();
    stream.close();
    await settle();
    expect((await failureOf(there.write(Uint8Array.of(1)))).message).toBe("cannot write to stream 1 (x): it was closed by the peer");
    expect(Buffer.compare(await readAll(there), bytes)).toBe(0);
    expect(await readAll(there)).toEqual(new Uint8Array());
    expect((await failureOf(stream.write(Uint8Array.of(1)))).code).toBe("ERR_MUX_CLOSED");
    expect(await readAll(stream)).toEqual(new Uint8Array());
  });

  it("closed by the one who does not read throw away what comes, and fail writes that wait", async () => {
    const accepted = new Accepted();
    const { host } = pair({ guest: { accept: accepted.accept }, host: { limits: { streamWindow: 1000 } } });
    const stream = await host.open("x");
    const there = await accepted.next();
    const writing = failureOf(there.write(pattern(5000)));
    await settle();
    stream.close();
    expect((await writing).code).toBe("ERR_MUX_CLOSED");
    expect(await readAll(there)).toEqual(new Uint8Array());
    // The session goes on.
    const next = await host.open("y");
    await (await accepted.next()).write(encodeUtf8("hi"));
    expect((await next.readable[Symbol.asyncIterator]().next()).value).toEqual(encodeUtf8("hi"));
  });

  it("read to the end after the peer has closed them, leave nothing behind", async () => {
    const accepted = new Accepted();
    const { host } = pair({ guest: { accept: accepted.accept, limits: { maxStreams: 2 } } });
    for (let round = 0; round < 6; round++) {
      const stream = await host.open("x");
      const there = await accepted.next();
      await stream.write(pattern(100));
      stream.close();
      await settle();
      expect(await readAll(there)).toEqual(pattern(100));
      await settle();
    }
  });

  it("closed at once, from both ends, leave nothing behind", async () => {
    const { host } = pair({ guest: { accept: (_service, stream) => stream.close() }, host: { limits: { maxStreams: 2 } } });
    for (let round = 0; round < DEFAULT_MAX_STREAMS * 3; round++) (await host.open("x")).close();
  });

  it("answer an opening before what the accepting end writes or closes", async () => {
    const { host } = pair({
      guest: {
        accept: (_service, stream) => {
          void stream.write(encodeUtf8("first"));
        },
      },
    });
    const stream = await host.open("x");
    expect((await stream.readable[Symbol.asyncIterator]().next()).value).toEqual(encodeUtf8("first"));
  });

  it("are refused when nobody takes them, and when the one who is asked throws", async () => {
    const { host, guest } = pair({
      guest: {
        accept: (service) => {
          throw new Error(`secret reason for ${service}`);
        },
      },
    });
    const error = await failureOf(host.open("agent"));
    expect([error.code, error.message, error.details]).toEqual(["ERR_MUX_REFUSED", "the peer refuses a stream to agent", { service: "agent" }]);
    expect((await failureOf(guest.open("processor"))).code).toBe("ERR_MUX_REFUSED");
    for (let round = 0; round < DEFAULT_MAX_STREAMS * 2; round++) expect((await failureOf(host.open("agent"))).code).toBe("ERR_MUX_REFUSED");
  });

  it.each(["", "a b", "a/b", "é", "x".repeat(65)])("are not opened to %j", async (service) => {
    expect((await failureOf(pair().host.open(service))).code).toBe("ERR_MUX_SERVICE");
  });

  it("are bounded by the peer's number; a closed one makes room", async () => {
    const { host } = pair({ guest: { limits: { maxStreams: 2 } } });
    const first = await host.open("a");
    await host.open("b");
    const error = await failureOf(host.open("c"));
    expect([error.code, error.details]).toEqual(["ERR_MUX_LIMIT", { open: 2, limit: 2 }]);
    first.close();
    await settle();
    await host.open("c");
  });
});

describe("back-pressure", () => {
  it("a stream that is not read holds up its writer at the window, and no other stream", async () => {
    const accepted = new Accepted();
    const { host } = pair({ guest: { accept: accepted.accept, limits: { streamWindow: 100_000 } } });
    const [slow, fast] = await Promise.all([host.open("slow"), host.open("fast")]);
    const [slowThere, fastThere] = [await accepted.next(), await accepted.next()];
    let written = 0;
    const filling = (async () => {
      for (let round = 0; round < 30; round++) {
        await slow.write(new Uint8Array(10_000));
        written++;
      }
    })();
    await settle();
    expect(written).toBe(10);
    const bytes = pattern(1_000_000);
    const reading = readAll(fastThere);
    await fast.write(bytes);
    fast.close();
    expect(Buffer.compare(await reading, bytes)).toBe(0);
    expect(written).toBe(10);
    let read = 0;
    for await (const chunk of slowThere.readable) {
      read += chunk.length;
      if (read === 300_000) break;
    }
    await filling;
  });

  it("streams take turns: a short message passes a long one that was there before", async () => {
    const accepted = new Accepted();
    const { host } = pair({ guest: { accept: accepted.accept, limits: { streamWindow: 8 << 20 } } });
    const [long, short] = await Promise.all([host.open("long"), host.open("short")]);
    const [longThere, shortThere] = [await accepted.next(), await accepted.next()];
    let passed = 0;
    const reading = (async () => {
      for await (const chunk of longThere.readable) passed += chunk.length;
    })();
    const writing = long.write(new Uint8Array(4 << 20));
    const message = short.write(Uint8Array.of(7));
    await shortThere.readable[Symbol.asyncIterator]().next();
    // It shares the first batches with the long one.
    expect(passed).toBeLessThan(400_000);
    await Promise.all([writing, message]);
    long.close();
    await reading;
    expect(passed).toBe(4 << 20);
  });

  it("streams take turns: of two long ones neither waits for the other's end", async () => {
    const accepted = new Accepted();
    const { host } = pair({ guest: { accept: accepted.accept, limits: { streamWindow: 8 << 20 } } });
    const streams = await Promise.all([host.open("a"), host.open("b")]);
    const passed = [0, 0];
    const reading = [await accepted.next(), await accepted.next()].map(async (stream, index) => {
      for await (const chunk of stream.readable) {
        passed[index] = (passed[index] ?? 0) + chunk.length;
        expect(Math.abs((passed[0] ?? 0) - (passed[1] ?? 0))).toBeLessThan(1 << 20);
      }
    });
    await Promise.all(streams.map((stream) => stream.write(new Uint8Array(4 << 20))));
    for (const stream of streams) stream.close();
    await Promise.all(reading);
    expect(passed).toEqual([4 << 20, 4 << 20]);
  });

  it("frames have at most 32 KiB of data", async () => {
    const [near, far] = memoryStreams();
    const peer = new RawGuest(far);
    const host = createMux(near, { side: "host", timer: new ManualTimer() });
    await peer.meet({ streamWindow: 1 << 20 });
    const opening = host.open("x");
    expect(await peer.next()).toMatchObject({ type: "open", streamId: 1, data: encodeUtf8("x") });
    await peer.send("accept", 1);
    const stream = await opening;
    const writing = stream.write(pattern(100_000));
    const lengths: number[] = [];
    while (lengths.reduce((sum, length) => sum + length, 0) < 100_000) lengths.push((await peer.next()).data.length);
    expect(Math.max(...lengths)).toBe(MAX_FRAME_DATA);
    await writing;
  });
});

const greetingOf = (fields: Partial<Greeting>): Uint8Array =>
  encodeGreeting({ kind: "hello", maxStreams: 8, streamWindow: 1000, hostNonce: new Uint8Array(16), guestNonce: new Uint8Array(16), ...fields });

/** One end of a session, played by hand. */
abstract class RawPeer {
  readonly carrier: ByteStream;
  readonly #reader: AsyncIterator<Uint8Array>;
  readonly #frames: MuxFrame[] = [];
  protected session: Greeting | undefined;
  #parser: MuxFrameParser | undefined;

  constructor(carrier: ByteStream) {
    this.carrier = carrier;
    this.#reader = carrier.readable[Symbol.asyncIterator]();
  }

  /** The next greeting of the other end. */
  protected async greeting(kind: Greeting["kind"], hostNonce?: Uint8Array): Promise<Greeting> {
    const finder = new GreetingFinder();
    for (;;) {
      for (const found of finder.push(await this.#chunk())) {
        if (found.greeting.kind !== kind || (hostNonce !== undefined && !equalBytes(hostNonce, found.greeting.hostNonce))) continue;
        this.session = found.greeting;
        this.#parser = new MuxFrameParser(sessionTag(found.greeting.guestNonce));
        this.#frames.push(...this.#parser.push(found.rest.slice()));
        return found.greeting;
      }
    }
  }

  async next(): Promise<MuxFrame> {
    for (;;) {
      const frame = this.#frames.shift();
      if (frame !== undefined) return frame;
      this.#frames.push(...(this.#parser?.push(await this.#chunk()) ?? []));
    }
  }

  async #chunk(): Promise<Uint8Array> {
    const { value, done } = await this.#reader.next();
    if (done === true) throw new Error("the carrier ended");
    return value.slice();
  }

  get tag(): number {
    if (this.session === undefined) throw new Error("not met");
    return sessionTag(this.session.guestNonce);
  }

  frame(type: FrameName, streamId: number, data?: Uint8Array): Uint8Array {
    return encodeMuxFrame(type, streamId, this.tag, data);
  }

  async send(type: FrameName, streamId: number, data?: Uint8Array): Promise<void> {
    await this.carrier.write(this.frame(type, streamId, data));
  }
}

class RawHost extends RawPeer {
  readonly nonce = pattern(16, 77);

  async meet(limits: Partial<MuxLimits> = {}): Promise<void> {
    await this.carrier.write(greetingOf({ hostNonce: this.nonce, ...limits }));
    const answer = await this.greeting("answer", this.nonce);
    await this.carrier.write(greetingOf({ ...answer, kind: "confirm", maxStreams: 0, streamWindow: 0 }));
  }
}

class RawGuest extends RawPeer {
  async meet(limits: Partial<MuxLimits> = {}): Promise<void> {
    const hello = await this.greeting("hello");
    await this.carrier.write(greetingOf({ ...hello, kind: "answer", guestNonce: pattern(16, 99), ...limits }));
    await this.greeting("confirm");
  }
}

describe("meeting", () => {
  it("the host says hello until it is answered, after zeros that end what an old session left open", async () => {
    const [near, far] = memoryStreams();
    const timer = new ManualTimer();
    const host = createMux(near, { side: "host", timer });
    const reader = far.readable[Symbol.asyncIterator]();
    const first = (await reader.next()).value as Uint8Array;
    expect(first.length).toBe(FLUSH_LENGTH + GREETING_LENGTH);
    expect(first.subarray(0, FLUSH_LENGTH).every((byte) => byte === 0)).toBe(true);
    timer.fire();
    timer.fire();
    expect((await reader.next()).value).toEqual(first.subarray(FLUSH_LENGTH));
    await settle();
    expect(timer.running).toBe(1);
    const [found] = [...new GreetingFinder().push(first)];
    if (found === undefined) throw new Error("no hello");
    // An answer to another hello, a hello, noise, and then the answer.
    await far.write(greetingOf({ kind: "answer", guestNonce: pattern(16) }));
    await far.write(greetingOf({ ...found.greeting }));
    await far.write(pattern(5000));
    expect(timer.running).toBe(1);
    await far.write(greetingOf({ ...found.greeting, kind: "answer", guestNonce: pattern(16) }));
    await host.ready;
    expect(timer.running).toBe(0);
  });

  it("hellos do not pile up before a carrier that takes nothing", async () => {
    const timer = new ManualTimer();
    let writes = 0;
    const host = createMux(
      { readable: memoryStreams()[0].readable, write: () => new Promise(() => void writes++), close: () => undefined },
      { side: "host", timer },
    );
    for (let round = 0; round < 100; round++) {
      timer.fire();
      await settle(1);
    }
    expect(writes).toBe(1);
    host.close();
    await expect(host.ready).rejects.toMatchObject({ code: "ERR_MUX_CLOSED" });
  });

  it("the guest finds its host among remains of frames, wherever chunks are cut, and answers the same hello once", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1 }), fc.uint8Array({ maxLength: 200 }), async (cuts, noise) => {
        const [near, far] = memoryStreams();
        const guest = createMux(cut(far, cuts), { side: "guest" });
        const raw = new RawHost(near);
        // A session of before: its confirmation does not have the nonce that this guest is about to choose.
        await near.write(concatBytes(noise, greetingOf({ hostNonce: pattern(16) }), greetingOf({ kind: "confirm", hostNonce: pattern(16) })));
        await near.write(concatBytes(noise, greetingOf({ hostNonce: raw.nonce }).subarray(0, 20), greetingOf({ hostNonce: raw.nonce })));
        await raw.meet();
        await guest.ready;
        const opening = guest.open("x");
        expect((await raw.next()).type).toBe("open");
        guest.close();
        await failureOf(opening);
      }),
      { numRuns: 100 },
    );
  });

  it("a guest inside a frame of a host that is gone ends its session when another host begins, and gives no byte of that to the stream", async () => {
    for (const held of [1, 4, 7, 8, 9, 5000]) {
      const [near, far] = memoryStreams();
      const accepted = new Accepted();
      const guest = createMux(far, { side: "guest", accept: accepted.accept });
      const raw = new RawHost(near);
      await raw.meet();
      await raw.send("open", 1, encodeUtf8("x"));
      const stream = await accepted.next();
      await near.write(raw.frame("data", 1, pattern(6000)).subarray(0, held));
      const second = createMux(near, { side: "host", timer: new ManualTimer() });
      expect((await guest.closed).reason).toMatch(/another session|found 0/);
      expect((await failureOf(readAll(stream))).code).toBe("ERR_MUX_CLOSED");
      second.close();
    }
  });

  it("a new guest on the same port is met by the hello that is repeated", async () => {
    const [near, far] = memoryStreams();
    const timer = new ManualTimer();
    const host = createMux(near, { side: "host", timer });
    // What the port loses while the guest opens it.
    const lost = far.readable[Symbol.asyncIterator]();
    await lost.next();
    const guest = createMux({ ...far, readable: far.readable, close: () => far.close() }, { side: "guest" });
    await settle();
    timer.fire();
    await Promise.all([host.ready, guest.ready]);
    host.close();
  });

  it("ends with the carrier: openings, writers and readers hear of it, bytes that had come can be read", async () => {
    const [near, far] = memoryStreams();
    const accepted = new Accepted();
    const guest = createMux(far, { side: "guest", accept: accepted.accept });
    const raw = new RawHost(near);
    await raw.meet();
    await raw.send("open", 1, encodeUtf8("x"));
    await raw.send("data", 1, pattern(500));
    const stream = await accepted.next();
    const writing = failureOf(stream.write(pattern(5000)));
    const opening = failureOf(guest.open("y"));
    await settle();
    near.close();
    expect(await guest.closed).toEqual({ reason: "the carrier ended" });
    expect((await writing).message).toBe("the session has ended: the carrier ended");
    expect((await opening).code).toBe("ERR_MUX_CLOSED");
    const reader = stream.readable[Symbol.asyncIterator]();
    expect((await reader.next()).value).toEqual(pattern(500));
    expect((await failureOf(reader.next())).code).toBe("ERR_MUX_CLOSED");
    expect((await failureOf(guest.open("z"))).code).toBe("ERR_MUX_CLOSED");
  });

  it("a carrier that ends before both have met rejects whoever waits, and nobody else", async () => {
    const [near, far] = memoryStreams();
    const host = createMux(near, { side: "host", timer: new ManualTimer() });
    const opening = failureOf(host.open("x"));
    far.close();
    expect((await opening).code).toBe("ERR_MUX_CLOSED");
    expect((await failureOf(host.ready)).code).toBe("ERR_MUX_CLOSED");
  });

  it("a carrier that breaks is told with its own words", async () => {
    async function* broken(): AsyncGenerator<Uint8Array, void, undefined> {
      yield* [];
      await Promise.resolve();
      throw new Error("read ENODEV");
    }
    const mux = createMux({ readable: broken(), write: () => Promise.resolve(), close: () => undefined }, { side: "guest" });
    expect(await mux.closed).toEqual({ reason: "read ENODEV" });
  });
});

describe("a peer that does not keep to the protocol", () => {
  /** A guest with a raw host, one stream open: number 1, window 1000 bytes both ways. */
  async function met(limits: Partial<MuxLimits> = {}): Promise<{ guest: Mux; raw: RawHost; stream: ByteStream; accepted: Accepted; timer: ManualTimer }> {
    const [near, far] = memoryStreams();
    const accepted = new Accepted();
    const timer = new ManualTimer();
    const guest = createMux(far, { side: "guest", accept: accepted.accept, timer, limits: { maxStreams: 3, streamWindow: 1000, ...limits } });
    const raw = new RawHost(near);
    await raw.meet();
    await raw.send("open", 1, encodeUtf8("x"));
    expect(await raw.next()).toMatchObject({ type: "accept", streamId: 1 });
    return { guest, raw, stream: await accepted.next(), accepted, timer };
  }

  const header = (type: number, second: number, length: number, id: number): Uint8Array =>
    Uint8Array.of(type, second, length >> 8, length & 0xff, id >>> 24, (id >> 16) & 0xff, (id >> 8) & 0xff, id & 0xff);
  const bytes4 = (value: number): Uint8Array => Uint8Array.of(value >>> 24, (value >> 16) & 0xff, (value >> 8) & 0xff, value & 0xff);

  it.each<[string, (raw: RawHost) => Uint8Array, RegExp | string]>([
    ["an unknown type", () => Uint8Array.of(8), "type of a frame: found 8, expected 1 to 7"],
    ["zeros", () => new Uint8Array(1), "the peer has begun another session"],
    ["another hello", () => greetingOf({}), "the peer has begun another session"],
    ["a second byte", () => header(4, 1, 1, 1), "second byte of a frame: found 1, expected 0"],
    ["an absurd length", () => header(4, 0, 0xffff, 1), "length of a frame of type data: found 65535, expected 1 to 32768"],
    ["one byte too many", () => header(4, 0, 32769, 1), "length of a frame of type data: found 32769, expected 1 to 32768"],
    ["data of no length", () => header(4, 0, 0, 1), "length of a frame of type data: found 0, expected 1 to 32768"],
    ["a credit of another length", () => header(5, 0, 8, 1), "length of a frame of type credit: found 8, expected 4 to 4"],
    ["stream 0", () => header(4, 0, 1, 0), "stream of a frame of type data: found 0, expected 0 for a goodbye alone"],
    ["a goodbye of a stream", () => header(7, 0, 0, 1), "stream of a frame of type goodbye: found 1, expected 0 for a goodbye alone"],
    ["another session's frame", (raw) => encodeMuxFrame("data", 1, raw.tag ^ 2, pattern(3)), /^end of a frame of type data: found \d+, expected the tag/],
    ["data of an unknown stream", (raw) => raw.frame("data", 3, pattern(1)), "stream of a frame of type data: found 3, expected one that is open"],
    ["a credit of an unknown stream", (raw) => raw.frame("credit", 2, bytes4(1)), "stream of a frame of type credit: found 2, expected one that is open"],
    ["a close of an unknown stream", (raw) => raw.frame("close", 9), "stream of a frame of type close: found 9, expected one that is open"],
    ["an acceptance that nobody waits for", (raw) => raw.frame("accept", 2), "stream of a frame of type accept: found 2, expected one that waits for it"],
    ["a refusal of its own stream", (raw) => raw.frame("refuse", 1), "stream of a frame of type refuse: found 1, expected one that waits for it"],
    ["a number used again", (raw) => raw.frame("open", 1, encodeUtf8("x")), "number of a stream that the peer opens: found 1, expected odd and above 1"],
    ["a number of this end", (raw) => raw.frame("open", 2, encodeUtf8("x")), "number of a stream that the peer opens: found 2, expected odd and above 1"],
    ["a service with a slash", (raw) => raw.frame("open", 3, encodeUtf8("a/b")), `service: found "a/b", expected letters, digits, '.' and '-'`],
    ["data beyond the window", (raw) => raw.frame("data", 1, pattern(1001)), "data of stream 1: found 1001 bytes, expected at most 1000"],
    [
      "data beyond the window, in parts",
      (raw) => concatBytes(raw.frame("data", 1, pattern(600)), raw.frame("data", 1, pattern(401))),
      "data of stream 1: found 401 bytes, expected at most 400",
    ],
    ["a credit for nothing", (raw) => raw.frame("credit", 1, bytes4(1)), "credit of stream 1: found 1, expected 1 to 0"],
    ["a credit of 0", (raw) => raw.frame("credit", 1, bytes4(0)), "credit of stream 1: found 0, expected 1 to 0"],
    ["a huge credit", (raw) => raw.frame("credit", 1, bytes4(0xffffffff)), "credit of stream 1: found 4294967295, expected 1 to 0"],
    [
      "data after a close",
      (raw) => concatBytes(raw.frame("data", 1, pattern(1)), raw.frame("close", 1), raw.frame("data", 1, pattern(1))),
      "stream 1: found data, expected nothing after its close",
    ],
    [
      "a second close",
      (raw) => concatBytes(raw.frame("data", 1, pattern(1)), raw.frame("close", 1), raw.frame("close", 1)),
      "stream 1: found a second close, expected one",
    ],
    [
      "data after both have closed",
      (raw) => concatBytes(raw.frame("close", 1), raw.frame("data", 1, pattern(1))),
      "stream of a frame of type data: found 1, expected one that is open",
    ],
    [
      "too many streams",
      (raw) => concatBytes(...[3, 5, 7].map((id) => raw.frame("open", id, encodeUtf8("x")))),
      "streams of the peer: found 4, expected at most 3 at once",
    ],
  ])("is hung up on, with the reason, for %s", async (_what, bytes, reason) => {
    const { guest, raw, stream } = await met();
    await raw.carrier.write(bytes(raw));
    const ended = await guest.closed;
    if (typeof reason === "string") expect(ended.reason).toBe(reason);
    else expect(ended.reason).toMatch(reason);
    // It is told; what it had opened is over.
    for (;;) {
      const frame = await raw.next();
      if (frame.type !== "goodbye") continue;
      expect(Buffer.from(frame.data).toString()).toBe(ended.reason);
      break;
    }
    expect((await failureOf(stream.write(pattern(1)))).code).toBe("ERR_MUX_CLOSED");
  });

  it("gets no second window from a stream that was closed unread", async () => {
    const { guest, raw, stream } = await met();
    await raw.send("data", 1, pattern(1000));
    await settle();
    stream.close();
    await raw.send("data", 1, pattern(1));
    expect((await guest.closed).reason).toBe("data of stream 1: found 1 bytes, expected at most 0");
  });

  it("is hung up on when its carrier ends inside a frame", async () => {
    const { guest, raw, stream } = await met();
    await raw.carrier.write(raw.frame("data", 1, pattern(500)).subarray(0, 300));
    raw.carrier.close();
    expect(await guest.closed).toEqual({ reason: "the carrier ended inside a frame" });
    expect((await failureOf(readAll(stream))).code).toBe("ERR_MUX_CLOSED");
  });

  it("is hung up on when it asks and does not read", async () => {
    const { guest, raw, timer } = await met({ maxStreams: 2 });
    // Both directions are full: 256 KiB of answers fit the carrier.
    const flood = (async () => {
      for (let id = 3; ; id += 2) await raw.carrier.write(concatBytes(raw.frame("open", id, encodeUtf8("x")), raw.frame("close", id)));
    })();
    flood.catch(() => undefined);
    await vi.waitFor(() => expect(timer.running).toBe(1));
    // It is given a moment to read why, and no more.
    timer.fire();
    expect((await guest.closed).reason).toMatch(/^the peer does not read: \d+ answers wait for it$/);
    await expect(flood).rejects.toThrow();
  });

  it("cannot make the bound on unread answers its own", async () => {
    const [near, far] = memoryStreams();
    const timer = new ManualTimer();
    const guest = createMux(far, { side: "guest", timer });
    const raw = new RawHost(near);
    await raw.meet({ maxStreams: 0xffffffff });
    const flood = (async () => {
      for (let id = 1; ; id += 2) await near.write(raw.frame("open", id, encodeUtf8("x")));
    })();
    flood.catch(() => undefined);
    await vi.waitFor(() => expect(timer.running).toBe(1));
    // It is given a moment to read why, and no more.
    timer.fire();
    expect((await guest.closed).reason).toMatch(/^the peer does not read: 1\d{4} answers wait for it$/);
  });

  it("fills one window of one stream with single bytes: few pieces, small memory, and nothing lost", async () => {
    const { raw, stream } = await met();
    const bytes = pattern(1000);
    // Each byte lies in 64 KiB of its own: what waits must not keep that.
    for (const byte of bytes) {
      const frame = raw.frame("data", 1, Uint8Array.of(byte));
      await raw.carrier.write(concatBytes(frame));
    }
    await settle();
    const pieces: Uint8Array[] = [];
    for await (const piece of stream.readable) {
      pieces.push(piece);
      if (pieces.reduce((sum, { length }) => sum + length, 0) === 1000) break;
    }
    expect(concatBytes(...pieces)).toEqual(bytes);
    expect(pieces.length).toBeLessThan(10);
    expect(pieces.reduce((sum, { buffer }) => sum + buffer.byteLength, 0)).toBeLessThan(64 * 1024);
  });

  it("cannot make streams that it has closed cost memory: unread ones count as open", async () => {
    const { guest, raw } = await met();
    const filled = (id: number): Uint8Array =>
      concatBytes(raw.frame("open", id, encodeUtf8("x")), raw.frame("data", id, pattern(1000)), raw.frame("close", id));
    await raw.carrier.write(concatBytes(filled(3), filled(5), filled(7)));
    expect((await guest.closed).reason).toBe("streams of the peer: found 4, expected at most 3 at once");
  });

  it("gives no reason that a terminal would act on", async () => {
    const { guest, raw } = await met();
    await raw.send("goodbye", 0, encodeUtf8("\u001b[2J\u009bé\n"));
    expect((await guest.closed).reason).toBe("the peer ended the session: ?[2J???");
  });

  it("whatever it sends ends at most the session", async () => {
    const type = fc.constantFrom<FrameName>("open", "accept", "refuse", "data", "credit", "close");
    const frame = fc.record({ type, id: fc.integer({ min: 1, max: 7 }), data: fc.oneof(fc.uint8Array({ maxLength: 5 }), fc.constant(encodeUtf8("x"))) });
    const piece = fc.oneof({ weight: 6, arbitrary: frame }, fc.uint8Array({ maxLength: 20 }));
    await fc.assert(
      fc.asyncProperty(fc.array(piece, { maxLength: 12 }), fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 }), async (pieces, cuts) => {
        const { guest, raw, stream, accepted } = await met();
        const opening = guest.open("y").catch((error: unknown) => expect(error).toBeInstanceOf(MuxError));
        const reading = readAll(stream).catch((error: unknown) => expect(error).toBeInstanceOf(MuxError));
        const writing = stream.write(pattern(3000)).catch((error: unknown) => expect(error).toBeInstanceOf(MuxError));
        const bytes = concatBytes(...pieces.map((item) => (item instanceof Uint8Array ? item : raw.frame(item.type, item.id, item.data))));
        for (let at = 0, turn = 0; at < bytes.length; turn++) {
          const length = cuts[turn % cuts.length] ?? 1;
          await raw.carrier.write(bytes.subarray(at, at + length)).catch(() => undefined);
          at += length;
        }
        raw.carrier.close();
        await guest.closed;
        await Promise.all([opening, reading, writing]);
        expect(accepted.services.every((service) => /^[A-Za-z0-9.-]{1,64}$/.test(service))).toBe(true);
      }),
      { numRuns: 300 },
    );
  });
});
