import { chmod, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Clock, encodeUtf8, type Random, sha256 } from "@sealpod/core";
import { verifyUvmEndorsement } from "@sealpod/cose";
import { nameAttribute, OID } from "@sealpod/pki";
import {
  AMD_ROOTS,
  anyReportPolicy,
  launchDigest,
  type LaunchPage,
  parseCertificateChainPem,
  parseCertificateChainTable,
  parseThim,
  processPages,
  validateReport,
  type VerifiedReport,
  verifyReport,
} from "@sealpod/snp";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { EMULATED_NOTICE, LAPTOP_UVM_FEED, type LaunchedGuest, MAX_GUESTS, SecurityProcessor } from "./index.ts";

const clock: Clock = { now: () => Date.UTC(2026, 10, 22, 12) };
let counter = 0;
/** Not random, and different each time. */
const random: Random = {
  bytes: (length) => new Uint8Array(Buffer.concat([sha256(Uint8Array.of(counter++ % 256, counter >> 8)), new Uint8Array(64)])).slice(0, length),
};
const HOST_DATA = new Uint8Array(32).fill(0x11);
const PAGES: readonly LaunchPage[] = [...processPages([encodeUtf8("agent"), encodeUtf8("cmdline\0")])];

let base = "";
let processor: SecurityProcessor;

beforeAll(async () => {
  base = await mkdtemp(join(tmpdir(), "psp-"));
  processor = await SecurityProcessor.open(join(base, "keys"), { clock, random });
}, 60_000);

afterAll(async () => {
  await rm(base, { recursive: true, force: true });
});

async function launch(input: Partial<Parameters<SecurityProcessor["launch"]>[0]> = {}): Promise<LaunchedGuest> {
  return processor.launch({ pages: PAGES, hostData: HOST_DATA, ...input });
}

function verify(guest: LaunchedGuest, reportData: Uint8Array): VerifiedReport {
  return verifyReport({
    report: guest.report(reportData),
    certificates: parseCertificateChainTable(guest.certificateTable()),
    roots: [processor.trustRoot],
    clock,
  });
}

describe("reports", () => {
  it("verify under the emulator's root, and carry what was launched and asked", async () => {
    using guest = disposable(await launch());
    const verified = verify(guest.value, new Uint8Array(64).fill(9));
    expect(verified.root.name).toBe("emulator");
    expect(verified.product).toBe("Milan");
    const { report } = validateReport(verified, {
      ...anyReportPolicy(),
      roots: ["emulator"],
      reportData: new Uint8Array(64).fill(9),
      hostData: HOST_DATA,
      measurements: [launchDigest(PAGES)],
      vmpls: [0],
      debug: "forbidden",
      migrationAgent: "forbidden",
      minimumTcb: { Milan: { snp: 0x18 } },
      minimumFirmware: { major: 1, minor: 55 },
      provisionalFirmware: "forbidden",
    });
    expect(report.version).toBe(3);
    expect(guest.value.measurement).toEqual(report.measurement);
  });

  it("are refused by everyone who trusts AMD alone", async () => {
    using guest = disposable(await launch());
    const evidence = { report: guest.value.report(new Uint8Array(64)), certificates: parseCertificateChainPem(processor.chainPem), clock };
    expect(() => verifyReport({ ...evidence, roots: AMD_ROOTS })).toThrow(expect.objectContaining({ code: "ERR_SNP_ROOT" }));
  });

  it("say EMULATED in every certificate", () => {
    const { endorsementKey, intermediate, root } = parseCertificateChainPem(processor.chainPem);
    for (const { subject } of [endorsementKey, intermediate, root]) {
      expect(nameAttribute(subject, OID.organizationalUnit)).toBe(EMULATED_NOTICE);
      expect(nameAttribute(subject, OID.commonName)).toMatch(/^Sealpod EMULATED /);
    }
    expect(root.publicKey.key.asymmetricKeyDetails?.modulusLength).toBe(4096);
    expect(root.signatureAlgorithm).toBe("rsa-pss-sha384");
  });

  it("pad short REPORT_DATA with zeros and refuse long", async () => {
    using guest = disposable(await launch());
    expect(verify(guest.value, Uint8Array.of(7)).report.reportData).toEqual(Uint8Array.from({ length: 64 }, (_, at) => (at === 0 ? 7 : 0)));
    expect(() => guest.value.report(new Uint8Array(65))).toThrow(expect.objectContaining({ code: "ERR_PSP_INPUT" }));
  });

  it("end with the guest", async () => {
    const guest = await launch();
    guest.close();
    guest.close();
    expect(() => guest.report(new Uint8Array(64))).toThrow(expect.objectContaining({ code: "ERR_PSP_CLOSED" }));
  });

  it("carry the policy that the host gave, and no policy that cannot be", async () => {
    using guest = disposable(await launch({ policy: 0xb001fn }));
    expect(verify(guest.value, new Uint8Array(64)).report.policy).toBe(0xb001fn);
    await expect(launch({ policy: 0n })).rejects.toThrow(expect.objectContaining({ code: "ERR_SNP_RESERVED" }));
    await expect(launch({ policy: 1n << 63n })).rejects.toThrow(expect.objectContaining({ code: "ERR_SNP_RESERVED" }));
  });

  it("do not change when the caller changes its buffers after the launch", async () => {
    const hostData = Uint8Array.from(HOST_DATA);
    using guest = disposable(await launch({ hostData }));
    hostData.fill(0);
    guest.value.measurement.fill(0);
    guest.value.hostData.fill(0);
    expect(verify(guest.value, new Uint8Array(64)).report.hostData).toEqual(HOST_DATA);
    expect(guest.value.measurement).toEqual(launchDigest(PAGES));
  });
});

