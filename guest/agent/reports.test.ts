import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeUtf8, silentLogger } from "@sealpod/core";
import { fetchReport } from "@sealpod/tsm";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { HostProcessor } from "./channel/index.ts";
import { ownHostData, serveHostReports } from "./reports.ts";
import { reportOf, serveReports } from "./test-support.ts";

type Files = Awaited<ReturnType<HostProcessor["getFiles"]>>;

let directory = "";

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "agent-reports-"));
});

afterEach(() => {
  rmSync(directory, { recursive: true });
});

/** A host whose report is its REPORT_DATA. */
function host(files: readonly { readonly path: string; readonly data: Uint8Array }[]): HostProcessor {
  return {
    getFiles: async () => files as Files,
    getReport: async (reportData) => ({
      $typeName: "sealpod.v1.GetReportResponse",
      report: Uint8Array.from([7, ...reportData]),
      certificates: Uint8Array.of(9),
    }),
  };
}

describe("HOST_DATA of the agent's own machine", () => {
  const mine = new Uint8Array(32).fill(5);

  it("comes over the channel, whatever a container has put where reports are", async () => {
    const forged = serveReports(join(directory, "tsm", "report"), new Uint8Array(32).fill(6));
    const asked: Uint8Array[] = [];
    const processor: HostProcessor = {
      ...host([]),
      getReport: async (reportData) => {
        asked.push(reportData);
        return { $typeName: "sealpod.v1.GetReportResponse", report: reportOf(mine, reportData), certificates: new Uint8Array() };
      },
    };
    try {
      expect(await ownHostData("channel", directory, processor)()).toEqual(mine);
      expect(asked).toEqual([new Uint8Array(64)]);
      expect(readdirSync(join(directory, "tsm", "report"))).toEqual([]);
    } finally {
      forged.close();
    }
  });

  it("of a machine with hardware does not come from that directory either", async () => {
    const forged = serveReports(join(directory, "tsm", "report"), mine);
    try {
      await expect(ownHostData("hardware", directory)()).rejects.toThrow("/sys/kernel/config/tsm/report");
    } finally {
      forged.close();
    }
  });

  it("with process isolation is asked for once: what containers make of the directory later changes nothing", async () => {
    const reports = serveReports(join(directory, "tsm", "report"), mine);
    const hostData = ownHostData("directory", directory);
    expect(await hostData()).toEqual(mine);
    reports.close();
    rmSync(join(directory, "tsm"), { recursive: true });
    expect(await hostData()).toEqual(mine);
  });

  it("needs the channel that it is to come over", () => {
    expect(() => ownHostData("channel", directory)).toThrow(expect.objectContaining({ code: "ERR_AGENT_CONFIG" }));
  });
});

describe("reports of the host", () => {
  it("lays down its files and serves its reports as the kernel would", async () => {
    await using _server = await serveHostReports(host([{ path: "security-context/a-b", data: encodeUtf8("x") }]), directory, silentLogger);
    expect(readFileSync(join(directory, "security-context/a-b"), "utf8")).toBe("x");
    const { report, auxblob } = await fetchReport(join(directory, "tsm", "report"), Uint8Array.of(1, 2));
    expect(report).toEqual(Uint8Array.from([7, 1, 2, ...new Uint8Array(62)]));
    expect(auxblob).toEqual(Uint8Array.of(9));
  });

  it.each(["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", ".hidden", "tsm", "tsm/report/x", "a\0b", "a/b/c/d/e", "n".repeat(65), "a\nb"])(
    "takes no file %j from it",
    async (path) => {
      await expect(serveHostReports(host([{ path, data: new Uint8Array() }]), directory, silentLogger)).rejects.toThrow(
        expect.objectContaining({ code: "ERR_AGENT_REQUEST" }),
      );
      expect(readdirSync(directory)).toEqual([]);
    },
  );

  it("takes neither many files from it, nor large ones", async () => {
    const many = Array.from({ length: 17 }, (_, index) => ({ path: `f${index}`, data: new Uint8Array() }));
    for (const files of [many, [{ path: "f", data: new Uint8Array(256 * 1024 + 1) }]]) {
      await expect(serveHostReports(host(files), directory, silentLogger)).rejects.toThrow(expect.objectContaining({ code: "ERR_AGENT_REQUEST" }));
    }
    expect(readdirSync(directory)).toEqual([]);
  });
});
