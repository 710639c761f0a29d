import { createHash, generateKeyPairSync } from "node:crypto";
import { describe, expect, it } from "vitest";
import { type ImportKeyError, type ImportKeyOptions, type ImportKeyPorts, runImportKey, type VaultRequest } from "./index.ts";

const POLICY = "package agent_policy\npolicy_data := {}";
const HOST_DATA = createHash("sha256").update(POLICY).digest("hex");
const encoded = (policy: string): string => Buffer.from(policy).toString("base64");

const yaml = (policy: string | undefined, env = "", kind = "Deployment"): string => {
  const annotations = policy === undefined ? "" : `annotations: {io.katacontainers.config.agent.policy: ${encoded(policy)}}`;
  const template = `metadata: {${annotations}}, spec: {unknown: field, containers: [{name: a, image: b, env: [${env}]}]}`;
  return `apiVersion: v1\nkind: ${kind}\n${kind === "Pod" ? `${template.replace(", spec", "\nspec")}\n` : `spec: {template: {${template}}}\n`}`;
};
const ENV =
  "{name: SkrClientKID, value: my-key}, {name: SkrClientMAAEndpoint, value: attest.sealpod.internal:8443}, {name: SkrClientAKVEndpoint, value: demo.vault.sealpod.internal:8443}";
const APP = yaml(POLICY, ENV);
const KEY = Uint8Array.from({ length: 32 }, (_, index) => index * 7);

interface World {
  readonly files: Map<string, Uint8Array>;
  readonly stdout: string[];
  readonly requests: { readonly url: string; readonly request: VaultRequest }[];
  readonly tokens: string[];
  readonly ports: ImportKeyPorts;
}

type Answer = { status: number; body: string } | Error;

function world(files: Readonly<Record<string, string | Uint8Array>>, answer?: (url: URL) => Answer): World {
  const map = new Map(Object.entries(files).map(([path, content]) => [path, typeof content === "string" ? new TextEncoder().encode(content) : content]));
  const stdout: string[] = [];
  const requests: World["requests"] = [];
  const tokens: string[] = [];
  const reply =
    answer ??
    ((url: URL): Answer => ({ status: 200, body: JSON.stringify({ key: { kid: `${url.origin}${url.pathname}/0123456789abcdef0123456789abcdef` } }) }));
  const ports: ImportKeyPorts = {
    readFile: (path) => Promise.resolve(map.get(path)),
    writeSecret: (path, bytes) => Promise.resolve(void map.set(path, bytes)),
    writeStdout: (text) => void stdout.push(text),
    fetch: (url, request) => {
      requests.push({ url, request });
      const found = reply(new URL(url));
      if (found instanceof Error) return Promise.reject(found);
      return Promise.resolve({ status: found.status, body: new Response(found.body).body });
    },
    token: (resource, vault) => {
      tokens.push(`${resource} ${vault}`);
      return Promise.resolve("t0ken");
    },
    random: { bytes: (length) => new Uint8Array(length).fill(9) },
  };
  return { files: map, stdout, requests, tokens, ports };
}

async function failureOf(options: ImportKeyOptions, { ports }: World): Promise<ImportKeyError> {
  return runImportKey(options, ports).then(
    () => Promise.reject(new Error("did not fail")),
    (error: unknown) => error as ImportKeyError,
  );
}

const bodyOf = ({ requests }: World): Record<string, Record<string, unknown>> =>
  JSON.parse(requests[0]?.request.body ?? "") as Record<string, Record<string, unknown>>;
const policyOf = (it: World): unknown => JSON.parse(Buffer.from(String(bodyOf(it)["release_policy"]?.["data"]), "base64url").toString());

