import { Composer, CST, Lexer, Parser, type ParsedNode } from "yaml";
import { KubeError } from "./errors.ts";
import { itemKindOf } from "./kinds.ts";
import { findHiddenLineBreaks } from "./kubectl-yaml.ts";
import { byPosition, LineIndex, MAX_PROBLEMS, type Position, type Problem, type ProblemKind } from "./problem.ts";
import { TreeBuilder } from "./tree-builder.ts";
import { contentOf, entryOf, isNull, scalarText, valueOf, type YamlContent, type YamlMapping, type YamlNode } from "./yaml-node.ts";

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
  /** Objects in order; the items of a List or of a typed list such as PodList take its place, as kubectl has it. */
  readonly objects: readonly KubeObject[];
  positionOf(offset: number): Position;
}

/**
 * Parses YAML 1.2 text of one or more documents into Kubernetes objects. Null documents (a trailing `---`) are skipped. Each
 * object must be a mapping with `apiVersion` and `kind`; nothing else is checked here.
 * @throws {KubeError} ERR_KUBE_YAML, ERR_KUBE_LIMIT, ERR_KUBE_MANIFEST; `problems` holds all that were found
 */
export function parseManifest(file: SourceFile, limits: ManifestLimits = DEFAULT_MANIFEST_LIMITS): Manifest {
  const { manifest, problems } = scanManifest(file, limits);
  if (problems.length === 0) return manifest;
  throw new KubeError(problems.some(({ kind }) => kind === "syntax") ? "ERR_KUBE_YAML" : "ERR_KUBE_MANIFEST", problems);
}

/**
 * What can be parsed of a text, and what is wrong with the rest of it.
 * @throws {KubeError} ERR_KUBE_LIMIT
 */
