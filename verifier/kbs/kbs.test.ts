import { createHash, generateKeyPairSync } from "node:crypto";
import { compactVerify, createLocalJWKSet, decodeJwt, decodeProtectedHeader, SignJWT } from "jose";
import { beforeAll, beforeEach, describe, expect, it } from "vitest";
import { asObject, encodeUtf8, silentLogger, type JsonObject } from "@sealpod/core";
import { AMD_ROOTS, selectCertificateChain, SnpError, type EndorsementSource } from "@sealpod/snp";
import { ed25519Admins, kbsApp } from "./index.ts";
import {
  ADMIN,
  chainOf,
  ecKey,
  HOST_DATA,
  kindOf,
  makeProcessor,
  MEASUREMENT,
  open,
  random,
  REFERENCE_VALUES,
  render,
  reportDataOf,
  rsaKey,
  START,
  stringify,
  World,
  type AttestChange,
  type Processor,
} from "./testdata/world.ts";

let milan: Processor;
let turin: Processor;
let other: Processor;
let world: World;

beforeAll(() => {
  milan = makeProcessor("Milan");
  turin = makeProcessor("Turin");
  other = makeProcessor("Milan");
});

beforeEach(() => {
  world = new World(milan);
});

/** Sets a resource over the administrators' door. */
async function put(path: string, bytes: string | Uint8Array, at = world): Promise<void> {
  const answer = await at.admin("POST", `/kbs/v0/resource/${path}`, bytes);
  if (answer.status !== 200) throw new Error(answer.text);
}

/** A policy, as the tool of CoCo sends it. */
function policy(text: string): { readonly policy: string } {
  return { policy: Buffer.from(text).toString("base64url") };
}

describe("the way of a guest: auth, attest, resource", () => {
  it("gives a resource to an attested guest, encrypted to its key, by cookie and by token", async () => {
    await put("default/key/db", Uint8Array.of(1, 0, 255, 7));
    const guest = await world.guest();
    for (const headers of [{ cookie: guest.cookie }, { authorization: `Bearer ${guest.token}` }]) {
      const answer = await world.resource("default/key/db", headers);
      expect(answer.status).toBe(200);
      expect([...(await open(answer.body, guest.key))]).toEqual([1, 0, 255, 7]);
    }
  });

  it.each(["P-256", "P-384", "P-521"] as const)("encrypts to a key on %s", async (curve) => {
    await put("default/key/db", "secret");
    const guest = await world.guest({ key: ecKey(curve) });
    const answer = await world.resource("default/key/db", { cookie: guest.cookie });
    expect(Buffer.from(await open(answer.body, guest.key)).toString()).toBe("secret");
  });

  it("encrypts to an RSA key with RSA-OAEP-256", async () => {
    await put("default/key/db", "secret");
    const guest = await world.guest({ key: rsaKey() });
    const answer = await world.resource("default/key/db", { cookie: guest.cookie });
    expect(Buffer.from(answer.body["protected"] as string, "base64url").toString()).toBe('{"alg":"RSA-OAEP-256","enc":"A256GCM"}');
    expect(Buffer.from(await open(answer.body, guest.key)).toString()).toBe("secret");
  });

  it("writes the protected header as a client of CoCo renders it: alg, enc, the others sorted", async () => {
    await put("default/key/db", "secret");
    const guest = await world.guest();
    const { body } = await world.resource("default/key/db", { cookie: guest.cookie });
    expect(Object.keys(body)).toEqual(["protected", "encrypted_key", "iv", "ciphertext", "tag"]);
    const text = Buffer.from(body["protected"] as string, "base64url").toString();
    const { alg, enc, epk } = JSON.parse(text) as { alg: string; enc: string; epk: Record<string, string> };
    // The client authenticates its own rendering, so ours has to be byte for byte this.
    expect(text).toBe(`{"alg":"${alg}","enc":"${enc}","epk":{"crv":"P-256","kty":"EC","x":"${epk["x"]}","y":"${epk["y"]}"}}`);
    expect([alg, enc]).toEqual(["ECDH-ES+A256KW", "A256GCM"]);
    const again = await world.resource("default/key/db", { cookie: guest.cookie });
    expect(again.body["protected"]).not.toBe(body["protected"]);
    expect(again.body["iv"]).not.toBe(body["iv"]);
  });

  it.each(["protected", "encrypted_key", "iv", "ciphertext", "tag"])("a JWE with another %s does not open", async (member) => {
    await put("default/key/db", "secret");
    const guest = await world.guest();
    const { body } = await world.resource("default/key/db", { cookie: guest.cookie });
    const text = body[member] as string;
    const changed = { ...body, [member]: (text.startsWith("A") ? "B" : "A") + text.slice(1) };
    await expect(open(changed, guest.key)).rejects.toThrow();
    await expect(open(body, ecKey())).rejects.toThrow();
  });

  it("gives each session its own nonce and cookie, for five minutes", async () => {
    const response = await world.app.request("https://kbs.test/kbs/v0/auth", { method: "POST", body: '{"version":"0.4.0","tee":"snp","extra-params":""}' });
    expect(response.headers.get("set-cookie")).toMatch(
      /^kbs-session-id=[\w.-]+; Path=\/kbs\/v0; Expires=Sun, 22 Nov 2026 12:05:00 GMT; HttpOnly; SameSite=Strict; Secure$/,
    );
    const body = (await response.json()) as Record<string, string>;
    expect(Object.keys(body)).toEqual(["nonce", "extra-params"]);
    expect(Buffer.from(body["nonce"] ?? "", "base64")).toHaveLength(32);
    const [a, b] = [await world.auth(), await world.auth()];
    expect(a.nonce).not.toBe(b.nonce);
    expect(a.cookie).not.toBe(b.cookie);
  });

  it("gives the stored token to a session that attests again, whatever it sends", async () => {
    const { token, cookie } = await world.guest();
    world.now += 1000;
    const again = await world.call("POST", "/kbs/v0/attest", "{}", { cookie });
    expect(again.status).toBe(200);
    expect(again.body["token"]).toBe(token);
  });

  it("keeps no session in memory: another replica goes on with it, and takes its token", async () => {
    await put("default/key/db", "secret");
    const replica = new World(milan, {}, world.store);
    const { nonce, cookie } = await world.auth();
    const guest = await replica.guest({ nonce, cookie });
    for (const headers of [{ cookie: guest.cookie }, { authorization: `Bearer ${guest.token}` }]) {
      expect((await world.resource("default/key/db", headers)).status).toBe(200);
    }
  });

  it("two replicas that make the keys at once end up with one", async () => {
    const replica = new World(milan, {}, world.store);
    const [a, b] = await Promise.all([world.call("GET", "/.well-known/jwks.json"), replica.call("GET", "/.well-known/jwks.json")]);
    expect(a.text).toBe(b.text);
  });
});