describe("importkey with a YAML", () => {
  it("prints the three lines of the AKS document", async () => {
    const it = world({ "app.yaml": APP, key: KEY });
    await runImportKey({ config: "app.yaml", kh: "key" }, it.ports);
    expect(it.stdout.join("")).toBe(
      `[${[...KEY].join(" ")}]
https://demo.vault.sealpod.internal:8443/keys/my-key/0123456789abcdef0123456789abcdef
{"version":"1.0.0","anyOf":[{"authority":"https://attest.sealpod.internal:8443","allOf":[{"claim":"x-ms-sevsnpvm-hostdata","equals":"${HOST_DATA}"},{"claim":"x-ms-compliance-status","equals":"sealpod-compliant-uvm"},{"claim":"x-ms-sevsnpvm-is-debuggable","equals":"false"}]}]}
`,
    );
  });

  it("sends the key with its release policy", async () => {
    const it = world({ "app.yaml": APP, key: KEY });
    const { releasePolicy } = await runImportKey({ config: "app.yaml", kh: "key" }, it.ports);
    expect(it.requests[0]?.url).toBe("https://demo.vault.sealpod.internal:8443/keys/my-key?api-version=7.4");
    expect(it.requests[0]?.request).toMatchObject({
      method: "PUT",
      redirect: "manual",
      headers: { authorization: "Bearer t0ken", "content-type": "application/json" },
    });
    expect(bodyOf(it)).toEqual({
      key: { kty: "oct-HSM", k: Buffer.from(KEY).toString("base64url"), key_size: 256 },
      hsm: true,
      attributes: { exportable: true },
      release_policy: { contentType: "application/json; charset=utf-8", data: Buffer.from(releasePolicy).toString("base64url") },
    });
    expect(it.tokens).toEqual(["https://vault.azure.net demo.vault.sealpod.internal:8443"]);
  });

  it("lets flags go before the pod's environment", async () => {
    const it = world({ "app.yaml": APP, key: KEY });
    await runImportKey(
      {
        config: "app.yaml",
        kh: "key",
        kid: "other",
        akvEndpoint: "https://x.managedhsm.azure.net/",
        maaEndpoint: "https://maa.example",
        complianceStatus: "azure-compliant-uvm",
      },
      it.ports,
    );
    expect(it.requests[0]?.url).toBe("https://x.managedhsm.azure.net/keys/other?api-version=7.4");
    expect(it.tokens).toEqual(["https://managedhsm.azure.net x.managedhsm.azure.net"]);
    expect(policyOf(it)).toMatchObject({ anyOf: [{ authority: "https://maa.example", allOf: [{}, { equals: "azure-compliant-uvm" }, {}] }] });
  });

  it("takes several pods with one policy, a plain Pod, and pods written in JSON", async () => {
    const two = world({ "app.yaml": `${yaml(POLICY, ENV)}---\n${yaml(POLICY, "", "Pod")}---\napiVersion: v1\nkind: Service\n`, key: KEY });
    await runImportKey({ config: "app.yaml", kh: "key" }, two.ports);
    expect(policyOf(two)).toMatchObject({ anyOf: [{ allOf: [{ equals: HOST_DATA }, {}, {}] }] });
    const pod = JSON.stringify({
      apiVersion: "v1",
      kind: "Pod",
      metadata: { annotations: { "io.katacontainers.config.agent.policy": encoded(POLICY) } },
      spec: { containers: [] },
    });
    const json = world({ "pod.json": pod, key: KEY });
    await runImportKey({ config: "pod.json", kh: "key", kid: "k", akvEndpoint: "v.example", maaEndpoint: "m.example" }, json.ports);
    expect(policyOf(json)).toMatchObject({ anyOf: [{ allOf: [{ equals: HOST_DATA }, {}, {}] }] });
  });

  for (const [name, text, more, code, message] of [
    ["no annotation", yaml(undefined, ENV), {}, "ERR_IMPORTKEY_POLICY", "app.yaml:1:1: the Deployment has no annotation io.katacontainers.config.agent.policy"],
    [
      "an annotation that is not base64",
      APP.replace(encoded(POLICY), "'!!'"),
      {},
      "ERR_IMPORTKEY_POLICY",
      /^app\.yaml:3:\d+: annotation io\.katacontainers\.config\.agent\.policy: the annotation is not canonical base64/,
    ],
    ["an empty annotation", APP.replace(encoded(POLICY), "''"), {}, "ERR_IMPORTKEY_POLICY", /is empty$/],
    [
      "different policies",
      `${APP}---\n${yaml("package other", ENV)}`,
      {},
      "ERR_IMPORTKEY_POLICY",
      /^app\.yaml:1:1: the Deployment and app\.yaml:5:1: the Deployment have different policies \([0-9a-f]{64} and [0-9a-f]{64}\): a key is bound to one$/,
    ],
    ["one pod without a policy", `${APP}---\n${yaml(undefined, ENV, "Pod")}`, {}, "ERR_IMPORTKEY_POLICY", /^app\.yaml:5:1: the Pod has no annotation/],
    ["no pod", "apiVersion: v1\nkind: Service\n", {}, "ERR_IMPORTKEY_POLICY", "app.yaml: nothing here makes pods"],
    [
      "no endpoint",
      yaml(POLICY),
      { kid: "k", maaEndpoint: "m" },
      "ERR_IMPORTKEY_OPTION",
      "app.yaml:1:1: the Deployment: no env SkrClientAKVEndpoint with a value in any container, and no --akv-endpoint",
    ],
    [
      "two key names",
      yaml(POLICY, `${ENV}, {name: SkrClientKID, value: x}`),
      {},
      "ERR_IMPORTKEY_OPTION",
      'app.yaml:1:1: the Deployment: "my-key" and "x" for SkrClientKID, and no --kid',
    ],
    [
      "a placeholder for a key name",
      yaml(POLICY, ENV.replace("my-key", "$SkrClientKID")),
      {},
      "ERR_IMPORTKEY_CONFIG",
      'key name "$SkrClientKID" is not 1 to 127 letters, digits and hyphens',
    ],
    ["an endpoint with a path", APP, { akvEndpoint: "v.example/x" }, "ERR_IMPORTKEY_CONFIG", 'vault endpoint "v.example/x" is not a host name'],
    ["an endpoint with a user", APP, { akvEndpoint: "v.example@evil.example" }, "ERR_IMPORTKEY_CONFIG", /is not a host name$/],
    ["text that is no YAML", "a: [", {}, "ERR_KUBE_YAML", /^app\.yaml:/],
  ] as const) {
    it(`refuses ${name}, and sends nothing`, async () => {
      const it = world({ "app.yaml": text, key: KEY });
      const error = await failureOf({ config: "app.yaml", kh: "key", ...more }, it);
      expect(error.code).toBe(code);
      if (typeof message === "string") expect(error.message).toBe(message);
      else expect(error.message).toMatch(message);
      expect(it.requests).toEqual([]);
    });
  }

  it("says to run genpolicy first", async () => {
    expect((await failureOf({ config: "app.yaml", kh: "key" }, world({ "app.yaml": yaml(undefined, ENV), key: KEY }))).hint).toBe(
      "Run `sealpod genpolicy -y app.yaml` first.",
    );
  });
});

