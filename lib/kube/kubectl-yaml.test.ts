import { describe, expect, it } from "vitest";
import { parseManifest } from "./index.ts";
import { kubectlKey, kubectlReading } from "./kubectl-yaml.ts";
import { container, problemsOf, read, warningsOf } from "./test-support.ts";
import type { YamlScalar } from "./yaml-node.ts";

const plain = (text: string): YamlScalar => ({ kind: "scalar", start: 0, end: text.length, style: "plain", taggedText: false, text });
const configMap = (data: string): string => `apiVersion: v1\nkind: ConfigMap\ndata: {${data}}\n`;
const BOTH = [{ silent: false }, { silent: true }];

describe("line breaks of YAML 1.1", () => {
  for (const [name, char, expected] of [
    ["U+0085", "\u0085", "the character U+0085 ends a line for kubectl: write it as \\u0085 in double quotes"],
    ["U+2028", "\u2028", "the character U+2028 ends a line for kubectl: write it as \\u2028 in double quotes"],
    ["U+2029", "\u2029", "the character U+2029 ends a line for kubectl: write it as \\u2029 in double quotes"],
    [
      "a carriage return alone",
      "\r",
      "a carriage return without a line feed ends a line for kubectl: end lines with \\n or \\r\\n, or write it as \\r in double quotes",
    ],
  ] as const) {
    it(`cannot hide lines behind a comment: ${name}`, () => {
      for (const options of BOTH)
        expect(problemsOf(container(`    tty: false # x${char}    command: [evil]\n`), options)).toEqual([`f.yaml:8:19: ${expected}`]);
    });

    it(`are refused in quotes and in block text: ${name}`, () => {
      expect(problemsOf(configMap(`a: "x${char}y"`)).length).toBe(1);
      expect(problemsOf(`apiVersion: v1\nkind: ConfigMap\ndata:\n  a: |\n    x${char}y\n  b: ${char}z\n`).length).toBe(2);
    });
  }

  it("pass as escapes, and with a line feed", () => {
    const resource = read(configMap('a: "\\u0085\\u2028\\P\\r"').replaceAll("\n", "\r\n")).resources[0];
    expect(resource?.kind === "config-map" ? resource.data.get("a") : undefined).toBe("\u0085\u2028\u2029\r");
  });

  it("are reported up to a thousand", () => {
    expect(() => parseManifest({ name: "f", text: "\u2028".repeat(5000) })).toThrow("and 960 more");
  });
});

describe("what kubectl sends in the place of an object", () => {
  for (const [name, text, expected] of [
    [
      "a Service with items",
      "apiVersion: v1\nkind: Service\nitems:\n- {apiVersion: v1, kind: Pod}\n",
      "f.yaml:3:1: items: kubectl would send these items and not the Service: remove items, or write kind: List",
    ],
    [
      "a Pod with no items at all",
      container('"items":\n'),
      "f.yaml:8:1: items: kubectl would send these items and not the Pod: remove items, or write kind: List",
    ],
    [
      "somebody's own kind with items, in a List",
      "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: x.example/v1, kind: X, items: []}\n",
      "f.yaml:4:39: items[0].items: kubectl would send these items and not the X: remove items, or write kind: List",
    ],
    [
      "a merge into an object",
      "x: &b {kind: Pod}\napiVersion: v1\nkind: Service\n<<: *b\n",
      "f.yaml:4:1: YAML merge keys are not supported: write the fields out",
    ],
    [
      "a merge deep in an object of a kind that passes",
      "apiVersion: v1\nkind: Service\nspec: {ports: [{<<: [{a: b}]}]}\n",
      "f.yaml:3:17: YAML merge keys are not supported: write the fields out",
    ],
    ["a merge with a tag", 'apiVersion: v1\nkind: Service\n! "<<": {kind: Pod}\n', "f.yaml:3:3: YAML merge keys are not supported: write the fields out"],
    ["a key in base64", "apiVersion: v1\nkind: Service\n!!binary a2luZA==: Pod\n", "f.yaml:3:10: tag tag:yaml.org,2002:binary is not supported"],
  ] as const) {
    it(`refuses ${name}, also with silent`, () => {
      for (const options of BOTH) expect(problemsOf(text, options)).toEqual([expected]);
    });
  }

  it("reads items of a list of somebody's own kinds, which take its type if they have none", () => {
    const text = "apiVersion: x.example/v1\nkind: ThingList\nitems:\n- metadata: {name: a}\n- {apiVersion: v1, kind: Secret}\n";
    expect(read(text).resources.map(({ kind, object }) => [kind, object.apiVersion, object.kind])).toEqual([
      ["pass-through", "x.example/v1", "Thing"],
      ["secret", "v1", "Secret"],
    ]);
    expect(problemsOf("apiVersion: x.example/v1\nkind: AllowList\nitems: {}\n")).toEqual(["f.yaml:3:8: a AllowList needs a sequence of items"]);
  });
});

describe("double-quoted text", () => {
  for (const [name, text, position] of [
    ["at once", 'a: "x \\\n\n  y"', "3:14"],
    ["with spaces", 'a: "x \\\n \t \n  y"', "3:14"],
    ["with carriage returns", 'a: "\\\r\n\r\n  y"', "3:12"],
    ["behind an escaped backslash", 'a: "\\\\\\\n\n  y"', "3:14"],
    ["as a key", '? "x\\\n\n  y"\n  : z', "3:12"],
  ] as const) {
    it(`is refused where a blank line follows an escaped line break: ${name}`, () => {
      expect(problemsOf(configMap(text))).toEqual([
        `f.yaml:${position}: a blank line after an escaped line break is read in different ways: remove the blank line, or write \\n for it`,
      ]);
    });
  }

  it("may have both apart", () => {
    const resource = read(configMap('a: "x \\\n  y\n\n  z\\\\\n\n  \\\n  w"')).resources[0];
    expect(resource?.kind === "config-map" ? resource.data.get("a") : undefined).toBe("x y\nz\\\nw");
  });
});

