import { createHash, X509Certificate } from "node:crypto";
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Hono } from "hono";
import { createLocalJWKSet, decodeJwt, jwtVerify } from "jose";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { encodeUtf8, silentLogger, toBase64, toBase64url } from "@sealpod/core";
import {
  attestationApp,
  DEFAULT_POLICY_HASH,
  openAttestationStore,
  type AttestationAppOptions,
  type AttestationStore,
  type ManagementAccess,
} from "./index.ts";
import { makeProcessor, makeReport, makeUvmSigner, random, START, trustOf, type Processor, type UvmSigner } from "./testdata/evidence.ts";
import { certificatePayload, makePolicySigner, policyPayload, unsigned, type PolicySigner } from "./testdata/policy-signer.ts";

const ISSUER = "https://attest.test:8443";
const V = "api-version=2020-10-01";
const PERMIT = "version= 1.0;\nauthorizationrules\n{\n=> permit();\n};\nissuancerules\n{\n};\n";
const DENY = "version= 1.0;\nauthorizationrules\n{\n=> deny();\n};\nissuancerules\n{\n};\n";
const ISSUE = 'version= 1.0;\nauthorizationrules\n{\n=> permit();\n};\nissuancerules\n{\n=> issue(type="greeting", value="hello");\n};\n';
const docHash = (text: string): string =>
  createHash("sha256")
    .update(toBase64url(encodeUtf8(text)))
    .digest("base64url");

type Json = Record<string, unknown>;
interface Answer {
  readonly status: number;
  readonly claims: Json;
  readonly error: { readonly code: string; readonly message: string; readonly innererror: { readonly code: string } };
  readonly challenge: string | null;
  readonly allow: string | null;
  readonly token: string;
}

const access: ManagementAccess = {
  authority: "https://login.test/tenant",
  authenticate: async (token) => {
    switch (token) {
      case "admin":
        return { kind: "allowed", subject: "the admin" };
      case "guest":
        return { kind: "forbidden", subject: "the guest", problem: "it is a guest" };
      case "broken":
        throw new Error("the keys of the authority cannot be fetched");
      default:
        return { kind: "refused", problem: "it is not one of ours" };
    }
  },
};

let processor: Processor;
let uvm: UvmSigner;
let alice: PolicySigner;
let bob: PolicySigner;
let store: AttestationStore;
let app: Hono;

const open = (options: Partial<AttestationAppOptions> = {}): Hono =>
  attestationApp({
    issuer: ISSUER,
    store,
    clock: { now: () => START },
    random,
    roots: [processor.root],
    uvmTrust: [trustOf(uvm)],
    logger: silentLogger,
    management: access,
    ...options,
  });

async function send(method: string, path: string, body?: string, headers: Record<string, string> = {}, to: Hono = app): Promise<Answer> {
  const response = await to.request(`${ISSUER}${path}${path.includes("?") ? "" : `?${V}`}`, {
    method,
    headers: { authorization: "Bearer admin", ...(body === undefined ? {} : { "content-type": "text/plain" }), ...headers },
    ...(body === undefined ? {} : { body }),
  });
  const json = (await response.json()) as { token?: string; error?: Answer["error"] };
  return {
    status: response.status,
    claims: json.token === undefined ? {} : decodeJwt(json.token),
    error: json.error ?? { code: "", message: "", innererror: { code: "" } },
    challenge: response.headers.get("www-authenticate"),
    allow: response.headers.get("allow"),
    token: json.token ?? "",
  };
}

const b64 = (data: Uint8Array | string): string => toBase64url(typeof data === "string" ? encodeUtf8(data) : data);
async function attest(members: Json = {}): Promise<Answer> {
  const report = b64(JSON.stringify({ SnpReport: b64(makeReport(processor)), VcekCertChain: b64(processor.chain) }));
  return send("POST", "/attest/SevSnpVm", JSON.stringify({ report, ...members }), { "content-type": "application/json" });
}
const set = (text: string, type = "SevSnpVm"): Promise<Answer> => send("PUT", `/policies/${type}`, unsigned(policyPayload(text)));

/** The policy in a GET's token. */
function policyOf({ claims }: Answer): string {
  const { AttestationPolicy } = decodeJwt<{ AttestationPolicy: string }>(String(claims["x-ms-policy"]));
  return Buffer.from(AttestationPolicy, "base64url").toString();
}

