import { type Crl, issueCrl, verifyCrl } from "@sealpod/pki";
import { describe, expect, it } from "vitest";
import { NOW, testProcessor, VLEK_KEY_INFO } from "../testdata/emulated.ts";
import { CertificateCache, type EvidenceCheck, type ReportEvidence, type ReportRevocation, SnpError, type TaggedCrl, verifyReport } from "../index.ts";

const milan = testProcessor("Milan");
const stranger = testProcessor("Milan");
const HOUR = 3_600_000;
const ASK = milan.chain.intermediate.serial;

function list(revoked: readonly bigint[], options: { readonly at?: number; readonly key?: "ark" | "ask" | "stranger"; readonly next?: number } = {}): Crl {
  const { at = NOW - HOUR, key = "ark" } = options;
  const issuer = {
    ark: { name: milan.chain.root.subject, key: milan.arkKey },
    ask: { name: milan.chain.intermediate.subject, key: milan.askKey },
    // The same name, and another key.
    stranger: { name: stranger.chain.root.subject, key: stranger.arkKey },
  }[key];
  return issueCrl({
    issuer,
    signatureAlgorithm: "rsa-pss-sha384",
    thisUpdate: at,
    nextUpdate: options.next ?? at + 24 * HOUR,
    revoked: revoked.map((serial) => ({ serial, revokedAt: NOW - 2 * HOUR })),
  });
}

function outcome(revocation: ReportRevocation, evidence: ReportEvidence = milan.evidence()): string {
  const seen: EvidenceCheck[] = [];
  try {
    verifyReport({ ...evidence, revocation, observe: (check) => seen.push(check) });
  } catch (error) {
    if (error instanceof SnpError) return error.code;
    throw error;
  }
  return seen.find(({ name }) => name === "revocation")?.found ?? "not checked";
}

