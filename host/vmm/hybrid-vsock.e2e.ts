import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { dialHybridVsock } from "./hybrid-vsock.ts";

let directory = "";
let path = "";
let server: Server | undefined;
const sockets = new Set<Socket>();

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "sealpod-vsock-"));
  path = join(directory, "clh.sock");
});

afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  sockets.clear();
  await new Promise<void>((resolve) => (server === undefined ? resolve() : server.close(() => resolve())));
  server = undefined;
  await rm(directory, { recursive: true });
});

/** A monitor that does as told with each connection once it has the line of the request. */
async function monitor(act: (socket: Socket, request: string, index: number) => void): Promise<void> {
  let count = 0;
  server = createServer((socket) => {
    sockets.add(socket);
    const index = count++;
    let text = "";
    socket.on("error", () => undefined);
    socket.on("data", (chunk: Buffer) => {
      text += chunk.toString("latin1");
      if (text.endsWith("\n") && text.startsWith("CONNECT")) act(socket, text, index);
    });
  }).listen(path);
  await new Promise((resolve) => server?.once("listening", resolve));
}

async function firstBytes(stream: { readonly readable: AsyncIterable<Uint8Array> }, length: number): Promise<string> {
  let text = "";
  for await (const chunk of stream.readable) {
    text += Buffer.from(chunk).toString("latin1");
    if (text.length >= length) break;
  }
  return text;
}

const GREETING = "\0\0\0\x05hello\n\nOK 7\n";

describe("CONNECT", () => {
  it.each([
    ["in one piece with the guest's first bytes", [`OK 1073741824\n${GREETING}`]],
    ["byte by byte", `OK 1073741824\n${GREETING}`.split("")],
    ["cut in the middle of the number", ["OK 107", `3741824\n${GREETING.slice(0, 1)}`, GREETING.slice(1)]],
    ["cut before the line's end", ["OK 1073741824", "\n", GREETING]],
    ["without a number", [`OK\n${GREETING}`]],
  ])("is answered %s, and the line alone is taken", async (_what, pieces) => {
    const requests: string[] = [];
    await monitor((socket, request) => {
      requests.push(request);
      const write = (index: number): void => {
        const piece = pieces[index];
        // One piece after the other has left, so that they arrive apart.
        if (piece !== undefined) socket.write(Buffer.from(piece, "latin1"), () => setImmediate(() => write(index + 1)));
      };
      write(0);
    });
    const stream = await dialHybridVsock({ socket: path, port: 1024, limitMs: 60_000 });
    expect(await firstBytes(stream, GREETING.length)).toBe(GREETING);
    stream.close();
    expect(requests).toEqual(["CONNECT 1024\n"]);
  });

  it("is tried again while the monitor closes the connection, and while it has no socket", async () => {
    const dialled = dialHybridVsock({ socket: path, port: 7, limitMs: 60_000, pauseMs: 1 });
    const seen: number[] = [];
    await monitor((socket, _request, index) => {
      seen.push(index);
      if (index < 3) socket.end();
      else socket.write("OK 1\n");
    });
    (await dialled).close();
    expect(seen).toEqual([0, 1, 2, 3]);
  });

  it("is tried again when one connection gets no answer", async () => {
    await monitor((socket, _request, index) => void (index > 0 && socket.write("OK 1\n")));
    (await dialHybridVsock({ socket: path, port: 7, limitMs: 60_000, handshakeLimitMs: 50, pauseMs: 1 })).close();
  });

  it.each([
    ["another word", "NO\n", /answered "NO", expected OK and a number/],
    ["more than a number", "OK 12 rm -rf\n", /answered "OK 12 rm -rf"/],
    ["a number without bound", "OK 12345678901\n", /answered "OK 12345678901"/],
    ["a line without end", "O".repeat(65), /more than 64 characters/],
  ])("is not tried again after %s", async (_what, answer, message) => {
    let count = 0;
    await monitor((socket) => {
      count++;
      socket.write(answer);
    });
    const dialled = dialHybridVsock({ socket: path, port: 7, limitMs: 60_000, pauseMs: 1 });
    await expect(dialled).rejects.toMatchObject({ code: "ERR_VMM_AGENT", message: expect.stringMatching(message) as string });
    expect(count).toBe(1);
  });

  it("ends with the machine", async () => {
    const gone = new AbortController();
    await monitor(() => gone.abort());
    await expect(dialHybridVsock({ socket: path, port: 7, limitMs: 60_000, signal: gone.signal })).rejects.toMatchObject({
      code: "ERR_VMM_AGENT",
      message: expect.stringMatching(/^port 7 of the guest: the machine ended; /) as string,
    });
    await expect(dialHybridVsock({ socket: path, port: 7, limitMs: 60_000, signal: gone.signal })).rejects.toThrow(/nothing was tried/);
  });
});