let directory: string;
const openStore = (name: string): Promise<AttestationStore> =>
  openAttestationStore({ file: join(directory, name), masterKey: new Uint8Array(32).fill(3), clock: { now: () => START }, random });

beforeAll(async () => {
  processor = makeProcessor("emulator");
  uvm = makeUvmSigner();
  alice = makePolicySigner();
  bob = makePolicySigner();
  directory = mkdtempSync(join(tmpdir(), "sealpod-attestation-"));
  // Each test works on a copy: to make a signing key takes longer than any of them.
  (await openStore("template")).close();
});
afterAll(() => {
  rmSync(directory, { recursive: true });
});
beforeEach(async () => {
  copyFileSync(join(directory, "template"), join(directory, "database"));
  store = await openStore("database");
  app = open();
});
afterEach(() => {
  store.close();
});

describe("authentication", () => {
  const operations: readonly (readonly [string, string])[] = [
    ["GET", "/policies/SevSnpVm"],
    ["PUT", "/policies/SevSnpVm"],
    ["POST", "/policies/SevSnpVm:reset"],
    ["GET", "/certificates"],
    ["POST", "/certificates:add"],
    ["POST", "/certificates:remove"],
    ["GET", "/tcbbaselines/SevSnpVm"],
  ];
  describe.each(operations)("of %s %s", (method, path) => {
    const body = method === "GET" ? undefined : "not even a token";

    it("is asked for before anything else, with a challenge that names the authority", async () => {
      for (const authorization of ["", "Basic YTpi", "Bearer", "Bearer a b"]) {
        // No api-version, no valid body: a stranger does not learn of it.
        const answer = await send(method, `${path}?`, body, { authorization });
        expect(answer).toMatchObject({ status: 401, error: { code: "Unauthorized" } });
        expect(answer.challenge).toBe('Bearer authorization_uri="https://login.test/tenant", resource="https://attest.azure.net"');
      }
    });

    it("refuses what the composer refuses", async () => {
      const refused = await send(method, path, body, { authorization: "Bearer stranger" });
      expect(refused).toMatchObject({ status: 401, error: { code: "Unauthorized", message: expect.stringContaining("it is not one of ours") as string } });
      expect(refused.challenge).toContain('error="invalid_token"');
      const forbidden = await send(method, path, body, { authorization: "bearer guest" });
      expect(forbidden).toMatchObject({ status: 403, error: { code: "Forbidden" }, challenge: null });
      const broken = await send(method, path, body, { authorization: "Bearer broken" });
      expect(broken).toMatchObject({ status: 500, error: { code: "InternalServerError" } });
      expect(broken.error.message).not.toContain("authority");
    });

    it("refuses everybody where nobody may manage", async () => {
      const closed = attestationApp({
        issuer: ISSUER,
        store,
        clock: { now: () => START },
        random,
        roots: [processor.root],
        uvmTrust: [],
        logger: silentLogger,
      });
      const answer = await send(method, path, body, { authorization: "Bearer admin" }, closed);
      expect(answer).toMatchObject({ status: 401, challenge: 'Bearer resource="https://attest.azure.net", error="invalid_token"' });
    });

    it("comes with an api-version", async () => {
      expect(await send(method, `${path}?`, body)).toMatchObject({
        status: 400,
        error: { code: "InvalidParameter", message: expect.stringContaining("api-version") as string },
      });
    });
  });

  it("names the configured resource", async () => {
    const other = open({ management: { ...access, resource: "https://attest.internal" } });
    expect((await send("GET", "/certificates", undefined, { authorization: "" }, other)).challenge).toContain('resource="https://attest.internal"');
  });
});

