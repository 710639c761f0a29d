import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type IncomingMessage } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { processorApi } from "@sealpod/proto";
import { memoryStreams, TtrpcClient } from "@sealpod/ttrpc";
import type { LaunchPort } from "@sealpod/vmm";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { ProcessorClient } from "./index.ts";

// The client with the emulated processor itself, and before hostile servers: laptop/psp/server.test.ts.

let directory = "";
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "processor-"));
});
afterEach(async () => rm(directory, { recursive: true, force: true }));

const ID = "0123456789abcdef".repeat(2);

describe("the client of an emulated security processor", () => {
  it("says what to do when nobody answers", async () => {
    const path = join(directory, "absent.sock");
    const launch = async (client: ProcessorClient): Promise<unknown> => client.launch({ files: [], commandLine: "", hostData: new Uint8Array(32) });
    await expect(launch(new ProcessorClient(path))).rejects.toMatchObject({
      code: "ERR_PROCESSOR_UNAVAILABLE",
      hint: expect.stringContaining("sealpod host processor") as string,
    });
    await expect(launch(new ProcessorClient(path, "Start yours."))).rejects.toMatchObject({ hint: "Start yours." });
  });

  it("asks in the protocol's words, for one guest at a time", async () => {
    const path = join(directory, "p.sock");
    const asked: string[] = [];
    const answer = (line: string): readonly [number, object?] => {
      if (line.startsWith("POST /launch/")) return [200, { report: "AQI=", certificates: "Aw==" }];
      if (line.startsWith("POST")) return [201, { id: ID, guestInfoDirectory: "/g", launchMeasurement: "ab".repeat(48) }];
      if (line.startsWith("GET")) return [200, { files: [{ path: "a/b", data: "BA==" }] }];
      return [204];
    };
    const server = createServer((request: IncomingMessage, response) => {
      let body = "";
      request.setEncoding("utf8").on("data", (part: string) => (body += part));
      request.on("end", () => {
        const line = `${request.method ?? ""} ${request.url ?? ""} ${body}`.trim();
        asked.push(line);
        const [status, content] = answer(line);
        response.writeHead(status).end(content === undefined ? undefined : JSON.stringify(content));
      });
    });
    await new Promise<void>((resolve) => void server.listen(path, resolve));
    try {
      const client = new ProcessorClient(path) satisfies LaunchPort;
      const launched = await client.launch({ files: ["/k", "/i"], commandLine: "c", hostData: new Uint8Array(32).fill(0xab) });
      expect(launched.launchMeasurement).toEqual(new Uint8Array(48).fill(0xab));
      const [near, far] = memoryStreams();
      launched.serve(far);
      const guest = new TtrpcClient(near);
      const { SecurityProcessor: service } = processorApi;
      expect(await guest.unary(service.method.getReport, { reportData: Uint8Array.of(1, 2) })).toMatchObject({
        report: Uint8Array.of(1, 2),
        certificates: Uint8Array.of(3),
      });
      expect((await guest.unary(service.method.getFiles, {})).files).toMatchObject([{ path: "a/b", data: Uint8Array.of(4) }]);
      guest.close();
      await Promise.all([launched.close(), launched.close()]);
      expect(asked).toEqual([
        `POST /launch {"files":["/k","/i"],"commandLine":"c","hostData":"${"ab".repeat(32)}"}`,
        `POST /launch/${ID}/report {"reportData":"0102"}`,
        `GET /launch/${ID}/files`,
        `DELETE /launch/${ID}`,
      ]);
    } finally {
      server.closeAllConnections();
      await new Promise((resolve) => void server.close(resolve));
    }
  });
});