describe("evidence", () => {
  it.each([2, 3, 4] as const)("of version %i is put together to the bytes that were signed", async (version) => {
    expect((await world.attest({ version })).status).toBe(200);
  });

  it("of a Turin, version 5, with 64-bit mitigation vectors, is put together to the bytes that were signed", async () => {
    world = new World(turin);
    expect((await world.attest()).status).toBe(200);
  });

  it("every field of the rendering counts: a change in any of them is refused", async () => {
    const fields = Object.keys((render(turin.report(), undefined, true)["attestation_report"] ?? {}) as object);
    expect(fields).toHaveLength(29);
    world = new World(turin);
    const changed = (value: unknown): unknown => {
      if (typeof value === "number") return value ^ 1;
      if (typeof value === "string") return `u64:${BigInt(value.slice(4)) ^ 1n}`;
      if (Array.isArray(value)) return [(value[0] as number) ^ 1, ...(value.slice(1) as number[])];
      if (value === null) return 1;
      const [[name, first] = ["", 0], ...rest] = Object.entries(value as object);
      return Object.fromEntries([[name, changed(first)], ...rest]);
    };
    for (const field of fields) {
      for (const make of [changed, (): unknown => undefined, (): unknown => "x", (): unknown => -1, (): unknown => 0.5, (): unknown => [256]]) {
        const answer = await world.attest({
          edit: (body) => {
            const report = body["tee-evidence"].primary_evidence.attestation_report;
            report[field] = make(report[field]);
            return body;
          },
        });
        expect([field, answer.status, kindOf(answer)]).toEqual([field, 401, "AttestationError"]);
      }
    }
  });

  it("that contradicts its version or product is told so", async () => {
    const edited = async (at: World, version: 2 | 5, field: string, value: unknown): Promise<unknown> => {
      const answer = await at.attest({
        version,
        edit: (body) => ((body["tee-evidence"].primary_evidence.attestation_report[field] = value), body),
      });
      return [answer.status, answer.body["detail"]];
    };
    expect(await edited(world, 2, "cpuid_fam_id", 0x19)).toEqual([401, expect.stringContaining("expected null in a report of version 2")]);
    const levels = { bootloader: 4, tee: 1, snp: 24, microcode: 219 };
    expect(await edited(new World(turin), 5, "launch_tcb", { fmc: null, ...levels })).toEqual([401, expect.stringContaining("launch_tcb.fmc is null")]);
    const milan3 = await world.attest({
      edit: (body) => ((body["tee-evidence"].primary_evidence.attestation_report["launch_tcb"] = { fmc: 0, ...levels }), body),
    });
    expect(milan3.body["detail"]).toContain("because Milan has none");
  });

  const authorities = (processor: Processor): EndorsementSource & { asked: string[] } => {
    const asked: string[] = [];
    const { vcek, ask, ark } = processor;
    return {
      name: "test",
      asked,
      fetchEndorsement: async () => Promise.reject(new SnpError("ERR_SNP_KDS_UNAVAILABLE", "not asked for")),
      fetchChain: async (request) => {
        asked.push(`chain ${request.products.join(" ")}`);
        return Promise.resolve(selectCertificateChain([vcek, ask, ark]));
      },
      authorities: {
        fetchAuthorities: async (kind, product) => {
          asked.push(`authorities ${kind} ${product}`);
          return Promise.resolve({ intermediate: ask, root: ark });
        },
        fetchCrl: async () => Promise.reject(new SnpError("ERR_SNP_KDS_UNAVAILABLE", "not asked for")),
      },
    };
  };

  it("with the VCEK alone is completed by the certificate service, asked once", async () => {
    const source = authorities(milan);
    world = new World(milan, { endorsements: source });
    const vcek = chainOf(milan).slice(0, 1);
    for (let time = 0; time < 3; time++) expect((await world.attest({ certificates: vcek })).status).toBe(200);
    expect(source.asked).toEqual(["authorities vcek Milan"]);
  });

  it("without certificates is completed by the certificate service, asked once for a chip", async () => {
    const source = authorities(milan);
    world = new World(milan, { endorsements: source });
    for (let time = 0; time < 3; time++) expect((await world.attest({ certificates: null })).status).toBe(200);
    expect(source.asked).toEqual(["chain Milan"]);
  });

  it("with the VCEK alone is completed by the authorities of its own root, where another of the product is trusted", async () => {
    const source = authorities(milan);
    const options = { roots: [milan.root, { ...other.root, name: "second" }], endorsements: source };
    const vcek = chainOf(milan).slice(0, 1);
    world = new World(milan, options);
    // What the whole chain of one root teaches is not for the guests of the other.
    expect((await world.attest({ processor: other })).status).toBe(200);
    expect((await world.attest({ certificates: vcek })).status).toBe(200);
    expect(source.asked).toEqual(["authorities vcek Milan"]);
    // Once both are known, both stay known, in any order.
    for (const change of [
      { processor: other },
      { certificates: vcek },
      { processor: other, certificates: chainOf(other).slice(0, 1) },
      { certificates: vcek },
    ]) {
      expect((await world.attest(change)).status).toBe(200);
    }
    expect(source.asked).toHaveLength(1);
  });

  it("with a VCEK that no kept authority has signed has the certificate service asked once a minute", async () => {
    const source = authorities(milan);
    world = new World(milan, { endorsements: source });
    const stranger = { processor: other, certificates: chainOf(other).slice(0, 1) };
    for (let time = 0; time < 3; time++) expect((await world.attest(stranger)).status).toBe(401);
    expect((await world.attest({ certificates: chainOf(milan).slice(0, 1) })).status).toBe(200);
    expect(source.asked).toHaveLength(1);
    world.now += 60_000;
    expect((await world.attest(stranger)).status).toBe(401);
    expect(source.asked).toHaveLength(2);
  });

  it("keeps no certificate that evidence did not verify with", async () => {
    const source = authorities(other);
    world = new World(milan, { endorsements: source });
    for (let time = 0; time < 2; time++) expect((await world.attest({ certificates: null })).status).toBe(401);
    expect(source.asked).toHaveLength(2);
  });

  it("says that certificates are missing when there is no service, and that the service failed when there is one", async () => {
    const none = await world.attest({ certificates: chainOf(milan).slice(0, 1) });
    expect([none.status, none.body["detail"]]).toEqual([401, expect.stringContaining("no certificate service is configured")]);
    const failing: EndorsementSource = {
      ...authorities(milan),
      fetchChain: async () => Promise.reject(new SnpError("ERR_SNP_KDS_THROTTLED", "429")),
    };
    const answer = await new World(milan, { endorsements: failing }).attest({ certificates: null });
    expect([answer.status, kindOf(answer)]).toEqual([503, "AttestationError"]);
  });

  it("of the emulator is refused by who trusts AMD alone", async () => {
    const answer = await new World(milan, { roots: AMD_ROOTS }).attest();
    expect([answer.status, answer.body["detail"]]).toEqual([401, expect.stringContaining("no trusted root")]);
  });

  it("from another VMPL is taken by who says so", async () => {
    expect((await world.attest({ report: { vmpl: 2 } })).body["detail"]).toContain("VMPL 2");
    expect((await new World(milan, { vmpls: [0, 2] }).attest({ report: { vmpl: 2 } })).status).toBe(200);
    const host = await new World(milan, { vmpls: [0, 0xffff_ffff] }).attest({ report: { vmpl: 0xffff_ffff } });
    expect([host.status, host.body["detail"]]).toEqual([401, expect.stringContaining("asked for by the host")]);
  });
});