describe("policies", () => {
  it("are the default one at first, in an unsigned token, and tokens carry its published hash", async () => {
    const answer = await send("GET", "/policies/SevSnpVm");
    expect(answer.status).toBe(200);
    expect(String(answer.claims["x-ms-policy"])).toMatch(/^eyJhbGciOiJub25lIn0\.[A-Za-z0-9_-]+\.$/);
    expect(policyOf(answer)).toMatch(/^version= 1\.0;/);
    expect((await attest()).claims["x-ms-policy-hash"]).toBe(DEFAULT_POLICY_HASH);
    app = open({ defaultPolicyHash: "other" });
    expect((await attest()).claims["x-ms-policy-hash"]).toBe("other");
  });

  it("are set, read back as they were sent, put into force at once, and reset", async () => {
    const token = unsigned(policyPayload(ISSUE));
    const done = await send("PUT", "/policies/sevsnpvm", token);
    expect(done.claims).toMatchObject({ "x-ms-policy-result": "Updated", "x-ms-policy-token-hash": createHash("sha256").update(token).digest("base64url") });
    expect(done.claims).not.toHaveProperty("x-ms-policy-signer");
    const read = await send("GET", "/policies/SevSnpVm");
    expect(read.claims["x-ms-policy"]).toBe(token);
    expect(policyOf(read)).toBe(ISSUE);
    const attested = await attest();
    expect(attested.claims).toMatchObject({ greeting: "hello", "x-ms-policy-hash": docHash(ISSUE) });
    expect(attested.claims).not.toHaveProperty("x-ms-policy-signer");
    const reset = await send("POST", "/policies/SevSnpVm:reset", "eyJhbGciOiJub25lIn0..");
    expect(reset.claims).toMatchObject({ "x-ms-policy-result": "Removed" });
    expect((await attest()).claims).not.toHaveProperty("greeting");
    expect((await attest()).claims["x-ms-policy-hash"]).toBe(DEFAULT_POLICY_HASH);
    expect(store.history(2)).toMatchObject([
      { subject: "the admin", operation: "reset-policy", target: "SevSnpVm" },
      { subject: "the admin", operation: "set-policy", content: token },
    ]);
  });

  it("answer with tokens that the published keys verify, of this issuer and in their time", async () => {
    const { token } = await set(PERMIT);
    const jwks = (await (await app.request("/certs")).json()) as { keys: { kid: string; x5c: string[] }[] };
    const { payload, protectedHeader } = await jwtVerify(token, createLocalJWKSet(jwks as never), {
      currentDate: new Date(START),
      issuer: ISSUER,
      algorithms: ["RS256"],
    });
    expect(protectedHeader.kid).toBe(jwks.keys[0]?.kid);
    expect(new X509Certificate(Buffer.from(jwks.keys[0]?.x5c[0] ?? "", "base64")).publicKey.asymmetricKeyType).toBe("rsa");
    expect(payload.exp).toBeGreaterThan(START / 1000);
  });

  it("that are signed say by whom, in the result and in each token", async () => {
    const done = await send("PUT", "/policies/SevSnpVm", alice.sign(policyPayload(PERMIT)));
    const { n, e } = alice.certificate.publicKey.key.export({ format: "jwk" });
    const jwk = { kty: "RSA", n, e, x5c: [toBase64(alice.certificate.der)] };
    expect(done.claims["x-ms-policy-signer"]).toEqual(jwk);
    expect((await attest()).claims["x-ms-policy-signer"]).toEqual({ jwk });
  });

  it.each(["SgxEnclave", "OpenEnclave", "TdxVm", "Tpm", "AzureGuest"])("of type %s are kept for their clients, each on its own", async (type) => {
    expect(policyOf(await send("GET", `/policies/${type}`))).toMatch(/^version=/);
    expect((await set(DENY, type)).status).toBe(200);
    expect(policyOf(await send("GET", `/POLICIES/${type.toUpperCase()}/`))).toBe(DENY);
    expect((await attest()).status).toBe(200);
    expect((await send("POST", `/policies/${type}%3Areset`, "eyJhbGciOiJub25lIn0..")).status).toBe(200);
    expect(policyOf(await send("GET", `/policies/${type}`))).not.toBe(DENY);
  });

  it("deny evidence, naming the rule", async () => {
    await set(DENY);
    expect(await attest()).toMatchObject({
      status: 400,
      error: {
        code: "PolicyEvaluationError",
        message: expect.stringMatching(/denied by deny\(\) in line 4/) as string,
        innererror: { code: "ERR_ATTESTATION_POLICY_DENIED" },
      },
    });
    await set('version= 1.0;\nauthorizationrules\n{\n[type=="x-ms-sevsnpvm-vmpl", value==3] => permit();\n};\nissuancerules\n{\n};\n');
    expect(await attest()).toMatchObject({
      status: 400,
      error: { code: "PolicyEvaluationError", message: expect.stringContaining("x-ms-sevsnpvm-vmpl") as string },
    });
  });

  it("see the claims of the report and pass them on", async () => {
    const condition =
      '[type=="x-ms-sevsnpvm-is-debuggable", value==false] && [type=="x-ms-sevsnpvm-vmpl", value==0] && [type=="x-sealpod-root", value=="emulator"]';
    await set(
      `version= 1.0;\nauthorizationrules\n{\n${condition} => permit();\n};\nissuancerules\n{\nc:[type=="x-ms-sevsnpvm-guestsvn"] => issue(type="svn", value=c.value);\n};\n`,
    );
    const { status, claims } = await attest();
    expect(status).toBe(200);
    expect(claims).toMatchObject({ svn: 2, "x-ms-sevsnpvm-guestsvn": 2 });
    expect(Object.keys(claims)).toEqual(Object.keys(claims).sort());
  });

  it("cannot write what the service itself says", async () => {
    for (const name of ["x-ms-sevsnpvm-hostdata", "x-ms-compliance-status", "iss", "exp", "nonce", "x-sealpod-root", "x-ms-policy-hash"]) {
      await set(`version= 1.0;\nauthorizationrules\n{\n=> permit();\n};\nissuancerules\n{\n=> issue(type="${name}", value="forged");\n};\n`);
      const { status, claims } = await attest();
      if (status === 200) expect(claims[name]).not.toBe("forged");
      else expect(status).toBe(400);
      await send("POST", "/policies/SevSnpVm:reset", "eyJhbGciOiJub25lIn0..");
    }
  });

  it("shorten the life of tokens, and never prolong it", async () => {
    const life = async (minutes: number): Promise<number> => {
      const { status, error } = await set(
        `version= 1.1;\nconfigurationrules\n{\n=> issueproperty(type="report_validity_in_minutes", value=${minutes});\n};\nauthorizationrules\n{\n=> permit();\n};\nissuancerules\n{\n};\n`,
      );
      expect([status, error.message]).toEqual([200, ""]);
      const { claims } = await attest();
      return Number(claims["exp"]) - Number(claims["iat"]);
    };
    expect(await life(5)).toBe(300);
    expect(await life(525_600)).toBe(28_800);
  });

  it("are refused with the line and the column of the mistake, and the old one stays", async () => {
    await set(ISSUE);
    const answer = await set("version= 1.0;\nauthorizationrules\n{\n=> allow();\n};\n");
    expect(answer).toMatchObject({ status: 400, error: { code: "PolicyParsingError", message: expect.stringMatching(/Line: '4', Column: '\d+'/) as string } });
    expect(policyOf(await send("GET", "/policies/SevSnpVm"))).toBe(ISSUE);
  });

  const malformed: readonly (readonly [string, () => string, string, string])[] = [
    ["no token", () => "", "InvalidParameter", "ERR_ATTESTATION_JWS"],
    ["a policy without a token around it", () => PERMIT, "InvalidParameter", "ERR_ATTESTATION_JWS"],
    ["an empty token", () => "eyJhbGciOiJub25lIn0..", "InvalidParameter", "ERR_ATTESTATION_JWS"],
    ["a payload without policy", () => unsigned("{}"), "InvalidParameter", "ERR_ATTESTATION_JWS"],
    ["a payload with two policies", () => unsigned('{"AttestationPolicy":"","AttestationPolicy":""}'), "InvalidParameter", "ERR_ATTESTATION_JWS"],
    ["a policy that is no base64", () => unsigned('{"AttestationPolicy":"*"}'), "InvalidParameter", "ERR_ATTESTATION_JWS"],
    ["a policy that is no UTF-8", () => unsigned('{"AttestationPolicy":"_w"}'), "InvalidParameter", "ERR_ATTESTATION_JWS"],
    ["a policy that is a number", () => unsigned('{"AttestationPolicy":1}'), "InvalidParameter", "ERR_ATTESTATION_JWS"],
    ["a payload that is a list", () => unsigned("[]"), "InvalidParameter", "ERR_ATTESTATION_JWS"],
    ["a JSON string that does not end", () => '"eyJ', "InvalidParameter", "ERR_ATTESTATION_REQUEST"],
    ["a changed signature", () => `${alice.sign(policyPayload(PERMIT)).slice(0, -4)}AAAA`, "InvalidParameter", "ERR_ATTESTATION_JWS"],
  ];
  it.each(malformed)("are not set by %s", async (_what, make, code, inner) => {
    expect(await send("PUT", "/policies/SevSnpVm", make())).toMatchObject({ status: 400, error: { code, innererror: { code: inner } } });
    expect(store.policy("SevSnpVm")).toBeUndefined();
  });

  it("come in one of the content types of tokens, and are not too large", async () => {
    const token = unsigned(policyPayload(PERMIT));
    expect(await send("PUT", "/policies/SevSnpVm", token, { "content-type": "text/plain; charset=utf-8" })).toMatchObject({ status: 200 });
    expect(await send("PUT", "/policies/SevSnpVm", JSON.stringify(token), { "content-type": "application/json" })).toMatchObject({ status: 200 });
    expect(await send("PUT", "/policies/SevSnpVm", token, { "content-type": "text/html" })).toMatchObject({ status: 415 });
    expect(await send("PUT", "/policies/SevSnpVm", "x".repeat(1_100_000))).toMatchObject({ status: 413, error: { code: "RequestEntityTooLarge" } });
    expect(await send("PUT", "/policies/SevSnpVm", unsigned(policyPayload("x".repeat(70_000))))).toMatchObject({ status: 400 });
  });

  it("are reset by an empty token only: a signed policy is no signed reset", async () => {
    await set(PERMIT);
    for (const token of [unsigned(policyPayload(PERMIT)), unsigned("{}")])
      expect(await send("POST", "/policies/SevSnpVm:reset", token)).toMatchObject({ status: 400, error: { code: "InvalidParameter" } });
    expect(store.policy("SevSnpVm")).toBeDefined();
  });

  it("of an unknown type are refused", async () => {
    for (const [method, path] of [
      ["GET", "/policies/Toaster"],
      ["PUT", "/policies/Toaster"],
      ["POST", "/policies/Toaster:reset"],
      ["GET", "/tcbbaselines/Toaster"],
    ] as const) {
      expect(await send(method, path, method === "GET" ? undefined : "eyJhbGciOiJub25lIn0..")).toMatchObject({
        status: 400,
        error: { code: "InvalidParameter" },
      });
    }
  });

  it("hold what the last acknowledged change says after any sequence of SET, RESET and GET", async () => {
    let state = 99;
    const draw = (below: number): number => {
      state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
      return (state >>> 8) % below;
    };
    const texts = [PERMIT, DENY, ISSUE, "version= 1.0; nonsense"];
    let expected: string | undefined;
    const initial = policyOf(await send("GET", "/policies/SevSnpVm"));
    for (let step = 0; step < 120; step++) {
      const action = draw(6);
      const text = texts[action];
      if (text !== undefined) {
        const { status } = await set(text);
        expect(status).toBe(text.endsWith("nonsense") ? 400 : 200);
        if (status === 200) expected = text;
      } else if (action === 4) {
        expect((await send("POST", "/policies/SevSnpVm:reset", "eyJhbGciOiJub25lIn0..")).status).toBe(200);
        expected = undefined;
      } else {
        expect((await send("POST", "/policies/SevSnpVm:reset", unsigned("{}"))).status).toBe(400);
      }
      expect(policyOf(await send("GET", "/policies/SevSnpVm"))).toBe(expected ?? initial);
      const attested = await attest();
      expect(attested.status).toBe(expected === DENY ? 400 : 200);
      expect(attested.claims["greeting"]).toBe(expected === ISSUE ? "hello" : undefined);
    }
  });
});

