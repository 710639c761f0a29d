import { existsSync, readFileSync } from "node:fs";
import { asArray, asObject, equalBytes, fromHex, type JsonObject, type JsonValue, parseJson, sha256, toHex } from "@sealpod/core";
import { type Certificate, certificateAnchor, parseCertificate, parseCertificatesPem, PkiError, verifyChain } from "@sealpod/pki";
import { describe, expect, it } from "vitest";
import {
  AMD_OID,
  AMD_ROOTS,
  CertificateCache,
  type CertificateChain,
  encodePlatformInfo,
  encodeReport,
  type EvidenceCheck,
  type KeyInfo,
  parseCertificateChainPem,
  parseEndorsementKey,
  parsePlatformInfo,
  parseReport,
  parseThimBase64,
  REPORT_SIZE,
  type ReportEvidence,
  selectCertificateChain,
  SnpError,
  verifyReport,
  verifySignedChain,
} from "./index.ts";

const VECTORS = "../shared/vectors/attestation";
const present = existsSync(`${VECTORS}/manifest.json`);

/** All certificates of the vectors are valid at this time. */
const clock = { now: (): number => Date.UTC(2026, 10, 22) };

function text(value: JsonValue | undefined): string {
  if (typeof value !== "string") throw new Error("the manifest of the vectors is malformed");
  return value;
}

function versionOf(vector: JsonObject): string {
  return JSON.stringify(asObject(vector["expect"])?.["version"]);
}

function readCertificates(file: string): readonly Certificate[] {
  const bytes = new Uint8Array(readFileSync(`${VECTORS}/${file}`));
  return bytes[0] === 0x30 ? [parseCertificate(bytes)] : parseCertificatesPem(Buffer.from(bytes).toString("latin1"));
}

function load(vector: JsonObject): ReportEvidence {
  const raw = readFileSync(`${VECTORS}/${text(vector["report"])}`);
  const encoding = vector["encoding"];
  const report = encoding === "raw" ? new Uint8Array(raw) : new Uint8Array(Buffer.from(raw.toString("latin1").trim(), encoding as "hex" | "base64"));
  const certificates = (asArray(vector["certs"]) ?? []).flatMap((file) => readCertificates(text(file)));
  return { report, certificates: selectCertificateChain(certificates), roots: AMD_ROOTS, clock };
}

const manifest = present ? asObject(parseJson(readFileSync(`${VECTORS}/manifest.json`, "utf8"))) : undefined;
const vectors = (asArray(manifest?.["reports"]) ?? []).map((item): readonly [string, JsonObject] => {
  const vector = asObject(item) ?? {};
  return [text(vector["name"]), vector];
});

function code(evidence: ReportEvidence): string {
  try {
    return verifyReport(evidence).kind;
  } catch (error) {
    if (error instanceof SnpError) return error.code;
    throw error;
  }
}

/** KEY_INFO as the number that it is in the report. */
function keyInfoNumber({ authorKeyEnabled, chipKeyMasked, signingKey }: KeyInfo): number {
  return (authorKeyEnabled ? 1 : 0) | (chipKeyMasked ? 2 : 0) | ({ vcek: 0, vlek: 1, none: 7 }[signingKey] << 2);
}

function changedAt(bytes: Uint8Array, at: number): Uint8Array {
  const copy = Uint8Array.from(bytes);
  // Another bit at each place, so that all eight are met in any field of eight bytes.
  copy[at] = (copy[at] ?? 0) ^ (1 << (at % 8));
  return copy;
}

/**
 * The part of the places that one of several inputs takes that have the same fields at the same places: of each `of` places in a row, the one at `index`.
 * To change a byte and verify costs a third of a millisecond; together the inputs meet every place.
 */
interface Share {
  readonly index: number;
  readonly of: number;
}

/** Most inputs that share their places. */
const MAX_SHARES = 4;

/** The share of each item among those of its group. */
function sharesOf<T>(items: readonly T[], groupOf: (item: T) => string): ReadonlyMap<T, Share> {
  const groups = Map.groupBy(items, groupOf);
  return new Map(
    [...groups.values()].flatMap((group) => {
      const of = Math.min(group.length, MAX_SHARES);
      return group.map((item, index) => [item, { index: index % of, of }] as const);
    }),
  );
}

/** The places in a share of a certificate's signed part that can be changed without that it is refused. */
function verifiedThoughChanged(der: Uint8Array, tbs: Uint8Array, share: Share, verify: (changed: Certificate) => unknown): readonly number[] {
  const good: number[] = [];
  const start = Buffer.from(der).indexOf(tbs);
  for (let at = start + share.index; at < start + tbs.length; at += share.of) {
    try {
      verify(parseCertificate(changedAt(der, at)));
      good.push(at);
    } catch (error) {
      if (!(error instanceof SnpError || error instanceof PkiError)) throw error;
    }
  }
  return good;
}