describe("attest: one thing wrong, and it is refused", () => {
  const flip = (list: unknown): void => {
    const numbers = list as number[];
    numbers[0] = (numbers[0] ?? 0) ^ 1;
  };
  const cases: readonly (readonly [string, AttestChange | (() => Promise<AttestChange>), RegExp])[] = [
    [
      "the nonce of the request",
      { edit: (body) => ({ ...body, "runtime-data": { ...body["runtime-data"], nonce: "AAAA" } }) },
      /nonce in runtime-data is not that of this session/,
    ],
    ["the nonce of another session", async () => ({ nonce: (await world.auth()).nonce }), /nonce in runtime-data is not that of this session/],
    ["the session of another nonce", async () => ({ cookie: (await world.auth()).cookie }), /nonce in runtime-data is not that of this session/],
    ["another key than in the report", { sentKey: ecKey().jwk }, /REPORT_DATA is/],
    ["REPORT_DATA", { report: { reportData: new Uint8Array(64) } }, /REPORT_DATA is/],
    [
      "REPORT_DATA without the zeros",
      { edit: (body) => (((body["tee-evidence"].primary_evidence.attestation_report["report_data"] as number[])[63] = 1), body) },
      /REPORT_DATA is/,
    ],
    ["additional evidence in the request alone", { edit: (body) => ((body["tee-evidence"].additional_evidence = "{}"), body) }, /REPORT_DATA is/],
    ["additional evidence of other devices", { additional: '{"nvidia":{}}' }, /other devices/],
    [
      "the signature",
      { edit: (body) => (flip((body["tee-evidence"].primary_evidence.attestation_report["signature"] as { r: unknown }).r), body) },
      /signature does not verify/,
    ],
    ["the measurement", { edit: (body) => (flip(body["tee-evidence"].primary_evidence.attestation_report["measurement"]), body) }, /signature does not verify/],
    ["the processor", { processor: other_ }, /no trusted root|is no trusted root/],
    ["the root in the chain", async () => Promise.resolve({ certificates: [...chainOf(milan).slice(0, 2), ["ARK", other.ark.der]] }), /is no trusted root/],
    ["the VCEK in the chain", async () => Promise.resolve({ certificates: [["VCEK", other.vcek.der], ...chainOf(milan).slice(1)] }), /chain|verify/],
    ["a certificate that is none", { certificates: [["VCEK", Uint8Array.of(0x30, 1)]] }, /evidence/],
    ["debugging of the guest is allowed, and the status says so", { report: { policy: 0xb001fn } }, /^$/],
    ["init data that are not in HOST_DATA", { initData: { format: "toml", body: 'version = "0.1.0"\nalgorithm = "sha256"\n' } }, /is HOST_DATA of the report/],
    ["init data of another format", { initData: { format: "json", body: "{}" } }, /expected "toml"/],
    ["no session", { cookie: "" }, /there is no cookie/],
    [
      "a session of ours with a byte changed",
      async () => ({ cookie: (await world.auth()).cookie.replace(/.$/, (last) => (last === "A" ? "B" : "A")) }),
      /not one of this key broker/,
    ],
    ["a session of another key broker", async () => ({ cookie: (await new World(milan).auth()).cookie }), /not one of this key broker/],
    ["no runtime data", { edit: (body) => ({ "tee-evidence": body["tee-evidence"] }) }, /"runtime-data" is missing/],
    ["two keys", { edit: (body) => ({ ...body, "tee-pubkey": ecKey().jwk }) }, /which of the keys/],
    ["no evidence", { edit: (body) => ({ ...body, "tee-evidence": { primary_evidence: {}, additional_evidence: "" } }) }, /attestation_report is nothing/],
    ["a key on no curve", { sentKey: { ...ecKey().jwk, crv: "secp256k1" } }, /crv is/],
    ["a point that is not on the curve", { sentKey: { ...ecKey().jwk, y: Buffer.alloc(32, 1).toString("base64url") } }, /tee-pubkey/],
    ["a key for another algorithm", { sentKey: { ...ecKey().jwk, alg: "ECDH-ES" } }, /alg is "ECDH-ES"/],
    ["a key for RSA1_5", { sentKey: { ...rsaKey().jwk, alg: "RSA1_5" } }, /RSA1_5/],
    ["a short RSA key", { key: rsaKey(1024) }, /modulus has 128 bytes/],
    ["an RSA key with the exponent 1", { sentKey: { ...rsaKey().jwk, e: "AQ" } }, /exponent/],
    ["a key with a member more", { sentKey: { ...ecKey().jwk, use: "enc" } }, /member "use"/],
    ["a private key", { sentKey: { ...ecKey().jwk, d: "AAAA" } }, /member "d"/],
  ];

  it.each(cases)("%s", async (name, change, problem) => {
    const wanted = typeof change === "function" ? await change() : change;
    const answer = await world.attest(wanted.processor === other_ ? { ...wanted, processor: other } : wanted);
    if (problem.source === "^$") {
      expect(answer.status, name).toBe(200);
      expect(status(answer.body["token"])).toBe("warning");
      return;
    }
    expect(answer.status, answer.text).toBe(401);
    expect(answer.body["detail"] as string).toMatch(problem);
    expect(answer.body["type"] as string).toMatch(/^https:\/\/github\.com\/confidential-containers\/kbs\/errors\/[A-Za-z]+$/);
    expect(Object.keys(answer.body)).toEqual(["type", "detail"]);
    // A stranger writes nothing into the audit.
    expect(world.store.lines.filter(({ operation }) => operation === "kbs/attest")).toEqual([]);
  });

  it("an expired session", async () => {
    const { nonce, cookie } = await world.auth();
    world.now += 299_000;
    expect((await world.attest({ nonce, cookie })).status).toBe(200);
    world.now += 1000;
    const answer = await world.attest({ nonce, cookie });
    expect([answer.status, answer.body["detail"]]).toEqual([401, expect.stringContaining("expired")]);
  });

  it("certificates that have expired", async () => {
    world.now += 2 * 365 * 24 * 60 * 60 * 1000;
    expect((await world.attest()).body["detail"]).toContain("is valid from");
  });
});

/** Stands for the processor that is made before all tests. */
const other_ = {} as Processor;

function status(token: unknown): unknown {
  return asObject((decodeJwt(String(token)) as unknown as { submods: { cpu0: JsonObject } }).submods.cpu0)?.["ear.status"];
}

describe("protocol versions", () => {
  it.each(["0.4.0", "0.4.1", "0.3.0", "0.2.1", "0.1.1"])("takes %s", async (version) => {
    expect((await world.call("POST", "/kbs/v0/auth", { version, tee: "snp", "extra-params": "" })).status).toBe(200);
  });

  it.each(["0.1.0", "0.5.0", "1.0.0", "0.4", "", "0.4.0-x", 4, null, undefined])("refuses %s and says what it takes", async (version) => {
    const answer = await world.call("POST", "/kbs/v0/auth", { version, tee: "snp", "extra-params": "" });
    expect([answer.status, kindOf(answer)]).toEqual([401, "ProtocolVersion"]);
    expect(answer.body["detail"]).toContain("expected 0.4.0");
  });

  it.each(["tdx", "sample", "sgx", "azsnpvtpm", undefined])("refuses the TEE %s", async (tee) => {
    const answer = await world.call("POST", "/kbs/v0/auth", { version: "0.4.0", tee });
    expect([answer.status, answer.body["detail"]]).toEqual([401, expect.stringContaining('expected "snp"')]);
  });

  it("takes the older shape in an older session: key and bare evidence, hashed without additional evidence", async () => {
    const { nonce, cookie } = await world.auth("0.2.0");
    const key = ecKey();
    const primary = render(milan.report({ reportData: reportDataOf(nonce, key.jwk, null) }), chainOf(milan));
    const answer = await world.call("POST", "/kbs/v0/attest", { "tee-pubkey": key.jwk, "tee-evidence": primary }, { cookie });
    expect([answer.status, answer.text.slice(0, 200)]).toEqual([200, expect.stringContaining("token")]);
    const composite = { "tee-pubkey": key.jwk, "tee-evidence": { primary_evidence: primary, additional_evidence: "" } };
    expect((await world.call("POST", "/kbs/v0/attest", composite, { cookie })).body["detail"]).toContain("no version of the protocol");
    const current = await world.auth();
    const refused = await world.call("POST", "/kbs/v0/attest", { "tee-pubkey": key.jwk, "tee-evidence": primary }, { cookie: current.cookie });
    expect(refused.body["detail"]).toContain("since version 0.4.0");
  });

  it("hashes with the empty additional evidence since 0.4.0, and not without", async () => {
    const { nonce, cookie } = await world.auth();
    const key = ecKey();
    const report = { reportData: reportDataOf(nonce, key.jwk, null) };
    expect((await world.attest({ nonce, cookie, key, report })).body["detail"]).toContain("REPORT_DATA is");
  });
});

