import { createHash, generateKeyPairSync } from "node:crypto";
import { beforeAll, describe, expect, it } from "vitest";
import { canonicalJson, encodeUtf8, type JsonValue } from "@sealpod/core";
import { openVaultStore, type NewKeyVersion, type StoredAuditLine } from "@sealpod/keyvault";
import { SeededNumbers } from "../../tools/testing/hostile.ts";
import { statusOf, TRUST_CLAIMS, type TrustVector } from "./ear.ts";
import { KBS_ERRORS, KbsError, WIRE_KINDS } from "./errors.ts";
import type { KbsAppOptions } from "./index.ts";
import { parseResourcePath, secretNameOf } from "./resource-path.ts";
import { readCookie } from "./session.ts";
import { parseSnpEvidence } from "./snp-evidence.ts";
import { chainOf, ecKey, kindOf, makeProcessor, open, random, render, reportDataOf, START, stringify, World, type Processor } from "./testdata/world.ts";

let milan: Processor;

beforeAll(() => {
  milan = makeProcessor();
});

describe("canonical JSON (RFC 8785)", () => {
  it("gives the known digest (specs/attestation.md 9.1.3)", () => {
    const text = canonicalJson({ b: 1, a: "test", c: { d: "e" } });
    expect(text).toBe('{"a":"test","b":1,"c":{"d":"e"}}');
    expect(createHash("sha384").update(text).digest("hex")).toBe(
      "e71ce8e70d814ba6639c3612ebee0ff1f76f650f8dbb5e47157e0f3f525cd22c4597480a186427c813ca941da78870c3",
    );
  });

  it.each<readonly [JsonValue, string]>([
    [[56, { d: true, "10": null, "1": [] }], '[56,{"1":[],"10":null,"d":true}]'],
    // The example of RFC 8785 section 3.2.3: sorted by UTF-16 units, so a pair of surrogates comes before U+FB33.
    [
      {
        "\u20ac": "Euro Sign",
        "\r": "Carriage Return",
        "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One",
        "\ud83d\ude00": "Emoji: Grinning Face",
        "\u0080": "Control",
        "\u00f6": "ö",
      },
      '{"\\r":"Carriage Return","1":"One","\u0080":"Control","\u00f6":"ö","\u20ac":"Euro Sign","\ud83d\ude00":"Emoji: Grinning Face","\ufb33":"Hebrew Letter Dalet With Dagesh"}',
    ],
    [
      { numbers: [333333333.3333333, 1e30, 4.5, 2e-3, 0.000000000000000000000000001], literals: [null, true, false] },
      '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27]}',
    ],
    ['\u20ac$\u000f\nA\'B"\\\\"/', '"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'],
  ])("of %j", (value, text) => {
    expect(canonicalJson(value)).toBe(text);
  });

  it("has no form for what RFC 8785 has none", () => {
    expect(() => canonicalJson(2n ** 60n)).toThrow(RangeError);
    expect(() => canonicalJson("\ud800")).toThrow(RangeError);
    expect(() => canonicalJson({ "\udc00": 1 })).toThrow(RangeError);
  });
});

describe("the status of a vector", () => {
  const zero = Object.fromEntries(Object.keys(TRUST_CLAIMS).map((name) => [name, 0])) as Record<keyof TrustVector, number>;
  it.each([
    [[0], "none"],
    [[1, -1], "none"],
    [[2], "affirming"],
    [[31], "affirming"],
    [[-2], "affirming"],
    [[-32], "affirming"],
    [[32], "warning"],
    [[95], "warning"],
    [[-33], "warning"],
    [[-96], "warning"],
    [[96], "contraindicated"],
    [[127], "contraindicated"],
    [[-97], "contraindicated"],
    [[-128], "contraindicated"],
    [[2, 33], "warning"],
    [[97, 2, 33], "contraindicated"],
    [[0, 0, 0, 2], "affirming"],
  ] as const)("%j is %s", (values, status) => {
    const names = Object.keys(TRUST_CLAIMS) as (keyof TrustVector)[];
    expect(statusOf({ ...zero, ...Object.fromEntries(values.map((value, index) => [names[index], value])) })).toBe(status);
  });
});

