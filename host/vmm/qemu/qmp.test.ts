import { describe, expect, it } from "vitest";
import type { JsonObject } from "@sealpod/core";
import type { ByteStream } from "@sealpod/ttrpc";
import { MAX_LINE_LENGTH, QmpClient, type QmpEvent } from "./qmp.ts";

const GREETING = '{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 22}}, "capabilities": ["oob"]}}\r\n';

/** A scripted QEMU: says what it is told to, and notes what it is asked. */
class Peer {
  readonly asked: JsonObject[] = [];
  readonly stream: ByteStream;
  closed = false;
  #queue: Uint8Array[] = [];
  #wake: (() => void) | undefined;

  constructor(answer: (request: JsonObject, say: (text: string) => void) => void) {
    this.stream = {
      readable: this.#read(),
      write: async (bytes) => {
        if (this.closed) throw new Error("closed");
        const request = JSON.parse(Buffer.from(bytes).toString("utf8")) as JsonObject;
        this.asked.push(request);
        answer(request, (text) => this.say(text));
      },
      close: () => this.end(),
    };
  }

  say(text: string | Uint8Array): void {
    this.#queue.push(Buffer.from(text as string));
    this.#wake?.();
  }

  end(): void {
    this.closed = true;
    this.#wake?.();
  }

  async *#read(): AsyncGenerator<Uint8Array> {
    for (;;) {
      for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) yield next;
      if (this.closed) return;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }
}

function id(request: JsonObject): string {
  return JSON.stringify(request["id"]);
}

/** A peer that takes the capabilities and leaves the rest to `answer`. */
function greeter(answer: (request: JsonObject, say: (text: string) => void) => void = () => undefined): Peer {
  const peer = new Peer((request, say) => {
    if (request["execute"] === "qmp_capabilities") say(`{"return": {}, "id": ${id(request)}}\n`);
    else answer(request, say);
  });
  peer.say(GREETING);
  return peer;
}

const monitorError = (message: RegExp): unknown => expect.objectContaining({ code: "ERR_VMM_MONITOR", message: expect.stringMatching(message) as string });

