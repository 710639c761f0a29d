import { concatBytes, encodeUtf8, isSealpodError, toHex } from "@sealpod/core";
import { encodeCertificatesPem, encodePem } from "@sealpod/pki";
import { describe, expect, it } from "vitest";
import { testProcessor } from "./testdata/emulated.ts";
import { measureGrowth } from "../../tools/testing/growth.ts";
import { mutate, TestRandom } from "./testdata/prng.ts";
import {
  anyReportPolicy,
  CERTIFICATE_GUIDS,
  CertificateCache,
  encodeCertificateTable,
  encodeReport,
  encodeReportPolicy,
  evidenceCheckOf,
  MAX_CERTIFICATE_ENTRIES,
  MAX_CERTIFICATE_TABLE,
  parseCertificateChainPem,
  parseCertificateChainTable,
  parseCertificateTable,
  parseReport,
  parseReportPolicy,
  SnpError,
  type SnpErrorCode,
  verifyReport,
} from "./index.ts";

const milan = testProcessor("Milan");
const turin = testProcessor("Turin");
const CERTIFICATES = [milan.chain.endorsementKey, milan.chain.intermediate, milan.chain.root];
const PEM = encodeCertificatesPem(CERTIFICATES);
const V2 = { version: 2, processor: undefined } as const;

/** The code with which an input was refused, or undefined if it was taken; anything else than an SnpError fails the test. */
function refusal(read: () => unknown): SnpErrorCode | undefined {
  try {
    read();
    return undefined;
  } catch (error) {
    if (!(error instanceof SnpError)) throw error;
    // What it says goes to people and logs: it is short whatever the input was.
    if (error.message.length > 2000) throw new Error(`a message of ${error.message.length} characters`, { cause: error });
    return error.code;
  }
}

/** Runs mutations of the seeds and counts how they end. */
function run(seed: number, count: number, seeds: readonly [Uint8Array, ...Uint8Array[]], read: (bytes: Uint8Array) => unknown): ReadonlyMap<string, number> {
  const random = new TestRandom(seed);
  const outcomes = new Map<string, number>();
  for (let index = 0; index < count; index++) {
    const input = mutate(random.pick(seeds), random);
    const before = toHex(input);
    const outcome = refusal(() => read(input)) ?? "taken";
    if (toHex(input) !== before) throw new Error("the input was written to");
    outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
  }
  return outcomes;
}

describe("reports, mutated", () => {
  const seeds = [milan.evidence(V2, 2).report, milan.evidence().report, milan.evidence({ version: 4 }, 4).report, turin.evidence().report] as const;

  it("are read as they are written, or refused with a code of this package", () => {
    const outcomes = run(0x5eed_0001, 10_000, [...seeds], (bytes) => {
      if (toHex(encodeReport(parseReport(bytes))) !== toHex(bytes)) throw new Error("a report was read and lost something");
    });
    // Both happen, and often: else the mutations would test nothing.
    expect(outcomes.get("taken")).toBeGreaterThan(300);
    for (const code of ["ERR_SNP_LENGTH", "ERR_SNP_RESERVED", "ERR_SNP_VERSION", "ERR_SNP_ALGORITHM", "ERR_SNP_FIELD"]) {
      expect(outcomes.get(code), code).toBeGreaterThan(10);
    }
  });

  it("verify only unchanged, and say which check fails", () => {
    const cache = new CertificateCache({ capacity: 4 });
    for (const [index, processor] of [milan, turin].entries()) {
      const evidence = { ...processor.evidence(), cache };
      const good = toHex(evidence.report);
      const outcomes = run(0x5eed_0002 + index, 2500, [evidence.report], (bytes) => {
        verifyReport({ ...evidence, report: bytes });
        if (toHex(bytes) !== good) throw new Error("a changed report was verified");
      });
      for (const code of outcomes.keys()) if (code !== "taken") expect(evidenceCheckOf(code), code).toBeDefined();
      expect(outcomes.get("ERR_SNP_SIGNATURE")).toBeGreaterThan(100);
    }
  });
});

describe("certificates, mutated", () => {
  const guids = [CERTIFICATE_GUIDS.vcek, CERTIFICATE_GUIDS.ask, CERTIFICATE_GUIDS.ark];
  const table = encodeCertificateTable(CERTIFICATES.map(({ der }, index) => ({ guid: guids[index] ?? "", data: der })));
  const pemTable = encodeCertificateTable(
    CERTIFICATES.map(({ der }, index) => ({ guid: guids[index] ?? "", data: encodeUtf8(encodePem("CERTIFICATE", der)) })),
  );
  const small = encodeCertificateTable(guids.map((guid, index) => ({ guid, data: new Uint8Array(index + 1).fill(index + 1) })));

  it("tables are read as they are written, or refused", () => {
    const outcomes = run(0x5eed_0003, 10_000, [table, small, small, new Uint8Array(48)], (bytes) => {
      const entries = parseCertificateTable(bytes);
      // What was read can be written, and reads the same. (Places and padding may differ.)
      if (entries.length > 0) expect(parseCertificateTable(encodeCertificateTable(entries))).toEqual(entries);
    });
    expect([...outcomes.keys()].sort()).toEqual(["ERR_SNP_CERTIFICATE_TABLE", "taken"]);
    for (const count of outcomes.values()) expect(count).toBeGreaterThan(300);
  });

  it("chains of PEM are read or refused", () => {
    const cache = new CertificateCache({ capacity: 16 });
    const outcomes = run(0x5eed_0005, 4000, [encodeUtf8(PEM)], (bytes) => cache.parsePem(Buffer.from(bytes).toString("latin1")));
    expect(outcomes.get("taken")).toBeGreaterThan(4);
    expect(outcomes.get("ERR_SNP_CERTIFICATE")).toBeGreaterThan(400);
  });

  it("chains of tables, in DER and in PEM, are read or refused, and not verified if a certificate was changed", () => {
    const { report, roots, clock } = milan.evidence();
    const cache = new CertificateCache({ capacity: 16 });
    const original = new Set(CERTIFICATES.map(({ der }) => toHex(der)));
    const outcomes = run(0x5eed_0006, 4000, [table, concatBytes(table, new Uint8Array(512)), pemTable], (bytes) => {
      const certificates = parseCertificateChainTable(bytes);
      verifyReport({ report, certificates, roots, clock, cache });
      for (const { der } of [certificates.endorsementKey, certificates.intermediate, certificates.root]) {
        if (!original.has(toHex(der))) throw new Error("a changed certificate was verified");
      }
    });
    // Padding may change as long as it is zeros, and what stands in the header is found wherever it points.
    expect(outcomes.get("taken")).toBeGreaterThan(20);
    for (const code of ["ERR_SNP_CERTIFICATE_TABLE", "ERR_SNP_CERTIFICATE", "ERR_SNP_CHAIN"]) expect(outcomes.get(code), code).toBeGreaterThan(40);
  });
});

