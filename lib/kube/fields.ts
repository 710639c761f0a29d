import type { Position, Problem, ProblemKind } from "./problem.ts";
import { contentOf, isNull, scalarText, scalarValue, type YamlContent, type YamlEntry, type YamlMapping, type YamlNode } from "./yaml-node.ts";

/** Where typed readers put what they find wrong, instead of stopping at the first problem. */
export interface ProblemSink {
  positionOf(offset: number): Position;
  report(problem: Problem): void;
}

/** Reads a value at a cursor; undefined after reporting why it could not. */
export type Read<T> = (at: Cursor) => T | undefined;

/** A node, its path, and the sink for problems. */
export class Cursor {
  readonly node: YamlContent;
  readonly path: string;
  /** Where the value is written; for an alias, the place of the alias. */
  readonly offset: number;
  readonly #sink: ProblemSink;

  constructor(node: YamlNode, path: string, sink: ProblemSink) {
    this.node = contentOf(node);
    this.path = path;
    this.offset = node.start;
    this.#sink = sink;
  }

  get position(): Position {
    return this.#sink.positionOf(this.offset);
  }

  /** Reports a problem here and returns undefined, so that readers can end with it. */
  refuse(kind: ProblemKind, message: string, position: Position = this.position): undefined {
    this.#sink.report({ kind, position, path: this.path, message });
    return undefined;
  }

  at(node: YamlNode, step: string): Cursor {
    return new Cursor(node, this.path === "" || step.startsWith("[") ? `${this.path}${step}` : `${this.path}.${step}`, this.#sink);
  }

  /** The entries as fields. */
  fields(): Fields | undefined {
    return this.node.kind === "mapping" ? new Fields(this, this.node) : this.refuse("wrong-type", `expected a mapping, found ${describe(this.node)}`);
  }
}

/** The entries of a mapping: each is read or ignored by name, and {@link done} reports what is left. */
export class Fields {
  readonly cursor: Cursor;
  readonly #mapping: YamlMapping;
  readonly #known = new Set<string>();

  constructor(cursor: Cursor, mapping: YamlMapping) {
    this.cursor = cursor;
    this.#mapping = mapping;
  }

  /** The value of `name`, or undefined if it is absent, null or not readable. */
  optional<T>(name: string, read: Read<T>): T | undefined {
    const entry = this.#entry(name);
    return entry === undefined || isNull(contentOf(entry.value)) ? undefined : read(this.cursor.at(entry.value, name));
  }

  /** The value of `name`; `fallback` stands in after a problem was reported, so that reading can go on. */
  required<T>(name: string, read: Read<T>, fallback: T): T {
    const entry = this.#entry(name);
    if (entry === undefined) {
      this.cursor.refuse("missing-field", `no ${name}`);
      return fallback;
    }
    return read(this.cursor.at(entry.value, name)) ?? fallback;
  }

  /** The items of the sequence `name`; empty if absent. */
  list<T>(name: string, read: Read<T>): readonly T[] {
    return this.optional(name, listOf(read)) ?? [];
  }

  /** Fields that say nothing about the policy. */
  ignore(...names: readonly string[]): void {
    for (const name of names) this.#known.add(name);
  }

  /** Reports every field that no reader asked for. */
  done(): void {
    for (const { key, value } of this.#mapping.entries) {
      if (this.#known.has(key.text)) continue;
      const at = this.cursor.at(key, key.text);
      // kubectl would merge these fields into the mapping and genpolicy would not see them: never a mere warning.
      if (key.text === "<<" && value.kind !== "scalar") at.refuse("bad-value", "YAML merge keys are not supported: write the fields out");
      else at.refuse("unknown-field", "unsupported field");
    }
  }

  #entry(name: string): YamlEntry | undefined {
    this.#known.add(name);
    return this.#mapping.entries.find((entry) => entry.key.text === name);
  }
}

/** Text; unquoted numbers and booleans are taken as text. */
export const text: Read<string> = (at) => {
  const value = at.node.kind === "scalar" ? scalarText(at.node) : undefined;
  return value ?? at.refuse("wrong-type", `expected text, found ${describe(at.node)}`);
};

/** `true` or `false`. */
export const boolean: Read<boolean> = (at) => {
  const value = at.node.kind === "scalar" ? scalarValue(at.node) : undefined;
  return typeof value === "boolean" ? value : at.refuse("wrong-type", `expected true or false, found ${describe(at.node)}`);
};

/** A whole number from `minimum` to `maximum`. */
export function integer(minimum: number, maximum: number): Read<number> {
  return (at) => {
    const value = at.node.kind === "scalar" ? scalarValue(at.node) : undefined;
    return typeof value === "number" && Number.isInteger(value) && value >= minimum && value <= maximum
      ? value
      : at.refuse("wrong-type", `expected a whole number from ${minimum} to ${maximum}, found ${describe(at.node)}`);
  };
}

/** A Linux user or group id. */
export const unixId: Read<number> = integer(0, 0xffff_ffff);

/** A sequence of values. */
export function listOf<T>(read: Read<T>): Read<readonly T[]> {
  return (at) => {
    if (at.node.kind !== "sequence") return at.refuse("wrong-type", `expected a sequence, found ${describe(at.node)}`);
    return at.node.items.flatMap((item, index) => {
      const value = read(at.at(item, `[${index}]`));
      return value === undefined ? [] : [value];
    });
  };
}

/** A mapping from text to text, in the order of the file. */
export const textMap: Read<ReadonlyMap<string, string>> = (at) => {
  if (at.node.kind !== "mapping") return at.refuse("wrong-type", `expected a mapping of text, found ${describe(at.node)}`);
  const map = new Map<string, string>();
  for (const { key, value } of at.node.entries) {
    const item = text(at.at(value, key.text));
    if (item !== undefined) map.set(key.text, item);
  }
  return map;
};

function describe(node: YamlContent): string {
  if (node.kind !== "scalar") return `a ${node.kind}`;
  const value = scalarValue(node);
  if (value === null) return "nothing";
  if (typeof value !== "string") return String(value);
  return `"${value.length > 40 ? `${value.slice(0, 40)}…` : value}"`;
}