describe("the token", () => {
  it("is an EAR with the claims of CoCo, signed with the key in the JWKS", async () => {
    const { token, key } = await world.guest();
    const jwks = (await world.call("GET", "/.well-known/jwks.json")).body as unknown as { keys: { kid: string }[] };
    await compactVerify(token, createLocalJWKSet(jwks as never));
    const header = decodeProtectedHeader(token);
    expect(header).toEqual({ alg: "ES256", typ: "JWT", kid: jwks.keys[0]?.kid, jwk: jwks.keys[0] });
    expect(jwks.keys[0]).not.toHaveProperty("d");
    const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
    const claims = decodeJwt(token) as Record<string, unknown>;
    expect(claims).toEqual({
      eat_profile: "tag:github.com,2024:confidential-containers/Trustee",
      iat: START / 1000,
      exp: START / 1000 + 300,
      iss: "CoCo-Attestation-Service",
      "ear.verifier-id": { developer: expect.any(String) as string, build: expect.any(String) as string },
      submods: {
        cpu0: {
          "ear.status": "affirming",
          "ear.trustworthiness-vector": {
            "instance-identity": 0,
            configuration: 3,
            executables: 3,
            "file-system": 0,
            hardware: 2,
            "runtime-opaque": 0,
            "storage-opaque": 0,
            "sourced-data": 0,
          },
          "ear.appraisal-policy-id": "default",
          "ear.veraison.annotated-evidence": {
            snp: {
              chip_id: "c1".repeat(64),
              guest_svn: 2,
              measurement: hex(MEASUREMENT),
              platform_smt_enabled: true,
              platform_tsme_enabled: false,
              policy_abi_major: 0,
              policy_abi_minor: 31,
              policy_debug_allowed: false,
              policy_migrate_ma: false,
              policy_single_socket: false,
              policy_smt_allowed: true,
              reported_tcb_bootloader: 4,
              reported_tcb_microcode: 219,
              reported_tcb_snp: 24,
              reported_tcb_tee: 1,
              vmpl: 0,
            },
            init_data: hex(HOST_DATA),
            report_data: expect.stringMatching(/^[0-9a-f]{96}0{32}$/) as string,
            runtime_data_claims: { "additional-evidence": "", nonce: expect.any(String) as string, "tee-pubkey": key.jwk },
            sealpod: { product: "Milan", root: "emulator" },
          },
        },
      },
    });
  });

  it.each([
    ["of another key broker", async () => (await new World(milan).guest()).token],
    [
      "signed with a key that it brings itself",
      async () => {
        const { token } = await world.guest();
        const pair = generateKeyPairSync("ec", { namedCurve: "P-256" });
        return new SignJWT(decodeJwt(token)).setProtectedHeader({ alg: "ES256", jwk: pair.publicKey.export({ format: "jwk" }) as never }).sign(pair.privateKey);
      },
    ],
    [
      "without a signature",
      async () => {
        const { token } = await world.guest();
        return `${Buffer.from('{"alg":"none"}').toString("base64url")}.${token.split(".")[1]}.`;
      },
    ],
    [
      "with other claims",
      async () => {
        const [header, payload = "", signature] = (await world.guest()).token.split(".");
        const claims = JSON.parse(Buffer.from(payload, "base64url").toString()) as Record<string, unknown>;
        return `${header}.${Buffer.from(JSON.stringify({ ...claims, exp: 9e9 })).toString("base64url")}.${signature}`;
      },
    ],
    ["that is none", async () => Promise.resolve("a.b.c")],
  ])("%s opens nothing", async (_name, make) => {
    await put("default/key/db", "secret");
    const answer = await world.resource("default/key/db", { authorization: `Bearer ${await make()}` });
    expect([answer.status, kindOf(answer)]).toEqual([401, "TokenVerifierError"]);
  });

  it("expires after five minutes, and its session with it", async () => {
    await put("default/key/db", "secret");
    const guest = await world.guest();
    world.now += 299_000;
    expect((await world.resource("default/key/db", { authorization: `Bearer ${guest.token}` })).status).toBe(200);
    expect((await world.resource("default/key/db", { cookie: guest.cookie })).status).toBe(200);
    world.now += 1000;
    expect((await world.resource("default/key/db", { authorization: `Bearer ${guest.token}` })).status).toBe(401);
    expect((await world.resource("default/key/db", { cookie: guest.cookie })).status).toBe(401);
  });

  it("opens nothing to others: what comes is encrypted to its guest", async () => {
    await put("default/key/db", "secret");
    const guest = await world.guest();
    const thief = ecKey();
    const answer = await world.resource("default/key/db", { authorization: `Bearer ${guest.token}` });
    await expect(open(answer.body, thief)).rejects.toThrow();
  });

  it("is asked for: neither an open session nor nothing opens a resource", async () => {
    await put("default/key/db", "secret");
    const { cookie } = await world.auth();
    expect(kindOf(await world.resource("default/key/db", { cookie }))).toBe("TokenNotFound");
    expect(kindOf(await world.resource("default/key/db", {}))).toBe("TokenNotFound");
    expect(kindOf(await world.resource("default/key/db", { authorization: "Basic YTpi" }))).toBe("TokenVerifierError");
  });
});