describe("a draft policy", () => {
  it("is evaluated in place of the stored one, for a token that nobody signed", async () => {
    await set(DENY);
    const { status, claims, token } = await attest({ draftPolicyForAttestation: unsigned(policyPayload(ISSUE)) });
    expect(status).toBe(200);
    expect(token).toMatch(/^eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0\.[A-Za-z0-9_-]+\.$/);
    expect(claims).toMatchObject({ greeting: "hello", "x-ms-policy-hash": docHash(ISSUE), "x-ms-sevsnpvm-vmpl": 0 });
    expect((await attest()).status).toBe(400);
  });

  it("is not signed for either when it is signed itself", async () => {
    const { token, claims } = await attest({ draftPolicyForAttestation: alice.sign(policyPayload(PERMIT)) });
    expect(token.endsWith(".")).toBe(true);
    expect(claims).not.toHaveProperty("x-ms-policy-signer");
  });

  it("has its mistakes reported like a policy that is set", async () => {
    expect(await attest({ draftPolicyForAttestation: unsigned(policyPayload("version= 1.0;\nnonsense")) })).toMatchObject({
      status: 400,
      error: { code: "PolicyParsingError" },
    });
    expect(await attest({ draftPolicyForAttestation: unsigned(policyPayload(DENY)) })).toMatchObject({ status: 400, error: { code: "PolicyEvaluationError" } });
    expect(await attest({ draftPolicyForAttestation: "x" })).toMatchObject({ status: 400, error: { code: "InvalidParameter" } });
    expect(await attest({ draftPolicyForAttestation: {} })).toMatchObject({ status: 400, error: { code: "InvalidParameter" } });
  });

  it("is not even read for evidence that does not verify", async () => {
    const changed = makeReport(processor);
    changed[0xc0] = (changed[0xc0] ?? 0) ^ 1;
    const report = b64(JSON.stringify({ SnpReport: b64(changed), VcekCertChain: b64(processor.chain) }));
    const answer = await attest({ report, draftPolicyForAttestation: unsigned(policyPayload("nonsense")) });
    expect(answer).toMatchObject({ status: 400, error: { code: "InvalidParameter", innererror: { code: "ERR_SNP_SIGNATURE" } } });
  });

  it("is none when it is empty, as clients send it", async () => {
    const { token } = await attest({ draftPolicyForAttestation: "" });
    expect(token.endsWith(".")).toBe(false);
  });
});