describe("importkey with the known tool's JSON", () => {
  const CONFIG = {
    key: {
      kid: "doc-sample-key-release",
      kty: "oct-HSM",
      key_ops: ["encrypt"],
      authority: { endpoint: "sharedeus2.eus2.test.attest.azure.net" },
      akv: { endpoint: "accmhsm.managedhsm.azure.net", api_version: "api-version=7.3-preview", bearer_token: "mine" },
    },
    claims: [[{ claim: "x-ms-sevsnpvm-hostdata", equals: "aa" }], [{ claim: "x-ms-sevsnpvm-hostdata", equals: "bb" }]],
    key_derivation: { salt: "", label: "" },
    identity: { client_id: "" },
  };
  const configured = (change: (config: typeof CONFIG) => void): string => {
    const config = structuredClone(CONFIG);
    change(config);
    return JSON.stringify(config);
  };

  it("makes each list of claims an alternative, and uses the token of the file", async () => {
    const it = world({ "c.json": JSON.stringify(CONFIG) });
    await runImportKey({ config: "c.json", kh: "00".repeat(32) }, it.ports);
    expect(it.requests[0]?.url).toBe("https://accmhsm.managedhsm.azure.net/keys/doc-sample-key-release?api-version=7.3-preview");
    expect(it.requests[0]?.request.headers["authorization"]).toBe("Bearer mine");
    expect(it.tokens).toEqual([]);
    expect(bodyOf(it)["key"]?.["key_ops"]).toEqual(["encrypt"]);
    expect(policyOf(it)).toEqual({
      version: "1.0.0",
      anyOf: ["aa", "bb"].map((equals) => ({
        authority: "https://sharedeus2.eus2.test.attest.azure.net",
        allOf: [{ claim: "x-ms-sevsnpvm-hostdata", equals }],
      })),
    });
  });

  for (const [name, text, more, code, message] of [
    ["no kid", configured((config) => (config.key.kid = "")), {}, "ERR_IMPORTKEY_CONFIG", "c.json: no key.kid"],
    ["no vault", configured((config) => (config.key.akv.endpoint = "")), {}, "ERR_IMPORTKEY_CONFIG", "c.json: no key.akv.endpoint"],
    ["no authority", configured((config) => Reflect.deleteProperty(config.key, "authority")), {}, "ERR_IMPORTKEY_CONFIG", "c.json: no key.authority.endpoint"],
    [
      "no claims",
      configured((config) => (config.claims = [])),
      {},
      "ERR_IMPORTKEY_CONFIG",
      "c.json: claims has an alternative without conditions: any guest could get the key",
    ],
    [
      "an empty alternative",
      configured((config) => config.claims.push([])),
      {},
      "ERR_IMPORTKEY_CONFIG",
      "c.json: claims has an alternative without conditions: any guest could get the key",
    ],
    [
      "a claim without value",
      configured((config) => (config.claims = [[{ claim: "x" } as never]])),
      {},
      "ERR_IMPORTKEY_CONFIG",
      "c.json: claims[0][0] must have a claim and what it equals, both text",
    ],
    [
      "another kind of key",
      configured((config) => (config.key.kty = "EC-HSM")),
      {},
      "ERR_IMPORTKEY_CONFIG",
      'c.json: key.kty "EC-HSM" is not supported: expected "oct-HSM" or "RSA-HSM"',
    ],
    ["RSA without -kp", configured((config) => (config.key.kty = "RSA-HSM")), {}, "ERR_IMPORTKEY_OPTION", "c.json: key.kty is RSA-HSM, which needs -kp FILE"],
    ["oct with -kp", JSON.stringify(CONFIG), { kp: "k.pem" }, "ERR_IMPORTKEY_OPTION", "c.json: key.kty is oct-HSM, which does not go with -kp"],
    ["key that is no object", '{"key": 1}', {}, "ERR_IMPORTKEY_CONFIG", "c.json: key must be an object"],
    [
      "an odd version",
      configured((config) => (config.key.akv.api_version = "x&y=z")),
      {},
      "ERR_IMPORTKEY_CONFIG",
      'c.json: key.akv.api_version "x&y=z"'.slice(8) + ' is not a version such as "api-version=7.4"',
    ],
    ["duplicate names", '{"key": {}, "key": {}}', {}, "ERR_KUBE_YAML", /duplicate key/],
  ] as const) {
    it(`refuses ${name}`, async () => {
      const it = world({ "c.json": text, "k.pem": "x" });
      const error = await failureOf({ config: "c.json", ...("kp" in more ? {} : { kh: "00".repeat(32) }), ...more }, it);
      expect(error.code).toBe(code);
      if (typeof message === "string") expect(error.message).toBe(message);
      else expect(error.message).toMatch(message);
      expect(it.requests).toEqual([]);
    });
  }
});

