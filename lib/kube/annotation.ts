import { KubeError } from "./errors.ts";
import { podTemplatePath } from "./kinds.ts";
import { type KubeObject, type Manifest, parseManifest } from "./manifest.ts";
import type { Position } from "./problem.ts";

import {
  contentOf,
  entryOf,
  isAmbiguousPlain,
  isNull,
  scalarText,
  valueOf,
  type YamlContent,
  type YamlEntry,
  type YamlMapping,
  type YamlNode,
  type YamlScalar,
} from "./yaml-node.ts";

/** Replaces the UTF-16 units from `start` to `end` of a text. */
interface TextEdit {
  readonly start: number;
  readonly end: number;
  readonly text: string;
}

/** An annotation as it stands in a file. */
export interface Annotation {
  readonly value: string;
  readonly position: Position;
}

/** The node that holds `metadata` and `spec` of an object's pods: the object itself for a Pod. Undefined if the kind makes no pods or the node is missing. */
export function podTemplateOf(object: KubeObject): YamlMapping | undefined {
  const path = podTemplatePath(object.kind);
  if (path === undefined) return undefined;
  let node: YamlContent | undefined = object.node;
  for (const name of path) {
    if (node?.kind !== "mapping") return undefined;
    node = valueOf(node, name);
  }
  return node?.kind === "mapping" ? node : undefined;
}

/** The annotation `key` of an object's pods, if it is there and text. */
export function podAnnotationOf(object: KubeObject, key: string): Annotation | undefined {
  const template = podTemplateOf(object);
  const metadata = template === undefined ? undefined : valueOf(template, "metadata");
  const annotations = metadata?.kind === "mapping" ? valueOf(metadata, "annotations") : undefined;
  const value = annotations?.kind === "mapping" ? valueOf(annotations, key) : undefined;
  const text = value?.kind === "scalar" ? scalarText(value) : undefined;
  return value === undefined || text === undefined ? undefined : { value: text, position: object.manifest.positionOf(value.start) };
}

/**
 * Text with the annotation `key` of the object's pods set to `value`. Every other character of the file stays: comments,
 * order, quoting, line ends. An existing value is replaced in place; `metadata` and `annotations` are made where missing.
 * @param text the text that the object was parsed from
 * @throws {KubeError} ERR_KUBE_EDIT if the place is shared through an alias, or cannot be edited without changing other parts
 */
export function setAnnotation(text: string, object: KubeObject, key: string, value: string): string {
  if (text !== object.manifest.file.text) throw new KubeError("ERR_KUBE_EDIT", [problemAt(object, object.node, "the text is not the one that was parsed")]);
  return setAnnotations(object.manifest, new Map([[object, value]]), key);
}

/**
 * Text of the manifest with the annotation `key` set on the pods of several of its objects; see {@link setAnnotation}.
 * @throws {KubeError} ERR_KUBE_EDIT
 */
export function setAnnotations(manifest: Manifest, values: ReadonlyMap<KubeObject, string>, key: string): string {
  const edits = [...values].flatMap(([object, value]) => annotationEdit(object, key, value) ?? []);
  const edited = applyEdits(manifest.file.text, edits);
  // The edit works on characters; the proof that it did what it should, and nothing else, is to read the result back.
  const after = readBack(manifest, edited);
  const pathOf = (object: KubeObject): readonly string[] | undefined => (values.has(object) ? [...annotationPath(object), key] : undefined);
  const wanted = manifest.objects.map((object) => fingerprint(object.node, pathOf(object), values.get(object)));
  const found = after?.objects.map((object, index) => fingerprint(object.node, pathOf(manifest.objects[index] ?? object))) ?? [];
  for (const [index, object] of manifest.objects.entries()) {
    if (wanted[index] === found[index] && wanted.length === found.length) continue;
    throw new KubeError(
      "ERR_KUBE_EDIT",
      [problemAt(object, podTemplateOf(object) ?? object.node, `cannot set annotation ${key} without changing other parts`)],
      {
        hint: `Add a line for ${key} under metadata.annotations of the pod template by hand; its value will then be replaced.`,
      },
    );
  }
  return edited;
}