describe("init data", () => {
  const body = [
    'version = "0.1.0"',
    'algorithm = "ALG"',
    "[data]",
    `"aa.toml" = '''`,
    "[token_configs.kbs]",
    'url = "https://kbs"',
    "retries = 3",
    `'''`,
    `"policy.rego" = '''`,
    "package agent_policy",
    "policy_data := {",
    '  "containers": [{"text": "a } \\" {"}],',
    '  "n": 1',
    "}",
    "other := {}",
    `'''`,
    `"note" = "x"`,
    "",
  ].join("\n");
  const hostData = (text: string, algorithm: string): Uint8Array => {
    const field = new Uint8Array(32);
    field.set(createHash(algorithm).update(text).digest().subarray(0, 32));
    return field;
  };

  it.each(["sha256", "sha384", "sha512"])("measured with %s become claims", async (algorithm) => {
    const text = body.replace("ALG", algorithm);
    const answer = await world.attest({ initData: { format: "toml", body: text }, report: { hostData: hostData(text, algorithm) } });
    expect(answer.status, answer.text).toBe(200);
    const claims = decodeJwt(answer.body["token"] as string) as unknown as { submods: { cpu0: Record<string, Record<string, unknown>> } };
    const evidence = claims.submods.cpu0["ear.veraison.annotated-evidence"];
    expect(evidence?.["init_data"]).toBe(Buffer.from(hostData(text, algorithm)).toString("hex"));
    expect(evidence?.["init_data_claims"]).toEqual({
      "aa.toml": { token_configs: { kbs: { url: "https://kbs", retries: 3 } } },
      agent_policy_claims: { containers: [{ text: 'a } " {' }], n: 1 },
      note: "x",
    });
  });

  it.each([
    ["another algorithm than they are measured with", body.replace("ALG", "sha256"), "sha512", "are measured with sha512"],
    ["no TOML", "= = =", "sha256", "not TOML"],
    ["a file that is no TOML", 'version="0.1.0"\nalgorithm="sha256"\n[data]\n"cdh.toml" = "= ="\n', "sha256", "cdh.toml: not TOML"],
    ["levels without end", `algorithm="sha256"\n[data]\n"aa.toml" = '''\n${"a.".repeat(500)}a = 1\n'''\n`, "sha256", "nested deeper than 64"],
    ["a number that JSON has not", `algorithm="sha256"\n[data]\n"aa.toml" = '''\na = inf\n'''\n`, "sha256", "no place in JSON"],
    ["a file that is no text", 'algorithm="sha256"\n[data]\na = 1\n', "sha256", "is no text"],
  ])("with %s are refused", async (_name, text, algorithm, problem) => {
    const answer = await world.attest({ initData: { format: "toml", body: text }, report: { hostData: hostData(text, algorithm) } });
    expect([answer.status, answer.body["detail"]]).toEqual([401, expect.stringContaining(problem)]);
  });

  it("a policy whose data are no JSON is left out, and makes no trouble", async () => {
    const text = `algorithm="sha256"\n[data]\n"policy.rego" = '''\npolicy_data := {"a": input.x}\n'''\n`;
    const answer = await world.attest({ initData: { format: "toml", body: text }, report: { hostData: hostData(text, "sha256") } });
    expect(answer.status).toBe(200);
  });

  it("too large for a cookie: the session works where it began, and the token everywhere", async () => {
    await put("default/key/db", "secret");
    const noise = Buffer.from(random.bytes(8000)).toString("base64");
    const text = `algorithm="sha256"\n[data]\nnoise = "${noise}"\n`;
    await world.admin("POST", "/kbs/v0/reference-value/snp_host_data", [Buffer.from(hostData(text, "sha256")).toString("hex")]);
    const guest = await world.guest({ initData: { format: "toml", body: text }, report: { hostData: hostData(text, "sha256") } });
    expect(guest.cookie.length).toBeLessThan(4096);
    expect((await world.resource("default/key/db", { cookie: guest.cookie })).status).toBe(200);
    const replica = new World(milan, {}, world.store);
    const answer = await replica.resource("default/key/db", { cookie: guest.cookie });
    expect([answer.status, answer.body["detail"]]).toEqual([401, expect.stringContaining("this replica has not issued it")]);
    expect((await replica.resource("default/key/db", { authorization: `Bearer ${guest.token}` })).status).toBe(200);
  });
});

