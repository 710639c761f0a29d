import { concatBytes, fromHex, toHex } from "@sealpod/core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { FRAME_TYPE, FrameParser, MAX_DATA_LENGTH, TtrpcError, encodeFrame, readFrames, type Frame, type OversizedFrame } from "./index.ts";

function parse(...chunks: readonly Uint8Array[]): (Frame | OversizedFrame)[] {
  const parser = new FrameParser();
  const frames = chunks.flatMap((chunk) => [...parser.push(chunk)]);
  parser.end();
  return frames;
}

function header(length: number, streamId: number, type: number, flags = 0): Uint8Array {
  const bytes = new Uint8Array(10);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, length);
  view.setUint32(4, streamId);
  view.setUint8(8, type);
  view.setUint8(9, flags);
  return bytes;
}

describe("frames", () => {
  it("encodes length and id in big endian, then type, flags and data", () => {
    expect(toHex(encodeFrame({ streamId: 0x01020305, type: FRAME_TYPE.request, flags: 0 }, Uint8Array.of(0xaa, 0xbb)))).toBe("00000002010203050100aabb");
    expect(toHex(encodeFrame({ streamId: 1, type: FRAME_TYPE.data, flags: 5 }, new Uint8Array()))).toBe("00000000000000010305");
  });

  it("refuses to send more than 4 MiB and sends 4 MiB", () => {
    expect(encodeFrame({ streamId: 1, type: 1, flags: 0 }, new Uint8Array(MAX_DATA_LENGTH)).length).toBe(MAX_DATA_LENGTH + 10);
    expect(() => encodeFrame({ streamId: 1, type: 1, flags: 0 }, new Uint8Array(MAX_DATA_LENGTH + 1))).toThrow(
      expect.objectContaining({ code: "ERR_TTRPC_LIMIT", status: { code: 8, message: "message length 4194305 exceed maximum message size of 4194304" } }),
    );
  });

  it("parses frames wherever the chunks are cut", () => {
    const bytes = concatBytes(fromHex("00000002000000010100aabb"), fromHex("00000000fffffffff77f"), fromHex("00000001000000030200cc"));
    const expected = parse(bytes);
    expect(expected).toEqual([
      { kind: "frame", streamId: 1, type: 1, flags: 0, data: Uint8Array.of(0xaa, 0xbb) },
      { kind: "frame", streamId: 0xffffffff, type: 0xf7, flags: 0x7f, data: new Uint8Array() },
      { kind: "frame", streamId: 3, type: 2, flags: 0, data: Uint8Array.of(0xcc) },
    ]);
    for (let first = 0; first <= bytes.length; first++) {
      for (let second = first; second <= bytes.length; second++) {
        expect(parse(bytes.subarray(0, first), bytes.subarray(first, second), bytes.subarray(second))).toEqual(expected);
      }
    }
    expect(parse(...Array.from(bytes, (byte) => Uint8Array.of(byte)))).toEqual(expected);
  });

  it("gives back any frames from any chunks", () => {
    const frame = fc.record({
      streamId: fc.nat({ max: 0xffffffff }),
      type: fc.nat({ max: 255 }),
      flags: fc.nat({ max: 255 }),
      data: fc.uint8Array({ maxLength: 50 }),
    });
    fc.assert(
      fc.property(fc.array(frame, { maxLength: 8 }), fc.infiniteStream(fc.integer({ min: 1, max: 30 })), (frames, sizes) => {
        const bytes = concatBytes(...frames.map(({ data, ...header }) => encodeFrame(header, data)));
        const chunks: Uint8Array[] = [];
        for (let at = 0; at < bytes.length;) {
          const size = sizes.next().value as number;
          chunks.push(bytes.subarray(at, at + size));
          at += size;
        }
        expect(parse(...chunks)).toEqual(frames.map((item) => ({ kind: "frame", ...item })));
      }),
    );
  });

  it("collects large data from many chunks", () => {
    const data = Uint8Array.from({ length: 100_000 }, (_unused, index) => index % 251);
    const bytes = encodeFrame({ streamId: 1, type: 1, flags: 0 }, data);
    const chunks = Array.from({ length: Math.ceil(bytes.length / 977) }, (_unused, index) => bytes.subarray(index * 977, (index + 1) * 977));
    expect(parse(...chunks, encodeFrame({ streamId: 3, type: 1, flags: 0 }, Uint8Array.of(9))).map((frame) => frame.kind === "frame" && frame.data)).toEqual([
      data,
      Uint8Array.of(9),
    ]);
  });

  it("skips data that is too long and stays in step", () => {
    const parser = new FrameParser();
    const length = MAX_DATA_LENGTH + 3;
    expect([...parser.push(header(length, 7, 1))]).toEqual([]);
    const chunk = new Uint8Array(1024 * 1024);
    for (let index = 0; index < 4; index++) expect([...parser.push(chunk)]).toEqual([]);
    expect([...parser.push(concatBytes(new Uint8Array(3), fromHex("00000001000000030200cc")))]).toEqual([
      { kind: "oversized", streamId: 7, type: 1, flags: 0, length },
      { kind: "frame", streamId: 3, type: 2, flags: 0, data: Uint8Array.of(0xcc) },
    ]);
  });

  it("allocates nothing for data that is announced only", () => {
    // 4 GiB claimed a thousand times over would not fit anywhere.
    const parsers = Array.from({ length: 1000 }, () => new FrameParser());
    for (const parser of parsers) expect([...parser.push(header(MAX_DATA_LENGTH, 1, 1))]).toEqual([]);
    expect(parsers).toHaveLength(1000);
  });

  it.each([
    ["header", fromHex("000000020000"), "stream ends inside the header of a frame: found 6 bytes of 10"],
    ["data", fromHex("00000002000000010100aa"), "stream ends inside the data of a frame: found 1 bytes of 2"],
    ["oversized data", fromHex("ffffffff000000010100aa"), "stream ends inside the data of a frame: found 1 bytes of 4294967295"],
    ["data of which nothing came", fromHex("00000002000000010100"), "stream ends inside the data of a frame: found 0 bytes of 2"],
  ])("refuses a stream that ends inside the %s", (_what, bytes, message) => {
    expect(() => parse(bytes)).toThrow(expect.objectContaining({ code: "ERR_TTRPC_MALFORMED", message }));
  });

  it("lets only its own errors escape from hostile bytes", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 10 }), async (chunks) => {
        async function* stream(): AsyncGenerator<Uint8Array> {
          yield* chunks;
        }
        try {
          for await (const frame of readFrames(stream())) expect(frame.streamId).toBeGreaterThanOrEqual(0);
        } catch (error) {
          expect(error).toBeInstanceOf(TtrpcError);
        }
      }),
      { numRuns: 500 },
    );
  });
});
