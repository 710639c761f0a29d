import { existsSync } from "node:fs";
import { watch } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rename, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLogger } from "@sealpod/core";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { fetchReport, MAX_TSM_ENTRIES, type ReportProvider, serveTsm, type TsmServer } from "./index.ts";

/** Its report is its REPORT_DATA: what is tested here is the directory. */
const provider: ReportProvider = {
  report: (reportData) => ({ report: Uint8Array.from([0xee, ...reportData]), auxblob: Uint8Array.of(1, 2, 3) }),
};

let base = "";
let directory = "";
let server: TsmServer;

beforeEach(async () => {
  base = await mkdtemp(join(tmpdir(), "tsm-serve-"));
  directory = join(base, "tsm", "report");
  server = await serveTsm(provider, directory, { logger: silentLogger });
});

afterEach(async () => {
  await server.close();
  await rm(base, { recursive: true, force: true });
});

/** The content of a file as soon as it satisfies the condition; waits for events, and the test's time limit is the only clock. */
async function when(path: string, condition: (text: string) => boolean): Promise<string> {
  const found = Promise.withResolvers<string>();
  const look = (): void => {
    readFile(path, "latin1").then(
      (text) => (condition(text) ? found.resolve(text) : undefined),
      () => undefined,
    );
  };
  const events = watch(join(path, ".."), look);
  look();
  try {
    return await found.promise;
  } finally {
    events.close();
  }
}

async function entry(name: string): Promise<string> {
  const path = join(directory, name);
  await mkdir(path);
  return path;
}

describe("the emulated report directory", () => {
  it("answers the client of the guest", async () => {
    const data = new Uint8Array(64).fill(7);
    expect(await fetchReport(directory, data)).toEqual({ report: Uint8Array.from([0xee, ...data]), auxblob: Uint8Array.of(1, 2, 3), provider: "sev_guest" });
  });

  it("answers many clients at once, each its own", async () => {
    const values = Array.from({ length: 30 }, (_, value) => new Uint8Array(64).fill(value));
    const reports = await Promise.all(values.map(async (value) => fetchReport(directory, value)));
    expect(reports.map(({ report }) => report[1])).toEqual(values.map(([first]) => first));
  });

  it("has generation 0 and the provider before there is an input", async () => {
    const path = await entry("a");
    expect(await when(join(path, "generation"), (text) => text !== "")).toBe("0\n");
    expect(await readFile(join(path, "provider"), "latin1")).toBe("sev_guest\n");
    expect((await readdir(path)).toSorted()).toEqual(["generation", "provider"]);
  });

  it("counts the inputs, and has the outputs in place before it counts", async () => {
    const path = await entry("a");
    for (const generation of [1, 2, 3]) {
      await writeFile(join(path, "inblob"), new Uint8Array(64).fill(generation));
      await when(join(path, "generation"), (text) => text === `${generation}\n`);
      expect((await readFile(join(path, "outblob")))[1]).toBe(generation);
      expect(await readFile(join(path, "auxblob"))).toHaveLength(3);
    }
    expect((await readdir(path)).toSorted()).toEqual(["auxblob", "generation", "inblob", "outblob", "provider"]);
  });

  it("answers an input that was there before it looked", async () => {
    await server.close();
    const path = await entry("a");
    await writeFile(join(path, "inblob"), "x");
    server = await serveTsm(provider, directory, { logger: silentLogger });
    expect(await when(join(path, "generation"), (text) => text === "1\n")).toBe("1\n");
  });

  it("refuses more than 64 bytes as the kernel does, and recovers", async () => {
    const path = await entry("a");
    await writeFile(join(path, "inblob"), new Uint8Array(65));
    expect(await when(join(path, "error"), (text) => text !== "")).toContain("64");
    expect(await readdir(path)).not.toContain("outblob");
    expect(await readFile(join(path, "generation"), "latin1")).toBe("0\n");
    await writeFile(join(path, "inblob"), new Uint8Array(64));
    await when(join(path, "generation"), (text) => text === "1\n");
    expect(await readdir(path)).not.toContain("error");
  });

  it("removes the old report when a later input is refused", async () => {
    const path = await entry("a");
    await writeFile(join(path, "inblob"), new Uint8Array(64));
    await when(join(path, "generation"), (text) => text === "1\n");
    await writeFile(join(path, "inblob"), new Uint8Array(100));
    await when(join(path, "error"), (text) => text !== "");
    expect(await readdir(path)).not.toContain("outblob");
  });

  it("stops when it is closed", async () => {
    const path = await entry("a");
    await when(join(path, "generation"), (text) => text === "0\n");
    await server.close();
    await server.close();
    await writeFile(join(path, "inblob"), new Uint8Array(64));
    expect(await readdir(path)).not.toContain("outblob");
    await expect(fetchReport(directory, new Uint8Array(64), { timeoutMs: 1 })).rejects.toThrow(expect.objectContaining({ code: "ERR_TSM_TIMEOUT" }));
  });

  it("serves a provider that takes its time, and outlives one that fails", async () => {
    await server.close();
    const answers = [async () => Promise.reject(new Error("not now")), async () => ({ report: Uint8Array.of(9), auxblob: new Uint8Array() })];
    const lines: string[] = [];
    const logger = { log: (_level: string, message: string) => void lines.push(message) };
    server = await serveTsm({ report: async () => (answers.shift() ?? (() => Promise.reject(new Error("no more"))))() }, directory, { logger });
    const path = await entry("a");
    await writeFile(join(path, "inblob"), "x");
    await vi.waitFor(() => expect(lines).toContainEqual(expect.stringContaining("cannot be answered")), 10_000);
    await writeFile(join(path, "inblob"), "y");
    await when(join(path, "generation"), (text) => text === "1\n");
    expect([...(await readFile(join(path, "outblob")))]).toEqual([9]);
  });

  it("says when it cannot serve a directory", async () => {
    await writeFile(join(base, "file"), "");
    await expect(serveTsm(provider, join(base, "file", "x"), { logger: silentLogger })).rejects.toThrow(expect.objectContaining({ code: "ERR_TSM_SERVE" }));
  });
});

