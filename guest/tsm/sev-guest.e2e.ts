import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type Evidence, type FetchEvidenceOptions, openSevGuestSource } from "./index.ts";

const TESTDATA = fileURLToPath(new URL("testdata", import.meta.url));
const DATA = Uint8Array.from({ length: 64 }, (_, index) => index + 1);
const DATA_HEX = Buffer.from(DATA).toString("hex");

let directory = "";

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "sev-guest-"));
});

afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

/** Fetches with testdata/FakeIoctl.pm in the place of the kernel. */
async function fetchFrom(situation: string, options: FetchEvidenceOptions = {}, data = DATA, kernel = "6.3"): Promise<Evidence> {
  const source = await openSevGuestSource({
    device: "/dev/null",
    perlOptions: [`-I${TESTDATA}`, `-MFakeIoctl=${join(directory, "journal")},${situation},${kernel}`],
  });
  return source.fetch(data, options);
}

/** The calls that the kernel saw. */
async function journal(): Promise<readonly string[]> {
  return (await readFile(join(directory, "journal"), "latin1")).split("\n").slice(0, -1);
}

/** Lines of the journal: number, msg_version and padding, exitinfo2, report request, whether there is a table, its length and padding. */
const extended = (size: string, vmpl = "00000000"): string => `c0205302 0100000000000000 0 ${DATA_HEX}${vmpl}${"0".repeat(56)} table ${size}00000000`;
const plain = (vmpl = "00000000"): string => `c0205300 0100000000000000 0 ${DATA_HEX}${vmpl}${"0".repeat(56)} - `;

/** What the fake kernel's report is: number of the call, REPORT_DATA, filling. */
function report(call: number): Uint8Array {
  const bytes = new Uint8Array(1184);
  bytes[0] = call;
  bytes.set(DATA, 0x50);
  bytes.fill(0xa5, 0x90);
  return bytes;
}

const refusal = (code: string, message: RegExp): unknown => expect.objectContaining({ code, message: expect.stringMatching(message) as string });

describe("the device through perl (behind a played kernel: this never ran on hardware)", () => {
  it("asks for the certificates with the report", async () => {
    const { report: found, certificates, origin } = await fetchFrom("certificates", { privlevel: 2 });
    expect(found).toEqual(report(1));
    expect(certificates).toHaveLength(0x4000);
    expect(Buffer.from(certificates.subarray(0, 16)).toString("hex")).toBe("63da758de6644564adc5f4b93be8accd");
    expect(Buffer.from(certificates.subarray(48, 51)).toString()).toBe("abc");
    expect(origin).toEqual({ kind: "sev-guest", detail: "/dev/null" });
    expect(await journal()).toEqual([extended("00400000", "02000000")]);
  });

  it("pads short data with zeros", async () => {
    const { report: found } = await fetchFrom("certificates", {}, Uint8Array.of(0xee));
    expect(Buffer.from(found.subarray(0x50, 0x90)).toString("hex")).toBe(`ee${"00".repeat(63)}`);
  });

  it("gives an empty table if the host's is empty", async () => {
    const { report: found, certificates } = await fetchFrom("empty");
    expect(found).toEqual(report(1));
    expect(certificates).toHaveLength(0);
  });

  describe.each([
    ["before 6.3 (ENOSPC)", "5.19"],
    ["since 6.3 (EIO)", "6.3"],
    ["that tells it by the VMM error alone", "silent"],
  ])("with kernels %s", (_kernels, kernel) => {
    it.each([
      ["is larger than the kernel takes", "larger"],
      ["is far larger", "huge"],
      ["is no whole number of pages", "crooked"],
      ["cannot be had from this host", "plain"],
    ])("does without a table that %s, and asks for no larger one", async (_name, situation) => {
      const { report: found, certificates } = await fetchFrom(situation, {}, DATA, kernel);
      expect(found).toEqual(report(2));
      expect(certificates).toHaveLength(0);
      expect(await journal()).toEqual([extended("00400000"), plain()]);
    });
  });

  it.each(["busy", "busy-plain"])("comes again later, with pauses that grow, until its time is up (%s)", async (kernel) => {
    const pauses: number[] = [];
    const controller = new AbortController();
    const wait = async (milliseconds: number): Promise<void> => {
      if (pauses.push(milliseconds) === 5) controller.abort();
    };
    await expect(fetchFrom(kernel, { wait, signal: controller.signal })).rejects.toThrow(refusal("ERR_TSM_TIMEOUT", /did not answer in time/));
    expect(pauses).toEqual([250, 500, 1000, 2000, 2000]);
    expect(await journal()).toHaveLength(kernel === "busy" ? 5 : 10);
  });

  it.each([
    ["a failing firmware", "firmware", "ERR_TSM_REFUSED", /SNP_GET_REPORT: errno 5 \(.*\), firmware error 0x17, VMM error 0x0/],
    ["a status of the firmware", "status", "ERR_TSM_REFUSED", /firmware status 0x16/],
    ["a report of another size", "size", "ERR_TSM_FORMAT", /1185 bytes/],
    ["a report over other data", "other-data", "ERR_TSM_FORMAT", /other data/],
    ["more output than there can be", "noisy", "ERR_TSM_FORMAT", /more than/],
  ])("refuses %s", async (_name, kernel, code, message) => {
    await expect(fetchFrom(kernel)).rejects.toThrow(refusal(code, message));
  });

  it("kills a helper that does not end", async () => {
    await expect(fetchFrom("endless", { timeoutMs: 300 })).rejects.toThrow(refusal("ERR_TSM_TIMEOUT", /in time/));
    await expect(fetchFrom("endless", { signal: AbortSignal.abort() })).rejects.toThrow(refusal("ERR_TSM_TIMEOUT", /in time/));
  });

  it("says what the kernel says about a device that is none", async () => {
    const source = await openSevGuestSource({ device: "/dev/null" });
    await expect(source.fetch(DATA)).rejects.toThrow(refusal("ERR_TSM_REFUSED", /SNP_GET_REPORT: errno 25 \(.*ioctl.*\)/));
  });

  it("does not run code that the environment names", async () => {
    const marker = join(directory, "marker");
    await writeFile(join(directory, "Evil.pm"), `open(my $f, ">", "${marker}"); 1;`);
    const before = { ...process.env };
    Object.assign(process.env, { PERL5LIB: directory, PERL5OPT: "-MEvil" });
    try {
      await fetchFrom("certificates");
    } finally {
      for (const name of ["PERL5LIB", "PERL5OPT"]) {
        if (before[name] === undefined) delete process.env[name];
        else process.env[name] = before[name];
      }
    }
    await expect(readFile(marker)).rejects.toThrow(/ENOENT/);
  });

  it("says that perl cannot be run", async () => {
    const perl = join(directory, "perl");
    await writeFile(perl, "#!/absent/interpreter\n", { mode: 0o755 });
    const source = await openSevGuestSource({ device: "/dev/null", perl });
    await expect(source.fetch(DATA)).rejects.toThrow(refusal("ERR_TSM_UNAVAILABLE", /cannot be run/));
  });
});