/** The text with all edits made. Edits do not overlap. */
function applyEdits(text: string, edits: readonly TextEdit[]): string {
  const ordered = [...edits].sort((a, b) => a.start - b.start);
  let result = "";
  let at = 0;
  for (const edit of ordered) {
    result += text.slice(at, edit.start) + edit.text;
    at = edit.end;
  }
  return result + text.slice(at);
}

/** The edit that sets the annotation, or undefined if it has the value already. */
function annotationEdit(object: KubeObject, key: string, value: string): TextEdit | undefined {
  const template = podTemplateOf(object);
  if (template === undefined)
    throw new KubeError("ERR_KUBE_EDIT", [problemAt(object, object.node, `a ${object.kind} without a pod template has no place for annotation ${key}`)]);
  const editor = new Editor(object);
  let mapping = object.node;
  const missing = [...annotationPath(object), key];
  for (let step = missing.shift(); step !== undefined; step = missing.shift()) {
    const entry = entryOf(mapping, step);
    if (entry === undefined) return editor.append(mapping, [step, ...missing], value);
    // Editing behind an alias would edit every place that uses the anchor.
    const last = missing.length === 0;
    if (entry.value.kind === "alias" && !last) {
      throw new KubeError(
        "ERR_KUBE_EDIT",
        [problemAt(object, entry.value, `${step} is the alias *${entry.value.name}: it cannot get an annotation of its own`)],
        {
          hint: `Write ${step} out in place of the alias.`,
        },
      );
    }
    const content = contentOf(entry.value);
    if (last) {
      if (content.kind === "scalar" && scalarText(content) === value) return undefined;
      return editor.replace(entry.value, value);
    }
    if (content.kind === "mapping" && content.entries.length > 0) mapping = content;
    else if (content.kind === "mapping" || isNull(content)) return editor.fill(mapping, content, missing, value);
    else throw new KubeError("ERR_KUBE_EDIT", [problemAt(object, content, `${step} is a ${content.kind}, not a mapping`)]);
  }
  return undefined;
}

class Editor {
  readonly #object: KubeObject;
  readonly #text: string;

  constructor(object: KubeObject) {
    this.#object = object;
    this.#text = object.manifest.file.text;
  }

