import { decodeJwt } from "jose";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { encodeUtf8, isSealpodError, sha256, silentLogger, toBase64url, toHex } from "@sealpod/core";
import type { UvmTrust } from "@sealpod/cose";
import { issueCrl, type Certificate, type Crl } from "@sealpod/pki";
import { anyReportPolicy, type ProductName, type ReportPolicy } from "@sealpod/snp";
import { EndorsementVerifier } from "./endorsements.ts";
import { attestationApp, openAttestationStore, parseAttestRequest, Attester, PolicyBook, type AttestationService, type AttestationStore } from "./index.ts";
import { FEED, makeProcessor, makeReport, makeUvmSigner, MEASUREMENT, random, START, trustOf, type Processor, type UvmSigner } from "./testdata/evidence.ts";

const DAY = 86_400_000;
const b64 = (data: Uint8Array | string): string => toBase64url(typeof data === "string" ? encodeUtf8(data) : data);

let processor: Processor;
let signer: UvmSigner;
let store: AttestationStore;
let time: number;
const clock = { now: () => time };

beforeAll(async () => {
  processor = makeProcessor("emulator");
  signer = makeUvmSigner();
  store = await openAttestationStore({ file: ":memory:", masterKey: new Uint8Array(32).fill(3), clock: { now: () => START }, random });
});
afterAll(() => {
  store.close();
});
beforeEach(() => {
  time = START;
});

function service(change: Partial<AttestationService> = {}): AttestationService {
  return { issuer: "https://attest.test", store, clock, random, roots: [processor.root], uvmTrust: [trustOf(signer)], ...change };
}
function attester(change: Partial<AttestationService> = {}): Attester {
  return new Attester(service(change), new PolicyBook(store));
}
function body(report = makeReport(processor), uvm: readonly Uint8Array[] = []): string {
  const Endorsements = b64(JSON.stringify({ Uvm: uvm.map(b64) }));
  return JSON.stringify({ report: b64(JSON.stringify({ SnpReport: b64(report), VcekCertChain: b64(processor.chain), Endorsements })) });
}
const request = (report?: Uint8Array, uvm?: readonly Uint8Array[]): ReturnType<typeof parseAttestRequest> => parseAttestRequest(body(report, uvm));

function crl(change: { readonly serials?: readonly bigint[]; readonly from?: number; readonly to?: number; readonly by?: Processor } = {}): Crl {
  const { ark } = change.by ?? processor;
  return issueCrl({
    // Under the name of our own authority, whoever signs it.
    issuer: { name: processor.ark.certificate.subject, key: ark.key },
    signatureAlgorithm: "rsa-pss-sha384",
    thisUpdate: change.from ?? START - DAY,
    nextUpdate: change.to ?? START + DAY,
    revoked: (change.serials ?? []).map((serial) => ({ serial, revokedAt: START - DAY })),
  });
}

describe("revocation", () => {
  const refused = (check: string): unknown => expect.objectContaining({ code: "ERR_ATTESTATION_EVIDENCE", details: { check } });

  it("is looked up in the list of the product, each time anew: a chain that was good once is refused as soon as the list says so", () => {
    const asked: ProductName[] = [];
    let lists: readonly Crl[] = [crl()];
    const judge = attester({ revocation: { crls: (product) => (asked.push(product), lists), missing: "refuse" } });
    expect(judge.attest(request()).root).toBe("emulator");
    lists = [crl({ serials: [processor.intermediate.serial] })];
    expect(() => judge.attest(request())).toThrow(refused("ERR_SNP_REVOKED") as Error);
    lists = [crl({ serials: [processor.intermediate.serial + 1n] })];
    expect(judge.attest(request()).root).toBe("emulator");
    expect(asked).toEqual(["Milan", "Milan", "Milan"]);
  });

  it("heeds of which hierarchy a list is, and tells the root's certificate of good evidence to whoever keeps the lists", () => {
    const learned: [ProductName, string][] = [];
    const learnRoot = (product: ProductName, root: Certificate): void => void learned.push([product, toHex(root.der)]);
    const judged = (endorsement: "vcek" | "vlek"): string =>
      attester({ revocation: { crls: () => [{ kind: "tagged-crl", endorsement, crl: crl() }], missing: "refuse", learnRoot } }).attest(request()).root;
    expect(() => judged("vlek")).toThrow(refused("ERR_SNP_REVOCATION") as Error);
    expect(learned).toEqual([]);
    expect(judged("vcek")).toBe("emulator");
    expect(learned).toEqual([["Milan", toHex(processor.ark.certificate.der)]]);
  });

  it("refuses or accepts chains without a list, as configured", () => {
    expect(() => attester({ revocation: { crls: () => [], missing: "refuse" } }).attest(request())).toThrow(refused("ERR_SNP_REVOCATION") as Error);
    expect(attester({ revocation: { crls: () => [], missing: "accept" } }).attest(request()).root).toBe("emulator");
  });

  it("takes no list that is out of date or signed by another", () => {
    for (const list of [
      crl({ from: START - 2 * DAY, to: START - DAY }),
      crl({ from: START + DAY, to: START + 2 * DAY }),
      crl({ by: makeProcessor("emulator") }),
    ])
      expect(() => attester({ revocation: { crls: () => [list], missing: "accept" } }).attest(request())).toThrow(refused("ERR_SNP_REVOCATION") as Error);
  });
});

