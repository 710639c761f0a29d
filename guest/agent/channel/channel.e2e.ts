import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { mkdirSync, mkdtempSync, openSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { byteStream } from "@sealpod/ttrpc";
import { afterAll, describe, expect, it } from "vitest";
import { errorOf } from "../test-support.ts";
import { listenOnDescriptor, openVirtioPort, socketOnDescriptor } from "./index.ts";

const directory = mkdtempSync(`${tmpdir()}/sealpod-channel-`);
const children: ChildProcess[] = [];
afterAll(() => {
  for (const child of children) child.kill("SIGKILL");
  rmSync(directory, { recursive: true });
});

describe("a descriptor that can be polled", () => {
  it("a port is read, written and closed: a FIFO gives back what it takes", async () => {
    mkdirSync(`${directory}/ports/vport0p1`, { recursive: true });
    writeFileSync(`${directory}/ports/vport0p1/name`, "sealpod\n");
    expect(spawnSync("mkfifo", [`${directory}/vport0p1`]).status).toBe(0);
    for (let round = 0; round < 3; round++) {
      const port = await openVirtioPort("sealpod", { ports: `${directory}/ports`, devices: directory });
      // More than a pipe holds: writing waits for reading.
      const bytes = Uint8Array.from({ length: 1 << 20 }, (_, index) => (index * 7 + (index >> 9)) & 0xff);
      const writing = port.write(bytes);
      const chunks: Uint8Array[] = [];
      let read = 0;
      for await (const chunk of port.readable) {
        chunks.push(chunk);
        read += chunk.length;
        if (read === bytes.length) break;
      }
      await writing;
      expect(Buffer.compare(Buffer.concat(chunks), bytes)).toBe(0);
      port.close();
      expect((await errorOf(() => port.write(bytes))).code).toBe("ERR_TTRPC_CLOSED");
    }
  });

  it("what cannot be polled is refused", async () => {
    const fd = openSync("/etc/passwd", "r");
    expect((await errorOf(() => byteStream(socketOnDescriptor(fd)))).code).toBe("ERR_AGENT_CONFIG");
    expect(
      (
        await errorOf(() =>
          listenOnDescriptor(
            fd,
            () => undefined,
            () => undefined,
          ),
        )
      ).code,
    ).toBe("ERR_AGENT_CONFIG");
  });

  it("connections of an inherited listening socket are taken, many after one another and at once", async () => {
    const path = `${directory}/inherited.sock`;
    const server: Server = createServer();
    await new Promise<void>((resolve) => server.listen(path, resolve));
    const { fd } = (server as unknown as { readonly _handle: { readonly fd: number } })._handle;
    const program = `${directory}/echo.mts`;
    writeFileSync(
      program,
      `import { listenOnDescriptor } from ${JSON.stringify(`${import.meta.dirname}/pipe.ts`)};
let left = 12;
const server = listenOnDescriptor(3, (socket) => {
  socket.pipe(socket);
  if (--left === 0) server.close();
}, (error) => { throw error; });
process.stdout.write("ready");
`,
    );
    const child = spawn(process.execPath, [program], { stdio: ["ignore", "pipe", "inherit", fd] });
    children.push(child);
    await new Promise((resolve) => child.stdout?.once("data", resolve));
    // This process has the socket too: it must not take connections itself. Closing removes the socket's first name alone.
    renameSync(path, `${path}.kept`);
    (server as unknown as { readonly _handle: { unref(): void; close(): void } })._handle.close();
    const ask = (text: string): Promise<string> =>
      new Promise((resolve, reject) => {
        const socket = connect(`${path}.kept`);
        let back = "";
        socket.setEncoding("utf8").on("data", (part: string) => (back += part));
        socket.on("end", () => resolve(back)).on("error", reject);
        socket.end(text);
      });
    for (const text of ["one", "two"]) expect(await ask(text)).toBe(text);
    const many = Array.from({ length: 10 }, (_, index) => `${index}`.repeat(50_000));
    const exit = new Promise((resolve) => child.once("exit", resolve));
    expect(await Promise.all(many.map(ask))).toEqual(many);
    // Closed, nothing keeps the process.
    expect(await exit).toBe(0);
  });
});
