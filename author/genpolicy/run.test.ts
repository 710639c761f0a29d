import { parseManifest, podAnnotationOf } from "@sealpod/kube";
import { describe, expect, it } from "vitest";
import { encodePrettyJson, type GenpolicyError, type GenpolicyOptions, type GenpolicyPorts, runGenpolicy, slimPolicy } from "./index.ts";
import type { PrintableJson } from "./pretty-json.ts";
import { DIFF_IDS, memoryImages, ROOT_HASHES, RULES, SETTINGS } from "./test-support.ts";

const POD = "# mine\napiVersion: v1\nkind: Pod\nmetadata:\n  name: web # name\nspec:\n  containers:\n  - name: app\n    image: app:1\n";
const KEY = "io.katacontainers.config.agent.policy";

interface World {
  readonly files: Map<string, string>;
  readonly writes: string[];
  readonly stdout: string[];
  readonly stderr: string[];
  /** Sources that were opened. */
  readonly asked: string[];
  readonly ports: GenpolicyPorts;
}

function world(files: Readonly<Record<string, string>> = {}, stdin = ""): World {
  const map = new Map(Object.entries(files));
  const writes: string[] = [];
  const stdout: string[] = [];
  const stderr: string[] = [];
  const asked: string[] = [];
  const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
  const ports: GenpolicyPorts = {
    readFile: (path) => Promise.resolve(map.has(path) ? bytes(map.get(path) ?? "") : undefined),
    listDirectory: (path) => {
      const names = new Set([...map.keys()].filter((file) => file.startsWith(`${path}/`)).map((file) => file.slice(path.length + 1).split("/")[0] ?? ""));
      return Promise.resolve(names.size === 0 ? undefined : [...names]);
    },
    writeFile: (path, content) => {
      writes.push(path);
      map.set(path, new TextDecoder().decode(content));
      return Promise.resolve();
    },
    readStdin: () => Promise.resolve(bytes(stdin)),
    writeStdout: (text) => void stdout.push(text),
    writeStderr: (line) => void stderr.push(line),
    defaultSources: [{ kind: "oci", path: "images" }],
    openSource(spec) {
      asked.push(spec.kind === "registry" ? "registry" : `${spec.kind}:${spec.path}`);
      if (spec.kind === "oci" && spec.path === "gone") return Promise.reject(new Error("no layout"));
      return Promise.resolve(memoryImages(spec.kind === "oci" && spec.path === "empty" ? {} : { "app:1": {} }));
    },
    cacheStore: (path) => ({
      read: () => Promise.resolve(map.has(path) ? bytes(map.get(path) ?? "") : undefined),
      update: (_limit, change) => {
        const changed = change(map.has(path) ? bytes(map.get(path) ?? "") : undefined);
        if (changed !== undefined) map.set(path, new TextDecoder().decode(changed));
        return Promise.resolve();
      },
    }),
    threads: 1,
  };
  return { files: map, writes, stdout, stderr, asked, ports };
}

const BASE: GenpolicyOptions = {};

async function failureOf(options: GenpolicyOptions, { ports }: World): Promise<GenpolicyError> {
  return runGenpolicy(options, ports).then(
    () => Promise.reject(new Error("did not fail")),
    (error: unknown) => error as GenpolicyError,
  );
}

function policyIn(text: string | undefined): string {
  const object = parseManifest({ name: "x", text: text ?? "" }).objects[0];
  return Buffer.from((object === undefined ? undefined : podAnnotationOf(object, KEY)?.value) ?? "", "base64").toString();
}

