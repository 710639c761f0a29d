import { type FSWatcher, watch } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { askEntry, fileError } from "./fetch-report.ts";
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

/** A wait that takes no time and writes down what it was asked for. */
function recorder(): { readonly pauses: number[]; readonly wait: (milliseconds: number) => Promise<void> } {
  const pauses: number[] = [];
  return { pauses, wait: async (milliseconds) => void pauses.push(milliseconds) };
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
      await write(entry, { outblob: data, provider: "sev_guest\n", generation: "1\n" });
    });
    const values = [1, 2, 3, 4, 5].map((value) => new Uint8Array(64).fill(value));
    const reports = await Promise.all(values.map(async (value) => fetchReport(directory, value)));
    expect(reports.map(({ report }) => report)).toEqual(values);
    expect(new Set(entries).size).toBe(5);
  });

  it("begins again when someone else wrote to the entry", async () => {
    const { pauses, wait } = recorder();
    provide(async (entry, attempt) => write(entry, { outblob: REPORT, provider: "sev_guest\n", generation: `${attempt === 1 ? 2 : 1}\n` }));
    expect((await fetchReport(directory, DATA, { wait })).report).toEqual(REPORT);
    expect(entries).toHaveLength(2);
    expect(pauses).toEqual([20]);
    expect(await readdir(directory)).toEqual([]);
  });

  it("gives up when that does not end, after pauses that grow", async () => {
    const { pauses, wait } = recorder();
    provide(async (entry) => write(entry, { outblob: REPORT, generation: "7\n" }));
    await expect(fetchReport(directory, DATA, { wait })).rejects.toThrow(expect.objectContaining({ code: "ERR_TSM_CONFLICT" }));
    expect(entries).toHaveLength(5);
    expect(pauses).toEqual([20, 40, 80, 160]);
    expect(await readdir(directory)).toEqual([]);
  });

  it("does not wait longer than its caller", async () => {
    const controller = new AbortController();
    provide(async (entry) => write(entry, { outblob: REPORT, generation: "7\n" }));
    const wait = async (): Promise<never> => {
      controller.abort();
      throw new Error("aborted");
    };
    await expect(fetchReport(directory, DATA, { wait, signal: controller.signal })).rejects.toThrow(expect.objectContaining({ code: "ERR_TSM_TIMEOUT" }));
    expect(entries).toHaveLength(1);
  });

  it.each(["EBUSY", "EAGAIN"])("takes %s of the kernel for a conflict, which is tried again", (code) => {
    expect(fileError("outblob", Object.assign(new Error("x"), { code })).code).toBe("ERR_TSM_CONFLICT");
  });

  it("takes any other error of the kernel for a refusal", () => {
    expect(fileError("outblob", Object.assign(new Error("x"), { code: "EINVAL" }))).toMatchObject({ code: "ERR_TSM_REFUSED", details: { errno: "EINVAL" } });
  });

  it("takes the provider that it was told to expect, and no other", async () => {
    provide(async (entry) => write(entry, { outblob: REPORT, provider: "tdx_guest\n", generation: "1\n" }));
    await expect(fetchReport(directory, DATA)).rejects.toThrow(
      expect.objectContaining({ code: "ERR_TSM_PROVIDER", message: 'the report interface is served by "tdx_guest", expected "sev_guest"' }),
    );
    expect((await fetchReport(directory, DATA, { provider: "tdx_guest" })).provider).toBe("tdx_guest");
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
    ["a report that is too large", "ERR_TSM_FORMAT", { outblob: new Uint8Array(64 * 1024 + 1), provider: "sev_guest\n", generation: "1\n" }],
    ["a provider of a kilobyte", "ERR_TSM_FORMAT", { outblob: REPORT, provider: "p".repeat(1024), generation: "1\n" }],
    ["no provider", "ERR_TSM_PROVIDER", { outblob: REPORT, generation: "1\n" }],
    ["an empty report", "ERR_TSM_REFUSED", { outblob: "", provider: "sev_guest\n", generation: "1\n" }],
    ["no report", "ERR_TSM_REFUSED", { provider: "sev_guest\n", generation: "1\n" }],
  ])("refuses %s", async (_name, code, files) => {
    provide(async (entry) => write(entry, files));
    await expect(fetchReport(directory, DATA)).rejects.toThrow(expect.objectContaining({ code }));
    expect(await readdir(directory)).toEqual([]);
  });

  it("refuses a directory where the report belongs", async () => {
    provide(async (entry) => {
      await mkdir(join(entry, "outblob"));
      await write(entry, { provider: "sev_guest\n", generation: "1\n" });
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

  it("says at once that nothing serves a directory, and which", async () => {
    const asked = fetchReport(directory, DATA, { presenceMs: 1 });
    await expect(asked).rejects.toThrow(
      expect.objectContaining({ code: "ERR_TSM_UNAVAILABLE", message: expect.stringContaining(`${directory} is no report interface`) as string }),
    );
    await expect(asked).rejects.toThrow(expect.objectContaining({ hint: expect.stringContaining("sealpod run") as string }));
    expect(await readdir(directory)).toEqual([]);
  });

  it.each<[string, Readonly<Record<string, string>>]>([
    ["provider", { provider: "sev_guest\n" }],
    ["generation", { generation: "0\n" }],
  ])("gives a directory that showed %s all the time that there is", async (_name, files) => {
    const entry = join(directory, "entry");
    await mkdir(entry);
    await write(entry, files);
    await expect(askEntry(entry, DATA, { presenceMs: 1 }, AbortSignal.timeout(50))).rejects.toThrow(
      expect.objectContaining({ code: "ERR_TSM_TIMEOUT", message: expect.stringContaining(directory) as string }),
    );
  });

  it("gives the emulator the time that it needs, by the mark above its directory", async () => {
    await writeFile(join(directory, "EMULATED"), "");
    const reports = join(directory, "tsm", "report");
    await mkdir(reports, { recursive: true });
    await expect(fetchReport(reports, DATA, { presenceMs: 1, timeoutMs: 100 })).rejects.toThrow(
      expect.objectContaining({ code: "ERR_TSM_TIMEOUT", message: expect.stringContaining(reports) as string }),
    );
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

describe("the VMPL", () => {
  /** An entry as the kernel makes it: all attributes are there at once. The second file has what was written to `privlevel`. */
  async function ask(floor: string | undefined, privlevel: number | undefined, writes: number): Promise<string> {
    const entry = join(directory, "entry");
    await mkdir(entry);
    const levels = floor === undefined ? {} : { privlevel_floor: floor, privlevel: "" };
    await write(entry, { provider: "sev_guest\n", generation: "0\n", ...levels });
    const answered = input(entry).then(async () => write(entry, { outblob: REPORT, generation: `${writes}\n` }));
    const options = privlevel === undefined ? {} : { privlevel };
    const { report } = await askEntry(entry, DATA, options, new AbortController().signal);
    await answered;
    expect(report).toEqual(REPORT);
    return floor === undefined ? "" : readFile(join(entry, "privlevel"), "latin1");
  }

  it.each<[string, string | undefined, number | undefined, number, string]>([
    ["is not written where there are no levels", undefined, undefined, 1, ""],
    ["is not written where the floor is the kernel's own default", "0\n", undefined, 1, ""],
    ["is the floor where that is higher, and its write counts", "2\n", undefined, 2, "2\n"],
    ["is the one that was asked for", "1\n", 3, 2, "3\n"],
    ["is written when 0 was asked for", "0\n", 0, 2, "0\n"],
  ])("%s", async (_name, floor, privlevel, writes, written) => {
    expect(await ask(floor, privlevel, writes)).toBe(written);
  });

  it.each<[string, string | undefined, string | undefined, number | undefined, string]>([
    ["below the floor", "2\n", "", 1, "ERR_TSM_INPUT"],
    ["without levels", undefined, undefined, 1, "ERR_TSM_INPUT"],
    ["with a floor in words", "two\n", "", undefined, "ERR_TSM_FORMAT"],
    ["with a floor above 3", "4\n", "", undefined, "ERR_TSM_FORMAT"],
    ["with a floor but no privlevel", "1\n", undefined, undefined, "ERR_TSM_REFUSED"],
  ])("is refused %s, and the input is not written", async (_name, floor, file, privlevel, code) => {
    const entry = join(directory, "entry");
    await mkdir(entry);
    await write(entry, { provider: "sev_guest\n", ...(floor !== undefined && { privlevel_floor: floor }), ...(file !== undefined && { privlevel: file }) });
    const options = privlevel === undefined ? {} : { privlevel };
    await expect(askEntry(entry, DATA, options, new AbortController().signal)).rejects.toThrow(expect.objectContaining({ code }));
    expect(await readdir(entry)).not.toContain("inblob");
  });

  it.each([-1, 4, 0.5, Number.NaN])("is none if it is %d", async (privlevel) => {
    await expect(fetchReport(join(directory, "absent"), DATA, { privlevel })).rejects.toThrow(expect.objectContaining({ code: "ERR_TSM_INPUT" }));
  });
});
