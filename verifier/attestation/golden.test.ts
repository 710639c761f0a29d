import { constants, createDecipheriv, createHash, createPrivateKey, createPublicKey, generateKeyPairSync, privateDecrypt, X509Certificate } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { compactVerify, decodeJwt, decodeProtectedHeader } from "jose";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { encodeUtf8, silentLogger, toBase64url } from "@sealpod/core";
import type { UvmTrust } from "@sealpod/cose";
import { identityApp, openIdentityStore, tenantIssuer, type IdentityStore } from "@sealpod/identity";
import { explainRelease, keyvaultApp, openVaultStore, type VaultStore } from "@sealpod/keyvault";
import { issueCertificate, OID } from "@sealpod/pki";
import { AMD_ROOTS } from "@sealpod/snp";
import { attestationApp, openAttestationStore, type AttestationStore } from "./index.ts";
import { random } from "./testdata/evidence.ts";

const VECTORS = new URL("../../../shared/vectors/attestation/", import.meta.url);
const present = existsSync(new URL("maa/report.bin", VECTORS)) && existsSync(new URL("cleanroom/insecure-virtual/encryption/maa-request.json", VECTORS));
const bytes = (path: string): Uint8Array => new Uint8Array(readFileSync(new URL(path, VECTORS)));
const text = (path: string): string => readFileSync(new URL(path, VECTORS), "utf8").trim();

const ISSUER = "https://attest.test";
const AUTHORITY = "https://login.test";
const VAULT = "https://demo.vault.test";
const TENANT = "11111111-2222-4333-8444-555555555555";
const SNP = `${ISSUER}/attest/SevSnpVM?api-version=2020-10-01`;

/** Who signs the utility VMs of Azure Container Instances (specs/attestation.md 4.6). */
const AZURE_UVM: UvmTrust = {
  issuer: "did:x509:0:sha256:I__iuL25oXEVFdTP_aBLx_eT1RPHbCQ_ECBQfYZpt9s::eku:1.3.6.1.4.1.311.76.59.1.2",
  feed: "ContainerPlat-AMD-UVM",
  minimumSvn: 100,
  claim: "azure-compliant-uvm",
};

type Json = Record<string, unknown>;

function request(report: Uint8Array, chain: string, uvm: readonly Uint8Array[], members: Json = {}): string {
  const endorsements = uvm.length === 0 ? {} : { Endorsements: toBase64url(encodeUtf8(JSON.stringify({ Uvm: uvm.map(toBase64url) }))) };
  const evidence = { SnpReport: toBase64url(report), VcekCertChain: toBase64url(encodeUtf8(chain)), ...endorsements };
  return JSON.stringify({ report: toBase64url(encodeUtf8(JSON.stringify(evidence))), ...members });
}

const json = (body: string): RequestInit => ({ method: "POST", headers: { "content-type": "application/json" }, body });