describe("a hostile guest", () => {
  /** Whatever was done, the next honest client is served. */
  async function stillServes(): Promise<void> {
    expect((await fetchReport(directory, Uint8Array.of(5))).report).toEqual(Uint8Array.of(0xee, 5));
  }

  it("cannot have files outside the directory written: links in place of the outputs are replaced", async () => {
    const secret = join(base, "secret");
    await writeFile(secret, "untouched");
    await mkdir(join(base, "staging"));
    for (const name of ["outblob", "auxblob", "generation", "provider", "error"]) await symlink(secret, join(base, "staging", name));
    await rename(join(base, "staging"), join(directory, "a"));
    await writeFile(join(directory, "a", "inblob"), new Uint8Array(64));
    await when(join(directory, "a", "outblob"), (text) => text.startsWith("\u00ee"));
    expect(await readFile(secret, "utf8")).toBe("untouched");
  });

  it("cannot have a directory elsewhere served through a link", async () => {
    const elsewhere = join(base, "elsewhere");
    await mkdir(elsewhere);
    await writeFile(join(elsewhere, "inblob"), new Uint8Array(64));
    await symlink(elsewhere, join(directory, "a"));
    await stillServes();
    expect(await readdir(elsewhere)).toEqual(["inblob"]);
  });

  it("cannot have a file elsewhere read through a link", async () => {
    await writeFile(join(base, "secret"), "s3cret");
    const path = await entry("a");
    await symlink(join(base, "secret"), join(path, "inblob"));
    await stillServes();
    expect(await readdir(path)).not.toContain("outblob");
  });

  it("cannot move a served entry away and put a link to elsewhere in its place", async () => {
    const path = await entry("a");
    await when(join(path, "generation"), (text) => text === "0\n");
    const elsewhere = join(base, "elsewhere");
    await mkdir(elsewhere);
    await rename(path, join(base, "moved"));
    await symlink(elsewhere, path);
    await writeFile(join(elsewhere, "inblob"), new Uint8Array(64));
    await stillServes();
    expect(await readdir(elsewhere)).toEqual(["inblob"]);
  });

  it("cannot stop the server with directories and strange names where files belong", async () => {
    for (const [index, name] of ["inblob", "outblob", "generation", "provider"].entries()) {
      await mkdir(join(base, "staging", name, "x"), { recursive: true });
      await rename(join(base, "staging"), join(directory, `entry-${index}`));
      await writeFile(join(directory, `entry-${index}`, "inblob"), new Uint8Array(64)).catch(() => undefined);
    }
    await mkdir(join(directory, "..\u0001 \u{1f600}"));
    await writeFile(join(directory, "a file"), "x");
    await stillServes();
  });

  it("cannot have more entries served than the limit, and gets room again", async () => {
    for (let i = 0; i < MAX_TSM_ENTRIES + 5; i++) await entry(`e${i}`);
    // Until then a newcomer may still be among the first.
    await vi.waitFor(async () => {
      const served = (await readdir(directory)).filter((name) => existsSync(join(directory, name, "generation")));
      expect(served).toHaveLength(MAX_TSM_ENTRIES);
    }, 10_000);
    await expect(fetchReport(directory, Uint8Array.of(1), { timeoutMs: 20 })).rejects.toThrow(expect.objectContaining({ code: "ERR_TSM_TIMEOUT" }));
    for (const name of await readdir(directory)) await rm(join(directory, name), { recursive: true, maxRetries: 5 });
    await stillServes();
  });

  it("cannot confuse two entries of one name", async () => {
    const path = await entry("a");
    await when(join(path, "generation"), (text) => text === "0\n");
    await rename(path, join(directory, "b"));
    await entry("a");
    await writeFile(join(path, "inblob"), Uint8Array.of(1));
    await writeFile(join(directory, "b", "inblob"), Uint8Array.of(2));
    await when(join(path, "generation"), (text) => text === "1\n");
    await when(join(directory, "b", "generation"), (text) => text === "1\n");
    expect([...(await readFile(join(path, "outblob")))]).toEqual([0xee, 1]);
    expect([...(await readFile(join(directory, "b", "outblob")))]).toEqual([0xee, 2]);
  });

  it("leaves no descriptor behind in the server", async () => {
    const open = async (): Promise<number> => (await readdir("/proc/self/fd")).length;
    const settle = async (): Promise<void> => {
      for (const name of await readdir(directory)) await rm(join(directory, name), { recursive: true, force: true, maxRetries: 5 });
      // The scan that sees the removal comes before the one that serves this client.
      await stillServes();
    };
    await settle();
    const before = await open();
    for (let i = 0; i < 40; i++) await fetchReport(directory, new Uint8Array(64));
    await settle();
    expect(await open()).toBeLessThan(before + 10);
    expect((await stat(directory)).isDirectory()).toBe(true);
  });
});