describe("runGenpolicy", () => {
  it("rewrites the file of -y in place and prints nothing", async () => {
    const it = world({ "pod.yaml": POD });
    const [policy] = await runGenpolicy({ ...BASE, yamlFile: "pod.yaml" }, it.ports);
    expect(policyIn(it.files.get("pod.yaml"))).toBe(policy?.policy);
    expect(
      it.files
        .get("pod.yaml")
        ?.split("\n")
        .filter((line) => !line.includes(KEY) && line !== "  annotations:")
        .join("\n"),
    ).toBe(POD);
    expect([it.stdout, it.stderr]).toEqual([[], []]);
    await runGenpolicy({ ...BASE, yamlFile: "pod.yaml" }, it.ports);
    expect(it.writes, "an unchanged file is not written again").toEqual(["pod.yaml"]);
  });

  // specs/genpolicy.md 1.1 for coco, 1.2 for aks: profile, input, flags, what goes to standard output.
  for (const [profile, yamlFile, flags, expected] of [
    ["coco", true, "", ""],
    ["coco", true, "b", "base64"],
    ["coco", true, "r", "raw"],
    ["coco", true, "rb", "raw base64"],
    ["coco", false, "", "yaml"],
    ["coco", false, "b", "base64"],
    ["coco", false, "r", "raw"],
    ["coco", false, "rb", "raw base64"],
    ["aks", true, "", ""],
    ["aks", true, "b", "base64 newline newline"],
    ["aks", true, "r", "raw"],
    ["aks", true, "rb", "raw base64 newline newline"],
    ["aks", false, "", "yaml"],
    ["aks", false, "b", "base64 newline newline yaml"],
    ["aks", false, "r", "raw yaml"],
    ["aks", false, "rb", "raw base64 newline newline yaml"],
  ] as const) {
    it(`profile ${profile} prints ${expected === "" ? "nothing" : expected} for ${yamlFile ? "-y" : "stdin"}${flags === "" ? "" : ` -${flags}`}`, async () => {
      // The second object has no policy.
      const text = `${POD}---\napiVersion: v1\nkind: Namespace\nmetadata: {name: n}\n`;
      const it = world({ "pod.yaml": text }, text);
      const options = { ...BASE, profile, rawOut: flags.includes("r"), base64Out: flags.includes("b"), ...(yamlFile ? { yamlFile: "pod.yaml" } : {}) };
      const [policy] = await runGenpolicy(options, it.ports);
      const quiet = world({}, text);
      await runGenpolicy({ ...BASE, profile }, quiet.ports);
      const texts: Readonly<Record<string, string>> = {
        raw: policy?.policy ?? "",
        base64: policy?.annotation ?? "",
        newline: "\n",
        yaml: quiet.stdout.join(""),
      };
      expect(texts["yaml"]).toContain(policy?.annotation);
      const parts = expected === "" ? [] : expected.split(" ");
      expect(it.stdout.join("")).toBe(parts.map((name) => texts[name]).join(""));
      expect(it.writes).toEqual(yamlFile ? ["pod.yaml"] : []);
    });
  }

  it("makes our own policy small, and leaves it as it is with --full or somebody's rules", async () => {
    const policyOf = async (options: GenpolicyOptions): Promise<string> =>
      (await runGenpolicy(options, world({ "my.rego": RULES }, POD).ports))[0]?.policy ?? "";
    const full = await policyOf({ full: true });
    expect(full.startsWith(`${RULES}\npolicy_data := {\n  "containers": [`)).toBe(true);
    expect(await policyOf({ regoRulesPath: "my.rego" })).toBe(full);
    const data = JSON.parse(full.slice(full.lastIndexOf("\npolicy_data := ") + 16)) as PrintableJson;
    expect(encodePrettyJson(data)).toBe(full.slice(full.lastIndexOf("\npolicy_data := ") + 16));
    const small = await policyOf({});
    expect(small).toBe(slimPolicy(RULES, data));
    expect(small.length).toBeLessThan(full.length / 2);
  });

  it("takes rules and settings from -i, -p, -j", async () => {
    const rules = "package agent_policy\n# mine\n";
    const settings = SETTINGS.replace("sealpod.internal/pause:1", "app:1");
    const files = {
      "in/rules.rego": rules,
      "in/genpolicy-settings.json": settings,
      "in/other.json": settings,
      "my.rego": "package agent_policy # other\n",
      "my.json": settings,
    };
    const rulesOf = async (options: GenpolicyOptions): Promise<string> => {
      const [policy] = await runGenpolicy({ ...BASE, ...options }, world(files, POD).ports);
      return policy?.policy.split("\npolicy_data := ")[0] ?? "";
    };
    expect(await rulesOf({ inputFilesPath: "in" })).toBe(rules);
    expect(await rulesOf({ inputFilesPath: "in", jsonSettingsPath: "other.json" })).toBe(rules);
    expect(await rulesOf({ regoRulesPath: "my.rego", jsonSettingsPath: "my.json" })).toBe(files["my.rego"]);
    expect(await rulesOf({ inputFilesPath: "in", settingsFileName: "other.json" })).toBe(rules);
    expect(await rulesOf({ full: true })).toBe(RULES);
  });

  it("applies the drop-ins of a settings directory in the order of their names", async () => {
    const patch = (value: string): string => JSON.stringify([{ op: "replace", path: "/cluster_config/pause_container_image", value }]);
    const files = {
      "s/genpolicy-settings.json": SETTINGS,
      "s/genpolicy-settings.d/20-b.json": JSON.stringify([
        { op: "test", path: "/cluster_config/pause_container_image", value: "first" },
        ...(JSON.parse(patch("app:1")) as object[]),
      ]),
      "s/genpolicy-settings.d/10-a.json": patch("first"),
      "s/genpolicy-settings.d/readme.txt": "no patch",
    };
    const [policy] = await runGenpolicy({ ...BASE, jsonSettingsPath: "s", layerFormat: "tarfs" }, world(files, POD).ports);
    expect(policy?.policy).toContain(ROOT_HASHES[1]);
    for (const [text, message] of [
      ["{}", "s/genpolicy-settings.d/10-a.json: is not a JSON Patch"],
      ['[{"op": "test", "path": "/common/cpath", "value": 1}]', "s/genpolicy-settings.d/10-a.json: operation 0 fails: Test failed"],
      ['[{"op": "remove", "path": "/nothing"}]', "s/genpolicy-settings.d/10-a.json: operation 0 fails"],
      ['[{"op": "add", "path": "/__proto__/x", "value": 1}]', 'operation 0 has the path "/__proto__/x"'],
      ['[{"op": "grow", "path": "/x"}]', "operation 0 is not one of RFC 6902"],
      ['[{"op": "add", "path": "x", "value": 1}]', "Invalid JSON Pointer"],
    ] as const) {
      const error = await failureOf({ ...BASE, jsonSettingsPath: "s" }, world({ ...files, "s/genpolicy-settings.d/10-a.json": text }, POD));
      expect([error.code, error.message.includes(message) ? message : error.message]).toEqual(["ERR_GENPOLICY_SETTINGS", message]);
    }
  });

  it("reads ConfigMaps of -c and --config-file", async () => {
    const map = (name: string): string => `apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ${name}}\ndata: {${name}: x}\n`;
    const it = world({ "a.yaml": map("a"), "b.yaml": map("b") }, `${POD}    envFrom: [{configMapRef: {name: a}}, {configMapRef: {name: b}}]\n`);
    const [policy] = await runGenpolicy({ ...BASE, configMapFile: ["a.yaml"], configFile: ["b.yaml"] }, it.ports);
    expect(policy?.policy).toContain('"a=x"');
    expect(policy?.policy).toContain('"b=x"');
  });

  it("keeps a layer cache, and repairs a damaged one", async () => {
    const hash = "ab".repeat(32);
    // Their settings: only then is a row with nothing but a root hash enough.
    const { sealpod: _, ...theirs } = JSON.parse(SETTINGS) as {
      sealpod: unknown;
      common: { image_layer_verification: string };
      request_defaults: { ExecProcessRequest: object };
    };
    theirs.request_defaults.ExecProcessRequest = { commands: [], regex: [] };
    theirs.common.image_layer_verification = "host-tarfs-dm-verity";
    const settings = { "s.json": JSON.stringify(theirs) };
    const options = { ...BASE, jsonSettingsPath: "s.json", full: true };
    const it = world({ ...settings, "layers.json": JSON.stringify([{ diff_id: DIFF_IDS[0], verity_hash: hash }]) }, POD);
    const [policy] = await runGenpolicy({ ...options, layersCacheFilePath: "layers.json" }, it.ports);
    expect(policy?.policy).toContain(hash);
    expect(JSON.parse(it.files.get("layers.json") ?? "")).toMatchObject([
      { diff_id: DIFF_IDS[0], verity_hash: hash },
      { diff_id: DIFF_IDS[1], verity_hash: ROOT_HASHES[1] },
    ]);
    const broken = world({ ...settings, "./layers-cache.json": `[{"diff_id": "${DIFF_IDS[0]}", "verity_ha` }, POD);
    await runGenpolicy({ ...options, useCachedFiles: true }, broken.ports);
    expect(broken.stderr).toEqual(["warning: ./layers-cache.json: the layer cache is damaged, it is built anew"]);
    expect((JSON.parse(broken.files.get("./layers-cache.json") ?? "") as unknown[]).length).toBe(2);
    // Somebody's mistake in naming the file.
    for (const other of ["not json", "{}", "[1]"]) {
      const foreign = world({ ...settings, "other.json": other }, POD);
      await runGenpolicy({ ...options, layersCacheFilePath: "other.json" }, foreign.ports);
      expect(foreign.stderr).toEqual(["warning: other.json: not a layer cache: it is left as it is, and nothing is kept"]);
      expect(foreign.files.get("other.json")).toBe(other);
    }
    const empty = world({ ...settings, "c.json": JSON.stringify([{ diff_id: DIFF_IDS[0], verity_hash: "" }]) }, POD);
    expect((await runGenpolicy({ ...options, layersCacheFilePath: "c.json" }, empty.ports))[0]?.policy).toContain(ROOT_HASHES[0]);
  });

  it("keeps what was read of the layers if the policy fails", async () => {
    const it = world({}, POD.replace("- name: app\n", "- name: app\n    envFrom: [{configMapRef: {name: gone}}]\n"));
    await failureOf({ ...BASE, layersCacheFilePath: "c.json" }, it);
    expect((JSON.parse(it.files.get("c.json") ?? "") as unknown[]).length).toBe(2);
  });

  it.each([
    [{}, ["oci:images"]],
    [{ images: ["oci:empty"], ociLayout: ["images"] }, ["oci:empty", "oci:images"]],
    [{ images: ["oci:empty", "docker-archive:a.tar", "registry"] }, ["oci:empty", "docker-archive:a.tar"]],
    [{ images: ["registry"] }, ["registry"]],
    [{ images: ["containerd"] }, ["containerd:/var/run/containerd/containerd.sock"]],
    [{ containerdSocketPath: true }, ["containerd:/var/run/containerd/containerd.sock"]],
    [{ containerdSocketPath: "/run/c.sock" }, ["containerd:/run/c.sock"]],
  ] satisfies readonly (readonly [GenpolicyOptions, readonly string[]])[])("takes images from the sources of %j, in order", async (options, asked) => {
    const it = world({}, POD);
    expect((await runGenpolicy(options, it.ports)).length).toBe(1);
    expect(it.asked).toEqual(asked);
  });

  it("names every source that does not have an image", async () => {
    expect((await failureOf({ ociLayout: ["empty"] }, world({}, POD))).message).toBe('stdin:9:12: spec.containers[0].image: image "app:1": no image app:1');
    const error = await failureOf({ images: ["oci:empty", "oci:empty"] }, world({}, POD));
    expect(error.message).toBe('stdin:9:12: spec.containers[0].image: image "app:1": oci:empty: no image app:1; oci:empty: no image app:1');
  });

  it("warns, and goes on, with -s", async () => {
    const it = world({ "pod.yaml": `${POD}    whatIsThis: 1\n` });
    expect((await failureOf({ ...BASE, yamlFile: "pod.yaml" }, it)).message).toBe("pod.yaml:10:5: spec.containers[0].whatIsThis: unsupported field");
    await runGenpolicy({ ...BASE, yamlFile: "pod.yaml", silentUnsupportedFields: true }, it.ports);
    expect(it.stderr).toEqual(["warning: pod.yaml:10:5: spec.containers[0].whatIsThis: unsupported field"]);
  });

  for (const [name, options, code, message] of [
    ["a missing YAML file", { ...BASE, yamlFile: "gone.yaml" }, "ERR_GENPOLICY_FILE", "gone.yaml: no such file"],
    ["a missing ConfigMap file", { ...BASE, configFile: ["gone.yaml"] }, "ERR_GENPOLICY_FILE", "gone.yaml: no such file"],
    ["missing rules", { ...BASE, regoRulesPath: "gone.rego" }, "ERR_GENPOLICY_FILE", "gone.rego: no such file"],
    ["a missing settings file", { ...BASE, jsonSettingsPath: "gone.json" }, "ERR_GENPOLICY_FILE", "gone.json: no such file"],
    ["an empty -i", { ...BASE, inputFilesPath: "gone" }, "ERR_GENPOLICY_FILE", "gone/genpolicy-settings.json: no such file"],
    ["-d beside --images", { images: ["registry"], containerdSocketPath: true }, "ERR_GENPOLICY_OPTION", "-d and --images both say where images come from"],
    ["an unknown source", { images: ["ftp:x"] }, "ERR_GENPOLICY_OPTION", '--images "ftp:x" is no source of images'],
    ["a source without a path", { images: ["oci:"] }, "ERR_GENPOLICY_OPTION", '--images "oci:" is no source of images'],
    [
      "a directory that is no layout",
      { ociLayout: ["gone"] },
      "ERR_GENPOLICY_IMAGE",
      'stdin:7:3: spec: cluster_config.pause_container_image: image "sealpod.internal/pause:1": oci:gone: no layout\nstdin:9:12: spec.containers[0].image: image "app:1": oci:gone: no layout',
    ],
    [
      "initdata for a profile without it",
      { ...BASE, initdataPath: "x.toml" },
      "ERR_GENPOLICY_OPTION",
      "--initdata-path: profile aks delivers the policy without initdata",
    ],
    ["a missing initdata template", { ...BASE, profile: "coco", initdataPath: "x.toml" }, "ERR_GENPOLICY_FILE", "x.toml: no such file"],
    ["another profile", { ...BASE, profile: "x" }, "ERR_GENPOLICY_OPTION", '--profile "x": no such profile'],
  ] as const) {
    it(`refuses ${name}, says what to do, and writes nothing`, async () => {
      const it = world({}, POD);
      const error = await failureOf(options, it);
      expect([error.code, error.message]).toEqual([code, message]);
      expect(error.hint).toBeTruthy();
      expect([it.writes, it.stdout]).toEqual([[], []]);
    });
  }

  it.each(["aks", "coco"])("takes the pause image of --pause-image, profile %s", async (profile) => {
    const [policy] = await runGenpolicy({ profile, full: true, pauseImage: "app:1" }, world({}, POD).ports);
    expect(policy?.policy).not.toContain("sealpod.internal/pause");
    const error = await failureOf({ profile, pauseImage: "gone:1" }, world({}, POD));
    expect(error.message).toContain('cluster_config.pause_container_image: image "gone:1"');
    expect(error.hint).toContain("--pause-image");
  });

  it.each(["aks", "coco"])("expects the token of workload identity where --webhook-version puts it, profile %s", async (profile) => {
    const policyOf = async (options: GenpolicyOptions): Promise<string | undefined> =>
      (await runGenpolicy({ profile, full: true, ...options }, world({}, POD).ports))[0]?.policy;
    const plain = await policyOf({});
    expect(await policyOf({ webhookVersion: "1.5" })).toBe(plain);
    const moved = plain
      ?.replaceAll("azure/tokens/azure", "azure/wi/token/azure")
      .replaceAll("azure/tokens", "azure/wi")
      .replaceAll("$(sfprefix)tokens$", "$(sfprefix)wi$");
    expect(await policyOf({ webhookVersion: "1.6" })).toBe(moved);
    expect(moved).not.toBe(plain);
  });

  it("lists every image that is missing", async () => {
    const it = world({ "two.yaml": `${POD}---\n${POD.replace("app:1", "gone:1")}  - {name: b, image: lost:1}\n` });
    expect((await failureOf({ yamlFile: "two.yaml" }, it)).message).toBe(
      'two.yaml:19:12: spec.containers[0].image: image "gone:1": no image gone:1\ntwo.yaml:20:22: spec.containers[1].image: image "lost:1": no image lost:1',
    );
  });

  it("writes nothing if one workload of several fails", async () => {
    const it = world({ "two.yaml": `${POD}---\n${POD.replace("app:1", "gone:1")}` });
    await failureOf({ ...BASE, yamlFile: "two.yaml" }, it);
    expect(it.writes).toEqual([]);
  });

  it("refuses text that is not UTF-8", async () => {
    const it = world();
    const error = await failureOf({ ...BASE, yamlFile: "x" }, { ...it, ports: { ...it.ports, readFile: () => Promise.resolve(Uint8Array.of(0xff)) } });
    expect([error.code, error.message]).toEqual(["ERR_GENPOLICY_FILE", "x is not valid UTF-8"]);
  });
});