// Genuine evidence of Azure, AMD's genuine roots, and the three services talking HTTP in one process.
describe.skipIf(!present)("genuine evidence (skipped without ../shared/vectors/attestation)", () => {
  let time: number;
  const clock = { now: () => time };
  const masterKey = new Uint8Array(32).fill(5);
  let attestationStore: AttestationStore;
  let identityStore: IdentityStore;
  let keyStore: VaultStore;
  let fetchApp: (url: string, init?: RequestInit) => Promise<Response>;
  let bearer: string;

  beforeAll(async () => {
    time = Date.UTC(2025, 9, 15);
    attestationStore = await openAttestationStore({ file: ":memory:", masterKey, clock, random });
    identityStore = await openIdentityStore({ url: ":memory:", masterKey, clock, random });
    keyStore = await openVaultStore({ url: ":memory:", master: masterKey, clock, random });
    const attestation = attestationApp({
      issuer: ISSUER,
      store: attestationStore,
      clock,
      random,
      roots: AMD_ROOTS,
      uvmTrust: [AZURE_UVM],
      logger: silentLogger,
    });
    const identity = identityApp({
      authority: AUTHORITY,
      tenants: [TENANT],
      resources: [VAULT],
      clusters: [{ name: "default", issuer: `${AUTHORITY}/cluster/` }],
      store: identityStore,
      clock,
      random,
      logger: silentLogger,
    });
    const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
    const certificate = issueCertificate({
      subject: [{ type: OID.commonName, value: "*.vault.test" }],
      subjectKey: createPublicKey(privateKey),
      issuer: { key: privateKey },
      signatureAlgorithm: "rsa-sha256",
      serial: 1n,
      notBefore: time,
      notAfter: time + 86_400_000,
      extensions: [],
    });
    const keyvault = keyvaultApp({
      store: keyStore,
      domain: "vault.test",
      vaults: [{ name: "demo", kind: "vault" }],
      issuers: [{ issuer: tenantIssuer(AUTHORITY, TENANT), tenantId: TENANT, authorization: `${AUTHORITY}/${TENANT}` }],
      resource: VAULT,
      signer: { privateKey, chain: [certificate.der] },
      evidenceRoots: ["amd"],
      fetch: (url, init) => fetchApp(url, init),
      clock,
      random,
      logger: silentLogger,
    });
    const apps = new Map<string, (url: string, init?: RequestInit) => Response | Promise<Response>>([
      ["attest.test", (url, init) => attestation.request(url, init)],
      ["login.test", (url, init) => identity.request(url, init)],
      ["demo.vault.test", (url, init) => keyvault.request(url, init)],
    ]);
    fetchApp = async (url, init) => (await apps.get(new URL(url).hostname)?.(url, init)) ?? Promise.reject(new TypeError("no such host"));

    const { clientId } = await identityStore.registerApplication({ tenantId: TENANT, name: "owner" });
    const form = {
      client_id: clientId,
      client_secret: (await identityStore.createClientSecret(clientId)).secret,
      grant_type: "client_credentials",
      scope: `${VAULT}/.default`,
    };
    const answer = await fetchApp(`${AUTHORITY}/${TENANT}/oauth2/v2.0/token`, {
      method: "POST",
      headers: { "content-type": "application/x-www-form-urlencoded" },
      body: new URLSearchParams(form).toString(),
    });
    bearer = `Bearer ${((await answer.json()) as { access_token: string }).access_token}`;
    const audit = {
      requestId: "golden",
      at: time,
      vault: "demo",
      operation: "access/set-policy",
      name: clientId,
      version: "",
      tenantId: TENANT,
      appid: "",
      oid: "",
    } as const;
    const outcome = { outcome: "allowed", failed: undefined, reason: "", authority: "", findings: [] } as const;
    await keyStore.setAccessPolicy("demo", { tenantId: TENANT, id: clientId }, { keys: ["import", "release"] }, { ...audit, ...outcome });
  });
  afterAll(async () => {
    attestationStore.close();
    await identityStore.close();
    await keyStore.close();
  });

  const attest = async (body: string): Promise<{ status: number; body: { token: string; error: { message: string; innererror: { code: string } } } }> => {
    const response = await fetchApp(SNP, json(body));
    return { status: response.status, body: (await response.json()) as never };
  };
  const vault = async (method: string, path: string, body: unknown): Promise<{ status: number; body: Json; requestId: string }> => {
    const init = { method, headers: { "content-type": "application/json", authorization: bearer }, body: JSON.stringify(body) };
    const response = await fetchApp(`${VAULT}${path}?api-version=7.4`, init);
    return { status: response.status, body: (await response.json()) as Json, requestId: response.headers.get("x-ms-request-id") ?? "" };
  };

  describe("a report for which the genuine service issued a token", () => {
    const genuine = (): string => text("maa/sev-snp-jwt.txt");

    it("gives the same claims, types and order", async () => {
      const expected = decodeJwt<Json>(genuine());
      time = Number(expected.iat) * 1000;
      const { status, body } = await attest(request(bytes("maa/report.bin"), text("maa/vcek-chain.pem"), []));
      expect(status).toBe(200);
      const claims = decodeJwt<Json>(body.token);
      const { "x-sealpod-root": root, ...same } = claims;
      expect(root).toBe("amd");
      expect(Object.keys(same)).toEqual(Object.keys(expected));
      expect({ ...same, iss: "", jti: "" }).toEqual({ ...expected, iss: "", jti: "" });
      expect(same.jti).toMatch(/^[0-9a-f]{64}$/);
      expect(Object.keys(decodeProtectedHeader(body.token))).toEqual(Object.keys(decodeProtectedHeader(genuine())));
    });

    it("is endorsed by what the key management service of Azure was given for the same VM", async () => {
      const { body } = await attest(request(bytes("maa/report.bin"), text("maa/vcek-chain.pem"), [bytes("kms/decoded-uvm.cose")]));
      expect(decodeJwt(body.token)["x-ms-compliance-status"]).toBe("azure-compliant-uvm");
      const other = await attest(request(bytes("maa/report.bin"), text("maa/vcek-chain.pem"), [bytes("cleanroom/decoded/maa-request.uvm-endorsement.cose")]));
      expect(decodeJwt(other.body.token)["x-ms-compliance-status"]).toBeUndefined();
    });

    it("does not vouch for the runtime data of the sample that came with it", async () => {
      const runtimeData = { data: text("maa/runtime_data_sample.b64url"), dataType: "JSON" };
      const { status, body } = await attest(request(bytes("maa/report.bin"), text("maa/vcek-chain.pem"), [], { runtimeData }));
      expect(status).toBe(400);
      expect(body.error.innererror.code).toBe("ERR_ATTESTATION_RUNTIME_DATA");
    });
  });

  describe("a complete request of a confidential container group", () => {
    const genuineRequest = (): string => text("cleanroom/insecure-virtual/encryption/maa-request.json");
    const secondRequest = (): string => {
      const { snpCACI: evidence } = (
        JSON.parse(text("cleanroom/insecure-virtual-2/encryption/attestation.json")) as { report: { snpCACI: Record<string, string> } }
      ).report;
      const decode = (name: string): Uint8Array => new Uint8Array(Buffer.from(evidence[name] ?? "", "base64"));
      return request(decode("attestation"), Buffer.from(decode("platformCertificates")).toString(), [decode("uvmEndorsements")]);
    };
    /** HOST_DATA of a group: the digest of the policy that it was started with, which the values of its Helm chart have. */
    const hostdataOf = (group: string): string => {
      const [, ccePolicy = ""] = /ccepolicy["']?\s*[:=]\s*["']?([A-Za-z0-9+/=]{16,})/i.exec(text(`cleanroom/${group}/values.txt`)) ?? [];
      return createHash("sha256").update(Buffer.from(ccePolicy, "base64")).digest("hex");
    };
    const policyOf = (hostdata: string): Json => ({
      version: "1.0.0",
      anyOf: [
        {
          authority: ISSUER,
          allOf: [
            { claim: "x-ms-sevsnpvm-hostdata", equals: hostdata },
            { claim: "x-ms-compliance-status", equals: "azure-compliant-uvm" },
            { claim: "x-ms-sevsnpvm-is-debuggable", equals: "false" },
            { claim: "x-ms-sevsnpvm-vmpl", equals: "0" },
          ],
        },
      ],
    });
    const secret = Buffer.alloc(32, 0x5a);

    beforeAll(async () => {
      time = Date.UTC(2025, 9, 15);
      expect(hostdataOf("insecure-virtual")).toBe("73973b78d70cc68353426de188db5dfc57e5b766e399935fb73a61127ea26d20");
      expect(hostdataOf("insecure-virtual-2")).toBe("7ec5120f0f497e22b18e59ed702ed82e2732562245c9a944f54cd41db4f491af");
      for (const [name, group] of [
        ["golden", "insecure-virtual"],
        ["other", "insecure-virtual-2"],
      ] as const) {
        const { status } = await vault("PUT", `/keys/${name}`, {
          key: { kty: "oct-HSM", k: secret.toString("base64url"), key_size: 256 },
          hsm: true,
          attributes: { exportable: true },
          release_policy: { contentType: "application/json; charset=utf-8", data: toBase64url(encodeUtf8(JSON.stringify(policyOf(hostdataOf(group))))) },
        });
        expect(status).toBe(200);
      }
    });

    it("gives a token with the wrapping key, the compliance status and the nonce without loss", async () => {
      const { status, body } = await attest(genuineRequest());
      expect(status).toBe(200);
      expect(decodeJwt(body.token)).toMatchObject({
        nonce: "13202930541250959283",
        "x-ms-compliance-status": "azure-compliant-uvm",
        "x-ms-runtime": { keys: [{ kid: "96478d5f" }] },
        "x-sealpod-root": "amd",
      });
      expect(decodeJwt(body.token)).not.toHaveProperty("x-ms-inittime");
    });

    it("gets the key released, which the private key in the container opens", async () => {
      const { body: attestation } = await attest(genuineRequest());
      const { status, body } = await vault("POST", "/keys/golden/release", { target: attestation.token });
      expect(status).toBe(200);
      const release = String(body["value"]);
      const leaf = new X509Certificate(Buffer.from(decodeProtectedHeader(release).x5c?.[0] ?? "", "base64"));
      const { payload } = await compactVerify(release, leaf.publicKey, { algorithms: ["RS256"] });
      const { response } = JSON.parse(Buffer.from(payload).toString()) as { response: { key: { key: { key_hsm: string } } } };
      const wrapped = JSON.parse(Buffer.from(response.key.key.key_hsm, "base64url").toString()) as { header: Json; ciphertext: string };
      expect(wrapped.header).toEqual({ kid: "96478d5f", alg: "dir", enc: "CKM_RSA_AES_KEY_WRAP" });

      const key = createPrivateKey({
        key: Buffer.from(text("cleanroom/insecure-virtual/encryption/priv_key.pkcs8.b64"), "base64"),
        format: "der",
        type: "pkcs8",
      });
      const ciphertext = Buffer.from(wrapped.ciphertext, "base64url");
      const kek = privateDecrypt({ key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha1" }, ciphertext.subarray(0, 256));
      const decipher = createDecipheriv("id-aes256-wrap-pad", kek, Buffer.from("A65959A6", "hex"));
      expect(Buffer.concat([decipher.update(ciphertext.subarray(256)), decipher.final()])).toEqual(secret);
    });

    it("of another group, with another policy, does not get it", async () => {
      const { status, body: attestation } = await attest(secondRequest());
      expect(status).toBe(200);
      const { status: refused, body, requestId } = await vault("POST", "/keys/golden/release", { target: attestation.token });
      expect(refused).toBe(403);
      expect(JSON.stringify(body)).not.toMatch(/hostdata|73973b78/);
      const explanation = await explainRelease(keyStore, { requestId });
      expect(explanation?.record.failed).toBe("policy");
      expect(explanation?.record.findings.filter(({ matched }) => !matched)).toMatchObject([
        { claim: "x-ms-sevsnpvm-hostdata", found: '"7ec5120f0f497e22b18e59ed702ed82e2732562245c9a944f54cd41db4f491af"' },
      ]);
    });

    it("does not get the key of the other group", async () => {
      const { body: attestation } = await attest(genuineRequest());
      const { status: refused, body, requestId } = await vault("POST", "/keys/other/release", { target: attestation.token });
      expect(refused).toBe(403);
      expect(JSON.stringify(body)).not.toMatch(/hostdata|7ec5120f/);
      const findings = (await explainRelease(keyStore, { requestId }))?.record.findings;
      expect(findings?.map(({ claim, matched }) => [claim.replace(/.*-/, ""), matched])).toEqual([
        ["hostdata", false],
        ["status", true],
        ["debuggable", true],
        ["vmpl", true],
      ]);
    });

    it("with one bit of its report changed gets no token", async () => {
      const body = JSON.parse(genuineRequest().replace(/"nonce": *\d+/, '"nonce": 1')) as Json & { report: string };
      const evidence = JSON.parse(Buffer.from(body.report, "base64").toString()) as Json & { SnpReport: string };
      const report = Buffer.from(evidence.SnpReport, "base64");
      report[0xc0] = (report[0xc0] ?? 0) ^ 1;
      const changed = Buffer.from(JSON.stringify({ ...evidence, SnpReport: report.toString("base64url") })).toString("base64url");
      const { status, body: answer } = await attest(JSON.stringify({ ...body, report: changed }));
      expect(status).toBe(400);
      expect(answer.error.innererror.code).toBe("ERR_SNP_SIGNATURE");
    });

    it("gets no token after its certificate has expired", async () => {
      const now = time;
      time = Date.UTC(2033, 0, 1);
      const { status, body } = await attest(genuineRequest());
      time = now;
      expect(status).toBe(400);
      expect(body.error.innererror.code).toBe("ERR_SNP_VALIDITY");
    });
  });
});