  /** Replaces a value that is there, in the quotes it has. */
  replace(node: YamlNode, value: string): TextEdit {
    if (node.kind !== "alias" && node.kind !== "scalar") {
      throw new KubeError("ERR_KUBE_EDIT", [problemAt(this.#object, node, `the annotation is a ${node.kind}, not text`)]);
    }
    const style = node.kind === "scalar" ? node.style : "plain";
    if (node.start === node.end) return { start: node.start, end: node.end, text: this.#text[node.start - 1] === ":" ? ` ${scalar(value)}` : scalar(value) };
    // A block scalar ends after its last line break: leave one.
    const lineBreak = style === "block" && this.#text[node.end - 1] === "\n" ? this.#lineBreakBefore(node.end) : "";
    const text = style === "double" ? quoted(value) : style === "single" ? singleQuoted(value) : scalar(value);
    return { start: node.start, end: node.end, text: text + (style === "block" ? this.#headerComment(node.start) : "") + lineBreak };
  }

  /** The comment after the `|` or `>` of a block scalar, with the space before it. */
  #headerComment(offset: number): string {
    const end = this.#text.indexOf("\n", offset);
    const header = this.#text.slice(offset, end === -1 ? undefined : end).trimEnd();
    const hash = header.indexOf("#");
    return hash === -1 ? "" : header.slice(header.slice(0, hash).trimEnd().length);
  }

  /** Appends an entry to a mapping that has entries. */
  append(mapping: YamlMapping, path: readonly string[], value: string): TextEdit {
    const last = mapping.entries.at(-1);
    const end = last === undefined ? mapping.end : contentEnd(last.value);
    if (mapping.flow) return { start: end, end, text: `, ${flowEntry(path, value)}` };
    const first = mapping.entries[0];
    const column = first === undefined ? 0 : this.#columnOf(first.key.start);
    const lines = this.#blockEntry(path, value, column, this.#step(mapping, column));
    // A line break after a block scalar that the text ends with would become part of it.
    const open = end === this.#text.length && !this.#text.endsWith("\n") && last !== undefined && lastScalar(last.value)?.style === "block";
    return open && first !== undefined ? this.#insertBefore(first.key.start, lines, column) : this.#insertLines(end, lines);
  }

  /** Puts an entry into a value that is empty: nothing, `~` or `{}`. */
  fill(parent: YamlMapping, content: YamlContent, path: readonly string[], value: string): TextEdit {
    if (content.start !== content.end || parent.flow) {
      const space = content.start === content.end && this.#text[content.start - 1] === ":" ? " " : "";
      return { start: content.start, end: content.end, text: `${space}{${flowEntry(path, value)}}` };
    }
    const first = parent.entries[0];
    const column = first === undefined ? 0 : this.#columnOf(first.key.start);
    const step = this.#step(parent, column);
    return this.#insertLines(content.end, this.#blockEntry(path, value, column + step, step));
  }

  #blockEntry(path: readonly string[], value: string, column: number, step: number): readonly string[] {
    return path.map((name, depth) => `${" ".repeat(column + depth * step)}${scalar(name)}:${depth === path.length - 1 ? ` ${scalar(value)}` : ""}`);
  }

  /** Puts lines after the line that `offset` is in; at the start of a line, before that line. */
  #insertLines(offset: number, lines: readonly string[]): TextEdit {
    const text = this.#text;
    if (offset > 0 && text[offset - 1] === "\n") {
      const lineBreak = this.#lineBreakBefore(offset);
      return { start: offset, end: offset, text: lines.map((line) => line + lineBreak).join("") };
    }
    const lineEnd = text.indexOf("\n", offset);
    const lineBreak = lineEnd === -1 ? (text.includes("\r\n") ? "\r\n" : "\n") : this.#lineBreakBefore(lineEnd + 1);
    const at = lineEnd === -1 ? text.length : lineEnd + 1 - lineBreak.length;
    return { start: at, end: at, text: lines.map((line) => lineBreak + line).join("") };
  }

  /** Puts lines where the first key of a mapping stands, which goes to a line of its own. */
  #insertBefore(offset: number, lines: readonly string[], column: number): TextEdit {
    const lineBreak = this.#text.includes("\r\n") ? "\r\n" : "\n";
    const text = lines.map((line, index) => (index === 0 ? line.slice(column) : line) + lineBreak).join("");
    return { start: offset, end: offset, text: text + " ".repeat(column) };
  }

  #lineBreakBefore(offset: number): string {
    return this.#text[offset - 2] === "\r" ? "\r\n" : "\n";
  }

  #columnOf(offset: number): number {
    const before = this.#text.slice(this.#text.lastIndexOf("\n", offset - 1) + 1, offset);
    // A byte order mark takes no column.
    return before.startsWith("\uFEFF") ? before.length - 1 : before.length;
  }

  /** Spaces per level: as in this mapping, else as in the document, else two. */
  #step(mapping: YamlMapping, column: number): number {
    const document = this.#object.manifest.documents[this.#object.document];
    return this.#childStep(mapping, column) ?? (document?.kind === "mapping" ? this.#childStep(document, 0) : undefined) ?? 2;
  }

  #childStep(mapping: YamlMapping, column: number): number | undefined {
    for (const { value } of mapping.entries) {
      if (value.kind !== "mapping" || value.flow) continue;
      const child = value.entries[0];
      const step = child === undefined ? 0 : this.#columnOf(child.key.start) - column;
      if (step > 0) return step;
    }
    return undefined;
  }
}