describe("paths and the names of secrets", () => {
  const nameOf = (path: string): string => secretNameOf(parseResourcePath(path.split("/")));

  it.each([
    ["default/key/db", "kbs--default--key--db"],
    ["my-repo/image-policy/v1", "kbs--my-repo--image-policy--v1"],
    ["default/key/Db", `kbsx--${createHash("sha256").update("default/key/Db").digest("hex")}`],
    ["default/key/a.b", `kbsx--${createHash("sha256").update("default/key/a.b").digest("hex")}`],
  ])("%s is secret %s", (path, name) => {
    expect(nameOf(path)).toBe(name);
  });

  it("gives no two paths one name, also where names are compared without regard to case", () => {
    const parts = ["a", "A", "a-b", "a--b", "-a", "a-", "b--c", "a_b", "a.b", "kbs", "x".repeat(120), "X".repeat(120), "a-b--c"];
    const names = new Map<string, string>();
    for (const a of parts)
      for (const b of parts)
        for (const c of parts) {
          const name = nameOf(`${a}/${b}/${c}`).toLowerCase();
          expect(name).toMatch(/^[0-9a-z-]{1,127}$/);
          expect([names.get(name), `${a}/${b}/${c}`]).toEqual([undefined, `${a}/${b}/${c}`]);
          names.set(name, `${a}/${b}/${c}`);
        }
    expect(names.size).toBe(parts.length ** 3);
  });

  it.each(["a/b", "a/b/c/d", "a//c", "./a/b", "a/../b", "a/b/..", "a/b/c d", "a/b/%41", "a/b/é", `a/b/${"c".repeat(257)}`])("%s is refused", (path) => {
    expect(() => parseResourcePath(path.split("/"))).toThrow(KbsError);
  });
});

it("finds one cookie among others", () => {
  expect(readCookie("a=b; kbs-session-id=x=y ; c", "kbs-session-id")).toBe("x=y");
  expect(readCookie("kbs-session-idx=1", "kbs-session-id")).toBeUndefined();
  expect(readCookie(undefined, "kbs-session-id")).toBeUndefined();
});

it("every error has its name on the wire", () => {
  expect(Object.keys(WIRE_KINDS).sort()).toEqual(Object.keys(KBS_ERRORS).sort());
  for (const [code, { http }] of Object.entries(KBS_ERRORS)) expect([code, [401, 404, 413, 500, 503].includes(http)]).toEqual([code, true]);
});

describe("hostile input", () => {
  /** Puts something else in the place of a random value, or takes it away. */
  function spoil(value: unknown, numbers: SeededNumbers): unknown {
    const odd: readonly unknown[] = [
      null,
      true,
      -1,
      256,
      0.5,
      1e300,
      "",
      "x",
      "u64:18446744073709551616",
      [],
      {},
      [[]],
      Array.from({ length: 100 }, () => 0),
      { toString: 1 },
    ];
    if (numbers.below(4) === 0 || value === null || typeof value !== "object") return numbers.pick(odd);
    if (Array.isArray(value)) {
      const at = numbers.below(value.length + 1);
      return numbers.below(2) === 0 ? value.toSpliced(at, 1) : value.with(Math.min(at, value.length - 1), spoil(value[at], numbers));
    }
    const names = Object.keys(value);
    if (names.length === 0) return numbers.pick(odd);
    const name = numbers.pick(names);
    const { [name]: old, ...rest } = value as Record<string, unknown>;
    return numbers.below(5) === 0 ? rest : { ...value, [name]: spoil(old, numbers) };
  }

  it("as evidence is refused with codes of this package, or is a report", () => {
    const numbers = new SeededNumbers(20_261_122);
    const seed = render(milan.report(), chainOf(milan));
    let refused = 0;
    for (let round = 0; round < 1500; round++) {
      const spoilt = spoil(seed, numbers);
      try {
        const { bytes } = parseSnpEvidence(JSON.parse(stringify(spoilt)) as JsonValue);
        expect(bytes).toHaveLength(1184);
      } catch (error) {
        if (!(error instanceof KbsError)) throw new Error(`round ${round}: ${stringify(spoilt).slice(0, 300)}`, { cause: error });
        refused++;
      }
    }
    expect(refused).toBeGreaterThan(1000);
  });

  it("as a request is answered with an error of the protocol, never with a failure of ours", async () => {
    const world = new World(milan);
    const numbers = new SeededNumbers(4711);
    const key = ecKey();
    const { nonce, cookie } = await world.auth();
    const evidence = render(milan.report({ reportData: reportDataOf(nonce, key.jwk) }), chainOf(milan));
    const body = {
      "init-data": { format: "toml", body: "a = 1" },
      "runtime-data": { nonce, "tee-pubkey": key.jwk },
      "tee-evidence": { primary_evidence: evidence, additional_evidence: "" },
    };
    let taken = 0;
    for (let round = 0; round < 150; round++) {
      const text = stringify(spoil(body, numbers));
      const bytes = encodeUtf8(text);
      if (numbers.below(3) === 0) bytes[numbers.below(bytes.length)] = numbers.below(256);
      const answer = await world.call("POST", "/kbs/v0/attest", numbers.below(8) === 0 ? bytes.subarray(0, numbers.below(bytes.length)) : bytes, { cookie });
      if (answer.status === 200) {
        // Nothing is wrong with a request that has lost nothing but its init data.
        taken++;
        continue;
      }
      expect([round, answer.status]).toEqual([round, 401]);
      expect(kindOf(answer)).toMatch(/^(AttestationError|InvalidRequest|JweError)$/);
    }
    expect(taken).toBeLessThan(20);
    expect(world.log.filter((line) => line.includes("request failed"))).toEqual([]);
  });

  it("as a cookie is no session", async () => {
    const world = new World(milan);
    const { cookie } = await world.auth();
    const [name = "", value = ""] = cookie.split("=");
    const [payload = "", mac = ""] = value.split(".");
    for (const other of [
      "",
      ".",
      "..",
      value.slice(1),
      `${value}.`,
      `${payload}.`,
      `.${mac}`,
      `${payload}.${mac}${mac}`,
      "A".repeat(5000),
      `${payload}=.${mac}`,
    ]) {
      const answer = await world.call("POST", "/kbs/v0/attest", "{}", { cookie: `${name}=${other}` });
      expect([other, answer.status, kindOf(answer)]).toEqual([other, 401, "AttestationError"]);
    }
    for (let at = 0; at < value.length; at++) {
      const spoilt = value.slice(0, at) + (value[at] === "A" ? "B" : "A") + value.slice(at + 1);
      expect([at, (await world.call("POST", "/kbs/v0/attest", "{}", { cookie: `${name}=${spoilt}` })).body["detail"]]).toEqual([
        at,
        "the cookie is not one of this key broker",
      ]);
    }
  });
});

