import { decodeUtf8 } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { problemsOf, read } from "./test-support.ts";

function first(text: string): ReturnType<typeof read>["resources"][number] {
  const resource = read(text).resources[0];
  if (resource === undefined) throw new Error("no resource");
  return resource;
}

const texts = (map: ReadonlyMap<string, Uint8Array>): readonly (readonly [string, string])[] => [...map].map(([key, value]) => [key, decodeUtf8(value)]);

describe("ConfigMap, Secret and PersistentVolumeClaim", () => {
  it("reads a ConfigMap's text and bytes", () => {
    const map = first(
      "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\nimmutable: true\ndata:\n  a: 1\n  b.txt: |\n    line\nbinaryData:\n  c: |\n    AAEC\n    /w==\n",
    );
    if (map.kind !== "config-map") throw new Error(map.kind);
    expect([[...map.data], [...map.binaryData], map.immutable]).toEqual([
      [
        ["a", "1"],
        ["b.txt", "line\n"],
      ],
      [["c", Uint8Array.of(0, 1, 2, 255)]],
      true,
    ]);
  });

  it("puts stringData over data", () => {
    const secret = first("apiVersion: v1\nkind: Secret\ntype: Opaque\ndata: {a: b2xk, b: Yg==}\nstringData: {a: new, c: 3}\n");
    if (secret.kind !== "secret") throw new Error(secret.kind);
    expect([texts(secret.data), secret.type, secret.immutable]).toEqual([
      [
        ["a", "new"],
        ["b", "b"],
        ["c", "3"],
      ],
      "Opaque",
      false,
    ]);
  });

  it("reads a claim, with what the API server adds", () => {
    const claim = first(
      "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: c}\nspec: {accessModes: [ReadWriteMany], volumeMode: Block, storageClassName: s, selector: {}, volumeName: v, volumeAttributesClassName: a, dataSource: {kind: k, name: n}, dataSourceRef: {apiGroup: g, kind: k, name: n, namespace: x}, resources: {limits: {storage: 2Gi}}}\nstatus: {phase: Bound}\n",
    );
    expect(claim).toMatchObject({
      kind: "persistent-volume-claim",
      metadata: { name: "c" },
      claim: { volumeMode: "Block", storageClassName: "s", accessModes: ["ReadWriteMany"], at: { line: 4, column: 7 } },
    });
    expect(first("apiVersion: v1\nkind: PersistentVolumeClaim\n")).toMatchObject({ claim: { volumeMode: "Filesystem", accessModes: [] } });
  });

  for (const [name, text, expected] of [
    ["a key in both", "ConfigMap\ndata: {a: b}\nbinaryData: {a: Yg==}", 'f.yaml:4:13: binaryData: key "a" is in data as well'],
    ["a key that is no file name", "ConfigMap\ndata: {a/b: c}", "f.yaml:3:8: data.a/b: a key has at most 253 letters, digits, -, _ and ."],
    ["a key that climbs", "Secret\nstringData: {..: c}", "f.yaml:3:14: stringData...: a key has at most 253 letters, digits, -, _ and ."],
    ["bytes that are not base64", "ConfigMap\nbinaryData: {a: 'x!'}", /^f\.yaml:3:17: binaryData\.a: /],
    ["a list for bytes", "Secret\ndata: {a: [b]}", "f.yaml:3:11: data.a: expected base64 text, found a sequence"],
    ["a value of nothing", "ConfigMap\ndata: {a: }", "f.yaml:3:11: data.a: expected text, found nothing"],
    ["merged values", "ConfigMap\nmetadata: {labels: &l {a: b}}\ndata: {<<: *l}", "f.yaml:4:8: YAML merge keys are not supported: write the fields out"],
    ["an unknown field", "Secret\nstringdata: {a: b}", "f.yaml:3:1: stringdata: unsupported field: did you mean stringData?"],
    [
      "a wrong mode of a claim",
      "PersistentVolumeClaim\nspec: {volumeMode: Raw}",
      'f.yaml:3:20: spec.volumeMode: expected "Filesystem" or "Block", found "Raw"',
    ],
  ] as const) {
    it(`refuses ${name}`, () =>
      expect(problemsOf(`apiVersion: v1\nkind: ${text}\n`)).toEqual([typeof expected === "string" ? expected : expect.stringMatching(expected)]));
  }
});
