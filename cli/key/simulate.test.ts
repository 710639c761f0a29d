import { createHash } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { base64url, key, NOW, Status, tokenOf } from "./key-test-support.ts";

const TEXT = "package agent_policy\npolicy_data := {}";
const HOST_DATA = createHash("sha256").update(TEXT).digest("hex");
const OLD_HOST_DATA = "ab".repeat(32);
const yaml = (text: string, maa = "maa.test"): string => `apiVersion: v1
kind: Pod
metadata:
  name: web
  annotations: {io.katacontainers.config.agent.policy: ${Buffer.from(text).toString("base64")}}
spec:
  containers: [{name: a, image: b, env: [{name: SkrClientMAAEndpoint, value: ${maa}}, {name: SkrClientKID, value: k}]}]
`;
const claims = (hostData: string, status = "sealpod-compliant-uvm"): object[] => [
  { claim: "x-ms-sevsnpvm-hostdata", equals: hostData },
  { claim: "x-ms-compliance-status", equals: status },
  { claim: "x-ms-sevsnpvm-is-debuggable", equals: "false" },
];
const policy = (...anyOf: object[]): string => JSON.stringify({ version: "1.0.0", anyOf });
const branch = (allOf: object[], authority = "https://maa.test"): object => ({ authority, allOf });

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "sealpod-simulate-"));
  for (const [name, content] of Object.entries({
    "app.yaml": yaml(TEXT),
    "my app.yaml": yaml(TEXT),
    "azure.yaml": yaml(TEXT, "x.eus.attest.azure.net"),
    "two.yaml": `${yaml(TEXT)}---\n${yaml("package other").replace("name: web", "name: db")}`,
    "plain.yaml": "apiVersion: v1\nkind: Pod\nspec: {containers: []}\n",
    "good.json": policy(branch(claims(HOST_DATA))),
    "old.json": policy(branch(claims(OLD_HOST_DATA))),
    "other.json": policy(branch(claims(HOST_DATA, "azure-compliant-uvm"), "https://other.test"), branch(claims(HOST_DATA, "azure-compliant-uvm"))),
    "nested.json": policy({ authority: "https://maa.test", anyOf: [{ claim: "x-ms-sevsnpvm-vmpl", equals: "1" }, { allOf: claims(HOST_DATA) }] }),
    "measured.json": policy(branch([...claims(HOST_DATA), { claim: "x-ms-sevsnpvm-launchmeasurement", equals: "cc" }])),
    "comma.json": policy(branch(claims(HOST_DATA))).replace('"false"}]', '"false"},\n]'),
    "weak.json": policy(branch(claims(HOST_DATA).slice(2))),
    "claims.json": JSON.stringify({
      "x-ms-sevsnpvm-hostdata": HOST_DATA,
      "x-ms-compliance-status": "sealpod-compliant-uvm",
      "x-ms-sevsnpvm-is-debuggable": false,
      "x-ms-runtime": {},
    }),
    "import.json": JSON.stringify({ key: { kid: "k", authority: { endpoint: "maa.test" }, akv: { endpoint: "v.test" } }, claims: [claims(HOST_DATA)] }),
  }))
    await writeFile(join(directory, name), content);
});
afterAll(async () => rm(directory, { recursive: true }));

const run = async (...argv: readonly string[]): ReturnType<typeof key> => key(argv, { cwd: directory });
const simulate = async (...argv: readonly string[]): ReturnType<typeof key> => run("simulate", ...argv);