/** The scalar that a block node ends with. */
function lastScalar(node: YamlNode): YamlScalar | undefined {
  if (node.kind === "scalar") return node;
  if (node.kind === "alias" || node.flow) return undefined;
  const last = node.kind === "mapping" ? node.entries.at(-1)?.value : node.items.at(-1);
  return last === undefined ? undefined : lastScalar(last);
}

/** Offset after the last character of a node that is not space, comment or closing bracket of an outer node. */
function contentEnd(node: YamlNode): number {
  if (node.kind === "mapping" && !node.flow) {
    const last = node.entries.at(-1);
    if (last !== undefined) return contentEnd(last.value);
  }
  if (node.kind === "sequence" && !node.flow) {
    const last = node.items.at(-1);
    if (last !== undefined) return contentEnd(last);
  }
  return node.end;
}

function flowEntry(path: readonly string[], value: string): string {
  const [name = "", ...rest] = path;
  return `${quoted(name)}: ${rest.length === 0 ? quoted(value) : `{${flowEntry(rest, value)}}`}`;
}

/** A scalar for block style: plain where every reader, YAML 1.1 or 1.2, takes it for this text. */
function scalar(text: string): string {
  return /^[A-Za-z][A-Za-z0-9+/=._-]*$/.test(text) && !isAmbiguousPlain(text) ? text : quoted(text);
}

/** JSON strings are YAML double-quoted scalars (YAML 1.2.2 section 1.3), given that DEL and the C1 controls are escaped too. */
function quoted(text: string): string {
  return JSON.stringify(text).replaceAll(/[\u007f-\u009f\u2028\u2029\ufeff]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

function singleQuoted(text: string): string {
  // eslint-disable-next-line no-control-regex -- single quotes have no escapes: anything but printable ASCII goes in double quotes
  return /^[\u0020-\u007e]*$/.test(text) ? `'${text.replaceAll("'", "''")}'` : quoted(text);
}

function annotationPath(object: KubeObject): readonly string[] {
  return [...(podTemplatePath(object.kind) ?? []), "metadata", "annotations"];
}

function readBack(manifest: Manifest, text: string): Manifest | undefined {
  try {
    return parseManifest({ name: manifest.file.name, text });
  } catch (error) {
    if (error instanceof KubeError) return undefined;
    throw error;
  }
}

/**
 * Text that is equal for two trees if they mean the same, in the same order of keys; only those on `path` may stand anywhere.
 * With `value`, the tree is taken as if that were at the end of the path.
 */
function fingerprint(node: YamlNode | undefined, path?: readonly string[], value?: string): string {
  const [step, ...rest] = path ?? [];
  if (step === undefined && value !== undefined) return JSON.stringify(value);
  const content = node === undefined ? undefined : contentOf(node);
  if (step !== undefined) {
    const entries = content?.kind === "mapping" ? content.entries : [];
    const own = entries.find((entry) => entry.key.text === step)?.value;
    const parts = entries.filter((entry) => entry.key.text !== step).map((entry) => entryFingerprint(entry));
    return `{${[...parts, `${JSON.stringify(step)}:${fingerprint(own, rest, value)}`].join(",")}}`;
  }
  if (content === undefined) return "";
  if (content.kind === "scalar") return scalarFingerprint(content);
  if (content.kind === "sequence") return `[${content.items.map((item) => fingerprint(item)).join(",")}]`;
  return `{${content.entries.map((entry) => entryFingerprint(entry)).join(",")}}`;
}

function entryFingerprint(entry: YamlEntry): string {
  return `${JSON.stringify(entry.key.text)}:${fingerprint(entry.value)}`;
}

function scalarFingerprint(content: YamlScalar): string {
  // An unquoted scalar is told from a quoted one only where that makes a difference.
  return content.style === "plain" && !content.taggedText && isAmbiguousPlain(content.text) ? content.text : JSON.stringify(content.text);
}

function problemAt(object: KubeObject, node: YamlNode, message: string): { kind: "edit"; position: Position; path: string; message: string } {
  return { kind: "edit", position: object.manifest.positionOf(node.start), path: object.path, message };
}