describe("policies", () => {
  const values = async (entries: Readonly<Record<string, unknown>>): Promise<void> => {
    const payload = Buffer.from(JSON.stringify(entries)).toString("base64");
    const answer = await world.admin("POST", "/kbs/v0/reference-value", { version: "0.1.0", type: "sample", payload });
    if (answer.status !== 200) throw new Error(answer.text);
  };
  const statusNow = async (change: AttestChange = {}): Promise<unknown> => status((await world.attest(change)).body["token"]);

  it("without reference values affirm nothing, and nothing is given", async () => {
    world = new World(milan, { defaults: {} });
    await put("default/key/db", "secret");
    const guest = await world.guest();
    expect(status(guest.token)).toBe("contraindicated");
    const answer = await world.resource("default/key/db", { cookie: guest.cookie });
    expect([answer.status, kindOf(answer)]).toEqual([401, "PolicyDeny"]);
  });

  it("bind resources to the workloads that an administrator named by HOST_DATA: affirmed is not enough", async () => {
    const { snp_host_data: _none, ...unset } = REFERENCE_VALUES;
    world = new World(milan, { defaults: { referenceValues: unset } });
    await put("default/key/db", "secret");
    const own = await world.guest();
    const other = await world.guest({ report: { hostData: new Uint8Array(32).fill(0x66) } });
    const empty = await world.guest({ report: { hostData: new Uint8Array(32) } });
    expect([own, other, empty].map(({ token }) => status(token))).toEqual(["affirming", "affirming", "affirming"]);
    const given = async (): Promise<readonly number[]> =>
      Promise.all([own, other, empty].map(async ({ token }) => (await world.resource("default/key/db", { authorization: `Bearer ${token}` })).status));
    expect(await given()).toEqual([401, 401, 401]);
    const hex = Buffer.from(HOST_DATA).toString("hex");
    for (const [value, statuses] of [
      [[hex], [200, 401, 401]],
      // As tools of others print it.
      [[hex.toUpperCase()], [200, 401, 401]],
      [
        ["66".repeat(32), hex],
        [200, 200, 401],
      ],
      [[], [401, 401, 401]],
    ] as const) {
      await values({ snp_host_data: value });
      expect(await given(), JSON.stringify(value)).toEqual(statuses);
    }
    const answer = await world.resource("default/key/db", { authorization: `Bearer ${other.token}` });
    expect([kindOf(answer), answer.body["detail"]]).toEqual(["PolicyDeny", expect.stringContaining("snp_host_data")]);
  });

  it.each([
    ["gives nothing", ["", "HEX-", "HEX00"], 401],
    ["hides no good one", [7, null, "HEX"], 200],
  ])("a list of HOST_DATA from a configuration with what no guest can have %s", async (_what, list, expected) => {
    const hex = Buffer.from(HOST_DATA).toString("hex");
    const value = list.map((item) => (typeof item === "string" ? item.replace("HEX-", hex.slice(0, -1)).replace("HEX", hex) : item));
    world = new World(milan, { defaults: { referenceValues: { ...REFERENCE_VALUES, snp_host_data: value } } });
    await put("default/key/db", "secret");
    const { cookie } = await world.guest();
    expect((await world.resource("default/key/db", { cookie })).status).toBe(expected);
  });

  it("with reference values that an administrator sets, one after the other", async () => {
    world = new World(milan, { defaults: {} });
    await values({ snp_bootloader: [3, 4], snp_microcode: [219], snp_snp_svn: [24], snp_tee_svn: [1] });
    expect(await statusNow()).toBe("warning");
    await values({ snp_launch_measurement: ["01".repeat(48), Buffer.from(MEASUREMENT).toString("hex")] });
    expect(await statusNow()).toBe("affirming");
    expect(await statusNow({ report: { measurement: new Uint8Array(48) } })).toBe("warning");
    // Debugging, then a migration agent.
    expect(await statusNow({ report: { policy: 0xb001fn } })).toBe("warning");
    expect(await statusNow({ report: { policy: 0x7001fn } })).toBe("warning");
    await values({ snp_bootloader: [5] });
    expect(await statusNow()).toBe("contraindicated");
  });

  it("configuration is 2 where it is all as expected", async () => {
    await values({
      snp_smt_enabled: [true],
      snp_tsme_enabled: [false],
      snp_guest_abi_major: [0],
      snp_guest_abi_minor: [31],
      snp_single_socket: [false],
      snp_smt_allowed: [true],
    });
    const claims = decodeJwt((await world.guest()).token) as unknown as { submods: { cpu0: Record<string, Record<string, number>> } };
    expect(claims.submods.cpu0["ear.trustworthiness-vector"]?.["configuration"]).toBe(2);
  });

  it("reference values are read back, one by one set, and seen by other replicas at once", async () => {
    const replica = new World(milan, { defaults: {} }, world.store);
    expect((await world.admin("GET", "/kbs/v0/reference-value/nothing")).status).toBe(401);
    expect((await world.admin("POST", "/kbs/v0/reference-value/my.value", "[1, 9007199254740993]")).status).toBe(200);
    expect((await replica.admin("GET", "/kbs/v0/reference-value/my.value")).text).toBe("[1,9007199254740993]");
    expect((await world.admin("GET", "/kbs/v0/reference-value/snp_bootloader")).text).toBe("[4]");
    const all = JSON.parse((await world.admin("GET", "/kbs/v0/reference-value")).text) as Record<string, unknown>;
    expect(all["snp_bootloader"]).toEqual([4]);
    expect(Object.keys(all)).toContain("my.value");
  });

  it.each([
    ["v1", 'package policy\nimport rego.v1\ndefault allow := false\nallow if data["resource-path"] == ["default", "key", "db"]'],
    ["v0", 'package policy\ndefault allow = false\nallow { data["resource-path"] == ["default", "key", "db"] }'],
  ])("a resource policy in Rego %s is applied to path, query and claims", async (_version, text) => {
    await put("default/key/db", "secret");
    await put("default/key/other", "secret");
    const { cookie } = await world.guest();
    expect((await world.admin("POST", "/kbs/v0/resource-policy", policy(text))).status).toBe(200);
    expect((await world.resource("default/key/db", { cookie })).status).toBe(200);
    expect(kindOf(await world.resource("default/key/other", { cookie }))).toBe("PolicyDeny");
    expect(Buffer.from((await world.admin("GET", "/kbs/v0/resource-policy")).text, "base64url").toString()).toBe(text);
  });

  it("a resource policy can go by the query, by HOST_DATA and by the root", async () => {
    await put("default/key/db", "secret");
    const hex = Buffer.from(HOST_DATA).toString("hex");
    const text = `package policy
import rego.v1
evidence := input.submods.cpu0["ear.veraison.annotated-evidence"]
allow if { data.plugin == "resource"; data.query.x == "1"; evidence.init_data == "${hex}"; evidence.sealpod.root == "emulator" }`;
    await world.admin("POST", "/kbs/v0/resource-policy", policy(text));
    const right = await world.guest();
    expect((await world.resource("default/key/db?x=1", { cookie: right.cookie })).status).toBe(200);
    expect((await world.resource("default/key/db?x=2", { cookie: right.cookie })).status).toBe(401);
    const wrong = await world.guest({ report: { hostData: new Uint8Array(32) } });
    expect((await world.resource("default/key/db?x=1", { cookie: wrong.cookie })).status).toBe(401);
  });

  it.each([
    ["a value that is not true", 'package policy\nallow := "yes"'],
    [
      "more work than an evaluation may cost",
      "package policy\nimport rego.v1\nallow if { some i in numbers.range(1, 100000); some j in numbers.range(1, 100000); i * j < 0 }",
    ],
  ])("a resource policy with %s gives nothing", async (_name, text) => {
    await put("default/key/db", "secret");
    const { cookie } = await world.guest();
    expect((await world.admin("POST", "/kbs/v0/resource-policy", policy(text))).status).toBe(200);
    expect((await world.resource("default/key/db", { cookie })).status).toBe(401);
  });

  it("an attestation policy of an administrator decides the vector", async () => {
    const text = 'package policy\nimport rego.v1\nexecutables := 2\nsourced_data := 96\nhardware := count(query_reference_value("absent"))';
    expect((await world.admin("POST", "/kbs/v0/attestation-policy", { type: "rego", policy_id: "default_cpu", ...policy(text) })).status).toBe(200);
    expect(await statusNow()).toBe("contraindicated");
    expect(Buffer.from((await world.admin("GET", "/kbs/v0/attestation-policy/default_cpu")).text, "base64url").toString()).toBe(text);
  });

  it("an attestation policy that gives what is no claim issues no token", async () => {
    await world.admin("POST", "/kbs/v0/attestation-policy", { type: "rego", policy_id: "default", ...policy('package policy\nhardware := "good"') });
    const answer = await world.attest();
    expect([answer.status, kindOf(answer)]).toEqual([401, "PolicyEngine"]);
  });

  it.each([
    ["no Rego", "/kbs/v0/resource-policy", policy("package policy\nallow if {")],
    ["an unknown function", "/kbs/v0/resource-policy", policy("package policy\nallow := http_send(1)")],
    ["no policy", "/kbs/v0/resource-policy", {}],
    ["no base64url", "/kbs/v0/resource-policy", { policy: "a+/=" }],
    ["an id that is not applied", "/kbs/v0/attestation-policy", { type: "rego", policy_id: "default_gpu", ...policy("package policy") }],
    ["another language", "/kbs/v0/attestation-policy", { type: "cel", policy_id: "default", ...policy("package policy") }],
    ["no payload", "/kbs/v0/reference-value", { type: "sample" }],
    ["a payload that is no object", "/kbs/v0/reference-value", { type: "sample", payload: "W10=" }],
    ["a name that is none", "/kbs/v0/reference-value", { type: "sample", payload: Buffer.from('{"a b":1}').toString("base64") }],
  ])("%s is not taken", async (_name, path, body) => {
    const answer = await world.admin("POST", path, body);
    expect([answer.status, kindOf(answer)]).toEqual([401, "ParsePolicyError"]);
  });

  const RESOURCE = "package policy\nimport rego.v1\ndefault allow := false";
  const ATTESTATION = "package policy\nexecutables := 3\nhardware := 2";
  it.each<[string, "resource" | "attestation", string, RegExp]>([
    [
      "of another package",
      "resource",
      "package other\nallow := true",
      /it has package other with allow, expected data\.policy\.allow\. .*begins with "package policy"/,
    ],
    ["of a package below", "resource", "package policy.allow\nallow := true", /it has package policy\.allow with allow/],
    ["without a rule", "resource", "package policy", /with no rule with a value, expected data\.policy\.allow/],
    ["whose allow is a function", "resource", "package policy\nallow(x) := x", /no rule with a value/],
    ["whose allow is a set", "resource", 'package policy\nimport rego.v1\nallow contains "x"', /no rule with a value/],
    ["whose allow is a set in v0", "resource", 'package policy\nallow["x"] { true }', /no rule with a value/],
    ["whose allow is an object", "resource", "package policy\nallow.x := true", /no rule with a value/],
    ["for attestation", "resource", ATTESTATION, /with executables, hardware, expected data\.policy\.allow\. That is an attestation policy/],
    ["of another package", "attestation", "package other\nhardware := 2", /it has package other with hardware, expected one of data\.policy\.executables,/],
    ["for resources", "attestation", RESOURCE, /with allow, expected one of .*data\.policy\.configuration\. That is a resource policy: set it as such/],
  ])("a policy %s is not taken for a %s policy, and what was set stays", async (_what, kind, text, problem) => {
    const [body, path] = kind === "resource" ? [{}, "resource-policy"] : [{ type: "rego", policy_id: "default_cpu" }, "attestation-policy"];
    const right = kind === "resource" ? RESOURCE : ATTESTATION;
    expect((await world.admin("POST", `/kbs/v0/${path}`, { ...body, ...policy(right) })).status).toBe(200);
    const answer = await world.admin("POST", `/kbs/v0/${path}`, { ...body, ...policy(text) });
    expect([answer.status, kindOf(answer), answer.body["detail"]]).toEqual([400, "ParsePolicyError", expect.stringMatching(problem)]);
    const now = await world.admin("GET", `/kbs/v0/${path}${kind === "resource" ? "" : "/default_cpu"}`);
    expect(Buffer.from(now.text, "base64url").toString()).toBe(right);
  });

  it.each<[string, unknown, RegExp]>([
    ["snp_launch_measurement", ["96 hex digits"], /snp_launch_measurement has at index 0 "96 hex digits", expected 96 lower-case hex digits/],
    ["snp_launch_measurement", ["ab".repeat(48), "ab".repeat(47)], /at index 1/],
    ["snp_launch_measurement", ["AB".repeat(48)], /lower-case/],
    ["snp_launch_measurement", [`${"ab".repeat(48)}\n`], /expected 96/],
    ["snp_launch_measurement", "ab".repeat(48), /is "(ab){48}", expected a list of which each is 96/],
    ["snp_host_data", ["ab".repeat(48)], /expected 64 hex digits/],
    ["snp_host_data", {}, /is \{\}, expected a list/],
    ["snp_bootloader", [4, 256], /has at index 1 256, expected an integer from 0 to 255/],
    ["snp_microcode", [-1], /has at index 0 -1/],
    ["snp_snp_svn", [1.5], /expected an integer/],
    ["snp_tee_svn", ["1"], /has at index 0 "1"/],
    ["snp_tee_svn", [null], /has at index 0 null/],
    ["snp_smt_enabled", [1], /expected true or false/],
  ])("a reference value %s that no evidence can have is not taken: %j", async (name, value, problem) => {
    const payload = Buffer.from(JSON.stringify({ "free.first": [1], [name]: value })).toString("base64");
    for (const [path, body] of [
      ["", { type: "sample", payload }],
      [`/${name}`, JSON.stringify(value)],
    ] as const) {
      const answer = await world.admin("POST", `/kbs/v0/reference-value${path}`, body);
      expect([answer.status, kindOf(answer), answer.body["detail"]]).toEqual([400, "ParsePolicyError", expect.stringMatching(problem)]);
    }
    // Nothing beside it was set either.
    expect((await world.admin("GET", "/kbs/v0/reference-value/free.first")).status).toBe(401);
  });

  it("of names that no policy of ours asks for reference values are free", async () => {
    await values({ snp_mine: ["96 hex digits"], table: { a: 1 }, text: "x", snp_launch_measurement: [], snp_tee_svn: [0, 255] });
    expect(JSON.parse((await world.admin("GET", "/kbs/v0/reference-value")).text)).toMatchObject({
      snp_mine: ["96 hex digits"],
      text: "x",
      snp_tee_svn: [0, 255],
    });
  });
});

