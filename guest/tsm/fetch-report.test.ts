import { type FSWatcher, watch } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { fetchReport, TSM_ERRORS, TsmError } from "./index.ts";

const DATA = new Uint8Array(64).fill(0x5a);
const REPORT = new Uint8Array(1184).fill(0xa5);

let directory = "";
let watcher: FSWatcher | undefined;
const entries: string[] = [];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "tsm-"));
});

afterEach(async () => {
  watcher?.close();
  watcher = undefined;
  entries.length = 0;
  await rm(directory, { recursive: true, force: true });
});

/** Plays the provider: calls `answer` once for each entry that appears. */
function provide(answer: (entry: string, attempt: number) => Promise<void>): void {
  watcher = watch(directory, (_event, name) => {
    const entry = join(directory, name ?? "");
    if (entries.includes(entry)) return;
    entries.push(entry);
    // An entry that is already gone is no matter here: the assertions are on the client's side.
    answer(entry, entries.length).catch(() => undefined);
  });
}

/** Resolves with the input when it was written. */
async function input(entry: string): Promise<Uint8Array> {
  const path = join(entry, "inblob");
  const found = Promise.withResolvers<Uint8Array>();
  const look = (): void => {
    readFile(path).then(
      (bytes) => (bytes.length > 0 ? found.resolve(new Uint8Array(bytes)) : undefined),
      () => undefined,
    );
  };
  const events = watch(entry, look);
  look();
  try {
    return await found.promise;
  } finally {
    events.close();
  }
}

/** Each file appears whole, as an attribute of the kernel does. */
async function write(entry: string, files: Readonly<Record<string, string | Uint8Array>>): Promise<void> {
  for (const [name, content] of Object.entries(files)) {
    await writeFile(join(entry, `${name}.new`), content);
    await rename(join(entry, `${name}.new`), join(entry, name));
  }
}

