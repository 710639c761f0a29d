import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { DEFAULT_MANIFEST_LIMITS, formatProblem, KubeError, parseManifest, readManifest, setAnnotations } from "./index.ts";

const KEY = "io.katacontainers.config.agent.policy";

/** Text with most features of the format in it, for mutation. */
const SEED = `# comment
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web, labels: &labels {app: web}}
spec:
  serviceName: "web"
  selector: {matchLabels: *labels}
  volumeClaimTemplates: [{metadata: {name: data}, spec: {volumeMode: Filesystem}}]
  template:
    metadata:
      labels: *labels
      annotations:
        text: |
          one
          two
    spec:
      containers:
      - name: a
        image: 'b'
        env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, {name: B, value: "\\u0041"}]
        volumeMounts: [{name: data, mountPath: /d, subPath: x}, {name: p, mountPath: /p}]
        livenessProbe: {exec: {command: [a, b]}}
        securityContext: {runAsUser: 1000, capabilities: {drop: [ALL]}}
      volumes:
      - name: p
        projected: {defaultMode: 0440, sources: [{serviceAccountToken: {path: t}}]}
---
{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"}}]}
---
apiVersion: v1
kind: Secret
data: {k: c2VjcmV0}
`;

/** What mutations put in: what YAML, the readers and JavaScript give a meaning of their own. */
const PIECES = [
  "",
  " ",
  "\n",
  "\t",
  "- ",
  ": ",
  "{",
  "}",
  "[",
  "]",
  "&a ",
  "*a",
  "*labels",
  "<<: ",
  "|",
  ">-",
  "'",
  '"',
  "#",
  "---\n",
  "...\n",
  "%YAML 1.2\n",
  "!!str ",
  "? ",
  "~",
  "null",
  "-1",
  "1e999",
  "0x1",
  "0777",
  "__proto__",
  "constructor",
  "\0",
  "\uFEFF",
  "\uD800",
  "\r\n",
  "\r",
  "\u2028",
  "\\\n\n",
  "\n---\n\uFEFF",
  "\nitems: []\n",
  "spec",
  "containers",
  "name",
  "image",
  "kind: List\nitems:\n",
];

/** Runs every reader; all that may come out is a KubeError with its problems in order. */
function readAll(text: string): void {
  for (const silent of [false, true]) {
    try {
      const { manifest, resources } = readManifest({ name: "f", text }, { silent });
      const workloads = resources.filter((resource) => resource.kind === "workload");
      setAnnotations(manifest, new Map(workloads.map(({ object }) => [object, "value"])), KEY);
    } catch (error) {
      if (!(error instanceof KubeError)) throw error;
      expect(error.problems.length).toBeGreaterThan(0);
      for (const problem of error.problems) expect(formatProblem(problem)).toMatch(/^f:[1-9]\d*:[1-9]\d*: /);
    }
  }
}

describe("hostile text", () => {
  it("is read, or refused with a KubeError, however it was changed (property)", { timeout: 60_000 }, () => {
    const edit = fc.record({ at: fc.nat(SEED.length), length: fc.nat(12), piece: fc.oneof(fc.constantFrom(...PIECES), fc.string({ maxLength: 6 })) });
    fc.assert(
      fc.property(fc.array(edit, { minLength: 1, maxLength: 5 }), (edits) => {
        let text = SEED;
        for (const { at, length, piece } of edits) text = text.slice(0, at) + piece + text.slice(at + length);
        readAll(text);
      }),
      { numRuns: 500 },
    );
  });

  it("is refused where values have other types than they should (property)", { timeout: 60_000 }, () => {
    const lines = SEED.split("\n");
    const value = fc.constantFrom(
      "[]",
      "{}",
      "[[]]",
      "{a: b}",
      "~",
      "-1",
      "99999999999999999999",
      "1.5",
      "true",
      "''",
      "*labels",
      "[~]",
      "[{}]",
      "{containers: {}}",
    );
    fc.assert(
      fc.property(fc.nat(lines.length - 1), value, (at, replacement) => {
        readAll(lines.map((line, index) => (index === at ? line.replace(/: ?.*$/, `: ${replacement}`) : line)).join("\n"));
      }),
      { numRuns: 300 },
    );
  });

  it("cannot make objects with keys of JavaScript's own", () => {
    const text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {annotations: {__proto__: a, constructor: b}}\ndata: {__proto__: x, toString: z}\n";
    const { resources } = readManifest({ name: "f", text });
    const map = resources[0];
    if (map?.kind !== "config-map") throw new Error("no ConfigMap");
    expect([...map.data]).toEqual([
      ["__proto__", "x"],
      ["toString", "z"],
    ]);
    expect([...map.metadata.annotations.keys()]).toEqual(["__proto__", "constructor"]);
  });

  it("has kinds that are names of JavaScript's own", () => {
    for (const kind of ["__proto__", "constructor", "toString", "hasOwnProperty"]) {
      const { resources, warnings } = readManifest({ name: "f", text: `apiVersion: v1\nkind: ${kind}\nspec: {}\n` });
      expect([resources.map((resource) => resource.kind), warnings.length]).toEqual([["pass-through"], 1]);
    }
  });

  // 130,000 is more than what a call can take as arguments, should a list ever be spread into one.
  it("is refused by limits where it is wide, not by the stack", { timeout: 60_000 }, () => {
    const wide = `apiVersion: x/v1\nkind: X\nspec: [${"1,".repeat(130_000)}]\n`;
    expect(readManifest({ name: "f", text: wide }).resources.length).toBe(1);
    expect(() => parseManifest({ name: "f", text: "k: 1\n".repeat(130_000) })).toThrow('duplicate key "k"');
    const limits = { ...DEFAULT_MANIFEST_LIMITS, maxNodes: 1000 };
    expect(() => parseManifest({ name: "f", text: `a: [${"{},".repeat(1000)}]` }, limits)).toThrow("more than 1000 nodes after aliases were followed");
  });
});
