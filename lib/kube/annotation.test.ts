import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { KubeError, parseManifest, podAnnotationOf, setAnnotation, setAnnotations } from "./index.ts";

const KEY = "io.katacontainers.config.agent.policy";
const VALUE = "cGFja2FnZSBhZ2VudF9wb2xpY3k+/==";

function annotate(text: string, value = VALUE): string {
  const manifest = parseManifest({ name: "app.yaml", text });
  return setAnnotations(manifest, new Map(manifest.objects.filter((object) => object.kind !== "ConfigMap").map((object) => [object, value])), KEY);
}

/** What a line diff would show: lines gone and lines new. */
function diff(before: string, after: string): { removed: readonly string[]; added: readonly string[] } {
  const old = before.split("\n");
  const now = after.split("\n");
  let head = 0;
  while (head < old.length && old[head] === now[head]) head++;
  let tail = 0;
  while (tail < old.length - head && tail < now.length - head && old.at(-1 - tail) === now.at(-1 - tail)) tail++;
  return { removed: old.slice(head, old.length - tail), added: now.slice(head, now.length - tail) };
}

/** Each case: name, text before, lines removed, lines added. */
const CASES: readonly (readonly [string, string, readonly string[], readonly string[]])[] = [
  [
    "appends to block annotations, behind a trailing comment",
    "apiVersion: v1\nkind: Pod\nmetadata:\n  name: x\n  annotations:\n    a: b   # why\n  # next\n  labels: {l: m}\nspec: {}\n",
    [],
    [`    ${KEY}: ${VALUE}`],
  ],
  [
    "replaces a plain value",
    `apiVersion: v1\nkind: Pod\nmetadata:\n  annotations:\n    ${KEY}: old # keep\n`,
    [`    ${KEY}: old # keep`],
    [`    ${KEY}: ${VALUE} # keep`],
  ],
  ["keeps double quotes", `apiVersion: v1\nkind: Pod\nmetadata:\n  annotations:\n    ${KEY}: "old"\n`, [`    ${KEY}: "old"`], [`    ${KEY}: "${VALUE}"`]],
  ["keeps single quotes", `apiVersion: v1\nkind: Pod\nmetadata:\n  annotations:\n    '${KEY}': 'old'\n`, [`    '${KEY}': 'old'`], [`    '${KEY}': '${VALUE}'`]],
  [
    "replaces a block scalar",
    `apiVersion: v1\nkind: Pod\nmetadata:\n  annotations:\n    ${KEY}: |\n      one\n      two\n    z: y\n`,
    [`    ${KEY}: |`, "      one", "      two"],
    [`    ${KEY}: ${VALUE}`],
  ],
  [
    "keeps the comment beside the bar of a block scalar",
    `apiVersion: v1\nkind: Pod\nmetadata:\n  annotations:\n    ${KEY}: |-2  # why # so\n        one # text\n    z: y\n`,
    [`    ${KEY}: |-2  # why # so`, "        one # text"],
    [`    ${KEY}: ${VALUE}  # why # so`],
  ],
  ["replaces nothing", `apiVersion: v1\nkind: Pod\nmetadata:\n  annotations:\n    ${KEY}:\n    z: y\n`, [`    ${KEY}:`], [`    ${KEY}: ${VALUE}`]],
  ["makes annotations in block style", "apiVersion: v1\nkind: Pod\nmetadata:\n  name: x\nspec: {}\n", [], ["  annotations:", `    ${KEY}: ${VALUE}`]],
  ["takes over an indent of four", "apiVersion: v1\nkind: Pod\nmetadata:\n    name: x\nspec: {}\n", [], ["    annotations:", `        ${KEY}: ${VALUE}`]],
  ["makes metadata at the end", "apiVersion: v1\nkind: Pod\nspec:\n  a: b\n", [], ["metadata:", "  annotations:", `    ${KEY}: ${VALUE}`]],
  [
    "makes metadata at the end of a file without a last line break",
    "apiVersion: v1\nkind: Pod\nspec:\n  a: b",
    [],
    ["metadata:", "  annotations:", `    ${KEY}: ${VALUE}`],
  ],
  ["fills annotations without a value", "apiVersion: v1\nkind: Pod\nmetadata:\n  annotations: # none\n  name: x\n", [], [`    ${KEY}: ${VALUE}`]],
  [
    "fills annotations that are null",
    "apiVersion: v1\nkind: Pod\nmetadata:\n  annotations: ~ # none\n  name: x\n",
    ["  annotations: ~ # none"],
    [`  annotations: {"${KEY}": "${VALUE}"} # none`],
  ],
  [
    "fills empty flow annotations",
    "apiVersion: v1\nkind: Pod\nmetadata:\n  annotations: {}\n",
    ["  annotations: {}"],
    [`  annotations: {"${KEY}": "${VALUE}"}`],
  ],
  ["fills metadata without a value", "apiVersion: v1\nkind: Pod\nmetadata:\nspec: {}\n", [], ["  annotations:", `    ${KEY}: ${VALUE}`]],
  [
    "appends to flow annotations",
    "apiVersion: v1\nkind: Pod\nmetadata: {annotations: {a: {b: c}.d, e: f }, name: x}\n".replace("{b: c}.d", "b"),
    ["metadata: {annotations: {a: b, e: f }, name: x}"],
    [`metadata: {annotations: {a: b, e: f, "${KEY}": "${VALUE}" }, name: x}`],
  ],
  [
    "appends to flow metadata",
    "apiVersion: v1\nkind: Pod\nmetadata: {name: x,}\n",
    ["metadata: {name: x,}"],
    [`metadata: {name: x, "annotations": {"${KEY}": "${VALUE}"},}`],
  ],
  [
    "keeps JSON JSON",
    '{"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"a": "b"}}, "spec": {}}',
    ['{"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"a": "b"}}, "spec": {}}'],
    [`{"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"a": "b"}, "annotations": {"${KEY}": "${VALUE}"}}, "spec": {}}`],
  ],
  [
    "goes to the pod template of a Deployment, also where it has no metadata",
    "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  annotations: {k: v}\nspec:\n  template:\n    spec:\n      containers:\n      - name: a\n        image: b\n  replicas: 1\n",
    [],
    ["    metadata:", "      annotations:", `        ${KEY}: ${VALUE}`],
  ],
  [
    "goes below the job template of a CronJob",
    "apiVersion: batch/v1\nkind: CronJob\nspec:\n  jobTemplate:\n    spec:\n      template:\n        metadata:\n          labels:\n            a: b\n        spec: {}\n",
    [],
    ["          annotations:", `            ${KEY}: ${VALUE}`],
  ],
  ["keeps CRLF", "apiVersion: v1\r\nkind: Pod\r\nmetadata:\r\n  name: x\r\nspec: {}\r\n", [], ["  annotations:\r", `    ${KEY}: ${VALUE}\r`]],
  ["keeps a byte order mark", "\uFEFFapiVersion: v1\nkind: Pod\n", [], ["metadata:", "  annotations:", `    ${KEY}: ${VALUE}`]],
  ["stays before the end of the document", "apiVersion: v1\nkind: Pod\n...\n---\n", [], ["metadata:", "  annotations:", `    ${KEY}: ${VALUE}`]],
  [
    "appends behind a block scalar that keeps its line breaks",
    "apiVersion: v1\nkind: Pod\nmetadata:\n  annotations:\n    text: |+\n      a\n\n\n  name: x\n",
    [],
    [`    ${KEY}: ${VALUE}`],
  ],
  [
    "works in a sequence item",
    "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n",
    [],
    ["  metadata:", "    annotations:", `      ${KEY}: ${VALUE}`],
  ],
  [
    "goes before a block scalar that the file ends in, which would swallow a line break",
    "apiVersion: v1\nkind: Pod\nspec:\n  args: |\n    abc",
    [],
    ["metadata:", "  annotations:", `    ${KEY}: ${VALUE}`],
  ],
  [
    "does the same in an item of a List",
    "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  args: >\n    abc",
    ["- apiVersion: v1"],
    ["- metadata:", "    annotations:", `      ${KEY}: ${VALUE}`, "  apiVersion: v1"],
  ],
  ["works below quoted keys", "\"apiVersion\": v1\n'kind': Pod\n'metadata':\n  \"annotations\":\n    'a': b\n", [], [`    ${KEY}: ${VALUE}`]],
  [
    "replaces below a quoted key",
    `apiVersion: v1\nkind: Pod\nmetadata:\n  annotations:\n    "${KEY}": old\n`,
    [`    "${KEY}": old`],
    [`    "${KEY}": ${VALUE}`],
  ],
  [
    "replaces a value on a line of its own",
    `apiVersion: v1\nkind: Pod\nmetadata:\n  annotations:\n    ${KEY}:\n      old\n    z: y\n`,
    ["      old"],
    [`      ${VALUE}`],
  ],
  ["fills an anchored mapping of nothing", "apiVersion: v1\nkind: Pod\nmetadata: &m\nspec: {}\n", [], ["  annotations:", `    ${KEY}: ${VALUE}`]],
  [
    "keeps anchors and tags of an empty mapping",
    "apiVersion: v1\nkind: Pod\nmetadata:\n  annotations: &a !!map {}\n",
    ["  annotations: &a !!map {}"],
    [`  annotations: &a !!map {"${KEY}": "${VALUE}"}`],
  ],
  [
    "stays before a comment inside of braces",
    "apiVersion: v1\nkind: Pod\nmetadata: {\n  name: x # note\n}\n",
    ["  name: x # note"],
    [`  name: x, "annotations": {"${KEY}": "${VALUE}"} # note`],
  ],
  [
    "keeps JSON on several lines JSON",
    '{\r\n\t"apiVersion": "v1",\r\n\t"kind": "Pod"\r\n}\r\n',
    ['\t"kind": "Pod"\r'],
    [`\t"kind": "Pod", "metadata": {"annotations": {"${KEY}": "${VALUE}"}}\r`],
  ],
  [
    "goes to the template of a Deployment in JSON that has no metadata",
    '{"apiVersion":"apps/v1","kind":"Deployment","spec":{"template":{"spec":{"containers":[]}}}}',
    ['{"apiVersion":"apps/v1","kind":"Deployment","spec":{"template":{"spec":{"containers":[]}}}}'],
    [`{"apiVersion":"apps/v1","kind":"Deployment","spec":{"template":{"spec":{"containers":[]}, "metadata": {"annotations": {"${KEY}": "${VALUE}"}}}}}`],
  ],
  [
    "works in the item of a typed list, which has no kind",
    "apiVersion: v1\nkind: PodList\nitems:\n-\n    spec: {}\n",
    [],
    ["    metadata:", "      annotations:", `        ${KEY}: ${VALUE}`],
  ],
  ["works below an explicit key", "apiVersion: v1\nkind: Pod\n? metadata\n: name: x\nspec: {}\n", [], ["  annotations:", `    ${KEY}: ${VALUE}`]],
];

