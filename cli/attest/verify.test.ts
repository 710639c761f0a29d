import { generateKeyPairSync, sign } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  asArray,
  asObject,
  concatBytes,
  isSealpodError,
  type JsonObject,
  type JsonValue,
  parseJson,
  sha256,
  silentLogger,
  toBase64,
  toBase64url,
  toHex,
} from "@sealpod/core";
import { encodeBundle } from "@sealpod/certcache";
import { encodeCertificatesPem, encodePem, issueCertificate, issueCrl, OID } from "@sealpod/pki";
import {
  AMD_OID,
  anyReportPolicy,
  CERTIFICATE_GUIDS,
  encodeCertificateTable,
  encodeReportPolicy,
  encodeThim,
  encodeVcekExtensions,
  parseEndorsementKey,
  parseReport,
  parseReportPolicy,
  type Report,
} from "@sealpod/snp";
import { type ReportProvider, serveTsm } from "@sealpod/tsm";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { EXIT, type CliContext } from "../context.ts";
import { runCli } from "../program.ts";
import { verifyToken } from "./verify-claims.ts";
import { recogniseCertificates, recogniseEvidence } from "./verify-input.ts";
import { emulatedProcessor, NOW, rsa } from "./verify-test-support.ts";

interface Ran {
  readonly exit: number;
  readonly stdout: string;
  readonly stderr: string;
}

type Content = string | Uint8Array;

let directory = "";

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "sealpod-verify-"));
});

afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

function contextOf(written: { stdout: string; stderr: string }, stdin: Content = ""): CliContext {
  return {
    env: { SEALPOD_HOME: join(directory, "state") },
    cwd: directory,
    stdin: (async function* () {
      yield typeof stdin === "string" ? new TextEncoder().encode(stdin) : stdin;
    })(),
    stdout: { isTerminal: false, write: (text) => void (written.stdout += text) },
    stderr: { isTerminal: false, write: (text) => void (written.stderr += text) },
    clock: { now: () => NOW },
    elapsed: () => 0,
    random: { bytes: (length) => new Uint8Array(length) },
    signal: new AbortController().signal,
  };
}

/** `sealpod attest …` in a directory with these files. */
async function attest(argv: readonly string[], files: Readonly<Record<string, Content>> = {}, stdin?: Content): Promise<Ran> {
  for (const [name, content] of Object.entries(files)) await writeFile(join(directory, name), content);
  const written = { stdout: "", stderr: "" };
  return { exit: await runCli(["attest", ...argv], contextOf(written, stdin)), ...written };
}

const milan = emulatedProcessor("Milan");
const turin = emulatedProcessor("Turin");
const { endorsementKey, intermediate, root } = milan.chain;
const PEM = encodeCertificatesPem([endorsementKey, intermediate, root]);
const ARK = encodeCertificatesPem([root]);
const TRUST = ["--trust", "emulator=ark.pem"];
const THIM = encodeThim({
  vcekCert: encodeCertificatesPem([endorsementKey]),
  tcbm: "DB18000000000004",
  certificateChain: encodeCertificatesPem([intermediate, root]),
  cacheControl: "86400",
});
const TABLE = encodeCertificateTable([
  { guid: CERTIFICATE_GUIDS.vcek, data: endorsementKey.der },
  { guid: CERTIFICATE_GUIDS.ask, data: intermediate.der },
  { guid: CERTIFICATE_GUIDS.ark, data: root.der },
  { guid: CERTIFICATE_GUIDS.crl, data: Uint8Array.of(0x30, 0x00) },
]);

/** Another chip of the same product, under a root of its own. */
const other = emulatedProcessor("Milan", { chip: 0x77 });

function bundle(): string {
  return encodeBundle({
    authorities: [{ kind: "vcek", product: "Milan", authorities: { intermediate, root } }],
    crls: [],
    vceks: [other.chain.endorsementKey, endorsementKey].map((certificate) => ({ key: parseEndorsementKey(certificate), certificate })),
  });
}

/** A list of an authority that has nothing to do with these chips. */
const OTHER_CRL = issueCrl({
  issuer: { name: turin.chain.root.subject, key: turin.arkKey },
  signatureAlgorithm: "rsa-pss-sha384",
  thisUpdate: NOW - 2000,
  nextUpdate: NOW + 1000,
  revoked: [],
}).der;

const reportOf = (changes: Partial<Report> = {}): Uint8Array => milan.report(changes);
const REPORT = reportOf();
const RUNTIME = new TextEncoder().encode('{"keys":[]}');
const BOUND = reportOf({ reportData: concatBytes(sha256(RUNTIME), new Uint8Array(32)) });
const POLICY_TEXT = "package agent_policy\n";

function maaRequest(report: Uint8Array, rest: Readonly<Record<string, unknown>> = {}, endorsements: readonly Uint8Array[] = []): string {
  const inner = {
    SnpReport: toBase64url(report),
    VcekCertChain: toBase64url(Buffer.from(PEM)),
    ...(endorsements.length > 0 && { Endorsements: toBase64url(Buffer.from(JSON.stringify({ Uvm: endorsements.map(toBase64url) }))) }),
  };
  return JSON.stringify({ report: toBase64url(Buffer.from(JSON.stringify(inner))), ...rest });
}

/** Verifies `report.bin` with its certificates, under the emulator's root. */
async function verify(report: Uint8Array, flags: readonly string[] = [], files: Readonly<Record<string, Content>> = {}): Promise<Ran> {
  return attest(["verify", "report.bin", "--certs", "chain.pem", ...TRUST, ...flags], { "report.bin": report, "chain.pem": PEM, "ark.pem": ARK, ...files });
}

/** Mark of a check of the output. */
function mark({ stdout }: Ran, check: string): string {
  return new RegExp(`^ {2}(ok|FAIL|--) +${check} +`, "m").exec(stdout)?.[1] ?? "absent";
}

const lastLines = ({ stdout }: Ran): string => stdout.trimEnd().split("\n\n").at(-1) ?? "";