export function scanManifest(file: SourceFile, limits: ManifestLimits): { readonly manifest: Manifest; readonly problems: readonly Problem[] } {
  const lines = new LineIndex(file.name, file.text);
  const problem = (kind: ProblemKind, offset: number, message: string, path = ""): Problem => ({ kind, position: lines.positionOf(offset), path, message });
  const limit = (offset: number, message: string): KubeError => new KubeError("ERR_KUBE_LIMIT", [problem("limit", offset, message)]);

  if (file.text.length > limits.maxLength) throw limit(0, `the text has ${file.text.length} characters, more than the limit of ${limits.maxLength}`);
  const hidden = findHiddenLineBreaks(file.text, MAX_PROBLEMS);
  if (hidden.length > 0) {
    // Whatever else is found would be about other lines than kubectl has.
    const manifest: Manifest = { file, documents: [], objects: [], positionOf: (offset) => lines.positionOf(offset) };
    return { manifest, problems: hidden.map(({ offset, message }) => problem("syntax", offset, message)) };
  }
  const tokens = parseTokens(file.text);
  const tooDeep = findTooDeep(tokens, limits.maxDepth);
  if (tooDeep !== undefined) throw limit(tooDeep, `nested deeper than ${limits.maxDepth}`);
  if (tokens.filter((token) => token.type === "document").length > limits.maxDocuments) throw limit(0, `more than ${limits.maxDocuments} documents`);

  // The failsafe schema leaves every scalar as text: types are decided by the readers, in scalarValue().
  // Keys are compared in TreeBuilder: the composer's own check takes time by the square of their number.
  const composer = new Composer({ schema: "failsafe", version: "1.2", uniqueKeys: false, prettyErrors: false });
  const problems: Problem[] = [];
  const documents: YamlContent[] = [];
  const builder = new TreeBuilder(file.text, limits, limit);
  for (const document of composer.compose(tokens)) {
    if (problems.length >= MAX_PROBLEMS) break;
    for (const error of document.errors) problems.push(problem("syntax", error.pos[0], `not YAML: ${error.message}${indentationHint(error.message)}`));
    if (document.errors.length > 0 || document.contents === null) continue;
    const content = builder.document(document.contents as ParsedNode);
    const found = builder.takeProblems();
    for (const { offset, message } of found) problems.push(problem("syntax", offset, message));
    if (found.length === 0 && !isNull(content)) documents.push(content);
  }

  const objects: KubeObject[] = [];
  const manifest: Manifest = { file, documents, objects, positionOf: (offset) => lines.positionOf(offset) };
  const addObject = (node: YamlNode, document: number, path: string, listed?: TypeMeta): void => {
    const content = contentOf(node);
    const offset = node.start;
    if (content.kind !== "mapping") {
      problems.push(problem("wrong-type", offset, `a Kubernetes object is a mapping with apiVersion and kind, found a ${content.kind}`, path));
      return;
    }
    const header = (name: keyof TypeMeta): string | undefined => {
      const value = valueOf(content, name);
      const text = value?.kind === "scalar" ? scalarText(value) : undefined;
      if (value === undefined && listed !== undefined) return listed[name];
      if (value === undefined) problems.push(problem("missing-field", offset, `no ${name}: this is not a Kubernetes object`, path));
      else if (text === undefined) problems.push(problem("wrong-type", value.start, `${name} must be text`, path));
      return text;
    };
    const apiVersion = header("apiVersion");
    const kind = header("kind");
    if (apiVersion === undefined || kind === undefined) return;
    const entry = entryOf(content, "items");
    const under = (step: string): string => (path === "" ? step : `${path}.${step}`);
    // kubectl takes whatever has items for a list, and sends those instead of the object itself.
    if (entry !== undefined && !kind.endsWith("List")) {
      const message = `kubectl would send these items and not the ${kind}: remove items, or write kind: List`;
      problems.push(problem("bad-value", entry.key.start, message, under("items")));
      return;
    }
    const itemKind = itemKindOf(kind, entry !== undefined);
    if (kind !== "List" && itemKind === undefined) {
      objects.push({ manifest, document, path, apiVersion, kind, node: content });
      return;
    }
    const items = entry === undefined ? undefined : contentOf(entry.value);
    if (items?.kind !== "sequence") {
      problems.push(problem("missing-field", items?.start ?? offset, `a ${kind} needs a sequence of items`, path));
      return;
    }
    // The API server leaves the type out of the items of a typed list: it is that of the list.
    const type = itemKind === undefined ? undefined : { apiVersion, kind: itemKind };
    for (const [index, item] of items.items.entries()) addObject(item, document, under(`items[${index}]`), type);
  };
  for (const [index, content] of documents.entries()) addObject(content, index, "");
  return { manifest, problems: problems.sort(byPosition).slice(0, MAX_PROBLEMS) };
}

/** What says what an object is. */
interface TypeMeta {
  readonly apiVersion: string;
  readonly kind: string;
}

/**
 * Tokens of a text. Files that were put together can have a byte order mark after a `---`: it is in no token, and kubectl
 * does not see it either.
 */
function parseTokens(text: string): readonly CST.Token[] {
  const marks = [...text.matchAll(/^---[ \t]*\r?\n(?=\uFEFF)/gm)].map((match) => match.index + match[0].length);
  if (marks.length === 0) return [...new Parser().parse(text)];
  const parser = new Parser();
  const tokens: CST.Token[] = [];
  for (const [index, end] of [...marks, text.length].entries()) {
    const start = index === 0 ? 0 : (marks[index - 1] ?? 0) + CST.BOM.length;
    parser.offset = start;
    let opened = index === 0;
    for (const lexeme of new Lexer().lex(text.slice(start, end))) {
      // The document was opened by its ---.
      if (!opened && lexeme === CST.DOCUMENT) opened = true;
      else for (const token of parser.next(lexeme)) tokens.push(token);
    }
  }
  for (const token of parser.end()) tokens.push(token);
  return tokens;
}

/** Ends the parser's message where the text may be good for libyaml: it lets lines start further left than YAML 1.2 does. */
function indentationHint(message: string): string {
  return /^Missing closing ["']quote$|^Flow .* indented/.test(message) ? "; its lines must be indented more than the line that it starts in" : "";
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
