import { Composer, type CST, isAlias, isMap, isScalar, isSeq, Parser, type ParsedNode } from "yaml";
import { KubeError } from "./errors.ts";
import { LineIndex, type Position, type Problem, type ProblemKind } from "./problem.ts";
import { isNull, valueOf, scalarText, type YamlContent, type YamlEntry, type YamlMapping, type YamlNode, type YamlScalar } from "./yaml-node.ts";

/** Limits of {@link parseManifest}. */
export interface ManifestLimits {
  /** Largest text, in UTF-16 units. */
  readonly maxLength: number;
  /** Most documents in one text. */
  readonly maxDocuments: number;
  /** Most aliases in one text. */
  readonly maxAliases: number;
  /** Most nodes of one document after aliases were followed: stops exponential expansion. */
  readonly maxNodes: number;
  /** Deepest nesting. */
  readonly maxDepth: number;
}

/**
 * 8 MiB is five times what etcd takes for one object, with room for many; real manifests nest less than 30 deep and have no
 * or few aliases.
 */
export const DEFAULT_MANIFEST_LIMITS: ManifestLimits = {
  maxLength: 8 * 1024 * 1024,
  maxDocuments: 2000,
  maxAliases: 1000,
  maxNodes: 500_000,
  maxDepth: 64,
};

/** A YAML text and the name that messages call it by. */
export interface SourceFile {
  readonly name: string;
  readonly text: string;
}

/** One Kubernetes object of a manifest: a document, or an item of a `List`. */
export interface KubeObject {
  readonly manifest: Manifest;
  /** Index among the documents of the text that are not null. */
  readonly document: number;
  /** Path from the document: empty, or `items[2]` in a List. */
  readonly path: string;
  readonly apiVersion: string;
  readonly kind: string;
  readonly node: YamlMapping;
}

/** A parsed text: its documents as trees and the objects in them. */
export interface Manifest {
  readonly file: SourceFile;
  /** Documents that are not null, in order. */
  readonly documents: readonly YamlContent[];
  /** Objects in order; the items of a List take its place. */
  readonly objects: readonly KubeObject[];
  positionOf(offset: number): Position;
}

/** The kind whose `items` are objects themselves. */
const LIST = "List";

