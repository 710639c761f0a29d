import { parseManifest, podAnnotationOf } from "@sealpod/kube";
import { describe, expect, it } from "vitest";
import { type GenpolicyError, type GenpolicyOptions, type GenpolicyPorts, runGenpolicy } from "./index.ts";
import { DIFF_IDS, memoryImages, ROOT_HASHES, RULES, SETTINGS } from "./test-support.ts";

const POD = "# mine\napiVersion: v1\nkind: Pod\nmetadata:\n  name: web # name\nspec:\n  containers:\n  - name: app\n    image: app:1\n";
const KEY = "io.katacontainers.config.agent.policy";

interface World {
  readonly files: Map<string, string>;
  readonly writes: string[];
  readonly stdout: string[];
  readonly stderr: string[];
  readonly ports: GenpolicyPorts;
}

function world(files: Readonly<Record<string, string>> = {}, stdin = ""): World {
  const map = new Map(Object.entries(files));
  const writes: string[] = [];
  const stdout: string[] = [];
  const stderr: string[] = [];
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
    readDefault: (name) => Promise.resolve(bytes(name === "rules.rego" ? RULES : SETTINGS)),
    openLayout: (directory) =>
      directory === "images"
        ? Promise.resolve(memoryImages({ "app:1": {} }))
        : directory === "empty"
          ? Promise.resolve(memoryImages({}))
          : Promise.reject(new Error("no layout")),
    version: "9.9.9",
  };
  return { files: map, writes, stdout, stderr, ports };
}

const BASE: GenpolicyOptions = { ociLayout: ["images"] };

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

  // specs/genpolicy.md 1.1: input, flags, what goes to standard output.
  for (const [yamlFile, rawOut, base64Out, expected] of [
    [true, false, false, ""],
    [true, false, true, "base64"],
    [true, true, false, "raw"],
    [true, true, true, "raw base64"],
    [false, false, false, "yaml"],
    [false, false, true, "base64"],
    [false, true, false, "raw"],
    [false, true, true, "raw base64"],
  ] as const) {
    it(`prints ${expected === "" ? "nothing" : expected} for ${yamlFile ? "-y" : "stdin"}${rawOut ? " -r" : ""}${base64Out ? " -b" : ""}`, async () => {
      const it = world({ "pod.yaml": POD }, POD);
      const [policy] = await runGenpolicy({ ...BASE, ...(yamlFile ? { yamlFile: "pod.yaml" } : {}), rawOut, base64Out }, it.ports);
      const texts: Readonly<Record<string, string | undefined>> = { raw: policy?.policy, base64: policy?.annotation };
      if (expected === "yaml") expect(policyIn(it.stdout.join(""))).toBe(policy?.policy);
      else
        expect(it.stdout.join("")).toBe(
          expected
            .split(" ")
            .map((name) => texts[name] ?? "")
            .join(""),
        );
      expect(it.writes).toEqual(yamlFile ? ["pod.yaml"] : []);
    });
  }

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
    expect(await rulesOf({})).toBe(RULES);
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
    const [policy] = await runGenpolicy({ ...BASE, jsonSettingsPath: "s" }, world(files, POD).ports);
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
    const it = world({ "layers.json": JSON.stringify([{ diff_id: DIFF_IDS[0], verity_hash: hash }]) }, POD);
    const [policy] = await runGenpolicy({ ...BASE, layersCacheFilePath: "layers.json" }, it.ports);
    expect(policy?.policy).toContain(hash);
    expect(JSON.parse(it.files.get("layers.json") ?? "")).toEqual([
      { diff_id: DIFF_IDS[0], verity_hash: hash },
      { diff_id: DIFF_IDS[1], verity_hash: ROOT_HASHES[1] },
    ]);
    for (const damaged of ["not json", "{}", '[{"diff_id": 1}]', "[[]]"]) {
      const broken = world({ "./layers-cache.json": damaged }, POD);
      await runGenpolicy({ ...BASE, useCachedFiles: true }, broken.ports);
      expect(broken.stderr).toEqual(["warning: ./layers-cache.json: not a layer cache, it is built anew"]);
      expect((JSON.parse(broken.files.get("./layers-cache.json") ?? "") as unknown[]).length).toBe(2);
    }
    const empty = world({ "c.json": JSON.stringify([{ diff_id: DIFF_IDS[0], verity_hash: "" }]) }, POD);
    expect((await runGenpolicy({ ...BASE, layersCacheFilePath: "c.json" }, empty.ports))[0]?.policy).toContain(ROOT_HASHES[0]);
  });

  it("looks for an image in the layouts in order", async () => {
    expect((await runGenpolicy({ ociLayout: ["empty", "images"] }, world({}, POD).ports)).length).toBe(1);
    expect((await failureOf({ ociLayout: ["empty"] }, world({}, POD))).message).toBe('stdin:9:12: image "app:1": no image app:1');
  });

  it("prints its version without reading anything", async () => {
    const it = world();
    await runGenpolicy({ printVersion: true, yamlFile: "nothing" }, it.ports);
    expect(it.stdout).toEqual(["Sealpod policy tool: id: genpolicy, version: 9.9.9\n"]);
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
    ["-d", { ...BASE, containerdSocketPath: true }, "ERR_GENPOLICY_UNSUPPORTED", "-d: pulling images through containerd is not supported yet"],
    [
      "--insecure-registry",
      { ...BASE, insecureRegistry: ["h"] },
      "ERR_GENPOLICY_UNSUPPORTED",
      "--insecure-registry: pulling images from a registry is not supported yet",
    ],
    ["no layout", {}, "ERR_GENPOLICY_UNSUPPORTED", 'image "sealpod.internal/pause:1": pulling images from a registry is not supported yet'],
    [
      "a directory that is no layout",
      { ociLayout: ["gone"] },
      "ERR_GENPOLICY_IMAGE",
      'cluster_config.pause_container_image: image "sealpod.internal/pause:1": image layout gone: no layout',
    ],
    ["--profile coco", { ...BASE, profile: "coco" }, "ERR_GENPOLICY_UNSUPPORTED", "--profile coco is not supported yet"],
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