describe("unquoted scalars", () => {
  // What kubectl 1.32 makes of each as a value, in JSON; "" is for numbers that it refuses.
  for (const [json, ...texts] of [
    ["null", "~", "null", "Null", "NULL"],
    ["true", "y", "Y", "yes", "YES", "on", "True"],
    ["false", "n", "no", "Off"],
    ["8", "010", "0_10", "+010", "0o10", "0O10", "08", "8.0", "8e0", "0x8", "0X_8", "0b1000", "0B10_00"],
    ["-1", "-1", "-01", "-0x1", "-0b1", "0b-1", "-_1"],
    ["0", "0", "00", "-0", "0_"],
    ["1000", "1_000", "1e3", "1E+3", "1_e3"],
    ["1.5", "1.50", "01.5", "1._5", "+1.5"],
    ["0.5", ".5", "0.5"],
    ["18446744073709552000", "18446744073709551616"],
    ["", ".inf", "-.INF", ".NaN"],
  ] as const) {
    it(`are ${json === "" ? "no JSON" : json}: ${texts.join(" ")}`, () => {
      for (const text of texts) expect([text, kubectlReading(plain(text))?.json]).toEqual([text, json]);
    });
  }

  it("are text to both", () => {
    const texts = "tRUE,yEs,0b12,_1,._5,.5_0,0x,0o8,0x1p4,00x1,12:30:45,190:20:30.15,2001-01-01,2001-12-14T21:59:43Z,1.2.3,1e400,.,+,--1,inf,=";
    for (const text of texts.split(",")) expect([text, kubectlReading(plain(text)), kubectlKey(plain(text))]).toEqual([text, undefined, undefined]);
    expect(kubectlReading({ ...plain("yes"), style: "single" })).toBeUndefined();
    expect(kubectlReading({ ...plain("010"), taggedText: true })).toBeUndefined();
    expect(kubectlReading(plain("1".repeat(100_000)))).toBeUndefined();
  });

  it("are keys of the same text, or not", () => {
    for (const text of ["true", "false", "0", "80", "-16", "1.5", "0.1", "-0.25", "9223372036854775807"])
      expect([text, kubectlKey(plain(text))]).toEqual([text, undefined]);
    for (const text of ["True", "on", "y"]) expect([text, kubectlKey(plain(text))]).toEqual([text, "boolean"]);
    // Keys that are floating-point numbers have 32 bits: 1000000.5 is 1.0000005e+06.
    for (const text of ["010", "0x10", "1_000", "1.50", "1.0", "1e3", "-0", "1000000.5", "0.00001", "9223372036854775808"])
      expect([text, kubectlKey(plain(text))]).toEqual([text, "number"]);
  });

  it("are refused as keys of data, labels and annotations where kubectl would make other keys of them", () => {
    expect(problemsOf(configMap("on: a, 010: b, 'yes': c, !!str 0x10: d, 80: e, ~: f"))).toEqual([
      "f.yaml:3:8: data.on: kubectl reads this key as a boolean, not as the text that stands here: put it in quotes",
      "f.yaml:3:15: data.010: kubectl reads this key as a number, not as the text that stands here: put it in quotes",
      "f.yaml:3:55: data.~: a key has at most 253 letters, digits, -, _ and .",
    ]);
    expect(problemsOf("apiVersion: v1\nkind: ConfigMap\nmetadata: {labels: {1_000: a}, annotations: {null: b}}\n")).toEqual([
      "f.yaml:3:21: metadata.labels.1_000: kubectl reads this key as a number, not as the text that stands here: put it in quotes",
      "f.yaml:3:46: metadata.annotations.null: kubectl reads this key as null, not as the text that stands here: put it in quotes",
    ]);
  });

  it("are warned of as text where kubectl has other text", () => {
    const values = ["010", "yes", "1_000", "1.50", "0o17", "80", "1.5", "true", "12:30:45", "2001-01-01", "'010'", "!!str yes"];
    const warnings = warningsOf(container(`    args: [${values.join(", ")}]\n`));
    const other = (position: string, index: number, type: string): string =>
      `${position} spec.containers[0].args[${index}]: kubectl reads this as a ${type}, not as the text that stands here: put it in quotes`;
    expect(warnings).toEqual([
      other("8:12", 0, "number"),
      other("8:17", 1, "boolean"),
      other("8:22", 2, "number"),
      other("8:29", 3, "number"),
      other("8:35", 4, "number"),
    ]);
  });

  it("are not shown in warnings: they may be secret", () => {
    const warnings = warningsOf("apiVersion: v1\nkind: Secret\nstringData: {pin: 012345}\n");
    expect(warnings).toEqual(["3:19 stringData.pin: kubectl reads this as a number, not as the text that stands here: put it in quotes"]);
  });

  it("are refused as amounts where kubectl has other amounts", () => {
    const limits = (cpu: string): string => container(`    resources: {limits: {cpu: ${cpu}}}\n`);
    expect(problemsOf(limits("010"))).toEqual([
      "f.yaml:8:31: spec.containers[0].resources.limits.cpu: kubectl reads 010 as the number 8: write that, or put it in quotes",
    ]);
    for (const cpu of ["'010'", "0.50", "1.0", "1e3", "08", "2"]) expect([cpu, problemsOf(limits(cpu)), warningsOf(limits(cpu))]).toEqual([cpu, [], []]);
  });
});
