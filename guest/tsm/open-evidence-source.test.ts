import { type FSWatcher, watch } from "node:fs";
import { chmod, mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { openEvidenceSource, openSevGuestSource, openTsmSource } from "./index.ts";

let directory = "";
let watcher: FSWatcher | undefined;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "evidence-"));
});

afterEach(async () => {
  watcher?.close();
  watcher = undefined;
  await rm(directory, { recursive: true, force: true });
});

/** A report over the data; the rest is zero. */
function reportOver(data: Uint8Array): Uint8Array {
  const report = new Uint8Array(1184);
  report.set(data, 0x50);
  return report;
}

/** Answers each entry of the directory as soon as there is input. */
function serve(answer: (data: Uint8Array) => Uint8Array, provider = "sev_guest\n"): void {
  const answered = new Set<string>();
  watcher = watch(directory, { recursive: true }, (_event, name) => {
    const entry = join(directory, (name ?? "").split("/")[0] ?? "");
    const look = async (): Promise<void> => {
      const data = new Uint8Array(await readFile(join(entry, "inblob")));
      if (data.length === 0 || answered.has(entry)) return;
      answered.add(entry);
      await writeFile(join(entry, "outblob"), answer(data));
      await writeFile(join(entry, "auxblob"), Uint8Array.of(7));
      await writeFile(join(entry, "provider"), provider);
      await writeFile(join(entry, "generation.new"), "1\n");
      await rename(join(entry, "generation.new"), join(entry, "generation"));
    };
    // Gone or not there yet: there is another event for what matters.
    look().catch(() => undefined);
  });
}

describe("openTsmSource", () => {
  it("fetches from a directory, and says that a directory is no kernel", async () => {
    serve(reportOver);
    const source = await openTsmSource(directory);
    expect(source.origin).toEqual({ kind: "emulator", detail: directory });
    const evidence = await source.fetch(Uint8Array.of(1, 2, 3));
    expect(evidence).toEqual({
      report: reportOver(Uint8Array.of(1, 2, 3)),
      certificates: Uint8Array.of(7),
      origin: source.origin,
    });
    expect(await readdir(directory)).toEqual([]);
  });

  it.each<[string, (data: Uint8Array) => Uint8Array, RegExp]>([
    ["over other data", () => reportOver(new Uint8Array(64).fill(9)), /over other data/],
    ["that differs in the padding alone", (data) => reportOver(new Uint8Array(64).fill(9).with(0, data[0] ?? 0)), /over other data/],
    ["of another size", (data) => reportOver(data).subarray(1), /1183 bytes/],
  ])("refuses a report %s", async (_name, answer, message) => {
    serve(answer);
    const source = await openTsmSource(directory);
    await expect(source.fetch(Uint8Array.of(1))).rejects.toThrow(
      expect.objectContaining({ code: "ERR_TSM_FORMAT", message: expect.stringMatching(message) as string }),
    );
  });

  it("refuses another provider, unless it was named", async () => {
    serve(reportOver, "tdx_guest\n");
    await expect((await openTsmSource(directory)).fetch(Uint8Array.of(1))).rejects.toThrow(expect.objectContaining({ code: "ERR_TSM_PROVIDER" }));
    expect((await (await openTsmSource(directory, { provider: "tdx_guest" })).fetch(Uint8Array.of(1))).report).toHaveLength(1184);
  });

  it.each([0, 65])("refuses %i bytes of REPORT_DATA", async (length) => {
    await expect((await openTsmSource(directory)).fetch(new Uint8Array(length))).rejects.toThrow(expect.objectContaining({ code: "ERR_TSM_INPUT" }));
  });

  it("says that there is no such directory", async () => {
    await expect(openTsmSource(join(directory, "absent"))).rejects.toThrow(expect.objectContaining({ code: "ERR_TSM_UNAVAILABLE" }));
  });
});

describe("openSevGuestSource", () => {
  it.each<[string, () => Promise<string>, RegExp]>([
    ["no device", async () => join(directory, "absent"), /absent is not there \(ENOENT\)/],
    ["a file", async () => (await writeFile(join(directory, "file"), ""), join(directory, "file")), /is not a device/],
    ["a directory", async () => directory, /is not a device/],
  ])("refuses %s", async (_name, make, message) => {
    await expect(openSevGuestSource({ device: await make() })).rejects.toThrow(
      expect.objectContaining({ code: "ERR_TSM_UNAVAILABLE", message: expect.stringMatching(message) as string }),
    );
  });

  it("says that it needs perl, and what to do in a utility VM", async () => {
    await expect(openSevGuestSource({ device: "/dev/null", perl: join(directory, "perl") })).rejects.toThrow(
      expect.objectContaining({
        code: "ERR_TSM_UNAVAILABLE",
        message: expect.stringContaining("cannot be used without") as string,
        hint: expect.stringMatching(/configfs-tsm \(Linux 6\.7.*utility VM/) as string,
      }),
    );
  });

  it.each([-1, 4])("refuses VMPL %d before anything runs", async (privlevel) => {
    const perl = join(directory, "perl");
    await writeFile(perl, "not a program");
    await chmod(perl, 0o755);
    const source = await openSevGuestSource({ device: "/dev/null", perl });
    expect(source.origin).toEqual({ kind: "sev-guest", detail: "/dev/null" });
    await expect(source.fetch(Uint8Array.of(1), { privlevel })).rejects.toThrow(expect.objectContaining({ code: "ERR_TSM_INPUT" }));
  });
});

describe("openEvidenceSource", () => {
  const places = (names: { readonly tsm?: string; readonly device?: string; readonly emulator?: string }) => ({
    tsmDirectory: names.tsm ?? join(directory, "no-tsm"),
    sevGuestDevice: names.device ?? join(directory, "no-device"),
    emulatorDirectory: names.emulator ?? join(directory, "no-emulator"),
    perl: process.execPath,
  });

  it("takes what is there, hardware before the emulator", async () => {
    const [tsm, emulator] = [join(directory, "tsm"), join(directory, "emulator")];
    await mkdir(tsm);
    await mkdir(emulator);
    const detail = async (names: Parameters<typeof places>[0]): Promise<string | undefined> => (await openEvidenceSource(places(names))).origin.detail;
    expect(await detail({ tsm, device: "/dev/null", emulator })).toBe(tsm);
    expect(await detail({ device: "/dev/null", emulator })).toBe("/dev/null");
    expect(await detail({ emulator })).toBe(emulator);
    expect(await readdir(tsm)).toEqual([]);
  });

  it("says for each source what was looked for, and what to do", async () => {
    const error = await openEvidenceSource(places({})).catch((caught: unknown) => caught);
    expect(error).toMatchObject({ code: "ERR_TSM_UNAVAILABLE" });
    const { message, hint } = error as { message: string; hint: string };
    for (const text of ["configfs-tsm: ", "no-tsm (ENOENT)", "sev-guest: ", "no-device is not there", "emulator: ", "no-emulator (ENOENT)"])
      expect(message).toContain(text);
    for (const text of ["6.7", "perl-base", "utility VM", "sealpod up"]) expect(hint).toContain(text);
  });
});
