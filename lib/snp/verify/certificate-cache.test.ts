import { generateKeyPairSync } from "node:crypto";
import { type Certificate, encodeCertificatesPem, parseCertificate } from "@sealpod/pki";
import { describe, expect, it } from "vitest";
import { NOW, testProcessor, testReport, testTcb } from "../testdata/emulated.ts";
import {
  CertificateCache,
  type CertificateChain,
  encodeVcekExtensions,
  parseCertificateChainPem,
  type ReportEvidence,
  signReport,
  SnpError,
  verifyReport,
} from "../index.ts";

const milan = testProcessor("Milan");
const stranger = testProcessor("Milan");
const REPORT = testReport("Milan", 3, milan.chipId);

function outcome(evidence: ReportEvidence): string {
  try {
    return verifyReport(evidence).kind;
  } catch (error) {
    if (error instanceof SnpError) return error.code;
    throw error;
  }
}

/** The chain, with a count of how often a certificate's signature was read: that is, verified. */
function counted(chain: CertificateChain): { readonly chain: CertificateChain; readonly count: () => number } {
  let count = 0;
  const watch = (certificate: Certificate): Certificate =>
    Object.defineProperty({ ...certificate }, "signature", {
      get: () => {
        count++;
        return certificate.signature;
      },
    });
  return { chain: { endorsementKey: watch(chain.endorsementKey), intermediate: watch(chain.intermediate), root: watch(chain.root) }, count: () => count };
}

/** Chains of one processor for different TCBs. */
function chains(count: number): readonly CertificateChain[] {
  return Array.from({ length: count }, (_, index) =>
    milan.withVcek(encodeVcekExtensions({ productName: "Milan-B0", product: "Milan", tcb: testTcb("Milan", { microcode: index }), hwId: milan.chipId })),
  );
}

describe("verifying with a cache", () => {
  it("verifies the three signatures of a chain once, and those of reports each time", () => {
    const cache = new CertificateCache({ capacity: 2 });
    const { chain, count } = counted(milan.chain);
    for (let round = 0; round < 5; round++) {
      expect(outcome({ ...milan.evidence({ guestSvn: round }), certificates: chain, cache })).toBe("verified-report");
      expect(count()).toBe(3);
    }
    expect(cache.statistics).toMatchObject({ chainHits: 4, chainMisses: 1 });
    // Without one: three for each report.
    for (let round = 0; round < 2; round++) outcome({ ...milan.evidence(), certificates: chain });
    expect(count()).toBe(9);
  });

  it("says the same as without, for good and for bad", () => {
    const cache = new CertificateCache({ capacity: 8 });
    const cases: readonly ReportEvidence[] = [
      milan.evidence(),
      milan.evidence({ reportedTcb: testTcb("Milan", { snp: 23 }) }),
      milan.evidence({ chipId: new Uint8Array(64).fill(1) }),
      { ...milan.evidence(), report: signReport(REPORT, generateKeyPairSync("ec", { namedCurve: "secp384r1" }).privateKey) },
      { ...milan.evidence(), certificates: { ...milan.chain, intermediate: stranger.chain.intermediate } },
      { ...milan.evidence(), certificates: stranger.chain },
    ];
    const plain = cases.map(outcome);
    expect(new Set(plain).size).toBeGreaterThan(4);
    for (let round = 0; round < 2; round++) expect(cases.map((evidence) => outcome({ ...evidence, cache }))).toEqual(plain);
  });

  it("remembers no trust: another verifier's roots do not become this one's", () => {
    const cache = new CertificateCache({ capacity: 8 });
    const theirs = { ...stranger.evidence(), cache };
    expect(outcome(theirs)).toBe("verified-report");
    expect(outcome({ ...theirs, roots: [milan.root] })).toBe("ERR_SNP_ROOT");
    expect(outcome({ ...theirs, roots: [] })).toBe("ERR_SNP_ROOT");
    expect(outcome({ ...theirs, roots: [{ ...stranger.root, product: "Genoa" }] })).toBe("ERR_SNP_PRODUCT");
    const renamed = { ...stranger.root, name: "other" };
    expect(verifyReport({ ...theirs, roots: [renamed] }).root).toBe(renamed);
  });

  it("does not remember a chain under a root that the caller does not trust", () => {
    const cache = new CertificateCache({ capacity: 8 });
    expect(outcome({ ...milan.evidence(), roots: [stranger.root], cache })).toBe("ERR_SNP_ROOT");
    expect(outcome({ ...milan.evidence(), cache })).toBe("verified-report");
    expect(cache.statistics).toMatchObject({ chainHits: 0, chainMisses: 2 });
  });

  it("remembers no dates", () => {
    const cache = new CertificateCache({ capacity: 8 });
    expect(outcome({ ...milan.evidence(), cache })).toBe("verified-report");
    for (const now of [NOW - 2 * 86_400_000, NOW + 2 * 86_400_000]) {
      expect(outcome({ ...milan.evidence(), cache, clock: { now: () => now } })).toBe("ERR_SNP_VALIDITY");
    }
    // Out of date does not mean that the signatures are bad: they stay remembered, and count again when the clock is mended.
    expect(outcome({ ...milan.evidence(), cache })).toBe("verified-report");
    expect(cache.statistics.chainHits).toBe(3);
  });

  it("uses the certificates that were verified, not others that claim the same bytes", () => {
    const cache = new CertificateCache({ capacity: 8 });
    expect(outcome({ ...milan.evidence(), cache })).toBe("verified-report");
    const forged = { ...milan.chain, endorsementKey: { ...milan.chain.endorsementKey, publicKey: stranger.chain.endorsementKey.publicKey } };
    const report = signReport(REPORT, stranger.vcekKey);
    expect(outcome({ ...milan.evidence(), report, certificates: forged, cache })).toBe("ERR_SNP_SIGNATURE");
  });

  it("does not take a chain for another with the same bytes in other places", () => {
    const cache = new CertificateCache({ capacity: 8 });
    expect(outcome({ ...milan.evidence(), cache })).toBe("verified-report");
    const { endorsementKey, intermediate, root } = milan.chain;
    for (const certificates of [
      { endorsementKey, intermediate: root, root: intermediate },
      { endorsementKey, intermediate: root, root },
      { endorsementKey, intermediate, root: intermediate },
    ]) {
      expect(outcome({ ...milan.evidence(), certificates, cache })).not.toBe("verified-report");
    }
    expect(cache.statistics.chainHits).toBe(0);
  });

  it("forgets what was not used for longest", () => {
    const cache = new CertificateCache({ capacity: 2 });
    const [a, b, c] = chains(3).map((certificates, microcode) => {
      const tcb = testTcb("Milan", { microcode });
      return { ...milan.evidence({ reportedTcb: tcb, committedTcb: tcb, launchTcb: tcb }), certificates, cache };
    });
    if (a === undefined || b === undefined || c === undefined) throw new Error("three chains");
    const hits = (evidence: ReportEvidence): boolean => {
      const before = cache.statistics.chainHits;
      expect(outcome(evidence)).toBe("verified-report");
      return cache.statistics.chainHits > before;
    };
    // b is forgotten for c, because a was used after it.
    expect([a, b, a, c, a, c, b, a].map(hits)).toEqual([false, false, true, false, true, true, false, false]);
  });
});