describe("resources", () => {
  it.each([
    ["text", encodeUtf8("päss"), "text/plain; charset=utf-8", "päss"],
    ["bytes", Uint8Array.of(0xff, 0), "application/vnd.sealpod.kbs.base64", "/wA="],
    ["text with a zero", Uint8Array.of(0x61, 0), "application/vnd.sealpod.kbs.base64", "YQA="],
    ["nothing", new Uint8Array(), "text/plain; charset=utf-8", ""],
  ])("keep %s as they came", async (_name, bytes, contentType, value) => {
    await put("default/key/db", bytes);
    const record = await world.store.secret("demo", "kbs--default--key--db");
    expect(record?.contentType).toBe(contentType);
    expect(record === undefined ? "" : await world.store.openSecret(record)).toBe(value);
    const guest = await world.guest();
    const answer = await world.resource("default/key/db", { cookie: guest.cookie });
    expect([...(await open(answer.body, guest.key))]).toEqual([...bytes]);
  });

  it("a secret that Key Vault's face set is a resource: its text", async () => {
    const audit = {
      requestId: "",
      at: 0,
      vault: "demo",
      operation: "",
      name: "",
      version: "",
      tenantId: "",
      appid: "",
      oid: "",
      outcome: "allowed",
      failed: undefined,
      reason: "",
      authority: "",
      findings: [],
    } as const;
    const secret = {
      vault: "demo",
      name: "kbs--default--key--db",
      contentType: undefined,
      enabled: true,
      notBefore: undefined,
      expires: undefined,
      tags: {},
      value: "from the vault",
    };
    await world.store.setSecret(secret, audit);
    const guest = await world.guest();
    const read = async (): Promise<number> => (await world.resource("default/key/db", { cookie: guest.cookie })).status;
    expect(Buffer.from(await open((await world.resource("default/key/db", { cookie: guest.cookie })).body, guest.key)).toString()).toBe("from the vault");
    for (const change of [{ enabled: false }, { notBefore: START / 1000 + 1 }, { expires: START / 1000 }]) {
      await world.store.setSecret({ ...secret, ...change }, audit);
      expect([change, await read()]).toEqual([change, 401]);
    }
  });

  it("that are not there, or no longer, are 401 like all else, and set again begin anew", async () => {
    const guest = await world.guest();
    const absent = await world.resource("default/key/db", { cookie: guest.cookie });
    expect([absent.status, kindOf(absent)]).toEqual([401, "PluginInternalError"]);
    await put("default/key/db", "one");
    expect((await world.admin("DELETE", "/kbs/v0/resource/default/key/db")).status).toBe(200);
    expect((await world.admin("DELETE", "/kbs/v0/resource/default/key/db")).status).toBe(401);
    expect((await world.resource("default/key/db", { cookie: guest.cookie })).status).toBe(401);
    await put("default/key/db", "two");
    expect(Buffer.from(await open((await world.resource("default/key/db", { cookie: guest.cookie })).body, guest.key)).toString()).toBe("two");
  });

  it("can be set more often than the vault keeps versions", async () => {
    world.store.maxVersions = 3;
    for (let time = 0; time < 8; time++) await put("default/key/db", `value ${time}`);
    const record = await world.store.secret("demo", "kbs--default--key--db");
    expect(record === undefined ? "" : await world.store.openSecret(record)).toBe("value 7");
  });

  it.each(["default/key", "default/key/a/b", "default/key/a%2Fb", "default/key/a b", "default/key/ü", `default/key/${"a".repeat(257)}`])(
    "%s is no path",
    async (path) => {
      const { cookie } = await world.guest();
      expect((await world.admin("POST", `/kbs/v0/resource/${path}`, "x")).status).toBe(401);
      expect((await world.resource(path, { cookie })).status).toBe(401);
    },
  );

  it("are not larger than the vault takes", async () => {
    const answer = await world.admin("POST", "/kbs/v0/resource/default/key/db", new Uint8Array(25_601).fill(0x61));
    expect([answer.status, kindOf(answer)]).toEqual([413, "PayloadTooLarge"]);
    expect((await world.admin("POST", "/kbs/v0/resource/default/key/db", new Uint8Array(60_000))).status).toBe(413);
    await put("default/key/db", new Uint8Array(25_600).fill(0x61));
  });

  it("the policy comes before the resource: who may not have it is not told whether it is there", async () => {
    await put("default/key/db", "secret");
    world.now += 1;
    const { cookie } = await world.guest({ report: { measurement: new Uint8Array(48) } });
    const [there, absent] = [await world.resource("default/key/db", { cookie }), await world.resource("default/key/no", { cookie })];
    expect(there.text.replace("db", "no")).toBe(absent.text);
  });
});

