import { describe, expect, it } from "vitest";
import { DEFAULT_MANIFEST_LIMITS, KubeError, parseManifest } from "./index.ts";

function problemsOf(text: string): readonly string[] {
  try {
    parseManifest({ name: "f.yaml", text });
  } catch (error) {
    if (error instanceof KubeError) return error.message.split("\n");
    throw error;
  }
  return [];
}

describe("parseManifest", () => {
  it("reads documents in order and skips null ones", () => {
    const manifest = parseManifest({ name: "f", text: "---\napiVersion: v1\nkind: Pod\n---\n~\n---\n# nothing\n---\napiVersion: v1\nkind: Service\n---\n" });
    expect(manifest.objects.map((object) => [object.document, object.path, object.kind])).toEqual([
      [0, "", "Pod"],
      [1, "", "Service"],
    ]);
  });

  it("puts the items of a List in its place, Lists in Lists too", () => {
    const text =
      "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod}\n- apiVersion: v1\n  kind: List\n  items: [{apiVersion: v1, kind: Secret}]\n";
    expect(parseManifest({ name: "f", text }).objects.map((object) => [object.path, object.kind])).toEqual([
      ["items[0]", "Pod"],
      ["items[1].items[0]", "Secret"],
    ]);
  });

  it("takes an empty text for no documents", () => {
    expect(parseManifest({ name: "f", text: "" }).objects).toEqual([]);
    expect(parseManifest({ name: "f", text: "# only a comment\n" }).objects).toEqual([]);
  });

  it("reads files that were put together with their byte order marks", () => {
    const one = "apiVersion: v1\nkind: Secret\n";
    const text = `\uFEFF${one}---\n\uFEFF${one}--- \r\n\uFEFF# note\n${one}...\n${one}---\n\uFEFF---\n${one}---\n\uFEFF`;
    const { objects } = parseManifest({ name: "f", text });
    const places = objects.map(({ manifest, kind, node }) => ({ kind, ...manifest.positionOf(node.start) }));
    expect(places.map(({ kind, line, column }) => [kind, line, column])).toEqual([
      ["Secret", 1, 2],
      ["Secret", 4, 2],
      ["Secret", 8, 1],
      ["Secret", 11, 1],
      ["Secret", 15, 1],
    ]);
    expect(text.slice(objects[1]?.node.start).startsWith("apiVersion")).toBe(true);
    expect(problemsOf(`${one}---\n\uFEFFa: [\n`)[0]).toMatch(/^f\.yaml:5:1: not YAML: /);
  });

  it("says what to do about lines that only libyaml takes", () => {
    const hint = "its lines must be indented more than the line that it starts in";
    expect(problemsOf('a:\n  b: "x\n  y"\n')[0]).toBe(`f.yaml:2:8: not YAML: Missing closing "quote; ${hint}`);
    expect(problemsOf("a: [\nb\n]\n")[0]).toContain(hint);
  });

  // Malformed input: each with the place where it goes wrong.
  for (const [name, text, expected] of [
    ["a scalar document", "just text\n", ["f.yaml:1:1: a Kubernetes object is a mapping with apiVersion and kind, found a scalar"]],
    ["a sequence document", "- a\n", ["f.yaml:1:1: a Kubernetes object is a mapping with apiVersion and kind, found a sequence"]],
    [
      "no kind",
      "apiVersion: v1\n---\nkind: Pod\n",
      ["f.yaml:1:1: no kind: this is not a Kubernetes object", "f.yaml:3:1: no apiVersion: this is not a Kubernetes object"],
    ],
    ["a kind that is no text", "apiVersion: v1\nkind: {}\n", ["f.yaml:2:7: kind must be text"]],
    ["a List without items", "apiVersion: v1\nkind: List\n", ["f.yaml:1:1: a List needs a sequence of items"]],
    [
      "a bad item",
      "apiVersion: v1\nkind: List\nitems:\n- text\n",
      ["f.yaml:4:3: items[0]: a Kubernetes object is a mapping with apiVersion and kind, found a scalar"],
    ],
    ["duplicate keys", 'a: 1\n"a": 2\n', ['f.yaml:2:1: duplicate key "a"']],
    ["a key that is no scalar", "[a]: b\n", ["f.yaml:1:1: a key must be a scalar"]],
    ["a tag", "a: !!binary x\n", ["f.yaml:1:13: tag tag:yaml.org,2002:binary is not supported"]],
    ["an alias without an anchor", "a: *b\n", ["f.yaml:1:4: alias *b has no anchor before it that has ended"]],
    ["an alias inside its own anchor", "a: &a [*a]\n", ["f.yaml:1:8: alias *a has no anchor before it that has ended"]],
    ["an anchor of another document", "apiVersion: &x v1\nkind: Pod\n---\nb: *x\n", ["f.yaml:4:4: alias *x has no anchor before it that has ended"]],
  ] as const) {
    it(`refuses ${name}`, () => expect(problemsOf(text)).toEqual(expected));
  }

  it("refuses text that is not YAML, with every place", () => {
    expect(problemsOf("a: [1,\nb: }\n").every((line) => /^f\.yaml:\d+:\d+: not YAML: /.test(line))).toBe(true);
    expect(problemsOf("a: b\n\tc: d\n").length).toBeGreaterThan(0);
  });

  it("refuses what is over its limits, before it costs time", { timeout: 60_000 }, () => {
    const { maxDepth, maxDocuments, maxAliases } = DEFAULT_MANIFEST_LIMITS;
    for (const open of ["[", "{a: ", "- ", "? "]) expect(problemsOf(open.repeat(20_000))[0]).toMatch(new RegExp(`nested deeper than ${maxDepth}$`));
    expect(problemsOf("---\na: b\n".repeat(maxDocuments + 1))[0]).toContain("documents");
    expect(problemsOf(`a: &a x\nb: [${"*a,".repeat(maxAliases + 1)}]\n`)[0]).toContain("aliases");
    const bomb = ["b", "c", "d", "e", "f", "g", "h"].map((name, index) => `${name}: &${name} [${Array(9).fill(`*${"abcdefg"[index]}`).join(",")}]\n`).join("");
    expect(problemsOf(`a: &a [x]\n${bomb}`)[0]).toContain("nodes after aliases were followed");
    expect(problemsOf("#".repeat(DEFAULT_MANIFEST_LIMITS.maxLength + 1))[0]).toContain("characters");
  });

  it("takes many keys in one mapping without growing by their square", () => {
    const text = (keys: number): string => `apiVersion: v1\nkind: ConfigMap\ndata:\n${Array.from({ length: keys }, (_, index) => `  k${index}: v\n`).join("")}`;
    expect(parseManifest({ name: "f", text: text(30_000) }).objects.length).toBe(1);
  });
});