describe("the client of QEMU's monitor", () => {
  it("greets, leaves the mode of negotiation, and finds the answer to each command whatever their order", async () => {
    const held: string[] = [];
    const peer = greeter((request, say) => {
      held.push(`{"return": ${JSON.stringify(request["arguments"])}, "id": ${id(request)}}\n`);
      if (held.length === 3) for (const line of held.toReversed()) say(line);
    });
    const client = await QmpClient.open(peer.stream);
    const answers = await Promise.all(["a", "b", "c"].map((value) => client.execute("test", { value })));
    expect(answers).toEqual([{ value: "a" }, { value: "b" }, { value: "c" }]);
    expect(peer.asked[0]).toEqual({ execute: "qmp_capabilities", arguments: {}, id: 1 });
    client.close();
    expect(await client.closed).toBe("closed");
    expect(peer.closed).toBe(true);
  });

  it("passes on events, and reads lines in any pieces", async () => {
    const events: QmpEvent[] = [];
    const peer = new Peer((request, say) => {
      const text = `{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}\r\n{"event": "MIGRATION", "data": {"status": "completed"}}\r\n{"return": {}, "id": ${id(request)}}\r\n`;
      for (const char of text) say(char);
    });
    for (const char of GREETING) peer.say(char);
    await QmpClient.open(peer.stream, { onEvent: (event) => events.push(event) });
    expect(events).toEqual([
      { name: "STOP", data: {} },
      { name: "MIGRATION", data: { status: "completed" } },
    ]);
  });

  it("bounds a line, not the sum of lines", async () => {
    let seen = 0;
    const peer = greeter((request, say) => say(`{"return": ${seen}, "id": ${id(request)}}\n`));
    const client = await QmpClient.open(peer.stream, { onEvent: () => void seen++ });
    const event = `{"event": "X", "data": {"text": "${"x".repeat(MAX_LINE_LENGTH / 2)}"}}\n`;
    for (let count = 0; count < 4; count++) peer.say(event);
    // The answer to the first question may be behind the events; the second one's is.
    await client.execute("first");
    await client.execute("second");
    expect(seen).toBe(4);
  });

  it("rejects with QEMU's reason, without what a terminal would obey, and goes on", async () => {
    const peer = greeter((request, say) => {
      if (request["execute"] === "bad") say(`{"error": {"class": "GenericError", "desc": "no \\u001b[2Jsuch ${"x".repeat(1000)}"}, "id": ${id(request)}}\n`);
      else say(`{"return": "fine", "id": ${id(request)}}\n`);
    });
    const client = await QmpClient.open(peer.stream);
    await expect(client.execute("bad")).rejects.toEqual(monitorError(/^bad: no {1,2}\[2Jsuch x{1,400}$/));
    expect(await client.execute("good")).toBe("fine");
  });

  it("reads what the human monitor prints", async () => {
    const peer = greeter((request, say) => say(`{"return": "could not do it\\r\\n", "id": ${id(request)}}\n`));
    const client = await QmpClient.open(peer.stream);
    expect(await client.humanMonitor("hostfwd_add x")).toBe("could not do it");
    expect(peer.asked[1]).toMatchObject({ execute: "human-monitor-command", arguments: { "command-line": "hostfwd_add x" } });
  });

  const hostile: readonly (readonly [string, string | Uint8Array, RegExp])[] = [
    ["no JSON", "QEMU says hello\n", /QMP message:1:1/],
    ["an array", "[]\n", /expected an object/],
    ["bytes that are no text", Uint8Array.of(0x22, 0xff, 0x22, 0x0a), /UTF-8/],
    ["an answer to no command", '{"return": {}, "id": 99}\n', /an answer to no command/],
    ["an answer without an id", '{"return": {}}\n', /an answer to no command/],
    ["an id of another type", '{"return": {}, "id": "2"}\n', /an answer to no command/],
    ["neither a return nor an error", '{"id": 2}\n', /neither a return nor an error/],
    ["both a return and an error", '{"return": {}, "error": {"desc": "x"}, "id": 2}\n', /neither a return nor an error/],
    ["a line without end", Buffer.alloc(MAX_LINE_LENGTH + 1, 0x20), /longer than 1048576 bytes/],
    ["a deep answer", `${"[".repeat(1000)}\n`, /nested deeper than 32/],
    ["one name twice", '{"id": 2, "id": 2, "return": 1}\n', /duplicate name/],
  ];
  it.each(hostile)("ends the connection, and what waits, for %s", async (_what, bytes, reason) => {
    const peer = greeter();
    const client = await QmpClient.open(peer.stream);
    const waiting = client.execute("wait");
    peer.say(bytes);
    await expect(waiting).rejects.toEqual(monitorError(reason));
    expect(await client.closed).toMatch(reason);
    expect(peer.closed).toBe(true);
    await expect(client.execute("later")).rejects.toEqual(monitorError(/^later: the connection has ended/));
  });

  it("takes nothing before a greeting, and no second one for an answer", async () => {
    const peer = new Peer(() => undefined);
    peer.say('{"return": {}, "id": 1}\n');
    await expect(QmpClient.open(peer.stream)).rejects.toEqual(monitorError(/the first message is no greeting/));
    const twice = greeter();
    const client = await QmpClient.open(twice.stream);
    twice.say(GREETING);
    expect(await client.closed).toMatch(/an answer to no command/);
  });

  it("says that QEMU closed the connection", async () => {
    const silent = new Peer(() => undefined);
    silent.end();
    await expect(QmpClient.open(silent.stream)).rejects.toEqual(monitorError(/before QEMU greeted: QEMU closed it/));
    const peer = greeter((_request, _say) => peer.end());
    const client = await QmpClient.open(peer.stream);
    await expect(client.execute("quit")).rejects.toEqual(monitorError(/^quit: the connection ended before the answer: QEMU closed it$/));
  });

  it("gives up on a QEMU that does not greet, or does not answer", async () => {
    await expect(QmpClient.open(new Peer(() => undefined).stream, { answerLimitMs: 1 })).rejects.toEqual(monitorError(/no greeting after 1 ms/));
    const peer = new Peer(() => undefined);
    peer.say(GREETING);
    await expect(QmpClient.open(peer.stream, { answerLimitMs: 20 })).rejects.toEqual(monitorError(/no answer to qmp_capabilities after 20 ms/));
    expect(peer.closed).toBe(true);
  });
});
