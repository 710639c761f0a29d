import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { eventsTtrpcApi, parseMessage, taskEventsApi } from "@sealpod/proto";
import { byteStream, implement, serveTtrpc } from "@sealpod/ttrpc";
import { expect, it } from "vitest";
import { TtrpcPublisher, connectUnix } from "./publisher.ts";

it("sends events to a unix socket, and says why it cannot", async () => {
  const directory = await mkdtemp(join(tmpdir(), "sealpod-publisher-"));
  const path = join(directory, "containerd.sock.ttrpc");
  const taken: string[] = [];
  const service = implement(eventsTtrpcApi.Events, {
    forward: ({ envelope }) => {
      taken.push(parseMessage(taskEventsApi.TaskOOMSchema, envelope?.event?.value ?? new Uint8Array()).containerId);
      return {};
    },
  });
  const server = createServer((socket) => void serveTtrpc(byteStream(socket), [service]));
  try {
    await expect(connectUnix(path)).rejects.toMatchObject({ code: "ENOENT" });
    server.listen(path);
    await once(server, "listening");
    for (const address of [path, `unix://${path}`]) {
      const publisher = new TtrpcPublisher({ namespace: "n", connect: () => connectUnix(address), clock: { now: () => Date.now() } });
      publisher.publish("/tasks/oom", taskEventsApi.TaskOOMSchema, { containerId: "a" });
      publisher.publish("/tasks/oom", taskEventsApi.TaskOOMSchema, { containerId: "b" });
      await publisher.flushed();
      publisher.close();
    }
    expect(taken).toEqual(["a", "b", "a", "b"]);
  } finally {
    server.close();
    await rm(directory, { recursive: true });
  }
});