describe.skipIf(!present)("genuine reports (skipped without ../shared/vectors/attestation)", () => {
  it("are there, of each product and of versions 2, 3 and 5", () => {
    const verified = vectors.map(([, vector]) => verifyReport(load(vector)));
    expect(verified.length).toBeGreaterThan(10);
    expect(new Set(verified.map(({ product }) => product))).toEqual(new Set(["Milan", "Genoa", "Turin"]));
    expect(new Set(verified.map(({ report }) => report.version))).toEqual(new Set([2, 3, 5]));
  });

  it.each(vectors)("%s verifies under AMD's roots", (_name, vector) => {
    const evidence = load(vector);
    const { report, product, root } = verifyReport(evidence);
    expect(root.name).toBe("amd");
    expect(encodeReport(report)).toEqual(evidence.report);
    expect(encodePlatformInfo(parsePlatformInfo(report.platformInfo))).toBe(report.platformInfo);
    const { family = 0, model = 0, stepping = 0 } = report.processor ?? {};
    const launchMitigations = new Uint8Array(8);
    new DataView(launchMitigations.buffer).setBigUint64(0, report.launchMitigations, true);
    expect({
      // The manifest holds for good reports only: these two are what verifyReport has found.
      signature: true,
      chain: true,
      version: report.version,
      product,
      vmpl: report.vmpl,
      policy: `0x${report.policy.toString(16)}`,
      platform_info: `0x${report.platformInfo.toString(16)}`,
      key_info: keyInfoNumber(report.keyInfo),
      reported_tcb: toHex(report.reportedTcb),
      current_tcb: toHex(report.currentTcb),
      fms: toHex(Uint8Array.of(family, model, stepping)),
      measurement: toHex(report.measurement),
      host_data: toHex(report.hostData),
      report_data: toHex(report.reportData),
      launch_mit: toHex(launchMitigations),
      chip_id: toHex(report.chipId),
    }).toEqual({ ...asObject(vector["expect"]) });
  });

  // Reports of one version have the same fields at the same places.
  const shares = sharesOf(vectors, ([, vector]) => versionOf(vector));
  it("share their bytes by version: each byte of each version is changed in one of them", () => {
    expect(new Set([...shares.values()].map(({ of }) => of))).toEqual(new Set([4, 1]));
    for (const version of ["2", "3", "5"]) {
      const own = [...shares].filter(([[, vector]]) => versionOf(vector) === version).map(([, share]) => share);
      expect(new Set(own.map(({ index }) => index)).size, version).toBe(own[0]?.of);
    }
  });

  it.each([...shares].map(([[name, vector], share]) => ({ name, vector, share })))(
    "$name does not verify with any byte changed, in the signed part or the signature",
    ({ vector, share }) => {
      // The chain is the same each time, so its signatures are verified once.
      const evidence = { ...load(vector), cache: new CertificateCache({ capacity: 1 }) };
      const good: number[] = [];
      for (let at = share.index; at < REPORT_SIZE; at += share.of)
        if (code({ ...evidence, report: changedAt(evidence.report, at) }) === "verified-report") good.push(at);
      expect(good).toEqual([]);
      expect(code(evidence)).toBe("verified-report");
    },
  );

  it.each(vectors)("%s does not verify with other REPORT_DATA", (_name, vector) => {
    const evidence = load(vector);
    const report = Uint8Array.from(evidence.report);
    report.set(new TextEncoder().encode("sixty-four bytes of somebody else's choice, in the place of ours".slice(0, 64)), 0x50);
    const passed: EvidenceCheck[] = [];
    expect(code({ ...evidence, report, observe: (check) => passed.push(check) })).toBe("ERR_SNP_SIGNATURE");
    expect(passed.at(-1)?.name).toBe("tcb-order");
  });

  it.each(vectors)("%s has a chain that stays good when its VCEK expires, and is refused by its date", (_name, vector) => {
    const evidence = load(vector);
    const { notAfter } = evidence.certificates.endorsementKey;
    const passed: EvidenceCheck[] = [];
    expect(code({ ...evidence, clock: { now: () => notAfter + 1000 }, observe: (check) => passed.push(check) })).toBe("ERR_SNP_VALIDITY");
    expect(passed.at(-1)?.name).toBe("chain");
    expect(code({ ...evidence, clock: { now: () => notAfter } })).toBe("verified-report");
  });

  it("verify with another report's certificates if, and only if, chip and TCB are the same", () => {
    const all = vectors.map(([name, vector]) => ({ name, evidence: load(vector) }));
    const cache = new CertificateCache({ capacity: 32 });
    const wrong: string[] = [];
    let refused = 0;
    for (const own of all) {
      for (const other of all) {
        const [mine, theirs] = [parseReport(own.evidence.report), parseReport(other.evidence.report)];
        const same = equalBytes(mine.chipId, theirs.chipId) && equalBytes(mine.reportedTcb, theirs.reportedTcb);
        const outcome = code({ ...own.evidence, certificates: other.evidence.certificates, cache });
        const expected = same ? ["verified-report"] : ["ERR_SNP_PRODUCT", "ERR_SNP_TCB", "ERR_SNP_CHIP_ID"];
        if (!expected.includes(outcome)) wrong.push(`${own.name} with ${other.name}: ${outcome}`);
        if (!same) refused++;
      }
    }
    expect(wrong).toEqual([]);
    expect(refused).toBeGreaterThan(100);
  });

  it("the pinned keys are those of AMD's root certificates", () => {
    const roots = ["milan", "genoa", "turin"].map((name) => readCertificates(`tav/${name}_ark.pem`)[0]);
    expect(roots.map((root) => toHex(sha256(root?.publicKey.der ?? new Uint8Array())))).toEqual(AMD_ROOTS.map(({ keySha256 }) => toHex(keySha256)));
    expect(roots.map((root) => toHex(sha256(root?.der ?? new Uint8Array())).slice(0, 16))).toEqual([
      "69d063b45344d26a",
      "4c6598d19c18719c",
      "1f084161a44bb6d9",
    ]);
  });

  it("a certificate that AMD issued at another time for the same chip and TCB serves as well", () => {
    const vector = vectors.find(([name]) => name === "tav-milan-v3")?.[1] ?? {};
    const evidence = load(vector);
    const [older] = readCertificates("tav/alt/milan_vcek_2025-12.pem");
    if (older === undefined) throw new Error("vector is missing");
    expect(older.der).not.toEqual(evidence.certificates.endorsementKey.der);
    expect(verifyReport({ ...evidence, certificates: { ...evidence.certificates, endorsementKey: older } }).root.name).toBe("amd");
  });

  it("the THIM document of a security context reads", () => {
    const thim = parseThimBase64(readFileSync(`${VECTORS}/sidecar/security-context/host-amd-cert-base64`, "latin1"));
    const chain = selectCertificateChain(parseCertificatesPem(thim.vcekCert + thim.certificateChain));
    expect(thim.tcbm).toMatch(/^[0-9A-F]+$/);
    expect(chain.root.subject.der).toEqual(chain.root.issuer.der);
  });
});

