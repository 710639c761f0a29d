import { X509Certificate } from "node:crypto";
import type { Hono } from "hono";
import { createLocalJWKSet, decodeJwt, jwtVerify } from "jose";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { concatBytes, encodeUtf8, sha256, toBase64url, toHex, type LogFields } from "@sealpod/core";
import { AMD_ROOTS, HOST_VMPL, SIGNATURE_OFFSET } from "@sealpod/snp";
import { attestationApp, DEFAULT_POLICY_HASH, openAttestationStore, type AttestationStore } from "./index.ts";
import {
  HOST_DATA,
  makeProcessor,
  makeReport,
  makeUvmSigner,
  MEASUREMENT,
  random,
  START,
  trustOf,
  type Processor,
  type UvmSigner,
} from "./testdata/evidence.ts";

const ISSUER = "https://attest.test:8443";
const URL_SNP = `${ISSUER}/attest/SevSnpVm?api-version=2022-08-01`;
const NOW = START / 1000;

type Json = Record<string, unknown>;
interface ErrorBody {
  readonly error: { readonly code: string; readonly message: string; readonly innererror: { readonly code: string; readonly hint?: string } };
}

let processor: Processor;
let stranger: Processor;
let signer: UvmSigner;
let time: number;
let store: AttestationStore;
let app: Hono;
let logs: { message: string; fields: LogFields }[];
const clock = { now: () => time };
const open = (options: Partial<Parameters<typeof attestationApp>[0]> = {}): Hono =>
  attestationApp({
    issuer: ISSUER,
    store,
    clock,
    random,
    roots: [processor.root],
    uvmTrust: [trustOf(signer)],
    logger: { log: (_level, message, fields = {}) => void logs.push({ message, fields }) },
    ...options,
  });

beforeAll(async () => {
  time = START;
  processor = makeProcessor("emulator");
  stranger = makeProcessor("emulator");
  signer = makeUvmSigner();
  store = await openAttestationStore({ file: ":memory:", masterKey: new Uint8Array(32).fill(3), clock, random });
});
afterAll(() => {
  store.close();
});
beforeEach(() => {
  time = START;
  logs = [];
  app = open();
});

const b64 = (data: Uint8Array | string): string => toBase64url(typeof data === "string" ? encodeUtf8(data) : data);

interface Evidence {
  readonly report?: Uint8Array;
  readonly chain?: string;
  readonly uvm?: readonly Uint8Array[];
  readonly members?: Json;
}

function body({ report = makeReport(processor), chain = processor.chain, uvm, members = {} }: Evidence = {}): string {
  const endorsements = uvm === undefined ? {} : { Endorsements: b64(JSON.stringify({ Uvm: uvm.map(b64) })) };
  return JSON.stringify({ report: b64(JSON.stringify({ SnpReport: b64(report), VcekCertChain: b64(chain), ...endorsements })), ...members });
}

const post = (content: string, url = URL_SNP): Promise<Response> =>
  Promise.resolve(app.request(url, { method: "POST", headers: { "content-type": "application/json" }, body: content }));

async function claimsOf(response: Response): Promise<Json> {
  expect(response.status).toBe(200);
  return decodeJwt(((await response.json()) as { token: string }).token);
}

async function refusal(response: Response | Promise<Response>): Promise<ErrorBody["error"] & { status: number }> {
  const answer = await response;
  return { ...((await answer.json()) as ErrorBody).error, status: answer.status };
}

const RUNTIME = '{\n  "keys": [ {"kty":"RSA", "n":"AA", "big": 13202930541250959283} ]\n}';
const bound = (data: string): Uint8Array => concatBytes(sha256(encodeUtf8(data)), new Uint8Array(32));