describe("isolated mode", () => {
  beforeEach(() => {
    store.seedPolicyCertificates([alice.certificate.der]);
    app = open({ mode: "isolated" });
  });
  const thumbprint = (signer: PolicySigner): string => createHash("sha1").update(signer.certificate.der).digest("hex").toUpperCase();
  const keys = async (): Promise<unknown> => (await send("GET", "/certificates")).claims["x-ms-policy-certificates"];

  it("takes policies and resets that a policy certificate signed, and no others", async () => {
    for (const token of [unsigned(policyPayload(PERMIT)), bob.sign(policyPayload(PERMIT))]) {
      expect(await send("PUT", "/policies/SevSnpVm", token)).toMatchObject({
        status: 400,
        error: { code: "InvalidOperation", innererror: { code: "ERR_ATTESTATION_SIGNER" } },
      });
    }
    // The certificate is public: to name it is not to hold its key.
    const named = bob.sign(policyPayload(PERMIT), { x5c: [toBase64(alice.certificate.der)] });
    expect(await send("PUT", "/policies/SevSnpVm", named)).toMatchObject({ status: 400, error: { code: "InvalidParameter" } });
    const behind = bob.sign(policyPayload(PERMIT), { x5c: [bob, alice].map(({ certificate }) => toBase64(certificate.der)) });
    expect(await send("PUT", "/policies/SevSnpVm", behind)).toMatchObject({ status: 400, error: { code: "InvalidOperation" } });
    expect(store.policy("SevSnpVm")).toBeUndefined();

    expect(await send("PUT", "/policies/SevSnpVm", alice.sign(policyPayload(DENY), { alg: "RSA256" }))).toMatchObject({ status: 200 });
    expect((await attest()).status).toBe(400);
    for (const token of ["eyJhbGciOiJub25lIn0..", bob.sign("")]) expect((await send("POST", "/policies/SevSnpVm:reset", token)).status).toBe(400);
    expect((await attest()).status).toBe(400);
    expect((await send("POST", "/policies/SevSnpVm:reset", alice.sign(""))).status).toBe(200);
    expect((await attest()).status).toBe(200);
  });

  it("asks for the bearer token all the same", async () => {
    expect(await send("PUT", "/policies/SevSnpVm", alice.sign(policyPayload(PERMIT)), { authorization: "" })).toMatchObject({ status: 401 });
  });

  it("adds and removes certificates on the signature of another one", async () => {
    const { n, e } = alice.certificate.publicKey.key.export({ format: "jwk" });
    expect(await keys()).toEqual({ keys: [{ kty: "RSA", n, e, x5c: [toBase64(alice.certificate.der)] }] });
    for (const token of [unsigned(certificatePayload(bob.certificate)), bob.sign(certificatePayload(bob.certificate))])
      expect(await send("POST", "/certificates:add", token)).toMatchObject({ status: 400, error: { code: "InvalidOperation" } });

    // The genuine client sends the token as a JSON string here.
    const added = await send("POST", "/certificates:add", JSON.stringify(alice.sign(certificatePayload(bob.certificate))), {
      "content-type": "application/json",
    });
    expect(added.claims).toMatchObject({ "x-ms-certificate-thumbprint": thumbprint(bob), "x-ms-policycertificates-result": "IsPresent" });
    expect(await send("POST", "/certificates:add", alice.sign(certificatePayload(bob.certificate)))).toMatchObject({ status: 200 });
    expect((await send("PUT", "/policies/SevSnpVm", bob.sign(policyPayload(PERMIT)))).status).toBe(200);

    const removed = await send("POST", "/certificates:remove", bob.sign(certificatePayload(alice.certificate)));
    expect(removed.claims).toMatchObject({ "x-ms-certificate-thumbprint": thumbprint(alice), "x-ms-policycertificates-result": "IsAbsent" });
    expect(await send("PUT", "/policies/SevSnpVm", alice.sign(policyPayload(DENY)))).toMatchObject({ status: 400 });
    expect(await send("POST", "/certificates:remove", bob.sign(certificatePayload(bob.certificate)))).toMatchObject({
      status: 400,
      error: { code: "InvalidOperation", message: expect.stringContaining("last policy certificate") as string },
    });
    expect(store.history(3).map(({ operation, subject }) => [operation, subject])).toEqual([
      ["remove-certificate", "the admin"],
      ["set-policy", "the admin"],
      ["add-certificate", "the admin"],
    ]);
  });

  it("does not take a policy for a certificate, or a certificate for a policy", async () => {
    expect(await send("POST", "/certificates:add", alice.sign(policyPayload(PERMIT)))).toMatchObject({ status: 400, error: { code: "InvalidParameter" } });
    expect(await send("PUT", "/policies/SevSnpVm", alice.sign(certificatePayload(bob.certificate)))).toMatchObject({
      status: 400,
      error: { code: "InvalidParameter" },
    });
    for (const payload of ["{}", '{"policyCertificate":{"x5c":[]}}', '{"policyCertificate":{"x5c":["*"]}}', '{"policyCertificate":1}'])
      expect(await send("POST", "/certificates:add", alice.sign(payload))).toMatchObject({ status: 400, error: { code: "InvalidParameter" } });
  });
});