describe.skipIf(!present)("genuine certificates (skipped without ../shared/vectors/attestation)", () => {
  const thim = (): CertificateChain => {
    const { vcekCert, certificateChain } = parseThimBase64(readFileSync(`${VECTORS}/sidecar/security-context/host-amd-cert-base64`, "latin1"));
    return parseCertificateChainPem(vcekCert + certificateChain);
  };
  const chainOf = (...files: readonly string[]): CertificateChain => selectCertificateChain(files.flatMap(readCertificates));
  const chains: readonly (readonly [string, () => CertificateChain])[] = [
    ...vectors.map(([name, vector]) => [name, () => load(vector).certificates] as const),
    ["THIM", thim],
    ["virtee's Turin", () => chainOf("virtee-sev/vcek_turin.der", "virtee-sev/cert_chain_turin")],
    ["Milan of 2025-12", () => chainOf("tav/alt/milan_vcek_2025-12.pem", "go-sev-guest/roots/ask_ark_milan.pem")],
    ["Genoa with the roots of another source", () => chainOf("tav/genoa_vcek.pem", "go-sev-guest/roots/ask_ark_genoa.pem")],
    ["Turin with the roots of another source", () => chainOf("tav/turin_vcek.pem", "go-sev-guest/roots/ask_ark_turin_vcek.pem")],
  ];

  it.each(chains)("%s: the chain is one of AMD's", (_name, make) => {
    const { endorsementKey, rootKeySha256 } = verifySignedChain(make());
    expect(AMD_ROOTS.find(({ keySha256 }) => equalBytes(keySha256, rootKeySha256))?.product).toBe(endorsementKey.product);
    expect(endorsementKey.kind).toBe("vcek");
  });

  // Many chains share their authorities, and some reports their VCEK: each certificate is changed in one chain that has it.
  const places = ["endorsementKey", "intermediate", "root"] as const;
  const distinct = new Map<string, readonly [string, (typeof places)[number], CertificateChain]>();
  for (const [name, make] of present ? chains : []) {
    const chain = make();
    for (const place of places) {
      const key = toHex(sha256(chain[place].der));
      if (!distinct.has(key)) distinct.set(key, [name, place, chain]);
    }
  }
  it("are those of three products, and more than ten chips", () => {
    const count = (wanted: string): number => [...distinct.values()].filter(([, place]) => place === wanted).length;
    expect([count("root"), count("intermediate")]).toEqual([3, 3]);
    expect(count("endorsementKey")).toBeGreaterThan(10);
  });

  // Certificates of one place and length have the same fields at the same places; authorities are of one length in all products.
  const shares = sharesOf([...distinct.values()], ([, place, chain]) => `${place} ${chain[place].tbs.length}`);
  it("share their places by length: each place is changed in one of them", () => {
    const groups = Map.groupBy([...shares], ([[, place, chain]]) => `${place} ${chain[place].tbs.length}`);
    for (const [name, group] of groups) expect(new Set(group.map(([, { index }]) => index)).size, name).toBe(group[0]?.[1].of);
    expect([...groups.keys()].filter((name) => !name.startsWith("endorsementKey"))).toHaveLength(2);
    const providers = ["milan", "genoa", "turin"].map((name) => readCertificates(`go-sev-guest/roots/ask_ark_${name}_vlek.pem`)[0]?.tbs.length);
    expect(new Set(providers).size).toBe(1);
  });

  it.each([...shares].map(([[name, place, chain], share]) => ({ name, place, chain, share })))(
    "$name: the $place verifies with no byte of its signed part changed",
    ({ place, chain, share }) => {
      const { der, tbs } = chain[place];
      expect(verifiedThoughChanged(der, tbs, share, (changed) => verifySignedChain({ ...chain, [place]: changed }))).toEqual([]);
    },
  );

  it.each([
    ["milan", 0],
    ["genoa", 1],
    ["turin", 2],
  ] as const)("the authority of the providers' keys of %s verifies with no byte of its signed part changed", (name, index) => {
    const [asvk, ark] = readCertificates(`go-sev-guest/roots/ask_ark_${name}_vlek.pem`);
    if (asvk === undefined || ark === undefined) throw new Error("vector is missing");
    const verify = (changed: Certificate): unknown => verifyChain([changed, ark], { anchors: [certificateAnchor(ark)], validity: { kind: "now", clock } });
    expect(verifiedThoughChanged(asvk.der, asvk.tbs, { index, of: 3 }, verify)).toEqual([]);
    expect(() => verify(asvk)).not.toThrow();
  });

  it.each(["milan", "genoa", "turin"])("the authority of the providers' keys of %s is AMD's too, and no authority for chips", (name) => {
    const [asvk, ark] = readCertificates(`go-sev-guest/roots/ask_ark_${name}_vlek.pem`);
    if (asvk === undefined || ark === undefined) throw new Error("vector is missing");
    const anchors = AMD_ROOTS.map(({ keySha256 }) => ({ kind: "key", sha256: keySha256 }) as const);
    expect(verifyChain([asvk, ark], { anchors, validity: { kind: "now", clock } }).kind).toBe("verified-chain");
    const { endorsementKey } = chainOf(`tav/${name}_vcek.pem`, `tav/${name}_ask.pem`, `tav/${name}_ark.pem`);
    expect(() => verifySignedChain({ endorsementKey, intermediate: asvk, root: ark })).toThrow(expect.objectContaining({ code: "ERR_SNP_CHAIN" }));
  });

  it("a VCEK made over for another chip is read, and refused as not AMD's", () => {
    const evidence = load(vectors.find(([name]) => name === "tav-milan-v3")?.[1] ?? {});
    const { endorsementKey } = evidence.certificates;
    const hwId = endorsementKey.extensions.get(AMD_OID.hwId)?.value ?? new Uint8Array();
    const der = Uint8Array.from(endorsementKey.der);
    const otherChip = fromHex("5a".repeat(64));
    der.set(otherChip, Buffer.from(der).indexOf(hwId));
    const forged = parseCertificate(der);
    expect(parseEndorsementKey(forged).hwId).toEqual(otherChip);
    const report = Uint8Array.from(evidence.report);
    report.set(otherChip, 0x1a0);
    expect(code({ ...evidence, report, certificates: { ...evidence.certificates, endorsementKey: forged } })).toBe("ERR_SNP_CHAIN");
  });
});