describe("key simulate", () => {
  it("says of each condition what is expected and found, and where that is from", async () => {
    const ran = await simulate("--policy", "good.json", "-y", "app.yaml");
    expect(ran.error).toBeUndefined();
    expect([ran.exit, ran.sent]).toEqual([0, []]);
    expect(ran.stdout).toBe(`policy:  good.json
pod:     app.yaml:1:1: the Pod web; HOST_DATA ${HOST_DATA} by its policy
assumed: x-ms-attestation-type = "sevsnpvm" (--claim)
         x-ms-compliance-status = "sealpod-compliant-uvm" (--compliance-status)
         x-ms-sevsnpvm-is-debuggable = false (--debuggable)
         no x-ms-sevsnpvm-launchmeasurement (--launch-measurement; sealpod attest measure computes it)
note:    the policy is that of the annotation; after an edit run genpolicy first: sealpod genpolicy -y app.yaml

$.anyOf[0]: tokens of https://maa.test: holds
  ok     x-ms-sevsnpvm-hostdata: expected "${HOST_DATA}", found "${HOST_DATA}" (measured)
  ok     x-ms-compliance-status: expected "sealpod-compliant-uvm", found "sealpod-compliant-uvm" (assumed)
  ok     x-ms-sevsnpvm-is-debuggable: expected "false", found false (assumed)

the key would be RELEASED
`);
  });

  it("says that a YAML was edited after genpolicy: it takes the annotation's policy, and makes none", async () => {
    const made = 'package agent_policy\npolicy_data := {"containers": [{"OCI": {"Process": {"Args": ["node", "/app/web.mjs"], "Env": ["A=v \\"1\\""]}}}]}';
    const pod = yaml(made)
      .replace("image: b", `image: b, command: [node], args: [ARG, $(A)]`)
      .replace("{name: SkrClientKID, value: k}", "{name: A, value: VALUE}");
    const write = async (name: string, arg: string, value: string): Promise<void> =>
      writeFile(join(directory, name), pod.replace("ARG", arg).replace("VALUE", value).replace("value: maa.test", "value: $(MAA)"));
    await write("fresh.yaml", "/app/web.mjs", `'v "1"'`);
    await write("edited.yaml", "/app/other.mjs", "w");
    const flags = ["-c", "fresh.yaml", "--maa-endpoint", "maa.test"];
    const fresh = await simulate(...flags);
    expect([fresh.exit, fresh.stdout.includes("edited since")]).toEqual([0, false]);
    expect(fresh.stdout).toMatch(/\nthe key would be RELEASED\n$/);
    const edited = await simulate(...flags, "-y", "edited.yaml");
    expect(edited.exit).toBe(0);
    expect(edited.stdout).toContain(
      'note:    edited.yaml seems to be edited since: "/app/other.mjs", "A=w" are nowhere in that policy, and the guest would refuse to run it\n',
    );
    expect(edited.stdout).toMatch(/\nthe key would be RELEASED to a pod with the annotation's policy, which is not that of the YAML: see the note\n$/);
    const json = JSON.parse((await simulate(...flags, "-y", "edited.yaml", "--json")).stdout) as { annotation: object };
    expect(json.annotation).toEqual({ regenerated: false, notInPolicy: ["/app/other.mjs", "A=w"] });
  });

  it("says which condition fails, the smallest change, and what to type", async () => {
    const ran = await simulate("--policy", "old.json", "-y", "my app.yaml");
    expect(ran.exit).toBe(3);
    expect(ran.stdout).toContain(`  FAILED x-ms-sevsnpvm-hostdata: expected "${OLD_HOST_DATA}", found "${HOST_DATA}" (measured)\n`);
    expect(ran.stdout.slice(ran.stdout.indexOf("\nthe key"))).toBe(`
the key would be REFUSED: no branch of the release policy holds

the smallest change to the release policy:
  $.anyOf[0].allOf[0]: x-ms-sevsnpvm-hostdata = "${HOST_DATA}" instead of "${OLD_HOST_DATA}"
  to do: regenerate the release policy with hostdata ${HOST_DATA}: the policy of the pod is not the one that the key was bound to
  to do: sealpod importkey -c 'my app.yaml' -kh KEY          # a new version of the key
the smallest change to the pod or its platform:
  x-ms-sevsnpvm-hostdata: "${OLD_HOST_DATA}" instead of "${HOST_DATA}"
`);
  });

  it("leaves branches of other authorities aside, and changes one that applies", async () => {
    const ran = await simulate("--policy", "other.json", "-y", "app.yaml");
    expect(ran.exit).toBe(3);
    expect(ran.stdout).toContain(
      "$.anyOf[0]: tokens of https://other.test: does not apply, the token is of https://maa.test\n$.anyOf[1]: tokens of https://maa.test: does NOT hold\n",
    );
    expect(ran.stdout).toContain('  $.anyOf[1].allOf[1]: x-ms-compliance-status = "sealpod-compliant-uvm" instead of "azure-compliant-uvm"\n');
    const fine = await simulate("--policy", "other.json", "-y", "app.yaml", "--compliance-status", "azure-compliant-uvm", "--authority", "https://other.test/");
    expect(fine.exit).toBe(0);
    expect(fine.stdout).toContain("$.anyOf[0]: tokens of https://other.test: holds\n");
    expect(fine.stdout).toContain('found "azure-compliant-uvm" (given)');
    expect(fine.stdout).not.toContain("(--compliance-status)");
  });

  it("shows alternatives as they are nested", async () => {
    const ran = await simulate("--policy", "nested.json", "-y", "app.yaml", "--claim", "x-ms-sevsnpvm-vmpl=0");
    expect(ran.exit).toBe(0);
    expect(ran.stdout).toContain(`$.anyOf[0]: tokens of https://maa.test: holds
  any of:
    FAILED x-ms-sevsnpvm-vmpl: expected "1", found 0 (given)
    all of:
      ok     x-ms-sevsnpvm-hostdata: `);
    expect((await simulate("--policy", "nested.json", "-y", "app.yaml", "--debuggable", "--claim", "x-ms-sevsnpvm-vmpl=1")).exit).toBe(0);
    expect((await simulate("--policy", "nested.json", "-y", "app.yaml", "--debuggable")).exit).toBe(3);
  });

  it("takes the measurement of the utility VM as it is given", async () => {
    expect((await simulate("--policy", "measured.json", "-y", "app.yaml")).stdout).toContain(
      '  FAILED x-ms-sevsnpvm-launchmeasurement: expected "cc", found nothing\n',
    );
    expect((await simulate("--policy", "measured.json", "-y", "app.yaml", "--launch-measurement", "cc")).exit).toBe(0);
  });

  it("assumes Microsoft's guest for Microsoft's service", async () => {
    const ran = await simulate("--policy", "good.json", "-y", "azure.yaml", "--json");
    const { authority, assumed, released } = JSON.parse(ran.stdout) as { authority: string; assumed: string[]; released: boolean };
    expect([authority, released]).toEqual(["https://x.eus.attest.azure.net", false]);
    expect(assumed).toContain('x-ms-compliance-status = "azure-compliant-uvm" (--compliance-status)');
  });

  it("takes tokens and claims, and says that nobody has verified them", async () => {
    const token = tokenOf({
      iss: "https://maa.test/",
      exp: NOW / 1000 - 1,
      "x-ms-sevsnpvm-hostdata": HOST_DATA,
      "x-ms-compliance-status": "sealpod-compliant-uvm",
      "x-ms-sevsnpvm-is-debuggable": false,
      "x-sealpod-root": "emulator",
    });
    const ran = await key(["simulate", "--policy", "good.json", "--token", "-"], { cwd: directory, stdin: token });
    expect(ran.exit).toBe(0);
    expect(ran.stdout).toContain("pod:     token of https://maa.test/ (NOT VERIFIED: its signature is the vault's to check)\n");
    expect(ran.stdout).toContain("note:    the token expired at 2026-01-01T23:59:59Z: a vault refuses it whatever the policy\n");
    expect(ran.stdout).toContain("note:    there is no x-ms-runtime with a key to wrap for");
    expect(ran.stdout).toContain("note:    the evidence rests on emulator, not on AMD");
    const claimed = await simulate("--policy", "good.json", "--claims", "claims.json");
    expect(claimed.exit).toBe(0);
    expect(claimed.stdout).toContain("pod:     claims of claims.json\nassumed: a token of https://maa.test (--authority)\n\n");
  });

  it("takes the policy of a vault's key: its version, its state, its commands", async () => {
    const bundle = (attributes: object): object => ({ attributes, release_policy: { data: base64url(policy(branch(claims(OLD_HOST_DATA)))) } });
    const ran = await key(["simulate", "k", "-y", "app.yaml"], { cwd: directory, reply: () => bundle({ enabled: true, exportable: true }) });
    expect([ran.exit, ran.sent]).toEqual([3, [{ method: "GET", path: "/keys/k", body: undefined }]]);
    expect(ran.stdout).toContain("policy:  of key k at https://demo.vault.test:8443\n");
    expect(ran.stdout).toContain(
      "  to do: sealpod key policy from-pod app.yaml > policy.json && sealpod key set-attributes k --policy policy.json          # the same key\n",
    );
    const good = { release_policy: { data: base64url(policy(branch(claims(HOST_DATA)))) } };
    const off = await key(["simulate", "k", "-y", "app.yaml"], {
      cwd: directory,
      reply: () => ({ ...good, attributes: { enabled: false, exportable: true } }),
    });
    expect([off.exit, off.stdout.slice(off.stdout.indexOf("the key would"))]).toEqual([3, "the key would be REFUSED: the key is disabled\n"]);
    const none = await key(["simulate", "k", "-y", "app.yaml"], { cwd: directory, reply: () => ({ attributes: {} }) });
    expect(none.error).toMatchObject({
      code: "ERR_CLI_VAULT_REFUSED",
      message: "key k of https://demo.vault.test:8443 has no release policy: it is released to nobody",
    });
    const gone = await key(["simulate", "k", "-y", "app.yaml"], { cwd: directory, reply: () => new Status(404) });
    expect(gone.error?.code).toBe("ERR_CLI_VAULT_NOT_FOUND");
  });

  it("takes what importkey would write, for its own pod or another", async () => {
    const own = await simulate("-c", "app.yaml");
    expect(own.exit).toBe(0);
    expect(own.stdout).toContain("policy:  what `sealpod importkey -c app.yaml` would write for app.yaml:1:1: the Pod web\n");
    expect((await simulate("-c", "two.yaml", "--pod", "db")).exit).toBe(0);
    expect((await simulate("-c", "import.json", "-y", "two.yaml", "--pod", "web")).exit).toBe(0);
    expect((await simulate("-c", "import.json", "-y", "two.yaml", "--pod", "db")).exit).toBe(3);
    expect((await simulate("-c", "import.json")).error?.message).toBe("no pod is given");
  });

  it("gives programs all of it", async () => {
    const { stdout, exit } = await simulate("--policy", "old.json", "-y", "app.yaml", "--json");
    const json = JSON.parse(stdout) as Record<string, unknown>;
    expect(exit).toBe(3);
    expect(json).toMatchObject({
      released: false,
      authority: "https://maa.test",
      claims: { "x-ms-sevsnpvm-hostdata": HOST_DATA },
      branches: [
        {
          path: "$.anyOf[0]",
          applies: true,
          holds: false,
          findings: [{ claim: "x-ms-sevsnpvm-hostdata", expected: `"${OLD_HOST_DATA}"`, found: `"${HOST_DATA}"`, matched: false, source: "measured" }, {}, {}],
        },
      ],
      change: {
        toPolicy: {
          edits: [{ kind: "equals", path: "$.anyOf[0].allOf[0]", claim: "x-ms-sevsnpvm-hostdata", from: OLD_HOST_DATA, to: HOST_DATA }],
          policy: policy(branch(claims(HOST_DATA))),
          weaknesses: [],
        },
        toClaims: { exact: true },
      },
    });
  });

  it("warns of a change after which others get the key", async () => {
    const lacking = join(directory, "lacking.json");
    await writeFile(lacking, JSON.stringify({ iss: "https://maa.test", "x-ms-sevsnpvm-is-debuggable": false, "x-ms-runtime": {} }));
    const ran = await simulate("--policy", "good.json", "--claims", "lacking.json");
    expect(ran.stdout).toMatch(/no condition on x-ms-sevsnpvm-hostdata.*\n(.*\n)*? {2}beware: with that others than your pods get the key\. At \$\.anyOf\[0\]/);
  });

  it.each([
    [["-y", "app.yaml"], "ERR_CLI_USAGE", "no release policy is given"],
    [["k", "--policy", "good.json", "-y", "app.yaml"], "ERR_CLI_USAGE", "KEY, --policy and -c are several release policies"],
    [["--policy", "good.json"], "ERR_CLI_USAGE", "no pod is given"],
    [["--policy", "good.json", "-y", "app.yaml", "--claims", "claims.json"], "ERR_CLI_USAGE", "-y, --token and --claims are several pods"],
    [
      ["--policy", "other.json", "--claims", "claims.json"],
      "ERR_CLI_USAGE",
      "the policy has several authorities, and nothing says whose token the pod would have",
    ],
    [["--policy", "good.json", "-y", "app.yaml", "--claim", "x"], "ERR_CLI_USAGE", "--claim x is not NAME=VALUE"],
    [["--policy", "good.json", "-y", "plain.yaml"], "ERR_IMPORTKEY_POLICY", "plain.yaml:1:1: the Pod has no annotation io.katacontainers.config.agent.policy"],
    [["--policy", "good.json", "-y", "gone.yaml"], "ERR_CLI_FILE", "gone.yaml does not exist"],
    [["--policy", "claims.json", "-y", "app.yaml"], "ERR_RELEASE_POLICY", /not valid at \$/],
    [["--policy", "good.json", "--token", "app.yaml"], "ERR_CLI_FILE", "app.yaml holds no attestation token"],
  ])("refuses %j", async (argv, code, message) => {
    const { error, stdout, sent } = await simulate(...argv);
    expect([error?.code, stdout, sent]).toEqual([code, "", []]);
    if (typeof message === "string") expect(error?.message).toBe(message);
    else expect(error?.message).toMatch(message);
  });
});

describe("key policy", () => {
  it("from-pod prints what importkey would write", async () => {
    expect((await run("policy", "from-pod", "app.yaml")).stdout).toBe(`${policy(branch(claims(HOST_DATA)))}\n`);
    const azure = await run(
      "policy",
      "from-pod",
      "two.yaml",
      "--pod",
      "Pod/web",
      "--maa-endpoint",
      "m.test",
      "--compliance-status",
      "azure-compliant-uvm",
      "--json",
    );
    expect(JSON.parse(azure.stdout)).toEqual(JSON.parse(policy(branch(claims(HOST_DATA, "azure-compliant-uvm"), "https://m.test"))));
    expect((await run("policy", "from-pod", "plain.yaml")).error?.code).toBe("ERR_IMPORTKEY_POLICY");
  });

  it("check knows the grammar, odd commas, and who else gets the key", async () => {
    const good = await run("policy", "check", "good.json");
    expect([good.exit, good.stdout, good.stderr]).toEqual([0, "good.json is a release policy with 1 branch\n", ""]);
    const comma = await run("policy", "check", "comma.json", "--print");
    expect([comma.exit, comma.stdout]).toEqual([0, `${policy(branch(claims(HOST_DATA)))}\n`]);
    expect(comma.stderr).toMatch(/^warning: comma\.json:1:\d+: a comma before a closing bracket: Azure takes it, strict JSON does not\n$/);
    const weak = await run("policy", "check", "weak.json");
    expect([weak.exit, weak.stdout]).toEqual([1, "weak.json is a release policy with 1 branch, and others than your pods satisfy it\n"]);
    expect(weak.stderr).toMatch(/^weak: At \$\.anyOf\[0\]\.allOf any pod can satisfy it/);
    const json = JSON.parse((await run("policy", "check", "weak.json", "--json")).stdout) as { strong: boolean; weaknesses: { path: string; kind: string }[] };
    expect([json.strong, json.weaknesses.map(({ kind }) => kind)]).toEqual([false, ["any-pod", "any-guest"]]);
    expect((await run("policy", "check", "claims.json")).error).toMatchObject({ code: "ERR_RELEASE_POLICY" });
  });
});