describe("revocation", () => {
  const clean = list([1n, 2n]);

  it("passes a chain that is on no list, and says what was looked at", () => {
    expect(outcome({ crls: [clean], missing: "refuse" })).toBe("serial 65537 is not on the list of CN=EMULATED ARK-Milan");
    expect(outcome({ crls: [clean, list([5n], { key: "ask" })], missing: "refuse" })).toBe(
      "serial 65537 is not on the list of CN=EMULATED ARK-Milan; serial 0 is not on the list of CN=EMULATED SEV-Milan",
    );
    expect(outcome({ crls: [], missing: "accept" })).toBe("no list of CN=EMULATED ARK-Milan for VCEKs was given, which the caller accepts");
  });

  it.each<[string, string, ReportRevocation]>([
    ["a revoked intermediate", "ERR_SNP_REVOKED", { crls: [list([1n, ASK])], missing: "refuse" }],
    ["a revoked intermediate, where missing lists are accepted", "ERR_SNP_REVOKED", { crls: [list([ASK])], missing: "accept" }],
    ["a revoked endorsement key", "ERR_SNP_REVOKED", { crls: [clean, list([0n], { key: "ask" })], missing: "refuse" }],
    ["no list", "ERR_SNP_REVOCATION", { crls: [], missing: "refuse" }],
    ["a list of the other authority only", "ERR_SNP_REVOCATION", { crls: [list([], { key: "ask" })], missing: "refuse" }],
    ["a list that is out of date", "ERR_SNP_REVOCATION", { crls: [list([], { at: NOW - 48 * HOUR })], missing: "accept" }],
    ["a list of the future", "ERR_SNP_REVOCATION", { crls: [list([], { at: NOW + HOUR })], missing: "accept" }],
    ["a list that another key of that name signed", "ERR_SNP_REVOCATION", { crls: [list([], { key: "stranger" })], missing: "accept" }],
    // AMD's ARK signs a list for VCEKs and one for VLEKs: the newer one need not have the other's entries.
    ["an entry in the older of two lists", "ERR_SNP_REVOKED", { crls: [list([ASK], { at: NOW - 2 * HOUR }), clean], missing: "refuse" }],
    ["an entry in a list that is out of date, beside a new one", "ERR_SNP_REVOKED", { crls: [clean, list([ASK], { at: NOW - 48 * HOUR })], missing: "refuse" }],
  ])("refuses %s: %s", (_name, code, revocation) => {
    expect(outcome(revocation)).toBe(code);
  });

  it("does not let a stranger revoke", () => {
    expect(outcome({ crls: [clean, list([ASK], { key: "stranger" })], missing: "refuse" })).toMatch(/^serial 65537 is not on the list/);
  });

  it("takes lists that were verified before, with their dates anew", () => {
    const verified = verifyCrl(clean, milan.chain.root, { clock: { now: () => NOW } });
    expect(outcome({ crls: [verified], missing: "refuse" })).toMatch(/^serial 65537/);
    const short = verifyCrl(list([], { next: NOW - 1000 }), milan.chain.root, { clock: { now: () => NOW - HOUR } });
    expect(outcome({ crls: [short], missing: "refuse" })).toBe("ERR_SNP_REVOCATION");
    const revoking = verifyCrl(list([ASK]), milan.chain.root, { clock: { now: () => NOW } });
    expect(outcome({ crls: [revoking], missing: "refuse" })).toBe("ERR_SNP_REVOKED");
  });

  it("revokes the providers' authority apart from the chips'", () => {
    const vlek = milan.chainOf({ kind: "vlek" });
    const evidence = { ...milan.evidence({ keyInfo: VLEK_KEY_INFO }), certificates: vlek };
    const revocation: ReportRevocation = { crls: [list([vlek.intermediate.serial])], missing: "refuse" };
    expect(outcome(revocation, evidence)).toBe("ERR_SNP_REVOKED");
    expect(outcome(revocation)).toMatch(/^serial 65537 is not/);
  });

  describe("with lists of a known hierarchy", () => {
    const tagged = (endorsement: "vcek" | "vlek", crl: Crl): TaggedCrl => ({ kind: "tagged-crl", endorsement, crl });
    const stale = list([], { at: NOW - 48 * HOUR });
    const vlek = milan.chainOf({ kind: "vlek" });
    const vlekEvidence = { ...milan.evidence({ keyInfo: VLEK_KEY_INFO }), certificates: vlek };

    it.each<[string, string | RegExp, ReportRevocation["crls"], ("accept" | "refuse")?]>([
      ["its own list", /^serial/, [tagged("vcek", clean)]],
      ["both lists", /^serial/, [tagged("vlek", clean), tagged("vcek", clean)]],
      ["an untagged list", /^serial/, [clean]],
      ["an untagged list, and one of the other hierarchy", /^serial/, [clean, tagged("vlek", stale)]],
      ["its own list, and an old one of the other", /^serial/, [tagged("vcek", clean), tagged("vlek", stale)]],
      ["its own list, and an old one of its own", /^serial/, [tagged("vcek", stale), tagged("vcek", clean)]],
      [
        "a list verified before",
        /^serial/,
        [{ kind: "tagged-crl", endorsement: "vcek", crl: verifyCrl(clean, milan.chain.root, { clock: { now: () => NOW } }) }],
      ],
      ["a stranger's list beside its own", /^serial/, [tagged("vcek", list([], { key: "stranger", at: NOW })), tagged("vcek", clean)]],
      ["a stranger's list of its hierarchy, and an untagged one", /^serial/, [tagged("vcek", list([], { key: "stranger" })), clean]],
      ["the other hierarchy's list alone", "ERR_SNP_REVOCATION", [tagged("vlek", clean)]],
      ["the other hierarchy's list alone, accepted", /^no list of .* for VCEKs was given, which the caller accepts$/, [tagged("vlek", clean)], "accept"],
      ["the other hierarchy's old list, accepted", /^no list/, [tagged("vlek", stale)], "accept"],
      ["an old list beside the other hierarchy's", "ERR_SNP_REVOCATION", [tagged("vcek", stale), tagged("vlek", clean)]],
      ["an old list beside the other hierarchy's, accepted", "ERR_SNP_REVOCATION", [tagged("vcek", stale), tagged("vlek", clean)], "accept"],
      ["an old list beside an untagged one", "ERR_SNP_REVOCATION", [tagged("vcek", stale), clean]],
      [
        "a stranger's list of its hierarchy, beside the other's",
        "ERR_SNP_REVOCATION",
        [tagged("vcek", list([], { key: "stranger" })), tagged("vlek", clean)],
        "accept",
      ],
      ["an entry in the other hierarchy's list", "ERR_SNP_REVOKED", [tagged("vcek", clean), tagged("vlek", list([ASK]))]],
      [
        "an entry in the other hierarchy's old list",
        "ERR_SNP_REVOKED",
        [tagged("vcek", clean), tagged("vlek", list([ASK], { at: NOW - 48 * HOUR }))],
        "accept",
      ],
      ["an entry in a stranger's list of the other hierarchy", /^serial/, [tagged("vcek", clean), tagged("vlek", list([ASK], { key: "stranger" }))]],
    ])("judges a VCEK by %s: %s", (_name, expected, crls, missing = "refuse") => {
      if (typeof expected === "string") expect(outcome({ crls, missing })).toBe(expected);
      else expect(outcome({ crls, missing })).toMatch(expected);
    });

    it("judges a VLEK by those of VLEKs", () => {
      expect(outcome({ crls: [tagged("vlek", clean)], missing: "refuse" }, vlekEvidence)).toMatch(/^serial 65793 is not/);
      expect(outcome({ crls: [tagged("vcek", clean)], missing: "refuse" }, vlekEvidence)).toBe("ERR_SNP_REVOCATION");
      expect(outcome({ crls: [tagged("vlek", stale), tagged("vcek", clean)], missing: "accept" }, vlekEvidence)).toBe("ERR_SNP_REVOCATION");
    });
  });

  it("is asked anew of a chain that is remembered", () => {
    const cache = new CertificateCache({ capacity: 4 });
    const evidence = { ...milan.evidence(), cache };
    expect(outcome({ crls: [clean], missing: "refuse" }, evidence)).toMatch(/^serial/);
    expect(outcome({ crls: [list([ASK])], missing: "refuse" }, evidence)).toBe("ERR_SNP_REVOKED");
    expect(outcome({ crls: [], missing: "refuse" }, evidence)).toBe("ERR_SNP_REVOCATION");
    expect(cache.statistics.chainHits).toBe(2);
  });
});
