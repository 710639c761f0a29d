import { generateKeyPairSync, createPrivateKey } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { policyHash } from "@sealpod/attestation";
import { encodeUtf8, toBase64url } from "@sealpod/core";
import { encodeCertificatesPem } from "@sealpod/pki";
import { encodeReport, parseReport } from "@sealpod/snp";
import { EXIT, type CliContext } from "../context.ts";
import { runCli } from "../program.ts";
import { emulatedProcessor } from "./verify-test-support.ts";

const milan = emulatedProcessor("Milan");

interface Ran {
  readonly exit: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** `sealpod attest policy` in a directory with these files. */
async function policy(files: Readonly<Record<string, string>>, ...argv: readonly string[]): Promise<Ran> {
  const directory = await mkdtemp(join(tmpdir(), "sealpod-attest-policy-"));
  try {
    for (const [name, text] of Object.entries(files)) await writeFile(join(directory, name), text);
    const written = { stdout: "", stderr: "" };
    const context: CliContext = {
      env: { HOME: directory },
      cwd: directory,
      stdin: (async function* () {})(),
      stdout: { isTerminal: false, write: (text) => void (written.stdout += text) },
      stderr: { isTerminal: false, write: (text) => void (written.stderr += text) },
      clock: { now: () => 1_700_000_000_000 },
      elapsed: () => 0,
      random: { bytes: (length) => new Uint8Array(length) },
      signal: new AbortController().signal,
    };
    return { exit: await runCli(["attest", "policy", ...argv], context), ...written };
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

const GOOD = `version= 1.2;
authorizationrules
{
    // Debuggable guests give their memory away.
    [type=="x-ms-sevsnpvm-is-debuggable", value==true] => deny();
    [type=="x-ms-sevsnpvm-guestsvn", value>=2] => permit();
};
issuancerules
{
    c:[type=="x-ms-runtime"] => issue(type="kid", value=JsonToClaimValue(JmesPath(c.value, "keys[].kid")));
    => issueproperty(type="report_validity_in_minutes", value=60);
};
`;
const BAD = 'version= 1.0;\nauthorizationrules\n{\n    [typ=="a"] => permit();\n    => issue(claim=c);\n};\n';
const CLAIMS =
  '{"x-ms-sevsnpvm-is-debuggable": false, "x-ms-sevsnpvm-guestsvn": 2, "x-ms-runtime": {"keys": [{"kid": "a"}, {"kid": "b"}], "n": 13202930541250959283}}';
const token = (claims: string): string => `${toBase64url(encodeUtf8('{"alg":"RS256"}'))}.${toBase64url(encodeUtf8(claims))}.${toBase64url(encodeUtf8("x"))}`;

describe("sealpod attest policy", () => {
  it("without a verb shows its verbs and is a usage error", async () => {
    const ran = await policy({});
    expect(ran.exit).toBe(EXIT.usage);
    for (const verb of ["check", "eval", "get", "set", "reset"]) expect(ran.stderr).toContain(`\n  ${verb} `);
  });

  it.each(["check", "eval", "get", "set", "reset"])("%s has help with examples", async (verb) => {
    const ran = await policy({}, verb, "--help");
    expect(ran.exit).toBe(EXIT.ok);
    expect(ran.stdout).toMatch(new RegExp(`Examples:\\n[\\s\\S]*sealpod attest policy ${verb}`));
  });
});

describe("sealpod attest policy check", () => {
  it("says what a good policy is, with its hash", async () => {
    expect(await policy({ "p.txt": GOOD }, "check", "p.txt")).toEqual({
      exit: EXIT.ok,
      stdout: `p.txt is a policy of version 1.2 with 4 rules\nx-ms-policy-hash: ${policyHash(GOOD)}\n`,
      stderr: "",
    });
  });

  it("prints the canonical text, which is a policy too", async () => {
    const { stdout } = await policy({ "p.txt": GOOD }, "check", "--print", "p.txt");
    expect(stdout).toContain('    [type == "x-ms-sevsnpvm-guestsvn", value >= 2] => permit();\n');
    expect((await policy({ "p.txt": stdout }, "check", "--print", "p.txt")).stdout).toBe(stdout);
  });

  it("tells all problems with place, line, caret and what to do", async () => {
    expect(await policy({ "p.txt": BAD }, "check", "p.txt")).toEqual({
      exit: EXIT.failed,
      stdout: "",
      stderr: [
        "p.txt:4:6: expected 'type', 'value', 'issuer' or 'valueType', found 'typ'",
        '      [typ=="a"] => permit();',
        "       ^",
        "  to do: Did you mean type?",
        "p.txt:5:8: authorizationrules may not issue: expected 'permit', 'deny', 'add', found 'issue'",
        "      => issue(claim=c);",
        "         ^",
        "  to do: Move the rule to issuancerules.",
        "p.txt:5:20: no condition gives this name to a claim; no condition names a claim, found 'c'",
        "      => issue(claim=c);",
        "                     ^",
        '  to do: Write c:[type=="…"] => … to name the claim.',
        "3 problems in p.txt",
        "",
      ].join("\n"),
    });
  });

  it("does so as JSON", async () => {
    const ran = await policy({ "p.txt": BAD }, "check", "--json", "p.txt");
    expect(ran).toMatchObject({ exit: EXIT.failed, stderr: "" });
    const { valid, problems } = JSON.parse(ran.stdout) as { valid: boolean; problems: unknown[] };
    expect(valid).toBe(false);
    expect(problems).toHaveLength(3);
    expect(problems[0]).toEqual({
      file: "p.txt",
      line: 4,
      column: 6,
      found: "'typ'",
      problem: "expected 'type', 'value', 'issuer' or 'valueType'",
      hint: "Did you mean type?",
      message: "Offending symbol 'typ'. Line: '4', Column: '6'. expected 'type', 'value', 'issuer' or 'valueType'",
    });
    expect(JSON.parse((await policy({ "p.txt": GOOD }, "check", "--json", "p.txt")).stdout)).toMatchObject({
      valid: true,
      version: "1.2",
      rules: 4,
      hash: policyHash(GOOD),
    });
  });

  it("lets nothing in a policy paint the terminal", async () => {
    const { stderr } = await policy({ "p.txt": "version=1.0;\u001b[31m\u009b1mauthorizationrules{};" }, "check", "p.txt");
    // eslint-disable-next-line no-control-regex -- exactly these
    expect(stderr).not.toMatch(/[\u001b\u009b]/);
  });

  it("says that a policy is too large, or not there", async () => {
    expect(await policy({ "p.txt": " ".repeat(100_000) }, "check", "p.txt")).toMatchObject({
      exit: EXIT.failed,
      stderr: expect.stringContaining("ERR_ATTESTATION_POLICY_LIMIT") as string,
    });
    expect(await policy({}, "check", "p.txt")).toMatchObject({ exit: EXIT.failed, stderr: expect.stringContaining("p.txt does not exist") as string });
  });
});

describe("sealpod attest policy eval", () => {
  const evaluate = async (claims: string, text = GOOD, ...flags: readonly string[]): Promise<Ran> =>
    policy({ "p.txt": text, "c.json": claims }, "eval", "p.txt", "--claims", "c.json", ...flags);

  it("prints what is permitted, why, and what is issued", async () => {
    expect(await evaluate(CLAIMS)).toEqual({
      exit: EXIT.ok,
      stderr: "",
      stdout: `p.txt over the claims in c.json (3)

PERMITTED by permit() in line 6, column 5

rules:
  5:5  deny()  unmet: no claim meets [type == "x-ms-sevsnpvm-is-debuggable", value == true] (line 5, column 5); found x-ms-sevsnpvm-is-debuggable = false of AttestationService
  6:5  permit()  acted
  10:5  issue(type="kid", value=JsonToClaimValue(JmesPath(c.value, "keys[].kid")))  acted
  11:5  issueproperty(type="report_validity_in_minutes", value=60)  acted

issued claims:
  "kid": ["a","b"]

properties:
  "report_validity_in_minutes": 60
`,
    });
  });

  it("exits with 3 when a policy denies, or does not permit, and says why", async () => {
    expect(await evaluate('{"x-ms-sevsnpvm-is-debuggable": true}')).toMatchObject({
      exit: EXIT.refused,
      stdout: expect.stringContaining("\nREFUSED: denied by deny() in line 5, column 5\n") as string,
    });
    const ran = await evaluate('{"x-ms-sevsnpvm-guestsvn": 1}');
    expect(ran.exit).toBe(EXIT.refused);
    expect(ran.stdout).toContain(
      '  the rule in line 6, column 5 did not permit: no claim meets [type == "x-ms-sevsnpvm-guestsvn", value >= 2] (line 6, column 5); found x-ms-sevsnpvm-guestsvn = 1 of AttestationService\n',
    );
    expect(ran.stdout).not.toContain("issued");
  });

  it("takes a token, and a service's answer with one, and says that it has not verified them", async () => {
    for (const text of [token(CLAIMS), `${token(CLAIMS)}\n`, JSON.stringify({ token: token(CLAIMS) })]) {
      const ran = await evaluate(text);
      expect(ran).toMatchObject({ exit: EXIT.ok, stdout: expect.stringContaining("the claims of a token (NOT VERIFIED) in c.json (3)") as string });
    }
  });

  it("takes a request to attest, computes the claims of its report, and says that it has verified nothing", async () => {
    const data = encodeUtf8('{"keys": [{"kid": "a"}]}');
    const request = (policy: bigint): string => {
      // Signed by nobody.
      const report = encodeReport({ ...parseReport(milan.report({ policy })), signature: { r: 1n, s: 1n } });
      const { endorsementKey, intermediate, root } = milan.chain;
      const evidence = { SnpReport: toBase64url(report), VcekCertChain: toBase64url(encodeUtf8(encodeCertificatesPem([endorsementKey, intermediate, root]))) };
      return JSON.stringify({ report: toBase64url(encodeUtf8(JSON.stringify(evidence))), runtimeData: { data: toBase64url(data), dataType: "JSON" } });
    };
    const ran = await evaluate(request(0x3001fn));
    expect(ran).toMatchObject({
      exit: EXIT.ok,
      stdout: expect.stringContaining(
        "over the claims of the report in a SevSnpVm request (NOT VERIFIED) in c.json (21)\nnote: nothing in the request is verified",
      ) as string,
    });
    expect(ran.stdout).toContain('"kid": "a"');
    const text =
      'version=1.0;authorizationrules{[type=="x-ms-sevsnpvm-microcode-svn",value==219]&&[type=="x-sealpod-root",value=="emulator"]&&[type=="x-ms-attestation-type",value=="sevsnpvm"]=>permit();};';
    expect((await evaluate(request(0x3001fn), text)).exit).toBe(EXIT.ok);
    const debuggable = await evaluate(request(0xb001fn), GOOD, "--json");
    expect(debuggable.exit).toBe(EXIT.refused);
    expect(JSON.parse(debuggable.stdout)).toMatchObject({ permitted: false, decidedBy: { line: 5 }, input: { claims: 21, notes: [expect.any(String)] } });
    for (const bad of ['{"report": "e30"}', '{"report": "e30", "nonce": "1"}', '{"report": "!"}']) {
      expect(await evaluate(bad)).toMatchObject({ exit: EXIT.failed, stderr: expect.stringContaining("ERR_ATTESTATION_REQUEST") as string });
    }
  });

  it("takes claims one by one, of any issuer", async () => {
    const text = 'version=1.0;authorizationrules{[type=="a", issuer=="CustomClaim", value==1] => permit();};';
    expect((await evaluate('[{"type":"a","value":1,"issuer":"CustomClaim"}]', text)).exit).toBe(EXIT.ok);
    expect((await evaluate('[{"type":"a","value":1}]', text)).exit).toBe(EXIT.refused);
    for (const bad of [
      '[{"type":"a"}]',
      '[{"type":"a","value":1,"issuer":"me"}]',
      '[{"type":"a","value":[1,2]}]',
      '[{"type":"a","value":1,"extra":1}]',
      "[1]",
      '"x"',
      "{",
    ]) {
      expect((await evaluate(bad, text)).exit, bad).toBe(EXIT.failed);
    }
  });

  it("answers in JSON, integers exact", async () => {
    const text =
      'version=1.2;authorizationrules{=>permit();[type=="no"]=>deny();};issuancerules{c:[type=="x-ms-runtime"]=>issue(type="n",value=JsonToClaimValue(JmesPath(c.value,"n")));};';
    const ran = await evaluate(CLAIMS, text, "--json");
    expect(ran.stdout).toMatch(/"n": ?13202930541250959283/);
    expect(JSON.parse(ran.stdout)).toMatchObject({
      permitted: true,
      decidedBy: { line: 1, column: 32, action: "permit" },
      why: ["permitted by permit() in line 1, column 32"],
      properties: {},
      rules: [{ outcome: "acted", action: "permit()" }, { outcome: "not-reached" }, { outcome: "acted" }],
    });
    expect(JSON.parse((await evaluate("{}", GOOD, "--json")).stdout)).toMatchObject({
      permitted: false,
      claims: {},
      rules: [{ unmet: { line: 5, found: [] } }, {}, { outcome: "not-reached" }, {}],
    });
  });

  it("fails when the policy does not parse, or fails", async () => {
    expect(await evaluate(CLAIMS, BAD)).toMatchObject({ exit: EXIT.failed, stdout: "", stderr: expect.stringContaining("p.txt:4:6:") as string });
    const ran = await evaluate(CLAIMS, 'version=1.2;authorizationrules{c:[type=="x-ms-sevsnpvm-guestsvn"]=>add(type="a",value=NegateBool(c.value));};');
    expect(ran).toMatchObject({ exit: EXIT.failed, stderr: expect.stringContaining("ERR_ATTESTATION_POLICY_EVALUATION") as string });
  });
});

describe("the flags of get, set and reset", () => {
  const endpoint = ["--endpoint", "https://attest.test"];
  const { privateKey } = generateKeyPairSync("rsa", {
    modulusLength: 2048,
    privateKeyEncoding: { type: "pkcs8", format: "pem" },
    publicKeyEncoding: { type: "spki", format: "pem" },
  });

  it.each<[string, readonly string[], number, string]>([
    ["no endpoint, and no laptop", ["get"], EXIT.usage, "no --endpoint is given, and no laptop services run"],
    ["http", ["get", "--endpoint", "http://attest.test"], EXIT.usage, "is not the https URL of a service"],
    ["no URL", ["get", "--endpoint", "attest.test"], EXIT.usage, "is not the https URL of a service"],
    ["a user in the URL", ["get", "--endpoint", "https://user@attest.test"], EXIT.usage, "is not the https URL of a service"],
    ["a token that is none", ["get", ...endpoint, "--bearer-token-file", "token"], EXIT.failed, "holds no access token"],
    ["a key without certificate", ["set", "p.txt", ...endpoint, "--key", "key.pem"], EXIT.usage, "--key is given without --cert"],
    ["a certificate without key", ["reset", ...endpoint, "--cert", "key.pem"], EXIT.usage, "--cert is given without --key"],
    ["a key that is none", ["reset", ...endpoint, "--key", "p.txt", "--cert", "p.txt"], EXIT.failed, "holds no private key"],
    ["an authority file that is empty", ["get", ...endpoint, "--ca", "empty"], EXIT.failed, "empty holds no certificate"],
    ["an authority file with a key", ["get", ...endpoint, "--ca", "key.pem"], EXIT.failed, "key.pem holds no certificate"],
    ["a certificate that is none", ["reset", ...endpoint, "--key", "key.pem", "--cert", "empty"], EXIT.failed, "empty holds no certificate"],
    ["the laptop's name while it is not up", ["get", "--endpoint", "https://attest.sealpod.internal:8443"], EXIT.failed, "sealpod up -d"],
    ["a bad policy", ["set", "bad.txt", ...endpoint], EXIT.failed, "bad.txt:4:6:"],
  ])("%s", async (_, argv, exit, message) => {
    const ran = await policy({ "p.txt": GOOD, "bad.txt": BAD, empty: "", token: "line one\nsecret two", "key.pem": privateKey }, ...argv);
    expect(ran.exit).toBe(exit);
    expect(ran.stderr).toContain(message);
    expect(ran.stderr).not.toContain("secret");
    expect(createPrivateKey(privateKey).asymmetricKeyType).toBe("rsa");
  });
});