describe("fetchReport", () => {
  it("writes REPORT_DATA, waits for the generation, reads the outputs and removes the entry", async () => {
    let seen: Uint8Array | undefined;
    provide(async (entry) => {
      await write(entry, { provider: "sev_guest\n", generation: "0\n" });
      seen = await input(entry);
      await write(entry, { outblob: REPORT, auxblob: Uint8Array.of(1, 2), generation: "1\n" });
    });
    expect(await fetchReport(directory, DATA)).toEqual({ report: REPORT, auxblob: Uint8Array.of(1, 2), provider: "sev_guest" });
    expect(seen).toEqual(DATA);
    expect(await readdir(directory)).toEqual([]);
  });

  it("does not need a certificate table", async () => {
    provide(async (entry) => write(entry, { outblob: REPORT, provider: "sev_guest\n", generation: "1\n" }));
    expect((await fetchReport(directory, DATA)).auxblob).toEqual(new Uint8Array());
  });

  it("does not take outputs before the generation says that they are for this input", async () => {
    provide(async (entry) => {
      await write(entry, { outblob: new Uint8Array(1184), provider: "sev_guest\n", generation: "0\n" });
      await input(entry);
      await write(entry, { outblob: REPORT, generation: "1\n" });
    });
    expect((await fetchReport(directory, DATA)).report).toEqual(REPORT);
  });

  it("serves several callers at once, each with an entry of its own", async () => {
    provide(async (entry) => {
      const data = await input(entry);
      await write(entry, { outblob: data, provider: "p\n", generation: "1\n" });
    });
    const values = [1, 2, 3, 4, 5].map((value) => new Uint8Array(64).fill(value));
    const reports = await Promise.all(values.map(async (value) => fetchReport(directory, value)));
    expect(reports.map(({ report }) => report)).toEqual(values);
    expect(new Set(entries).size).toBe(5);
  });

  it("begins again when someone else wrote to the entry", async () => {
    provide(async (entry, attempt) => write(entry, { outblob: REPORT, provider: "p\n", generation: `${attempt === 1 ? 2 : 1}\n` }));
    expect((await fetchReport(directory, DATA)).report).toEqual(REPORT);
    expect(entries).toHaveLength(2);
    expect(await readdir(directory)).toEqual([]);
  });

  it("gives up when that does not end", async () => {
    provide(async (entry) => write(entry, { outblob: REPORT, generation: "7\n" }));
    await expect(fetchReport(directory, DATA)).rejects.toThrow(expect.objectContaining({ code: "ERR_TSM_CONFLICT" }));
    expect(entries).toHaveLength(3);
    expect(await readdir(directory)).toEqual([]);
  });

  it("passes on what the emulator says, printable", async () => {
    provide(async (entry) => write(entry, { error: "no \u001b[31m\n" }));
    await expect(fetchReport(directory, DATA)).rejects.toThrow(/refused the request: no \?\[31m$/);
  });

  it.each<[string, string, Readonly<Record<string, string | Uint8Array>>]>([
    ["a generation in words", "ERR_TSM_FORMAT", { generation: "one\n" }],
    ["a negative generation", "ERR_TSM_FORMAT", { generation: "-1\n" }],
    ["a generation in hex", "ERR_TSM_FORMAT", { generation: "0x1\n" }],
    ["a generation of a kilobyte", "ERR_TSM_FORMAT", { generation: "1".repeat(1024) }],
    ["a report that is too large", "ERR_TSM_FORMAT", { outblob: new Uint8Array(64 * 1024 + 1), generation: "1\n" }],
    ["a provider of a kilobyte", "ERR_TSM_FORMAT", { outblob: REPORT, provider: "p".repeat(1024), generation: "1\n" }],
    ["an empty report", "ERR_TSM_REFUSED", { outblob: "", generation: "1\n" }],
    ["no report", "ERR_TSM_REFUSED", { generation: "1\n" }],
  ])("refuses %s", async (_name, code, files) => {
    provide(async (entry) => write(entry, files));
    await expect(fetchReport(directory, DATA)).rejects.toThrow(expect.objectContaining({ code }));
    expect(await readdir(directory)).toEqual([]);
  });

  it("refuses a directory where the report belongs", async () => {
    provide(async (entry) => {
      await mkdir(join(entry, "outblob"));
      await write(entry, { generation: "1\n" });
    });
    await expect(fetchReport(directory, DATA)).rejects.toThrow(expect.objectContaining({ code: "ERR_TSM_REFUSED" }));
    expect(await readdir(directory)).toEqual([]);
  });

  it("gives up after the time it was given, and when it is told to", async () => {
    await expect(fetchReport(directory, DATA, { timeoutMs: 1 })).rejects.toThrow(expect.objectContaining({ code: "ERR_TSM_TIMEOUT" }));
    const controller = new AbortController();
    provide(async () => controller.abort());
    await expect(fetchReport(directory, DATA, { signal: controller.signal })).rejects.toThrow(expect.objectContaining({ code: "ERR_TSM_TIMEOUT" }));
    await expect(fetchReport(directory, DATA, { signal: AbortSignal.abort() })).rejects.toThrow(expect.objectContaining({ code: "ERR_TSM_TIMEOUT" }));
    expect(await readdir(directory)).toEqual([]);
  });

  it("says that the interface is not there", async () => {
    await expect(fetchReport(join(directory, "absent"), DATA)).rejects.toThrow(
      expect.objectContaining({ code: "ERR_TSM_UNAVAILABLE", hint: expect.stringContaining("configfs") as string }),
    );
  });

  it.each([0, 65])("refuses %i bytes of REPORT_DATA without touching the interface", async (length) => {
    await expect(fetchReport(join(directory, "absent"), new Uint8Array(length))).rejects.toThrow(expect.objectContaining({ code: "ERR_TSM_INPUT" }));
  });

  it("has a row for every code", () => {
    for (const code of Object.keys(TSM_ERRORS)) expect(new TsmError(code as keyof typeof TSM_ERRORS, "x").row.summary).toMatch(/\.$/);
  });
});