describe("reading with a cache", () => {
  const pem = encodeCertificatesPem([milan.chain.endorsementKey, milan.chain.intermediate, milan.chain.root]);

  it("reads a text once", () => {
    const cache = new CertificateCache({ capacity: 2 });
    const first = cache.parsePem(pem);
    expect(first.endorsementKey.der).toEqual(parseCertificateChainPem(pem).endorsementKey.der);
    expect(cache.parsePem(pem)).toBe(first);
    expect(cache.parsePem(`${pem}\n`)).not.toBe(first);
    expect(cache.statistics).toMatchObject({ textHits: 1, textMisses: 2 });
  });

  it("fails each time where a text does not read", () => {
    const cache = new CertificateCache({ capacity: 2 });
    for (let round = 0; round < 2; round++) {
      expect(() => cache.parsePem("hello")).toThrow(expect.objectContaining({ code: "ERR_SNP_CERTIFICATE" }));
      expect(() => cache.parsePem(encodeCertificatesPem([milan.chain.endorsementKey]))).toThrow(expect.objectContaining({ code: "ERR_SNP_CHAIN" }));
    }
    expect(cache.statistics).toMatchObject({ textHits: 0, textMisses: 4 });
  });

  it("lets many texts push out texts, but no verified chain", () => {
    const cache = new CertificateCache({ capacity: 2 });
    expect(outcome({ ...milan.evidence(), certificates: cache.parsePem(pem), cache })).toBe("verified-report");
    for (let index = 0; index < 4; index++) cache.parsePem(pem + "\n".repeat(index + 1));
    expect(outcome({ ...milan.evidence(), certificates: cache.parsePem(pem), cache })).toBe("verified-report");
    expect(cache.statistics).toEqual({ chainHits: 1, chainMisses: 1, textHits: 0, textMisses: 6 });
  });

  it.each([0, -1, 1.5, Number.NaN, 16_385, Infinity])("has no capacity of %d", (capacity) => {
    expect(() => new CertificateCache({ capacity })).toThrow(expect.objectContaining({ code: "ERR_SNP_FIELD" }));
  });

  it("is not confused by a certificate that was read twice", () => {
    const cache = new CertificateCache({ capacity: 2 });
    expect(outcome({ ...milan.evidence(), cache })).toBe("verified-report");
    const again = { ...milan.chain, root: parseCertificate(milan.chain.root.der) };
    expect(outcome({ ...milan.evidence(), certificates: again, cache })).toBe("verified-report");
    expect(cache.statistics.chainHits).toBe(1);
  });
});