describe("launching", () => {
  it("takes pages as they come", async () => {
    async function* slowly(): AsyncGenerator<LaunchPage> {
      yield* PAGES;
    }
    using guest = disposable(await launch({ pages: slowly() }));
    expect(guest.value.measurement).toEqual(launchDigest(PAGES));
  });

  it.each([0, 31, 33, 48])("refuses HOST_DATA of %i bytes", async (length) => {
    await expect(launch({ hostData: new Uint8Array(length) })).rejects.toThrow(expect.objectContaining({ code: "ERR_PSP_INPUT" }));
  });

  it("has a limit on the number of guests, and room again when one is closed", async () => {
    const guests: LaunchedGuest[] = [];
    try {
      while (guests.length < MAX_GUESTS) guests.push(await launch({ pages: [] }));
      await expect(launch({ pages: [] })).rejects.toThrow(expect.objectContaining({ code: "ERR_PSP_LIMIT" }));
      guests.pop()?.close();
      guests.push(await launch({ pages: [] }));
      expect(new Set(guests.map(({ id }) => id)).size).toBe(MAX_GUESTS);
    } finally {
      for (const guest of guests) guest.close();
    }
  });
});

describe("endorsements and certificates beside the report", () => {
  it("endorse the launch measurement under the laptop's own did:x509", async () => {
    using guest = disposable(await launch());
    const endorsement = guest.value.uvmEndorsement();
    const verified = verifyUvmEndorsement(endorsement, [{ ...processor.uvmTrust, claim: "sealpod-compliant-uvm" }]);
    expect(verified).toMatchObject({ feed: LAPTOP_UVM_FEED, svn: 1, claim: "sealpod-compliant-uvm", launchMeasurement: guest.value.measurement });
    expect(processor.uvmTrust.issuer).toMatch(/^did:x509:0:sha256:[\w-]{43}::eku:2\.25\.97552492151509741327169512377098502104\.1\.1$/);
    expect(() => verifyUvmEndorsement(endorsement, [{ ...processor.uvmTrust, feed: "ConfAKS-AMD-UVM", claim: "azure-signed-katacc-uvm" }])).toThrow(
      expect.objectContaining({ code: "ERR_COSE_ISSUER" }),
    );
  });

  it("are given as THIM gives them", async () => {
    using guest = disposable(await launch());
    const thim = parseThim(guest.value.thimCertificates());
    expect(thim.tcbm).toBe("DB18000000000004");
    expect(parseCertificateChainPem(thim.vcekCert + thim.certificateChain).root.der).toEqual(parseCertificateChainPem(processor.chainPem).root.der);
  });
});