describe("keys", () => {
  const run = async (options: Partial<ImportKeyOptions>, it: World): Promise<string> => {
    await runImportKey({ config: "app.yaml", ...options }, it.ports);
    return it.stdout[0] ?? "";
  };

  it("takes a file's raw bytes before hex, and makes a key if none is given", async () => {
    const hex = "0a".repeat(16);
    expect(await run({ kh: hex }, world({ "app.yaml": APP }))).toBe(`[${Array(16).fill(10).join(" ")}]\n`);
    expect(await run({ kh: hex }, world({ "app.yaml": APP, [hex]: KEY }))).toBe(`[${[...KEY].join(" ")}]\n`);
    expect(await run({}, world({ "app.yaml": APP }))).toBe(`[${Array(32).fill(9).join(" ")}]\n`);
  });

  it("prints no key with --quiet-key", async () => {
    const it = world({ "app.yaml": APP, key: KEY });
    await runImportKey({ config: "app.yaml", kh: "key", quietKey: true }, it.ports);
    expect(it.stdout.join("")).toMatch(/^https:\/\/.*\n\{"version".*\}\n$/);
  });

  it("writes keyfile.bin before the import, never over another key", async () => {
    const it = world({ "app.yaml": APP }, () => ({ status: 500, body: "" }));
    await failureOf({ config: "app.yaml", out: true }, it);
    expect(it.files.get("keyfile.bin")).toEqual(new Uint8Array(32).fill(9));
    const other = world({ "app.yaml": APP, "keyfile.bin": KEY });
    const error = await failureOf({ config: "app.yaml", out: true }, other);
    expect([error.code, error.message]).toEqual(["ERR_IMPORTKEY_FILE", "keyfile.bin exists and holds another key"]);
    expect([other.files.get("keyfile.bin"), other.requests]).toEqual([KEY, []]);
    await runImportKey({ config: "app.yaml", out: true, kh: "keyfile.bin" }, other.ports);
    expect(other.files.get("keyfile.bin")).toEqual(KEY);
  });

  it("imports RSA keys of PKCS#8 PEM, and prints nothing secret of them", async () => {
    const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
    const pem = privateKey.export({ type: "pkcs8", format: "pem" }).toString();
    const it = world({ "app.yaml": APP, "k.pem": pem });
    expect(await run({ kp: "k.pem" }, it)).toBe("RSA 2048 bits\n");
    expect(bodyOf(it)["key"]).toEqual({
      kty: "RSA-HSM",
      ...Object.fromEntries(Object.entries(privateKey.export({ format: "jwk" })).filter(([name]) => name !== "kty")),
    });
    expect(it.stdout.join("")).not.toContain(String(bodyOf(it)["key"]?.["d"]));
  });

  for (const [name, options, files, code, message] of [
    ["text that is no file and no hex", { kh: "secret-key" }, {}, "ERR_IMPORTKEY_KEY", "-kh names no file, and its 10 characters are not hex digits"],
    ["a long key that is no hex", { kh: "x".repeat(300) }, {}, "ERR_IMPORTKEY_KEY", "-kh names no file, and its 300 characters are not hex digits"],
    ["an odd number of digits", { kh: "abc" }, {}, "ERR_IMPORTKEY_KEY", /not hex digits$/],
    ["a short key", { kh: "0011" }, {}, "ERR_IMPORTKEY_KEY", "the key has 2 bytes, expected 16 to 64"],
    ["an empty file", { kh: "key" }, { key: "" }, "ERR_IMPORTKEY_KEY", "the key has 0 bytes, expected 16 to 64"],
    ["a file of hex", { kh: "key" }, { key: "00".repeat(33) }, "ERR_IMPORTKEY_KEY", "the key has 66 bytes, expected 16 to 64"],
    ["-kh and -kp", { kh: "00", kp: "k.pem" }, {}, "ERR_IMPORTKEY_OPTION", /exclude each other/],
    ["a missing PEM file", { kp: "gone.pem" }, {}, "ERR_IMPORTKEY_FILE", "gone.pem: no such file"],
    ["text that is no PEM", { kp: "k.pem" }, { "k.pem": "hello" }, "ERR_IMPORTKEY_KEY", "k.pem is not a private key in PEM without a password"],
    [
      "an elliptic key",
      { kp: "k.pem" },
      { "k.pem": generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey.export({ type: "pkcs8", format: "pem" }).toString() },
      "ERR_IMPORTKEY_KEY",
      "k.pem is ec, expected RSA with at least 2048 bits",
    ],
    [
      "a short RSA key",
      { kp: "k.pem" },
      { "k.pem": generateKeyPairSync("rsa", { modulusLength: 1024 }).privateKey.export({ type: "pkcs8", format: "pem" }).toString() },
      "ERR_IMPORTKEY_KEY",
      "k.pem is RSA with 1024 bits, expected RSA with at least 2048 bits",
    ],
    [
      "-out with RSA",
      { kp: "k.pem", out: true },
      { "k.pem": generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ type: "pkcs8", format: "pem" }).toString() },
      "ERR_IMPORTKEY_OPTION",
      /^-out with an RSA key is not supported yet/,
    ],
    ["a missing configuration", { config: "gone.yaml" }, {}, "ERR_IMPORTKEY_FILE", "gone.yaml: no such file"],
  ] as const) {
    it(`refuses ${name}`, async () => {
      const it = world({ "app.yaml": APP, ...files });
      const error = await failureOf({ config: "app.yaml", ...options }, it);
      expect(error.code).toBe(code);
      if (typeof message === "string") expect(error.message).toBe(message);
      else expect(error.message).toMatch(message);
      expect(`${error.message} ${error.hint ?? ""} ${JSON.stringify(error.details)}`).not.toMatch(/secret-key|xxxx|0011/);
      expect([it.requests, it.stdout]).toEqual([[], []]);
    });
  }
});

