import { describe, expect, it } from "vitest";
import { encodeFrame, MessageSplitter } from "./grpc-message.ts";

describe("MessageSplitter", () => {
  const messages = [new Uint8Array([1, 2, 3]), new Uint8Array(), new Uint8Array(300).fill(7), new Uint8Array([9])];
  const body = Buffer.concat(messages.map(encodeFrame));

  it("gives the same messages however the body is cut", () => {
    for (let size = 1; size <= body.length; size++) {
      const splitter = new MessageSplitter(300);
      const found: Uint8Array[] = [];
      for (let at = 0; at < body.length; at += size) found.push(...splitter.push(body.subarray(at, at + size)));
      expect(found).toEqual(messages);
      expect(splitter.isBetweenMessages).toBe(true);
    }
  });

  it("knows that a body ends inside a message", () => {
    for (const length of [1, 5, 7]) {
      const splitter = new MessageSplitter(300);
      expect([...splitter.push(body.subarray(0, length))]).toEqual([]);
      expect(splitter.isBetweenMessages).toBe(false);
    }
  });

  it("refuses a message over the limit at its prefix, and one that is compressed", () => {
    expect(() => [...new MessageSplitter(299).push(body)]).toThrow(expect.objectContaining({ code: "ERR_CONTAINERD_LIMIT", details: { limit: 299 } }));
    expect(() => [...new MessageSplitter(9).push(new Uint8Array([1, 0, 0, 0, 0]))]).toThrow(expect.objectContaining({ code: "ERR_CONTAINERD_PROTOCOL" }));
  });
});