describe("what is remembered", () => {
  it("is no verdict: dates are checked each time", () => {
    const judge = attester();
    judge.attest(request());
    time = START + 366 * DAY;
    expect(() => judge.attest(request())).toThrow(expect.objectContaining({ details: { check: "ERR_SNP_VALIDITY" } }));
    time = START;
    expect(judge.attest(request()).root).toBe("emulator");
  });

  it("belongs to the bytes: a changed report under a known chain is refused", () => {
    const judge = attester();
    judge.attest(request());
    const changed = makeReport(processor);
    changed[0x90] = (changed[0x90] ?? 0) ^ 1;
    expect(() => judge.attest(request(changed))).toThrow(expect.objectContaining({ details: { check: "ERR_SNP_SIGNATURE" } }));
  });
});

describe("the report policy", () => {
  const policy = anyReportPolicy();
  const minimumTcb = (snp: number): ReportPolicy => ({ ...policy, minimumTcb: { Milan: { snp } } });

  it("is met by evidence as good as it asks for", () => {
    expect(attester({ reportPolicy: minimumTcb(24) }).attest(request()).root).toBe("emulator");
  });

  it.each<readonly [string, Partial<ReportPolicy>, Parameters<typeof makeReport>[1]]>([
    ["minimumTcb", { minimumTcb: { Milan: { snp: 25 } } }, {}],
    ["debug", { debug: "forbidden" }, { policy: 0x3001fn | (1n << 19n) }],
    ["vmpls", { vmpls: [0] }, { vmpl: 1 }],
  ])("refuses evidence and names the check %s", async (check, change, report) => {
    const app = attestationApp({ ...service({ reportPolicy: { ...policy, ...change } }), logger: silentLogger });
    const answer = await app.request("/attest/SevSnpVm?api-version=2022-08-01", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: body(makeReport(processor, report)),
    });
    expect(answer.status).toBe(400);
    expect(await answer.json()).toMatchObject({ error: { code: "InvalidParameter", innererror: { code: check } } });
  });

  it("is asked about genuine evidence only: what does not verify says so first", () => {
    const changed = makeReport(processor);
    changed[0x90] = (changed[0x90] ?? 0) ^ 1;
    expect(() => attester({ reportPolicy: minimumTcb(255) }).attest(request(changed))).toThrow(expect.objectContaining({ code: "ERR_ATTESTATION_EVIDENCE" }));
  });

  it("is what the TCB baselines say", () => {
    expect(attester().tcbBaselines()).toEqual([]);
    expect(attester({ reportPolicy: minimumTcb(24) }).tcbBaselines()).toEqual([{ product: "Milan", minimumTcb: { snp: 24 } }]);
  });
});