describe("setAnnotation", () => {
  for (const [name, before, removed, added] of CASES) {
    it(name, () => {
      const after = annotate(before);
      expect(diff(before, after)).toEqual({ removed, added });
      const manifest = parseManifest({ name: "after", text: after });
      expect(manifest.objects.map((object) => podAnnotationOf(object, KEY)?.value)).toEqual(manifest.objects.map(() => VALUE));
      expect(annotate(after), "idempotent").toBe(after);
      expect(annotate(annotate(before, "b3RoZXI="))).toBe(after);
    });
  }

  it("sets different values in several documents and items", () => {
    const text =
      "# first\napiVersion: v1\nkind: Pod\n---\napiVersion: v1\nkind: ConfigMap\n---\n# list\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod}\n- apiVersion: v1\n  kind: Pod\n";
    const manifest = parseManifest({ name: "x", text });
    const values = new Map(manifest.objects.filter((object) => object.kind === "Pod").map((object, index) => [object, `value${index}`]));
    const after = parseManifest({ name: "x", text: setAnnotations(manifest, values, KEY) });
    expect(after.objects.map((object) => podAnnotationOf(object, KEY)?.value)).toEqual(["value0", undefined, "value1", "value2"]);
    expect(after.file.text).toContain("# first");
    expect(after.file.text).toContain("# list");
  });

  it("quotes values that YAML would not read back as text", () => {
    for (const value of ["true", "no", "1e3", "0x10", "~", "", "a: b", "#x", 'a"b', "line\nbreak", "12", "é\u2028"]) {
      const after = annotate("apiVersion: v1\nkind: Pod\nmetadata:\n  name: x\n", value);
      const object = parseManifest({ name: "x", text: after }).objects[0];
      expect(object === undefined ? undefined : podAnnotationOf(object, KEY)?.value).toBe(value);
    }
  });

  it("keeps anchors on the way and refuses aliases", () => {
    const anchored = "apiVersion: v1\nkind: Pod\nmetadata: &m\n  annotations: &a\n    x: &v y\n  labels: {z: *v}\n";
    expect(diff(anchored, annotate(anchored))).toEqual({ removed: [], added: [`    ${KEY}: ${VALUE}`] });
    const aliased =
      "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: &m\n    name: x\n- apiVersion: v1\n  kind: Pod\n  metadata: *m\n";
    expect(() => annotate(aliased)).toThrow("app.yaml:10:13: items[1]: metadata is the alias *m");
    const template =
      "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Job\n  spec: {template: &t {spec: {}}}\n- apiVersion: v1\n  kind: Job\n  spec:\n    template: *t\n";
    expect(() => annotate(template)).toThrow("app.yaml:10:15: items[1]: template is the alias *t");
  });

  it("refuses what it cannot annotate", () => {
    for (const [text, message] of [
      ["apiVersion: v1\nkind: Pod\nmetadata: text\n", "app.yaml:3:11: metadata is a scalar, not a mapping"],
      ["apiVersion: v1\nkind: Pod\nmetadata:\n  annotations: [a]\n", "app.yaml:4:16: annotations is a sequence, not a mapping"],
      [`apiVersion: v1\nkind: Pod\nmetadata:\n  annotations:\n    ${KEY}: [a]\n`, "the annotation is a sequence, not text"],
      ["apiVersion: v1\nkind: Service\n", "a Service without a pod template has no place"],
      ["apiVersion: apps/v1\nkind: Deployment\nspec: {}\n", "a Deployment without a pod template has no place"],
    ] as const) {
      expect(() => annotate(text)).toThrow(message);
    }
    const manifest = parseManifest({ name: "x", text: "apiVersion: v1\nkind: Pod\n" });
    const object = manifest.objects[0];
    if (object === undefined) throw new Error("no object");
    expect(() => setAnnotation("another text", object, KEY, VALUE)).toThrow(KubeError);
  });

  it("is one run of characters per object: without it, the file is as it was (property)", { timeout: 60_000 }, () => {
    fc.assert(
      fc.property(fc.oneof(manifestText, jsonText), fc.nat(2), (text, choice) => {
        const manifest = parseManifest({ name: "p", text });
        const able = manifest.objects.filter((object) => object.kind !== "ConfigMap");
        const object = able[choice % Math.max(1, able.length)];
        if (object === undefined) return;
        const after = setAnnotation(text, object, KEY, VALUE);
        let head = 0;
        while (head < text.length && text[head] === after[head]) head++;
        let tail = 0;
        while (tail < text.length - head && text.at(-1 - tail) === after.at(-1 - tail)) tail++;
        const gone = text.slice(head, text.length - tail);
        const old = podAnnotationOf(object, KEY)?.value;
        // What goes is an older value, or what stood for nothing.
        if (old === undefined) expect(["", "null", "~", "{}", "{ }", " "]).toContain(gone);
        else expect(gone.length).toBeLessThanOrEqual(60);
        const again = parseManifest({ name: "p", text: after }).objects[manifest.objects.indexOf(object)];
        expect(again === undefined ? undefined : podAnnotationOf(again, KEY)?.value).toBe(VALUE);
        if (again !== undefined) expect(setAnnotation(after, again, KEY, VALUE)).toBe(after);
      }),
      { numRuns: 400 },
    );
  });

  it("leaves JSON that JSON.parse reads (property)", { timeout: 60_000 }, () => {
    fc.assert(
      fc.property(jsonText, (text) => {
        const after = JSON.stringify(JSON.parse(annotate(text)));
        expect(after.split(JSON.stringify(VALUE)).length - 1).toBe(parseManifest({ name: "j", text }).objects.length);
      }),
    );
  });

  it("changes nothing but the annotation, whatever the style (property)", { timeout: 60_000 }, () => {
    fc.assert(
      fc.property(manifestText, fc.constantFrom(VALUE, "yes", "two words: here"), (text, value) => {
        const before = parseManifest({ name: "p", text });
        const after = annotate(text, value);
        // Taking the inserted runs out again gives the author's file: every character of it is still there, in order.
        let at = 0;
        for (const char of after) if (at < text.length && char === text[at]) at++;
        const replaced = before.objects.some((object) => podAnnotationOf(object, KEY) !== undefined) || /annotations: ~|metadata: null|\{ *\}/.test(text);
        if (!replaced) expect(at).toBe(text.length);
        for (const comment of text.match(/#[^\r\n]*/g) ?? []) expect(after).toContain(comment);
        const again = parseManifest({ name: "p", text: after });
        expect(again.objects.map((object) => (object.kind === "Pod" || object.kind === "Deployment" ? podAnnotationOf(object, KEY)?.value : value))).toEqual(
          again.objects.map(() => value),
        );
        expect(annotate(after, value)).toBe(after);
        if (!text.replaceAll("\r\n", "").includes("\n")) expect(after.replaceAll("\r\n", "")).not.toContain("\n");
      }),
      { numRuns: 600 },
    );
  });
});

/** Texts of one to three documents in many spellings. */
const manifestText: fc.Arbitrary<string> = fc
  .record({
    documents: fc.array(
      fc.record({
        kind: fc.constantFrom("Pod", "Deployment", "ConfigMap"),
        metadata: fc.constantFrom("none", "empty", "null", "braces", "flow", "block", "json"),
        annotations: fc.constantFrom(
          "none",
          "empty",
          "null",
          "braces",
          "flow",
          "flowTrailing",
          "block",
          "blockScalar",
          "folded",
          "anchor",
          "policy",
          "policyQuoted",
          "policyBlock",
        ),
        indent: fc.constantFrom(1, 2, 3, 4, 8),
        comments: fc.boolean(),
        blank: fc.boolean(),
        metadataLast: fc.boolean(),
        sequenceIndent: fc.boolean(),
      }),
      { minLength: 1, maxLength: 3 },
    ),
    crlf: fc.boolean(),
    finalBreak: fc.boolean(),
    start: fc.boolean(),
  })
  .map(({ documents, crlf, finalBreak, start }) => {
    const text = documents.map((shape) => documentText(shape)).join("---\n");
    const whole = (start ? "%YAML 1.2\n---\n" : "") + text + (finalBreak ? "" : "last: x");
    return crlf ? whole.replaceAll("\n", "\r\n") : whole;
  });

/** The same documents as JSON and as items of a List, in several layouts. */
const jsonText: fc.Arbitrary<string> = fc
  .record({
    annotations: fc.constantFrom(undefined, null, {}, { a: "b" }, { [KEY]: "old", z: "y" }),
    metadata: fc.boolean(),
    kinds: fc.array(fc.constantFrom("Pod", "Job", "CronJob"), { minLength: 1, maxLength: 3 }),
    indent: fc.constantFrom(undefined, 1, 2, "\t"),
    crlf: fc.boolean(),
    finalBreak: fc.boolean(),
  })
  .map(({ annotations, metadata, kinds, indent, crlf, finalBreak }) => {
    const template = { ...(metadata ? { metadata: { name: "n", annotations } } : {}), spec: { containers: [{ name: "c", image: "i" }] } };
    const items = kinds.map((kind) => {
      const controlled = { spec: kind === "CronJob" ? { jobTemplate: { spec: { template } } } : { template } };
      return { apiVersion: "v1", kind, ...(kind === "Pod" ? template : controlled) };
    });
    const text = JSON.stringify({ apiVersion: "v1", kind: "List", items }, null, indent) + (finalBreak ? "\n" : "");
    return crlf ? text.replaceAll("\n", "\r\n") : text;
  });

interface Shape {
  readonly kind: string;
  readonly metadata: string;
  readonly annotations: string;
  readonly indent: number;
  readonly comments: boolean;
  readonly blank: boolean;
  readonly metadataLast: boolean;
  readonly sequenceIndent: boolean;
}

function documentText(shape: Shape): string {
  const pad = (level: number): string => " ".repeat(level * shape.indent);
  const note = shape.comments ? "  # note" : "";
  const gap = shape.blank ? "\n" : "";
  const metadata = (level: number): string => {
    const here = pad(level);
    const inner = pad(level + 1);
    const deeper = pad(level + 2);
    const annotations: Readonly<Record<string, string>> = {
      none: "",
      empty: `${inner}annotations:${note}\n`,
      null: `${inner}annotations: ~${note}\n`,
      braces: `${inner}annotations: {}${note}\n`,
      flow: `${inner}annotations: {a: 'b', "c": d }${note}\n`,
      flowTrailing: `${inner}annotations: {a: 'b',\n${deeper}c: [x, {y: z}],}${note}\n`,
      block: `${inner}annotations:${note}\n${deeper}# above\n${deeper}a: 'b'${note}\n${gap}${deeper}c:${note}\n`,
      blockScalar: `${inner}annotations:\n${deeper}text: |+${note}\n${deeper}  one\n${deeper}  two # not a comment\n${gap}`,
      folded: `${inner}annotations:\n${deeper}text: one\n${deeper}  two${note}\n${gap}`,
      anchor: `${inner}annotations: &all${note}\n${deeper}a: &one b\n${deeper}c: *one${note}\n`,
      policy: `${inner}annotations:\n${deeper}${KEY}: old${note}\n${deeper}z: y\n`,
      policyQuoted: `${inner}annotations: {"${KEY}": 'old', z: y}${note}\n`,
      policyBlock: `${inner}annotations:\n${deeper}${KEY}: >-${note}\n${deeper}  old\n${gap}${deeper}z: y\n`,
    };
    const shapes: Readonly<Record<string, string>> = {
      none: "",
      empty: `${here}metadata:${note}\n`,
      null: `${here}metadata: null${note}\n`,
      braces: `${here}metadata: { }${note}\n`,
      flow: `${here}metadata: {name: x, labels: {a: b}}${note}\n`,
      json: `${here}metadata: {"name": "x", "annotations": {"k":"v"}}${note}\n`,
      block: `${here}metadata:${note}\n${inner}name: x${note}\n${gap}${annotations[shape.annotations] ?? ""}`,
    };
    return shapes[shape.metadata] ?? "";
  };
  const spec = (level: number): string => {
    const dash = pad(shape.sequenceIndent ? level + 2 : level + 1);
    return `${pad(level)}spec:\n${pad(level + 1)}containers:${note}\n${dash}- name: a\n${dash}  image: "b"${note}\n${gap}`;
  };
  const template = (level: number): string => (shape.metadataLast ? spec(level) + metadata(level) : metadata(level) + spec(level));
  const head = `${shape.comments ? "# head\n" : ""}apiVersion: v1${note}\nkind: ${shape.kind}\n`;
  return shape.kind === "Deployment" ? `${head}${metadata(0)}spec:\n${pad(1)}replicas: 1\n${pad(1)}template:${note}\n${template(2)}` : head + template(0);
}