describe("over the vault's own store", () => {
  it("keys, policies, reference values and resources are there for another process", async () => {
    const clock = { now: () => START };
    await using store = await openVaultStore({ url: ":memory:", master: new Uint8Array(32).fill(7), clock, random });
    const first = new World(milan, { store });
    const second = new World(milan, { store, defaults: {} });
    for (const [path, body] of [
      ["resource/default/key/db", Uint8Array.of(1, 2, 255)],
      ["resource/default/Key/db", "another"],
      ["reference-value", { type: "sample", payload: Buffer.from(JSON.stringify(REFERENCES)).toString("base64") }],
    ] as const) {
      const answer = await first.admin("POST", `/kbs/v0/${path}`, body);
      expect([path, answer.status, answer.text]).toEqual([path, 200, ""]);
    }
    const guest = await second.guest();
    const answer = await first.resource("default/key/db", { cookie: guest.cookie });
    expect([...(await open(answer.body, guest.key))]).toEqual([1, 2, 255]);
    const capital = await second.resource("default/Key/db", { authorization: `Bearer ${guest.token}` });
    expect(Buffer.from(await open(capital.body, guest.key)).toString()).toBe("another");
    // Deleted, set again, and the deleted one is gone.
    expect((await first.admin("DELETE", "/kbs/v0/resource/default/key/db")).status).toBe(200);
    expect((await second.resource("default/key/db", { cookie: guest.cookie })).status).toBe(401);
    expect((await first.admin("POST", "/kbs/v0/resource/default/key/db", "again")).status).toBe(200);
    expect((await second.resource("default/key/db", { cookie: guest.cookie })).status).toBe(200);
    // The keys are where no face of the vault looks, and only once.
    expect((await store.listKeys("kbs-state", "", 10)).map(({ name }) => name)).toEqual(["kbs-session-key", "kbs-token-key"]);
    expect(await store.listKeys("demo", "", 10)).toEqual([]);
    const lines = await store.audit({ vault: "demo", operation: "kbs/get-resource" });
    expect(lines.map(({ outcome, failed }) => [outcome, failed])).toEqual([
      ["allowed", undefined],
      ["refused", "key"],
      ["allowed", undefined],
      ["allowed", undefined],
    ]);
    expect(lines.every(({ authority }) => authority === "CoCo-Attestation-Service")).toBe(true);
  });

  describe("keys with release policies", () => {
    const AUTHORITY = "https://kbs.sealpod.test";
    const clock = { now: () => START };
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
    const policyOf = (authority: string, ...conditions: readonly (readonly [string, string])[]): NewKeyVersion["releasePolicy"] => {
      const text = JSON.stringify({ version: "1.0.0", anyOf: [{ authority, allOf: conditions.map(([claim, equals]) => ({ claim, equals })) }] });
      return { contentType: "application/json", text, immutable: false };
    };
    const right: readonly (readonly [string, string])[] = [
      ["x-ms-sevsnpvm-hostdata", "da".repeat(32)],
      ["x-ms-sevsnpvm-launchmeasurement", "3e".repeat(48)],
      ["x-ms-sevsnpvm-is-debuggable", "false"],
      ["x-ms-attestation-type", "sevsnpvm"],
      ["x-sealpod-root", "emulator"],
    ];
    const newKey = (change: Partial<NewKeyVersion>): NewKeyVersion => ({
      vault: "demo",
      name: "disk",
      type: "oct",
      hsm: false,
      keyOps: ["encrypt"],
      publicMembers: {},
      enabled: true,
      notBefore: undefined,
      expires: undefined,
      exportable: true,
      tags: {},
      releasePolicy: policyOf(AUTHORITY, ...right),
      secret: new Uint8Array(32).fill(9),
      ...change,
    });
    const ask = async (
      change: Partial<NewKeyVersion>,
      path = "default/key/disk",
      keys: KbsAppOptions["keys"] | null = { vault: "demo", authority: AUTHORITY },
    ): Promise<Asked> => {
      await using store = await openVaultStore({ url: ":memory:", master: new Uint8Array(32).fill(7), clock, random });
      const world = new World(milan, { store, ...(keys === null ? {} : { keys }) });
      await store.addKey(newKey(change), audit);
      const guest = await world.guest();
      const answer = await world.resource(path, { cookie: guest.cookie });
      const [line] = await store.audit({ operation: "kbs/get-resource" });
      return { status: answer.status, kind: kindOf(answer), bytes: answer.status === 200 ? await open(answer.body, guest.key) : undefined, line };
    };

    it("are given where their policy names this door and holds, with what it found in the audit", async () => {
      const { status, bytes, line } = await ask({});
      expect([status, [...(bytes ?? [])]]).toEqual([200, [...new Uint8Array(32).fill(9)]]);
      expect(line?.outcome).toBe("allowed");
      expect(line?.findings.map(({ claim, matched }) => [claim, matched])).toEqual(right.map(([claim]) => [claim, true]));
      const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
      const ec = await ask({ type: "EC", secret: new Uint8Array(privateKey.export({ format: "der", type: "pkcs8" })) });
      expect(JSON.parse(Buffer.from(ec.bytes ?? []).toString())).toEqual(privateKey.export({ format: "jwk" }));
    });

    it.each<readonly [string, Partial<NewKeyVersion>, string]>([
      ["the policy names another authority", { releasePolicy: policyOf("https://attest.sealpod.test", ...right) }, "PolicyDeny"],
      ["one condition does not hold", { releasePolicy: policyOf(AUTHORITY, ...right.slice(1), ["x-ms-sevsnpvm-hostdata", "00".repeat(32)]) }, "PolicyDeny"],
      [
        "it asks what is not established here",
        { releasePolicy: policyOf(AUTHORITY, ...right, ["x-ms-compliance-status", "azure-compliant-uvm"]) },
        "PolicyDeny",
      ],
      ["there is no policy", { releasePolicy: undefined }, "PluginInternalError"],
      ["the key may not be exported", { exportable: false }, "PluginInternalError"],
      ["it is disabled", { enabled: false }, "PluginInternalError"],
      ["it is not valid yet", { notBefore: START / 1000 + 1 }, "PluginInternalError"],
      ["it has expired", { expires: START / 1000 }, "PluginInternalError"],
      ["it is in another vault", { vault: "other" }, "PluginInternalError"],
    ])("are not given where %s", async (_name, change, kind) => {
      const answer = await ask(change);
      expect([answer.status, answer.kind, answer.line?.outcome]).toEqual([401, kind, "refused"]);
    });

    it("are at their own path alone, and behind no door that was not opened", async () => {
      expect((await ask({}, "other/key/disk")).status).toBe(401);
      expect((await ask({}, "default/secret/disk")).status).toBe(401);
      expect((await ask({}, "default/key/disk", null)).status).toBe(401);
      expect((await ask({}, "default/key/disk", { vault: "demo", authority: "https://kbs.other.test" })).status).toBe(401);
    });
  });

  it("replicas that begin at once make one key", async () => {
    const clock = { now: () => START };
    await using store = await openVaultStore({ url: ":memory:", master: new Uint8Array(32).fill(7), clock, random });
    const replicas = [0, 1, 2, 3].map(() => new World(milan, { store }));
    const texts = await Promise.all(replicas.map(async (replica) => (await replica.call("GET", "/.well-known/jwks.json")).text));
    expect(new Set(texts).size).toBe(1);
    expect(await store.listKeyVersions("kbs-state", "kbs-token-key", "", 10)).toHaveLength(1);
  });
});

/** What came of asking for a key. */
interface Asked {
  readonly status: number;
  readonly kind: string;
  readonly bytes: Uint8Array | undefined;
  readonly line: StoredAuditLine | undefined;
}

const REFERENCES = {
  snp_launch_measurement: ["3e".repeat(48)],
  snp_host_data: ["da".repeat(32)],
  snp_bootloader: [4],
  snp_microcode: [219],
  snp_snp_svn: [24],
  snp_tee_svn: [1],
};