describe("the key store", () => {
  it("gives the same processor when it is opened again", async () => {
    const again = await SecurityProcessor.open(join(base, "keys"), { clock, random });
    expect(again.chainPem).toBe(processor.chainPem);
    expect(again.uvmTrust).toEqual(processor.uvmTrust);
    using guest = disposable(await again.launch({ pages: PAGES, hostData: HOST_DATA }));
    expect(verify(guest.value, new Uint8Array(64)).root.name).toBe("emulator");
  });

  it("is one file that only the owner reads, in a directory that only the owner enters", async () => {
    expect(await readdir(join(base, "keys"))).toEqual(["psp.json"]);
    expect(((await stat(join(base, "keys"))).mode & 0o777).toString(8)).toBe("700");
    expect(((await stat(join(base, "keys", "psp.json"))).mode & 0o777).toString(8)).toBe("600");
    expect(await readFile(join(base, "keys", "psp.json"), "utf8")).toContain(EMULATED_NOTICE);
  });

  async function openChanged(change: (text: string) => string, mode = 0o600): Promise<SecurityProcessor> {
    const directory = await mkdtemp(join(base, "changed-"));
    const path = join(directory, "psp.json");
    await writeFile(path, change(await readFile(join(base, "keys", "psp.json"), "utf8")));
    await chmod(path, mode);
    return SecurityProcessor.open(directory, { clock, random });
  }

  it("reads a copy", async () => {
    expect((await openChanged((text) => text)).chainPem).toBe(processor.chainPem);
  });

  const edit = (change: (state: Record<string, unknown>) => void) => (text: string) => {
    const state = JSON.parse(text) as Record<string, unknown>;
    change(state);
    return JSON.stringify(state);
  };
  it.each<[string, (text: string) => string]>([
    ["is cut", (text) => text.slice(0, 1000)],
    ["is empty", () => ""],
    ["is no object", () => "[]"],
    ["is of another version", edit((state) => (state["version"] = 2))],
    ["has no key", edit((state) => delete state["vcekKey"])],
    ["has another key", edit((state) => (state["vcekKey"] = state["uvmKey"]))],
    ["has a broken key", edit((state) => (state["vcekKey"] = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"))],
    ["has another chip id", edit((state) => (state["chipId"] = "00".repeat(64)))],
    ["has a short chip id", edit((state) => (state["chipId"] = "00"))],
    ["has the wrong certificates", edit((state) => (state["certificates"] = state["uvmCertificates"]))],
    [
      "has one endorsement certificate too many",
      edit((state) => (state["uvmCertificates"] = `${String(state["uvmCertificates"])}${String(state["certificates"])}`)),
    ],
  ])("is refused when the file %s, without quoting it", async (_name, change) => {
    const error: unknown = await openChanged(change).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: "ERR_PSP_STATE" });
    // The text holds keys: neither the message nor a cause may repeat it.
    expect((error as Error).message).not.toContain("BEGIN");
    expect((error as Error).cause).toBeUndefined();
  });

  it("is refused when others can read the keys", async () => {
    await expect(openChanged((text) => text, 0o640)).rejects.toThrow(
      expect.objectContaining({ code: "ERR_PSP_STATE", hint: expect.stringContaining("chmod 600") as string }),
    );
  });
});

/** `using` closes the guest at the end of the test, so that the processor's limit is not used up. */
function disposable(value: LaunchedGuest): Disposable & { readonly value: LaunchedGuest } {
  return { value, [Symbol.dispose]: () => value.close() };
}