describe("POST /attest/SevSnpVm", () => {
  it("issues a token that the published keys verify, with the claims of the report in the order of their names", async () => {
    const response = await post(body());
    const { token } = (await response.json()) as { token: string };
    const jwks = (await (await app.request("/certs")).json()) as { keys: { kid: string; x5c: string[] }[] };
    const { payload, protectedHeader } = await jwtVerify(token, createLocalJWKSet(jwks as never), { currentDate: new Date(START), issuer: ISSUER });
    const leaf = new X509Certificate(Buffer.from(jwks.keys[0]?.x5c[0] ?? "", "base64"));
    const kid = Buffer.from(leaf.fingerprint256.replaceAll(":", ""), "hex").toString("base64");
    expect(protectedHeader).toEqual({ alg: "RS256", jku: `${ISSUER}/certs`, kid, typ: "JWT" });
    expect(Object.keys(payload)).toEqual(Object.keys(payload).sort());
    expect(payload).toEqual({
      exp: NOW + 28_800,
      iat: NOW,
      iss: ISSUER,
      jti: expect.stringMatching(/^[0-9a-f]{64}$/) as string,
      nbf: NOW,
      "x-ms-attestation-type": "sevsnpvm",
      "x-ms-policy-hash": DEFAULT_POLICY_HASH,
      "x-ms-sevsnpvm-authorkeydigest": "00".repeat(48),
      "x-ms-sevsnpvm-bootloader-svn": 4,
      "x-ms-sevsnpvm-familyId": "01".repeat(16),
      "x-ms-sevsnpvm-guestsvn": 2,
      "x-ms-sevsnpvm-hostdata": toHex(HOST_DATA),
      "x-ms-sevsnpvm-idkeydigest": "1d".repeat(48),
      "x-ms-sevsnpvm-imageId": "02".repeat(16),
      "x-ms-sevsnpvm-is-debuggable": false,
      "x-ms-sevsnpvm-launchmeasurement": toHex(MEASUREMENT),
      "x-ms-sevsnpvm-microcode-svn": 219,
      "x-ms-sevsnpvm-migration-allowed": false,
      "x-ms-sevsnpvm-reportdata": "00".repeat(64),
      "x-ms-sevsnpvm-reportid": "1e".repeat(32),
      "x-ms-sevsnpvm-smt-allowed": true,
      "x-ms-sevsnpvm-snpfw-svn": 24,
      "x-ms-sevsnpvm-tee-svn": 1,
      "x-ms-sevsnpvm-vmpl": 0,
      "x-ms-ver": "1.0",
      "x-sealpod-root": "emulator",
    });
  });

  it("says of a debuggable guest that it is one", async () => {
    const claims = await claimsOf(await post(body({ report: makeReport(processor, { policy: 0x3001fn | (1n << 19n) | (1n << 18n), vmpl: 2 }) })));
    expect(claims).toMatchObject({ "x-ms-sevsnpvm-is-debuggable": true, "x-ms-sevsnpvm-migration-allowed": true, "x-ms-sevsnpvm-vmpl": 2 });
  });

  it.each(["/attest/sevsnpvm", "/ATTEST/SevSnpVM", "//attest//SevSnpVm/"])("answers under %s", async (path) => {
    expect((await post(body(), `${ISSUER}${path}?api%2Dversion=2020-10-01`)).status).toBe(200);
  });

  it.each(["", "?api-version=", "?api-version=2022", "?api-version=2022-08-01&api-version=2022-08-01"])("wants an api-version, found %j", async (query) => {
    expect(await refusal(post(body(), `${ISSUER}/attest/SevSnpVm${query}`))).toMatchObject({
      status: 400,
      code: "InvalidParameter",
      message: expect.stringContaining("api-version") as string,
    });
  });

  it("takes base64 of both alphabets, padded or not", async () => {
    const text = body({ uvm: [signer.endorse()] });
    const { report } = JSON.parse(text) as { report: string };
    const inner = JSON.parse(Buffer.from(report, "base64url").toString()) as Record<string, string>;
    const padded = (value: string): string => Buffer.from(value, "base64url").toString("base64").replaceAll("+", "-").replaceAll("/", "_");
    for (const encode of [padded, (value: string): string => Buffer.from(value, "base64url").toString("base64")]) {
      const again = encode(
        Buffer.from(JSON.stringify(Object.fromEntries(Object.entries(inner).map(([name, value]) => [name, encode(value)])))).toString("base64url"),
      );
      expect((await post(JSON.stringify({ report: again }))).status).toBe(200);
    }
  });

  describe("bound data", () => {
    it("puts runtime and init-time objects into the token without loss", async () => {
      const members = { runtimeData: { data: b64(RUNTIME), dataType: "JSON" }, initTimeData: { data: b64('{"a":1}'), dataType: "JSON" } };
      const report = makeReport(processor, { reportData: bound(RUNTIME), hostData: sha256(encodeUtf8('{"a":1}')) });
      const response = await post(body({ report, members }));
      const { token } = (await response.json()) as { token: string };
      const payload = Buffer.from(token.split(".")[1] ?? "", "base64url").toString();
      expect(payload).toContain('"x-ms-runtime":{"keys":[{"kty":"RSA","n":"AA","big":13202930541250959283}]}');
      expect(payload).toContain('"x-ms-inittime":{"a":1}');
    });

    it("binds binary data and makes no claim of them", async () => {
      const members = { runtimeData: { data: b64("PEM"), dataType: "Binary" } };
      const claims = await claimsOf(await post(body({ report: makeReport(processor, { reportData: bound("PEM") }), members })));
      expect(claims).not.toHaveProperty("x-ms-runtime");
    });

    it("treats the empty init-time data of the sidecar as none", async () => {
      const claims = await claimsOf(await post(body({ members: { initTimeData: { data: "", dataType: "" }, runtimeData: null } })));
      expect(claims).not.toHaveProperty("x-ms-inittime");
    });

    it.each<readonly [string, Uint8Array]>([
      ["another hash", bound("other")],
      ["the hash with bytes after it", concatBytes(sha256(encodeUtf8(RUNTIME)), new Uint8Array(32).fill(1))],
      ["the hash in the second half", concatBytes(new Uint8Array(32), sha256(encodeUtf8(RUNTIME)))],
      ["zeros", new Uint8Array(64)],
    ])("refuses runtime data when REPORT_DATA is %s", async (_what, reportData) => {
      for (const dataType of ["JSON", "Binary"]) {
        const answer = await refusal(post(body({ report: makeReport(processor, { reportData }), members: { runtimeData: { data: b64(RUNTIME), dataType } } })));
        expect(answer).toMatchObject({ status: 400, code: "InvalidParameter", innererror: { code: "ERR_ATTESTATION_RUNTIME_DATA" } });
        expect(answer.message).toContain(`REPORT_DATA is ${toHex(reportData)}`);
      }
    });

    it("refuses init-time data when HOST_DATA is another hash", async () => {
      const answer = await refusal(post(body({ members: { initTimeData: { data: b64('{"a":1}'), dataType: "JSON" } } })));
      expect(answer).toMatchObject({ status: 400, innererror: { code: "ERR_ATTESTATION_INIT_TIME_DATA" } });
      expect(answer.message).toContain(`HOST_DATA is ${toHex(HOST_DATA)}`);
    });
  });

  it.each([
    ["13202930541250959283", "13202930541250959283"],
    ["7", "7"],
    ['"abc"', "abc"],
  ])("carries the nonce %s without loss", async (nonce, expected) => {
    const text = body().replace(/\}$/, `,"nonce":${nonce}}`);
    expect((await claimsOf(await post(text)))["nonce"]).toBe(expected);
  });

  describe("endorsements", () => {
    const attempt = async (...uvm: Uint8Array[]): Promise<{ status: unknown; outcome: string | null; problem: unknown }> => {
      const response = await post(body({ uvm }));
      const outcome = response.headers.get("x-sealpod-uvm-endorsement");
      return { status: (await claimsOf(response))["x-ms-compliance-status"], outcome, problem: logs.at(-1)?.fields["problem"] };
    };

    it("give the compliance status that is configured for their signer and feed", async () => {
      expect(await attempt(signer.endorse())).toMatchObject({ status: "azure-signed-katacc-uvm", outcome: "endorsed" });
    });

    it("are each tried", async () => {
      expect(await attempt(Uint8Array.of(0xd2), signer.endorse())).toMatchObject({ status: "azure-signed-katacc-uvm", outcome: "endorsed" });
    });

    it("may be none", async () => {
      expect(await attempt()).toMatchObject({ status: undefined, outcome: "none" });
    });

    it("give nothing, and the log says why, when they are of another VM, signer, feed or version, or malformed", async () => {
      const flipped = signer.endorse();
      flipped[flipped.length - 1] = (flipped[flipped.length - 1] ?? 0) ^ 1;
      for (const [bytes, problem] of [
        [signer.endorse({ launchMeasurement: new Uint8Array(48).fill(9) }), /it endorses the measurement 0909.*the report has 3e3e/],
        [makeUvmSigner().endorse(), /ERR_COSE_ISSUER/],
        [signer.endorse({ feed: "ContainerPlat-AMD-UVM" }), /ERR_COSE_ISSUER/],
        [signer.endorse({ svn: 0 }), /ERR_COSE_SVN/],
        [flipped, /ERR_COSE_SIGNATURE/],
        [Uint8Array.of(1, 2, 3), /ERR_COSE_/],
      ] as const) {
        const { status, outcome, problem: found } = await attempt(bytes);
        expect(status).toBeUndefined();
        expect(outcome).toBe("refused");
        expect(found).toMatch(problem);
      }
    });
  });

  describe("refuses evidence", () => {
    const flipBit = (bit: number): Uint8Array => {
      const report = makeReport(processor);
      report[bit >> 3] = (report[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      return report;
    };

    it("with any one bit changed", async () => {
      // One bit of every eighth byte of the signed part, and of R and S: each changes what is said or how it is signed.
      const bits = [...Array(SIGNATURE_OFFSET / 8).keys()]
        .map((index) => index * 64 + (index % 64))
        .concat([SIGNATURE_OFFSET * 8, (SIGNATURE_OFFSET + 72) * 8]);
      for (const bit of bits) {
        const answer = await refusal(post(body({ report: flipBit(bit) })));
        expect([bit, answer.status, answer.code]).toEqual([bit, 400, "InvalidParameter"]);
        expect(answer.innererror.code).toMatch(/^ERR_SNP_/);
      }
    });

    it("with changed HOST_DATA, naming the signature", async () => {
      expect(await refusal(post(body({ report: flipBit(0xc0 * 8) })))).toMatchObject({ innererror: { code: "ERR_SNP_SIGNATURE" } });
    });

    const evidence: readonly (readonly [string, () => Evidence, string])[] = [
      ["cut short", () => ({ report: makeReport(processor).subarray(0, 1183) }), "ERR_SNP_LENGTH"],
      ["with bytes after the report", () => ({ report: concatBytes(makeReport(processor), Uint8Array.of(0)) }), "ERR_SNP_LENGTH"],
      ["of a root that is not trusted here", () => ({ report: makeReport(stranger), chain: stranger.chain }), "ERR_SNP_ROOT"],
      ["signed by another processor", () => ({ report: makeReport(stranger) }), "ERR_SNP_SIGNATURE"],
      ["of another TCB than its certificate", () => ({ report: makeReport(processor, { reportedTcb: Uint8Array.of(3, 0, 0, 0, 0, 0, 1, 1) }) }), "ERR_SNP_TCB"],
      ["of another chip than its certificate", () => ({ report: makeReport(processor, { chipId: new Uint8Array(64).fill(1) }) }), "ERR_SNP_CHIP_ID"],
      ["that the host asked for", () => ({ report: makeReport(processor, { vmpl: HOST_VMPL }) }), "vmpl"],
      ["without certificates", () => ({ chain: "none" }), "ERR_SNP_CERTIFICATE"],
      [
        "without its intermediate",
        () => ({ chain: processor.chain.replace(/(-----END CERTIFICATE-----\n)-----BEGIN[^]*?END CERTIFICATE-----\n/, "$1") }),
        "ERR_SNP_CHAIN",
      ],
    ];
    it.each(evidence)("%s", async (_what, make, check) => {
      expect(await refusal(post(body(make())))).toMatchObject({ status: 400, code: "InvalidParameter", innererror: { code: check } });
    });

    it("whose certificates are not yet, or no longer, valid", async () => {
      for (const at of [START - 366 * 86_400_000, START + 366 * 86_400_000]) {
        time = at;
        expect(await refusal(post(body()))).toMatchObject({ innererror: { code: "ERR_SNP_VALIDITY" } });
      }
    });

    it("of the emulator where only AMD's roots are named", async () => {
      app = open({ roots: AMD_ROOTS });
      expect(await refusal(post(body()))).toMatchObject({
        status: 400,
        innererror: { code: "ERR_SNP_ROOT", hint: expect.stringContaining("amd Milan") as string },
      });
    });
  });

  describe("refuses a request", () => {
    const report = (change: Json): string =>
      JSON.stringify({ report: b64(JSON.stringify({ SnpReport: b64(makeReport(processor)), VcekCertChain: b64(processor.chain), ...change })) });
    const requests: readonly (readonly [string, () => string, RegExp])[] = [
      ["without body", () => "", /the request body/],
      ["that is no JSON", () => "{", /the request body/],
      ["with duplicate names", () => '{"report":"","report":""}', /duplicate name "report"/],
      ["with duplicate names in the report", () => JSON.stringify({ report: b64('{"SnpReport":"","SnpReport":""}') }), /duplicate name "SnpReport"/],
      [
        "with duplicate names in the runtime data",
        () => body({ members: { runtimeData: { data: b64('{"a":1,"a":2}'), dataType: "JSON" } } }),
        /duplicate name "a"/,
      ],
      ["that is a list", () => "[]", /not a JSON object/],
      ["without report", () => "{}", /^report: missing/],
      ["whose report is no base64", () => '{"report":"*"}', /^report: /],
      ["whose report is no UTF-8", () => '{"report":"_w"}', /^report: /],
      ["without SnpReport", () => report({ SnpReport: undefined }), /^report\.SnpReport: missing/],
      ["whose chain is no base64", () => report({ VcekCertChain: "%" }), /^report\.VcekCertChain: /],
      ["whose endorsements are no JSON", () => report({ Endorsements: b64("x") }), /^report\.Endorsements: /],
      ["whose endorsements are no list", () => report({ Endorsements: b64('{"Uvm":{}}') }), /^report\.Endorsements\.Uvm: /],
      ["with too many endorsements", () => report({ Endorsements: b64(JSON.stringify({ Uvm: Array.from({ length: 9 }, () => "AA") })) }), /at most 8/],
      ["whose endorsement is no string", () => report({ Endorsements: b64('{"Uvm":[1]}') }), /Uvm\[0\]/],
      ["whose runtime data have no type", () => body({ members: { runtimeData: { data: "AA", dataType: "" } } }), /^runtimeData\.dataType: /],
      [
        "whose runtime data are no JSON object",
        () => body({ members: { runtimeData: { data: b64("[]"), dataType: "JSON" } } }),
        /^runtimeData\.data: not a JSON object/,
      ],
      ["whose runtime data are no object", () => body({ members: { runtimeData: "AA" } }), /^runtimeData: /],
      ["whose nonce is no text", () => body({ members: { nonce: {} } }), /^nonce: /],
      ["whose nonce is a fraction", () => body({ members: { nonce: 1.5 } }), /^nonce: /],
    ];
    it.each(requests)("%s", async (_what, make, message) => {
      const answer = await refusal(post(make()));
      expect(answer).toMatchObject({ status: 400, code: "InvalidParameter", innererror: { code: "ERR_ATTESTATION_REQUEST" } });
      expect(answer.message).toMatch(message);
    });

    it("that is too large", async () => {
      expect(await refusal(post(" ".repeat(2 * 1024 * 1024 + 1)))).toMatchObject({ status: 413 });
    });

    it("of another content type", async () => {
      const response = app.request(URL_SNP, { method: "POST", headers: { "content-type": "text/plain" }, body: body() });
      expect(await refusal(response)).toMatchObject({ status: 415 });
    });
  });
});

describe("other pages", () => {
  it("publishes its OpenID configuration", async () => {
    const response = await app.request("/.well-known/openid-configuration");
    expect(await response.json()).toMatchObject({
      issuer: ISSUER,
      jwks_uri: `${ISSUER}/certs`,
      response_types_supported: ["token", "none"],
      id_token_signing_alg_values_supported: ["RS256"],
    });
  });

  it("publishes no private key", async () => {
    const { keys } = (await (await app.request("/certs")).json()) as { keys: Json[] };
    expect(Object.keys(keys[0] ?? {}).sort()).toEqual(["alg", "e", "kid", "kty", "n", "use", "x5c"]);
  });

  it("answers 404 to anything else", async () => {
    expect(await refusal(app.request("/"))).toMatchObject({ status: 404, code: "NotFound" });
  });
});

describe("attestationApp", () => {
  it("is not made without a root, or with an issuer that is not a plain https URL", () => {
    expect(() => open({ roots: [] })).toThrow(/no trust root/);
    for (const issuer of ["http://attest.test", "https://attest.test/", "attest.test", "https://attest.test?x"])
      expect(() => open({ issuer })).toThrow(/issuer is/);
  });
});