/** Tags that say nothing new about a node. */
const CORE_TAGS: ReadonlySet<string> = new Set(["!", "tag:yaml.org,2002:str", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"]);

/**
 * Parses YAML 1.2 text of one or more documents into Kubernetes objects. Null documents (a trailing `---`) are skipped. Each
 * object must be a mapping with `apiVersion` and `kind`; nothing else is checked here.
 * @throws {KubeError} ERR_KUBE_YAML, ERR_KUBE_LIMIT, ERR_KUBE_MANIFEST; `problems` holds all that were found
 */
export function parseManifest(file: SourceFile, limits: ManifestLimits = DEFAULT_MANIFEST_LIMITS): Manifest {
  const lines = new LineIndex(file.name, file.text);
  const problem = (kind: ProblemKind, offset: number, message: string, path = ""): Problem => ({ kind, position: lines.positionOf(offset), path, message });
  const limit = (offset: number, message: string): KubeError => new KubeError("ERR_KUBE_LIMIT", [problem("limit", offset, message)]);

  if (file.text.length > limits.maxLength) throw limit(0, `the text has ${file.text.length} characters, more than the limit of ${limits.maxLength}`);
  const tokens = [...new Parser().parse(file.text)];
  const tooDeep = findTooDeep(tokens, limits.maxDepth);
  if (tooDeep !== undefined) throw limit(tooDeep, `nested deeper than ${limits.maxDepth}`);
  if (tokens.filter((token) => token.type === "document").length > limits.maxDocuments) throw limit(0, `more than ${limits.maxDocuments} documents`);

  // The failsafe schema leaves every scalar as text: types are decided by the readers, in scalarValue().
  // Keys are compared in TreeBuilder: the composer's own check takes time by the square of their number.
  const composer = new Composer({ schema: "failsafe", version: "1.2", uniqueKeys: false, prettyErrors: false });
  const problems: Problem[] = [];
  const documents: YamlContent[] = [];
  const builder = new TreeBuilder(limits, limit);
  for (const document of composer.compose(tokens)) {
    for (const error of document.errors) problems.push(problem("syntax", error.pos[0], `not YAML: ${error.message}`));
    if (document.errors.length > 0 || document.contents === null) continue;
    const content = builder.document(document.contents as ParsedNode);
    problems.push(...builder.takeProblems().map((found) => problem("syntax", found.offset, found.message)));
    if (!isNull(content)) documents.push(content);
  }
  if (problems.length > 0) throw new KubeError("ERR_KUBE_YAML", problems);

  const objects: KubeObject[] = [];
  const manifest: Manifest = { file, documents, objects, positionOf: (offset) => lines.positionOf(offset) };
  const addObject = (content: YamlContent, offset: number, document: number, path: string): void => {
    if (content.kind !== "mapping") {
      problems.push(problem("wrong-type", offset, `a Kubernetes object is a mapping with apiVersion and kind, found a ${content.kind}`, path));
      return;
    }
    const header = (name: string): string | undefined => {
      const value = valueOf(content, name);
      const text = value?.kind === "scalar" ? scalarText(value) : undefined;
      if (value === undefined) problems.push(problem("missing-field", offset, `no ${name}: this is not a Kubernetes object`, path));
      else if (text === undefined) problems.push(problem("wrong-type", value.start, `${name} must be text`, path));
      return text;
    };
    const apiVersion = header("apiVersion");
    const kind = header("kind");
    if (apiVersion === undefined || kind === undefined) return;
    if (kind !== LIST) {
      objects.push({ manifest, document, path, apiVersion, kind, node: content });
      return;
    }
    const items = valueOf(content, "items");
    if (items?.kind !== "sequence") {
      problems.push(problem("missing-field", items?.start ?? offset, "a List needs a sequence of items", path));
      return;
    }
    for (const [index, item] of items.items.entries()) {
      const itemContent = item.kind === "alias" ? item.target : item;
      addObject(itemContent, item.start, document, path === "" ? `items[${index}]` : `${path}.items[${index}]`);
    }
  };
  for (const [index, content] of documents.entries()) addObject(content, content.start, index, "");
  if (problems.length > 0) throw new KubeError("ERR_KUBE_MANIFEST", problems);
  return manifest;
}

/** Offset of the first token nested deeper than `maxDepth`. Iterative: the composer recurses, so hostile depth must not reach it. */
export function findTooDeep(tokens: readonly CST.Token[], maxDepth: number): number | undefined {
  const stack = tokens.map((token) => ({ token, depth: 0 }));
  for (let top = stack.pop(); top !== undefined; top = stack.pop()) {
    const { token, depth } = top;
    if (depth > maxDepth) return token.offset;
    const push = (child: CST.Token | null | undefined): void => {
      if (child !== null && child !== undefined) stack.push({ token: child, depth: depth + 1 });
    };
    if (token.type === "document") push(token.value);
    if (token.type === "block-map" || token.type === "block-seq" || token.type === "flow-collection") {
      for (const item of token.items) {
        push(item.key);
        push(item.value);
      }
    }
  }
  return undefined;
}

class TreeBuilder {
  readonly #limits: ManifestLimits;
  readonly #limit: (offset: number, message: string) => KubeError;
  #anchors = new Map<string, { readonly content: YamlContent; readonly size: number }>();
  #problems: { offset: number; message: string }[] = [];
  #aliases = 0;
  #nodes = 0;

  constructor(limits: ManifestLimits, limit: (offset: number, message: string) => KubeError) {
    this.#limits = limits;
    this.#limit = limit;
  }

  document(node: ParsedNode): YamlContent {
    // Anchors do not reach from one document to the next (YAML 1.2.2 section 3.2.2.2).
    this.#anchors = new Map();
    this.#nodes = 0;
    const built = this.#node(node);
    return built.kind === "alias" ? built.target : built;
  }

  takeProblems(): readonly { offset: number; message: string }[] {
    const problems = this.#problems;
    this.#problems = [];
    return problems;
  }

  #node(node: ParsedNode | null): YamlNode {
    const offset = node?.range[0] ?? 0;
    if (node === null) return nothingAt(0);
    const end = node.range[1];
    if (isAlias(node)) {
      if (++this.#aliases > this.#limits.maxAliases) throw this.#limit(offset, `more than ${this.#limits.maxAliases} aliases`);
      const anchor = this.#anchors.get(node.source);
      if (anchor === undefined) return this.#refuse(offset, `alias *${node.source} has no anchor before it that has ended`);
      this.#count(anchor.size, offset);
      return { kind: "alias", start: offset, end, name: node.source, target: anchor.content };
    }
    const before = this.#nodes;
    this.#count(1, offset);
    if (node.tag !== undefined && !CORE_TAGS.has(node.tag)) return this.#refuse(offset, `tag ${node.tag} is not supported`);
    const content = this.#content(node, offset, end);
    if (node.anchor !== undefined) this.#anchors.set(node.anchor, { content, size: this.#nodes - before });
    return content;
  }

  #content(node: Exclude<ParsedNode, { source: string; items?: never; type?: "ALIAS" } | null>, start: number, end: number): YamlContent {
    if (isScalar(node)) return this.#scalar(node as ParsedNode, start, end);
    if (isSeq(node)) {
      const items = node.items.map((item) => this.#node(item as ParsedNode));
      return { kind: "sequence", start, end, flow: node.flow === true, items };
    }
    if (isMap(node)) {
      const entries: YamlEntry[] = [];
      const keys = new Set<string>();
      for (const pair of node.items) {
        const keyNode = pair.key as ParsedNode | null;
        if (!isScalar(keyNode)) {
          this.#problems.push({ offset: keyNode?.range[0] ?? start, message: "a key must be a scalar" });
          continue;
        }
        const key = this.#scalar(keyNode, keyNode.range[0], keyNode.range[1]);
        if (keys.has(key.text)) this.#problems.push({ offset: key.start, message: `duplicate key ${JSON.stringify(key.text)}` });
        keys.add(key.text);
        const value = pair.value as ParsedNode | null;
        entries.push({ key, value: value === null ? nothingAt(key.end) : this.#node(value) });
      }
      return { kind: "mapping", start, end, flow: node.flow === true, entries };
    }
    return this.#refuse(start, "unexpected node");
  }

  #scalar(node: ParsedNode, start: number, end: number): YamlScalar {
    if (!isScalar(node)) return this.#refuse(start, "a scalar was expected");
    const style =
      node.type === "QUOTE_DOUBLE" ? "double" : node.type === "QUOTE_SINGLE" ? "single" : node.type?.startsWith("BLOCK") === true ? "block" : "plain";
    return { kind: "scalar", start, end, style, text: String(node.value), taggedText: node.tag !== undefined };
  }

  #refuse(offset: number, message: string): YamlScalar {
    this.#problems.push({ offset, message });
    return nothingAt(offset);
  }

  #count(nodes: number, offset: number): void {
    this.#nodes += nodes;
    if (this.#nodes > this.#limits.maxNodes) throw this.#limit(offset, `more than ${this.#limits.maxNodes} nodes after aliases were followed`);
  }
}

function nothingAt(offset: number): YamlScalar {
  return { kind: "scalar", start: offset, end: offset, style: "plain", text: "", taggedText: false };
}