describe("the vault's answer", () => {
  const body = (code: string, message: string): string => JSON.stringify({ error: { code, message } });
  for (const [name, answer, code, message] of [
    [
      "401",
      { status: 401, body: body("Unauthorized", "AKV10000: Request is missing a Bearer or PoP token.") },
      "ERR_IMPORTKEY_UNAUTHORIZED",
      /answered 401, Unauthorized: AKV10000/,
    ],
    ["403", { status: 403, body: body("Forbidden", "no permission") }, "ERR_IMPORTKEY_FORBIDDEN", /answered 403, Forbidden: no permission$/],
    ["409", { status: 409, body: body("Conflict", "deleted but recoverable") }, "ERR_IMPORTKEY_CONFLICT", /answered 409, Conflict: deleted but recoverable$/],
    ["400", { status: 400, body: body("BadParameter", "x\u001b[31my\nz") }, "ERR_IMPORTKEY_VAULT", /answered 400, BadParameter: x \[31my z$/],
    ["500 without JSON", { status: 500, body: "<html>" }, "ERR_IMPORTKEY_VAULT", /my-key: the vault answered 500$/],
    ["a redirect", { status: 302, body: "" }, "ERR_IMPORTKEY_VAULT", /answered 302$/],
    ["200 without JSON", { status: 200, body: "ok" }, "ERR_IMPORTKEY_VAULT", /the answer has no key id of this key$/],
    ["an endless answer", { status: 200, body: "x".repeat(300_000) }, "ERR_IMPORTKEY_VAULT", /the answer has no key id of this key$/],
    [
      "a key id elsewhere",
      { status: 200, body: '{"key":{"kid":"https://evil.example/keys/my-key/1"}}' },
      "ERR_IMPORTKEY_VAULT",
      /the answer has no key id of this key$/,
    ],
    [
      "another key's id",
      { status: 200, body: '{"key":{"kid":"https://demo.vault.sealpod.internal:8443/keys/my-key2/1"}}' },
      "ERR_IMPORTKEY_VAULT",
      /the answer has no key id of this key$/,
    ],
    [
      "a key id with more",
      { status: 200, body: '{"key":{"kid":"https://demo.vault.sealpod.internal:8443/keys/my-key/1?x"}}' },
      "ERR_IMPORTKEY_VAULT",
      /the answer has no key id of this key$/,
    ],
    ["no answer", new Error("connect ECONNREFUSED"), "ERR_IMPORTKEY_VAULT", /my-key: no answer: connect ECONNREFUSED$/],
  ] as const) {
    it(`is an error for ${name}, without the key or the token`, async () => {
      const it = world({ "app.yaml": APP, key: KEY }, () => answer);
      const error = await failureOf({ config: "app.yaml", kh: "key" }, it);
      expect(error.code).toBe(code);
      expect(error.message).toMatch(message);
      expect(error.message).toMatch(/^https:\/\/demo\.vault\.sealpod\.internal:8443\/keys\/my-key/);
      expect(JSON.stringify([error.message, error.hint, error.details])).not.toMatch(/t0ken|AAcO/);
      expect(it.stdout).toEqual([]);
    });
  }

  it("is not asked for with a token that would break the header", async () => {
    const it = world({ "app.yaml": APP, key: KEY });
    const error = await failureOf({ config: "app.yaml", kh: "key" }, { ...it, ports: { ...it.ports, token: () => Promise.resolve("a\r\nb") } });
    expect([error.code, it.requests.length]).toEqual(["ERR_IMPORTKEY_UNAUTHORIZED", 0]);
  });
});
