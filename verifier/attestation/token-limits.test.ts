import { decodeJwt } from "jose";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { concatBytes, encodeUtf8, sha256, silentLogger, toBase64url } from "@sealpod/core";
import {
  attestationApp,
  decodeAttestationToken,
  MAX_CLAIMS_DEPTH,
  openAttestationStore,
  parseJwks,
  verifyAttestationToken,
  type AttestationStore,
} from "./index.ts";
import { MAX_REQUEST_TOKEN } from "./jws.ts";
import { makeProcessor, makeReport, makeUvmSigner, random, START, trustOf, type Processor, type UvmSigner } from "./testdata/evidence.ts";
import { policyPayload, unsigned } from "./testdata/policy-signer.ts";

const ISSUER = "https://attest.test";
const clock = { now: (): number => START };
const b64 = (data: Uint8Array | string): string => toBase64url(typeof data === "string" ? encodeUtf8(data) : data);

let processor: Processor;
let signer: UvmSigner;
let store: AttestationStore;
let app: ReturnType<typeof attestationApp>;
beforeAll(async () => {
  processor = makeProcessor("emulator");
  signer = makeUvmSigner();
  store = await openAttestationStore({ file: ":memory:", masterKey: new Uint8Array(32).fill(3), clock, random });
  const management = { authority: "https://login.test", authenticate: async () => Promise.resolve({ kind: "allowed", subject: "test" } as const) };
  app = attestationApp({ issuer: ISSUER, store, clock, random, logger: silentLogger, management, roots: [processor.root], uvmTrust: [trustOf(signer)] });
});
afterAll(() => store.close());

interface Answer {
  readonly status: number;
  readonly length: number;
  readonly endorsement: string | null;
  readonly token: string;
  readonly error: { readonly code: string; readonly message: string; readonly innererror: { readonly code: string } };
}

async function ask(method: string, path: string, body?: string): Promise<Answer> {
  const headers = { authorization: "Bearer token", ...(body === undefined ? {} : { "content-type": method === "PUT" ? "text/plain" : "application/json" }) };
  const response = await app.request(`${path}?api-version=2022-08-01`, { method, headers, ...(body === undefined ? {} : { body }) });
  const text = await response.text();
  return {
    status: response.status,
    length: text.length,
    endorsement: response.headers.get("x-sealpod-uvm-endorsement"),
    ...(JSON.parse(text) as Pick<Answer, "token" | "error">),
  };
}

interface Request {
  readonly runtime?: string;
  readonly init?: string;
  readonly guestPolicy?: bigint;
  readonly uvm?: readonly Uint8Array[];
  readonly members?: Readonly<Record<string, unknown>>;
}

async function attest({ runtime, init, guestPolicy, uvm = [], members = {} }: Request): Promise<Answer> {
  const report = makeReport(processor, {
    ...(runtime === undefined ? {} : { reportData: concatBytes(sha256(encodeUtf8(runtime)), new Uint8Array(32)) }),
    ...(init === undefined ? {} : { hostData: sha256(encodeUtf8(init)) }),
    ...(guestPolicy === undefined ? {} : { policy: guestPolicy }),
  });
  const evidence = { SnpReport: b64(report), VcekCertChain: b64(processor.chain), Endorsements: b64(JSON.stringify({ Uvm: uvm.map(b64) })) };
  const data = (text: string | undefined): unknown => (text === undefined ? undefined : { data: b64(text), dataType: "JSON" });
  return ask(
    "POST",
    "/attest/SevSnpVm",
    JSON.stringify({ report: b64(JSON.stringify(evidence)), runtimeData: data(runtime), initTimeData: data(init), ...members }),
  );
}

async function verified(token: string): Promise<ReturnType<typeof verifyAttestationToken>["claims"]> {
  const keys = parseJwks(await (await app.request("/certs")).text());
  return verifyAttestationToken(token, { keys, clock, issuer: ISSUER }).claims;
}

const nested = (levels: number): string => `{"a":${"[".repeat(levels - 1)}${"]".repeat(levels - 1)}}`;