describe("policy certificates in AAD mode", () => {
  it("are none, and cannot be changed", async () => {
    store.seedPolicyCertificates([alice.certificate.der]);
    expect((await send("GET", "/certificates")).claims["x-ms-policy-certificates"]).toEqual({ keys: [] });
    for (const operation of ["add", "remove"])
      expect(await send("POST", `/certificates:${operation}`, alice.sign(certificatePayload(bob.certificate)))).toMatchObject({
        status: 400,
        error: { code: "InvalidOperation" },
      });
  });
});

describe("pages", () => {
  it.each([
    ["GET", "/attest/SevSnpVm", "POST"],
    ["DELETE", "/policies/SevSnpVm", "GET, PUT"],
    ["POST", "/policies/SevSnpVm", "GET, PUT"],
    ["GET", "/policies/SevSnpVm:reset", "POST"],
    ["PUT", "/certificates", "GET"],
    ["GET", "/certificates:add", "POST"],
    ["POST", "/certs", "GET"],
    ["POST", "/tcbbaselines/SevSnpVm", "GET"],
  ])("answer %s %s with 405 and what they take", async (method, path, allow) => {
    expect(await send(method, path)).toMatchObject({ status: 405, allow, error: { code: "MethodNotAllowed" } });
  });

  it.each(["SgxEnclave", "OpenEnclave", "TdxVm", "Tpm", "AzureGuest"])("say that they do not attest %s", async (type) => {
    expect(await send("POST", `/attest/${type}`, "{}", { "content-type": "application/json" })).toMatchObject({
      status: 501,
      error: { code: "NotImplemented", message: `evidence of type ${type} is not implemented by this attestation service: it attests SevSnpVm` },
    });
  });

  it("that are not there are not found", async () => {
    for (const path of ["/", "/policies", "/policies/a/b", "/certificates:list", "/attest", "/policies/SevSnpVm:restore"])
      expect(await send("GET", path)).toMatchObject({ status: 404, error: { code: "NotFound" } });
  });
});
