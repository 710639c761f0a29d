import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { encodeUtf8, silentLogger, type Logger } from "@sealpod/core";
import { createMux, MuxError, type Mux } from "@sealpod/mux";
import { Health, processorApi } from "@sealpod/proto";
import { implement, memoryStreams, serveTtrpc, TtrpcClient, type ByteStream, type Timer } from "@sealpod/ttrpc";
import { afterAll, describe, expect, it, vi } from "vitest";
import { errorOf } from "../test-support.ts";
import { AgentStreams, hostProcessor, openVirtioPort, serveChannel, type Channel } from "./index.ts";

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

/** A port that has a host now and then. */
class Port {
  readonly #opened: ((stream: ByteStream) => void)[] = [];
  opens = 0;

  readonly open = (): Promise<ByteStream> => {
    this.opens++;
    return new Promise((resolve) => this.#opened.push(resolve));
  };

  /** The host's end of what the guest opened. */
  async connect(): Promise<ByteStream> {
    await vi.waitFor(() => expect(this.#opened.length).toBeGreaterThan(0));
    const [near, far] = memoryStreams();
    this.#opened.shift()?.(far);
    return near;
  }
}

const health = implement(Health, { check: () => ({ status: 1 }) });

function setUp(): { port: Port; timer: ManualTimer; channel: Channel; lines: string[] } {
  const [port, timer, lines] = [new Port(), new ManualTimer(), [] as string[]];
  const logger: Logger = {
    log: (_level, message, fields) => void lines.push(`${message}${fields?.["reason"] === undefined ? "" : `: ${String(fields["reason"])}`}`),
  };
  const channel = serveChannel({ port: port.open, accept: new AgentStreams(Promise.resolve([health]), silentLogger).accept, logger, timer });
  return { port, timer, channel, lines };
}

const check = async (host: Mux): Promise<number> => {
  const client = new TtrpcClient(await host.open("agent"));
  const { status } = await client.unary(Health.method.check, {});
  client.close();
  return status;
};

describe("the channel to the host", () => {
  it("serves the agent to one host after the other", async () => {
    const { port, timer, channel, lines } = setUp();
    for (let session = 1; session <= 3; session++) {
      const host = createMux(await port.connect(), { side: "host", timer: new ManualTimer() });
      expect(await Promise.all([check(host), check(host)])).toEqual([1, 1]);
      expect((await errorOf(() => host.open("console"))).code).toBe("ERR_MUX_REFUSED");
      host.close();
      await vi.waitFor(() => expect(timer.running).toBe(1));
      expect(port.opens).toBe(session);
      timer.fire();
    }
    expect(lines.slice(0, 2)).toEqual(["session with the host", "no session with the host: the peer ended the session: it was closed here"]);
    channel.close();
    await channel.closed;
  });

  it("lets the host hang up by itself when the agent is finished, and takes nobody else", async () => {
    const streams = new AgentStreams(Promise.resolve([health]), silentLogger);
    const [port, timer] = [new Port(), new ManualTimer()];
    const channel = serveChannel({ port: port.open, accept: streams.accept, logger: silentLogger, timer });
    const host = createMux(await port.connect(), { side: "host", timer: new ManualTimer() });
    const client = new TtrpcClient(await host.open("agent"));
    let isDone = false;
    const done = streams.finish().then(() => (isDone = true));
    expect((await client.unary(Health.method.check, {})).status).toBe(1);
    expect((await errorOf(() => host.open("agent"))).code).toBe("ERR_MUX_REFUSED");
    expect(isDone).toBe(false);
    client.close();
    await done;
    channel.close();
    await channel.closed;
  });

  it("waits while there is no port and no host, and says so once", async () => {
    const timer = new ManualTimer();
    const lines: string[] = [];
    let tries = 0;
    const channel = serveChannel({
      port: async () => {
        if (++tries < 5) throw new Error("no such port");
        const [near, far] = memoryStreams();
        near.close();
        return Promise.resolve(far);
      },
      accept: () => undefined,
      logger: { log: (_level, _message, fields) => void lines.push(String(fields?.["reason"])) },
      timer,
    });
    for (let turn = 1; turn <= 8; turn++) {
      await vi.waitFor(() => expect([tries, timer.running]).toEqual([turn, 1]));
      timer.fire();
    }
    await vi.waitFor(() => expect(timer.running).toBe(1));
    expect(lines).toEqual(["no such port", "the carrier ended"]);
    channel.close();
    await channel.closed;
    expect(timer.running).toBe(0);
  });

  it("asks the host's processor over one stream, opened when it is needed, and again with the next host", async () => {
    const { port, timer, channel } = setUp();
    const processor = hostProcessor(channel);
    const asked: string[] = [];
    const serve = async (name: string): Promise<Mux> =>
      createMux(await port.connect(), {
        side: "host",
        timer: new ManualTimer(),
        accept: (service, stream) => {
          asked.push(`${name} ${service}`);
          void serveTtrpc(stream, [
            implement(processorApi.SecurityProcessor, {
              getReport: ({ reportData }) => ({ report: reportData, certificates: encodeUtf8(name) }),
              getFiles: () => ({ files: [{ path: "a/b", data: encodeUtf8(name) }] }),
            }),
          ]);
        },
      });
    // Asked before there is a host: it waits for one.
    const early = processor.getReport(encodeUtf8("early"));
    const first = await serve("first");
    expect(await early).toMatchObject({ report: encodeUtf8("early"), certificates: encodeUtf8("first") });
    expect(await processor.getFiles()).toMatchObject([{ path: "a/b", data: encodeUtf8("first") }]);
    expect(asked).toEqual(["first processor"]);
    first.close();
    await vi.waitFor(() => expect(timer.running).toBe(1));
    timer.fire();
    const later = processor.getFiles();
    const second = await serve("second");
    expect(await later).toMatchObject([{ data: encodeUtf8("second") }]);
    expect(asked).toEqual(["first processor", "second processor"]);
    second.close();
    channel.close();
    const error = await errorOf(() => processor.getFiles());
    expect(["ERR_MUX_CLOSED", "ERR_TTRPC_CLOSED"]).toContain(error.code);
  });

  it("tells whoever asks a host without a processor that there is none, each time", async () => {
    const { port, channel } = setUp();
    const processor = hostProcessor(channel);
    const host = createMux(await port.connect(), { side: "host", timer: new ManualTimer() });
    for (let round = 0; round < 3; round++) expect((await errorOf(() => processor.getFiles())).code).toBe("ERR_MUX_REFUSED");
    host.close();
    channel.close();
  });

  it("closed while it opens its port, it lets go of it", async () => {
    const { port, channel } = setUp();
    const opening = channel.open("processor").catch((error: unknown) => error);
    channel.close();
    const near = await port.connect();
    expect((await near.readable[Symbol.asyncIterator]().next()).done).toBe(true);
    await channel.closed;
    expect(await opening).toBeInstanceOf(MuxError);
  });
});

describe("virtio ports", () => {
  const directory = mkdtempSync(`${tmpdir()}/sealpod-ports-`);
  afterAll(() => rmSync(directory, { recursive: true }));

  it("are found by name, and a missing one is told with those that are there", async () => {
    const directories = { ports: `${directory}/ports`, devices: `${directory}/dev` };
    expect((await errorOf(() => openVirtioPort("sealpod", directories))).message).toBe(`no virtio port is named "sealpod": found none in ${directories.ports}`);
    for (const [entry, name] of [
      ["vport1p1", "org.qemu.guest"],
      ["vport1p2", "sealpod"],
    ] as const) {
      mkdirSync(`${directories.ports}/${entry}`, { recursive: true });
      writeFileSync(`${directories.ports}/${entry}/name`, `${name}\n`);
    }
    const missing = await errorOf(() => openVirtioPort("seal", directories));
    expect([missing.code, missing.message]).toEqual([
      "ERR_AGENT_CONFIG",
      `no virtio port is named "seal": found "org.qemu.guest", "sealpod" in ${directories.ports}`,
    ]);
    expect((await errorOf(() => openVirtioPort("sealpod", directories))).message).toContain(`cannot be opened at ${directories.devices}/vport1p2: ENOENT`);
  });
});