describe("a token is fit for its readers, ours among them, or is not issued", () => {
  it("however deep the runtime data is", async () => {
    // The object of the claims is the first level, the runtime data begins with the next.
    const deepest = await attest({ runtime: nested(MAX_CLAIMS_DEPTH), init: nested(MAX_CLAIMS_DEPTH) });
    expect(deepest.status).toBe(200);
    expect(await verified(deepest.token)).toHaveProperty("x-ms-runtime");
    for (const member of ["runtime", "init"]) {
      const answer = await attest({ [member]: nested(MAX_CLAIMS_DEPTH + 1) });
      expect(answer).toMatchObject({
        status: 400,
        error: { code: "InvalidParameter", message: expect.stringMatching(/TimeData\.data: .*nested deeper|runtimeData\.data: .*nested deeper/) as string },
      });
    }
  });

  it("however large it is", async () => {
    const statuses = new Set<number>();
    // From the largest that fits a token with the other claims, in small steps, to what does not.
    for (let size = 193_000; size < 196_700; size += 300) {
      const { status, token, error } = await attest({ runtime: `{"a":"${"x".repeat(size)}"}` });
      statuses.add(status);
      if (status === 200) expect(await verified(token)).toHaveProperty("x-ms-runtime");
      else
        expect(error).toMatchObject({
          code: "InvalidParameter",
          message: expect.stringMatching(/the token would have 26\d{4} characters, more than the limit of 262144|fit a token/) as string,
        });
    }
    expect([...statuses]).toEqual([200, 400]);
    expect(await attest({ runtime: `{"a":"${"x".repeat(1_000_000)}"}` })).toMatchObject({
      status: 400,
      error: { message: expect.stringMatching(/^runtimeData\.data: 1000008 bytes of JSON, more than the 196608 that fit a token/) as string },
    });
  });

  it("however much longer it becomes when it is written anew", async () => {
    expect(await attest({ runtime: `{"a":[${"1e20,".repeat(30_000)}1]}` })).toMatchObject({
      status: 400,
      error: { message: expect.stringContaining("the token would have") as string },
    });
  });

  const doubled = (times: number): string =>
    Array.from({ length: times }, (_, at) => `c:[type=="s${at}"]=>add(type="s${at + 1}",value=AppendString(c.value,c.value));`).join("");
  const issued = (from: number, times: number): string =>
    Array.from({ length: times }, (_, at) => `c:[type=="s${from}"]=>issue(type="o${at}",value=c.value);`).join("");
  it.each<[string, string, string, RegExp]>([
    // 16 characters, doubled 14 times, 30 times over: 7 MiB of a policy of 2 KiB, if it may.
    ["what it doubles", "0123456789abcdef", `${doubled(14)}${issued(14, 30)}`, /too many characters/],
    [
      "more than a token holds",
      "0123456789abcdef",
      `${doubled(10)}${issued(10, 17)}`,
      /issues 17 claims of 2\d{5} characters, more than the limit of 262144 for a token/,
    ],
    ["characters that JSON writes as two", '\\"'.repeat(16), `${doubled(12)}${issued(12, 2)}`, /the token would have 3\d{5} characters/],
  ])("whatever a draft policy issues: %s", async (_what, seed, rules, message) => {
    const text = `version=1.2;\nauthorizationrules{=>permit();};\nissuancerules{=>add(type="s0",value="${seed}");${rules}};`;
    const answer = await attest({ members: { draftPolicyForAttestation: unsigned(policyPayload(text)) } });
    expect(answer).toMatchObject({ status: 400, error: { message: expect.stringMatching(message) as string } });
    expect(answer.length).toBeLessThan(2000);
  });

  it("and the answer about the longest policy is one", async () => {
    // The longest token that is taken, whose text is padded with characters of three bytes.
    const textOf = (padding: number): string => `version=1.0;authorizationrules{=>permit();};//${"\u{20ac}".repeat(padding)}`;
    let padding = 30_000;
    while (unsigned(policyPayload(textOf(padding + 100))).length <= MAX_REQUEST_TOKEN) padding += 100;
    const longest = unsigned(policyPayload(textOf(padding)));
    expect(longest.length).toBeGreaterThan(MAX_REQUEST_TOKEN - 1000);
    expect(await ask("PUT", "/policies/Tpm", longest)).toMatchObject({ status: 200 });
    const { token } = await ask("GET", "/policies/Tpm");
    expect((await verified(token))["x-ms-policy"]).toBe(longest);
    expect(await ask("PUT", "/policies/Tpm", unsigned(policyPayload(textOf(padding + 1000))))).toMatchObject({
      status: expect.toSatisfy((status) => status === 400 || status === 413) as number,
    });
  });
});

describe("the nonce", () => {
  it.each([["18446744073709551615"], ["-9223372036854775808"], ["7"]])("is the text of the integer %s", async (nonce) => {
    expect(await nonceOf(nonce)).toMatchObject({ status: 200, nonce });
  });

  it.each([["18446744073709551616"], ["-9223372036854775809"], ["9".repeat(100)], ["1.5"]])("is not the number %s", async (nonce) => {
    expect(await nonceOf(nonce)).toMatchObject({ status: 400, message: expect.stringMatching(/nonce: expected .* an integer of 64 bits/) as string });
  });

  async function nonceOf(nonce: string): Promise<{ readonly status: number; readonly nonce?: unknown; readonly message?: string }> {
    const evidence = { SnpReport: b64(makeReport(processor)), VcekCertChain: b64(processor.chain) };
    const { status, token, error } = await ask("POST", "/attest/SevSnpVm", `{"report":"${b64(JSON.stringify(evidence))}","nonce":${nonce}}`);
    return status === 200 ? { status, nonce: decodeJwt(token)["nonce"] } : { status, message: error.message };
  }
});

describe("the compliance status", () => {
  it.each<[string, bigint, RegExp | undefined]>([
    ["neither", 0n, undefined],
    ["debugging", 1n << 19n, /^the guest's policy allows debugging: the host may read and change/],
    ["migration", 1n << 18n, /^the guest's policy allows migration: /],
    ["both", (1n << 18n) | (1n << 19n), /^the guest's policy allows debugging and migration: /],
  ])("is that of a guest that is still what booted; its policy allows %s", async (_what, bits, problem) => {
    const warned: unknown[] = [];
    const noting = attestationApp({
      issuer: ISSUER,
      store,
      clock,
      random,
      logger: { log: (_level, _message, fields) => void warned.push(fields?.["problem"]) },
      roots: [processor.root],
      uvmTrust: [trustOf(signer)],
    });
    const before = app;
    app = noting;
    const { token, endorsement } = await attest({ guestPolicy: 0x3001fn | bits, uvm: [signer.endorse()] }).finally(() => {
      app = before;
    });
    const { claims } = decodeAttestationToken(token);
    expect(claims["x-ms-compliance-status"]).toBe(problem === undefined ? "azure-signed-katacc-uvm" : undefined);
    expect(endorsement).toBe(problem === undefined ? "endorsed" : "refused");
    expect(warned).toEqual([problem === undefined ? undefined : expect.stringMatching(problem)]);
  });
});
