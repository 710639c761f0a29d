import { createHash, createHmac, createPrivateKey, generateKeyPairSync } from "node:crypto";
import { gzipSync } from "node:zlib";
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
const EC_PEM = generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey.export({ type: "pkcs8", format: "pem" }).toString();
const KEY = Uint8Array.from({ length: 32 }, (_, index) => index * 7);

interface World {
  readonly files: Map<string, Uint8Array>;
  readonly stdout: string[];
  /** What was sent to change something. */
  readonly requests: { readonly url: string; readonly request: VaultRequest }[];
  /** What was asked for. */
  readonly lookups: { readonly url: string; readonly request: VaultRequest }[];
  readonly warnings: string[];
  readonly tokens: string[];
  readonly ports: ImportKeyPorts;
}

type Answer = { status: number; body: string } | Error;

const NOT_FOUND: Answer = { status: 404, body: JSON.stringify({ error: { code: "KeyNotFound", message: "none" } }) };

/** @param existing what the vault says of the key before the import */
function world(files: Readonly<Record<string, string | Uint8Array>>, answer?: (url: URL) => Answer, existing: Answer = NOT_FOUND): World {
  const map = new Map(Object.entries(files).map(([path, content]) => [path, typeof content === "string" ? new TextEncoder().encode(content) : content]));
  const stdout: string[] = [];
  const requests: World["requests"] = [];
  const lookups: World["lookups"] = [];
  const warnings: string[] = [];
  const tokens: string[] = [];
  const reply =
    answer ??
    ((url: URL): Answer => ({ status: 200, body: JSON.stringify({ key: { kid: `${url.origin}${url.pathname}/0123456789abcdef0123456789abcdef` } }) }));
  const ports: ImportKeyPorts = {
    readFile: (path) => Promise.resolve(map.get(path)),
    writeSecret: (path, bytes) => Promise.resolve(void map.set(path, bytes)),
    writeStdout: (text) => void stdout.push(text),
    fetch: (url, request) => {
      if (request.method === "GET") lookups.push({ url, request });
      else requests.push({ url, request });
      const found = request.method === "GET" ? existing : reply(new URL(url));
      if (found instanceof Error) return Promise.reject(found);
      return Promise.resolve({ status: found.status, body: new Response(found.body).body });
    },
    token: (resource, vault) => {
      tokens.push(`${resource} ${vault}`);
      return Promise.resolve("t0ken");
    },
    random: { bytes: (length) => new Uint8Array(length).fill(9) },
    warn: (text) => void warnings.push(text),
  };
  return { files: map, stdout, requests, lookups, warnings, tokens, ports };
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

describe("importkey without a key", () => {
  it("makes one and keeps it in keyfile.bin before the vault has it, never over another", async () => {
    const it = world({ "app.yaml": APP }, () => new Error("gone"));
    await expect(runImportKey({ config: "app.yaml" }, it.ports)).rejects.toThrow("gone");
    expect(it.files.get("keyfile.bin")).toEqual(new Uint8Array(32).fill(9));
    expect(it.warnings).toEqual(["no key is given: a new one of 32 bytes is made and written to keyfile.bin; keep it"]);
    const mine = world({ "app.yaml": APP, "keyfile.bin": "mine" });
    const error = await failureOf({ config: "app.yaml" }, mine);
    expect([error.code, error.message, error.hint]).toEqual([
      "ERR_IMPORTKEY_FILE",
      "keyfile.bin exists and holds another key",
      "Import it with -kh keyfile.bin, or move it away.",
    ]);
    expect([mine.requests, mine.files.get("keyfile.bin")]).toEqual([[], new TextEncoder().encode("mine")]);
    const dry = world({ "app.yaml": APP });
    await runImportKey({ config: "app.yaml", dryRun: true }, dry.ports);
    expect([...dry.files.keys()]).toEqual(["app.yaml"]);
  });

  it("says with --allow-any what it overrides", async () => {
    const claims = [[{ claim: "x-ms-sevsnpvm-hostdata", equals: HOST_DATA }]];
    const config = JSON.stringify({ key: { kid: "k", authority: { endpoint: "m.test" }, akv: { endpoint: "v.test" } }, claims });
    const it = world({ "c.json": config, key: KEY });
    await runImportKey({ config: "c.json", kh: "key", allowAny: true }, it.ports);
    expect(it.warnings[0]).toMatch(/^taken because of --allow-any: At \$\.anyOf\[0\]\.allOf a VM that enforces nothing/);
  });
});

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
    claims: ["aa", "bb"].map((equals) => [
      { claim: "x-ms-sevsnpvm-hostdata", equals },
      { claim: "x-ms-compliance-status", equals: "azure-compliant-uvm" },
      { claim: "x-ms-sevsnpvm-is-debuggable", equals: "false" },
    ]),
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
        allOf: [
          { claim: "x-ms-sevsnpvm-hostdata", equals },
          { claim: "x-ms-compliance-status", equals: "azure-compliant-uvm" },
          { claim: "x-ms-sevsnpvm-is-debuggable", equals: "false" },
        ],
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
      "c.json: claims[0][0].equals: expected a string, a boolean or an integer.",
    ],
    [
      "another kind of key",
      configured((config) => (config.key.kty = "RSA")),
      {},
      "ERR_IMPORTKEY_CONFIG",
      'c.json: key.kty "RSA" is not supported: expected "oct-HSM", "RSA-HSM", "EC-HSM"',
    ],
    [
      "RSA with -kh",
      configured((config) => (config.key.kty = "RSA-HSM")),
      {},
      "ERR_IMPORTKEY_OPTION",
      'c.json: the key\'s type is "RSA-HSM", which does not go with -kh: that is oct 256 bits',
    ],
    [
      "EC without -kp",
      configured((config) => (config.key.kty = "EC-HSM")),
      { kh: undefined },
      "ERR_IMPORTKEY_OPTION",
      'c.json: the key\'s type is "EC-HSM", which needs -kp FILE',
    ],
    [
      "oct with -kp",
      JSON.stringify(CONFIG),
      { kp: "k.pem" },
      "ERR_IMPORTKEY_OPTION",
      'c.json: the key\'s type is "oct-HSM", which does not go with -kp: that is EC P-256',
    ],
    ["--pod beside JSON", JSON.stringify(CONFIG), { pod: "x" }, "ERR_IMPORTKEY_OPTION", "--pod is for a YAML, and c.json is JSON with claims of its own"],
    ["a salt that is no hex", configured((config) => (config.key_derivation.salt = "xyz")), {}, "ERR_IMPORTKEY_CONFIG", /^c\.json: key_derivation\.salt/],
    ["key that is no object", '{"key": 1}', {}, "ERR_IMPORTKEY_CONFIG", "c.json: key must be an object"],
    [
      "an odd version",
      configured((config) => (config.key.akv.api_version = "x&y=z")),
      {},
      "ERR_IMPORTKEY_CONFIG",
      'c.json: key.akv.api_version "x&y=z"'.slice(8) + ' is not a version such as "api-version=7.4"',
    ],
    ["duplicate names", '{"key": {}, "key": {}}', {}, "ERR_IMPORTKEY_CONFIG", /duplicate name/],
  ] as const) {
    it(`refuses ${name}`, async () => {
      const it = world({ "c.json": text, "k.pem": EC_PEM });
      const error = await failureOf({ config: "c.json", ...("kp" in more || "kh" in more ? {} : { kh: "00".repeat(32) }), ...("kh" in more ? {} : more) }, it);
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
      "an Edwards key",
      { kp: "k.pem" },
      { "k.pem": generateKeyPairSync("ed25519").privateKey.export({ type: "pkcs8", format: "pem" }).toString() },
      "ERR_IMPORTKEY_KEY",
      "k.pem is ed25519, expected RSA with at least 2048 bits, or EC on P-256, P-384, P-521, P-256K",
    ],
    [
      "a curve that vaults do not have",
      { kp: "k.pem" },
      { "k.pem": generateKeyPairSync("ec", { namedCurve: "secp224r1" }).privateKey.export({ type: "pkcs8", format: "pem" }).toString() },
      "ERR_IMPORTKEY_KEY",
      "k.pem is EC on secp224r1, expected RSA with at least 2048 bits, or EC on P-256, P-384, P-521, P-256K",
    ],
    [
      "a short RSA key",
      { kp: "k.pem" },
      { "k.pem": generateKeyPairSync("rsa", { modulusLength: 1024 }).privateKey.export({ type: "pkcs8", format: "pem" }).toString() },
      "ERR_IMPORTKEY_KEY",
      "k.pem is RSA with 1024 bits, expected RSA with at least 2048 bits, or EC on P-256, P-384, P-521, P-256K",
    ],
    [
      "-out with EC",
      { kp: "k.pem", out: true },
      { "k.pem": EC_PEM },
      "ERR_IMPORTKEY_OPTION",
      "-out does not go with EC P-256: only an RSA key has a symmetric key derived from it",
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

describe("importkey for initdata and several pods", () => {
  const DOCUMENT = `version = "0.1.0"\nalgorithm = "sha384"\n\n[data]\n"policy.rego" = '''\n${POLICY}'''\n`;
  const initdata = (document: string | Uint8Array): string => gzipSync(document).toString("base64");
  const pod = (name: string, annotations: string): string =>
    `apiVersion: v1\nkind: Pod\nmetadata: {name: ${name}, annotations: {${annotations}}}\nspec: {containers: [{name: a, image: b, env: [${ENV}]}]}\n`;
  const COCO = "io.katacontainers.config.hypervisor.cc_init_data";
  const AKS = "io.katacontainers.config.agent.policy";
  const run = async (text: string, more: Partial<ImportKeyOptions> = {}): Promise<World> => {
    const it = world({ "app.yaml": text, key: KEY });
    await runImportKey({ config: "app.yaml", kh: "key", ...more }, it.ports);
    return it;
  };

  it("takes the digest of initdata, by its own algorithm, cut to HOST_DATA", async () => {
    const it = await run(pod("a", `${COCO}: ${initdata(DOCUMENT)}`));
    expect(policyOf(it)).toMatchObject({ anyOf: [{ allOf: [{ equals: createHash("sha384").update(DOCUMENT).digest("hex").slice(0, 64) }, {}, {}] }] });
  });

  const two = `${pod("web", `${AKS}: ${encoded(POLICY)}`)}---\n${pod("batch", `${AKS}: ${encoded("package other")}`)}`;
  it("takes the pod that --pod names, by name or kind and name", async () => {
    const other = createHash("sha256").update("package other").digest("hex");
    for (const [name, hostData] of [
      ["web", HOST_DATA],
      ["pod/batch", other],
      ["Pod/web", HOST_DATA],
    ] as const) {
      expect(policyOf(await run(two, { pod: name }))).toMatchObject({ anyOf: [{ allOf: [{ equals: hostData }, {}, {}] }] });
    }
  });

  for (const [name, text, more, message, hint] of [
    [
      "several pods",
      two,
      {},
      /^app\.yaml:1:1: the Pod web and app\.yaml:6:1: the Pod batch have different policies/,
      "Choose one with --pod NAME or --pod KIND/NAME: Pod/web, Pod/batch.",
    ],
    ["a pod that is not there", two, { pod: "db" }, /^app\.yaml: nothing that makes pods is called "db"$/, "It has Pod/web, Pod/batch."],
    ["a pod of another kind", two, { pod: "Job/web" }, /nothing that makes pods is called "Job\/web"$/, "It has Pod/web, Pod/batch."],
    [
      "both annotations",
      pod("a", `${COCO}: ${initdata(DOCUMENT)}, ${AKS}: ${encoded(POLICY)}`),
      {},
      /has both annotations/,
      "Take away the one that your platform does not read.",
    ],
    [
      "initdata that is no gzip",
      pod("a", `${COCO}: ${encoded("hello")}`),
      {},
      /cc_init_data: not gzip of initdata: /,
      "Run `sealpod genpolicy --profile coco -y app.yaml` again.",
    ],
    [
      "initdata that is cut off",
      pod("a", `${COCO}: ${Buffer.from(gzipSync(DOCUMENT).subarray(0, 40)).toString("base64")}`),
      {},
      /not gzip of initdata: /,
      "Run `sealpod genpolicy --profile coco -y app.yaml` again.",
    ],
    [
      "initdata that grows",
      pod("a", `${COCO}: ${initdata(new Uint8Array(8 * 1024 * 1024))}`),
      {},
      /not gzip of initdata: /,
      "Run `sealpod genpolicy --profile coco -y app.yaml` again.",
    ],
    [
      "initdata without a policy",
      pod("a", `${COCO}: ${initdata('version = "0.1.0"\nalgorithm = "sha256"\n[data]\n')}`),
      {},
      /it has no policy\.rego: the guest would take its own$/,
      "Run `sealpod genpolicy --profile coco -y app.yaml` again.",
    ],
    [
      "initdata of another form",
      pod("a", `${COCO}: ${initdata("version = 1\n")}`),
      {},
      /initdata has version a number|initdata has version/,
      "Run `sealpod genpolicy --profile coco -y app.yaml` again.",
    ],
  ] as const) {
    it(`refuses ${name}`, async () => {
      const it = world({ "app.yaml": text, key: KEY });
      const error = await failureOf({ config: "app.yaml", kh: "key", ...more }, it);
      expect([error.code, error.hint]).toEqual(["ERR_IMPORTKEY_POLICY", hint]);
      expect(error.message).toMatch(message);
      expect([it.requests, it.lookups]).toEqual([[], []]);
    });
  }
});

describe("the release policy", () => {
  const config = (claims: unknown, more = ""): string =>
    `{"key":{"kid":"k","authority":{"endpoint":"m.example"},"akv":{"endpoint":"v.example"}},"claims":${JSON.stringify(claims)}${more}}`;
  const HOST = { claim: "x-ms-sevsnpvm-hostdata", equals: "aa" };
  const GUEST = { claim: "x-ms-compliance-status", equals: "azure-signed-katacc-uvm" };
  const CLOSED = { claim: "x-ms-sevsnpvm-is-debuggable", equals: "false" };
  const run = async (it: World, more: Partial<ImportKeyOptions> = {}): Promise<unknown> => {
    await runImportKey({ config: "c.json", kh: "key", ...more }, it.ports);
    return policyOf(it);
  };

  it("has the conditions of the configuration, nested and of every type; commas before brackets and a byte order mark are passed over", async () => {
    const nested = { anyOf: [GUEST, { allOf: [{ claim: "x-ms-sevsnpvm-vmpl", equals: 0 }, GUEST] }] };
    const text = `\ufeff${config([[HOST, nested, CLOSED]]).replace('"false"}]', '"false"},\n ]')}`;
    expect(text).toContain(",\n ]");
    const it = world({ "c.json": text, key: KEY });
    expect(await run(it)).toEqual({ version: "1.0.0", anyOf: [{ authority: "https://m.example", allOf: [HOST, nested, CLOSED] }] });
    expect(it.warnings).toEqual([]);
  });

  it("is refused if others than the pod satisfy it, with a reason for each branch; --allow-any takes it", async () => {
    const text = config([[HOST, GUEST, CLOSED], [GUEST], [HOST]]);
    const it = world({ "c.json": text, key: KEY });
    const error = await failureOf({ config: "c.json", kh: "key" }, it);
    expect([error.code, error.details["paths"]]).toEqual(["ERR_IMPORTKEY_WEAK", ["$.anyOf[1].allOf", "$.anyOf[2].allOf"]]);
    expect(error.message).toMatch(
      /^the release policy would give the key to others than the pod:\n {2}- At \$\.anyOf\[1\]\.allOf any pod .*\n {2}- At \$\.anyOf\[2\]\.allOf a VM that enforces nothing/,
    );
    expect(error.hint).toBe("Add the conditions, or pass --allow-any if that is what you want.");
    expect([it.requests, it.lookups]).toEqual([[], []]);
    expect(await run(it, { allowAny: true })).toMatchObject({ anyOf: [{}, { allOf: [GUEST] }, { allOf: [HOST] }] });
  });

  it("is warned of if it lets the VM be debugged", async () => {
    const it = world({ "c.json": config([[HOST, GUEST]]), key: KEY });
    await run(it);
    expect(it.warnings).toEqual([expect.stringMatching(/^At \$\.anyOf\[0\]\.allOf a VM whose memory its host can read can satisfy it/)]);
  });

  const bundle = (policy: unknown, immutable?: boolean): Answer => ({
    status: 200,
    body: JSON.stringify({
      key: { kid: "https://v.example/keys/k/1" },
      release_policy: { data: Buffer.from(JSON.stringify(policy)).toString("base64url"), immutable },
    }),
  });
  const OLD = { version: "1.0.0", anyOf: [{ authority: "https://m.example/", allOf: [CLOSED, GUEST, { ...HOST, equals: "cc" }] }] };

  it("is compared with that of an existing key: what changes is shown before the import", async () => {
    const it = world({ "c.json": config([[HOST, GUEST, CLOSED]]), key: KEY }, undefined, bundle(OLD));
    await run(it);
    expect(it.warnings).toEqual([
      'key k has a release policy already, and its new version gets another: pods that satisfy only the old one do not get the new version\n  alternative 1:\n    - x-ms-sevsnpvm-hostdata = "cc"\n    + x-ms-sevsnpvm-hostdata = "aa"',
    ]);
    expect(it.lookups[0]?.request).toEqual({ method: "GET", headers: { authorization: "Bearer t0ken" }, redirect: "manual" });
  });

  it("is not warned of if it asks for the same in another order, or nothing of the key is known", async () => {
    for (const existing of [
      bundle({ ...OLD, anyOf: [{ ...OLD.anyOf[0], allOf: [CLOSED, GUEST, HOST] }] }),
      { status: 403, body: "" },
      { status: 200, body: "{}" },
    ]) {
      const it = world({ "c.json": config([[HOST, GUEST, CLOSED]]), key: KEY }, undefined, existing);
      await run(it);
      expect([it.warnings, it.requests.length]).toEqual([[], 1]);
    }
  });

  it("shows alternatives that come and go", async () => {
    const it = world(
      { "c.json": config([[HOST, GUEST, CLOSED]]), key: KEY },
      undefined,
      bundle({ version: "1.0.0", anyOf: [...OLD.anyOf, { authority: "https://m.example", anyOf: [HOST] }] }),
    );
    await run(it);
    expect(it.warnings[0]).toContain('  alternative 2 (removed):\n    - authority https://m.example\n    - any of (x-ms-sevsnpvm-hostdata = "aa")');
    const more = world(
      {
        "c.json": config([
          [{ ...HOST, equals: "cc" }, GUEST, CLOSED],
          [HOST, GUEST, CLOSED],
        ]),
        key: KEY,
      },
      undefined,
      bundle(OLD),
    );
    await run(more);
    expect(more.warnings[0]).toContain("  alternative 2 (added):\n    + authority https://m.example\n");
  });

  it("that cannot be changed is not tried, and an unreadable one is said to be", async () => {
    const it = world({ "c.json": config([[HOST, GUEST, CLOSED]]), key: KEY }, undefined, bundle(OLD, true));
    const error = await failureOf({ config: "c.json", kh: "key" }, it);
    expect([error.code, it.requests]).toEqual(["ERR_IMPORTKEY_CONFLICT", []]);
    expect(error.message).toMatch(/^key k has an immutable release policy, and this is another:\n {2}alternative 1:\n/);
    const odd = world({ "c.json": config([[HOST, GUEST, CLOSED]]), key: KEY }, undefined, bundle({ version: "9" }));
    await run(odd);
    expect(odd.warnings).toEqual(["key k has a release policy that this program cannot read, and this import replaces it"]);
  });

  it("is not looked for with a token that the vault does not take", async () => {
    const it = world({ "c.json": config([[HOST, GUEST, CLOSED]]), key: KEY }, undefined, { status: 401, body: "" });
    expect([(await failureOf({ config: "c.json", kh: "key" }, it)).code, it.requests]).toEqual(["ERR_IMPORTKEY_UNAUTHORIZED", []]);
  });
});

describe("what is written", () => {
  const RSA = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey;
  const PEM = RSA.export({ type: "pkcs8", format: "pem" }).toString();
  /** RFC 5869 with one block of output, from its text. */
  const hkdf = (ikm: Buffer, salt: Buffer, info: string): string => {
    const prk = createHmac("sha256", salt.length === 0 ? Buffer.alloc(32) : salt)
      .update(ikm)
      .digest();
    return createHmac("sha256", prk).update(info).update(Uint8Array.of(1)).digest("hex");
  };
  const exponent = (pem: string): Buffer => {
    const bytes = Buffer.from(String(createPrivateKey(pem).export({ format: "jwk" }).d), "base64url");
    return bytes.subarray(bytes.findIndex((byte) => byte !== 0));
  };
  const withDerivation = (salt: string, label: string): string =>
    JSON.stringify({
      key: { kid: "k", kty: "RSA-HSM", authority: { endpoint: "m.example" }, akv: { endpoint: "v.example" } },
      key_derivation: { salt, label },
      claims: [
        [
          { claim: "x-ms-sevsnpvm-hostdata", equals: "aa" },
          { claim: "x-ms-sevsnpvm-launchmeasurement", equals: "bb" },
          { claim: "x-ms-sevsnpvm-is-debuggable", equals: "false" },
        ],
      ],
    });

  it("-out derives the disk key of an RSA key, by salt and label of the configuration", async () => {
    for (const [salt, label, info] of [
      ["", "", "Symmetric Encryption Key"],
      ["00ff", "disk", "disk"],
    ] as const) {
      const it = world({ "c.json": withDerivation(salt, label), "k.pem": PEM });
      await runImportKey({ config: "c.json", kp: "k.pem", out: true }, it.ports);
      const wanted = hkdf(exponent(PEM), Buffer.from(salt, "hex"), info);
      expect(Buffer.from(it.files.get("keyfile.bin") ?? []).toString("hex")).toBe(wanted);
      expect(it.stdout[0]).toBe(`Symmetric key ${wanted} (salt: ${salt} label: ${info})\n`);
    }
  });

  it("a key that is made for RSA-HSM goes to private_key.pem first, never over another", async () => {
    const it = world({ "c.json": withDerivation("", "") }, () => ({ status: 500, body: "" }));
    await failureOf({ config: "c.json" }, it);
    const pem = Buffer.from(it.files.get("private_key.pem") ?? []).toString();
    expect(createPrivateKey(pem).asymmetricKeyDetails?.modulusLength).toBe(2048);
    expect(bodyOf(it)["key"]).toMatchObject({ kty: "RSA-HSM", d: createPrivateKey(pem).export({ format: "jwk" }).d });
    const other = world({ "c.json": withDerivation("", ""), "private_key.pem": "mine" });
    const error = await failureOf({ config: "c.json" }, other);
    expect([error.code, error.message, other.requests]).toEqual(["ERR_IMPORTKEY_FILE", "private_key.pem exists and holds another key", []]);
    expect(other.files.get("private_key.pem")).toEqual(new TextEncoder().encode("mine"));
  });

  it("imports elliptic keys", async () => {
    const it = world({ "app.yaml": APP, "k.pem": EC_PEM });
    await runImportKey({ config: "app.yaml", kp: "k.pem" }, it.ports);
    const { x, y, d } = createPrivateKey(EC_PEM).export({ format: "jwk" });
    expect(bodyOf(it)["key"]).toEqual({ kty: "EC-HSM", crv: "P-256", x, y, d });
    expect(it.stdout[0]).toBe("EC P-256\n");
  });

  it("--dry-run prints the request and the policy; it contacts nobody, writes nothing, and shows no secret", async () => {
    const it = world({ "app.yaml": APP, key: KEY });
    await runImportKey({ config: "app.yaml", kh: "key", out: true, dryRun: true }, it.ports);
    const [about, request, body, policy] = it.stdout.join("").split("\n");
    expect([about, request]).toEqual(["key: oct 256 bits", "PUT https://demo.vault.sealpod.internal:8443/keys/my-key?api-version=7.4"]);
    expect(JSON.parse(body ?? "")).toMatchObject({ key: { kty: "oct-HSM", k: "(not shown)", key_size: 256 }, hsm: true, attributes: { exportable: true } });
    expect(policy).toContain(HOST_DATA);
    expect([it.requests, it.lookups, it.tokens, it.files.has("keyfile.bin")]).toEqual([[], [], [], false]);
    const rsa = world({ "app.yaml": APP, "k.pem": PEM });
    await runImportKey({ config: "app.yaml", kp: "k.pem", dryRun: true }, rsa.ports);
    const jwk = RSA.export({ format: "jwk" });
    for (const name of ["d", "p", "q", "dp", "dq", "qi"]) expect(rsa.stdout.join("")).not.toContain(String(jwk[name]));
    expect(rsa.stdout.join("")).toContain(String(jwk["n"]));
  });
});

describe("importkey -a", () => {
  const ENVIRONMENT = { AZURE_CLIENT_ID: "client", AZURE_TENANT_ID: "tenant", AZURE_FEDERATED_TOKEN_FILE: "sa", AZURE_AUTHORITY_HOST: "https://login.test/" };
  const azureWorld = (
    env: Readonly<Record<string, string>>,
    identity: readonly Answer[],
    config = APP,
  ): { readonly it: World; readonly asked: { url: string; request: VaultRequest }[]; readonly waits: number[] } => {
    const it = world({ "app.yaml": config, key: KEY, sa: "assertion\n" });
    const asked: { url: string; request: VaultRequest }[] = [];
    const waits: number[] = [];
    const answers = [...identity];
    const ports: ImportKeyPorts = {
      ...it.ports,
      env: (name) => env[name],
      wait: (milliseconds) => Promise.resolve(void waits.push(milliseconds)),
      fetch: (url, request) => {
        if (url.includes("/keys/")) return it.ports.fetch(url, request);
        asked.push({ url, request });
        const answer = answers.shift() ?? new Error("asked too often");
        return answer instanceof Error ? Promise.reject(answer) : Promise.resolve({ status: answer.status, body: new Response(answer.body).body });
      },
    };
    return { it: { ...it, ports }, asked, waits };
  };
  const TOKEN: Answer = { status: 200, body: '{"access_token":"azure"}' };
  const run = async (it: World): Promise<unknown> => runImportKey({ config: "app.yaml", kh: "key", azureIdentity: true }, it.ports);

  it("exchanges the service account's token, at the authority of the environment", async () => {
    const { it, asked } = azureWorld(ENVIRONMENT, [TOKEN]);
    await run(it);
    expect(asked[0]?.url).toBe("https://login.test/tenant/oauth2/v2.0/token");
    expect(Object.fromEntries(new URLSearchParams(asked[0]?.request.body))).toEqual({
      client_id: "client",
      scope: "https://vault.azure.net/.default",
      grant_type: "client_credentials",
      client_assertion_type: "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
      client_assertion: "assertion",
    });
    expect([it.requests[0]?.request.headers["authorization"], it.tokens]).toEqual(["Bearer azure", []]);
  });

  it("asks the metadata service otherwise, with the identity of the configuration, and again while it is not ready", async () => {
    const config = JSON.stringify({
      key: { kid: "k", authority: { endpoint: "m.example" }, akv: { endpoint: "x.managedhsm.azure.net", bearer_token: "stale" } },
      identity: { client_id: "uami" },
      claims: [
        [
          { claim: "x-ms-sevsnpvm-hostdata", equals: "aa" },
          { claim: "x-ms-sevsnpvm-launchmeasurement", equals: "bb" },
          { claim: "x-ms-sevsnpvm-is-debuggable", equals: "false" },
        ],
      ],
    });
    const { it, asked, waits } = azureWorld({}, [{ status: 429, body: "" }, new Error("timeout"), TOKEN], config);
    await run(it);
    expect(asked.map(({ url }) => url)).toEqual(
      Array(3).fill("http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fmanagedhsm.azure.net&client_id=uami"),
    );
    expect(asked[0]?.request.headers).toEqual({ metadata: "true" });
    expect([waits, it.requests[0]?.request.headers["authorization"]]).toEqual([[1000, 2000], "Bearer azure"]);
  });

  for (const [name, env, answers, message] of [
    [
      "an authority without TLS",
      { ...ENVIRONMENT, AZURE_AUTHORITY_HOST: "http://login.test" },
      [],
      /^AZURE_AUTHORITY_HOST "http:\/\/login\.test" is no https URL$/,
    ],
    [
      "an identity without a credential",
      ENVIRONMENT,
      [{ status: 401, body: '{"error":"invalid_client","error_description":"AADSTS70021: none\\r\\nTrace"}' }],
      /^login\.test gave no token: 401 AADSTS70021: none Trace$/,
    ],
    ["no metadata service", {}, [new Error("refused"), new Error("refused"), new Error("refused")], /^169\.254\.169\.254: no answer: refused$/],
    [
      "half an environment",
      { AZURE_CLIENT_ID: "c" },
      [{ status: 400, body: "{}" }],
      /^169\.254\.169\.254 gave no token: 400; workload identity was not tried, because AZURE_TENANT_ID and AZURE_FEDERATED_TOKEN_FILE are not set$/,
    ],
  ] as const) {
    it(`says what is the matter with ${name}, and not the assertion`, async () => {
      const { it } = azureWorld(env, answers);
      const error = await failureOf({ config: "app.yaml", kh: "key", azureIdentity: true }, it);
      expect(error.code).toBe("ERR_IMPORTKEY_TOKEN");
      expect(error.message).toMatch(message);
      expect(JSON.stringify([error.message, error.hint, error.details])).not.toContain("assertion\\n");
      expect([it.requests, it.lookups]).toEqual([[], []]);
    });
  }
});

describe("what to do about refusals", () => {
  for (const [inner, message, hint] of [
    ["AKV.SKR.1004", "Exportable keys must have release policy.", /base64url/],
    ["", "AKV.SKR.1001: The exportable attribute is only supported with premium vaults", /--sku premium/],
    ["AKV.SKR.1020", "Immutable Key Release Policy cannot be modified.", /another name/],
    ["", "JSON Web Key: k property of oct key is too large, maximum size is 64", /at most 64 bytes/],
  ] as const) {
    it(`knows ${inner === "" ? message.slice(0, 40) : inner}`, async () => {
      const it = world({ "app.yaml": APP, key: KEY }, () => ({
        status: 400,
        body: JSON.stringify({ error: { code: "BadParameter", message, innererror: { code: inner } } }),
      }));
      const error = await failureOf({ config: "app.yaml", kh: "key" }, it);
      expect(error.code).toBe("ERR_IMPORTKEY_VAULT");
      expect(error.hint).toMatch(hint);
    });
  }
});
