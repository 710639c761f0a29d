import { isAlias, isMap, isScalar, isSeq, type ParsedNode } from "yaml";
import type { KubeError } from "./errors.ts";
import { findEscapedBreakBeforeBlank, type Finding } from "./kubectl-yaml.ts";
import type { ManifestLimits } from "./manifest.ts";
import type { YamlContent, YamlEntry, YamlNode, YamlScalar } from "./yaml-node.ts";

/** Tags that say nothing new about a node. */
const CORE_TAGS: ReadonlySet<string> = new Set(["!", "tag:yaml.org,2002:str", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"]);

/** Makes trees of the documents of one text, from the nodes of the yaml package; what is wrong in them is collected. */
export class TreeBuilder {
  readonly #text: string;
  readonly #limits: ManifestLimits;
  readonly #limit: (offset: number, message: string) => KubeError;
  #anchors = new Map<string, { readonly content: YamlContent; readonly size: number }>();
  #problems: Finding[] = [];
  #aliases = 0;
  #nodes = 0;

  constructor(text: string, limits: ManifestLimits, limit: (offset: number, message: string) => KubeError) {
    this.#text = text;
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

  takeProblems(): readonly Finding[] {
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
    if (!this.#isCoreTag(node)) return nothingAt(offset);
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
        // A key of another tag is not the text that stands there.
        if (!this.#isCoreTag(keyNode)) continue;
        const key = this.#scalar(keyNode, keyNode.range[0], keyNode.range[1]);
        if (keys.has(key.text)) this.#problems.push({ offset: key.start, message: `duplicate key ${JSON.stringify(key.text)}` });
        keys.add(key.text);
        const value = pair.value as ParsedNode | null;
        // kubectl merges what stands there into the mapping, a whole pod into a Service if it likes.
        if (key.text === "<<" && value !== null && !isScalar(value))
          this.#problems.push({ offset: key.start, message: "YAML merge keys are not supported: write the fields out" });
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
    const lost = style === "double" ? findEscapedBreakBeforeBlank(this.#text.slice(start, end)) : undefined;
    if (lost !== undefined)
      return this.#refuse(start + lost, "a blank line after an escaped line break is read in different ways: remove the blank line, or write \\n for it");
    return { kind: "scalar", start, end, style, text: String(node.value), taggedText: node.tag !== undefined };
  }

  #isCoreTag(node: { readonly tag?: string | undefined; readonly range: readonly [number, ...unknown[]] }): boolean {
    if (node.tag === undefined || CORE_TAGS.has(node.tag)) return true;
    this.#problems.push({ offset: node.range[0], message: `tag ${node.tag} is not supported` });
    return false;
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