describe("administrators", () => {
  const operations: readonly (readonly [string, string])[] = [
    ["POST", "/kbs/v0/resource/default/key/db"],
    ["DELETE", "/kbs/v0/resource/default/key/db"],
    ["POST", "/kbs/v0/resource-policy"],
    ["GET", "/kbs/v0/resource-policy"],
    ["POST", "/kbs/v0/attestation-policy"],
    ["GET", "/kbs/v0/attestation-policy/default_cpu"],
    ["POST", "/kbs/v0/reference-value"],
    ["POST", "/kbs/v0/reference-value/x"],
    ["GET", "/kbs/v0/reference-value/x"],
    ["GET", "/kbs/v0/reference-value"],
  ];

  it.each(operations)("%s %s is theirs alone", async (method, path) => {
    await put("default/key/db", "secret");
    const body = method === "POST" ? "{}" : undefined;
    const { token, cookie } = await world.guest();
    const before = world.store.lines.length;
    const nobody = new World(milan, { administrators: undefined as never }, world.store);
    for (const answer of [
      await world.call(method, path, body),
      await world.call(method, path, body, { cookie }),
      await world.call(method, path, body, { authorization: `Bearer ${token}` }),
      await world.call(method, path, body, { authorization: ADMIN }),
      await nobody.admin(method, path, body),
    ]) {
      expect([answer.status, kindOf(answer)]).toEqual([401, "AdminAuth"]);
    }
    expect(world.store.lines).toHaveLength(before);
    expect(await world.store.secret("demo", "kbs--default--key--db")).toBeDefined();
  });

  it("of CoCo's tool are who can sign with a key of theirs", async () => {
    const [mine, theirs] = [generateKeyPairSync("ed25519"), generateKeyPairSync("ed25519")];
    const clock = { now: () => world.now };
    const access = ed25519Admins([mine.publicKey.export({ format: "pem", type: "spki" }).toString()], clock);
    const now = START / 1000;
    const sign = async (claims: Record<string, unknown>, key = mine.privateKey): Promise<string> =>
      new SignJWT(claims).setProtectedHeader({ alg: "EdDSA" }).sign(key);
    expect(await access.authenticate(await sign({ exp: now + 7200, iat: now, nbf: now }))).toEqual({
      kind: "allowed",
      tenantId: "",
      appid: "kbs-admin",
      oid: expect.stringMatching(/^ed25519:[0-9a-f]{32}$/) as string,
    });
    for (const token of [
      await sign({ exp: now + 7200 }, theirs.privateKey),
      await sign({ exp: now }),
      await sign({}),
      await sign({ exp: now + 2 * 24 * 3600 }),
      await sign({ exp: now + 7200, nbf: now + 3600 }),
      "a.b.c",
    ]) {
      expect((await access.authenticate(token)).kind).toBe("refused");
    }
    expect(() =>
      ed25519Admins([generateKeyPairSync("ec", { namedCurve: "P-256" }).publicKey.export({ format: "pem", type: "spki" }).toString()], clock),
    ).toThrow(/expected ed25519/);
    expect(() => ed25519Admins(["x"], clock)).toThrow(/no public key/);
  });
});

describe("the audit", () => {
  it("has a line for each attested guest and each resource given or refused, and for what administrators set", async () => {
    await put("default/key/db", "secret");
    const guest = await world.guest();
    await world.resource("default/key/db", { cookie: guest.cookie });
    await world.resource("default/key/no", { cookie: guest.cookie });
    const other = await world.guest({ report: { measurement: new Uint8Array(48) } });
    await world.resource("default/key/db", { cookie: other.cookie });
    await world.admin("POST", "/kbs/v0/reference-value/x", "1");
    await world.admin("DELETE", "/kbs/v0/resource/default/key/db");
    const lines = world.store.lines.map(({ operation, name, vault, outcome, failed, appid }) => [operation, name, vault, outcome, failed, appid]);
    expect(lines.filter(([operation]) => operation !== "kbs/make-key")).toEqual([
      ["kbs/set-resource", "default/key/db", "demo", "allowed", undefined, "a"],
      ["kbs/attest", "", "demo", "allowed", undefined, ""],
      ["kbs/get-resource", "default/key/db", "demo", "allowed", undefined, ""],
      ["kbs/get-resource", "default/key/no", "demo", "refused", "key", ""],
      ["kbs/attest", "", "demo", "allowed", undefined, ""],
      ["kbs/get-resource", "default/key/db", "demo", "refused", "policy", ""],
      ["kbs/set-reference-value", "x", "kbs-state", "allowed", undefined, "a"],
      ["kbs/delete-resource", "default/key/db", "demo", "allowed", undefined, "a"],
    ]);
    const [given] = world.store.lines.filter(({ operation }) => operation === "kbs/get-resource");
    expect(given?.reason).toContain(`measurement ${Buffer.from(MEASUREMENT).toString("hex")}`);
    expect(given?.reason).toContain(`HOST_DATA ${Buffer.from(HOST_DATA).toString("hex")}`);
    expect(given?.reason).toContain("root emulator");
    expect(given?.version).toBe((await world.store.deletedSecret("demo", "kbs--default--key--db"))?.item.version);
    expect(given?.at).toBe(START);
    expect(new Set(world.store.lines.map(({ requestId }) => requestId)).size).toBeGreaterThan(6);
  });

  it("comes before the resource: without it nothing is given", async () => {
    await put("default/key/db", "secret");
    const { cookie } = await world.guest();
    world.store.appendAudit = async () => Promise.reject(new Error("disk full"));
    const answer = await world.resource("default/key/db", { cookie });
    expect([answer.status, answer.body["detail"], answer.text.includes("disk")]).toEqual([500, expect.stringContaining("failed"), false]);
  });

  it("nothing secret stands in log or audit", async () => {
    await put("default/key/db", "the-secret");
    const guest = await world.guest();
    await world.resource("default/key/db", { cookie: guest.cookie });
    await world.resource("default/key/db", { authorization: `Bearer ${guest.token}x` });
    const all = [...world.log, ...world.store.lines.map((line) => JSON.stringify(line))].join("\n");
    for (const secret of ["the-secret", guest.token, guest.cookie.split("=")[1] ?? "", ADMIN]) expect(all).not.toContain(secret);
  });
});

describe("paths and setup", () => {
  it.each([
    ["GET", "/kbs/v0/pkcs11/slot/key", 404, "PluginNotFound"],
    ["GET", "/kbs/v0/nebula-ca/credential", 404, "PluginNotFound"],
    ["POST", "/kbs/v0/splitapi/x", 404, "PluginNotFound"],
    ["GET", "/kbs/v0/auth", 404, "InvalidRequestPath"],
    ["GET", "/kbs/v1/auth", 404, "InvalidRequestPath"],
    ["PUT", "/kbs/v0/resource/a/b/c", 404, "InvalidRequestPath"],
    ["GET", "/", 404, "InvalidRequestPath"],
  ])("%s %s is %i", async (method, path, code, kind) => {
    const answer = await world.call(method, path);
    expect([answer.status, kindOf(answer)]).toEqual([code, kind]);
  });

  it("does not begin with a mistake in its configuration", () => {
    const { options } = world;
    expect(() => kbsApp({ ...options, roots: [] })).toThrow(/no trust root/);
    expect(() => kbsApp({ ...options, stateVault: "demo" })).toThrow(/cannot be in one vault/);
    expect(() => kbsApp({ ...options, defaults: { resourcePolicy: "no rego" } })).toThrow(/no Rego/);
    expect(() => kbsApp({ ...options, logger: silentLogger })).not.toThrow();
  });

  it("a body that is too large, no JSON, or no object is refused", async () => {
    const large = await world.call("POST", "/kbs/v0/auth", " ".repeat(16 * 1024 + 1));
    expect([large.status, kindOf(large)]).toEqual([413, "PayloadTooLarge"]);
    for (const body of ["", "[]", "{", '{"version":"0.4.0","version":"0.4.0"}', "ÿ", `{"a":${"[".repeat(100)}${"]".repeat(100)}}`]) {
      expect(kindOf(await world.call("POST", "/kbs/v0/auth", body))).toBe("InvalidRequest");
    }
  });
});

it("the text of an evidence is what the tests say it is", () => {
  expect(stringify({ a: "u64:9007199254740993" })).toBe('{"a":9007199254740993}');
});