describe("sealpod attest verify: what it recognises", () => {
  const combined = (endorsements: string): string =>
    JSON.stringify({ evidence: toBase64(REPORT), endorsements, uvm_endorsements: "", endorsed_tcb: "db18000000000004" });

  it.each<[string, Content, string, boolean]>([
    ["raw bytes", REPORT, "attestation report, raw", true],
    ["hex", toHex(REPORT), "attestation report, hex", true],
    ["upper-case hex in lines", toHex(REPORT).toUpperCase().replaceAll(/.{64}/g, "$&\n"), "attestation report, hex", true],
    ["base64", `${toBase64(REPORT)}\n`, "attestation report, base64", true],
    ["base64url in lines", toBase64url(REPORT).replaceAll(/.{76}/g, "$&\r\n"), "attestation report, base64", true],
    [
      "an HCL blob",
      concatBytes(Buffer.from("HCLA"), new Uint8Array(28), REPORT, new Uint8Array(500)),
      "HCL blob of an Azure confidential VM, report at 0x20",
      true,
    ],
    ["the sidecar's raw answer", JSON.stringify({ report: toHex(REPORT) }), "answer of the sidecar with a report in hex (/attest/raw)", true],
    ["combined evidence", combined(toBase64(Buffer.from(PEM))), "combined evidence of the sidecar (/attest/combined)", false],
    ["combined evidence without certificates", combined(""), "combined evidence of the sidecar (/attest/combined)", true],
    ["a request", maaRequest(REPORT), "request to an attestation service (SevSnpVm)", false],
    [
      "the report of a request",
      JSON.stringify({ SnpReport: toBase64url(REPORT), VcekCertChain: toBase64url(Buffer.from(PEM)) }),
      "report of a request to an attestation service (SevSnpVm)",
      false,
    ],
    [
      "the same in base64",
      toBase64url(Buffer.from(JSON.stringify({ SnpReport: toBase64url(REPORT), VcekCertChain: toBase64url(Buffer.from(PEM)) }))),
      "report of a request to an attestation service (SevSnpVm), base64",
      false,
    ],
  ])("%s", async (_name, content, form, needsCertificates) => {
    const files = { evidence: content, "chain.pem": PEM, "ark.pem": ARK };
    const ran = await attest(["verify", "evidence", ...(needsCertificates ? ["--certs", "chain.pem"] : []), ...TRUST], files);
    expect(ran.stdout.split("\n")[0]).toBe(`evidence: ${form}`);
    expect(lastLines(ran)).toMatch(/^VERIFIED under the EMULATOR's root: no hardware protection\./);
    expect(ran.exit).toBe(EXIT.ok);
    expect(ran.stderr).toBe("");
  });

  it("evidence on standard input", async () => {
    const ran = await attest(["verify", "-", "--certs", "chain.pem", ...TRUST], { "chain.pem": PEM, "ark.pem": ARK }, REPORT);
    expect(ran).toMatchObject({ exit: EXIT.ok, stderr: "" });
    expect(ran.stdout).toMatch(/^standard input: attestation report, raw\n/);
  });

  it.each<[string, Readonly<Record<string, Content>>]>([
    ["PEM", { "a.pem": PEM }],
    ["PEM with strangers in it", { "a.pem": encodeCertificatesPem([turin.chain.root, root, intermediate, endorsementKey]) }],
    ["three files of DER", { vcek: endorsementKey.der, ask: intermediate.der, ark: root.der }],
    ["a THIM document", { "thim.json": THIM }],
    ["a THIM document in base64", { thim: `${toBase64(Buffer.from(THIM))}\n` }],
    ["PEM in base64", { chain: toBase64(Buffer.from(PEM)) }],
    ["a certificate table", { table: TABLE }],
    ["a bundle of the certificate cache, with other chips in it", { "bundle.json": bundle() }],
    ["files of several chips", { "a.pem": encodeCertificatesPem([turin.chain.endorsementKey, other.chain.endorsementKey]), "b.pem": PEM }],
    ["a certificate table with PEM in it", { table: encodeCertificateTable([{ guid: CERTIFICATE_GUIDS.vcek, data: Buffer.from(PEM) }]) }],
  ])("certificates as %s", async (_name, files) => {
    const flags = Object.keys(files).flatMap((name) => ["--certs", name]);
    const ran = await attest(["verify", "report.bin", ...flags, "--trust", "emulator=root"], { "report.bin": REPORT, root: ARK, ...files });
    expect(lastLines(ran)).toMatch(/^VERIFIED under the EMULATOR/);
  });

  it("the certificate of the kind of key that signed, where a host sends VCEK and VLEK together", async () => {
    const { reportedTcb, chipId } = parseReport(REPORT);
    const provider = new TextEncoder().encode("CN=cloud.example");
    const vlek = issueCertificate({
      subject: [{ type: OID.commonName, value: "EMULATED SEV-VLEK" }],
      subjectKey: generateKeyPairSync("ec", { namedCurve: "secp384r1" }).privateKey,
      issuer: { name: root.subject, key: milan.arkKey },
      signatureAlgorithm: "rsa-pss-sha384",
      serial: 9n,
      notBefore: NOW - 1000,
      notAfter: NOW + 1000,
      extensions: [
        ...encodeVcekExtensions({ productName: "Milan", product: "Milan", tcb: reportedTcb, hwId: chipId }).filter(({ oid }) => oid !== AMD_OID.hwId),
        { oid: AMD_OID.cspId, critical: false, value: concatBytes(Uint8Array.of(0x16, provider.length), provider) },
      ],
    });
    expect(parseEndorsementKey(vlek)).toMatchObject({ kind: "vlek", tcbBytes: reportedTcb });
    const files = (certificates: readonly (typeof vlek)[]): Record<string, Content> => ({
      "report.bin": REPORT,
      "ark.pem": ARK,
      both: encodeCertificatesPem(certificates),
    });
    for (const both of [
      [vlek, endorsementKey, intermediate, root],
      [endorsementKey, vlek, intermediate, root],
    ])
      expect(await attest(["verify", "report.bin", "--certs", "both", ...TRUST], files(both))).toMatchObject({ exit: EXIT.ok });
    // One of the other kind alone is for the checks to refuse.
    expect(lastLines(await attest(["verify", "report.bin", "--certs", "both", ...TRUST], files([vlek, root])))).toMatch(/^REFUSED/);
  });

  it("the certificate of the command line in place of the one that came with the evidence", async () => {
    const evidence = JSON.stringify({
      evidence: toBase64(REPORT),
      endorsements: toBase64(Buffer.from(encodeCertificatesPem([turin.chain.endorsementKey, intermediate, root]))),
    });
    const files = { evidence, "vcek.der": endorsementKey.der, "ark.pem": ARK };
    expect((await attest(["verify", "evidence", ...TRUST], files)).exit).toBe(EXIT.refused);
    expect((await attest(["verify", "evidence", "--certs", "vcek.der", ...TRUST], files)).exit).toBe(EXIT.ok);
  });

  it.each<[string, Content, RegExp]>([
    ["nothing", "", /no attestation evidence that is recognised: found 0 characters/],
    ["a text", "hello world", /no attestation evidence/],
    ["bytes", Uint8Array.of(0, 1, 2, 0xff), /4 bytes that are no text/],
    ["a report that is cut", REPORT.subarray(1), /1183 bytes that are no text/],
    ["base64 of a report that is cut", toBase64(REPORT.subarray(0, 1183)), /base64 of 1183 bytes/],
    ["certificates alone", PEM, /found PEM/],
    ["a THIM document alone", THIM, /THIM document/],
    ["another JSON object", '{"a":1,"b":2}', /members a, b/],
    ["broken JSON", '{"report":', /evidence:1:\d+: /],
    ["a request without a report", JSON.stringify({ report: toBase64url(Buffer.from("{}")) }), /report\.SnpReport/],
    ["combined evidence that is no base64", '{"evidence":"***"}', /evidence: evidence is neither base64/],
    ["a list", "[]", /no attestation evidence/],
  ])("refuses %s as malformed", async (_name, content, message) => {
    const ran = await attest(["verify", "evidence"], { evidence: content });
    expect(ran).toMatchObject({ exit: EXIT.failed, stdout: "" });
    expect(ran.stderr).toMatch(message);
  });

  it.each<[string, Content]>([
    ["a text", "hello"],
    ["an empty file", ""],
    ["zeros and more", Uint8Array.of(...new Uint8Array(30), 1)],
    ["other JSON", "{}"],
  ])("refuses %s for certificates", async (_name, content) => {
    const ran = await attest(["verify", "report.bin", "--certs", "odd"], { "report.bin": REPORT, odd: content });
    expect(ran).toMatchObject({ exit: EXIT.failed, stdout: "" });
    expect(ran.stderr).toContain("odd");
  });

  it("meets thousands of mutations of each form with evidence or an error of its own kind", () => {
    const text = (content: string): Uint8Array => new TextEncoder().encode(content);
    const forms = [
      toHex(REPORT),
      maaRequest(BOUND, { runtimeData: { data: toBase64url(RUNTIME), dataType: "JSON" } }),
      combined(toBase64(Buffer.from(PEM))),
      THIM,
      PEM,
    ].map(text);
    let state = 5;
    const next = (limit: number): number => {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      return (state >>> 0) % limit;
    };
    const outcomes = { read: 0, refused: 0 };
    for (let round = 0; round < 4000; round++) {
      const bytes = Uint8Array.from([...forms, TABLE, endorsementKey.der][round % (forms.length + 2)] ?? []);
      const at = next(bytes.length);
      const mutant = next(3) === 0 ? concatBytes(bytes.subarray(0, at), bytes.subarray(at + next(40))) : bytes.with(at, next(256));
      for (const read of [recogniseEvidence, recogniseCertificates]) {
        try {
          read(mutant, "mutant");
          outcomes.read++;
        } catch (error) {
          if (!isSealpodError(error)) throw error;
          outcomes.refused++;
        }
      }
    }
    expect(outcomes.read).toBeGreaterThan(100);
    expect(outcomes.refused).toBeGreaterThan(1000);
  });

  it("says that there is no such file", async () => {
    expect(await attest(["verify", "absent"])).toMatchObject({ exit: EXIT.failed, stderr: expect.stringContaining("absent does not exist") as string });
  });
});

describe("sealpod attest verify: the checks of evidence", () => {
  it("are all shown, with what was found and what it means", async () => {
    const ran = await verify(REPORT);
    const checks = ["structure", "product", "root", "chain", "validity", "key-kind", "tcb", "chip-id", "tcb-order", "signature", "vmpls", "debug"];
    for (const check of checks) expect(mark(ran, check), check).toBe("ok");
    expect(mark(ran, "revocation")).toBe("--");
    expect(ran.stdout).toContain("what it says:\n");
    expect(ran.stdout).toMatch(new RegExp(`^ +measurement +${"04".repeat(48)}$`, "m"));
    expect(ran.stdout).toMatch(/^ +guest policy +0x3001f: ABI 0\.31, no debugging, no migration agent, SMT allowed$/m);
    expect(lastLines(ran)).toContain("Not asked: which code was launched (--measurement, --endorsement); under which policy (--host-data); for whom and when");
  });

  it("refuse evidence of the emulator unless its root is named, and say how", async () => {
    const ran = await attest(["verify", "report.bin", "--certs", "chain.pem"], { "report.bin": REPORT, "chain.pem": PEM });
    expect(ran.exit).toBe(EXIT.refused);
    expect(mark(ran, "root")).toBe("FAIL");
    expect(mark(ran, "signature")).toBe("--");
    expect(ran.stdout).toContain("what it says (NOT VERIFIED):");
    expect(lastLines(ran)).toMatch(/^REFUSED: .*no trusted root.*\n {2}to do: .*EMULATED.*--trust emulator=ark\.pem\n {2}code: {2}ERR_SNP_ROOT/);
    expect(ran.stdout).not.toContain("VERIFIED under");
  });

  it("do not take AMD's root when only the emulator's is named, nor another emulator's", async () => {
    const other = encodeCertificatesPem([emulatedProcessor("Milan").chain.root]);
    const ran = await attest(["verify", "report.bin", "--certs", "chain.pem", ...TRUST], { "report.bin": REPORT, "chain.pem": PEM, "ark.pem": other });
    expect(ran.exit).toBe(EXIT.refused);
    expect(mark(ran, "root")).toBe("FAIL");
  });

  it("never say that a report is verified that came alone", async () => {
    for (const flags of [[], TRUST, ["--certs", "ark.pem", ...TRUST]]) {
      const ran = await attest(["verify", "report.bin", ...flags], { "report.bin": REPORT, "ark.pem": ARK });
      expect(ran.exit).toBe(EXIT.refused);
      expect(ran.stdout).not.toMatch(/^VERIFIED/m);
      expect(mark(ran, "structure")).toBe("ok");
      expect(mark(ran, "chain")).toBe("FAIL");
      expect(lastLines(ran)).toMatch(/--certs FILE.*sealpod certcache fetch/);
    }
  });

  it("say which certificate is missing", async () => {
    const ran = await attest(["verify", "report.bin", "--certs", "vcek", ...TRUST], { "report.bin": REPORT, vcek: endorsementKey.der, "ark.pem": ARK });
    expect(ran.exit).toBe(EXIT.refused);
    expect(lastLines(ran)).toMatch(/^REFUSED: .*ASK.*missing.*\n {2}to do: .*certcache fetch/);
  });

  it.each<[string, string, () => readonly [Uint8Array, readonly string[]]]>([
    ["a changed report", "signature", () => [REPORT.map((byte, index) => (index === 0x90 ? byte ^ 1 : byte)), []]],
    ["another chip", "chip-id", () => [reportOf({ chipId: new Uint8Array(64).fill(9) }), []]],
    ["a time after all certificates", "validity", () => [REPORT, ["--at", "2030-01-01"]]],
    ["a time before them", "validity", () => [REPORT, ["--at", "2020-02-29T12:00:00+02:00"]]],
    ["an unsigned report", "key-kind", () => [reportOf({ keyInfo: { authorKeyEnabled: false, chipKeyMasked: false, signingKey: "none" } }), []]],
    ["a report of another product", "product", () => [turin.report(), []]],
    ["a list that is required and absent", "revocation", () => [REPORT, ["--require-crl"]]],
    ["a list that is required and another's", "revocation", () => [REPORT, ["--require-crl", "--crl", "other.crl"]]],
  ])("name the one that fails for %s: %s", async (_name, check, make) => {
    const [report, flags] = make();
    const ran = await verify(report, flags, { "other.crl": OTHER_CRL });
    expect(ran.exit).toBe(EXIT.refused);
    expect(mark(ran, check)).toBe("FAIL");
    expect(ran.stdout.match(/^ {2}FAIL/gm)).toHaveLength(1);
    expect(lastLines(ran)).toMatch(/^REFUSED: .*\n[\s\S]*code: {2}ERR_SNP_/);
  });

  it("tell a malformed report from a refused one", async () => {
    const ran = await verify(REPORT.map((byte, index) => (index === 0x4c ? 1 : byte)));
    expect(ran.exit).toBe(EXIT.failed);
    expect(mark(ran, "structure")).toBe("FAIL");
    expect(lastLines(ran)).toMatch(/^MALFORMED: report: the reserved bytes/);
    expect(ran.stdout).not.toContain("what it says");
  });

  it("refuse each of many changed reports", async () => {
    for (let at = 0; at < REPORT.length; at += 37) {
      const { exit, stdout } = await verify(REPORT.map((byte, index) => (index === at ? byte ^ 0x10 : byte)));
      expect([EXIT.failed, EXIT.refused], `byte ${at}`).toContain(exit);
      expect(stdout).not.toMatch(/^VERIFIED/m);
    }
  });

  it("say what to do about a list that is required and not there", async () => {
    for (const flags of [["--require-crl"], ["--require-crl", "--crl", "other.crl"]])
      expect(lastLines(await verify(REPORT, flags, { "other.crl": OTHER_CRL }))).toMatch(/to do: Leave out --require-crl, or give .* --crl/);
  });

  it("go by revocation lists", async () => {
    const list = (serial: bigint, ages = 0): Uint8Array =>
      issueCrl({
        issuer: { name: root.subject, key: milan.arkKey },
        signatureAlgorithm: "rsa-pss-sha384",
        thisUpdate: NOW - 2000,
        nextUpdate: NOW + 1000 - ages,
        revoked: [{ serial, revokedAt: NOW - 2000 }],
      }).der;
    const own = intermediate.serial;
    const files = { good: list(own + 1n), "bad.pem": encodePem("X509 CRL", list(own)), old: list(own + 1n, 2000) };
    const good = await verify(REPORT, ["--crl", "good", "--require-crl"], files);
    expect(mark(good, "revocation")).toBe("ok");
    expect(good.exit).toBe(EXIT.ok);
    for (const [name, code] of [
      ["bad.pem", "ERR_SNP_REVOKED"],
      ["old", "ERR_SNP_REVOCATION"],
    ] as const) {
      const bad = await verify(REPORT, ["--crl", name], files);
      expect(bad.exit).toBe(EXIT.refused);
      expect(mark(bad, "revocation")).toBe("FAIL");
      expect(lastLines(bad)).toContain(code);
    }
    expect((await verify(REPORT, ["--crl", "chain.pem"], files)).exit).toBe(EXIT.failed);
  });

  it("are one JSON document with --json, for the verified and the refused", async () => {
    const good = await verify(REPORT, ["--json"]);
    expect(good.exit).toBe(EXIT.ok);
    expect(JSON.parse(good.stdout)).toMatchObject({
      file: "report.bin",
      form: "attestation report, raw",
      verdict: "verified",
      root: "emulator",
      emulated: true,
      fieldsVerified: true,
      fields: { measurement: "04".repeat(48), vmpl: "1" },
    });
    const { checks } = JSON.parse(good.stdout) as { checks: readonly { group: string; name: string; outcome: string }[] };
    expect(checks.find(({ name }) => name === "signature")).toMatchObject({ group: "evidence", outcome: "passed" });
    const bad = await attest(["verify", "report.bin", "--json"], { "report.bin": REPORT });
    expect(bad.exit).toBe(EXIT.refused);
    expect(JSON.parse(bad.stdout)).toMatchObject({
      verdict: "refused",
      root: null,
      emulated: false,
      fieldsVerified: false,
      hint: expect.stringContaining("--certs") as string,
    });
    const malformed = await attest(["verify", "odd", "--json"], { odd: "x" });
    expect(malformed.exit).toBe(EXIT.failed);
    expect(JSON.parse(malformed.stdout)).toMatchObject({ error: { code: "ERR_CLI_FILE" } });
  });
});

describe("sealpod attest verify: requirements", () => {
  const hostData = sha256(new TextEncoder().encode(POLICY_TEXT));
  const exact = reportOf({ hostData });
  const HEX = (byte: string, length: number): string => byte.repeat(length);

  it.each<[string, string, Uint8Array, readonly string[]]>([
    ["HOST_DATA in hex", "hostData", REPORT, ["--host-data", HEX("05", 32)]],
    ["HOST_DATA as the hash of a file", "hostData", exact, ["--host-data", "@policy.rego"]],
    ["REPORT_DATA in hex", "reportData", REPORT, ["--report-data", HEX("03", 64)]],
    ["REPORT_DATA, short", "reportData", reportOf({ reportData: concatBytes(Uint8Array.of(0xab), new Uint8Array(63)) }), ["--report-data", "AB"]],
    ["REPORT_DATA of a file with bytes", "reportData", REPORT, ["--report-data", "@data.bin"]],
    ["REPORT_DATA of a file with hex", "reportData", REPORT, ["--report-data", "@data.hex"]],
    ["the runtime data", "--runtime-data", BOUND, ["--runtime-data", "runtime.json"]],
    ["HOST_DATA after 0x", "hostData", REPORT, ["--host-data", `0x${HEX("05", 32)}`]],
    ["REPORT_DATA after 0x", "reportData", REPORT, ["--report-data", `0x${HEX("03", 64)}`]],
    ["REPORT_DATA of a file with hex after 0x", "reportData", REPORT, ["--report-data", "@prefixed.hex"]],
    ["a measurement after 0X", "measurements", REPORT, ["--measurement", `0X${HEX("04", 48)}`]],
    ["a report for the host, if it is named", "vmpls", reportOf({ vmpl: 0xffff_ffff }), ["--vmpl", "host"]],
    ["a report for the host, by its number", "vmpls", reportOf({ vmpl: 0xffff_ffff }), ["--vmpl", "0xFFFFFFFF"]],
    ["a report for the host, if the policy names it", "vmpls", reportOf({ vmpl: 0xffff_ffff }), ["--policy", "host.json"]],
    ["one of two measurements", "measurements", REPORT, ["--measurement", HEX("99", 48), "--measurement", HEX("04", 48)]],
    ["one of two VMPLs", "vmpls", REPORT, ["--vmpl", "0", "--vmpl", "1"]],
    ["least levels", "minimumTcb", REPORT, ["--min-tcb", "bootloader=4,tee=0,snp=24,microcode=219"]],
    ["a policy document", "debug", REPORT, ["--policy", "policy.json"]],
  ])("%s: met", async (_name, check, report, flags) => {
    const files = {
      "policy.rego": POLICY_TEXT,
      "data.bin": new Uint8Array(64).fill(3),
      "data.hex": `${HEX("03", 64)}\n`,
      "prefixed.hex": `0x${HEX("03", 64)}\n`,
      "host.json": encodeReportPolicy({ ...anyReportPolicy(), vmpls: [0xffff_ffff] }),
      "runtime.json": RUNTIME,
      "policy.json": encodeReportPolicy({ ...anyReportPolicy(), debug: "forbidden" }),
    };
    const ran = await verify(report, flags, files);
    expect(mark(ran, check)).toBe("ok");
    expect(ran.exit).toBe(EXIT.ok);
  });

  it.each<[string, string, Uint8Array, readonly string[]]>([
    ["another HOST_DATA", "hostData", REPORT, ["--host-data", HEX("06", 32)]],
    ["another policy file", "hostData", exact, ["--host-data", "@other.rego"]],
    ["another REPORT_DATA", "reportData", REPORT, ["--report-data", HEX("03", 63)]],
    ["other runtime data", "--runtime-data", BOUND, ["--runtime-data", "other.rego"]],
    ["other measurements", "measurements", REPORT, ["--measurement", HEX("05", 48)]],
    ["another VMPL", "vmpls", REPORT, ["--vmpl", "0"]],
    ["a report for the host", "vmpls", reportOf({ vmpl: 0xffff_ffff }), []],
    ["a report for the host under a policy that does not name it", "vmpls", reportOf({ vmpl: 0xffff_ffff }), ["--policy", "any.json"]],
    ["a guest that may be debugged", "debug", reportOf({ policy: 0xb001fn }), []],
    ["levels that are too low", "minimumTcb", REPORT, ["--min-tcb", "snp=25"]],
    ["a product without FMC", "minimumTcb", REPORT, ["--min-tcb", "fmc=0"]],
    ["a policy document", "smt", REPORT, ["--policy", "policy.json"]],
    ["a flag beside a policy document", "hostData", REPORT, ["--policy", "any.json", "--host-data", HEX("06", 32)]],
    ["an endorsement that is none", "bad.cose", REPORT, ["--endorsement", "bad.cose"]],
  ])("%s: not met", async (_name, check, report, flags) => {
    const files = {
      "other.rego": "package other\n",
      "policy.json": encodeReportPolicy({ ...anyReportPolicy(), smt: "forbidden" }),
      "any.json": encodeReportPolicy(anyReportPolicy()),
      "bad.cose": Uint8Array.of(0xd2, 0x80),
    };
    const ran = await verify(report, flags, files);
    expect(mark(ran, check)).toBe("FAIL");
    expect(ran.exit).toBe(EXIT.refused);
    expect(mark(ran, "signature")).toBe("ok");
    expect(lastLines(ran)).toMatch(new RegExp(`^REFUSED: ${check}: [\\s\\S]*The report is genuine, but it is not what was asked for`));
    expect(ran.stdout).not.toMatch(/^VERIFIED/m);
  });

  it("names what was not asked, and no more than that", async () => {
    const ran = await verify(exact, ["--host-data", "@policy.rego", "--measurement", HEX("04", 48), "--report-data", HEX("03", 64)], {
      "policy.rego": POLICY_TEXT,
    });
    expect(lastLines(ran)).toBe("VERIFIED under the EMULATOR's root: no hardware protection. The report meets the requirements");
  });

  it("takes a guest that may be debugged if told so, and shows it", async () => {
    const ran = await verify(reportOf({ policy: 0xb001fn }), ["--allow-debug"]);
    expect(ran.exit).toBe(EXIT.ok);
    expect(ran.stdout).toContain("DEBUG ALLOWED");
    expect(lastLines(ran)).toContain("the host may read this guest's memory");
    const closed = await verify(REPORT, ["--allow-debug"]);
    expect(closed.exit).toBe(EXIT.ok);
    expect(lastLines(closed)).not.toContain("may read");
  });

  it("names debugging and the VMPL if a policy asks for neither", async () => {
    const files = {
      "any.json": encodeReportPolicy(anyReportPolicy()),
      "usual.json": encodeReportPolicy({ ...anyReportPolicy(), debug: "forbidden", vmpls: [1] }),
    };
    const open = await verify(REPORT, ["--policy", "any.json"], files);
    expect(lastLines(open)).toMatch(/Not asked: .*whether the host may debug the guest .*; from which VMPL/);
    expect(lastLines(open)).not.toContain("may read");
    const debuggable = await verify(reportOf({ policy: 0xb001fn }), ["--policy", "any.json"], files);
    expect(debuggable.exit).toBe(EXIT.ok);
    expect(lastLines(debuggable)).toContain("the host may read this guest's memory");
    const usual = await verify(REPORT, ["--policy", "usual.json"], files);
    expect(usual.exit).toBe(EXIT.ok);
    expect(lastLines(usual)).not.toMatch(/debug|VMPL/);
  });

  it("says that the host asked for a report that was taken all the same", async () => {
    expect(lastLines(await verify(reportOf({ vmpl: 0xffff_ffff }), ["--vmpl", "host"]))).toContain("The HOST asked for this report");
  });

  it("counts all that is not met", async () => {
    const ran = await verify(REPORT, ["--host-data", HEX("06", 32), "--vmpl", "0", "--min-tcb", "tee=1"]);
    expect(ran.stdout.match(/^ {2}FAIL/gm)).toHaveLength(3);
    expect(lastLines(ran)).toContain("(and 2 more)");
  });

  it("holds the data of a request against its report", async () => {
    const data = (bytes: Uint8Array): { data: string; dataType: string } => ({ data: toBase64url(bytes), dataType: "JSON" });
    const files = { "ark.pem": ARK };
    const run = async (request: string): Promise<Ran> => attest(["verify", "request", ...TRUST], { ...files, request });
    const good = await run(maaRequest(BOUND, { runtimeData: data(RUNTIME) }));
    expect(mark(good, "runtime data")).toBe("ok");
    expect(good.exit).toBe(EXIT.ok);
    const other = await run(maaRequest(BOUND, { runtimeData: data(new TextEncoder().encode('{"keys":[1]}')) }));
    expect(mark(other, "runtime data")).toBe("FAIL");
    expect(other.exit).toBe(EXIT.refused);
    const init = new TextEncoder().encode('{"a":1}');
    const bound = maaRequest(reportOf({ hostData: sha256(init) }), { initTimeData: data(init) });
    expect(mark(await run(bound), "init-time data")).toBe("ok");
    expect((await run(maaRequest(REPORT, { initTimeData: data(init) }))).exit).toBe(EXIT.refused);
    // An endorsement that came with the evidence and does not hold gives nothing and takes nothing.
    const endorsed = await run(maaRequest(REPORT, {}, [Uint8Array.of(0xd2, 0x80)]));
    expect(mark(endorsed, "enclosed 1")).toBe("--");
    expect(endorsed.exit).toBe(EXIT.ok);
    expect(lastLines(endorsed)).toContain("which code was launched");
  });

  it.each<[string, readonly string[], RegExp]>([
    ["a short HOST_DATA", ["--host-data", "00"], /--host-data: "00" is not what was expected: 64 hex digits/],
    ["a measurement that is short behind its prefix", ["--measurement", `0x${HEX("04", 47)}`], /96 hex digits/],
    ["no REPORT_DATA", ["--report-data", ""], /0 bytes, expected 1 to 64/],
    ["too long a REPORT_DATA", ["--report-data", HEX("00", 65)], /65 bytes, expected 1 to 64/],
    ["a REPORT_DATA file of text", ["--report-data", "@ark.pem"], /hex digits/],
    ["a VMPL that there is not", ["--vmpl", "4"], /--vmpl 4: expected 0, 1, 2 or 3/],
    ["an unknown component", ["--min-tcb", "kernel=1"], /"kernel=1" is not understood/],
    ["a level above 255", ["--min-tcb", "snp=256"], /"snp=256" is not understood/],
    ["a level without a number", ["--min-tcb", "snp"], /"snp" is not understood/],
    ["a component twice", ["--min-tcb", "snp=1,snp=2"], /snp twice/],
    ["another root", ["--trust", "microsoft"], /--trust microsoft: expected amd/],
    ["a root without a file", ["--trust", "emulator="], /--trust emulator=: expected amd/],
    ["no date", ["--at", "yesterday"], /--at yesterday: expected a date/],
    ["a day that there is not", ["--at", "2026-02-31"], /--at 2026-02-31/],
    ["a time without a zone", ["--at", "2026-01-01T00:00:00"], /with its zone/],
    ["two words on REPORT_DATA", ["--report-data", "00", "--runtime-data", "ark.pem"], /both say what REPORT_DATA must be/],
    ["two words on HOST_DATA", ["--host-data", HEX("05", 32), "--policy", "full.json"], /full\.json and the command line both state hostData/],
    ["two words on debugging", ["--allow-debug", "--policy", "full.json"], /both say whether debugging/],
    ["keys for a report", ["--jwks", "keys.json"], /--jwks is for tokens/],
    ["an authority for a report", ["--ca", "ark.pem"], /--ca is for tokens/],
    ["an issuer for a report", ["--issuer", "https://maa.example"], /--issuer is for tokens/],
    ["an unknown flag", ["--measurements", "00"], /Did you mean --measurement/],
  ])("a usage error: %s", async (_name, flags, message) => {
    const ran = await verify(REPORT, flags, { "full.json": encodeReportPolicy({ ...anyReportPolicy(), hostData: new Uint8Array(32) }) });
    expect(ran).toMatchObject({ exit: EXIT.usage, stdout: "" });
    expect(ran.stderr).toMatch(message);
  });

  it("names the place in a policy document that is not understood", async () => {
    const ran = await verify(REPORT, ["--policy", "policy.json"], { "policy.json": '{"debug":"any"}' });
    expect(ran).toMatchObject({ exit: expect.any(Number) as number, stdout: "" });
    expect(ran.exit).not.toBe(EXIT.ok);
    expect(ran.stderr).toContain("ERR_SNP_POLICY_SYNTAX");
  });

  it("refuses a root file without exactly one root", async () => {
    for (const content of [encodeCertificatesPem([intermediate]), encodeCertificatesPem([root, turin.chain.root])]) {
      expect(await verify(REPORT, [], { "ark.pem": content })).toMatchObject({
        exit: EXIT.failed,
        stderr: expect.stringContaining("self-signed certificates") as string,
      });
    }
  });
});

describe("sealpod attest verify --print-policy", () => {
  it("writes a document that --policy takes as it is", async () => {
    const ran = await attest(["verify", "--print-policy"]);
    expect(ran).toMatchObject({ exit: EXIT.ok, stderr: "" });
    expect(parseReportPolicy(ran.stdout)).toEqual({ ...anyReportPolicy(), debug: "forbidden", vmpls: [0] });
    const files = { "policy.json": ran.stdout };
    expect((await verify(reportOf({ vmpl: 0 }), ["--policy", "policy.json"], files)).exit).toBe(EXIT.ok);
    for (const report of [REPORT, reportOf({ vmpl: 0, policy: 0xb001fn })])
      expect((await verify(report, ["--policy", "policy.json"], files)).exit).toBe(EXIT.refused);
  });

  it("fills in what a report says, which the report then meets and another does not", async () => {
    for (const [report, processor] of [
      [REPORT, milan],
      [turin.report(), turin],
    ] as const) {
      const ran = await attest(["verify", "report.bin", "--print-policy"], { "report.bin": report });
      expect(ran.exit).toBe(EXIT.ok);
      expect(ran.stderr).toContain("nothing of it was verified");
      const { product } = parseEndorsementKey(processor.chain.endorsementKey);
      expect(parseReportPolicy(ran.stdout)).toMatchObject({
        products: [product],
        measurements: [new Uint8Array(48).fill(4)],
        hostData: new Uint8Array(32).fill(5),
        reportData: "any",
        vmpls: [1],
        debug: "forbidden",
        minimumTcb: { [product]: { snp: 24 } },
        minimumGuestSvn: 7,
        idKeyDigests: [new Uint8Array(48).fill(6)],
        authorKeyDigests: "any",
      });
      const chain = encodeCertificatesPem([processor.chain.endorsementKey, processor.chain.intermediate, processor.chain.root]);
      const files = { "policy.json": ran.stdout, "chain.pem": chain, "ark.pem": encodeCertificatesPem([processor.chain.root]) };
      expect((await verify(report, ["--policy", "policy.json"], files)).exit).toBe(EXIT.ok);
      const changed = processor.report({ measurement: new Uint8Array(48) });
      expect(mark(await verify(changed, ["--policy", "policy.json"], files), "measurements")).toBe("FAIL");
    }
  });

  it("keeps what is usual where a report should not pass, and says so", async () => {
    const ran = await attest(["verify", "report.bin", "--print-policy"], { "report.bin": reportOf({ vmpl: 0xffff_ffff, policy: 0xb001fn }) });
    expect(parseReportPolicy(ran.stdout)).toMatchObject({ debug: "forbidden", vmpls: [0] });
    expect(ran.stderr).toMatch(/allows debugging[\s\S]*the host asked for it/);
  });

  it("puts in what the flags say", async () => {
    const flags = ["--host-data", "0a".repeat(32), "--vmpl", "2", "--allow-debug", "--runtime-data", "runtime.json"];
    const ran = await attest(["verify", "report.bin", "--print-policy", ...flags], { "report.bin": REPORT, "runtime.json": RUNTIME });
    expect(parseReportPolicy(ran.stdout)).toMatchObject({
      hostData: new Uint8Array(32).fill(10),
      vmpls: [2],
      debug: "any",
      reportData: concatBytes(sha256(RUNTIME), new Uint8Array(32)),
      measurements: [new Uint8Array(48).fill(4)],
    });
  });

  it.each<[string, readonly string[], number, RegExp]>([
    ["a policy beside it", ["--print-policy", "--policy", "x"], EXIT.usage, /exclude each other/],
    ["a token", ["token.jwt", "--print-policy"], EXIT.usage, /is for reports/],
    ["a report that is none", ["odd", "--print-policy"], EXIT.failed, /no attestation evidence/],
    ["no evidence without it", [], EXIT.usage, /missing argument 'file'/],
  ])("refuses %s", async (_name, argv, exit, message) => {
    const ran = await attest(["verify", ...argv], { "token.jwt": "aaaa.bbbb.cccc", odd: "?" });
    expect(ran).toMatchObject({ exit, stdout: "" });
    expect(ran.stderr).toMatch(message);
  });
});

describe("sealpod attest verify: the certificate cache", () => {
  const fill = async (name: string, processors: readonly (typeof milan)[], withAuthorities = true): Promise<string> => {
    await attest(["verify", "absent"]);
    const path = join(directory, name);
    for (const { chain } of processors) {
      const { hwId, tcb, product } = parseEndorsementKey(chain.endorsementKey);
      const two = (level: number | undefined): string => String(level).padStart(2, "0");
      const fmc = tcb.fmc === undefined ? "" : `_fmc${two(tcb.fmc)}`;
      const folder = join(path, "vcek", toHex(hwId ?? new Uint8Array()));
      await mkdir(folder, { recursive: true });
      const file = `bl${two(tcb.bootloader)}_tee${two(tcb.tee)}_snp${two(tcb.snp)}_ucode${two(tcb.microcode)}${fmc}_vcek.der`;
      await writeFile(join(folder, file), chain.endorsementKey.der);
      await mkdir(join(path, "chain"), { recursive: true });
      if (withAuthorities) await writeFile(join(path, "chain", `vcek_${product}.pem`), encodeCertificatesPem([chain.intermediate, chain.root]));
    }
    return path;
  };
  const alone = async (report: Uint8Array, flags: readonly string[], trust = ARK): Promise<Ran> =>
    attest(["verify", "report.bin", ...TRUST, ...flags], { "report.bin": report, "ark.pem": trust });
  const listing = async (path: string): Promise<readonly string[]> => (await readdir(path, { recursive: true })).toSorted();

  it("gives the certificates that did not come with a report, says so, and is left as it was", async () => {
    const path = await fill("cache-full", [milan, turin]);
    // What a killed writer left long ago is not for a reader to remove.
    await writeFile(join(path, "chain", ".vcek_Milan.pem.0123456789abcdef.tmp"), "half");
    await utimes(join(path, "chain", ".vcek_Milan.pem.0123456789abcdef.tmp"), 1, 1);
    const before = await listing(path);
    const ran = await alone(REPORT, ["--certcache", path]);
    expect(ran.exit).toBe(EXIT.ok);
    expect(mark(ran, "certcache")).toBe("ok");
    expect(ran.stdout).toContain(`from the certificate cache ${path}`);
    expect(await listing(path)).toEqual(before);
    expect((await alone(turin.report(), ["--certcache", path], encodeCertificatesPem([turin.chain.root]))).exit).toBe(EXIT.ok);
  });

  it("is that of the state directory if nothing is said, and none if told so", async () => {
    const path = await fill("state/certcache", [milan]);
    try {
      const ran = await alone(REPORT, []);
      expect(ran.exit).toBe(EXIT.ok);
      expect(ran.stdout).toContain(`from the certificate cache ${path}`);
      expect((await alone(REPORT, ["--certcache", "off"])).exit).toBe(EXIT.refused);
    } finally {
      await rm(path, { recursive: true });
    }
  });

  it("is not looked into when certificates came with the report", async () => {
    const path = await fill("cache-unasked", [milan]);
    const ran = await verify(REPORT, ["--certcache", path]);
    expect(ran.exit).toBe(EXIT.ok);
    expect(ran.stdout).not.toContain("certcache");
    const wrong = await attest(["verify", "report.bin", "--certs", "vcek", "--certcache", path, ...TRUST], {
      "report.bin": REPORT,
      vcek: other.chain.endorsementKey.der,
    });
    expect(wrong.exit).toBe(EXIT.refused);
  });

  it.each<[string, () => Promise<string>, Uint8Array, string, RegExp]>([
    ["has another chip", async () => fill("cache-other", [other]), REPORT, ARK, /does not help: the certificate cache has no certificate/],
    ["lacks the authorities", async () => fill("cache-bare", [milan], false), REPORT, ARK, /without the certificates of its authorities/],
    [
      "verifies under no root that is trusted",
      async () => fill("cache-untrusted", [milan]),
      REPORT,
      encodeCertificatesPem([other.chain.root]),
      /does not help/,
    ],
    ["cannot have one", async () => fill("cache-unsigned", [milan]), reportOf({ chipId: new Uint8Array(64) }), ARK, /chip id is all zero/],
  ])("is no help if it %s, and says so", async (_name, make, report, trust, message) => {
    const ran = await alone(report, ["--certcache", await make()], trust);
    expect(ran.exit).toBe(EXIT.refused);
    expect(mark(ran, "certcache")).toBe("absent");
    expect(lastLines(ran)).toMatch(/^REFUSED: no certificate of the chip/);
    expect(lastLines(ran)).toMatch(message);
  });

  it("must be there if it is named", async () => {
    expect(await alone(REPORT, ["--certcache", "absent"])).toMatchObject({
      exit: EXIT.failed,
      stdout: "",
      stderr: expect.stringContaining("--certcache absent") as string,
    });
  });
});

describe("sealpod attest verify: tokens", () => {
  const ISSUER = "https://maa.example";
  const key = rsa();
  const { n, e } = key.export({ format: "jwk" });
  const JWKS = JSON.stringify({ keys: [{ kid: "k", kty: "RSA", n, e }] });
  const now = NOW / 1000;
  const CLAIMS = {
    exp: now + 100,
    iss: ISSUER,
    nbf: now,
    "x-ms-sevsnpvm-bootloader-svn": 3,
    "x-ms-sevsnpvm-hostdata": "05".repeat(32),
    "x-ms-sevsnpvm-is-debuggable": false,
    "x-ms-sevsnpvm-launchmeasurement": "04".repeat(48),
    "x-ms-sevsnpvm-microcode-svn": 115,
    "x-ms-sevsnpvm-reportdata": toHex(concatBytes(sha256(RUNTIME), new Uint8Array(32))),
    "x-ms-sevsnpvm-vmpl": 0,
  };
  const token = (claims: Readonly<Record<string, unknown>> = CLAIMS, by = key): string => {
    const input = [{ alg: "RS256", kid: "k", typ: "JWT" }, claims].map((part) => toBase64url(Buffer.from(JSON.stringify(part)))).join(".");
    return `${input}.${toBase64url(sign("sha256", Buffer.from(input), by))}`;
  };
  const run = async (text: string, flags: readonly string[] = ["--jwks", "keys.json"]): Promise<Ran> =>
    attest(["verify", "token.jwt", ...flags], { "token.jwt": text, "keys.json": JWKS, "runtime.json": RUNTIME });

  it("verify under the keys of a file", async () => {
    const ran = await run(`${token()}\n`, ["--jwks", "keys.json", "--issuer", `${ISSUER}/`]);
    expect(ran.exit).toBe(EXIT.ok);
    for (const check of ["form", "algorithm", "key", "signature", "claims", "issuer", "time", "vmpls", "debug"]) expect(mark(ran, check), check).toBe("ok");
    expect(lastLines(ran)).toMatch(new RegExp(`^VERIFIED under the keys that were given: ${ISSUER} vouches for these claims\\. Not asked: `));
  });

  it("name what was not asked, and no more than that", async () => {
    const open = lastLines(await run(token({ ...CLAIMS, nonce: "7" })));
    for (const flag of ["--issuer", "--measurement", "--host-data", "--report-data, --runtime-data", "nonce"]) expect(open).toContain(flag);
    const flags = ["--issuer", ISSUER, "--measurement", "04".repeat(48), "--host-data", "05".repeat(32), "--runtime-data", "runtime.json"];
    expect(lastLines(await run(token(), ["--jwks", "keys.json", ...flags]))).toBe(
      `VERIFIED under the keys that were given: ${ISSUER} vouches for these claims`,
    );
  });

  it.each<[string, unknown, readonly string[]]>([
    ["the emulator", "emulator", []],
    ["the emulator, where AMD's is named", "emulator", ["--trust", "amd"]],
    ["another root", "lab", []],
    ["another root than the one that is named", "lab", ["--trust", "emulator"]],
    ["AMD's, where another is named", "amd", ["--trust", "emulator"]],
    ["AMD's in other letters", "AMD", []],
    ["no text", ["amd"], []],
    ["nothing", null, []],
    ["the empty text", "", []],
  ])("are refused that rest on %s", async (_name, root, flags) => {
    const ran = await run(token({ ...CLAIMS, "x-sealpod-root": root }), ["--jwks", "keys.json", ...flags]);
    expect(ran.exit).toBe(EXIT.refused);
    expect(mark(ran, "root")).toBe("FAIL");
    expect(lastLines(ran)).toMatch(/^REFUSED: root: the evidence rests on/);
    expect(ran.stdout).not.toMatch(/^VERIFIED/m);
  });

  it.each<[string, readonly string[]]>([
    ["emulator", ["--trust", "emulator"]],
    ["emulator", ["--trust", "emulator=ark.pem"]],
    ["lab", ["--trust", "amd", "--trust", "lab"]],
  ])("that rest on %s are taken with %j, and said to be no hardware of AMD's", async (root, flags) => {
    const text = token({ ...CLAIMS, "x-sealpod-root": root });
    const ran = await run(text, ["--jwks", "keys.json", ...flags]);
    expect(ran.exit).toBe(EXIT.ok);
    expect(lastLines(ran)).toMatch(/not hardware as AMD vouches for it/);
    expect(lastLines(ran).includes("EMULATED evidence: no hardware protection")).toBe(root === "emulator");
    const json = JSON.parse((await run(text, ["--jwks", "keys.json", "--json", ...flags])).stdout) as unknown;
    expect(json).toMatchObject({ verdict: "verified", emulated: root === "emulator" });
  });

  it.each([
    [{ "x-sealpod-root": "amd" }, "ok"],
    [{}, "--"],
  ])("with %j need no name", async (claims, outcome) => {
    const ran = await run(token({ ...CLAIMS, ...claims }));
    expect(ran.exit).toBe(EXIT.ok);
    expect(mark(ran, "root")).toBe(outcome);
    expect(lastLines(ran)).not.toContain("not hardware");
  });

  it("say how to name a root that is refused", async () => {
    expect(lastLines(await run(token({ ...CLAIMS, "x-sealpod-root": "lab" })))).toContain("--trust lab");
    expect(await run(token(), ["--jwks", "keys.json", "--trust", "lab=ark.pem"])).toMatchObject({
      exit: EXIT.usage,
      stderr: expect.stringContaining("expected the name of a root") as string,
    });
  });

  it("about a guest that may be debugged say so if that was allowed", async () => {
    const debuggable = { ...CLAIMS, "x-ms-sevsnpvm-is-debuggable": true };
    expect(lastLines(await run(token(debuggable), ["--jwks", "keys.json", "--allow-debug"]))).toContain("the host may read this guest's memory");
    expect(lastLines(await run(token(), ["--jwks", "keys.json", "--allow-debug"]))).not.toContain("may read");
  });

  it("are tokens though they have as many bytes as a report", () => {
    const text = ["a".repeat(390), "b".repeat(390), "c".repeat(402)].join(".");
    expect(text).toHaveLength(REPORT.length);
    expect(recogniseEvidence(new TextEncoder().encode(text), "token").kind).toBe("token");
    expect(recogniseEvidence(REPORT, "report").kind).toBe("report");
  });

  it("are found in the answer of a service", async () => {
    expect((await run(JSON.stringify({ token: token() }))).stdout).toMatch(
      /^token\.jwt: answer of an attestation service with a token\n[\s\S]*\nVERIFIED under/,
    );
  });

  it("meet requirements by their claims", async () => {
    const flags = [
      "--host-data",
      "05".repeat(32),
      "--measurement",
      "04".repeat(48),
      "--vmpl",
      "0",
      "--min-tcb",
      "bootloader=3,microcode=115",
      "--runtime-data",
      "runtime.json",
    ];
    const ran = await run(token(), ["--jwks", "keys.json", ...flags]);
    expect(ran.exit).toBe(EXIT.ok);
    for (const check of ["hostData", "measurements", "vmpls", "debug", "minimumTcb bootloader", "minimumTcb microcode", "runtime-data"])
      expect(mark(ran, check), check).toBe("ok");
  });

  it.each<[string, string, Readonly<Record<string, unknown>>, readonly string[]]>([
    ["another HOST_DATA", "hostData", CLAIMS, ["--host-data", "06".repeat(32)]],
    ["a debuggable guest", "debug", { ...CLAIMS, "x-ms-sevsnpvm-is-debuggable": true }, []],
    ["a guest that does not say", "debug", { ...CLAIMS, "x-ms-sevsnpvm-is-debuggable": undefined }, []],
    ["a word in place of false", "debug", { ...CLAIMS, "x-ms-sevsnpvm-is-debuggable": "false" }, []],
    ["a host's report", "vmpls", { ...CLAIMS, "x-ms-sevsnpvm-vmpl": 4_294_967_295 }, []],
    ["levels that are too low", "minimumTcb bootloader", CLAIMS, ["--min-tcb", "bootloader=4"]],
    ["levels that are not there", "minimumTcb snp", CLAIMS, ["--min-tcb", "snp=0"]],
    ["a component that tokens do not have", "minimumTcb fmc", CLAIMS, ["--min-tcb", "fmc=0"]],
    ["other runtime data", "runtime-data", CLAIMS, ["--runtime-data", "keys.json"]],
  ])("are refused for %s", async (_name, check, claims, flags) => {
    const ran = await run(token(claims), ["--jwks", "keys.json", ...flags]);
    expect(mark(ran, check)).toBe("FAIL");
    expect(ran.exit).toBe(EXIT.refused);
    expect(lastLines(ran)).toMatch(/^REFUSED: [\s\S]*The token is genuine, but its claims/);
  });

  it.each<[string, string, string, readonly string[]]>([
    ["another key", "signature", token(CLAIMS, rsa()), []],
    ["their end", "time", token({ ...CLAIMS, exp: now - 100 }), []],
    ["another time", "time", token(), ["--at", "2030-01-01"]],
    ["another issuer", "issuer", token(), ["--issuer", "https://other.example"]],
  ])("are refused for %s", async (_name, check, text, flags) => {
    const ran = await run(text, ["--jwks", "keys.json", ...flags]);
    expect(ran.exit).toBe(EXIT.refused);
    expect(mark(ran, check)).toBe("FAIL");
    expect(ran.stdout).toContain("what it says (NOT VERIFIED)");
    expect(lastLines(ran)).toContain("ERR_ATTESTATION_TOKEN_REFUSED");
  });

  it("are refused without keys, with the way to them", async () => {
    const ran = await run(token(), []);
    expect(ran.exit).toBe(EXIT.refused);
    expect(ran.stdout).not.toMatch(/^VERIFIED/m);
    expect(lastLines(ran)).toMatch(/^REFUSED: no keys were given[\s\S]*--jwks FILE\|URL.*https:\/\/maa\.example.*--issuer$/);
  });

  it("are malformed if they are no tokens inside", async () => {
    const ran = await run("aaaa.bbbb.cccc");
    expect(ran.exit).toBe(EXIT.failed);
    expect(lastLines(ran)).toMatch(/^MALFORMED: the token is malformed/);
  });

  it("cannot paint the terminal", async () => {
    const ran = await run(token({ ...CLAIMS, evil: "\u001b[2J\nVERIFIED under AMD's root" }), []);
    expect(ran.stdout).not.toContain("\u001b");
    expect(ran.stdout).not.toMatch(/^VERIFIED/m);
  });

  it.each([
    [["--certs", "keys.json"], "--certs"],
    [["--policy", "keys.json"], "--policy"],
    [["--certcache", "off"], "--certcache"],
    [["--crl", "keys.json"], "--crl"],
    [["--require-crl"], "--require-crl"],
    [["--endorsement", "keys.json"], "--endorsement"],
  ])("do not take %j, which would be checked by nobody", async (flags, name) => {
    const ran = await run(token(), ["--jwks", "keys.json", ...flags]);
    expect(ran).toMatchObject({ exit: EXIT.usage, stdout: "", stderr: expect.stringContaining(`${name} is for reports`) as string });
  });

  it.each<readonly string[]>([
    ["--jwks", "keys.json", "--ca", "keys.json"],
    ["--ca", "keys.json"],
  ])("fetch nothing with %j, so --ca has no use", async (...flags) => {
    expect(await run(token(), flags)).toMatchObject({ exit: EXIT.usage, stderr: expect.stringContaining("--ca is for keys that are fetched") as string });
  });

  it("need keys over https", async () => {
    expect(await run(token(), ["--jwks", "http://maa.example/certs"])).toMatchObject({
      exit: EXIT.usage,
      stderr: expect.stringContaining("https alone") as string,
    });
  });

  it("name a key file that is malformed", async () => {
    expect(await run(token(), ["--jwks", "token.jwt"])).toMatchObject({ exit: EXIT.failed, stderr: expect.stringContaining("ERR_ATTESTATION_JWKS") as string });
  });

  describe("with keys from the network", () => {
    const fetched = async (flags: Parameters<typeof verifyToken>[1], answer: () => Promise<Response>): Promise<{ urls: string[]; verdict: string }> => {
      const urls: string[] = [];
      const { verdict } = await verifyToken({ kind: "token", form: "x", token: token() }, flags, contextOf({ stdout: "", stderr: "" }), async (url, init) => {
        urls.push(url);
        expect(init.redirect).toBe("error");
        return answer();
      });
      return { urls, verdict };
    };

    it("takes those of --jwks, or the issuer's", async () => {
      const answer = async (): Promise<Response> => new Response(JWKS);
      expect(await fetched({ jwks: "https://keys.example/x" }, answer)).toEqual({ urls: ["https://keys.example/x"], verdict: "verified" });
      expect(await fetched({ issuer: `${ISSUER}/` }, answer)).toEqual({ urls: [`${ISSUER}/certs`], verdict: "verified" });
      expect(await fetched({ issuer: "https://other.example" }, answer)).toEqual({ urls: ["https://other.example/certs"], verdict: "refused" });
    });

    it.each<[string, () => Promise<Response>, RegExp]>([
      ["a refusal", async () => new Response("", { status: 404 }), /the answer is 404/],
      ["no end of keys", async () => new Response("x".repeat(2 * 1024 * 1024)), /more than 1048576 bytes/],
      [
        "no server",
        async () => Promise.reject(new TypeError("fetch failed", { cause: new Error("getaddrinfo ENOTFOUND") })),
        /fetch failed \(getaddrinfo ENOTFOUND\)/,
      ],
    ])("says what was wrong with %s", async (_name, answer, message) => {
      await expect(fetched({ issuer: ISSUER }, answer)).rejects.toThrow(
        expect.objectContaining({ code: "ERR_CLI_FILE", message: expect.stringMatching(message) as string }),
      );
    });
  });
});

describe("sealpod attest report", () => {
  const provider: ReportProvider = {
    report: (data) => ({ report: reportOf({ reportData: concatBytes(data, new Uint8Array(64 - data.length)) }), auxblob: TABLE }),
  };

  it("fetches a report from a directory, says where it came from, and what it writes verifies", async () => {
    const reports = await mkdtemp(join(directory, "tsm-"));
    await using _server = await serveTsm(provider, reports, { logger: silentLogger });
    const ran = await attest(["report", "--report-data", "c0ffee", "--source", reports, "-o", "fetched.bin", "--certs-out", "fetched.certs"]);
    expect(ran).toMatchObject({ exit: EXIT.ok, stdout: "" });
    expect(ran.stderr).toBe(`report of 1184 bytes from the EMULATED security processor (proves nothing about hardware), ${reports}\n`);
    expect(await readdir(reports)).toEqual([]);
    const verified = await attest(["verify", "fetched.bin", "--certs", "fetched.certs", "--report-data", "c0ffee", ...TRUST], { "ark.pem": ARK });
    expect(verified.exit).toBe(EXIT.ok);
  });

  it("writes hex without -o, and everything with --json", async () => {
    const reports = await mkdtemp(join(directory, "tsm-"));
    await using _server = await serveTsm({ report: async (data) => ({ ...(await provider.report(data)), auxblob: new Uint8Array() }) }, reports, {
      logger: silentLogger,
    });
    const text = await attest(["report", "--report-data", "01", "--source", reports]);
    expect(text.stdout).toMatch(/^[0-9a-f]{2368}\n$/);
    expect(text.stderr).toContain("the host gave no certificates");
    const json = await attest(["report", "--report-data", "01", "--source", reports, "--certs-out", "none.certs", "--json"]);
    expect(JSON.parse(json.stdout)).toMatchObject({
      origin: { kind: "emulator" },
      certificates: null,
      report: expect.stringMatching(/^[0-9a-f]{2368}$/) as string,
    });
    await expect(readFile(join(directory, "none.certs"))).rejects.toThrow(/ENOENT/);
  });

  it.each<[string, readonly string[], number, RegExp]>([
    ["no data", [], EXIT.usage, /required option '--report-data <hex>'/],
    ["data that is no hex", ["--report-data", "xyz"], EXIT.usage, /hex digits/],
    ["a VMPL that there is not", ["--report-data", "00", "--vmpl", "9"], EXIT.usage, /expected 0, 1, 2 or 3/],
    ["a directory that there is not", ["--report-data", "00", "--source", "./absent"], EXIT.failed, /absent \(ENOENT\)/],
    [
      "a directory that nothing serves",
      ["--report-data", "00", "--source", "."],
      EXIT.failed,
      /sealpod-verify-[^/ ]+ is no report interface[\s\S]*sealpod run/,
    ],
  ])("refuses %s", async (_name, flags, exit, message) => {
    const ran = await attest(["report", ...flags]);
    expect(ran).toMatchObject({ exit, stdout: "" });
    expect(ran.stderr).toMatch(message);
  });
});

// Where a kernel gives reports there is nothing to say.
describe.skipIf(existsSync("/sys/kernel/config/tsm/report") || existsSync("/dev/sev-guest") || existsSync("/run/sealpod"))(
  "sealpod attest report on a machine without a source",
  () => {
    it("says how to get one, and names a pod that runs", async () => {
      const none = await attest(["report", "--report-data", "00"]);
      expect(none).toMatchObject({ exit: EXIT.failed, stdout: "" });
      expect(none.stderr).toContain(`then --source ${join(directory, "state", "guests")}/ID/tsm/report`);
      const [first, second] = ["1".repeat(32), "2".repeat(32)].map((id) => join(directory, "state", "guests", id));
      for (const path of [second, first]) await mkdir(path ?? "", { recursive: true });
      await mkdir(join(directory, "state", "guests", "0other"));
      expect((await attest(["report", "--report-data", "00"])).stderr).toContain(`--source ${first}/tsm/report (or another of 2 `);
    });
  },
);

describe("sealpod attest", () => {
  it.each(["verify", "report"])("%s has help with examples", async (verb) => {
    const ran = await attest([verb, "--help"]);
    expect(ran.exit).toBe(EXIT.ok);
    expect(ran.stdout).toMatch(new RegExp(`Examples:\\n[\\s\\S]*sealpod attest ${verb}`));
  });
});

const VECTORS = join(process.cwd(), "../shared/vectors/attestation");
const present = existsSync(`${VECTORS}/manifest.json`);
const manifest = present ? asObject(parseJson(readFileSync(`${VECTORS}/manifest.json`, "utf8"))) : undefined;
const textOf = (value: JsonValue | undefined): string => (typeof value === "string" ? value : "");
const genuine = (asArray(manifest?.["reports"]) ?? []).map((item): readonly [string, JsonObject] => [textOf(asObject(item)?.["name"]), asObject(item) ?? {}]);
const texts = (list: JsonValue | undefined): readonly string[] => (asArray(list) ?? []).map(textOf);

describe.skipIf(!present)("genuine evidence (skipped without ../shared/vectors/attestation)", () => {
  const at = ["--at", "2026-11-22"];

  it.each(genuine)("%s verifies under AMD's root, and not one bit changed", async (_name, vector) => {
    const file = `${VECTORS}/${textOf(vector["report"])}`;
    const certs = texts(vector["certs"]).flatMap((name) => ["--certs", `${VECTORS}/${name}`]);
    const debug = (BigInt(textOf(asObject(vector["expect"])?.["policy"])) & 0x80000n) !== 0n;
    const ran = await attest(["verify", file, ...certs, ...at, ...(debug ? ["--allow-debug"] : [])]);
    expect(lastLines(ran)).toMatch(/^VERIFIED under AMD's root: a genuine (Milan|Genoa|Turin) processor/);
    expect(ran.exit).toBe(EXIT.ok);
    expect(ran.stdout).toContain(textOf(asObject(vector["expect"])?.["measurement"]));
    if (debug) expect((await attest(["verify", file, ...certs, ...at])).exit).toBe(EXIT.refused);
    // The emulator's root counts for emulated evidence alone.
    expect((await attest(["verify", file, ...certs, ...at, ...TRUST], { "ark.pem": ARK })).exit).toBe(EXIT.refused);
    const raw = readFileSync(file);
    const bytes = vector["encoding"] === "raw" ? raw : Buffer.from(raw.toString("latin1").trim(), vector["encoding"] as "hex" | "base64");
    const changed = bytes.map((byte, index) => (index === 0xc0 ? byte ^ 1 : byte));
    expect((await attest(["verify", "changed", ...certs, ...at], { changed })).exit).toBe(EXIT.refused);
  });

  it("a whole request to an attestation service holds with everything in it", async () => {
    const file = `${VECTORS}/cleanroom/insecure-virtual/encryption/maa-request.json`;
    const ran = await attest(["verify", file, ...at, "--host-data", "73973b78d70cc68353426de188db5dfc57e5b766e399935fb73a61127ea26d20"]);
    expect(ran.exit).toBe(EXIT.ok);
    for (const check of ["runtime data", "enclosed 1", "hostData"]) expect(mark(ran, check), check).toBe("ok");
    expect(ran.stdout).toContain("ContainerPlat-AMD-UVM version 103 for the report's measurement: azure-compliant-uvm");
    expect(lastLines(ran)).not.toContain("Not asked");
  });

  it("the combined evidence of the sidecar holds, and an endorsement of another measurement does not", async () => {
    const file = `${VECTORS}/kms/snp.json`;
    const ran = await attest(["verify", file, ...at]);
    expect(ran.exit).toBe(EXIT.ok);
    expect(mark(ran, "enclosed 1")).toBe("ok");
    const other = `${VECTORS}/cleanroom/decoded/maa-request.uvm-endorsement.cose`;
    const refused = await attest(["verify", file, ...at, "--endorsement", other]);
    expect(refused.exit).toBe(EXIT.refused);
    expect(lastLines(refused)).toContain("it endorses the measurement d0c9e2be");
  });

  it("a security context's THIM document and endorsement are read", async () => {
    const context = `${VECTORS}/sidecar/security-context`;
    // They belong to another chip than the report: what matters is that they are read, and refused for that reason.
    const ran = await attest([
      "verify",
      `${VECTORS}/maa/report.bin`,
      "--certs",
      `${context}/host-amd-cert-base64`,
      "--endorsement",
      `${context}/reference-info-base64`,
      ...at,
    ]);
    expect(ran.exit).toBe(EXIT.refused);
    expect(mark(ran, "chain")).toBe("ok");
  });

  it("a genuine token is shown, and refused without its issuer's keys", async () => {
    const ran = await attest(["verify", `${VECTORS}/maa/sev-snp-jwt.txt`, ...at]);
    expect(ran.exit).toBe(EXIT.refused);
    expect(ran.stdout).toContain("https://sharedweu.weu.test.attest.azure.net");
  });
});
