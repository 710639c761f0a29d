import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { attestationApp, DEFAULT_POLICY_TEXT, openAttestationStore, type AttestationAppOptions, type AttestationStore } from "@sealpod/attestation";
import { isSealpodError, parseJson, silentLogger } from "@sealpod/core";
import { generateKey, issueCertificate, OID } from "@sealpod/pki";
import { AMD_ROOTS } from "@sealpod/snp";
import { getPolicy, resetPolicy, setPolicy, type PolicyService, type PolicySigner, type ServiceFetch } from "./policy-service.ts";

const NOW = Date.UTC(2026, 0, 2);
const ISSUER = "https://attest.test";
const TEXT = 'version= 1.0;\nauthorizationrules\n{\n    [type=="é", value==1] => permit();\n};\nissuancerules{};\n';
const clock = { now: (): number => NOW };
const random = { bytes: (length: number): Uint8Array => new Uint8Array(randomBytes(length)) };

let store: AttestationStore;
let signer: PolicySigner;

beforeAll(async () => {
  store = await openAttestationStore({ file: ":memory:", masterKey: new Uint8Array(32).fill(1), clock, random });
  const key = await generateKey("rsa-2048");
  const { der } = issueCertificate({
    subject: [{ type: OID.commonName, value: "Policy signer" }],
    subjectKey: key,
    issuer: { key },
    signatureAlgorithm: "rsa-sha256",
    serial: 1n,
    notBefore: NOW - 1000,
    notAfter: NOW + 86_400_000,
    extensions: [],
  });
  signer = { key, certificates: [der] };
});
afterAll(() => {
  store.close();
});

/** The service in this process, reached as over the network. */
function serviceWith(
  options: Partial<AttestationAppOptions> = {},
  change: (answer: { status: number; text: string }, url: string) => { status: number; text: string } = (answer) => answer,
): PolicyService {
  const app = attestationApp({
    issuer: ISSUER,
    store,
    clock,
    random,
    roots: AMD_ROOTS,
    uvmTrust: [],
    logger: silentLogger,
    management: {
      authority: "https://login.test",
      authenticate: async (token) =>
        token === "owner"
          ? { kind: "allowed", subject: "owner" }
          : token === "guest"
            ? { kind: "forbidden", subject: "guest", problem: "not its policy" }
            : { kind: "refused", problem: "not ours" },
    },
    ...options,
  });
  const fetch: ServiceFetch = async (url, { method, headers, body }) => {
    const response = await app.request(url, { method, headers, ...(body === undefined ? {} : { body }) });
    return change({ status: response.status, text: await response.text() }, url);
  };
  return { endpoint: ISSUER, type: "SevSnpVm", apiVersion: "2022-08-01", bearerToken: "owner", fetch, clock };
}

async function problemOf(promise: Promise<unknown>): Promise<{ readonly code: string; readonly message: string; readonly hint: string | undefined }> {
  const error: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (isSealpodError(error)) return { code: error.code, message: error.message, hint: error.hint };
  throw new Error("no error of ours was thrown", { cause: error });
}

describe("getPolicy, setPolicy, resetPolicy", () => {
  it("read, set and take back the policy of a service, unsigned", async () => {
    const service = serviceWith();
    expect(await getPolicy(service)).toMatchObject({ text: DEFAULT_POLICY_TEXT, signed: false });
    expect(await setPolicy(service, TEXT)).toMatchObject({ "x-ms-policy-result": "Updated" });
    expect(await getPolicy(service)).toMatchObject({ text: TEXT, signed: false });
    expect(await resetPolicy(service)).toMatchObject({ "x-ms-policy-result": "Removed" });
    expect((await getPolicy(service)).text).toBe(DEFAULT_POLICY_TEXT);
  });

  it("do so signed", async () => {
    const service = serviceWith();
    const claims = await setPolicy(service, TEXT, signer);
    expect(claims).toMatchObject({ "x-ms-policy-result": "Updated" });
    expect(claims).toHaveProperty("x-ms-policy-signer");
    expect(await getPolicy(service)).toMatchObject({ text: TEXT, signed: true });
    expect(await resetPolicy(service, signer)).toMatchObject({ "x-ms-policy-result": "Removed" });
  });

  it("tell what the service says of a bad policy", async () => {
    const problem = await problemOf(setPolicy(serviceWith(), "version=1.0;\nautorizationrules{};"));
    expect(problem).toMatchObject({ code: "ERR_ATTESTATION_SERVICE" });
    expect(problem.message).toMatch(/^PUT \/policies\/SevSnpVm was refused with status 400: PolicyParsingError: /);
    expect(problem.message).toContain("Line: '2', Column: '1'");
  });

  it("tell what is missing for 401 and 403, and never the token", async () => {
    expect(await problemOf(getPolicy({ ...serviceWith(), bearerToken: undefined }))).toMatchObject({
      message: expect.stringContaining("status 401") as string,
      hint: expect.stringContaining("--bearer-token-file") as string,
    });
    const problem = await problemOf(getPolicy({ ...serviceWith(), bearerToken: "guest" }));
    expect(problem).toMatchObject({ message: expect.stringContaining("status 403") as string, hint: expect.stringContaining("role") as string });
    const stolen = await problemOf(getPolicy({ ...serviceWith(), bearerToken: "s3cret" }));
    expect(JSON.stringify(stolen)).not.toContain("s3cret");
  });

  it("tell what an isolated service misses in a request that is not signed, or by a stranger", async () => {
    const isolated = await openAttestationStore({ file: ":memory:", masterKey: new Uint8Array(32).fill(1), clock, random });
    try {
      for (const by of [undefined, signer]) {
        expect(await problemOf(setPolicy(serviceWith({ mode: "isolated", store: isolated }), TEXT, by))).toMatchObject({
          message: expect.stringMatching(/^PUT .* refused with status 400/) as string,
          hint: expect.stringMatching(/^Pass --key and --cert/) as string,
        });
      }
    } finally {
      isolated.close();
    }
  });

  it("believe no result that the keys of the service did not sign", async () => {
    const forged = serviceWith({}, (answer, url) => {
      if (url.endsWith("/certs")) return answer;
      const { token } = parseJson(answer.text) as unknown as { token: string };
      const [header, , signature] = token.split(".");
      const payload = Buffer.from(JSON.stringify({ "x-ms-policy-result": "Updated", iss: ISSUER, exp: NOW / 1000 + 100 })).toString("base64url");
      return { ...answer, text: JSON.stringify({ token: `${header}.${payload}.${signature}` }) };
    });
    expect(await problemOf(setPolicy(forged, TEXT))).toMatchObject({ code: "ERR_ATTESTATION_TOKEN_REFUSED" });
    await resetPolicy(serviceWith());
  });

  it.each<[string, (answer: { status: number; text: string }, url: string) => { status: number; text: string }, string]>([
    ["no JSON", () => ({ status: 502, text: "<html>Bad gateway" }), "status 502"],
    ["no token", () => ({ status: 200, text: "{}" }), "without a token"],
    ["a redirect", () => ({ status: 302, text: "" }), "status 302"],
    ["no keys", (answer, url) => (url.endsWith("/certs") ? { status: 404, text: "" } : answer), "GET /certs"],
  ])("refuse an answer with %s", async (_, change, message) => {
    expect(await problemOf(getPolicy(serviceWith({}, change)))).toMatchObject({
      code: "ERR_ATTESTATION_SERVICE",
      message: expect.stringContaining(message) as string,
    });
  });
});