describe("endorsements", () => {
  const trusts: readonly (readonly [string, string])[] = [
    ["ContainerPlat-AMD-UVM", "azure-compliant-uvm"],
    ["ConfAKS-AMD-UVM", "azure-signed-katacc-uvm"],
    ["Sealpod-UVM", "sealpod-compliant-uvm"],
  ];
  it.each(trusts)("of the feed %s earn the claim %s", (feed, claim) => {
    const uvmTrust = trusts.map(([name, value]): UvmTrust => ({ issuer: signer.issuer, feed: name, minimumSvn: 1, claim: value }));
    const { token, endorsement } = attester({ uvmTrust }).attest(request(undefined, [signer.endorse({ feed })]));
    expect(endorsement).toEqual({ kind: "endorsed", claim, svn: 1 });
    expect(decodeJwt(token)).toMatchObject({ "x-ms-compliance-status": claim, "x-sealpod-root": "emulator" });
  });

  it("are remembered by their bytes, and compared with each report", () => {
    const verifier = new EndorsementVerifier([trustOf(signer)]);
    const bytes = signer.endorse();
    for (let round = 0; round < 2; round++) {
      expect(verifier.verify([bytes], MEASUREMENT)).toMatchObject({ kind: "endorsed" });
      expect(verifier.verify([bytes], new Uint8Array(48))).toMatchObject({
        kind: "refused",
        problem: expect.stringContaining("it endorses the measurement") as string,
      });
      const flipped = Uint8Array.from(bytes);
      flipped[flipped.length - 1] = (flipped.at(-1) ?? 0) ^ 1;
      expect(verifier.verify([flipped], MEASUREMENT)).toMatchObject({ kind: "refused" });
    }
  });

  it("do not outlive the trust that they were verified under", () => {
    const trust = [trustOf(signer)];
    const verifier = new EndorsementVerifier(trust);
    const bytes = signer.endorse();
    verifier.verify([bytes], MEASUREMENT);
    // The list belongs to the caller; only a new verifier goes by a new one.
    trust[0] = { ...trustOf(signer), claim: "changed" };
    expect(verifier.verify([bytes], MEASUREMENT)).toMatchObject({ kind: "endorsed", claim: "azure-signed-katacc-uvm" });
    expect(verifier.verify([signer.endorse({ svn: 5 })], MEASUREMENT)).toMatchObject({ kind: "endorsed", claim: "azure-signed-katacc-uvm", svn: 5 });
    expect(new EndorsementVerifier([{ ...trustOf(signer), minimumSvn: 2 }]).verify([bytes], MEASUREMENT)).toMatchObject({ kind: "refused" });
    expect(new EndorsementVerifier([]).verify([bytes], MEASUREMENT)).toMatchObject({ kind: "refused" });
  });

  it("are still right when there are more of them than are remembered", () => {
    const verifier = new EndorsementVerifier([{ ...trustOf(signer), feed: FEED }]);
    const measurements = Array.from({ length: 70 }, (_, index) => new Uint8Array(48).fill(index));
    const endorsements = measurements.map((launchMeasurement) => signer.endorse({ launchMeasurement }));
    for (let round = 0; round < 2; round++)
      for (const [index, bytes] of endorsements.entries())
        expect(verifier.verify([bytes], measurements[index] ?? MEASUREMENT)).toMatchObject({ kind: "endorsed" });
  });
});

describe("parseAttestRequest", () => {
  it("takes base64 exactly as it may be written, and no other text for it", () => {
    const read = (text: string): Uint8Array | string => {
      try {
        return parseAttestRequest(JSON.stringify({ report: b64(JSON.stringify({ SnpReport: text, VcekCertChain: "QQ" })) })).report;
      } catch (error) {
        return isSealpodError(error) ? error.code : String(error);
      }
    };
    for (let length = 1; length <= 9; length++) {
      const bytes = sha256(Uint8Array.of(length)).subarray(0, length);
      const [padded, url] = [Buffer.from(bytes).toString("base64"), Buffer.from(bytes).toString("base64url")];
      for (const text of [padded, url, padded.replace(/=+$/, ""), url.padEnd(padded.length, "=")]) expect(Buffer.from(read(text))).toEqual(Buffer.from(bytes));
    }
    // U+0141 ends in the byte of "A"; a decoder that looks at bytes takes one for the other.
    for (const text of [
      "A",
      "AAAAA",
      "AA=",
      "AAA==",
      "AA===",
      "=",
      "====",
      "AB",
      "AAB",
      "AA==AA==",
      "AAAA=",
      "AA A",
      "AA\nA",
      " AA",
      "AA ",
      "A*AA",
      "AAA\u0141",
      "\u0141AAA",
      "AA\u00e9A",
      "AAA\u0000",
    ])
      expect([text, read(text)]).toEqual([text, "ERR_ATTESTATION_REQUEST"]);
  });

  it("fails with its own codes alone, whatever is sent: ten thousand mutations", () => {
    const seed = body(undefined, [signer.endorse()]).replace(/\}$/, `,"runtimeData":{"data":"e30=","dataType":"JSON"},"nonce":13202930541250959283}`);
    const inner = Buffer.from((JSON.parse(seed) as { report: string }).report, "base64url").toString();
    let state = 5;
    const draw = (below: number): number => {
      state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
      return (state >>> 8) % below;
    };
    const characters = '{}[]":,\\0aA=-_+/e.\u0000\u0141 nulltrue';
    const mutate = (text: string): string => {
      // Half of the places are where the structure is: at the ends.
      const at = draw(2) === 0 ? draw(text.length) : draw(2) === 0 ? draw(60) : text.length - 1 - draw(140);
      const character = characters[draw(characters.length)] ?? "";
      return (
        [
          text.slice(0, at) + character + text.slice(at + 1),
          text.slice(0, at) + text.slice(at + 1 + draw(4)),
          text.slice(0, at) + character + text.slice(at),
          text.slice(0, at),
        ][draw(4)] ?? ""
      );
    };
    const codes = new Set<string>();
    for (let round = 0; round < 10_000; round++) {
      const mutated = round % 2 === 0 ? mutate(seed) : seed.replace(/"report":"[^"]*"/, `"report":"${b64(mutate(inner))}"`);
      try {
        parseAttestRequest(mutated);
      } catch (error) {
        codes.add(isSealpodError(error) ? error.code : String(error));
      }
    }
    expect([...codes]).toEqual(["ERR_ATTESTATION_REQUEST"]);
  });
});