describe("policy documents, mutated", () => {
  it("are read or refused", () => {
    const seed = encodeUtf8(
      encodeReportPolicy({ ...anyReportPolicy(), vmpls: [0], hostData: new Uint8Array(32), minimumTcb: { Milan: { snp: 24 } }, platformSet: ["bit6"] }),
    );
    const outcomes = run(0x5eed_0007, 4000, [seed], (bytes) => {
      const policy = parseReportPolicy(Buffer.from(bytes).toString("latin1"));
      expect(parseReportPolicy(encodeReportPolicy(policy))).toEqual(policy);
    });
    expect([...outcomes.keys()].sort()).toEqual(["ERR_SNP_POLICY_SYNTAX", "taken"]);
    expect(outcomes.get("taken")).toBeGreaterThan(20);
  });
});

describe("growth", () => {
  /** Between linear and quadratic; below it is linear with what else there is. */
  const BOUND = 1.4;
  /** The parsers take some microseconds. */
  const SHORT = { repeats: 8 };

  it("of certificate tables is linear in their bytes", () => {
    const sizes = [MAX_CERTIFICATE_TABLE / 16, MAX_CERTIFICATE_TABLE / 4, MAX_CERTIFICATE_TABLE] as const;
    const full = (size: number): (() => void) => {
      const bytes = encodeCertificateTable([{ guid: CERTIFICATE_GUIDS.vcek, data: new Uint8Array(size - 48).fill(0x30) }]);
      return () => parseCertificateTable(bytes);
    };
    expect(measureGrowth(sizes, BOUND, full, SHORT)).toBeLessThan(BOUND);
    // Zeros are padding: all of it is looked at.
    expect(measureGrowth(sizes, BOUND, (size) => () => parseCertificateTable(new Uint8Array(size)), SHORT)).toBeLessThan(BOUND);
  });

  it("of certificate tables is bounded in their entries, which are counted before anything else", () => {
    const guid = (index: number): string => `${(index + 1).toString(16).padStart(8, "0")}-0000-0000-0000-000000000000`;
    const table = (count: number): Uint8Array =>
      encodeCertificateTable(Array.from({ length: count }, (_, index) => ({ guid: guid(index), data: Uint8Array.of(1) })));
    expect(parseCertificateTable(table(MAX_CERTIFICATE_ENTRIES))).toHaveLength(MAX_CERTIFICATE_ENTRIES);
    expect(refusal(() => table(MAX_CERTIFICATE_ENTRIES + 1))).toBe("ERR_SNP_CERTIFICATE_TABLE");
    // A header of nothing but entries is not read to its end.
    expect(refusal(() => parseCertificateTable(new Uint8Array(MAX_CERTIFICATE_TABLE).fill(0xff)))).toBe("ERR_SNP_CERTIFICATE_TABLE");
  });

  it("of PEM chains is linear in their certificates, and in text that is none", () => {
    const strangers = (count: number): (() => void) => {
      const text = PEM + encodePem("CERTIFICATE", milan.chain.root.der).repeat(count);
      return () => parseCertificateChainPem(text);
    };
    expect(measureGrowth([3, 6, 12], BOUND, strangers, SHORT)).toBeLessThan(BOUND);
    const body = `-----BEGIN CERTIFICATE-----\n`;
    const hostile: readonly ((size: number) => string)[] = [
      (size) => body + "A".repeat(size),
      (size) => body + "A\n".repeat(size / 2),
      (size) => body.repeat(size / body.length),
      (size) => " ".repeat(size),
      (size) => "-".repeat(size),
      (size) => PEM + "\n".repeat(size) + "x",
    ];
    for (const make of hostile) {
      const exponent = measureGrowth(
        [16_384, 65_536, 200_000],
        BOUND,
        (size) => {
          const text = make(size);
          return () => refusal(() => parseCertificateChainPem(text));
        },
        SHORT,
      );
      expect(exponent).toBeLessThan(BOUND);
    }
  });

  it("does not change whose errors come out", () => {
    for (const read of [
      () => parseReport(new Uint8Array()),
      () => parseCertificateTable(Uint8Array.of(1)),
      () => parseCertificateChainPem(""),
      () => parseReportPolicy(""),
    ]) {
      try {
        read();
        expect.unreachable();
      } catch (error) {
        expect(isSealpodError(error) && error.constructor === SnpError).toBe(true);
      }
    }
  });
});
