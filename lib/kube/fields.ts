import { unknownFieldHint } from "./hints.ts";
import type { Position, Problem, ProblemKind } from "./problem.ts";
import { contentOf, isNull, scalarValue, type YamlContent, type YamlEntry, type YamlMapping, type YamlNode } from "./yaml-node.ts";

/** Where typed readers put what they find wrong, instead of stopping at the first problem. */
export interface ProblemSink {
  positionOf(offset: number): Position;
  /** @throws {KubeError} if there are too many problems already */
  report(problem: Problem): void;
  /** What is no error, but should be known. */
  warn(problem: Problem): void;
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

  /** Notes something here that is no error. */
  warn(kind: ProblemKind, message: string, position: Position = this.position): void {
    this.#sink.warn({ kind, position, path: this.path, message });
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

  /** Reads fields only to find what is wrong in them: they say nothing about the policy. */
  check(readers: FieldReaders): void {
    for (const [name, read] of Object.entries(readers)) this.optional(name, read);
  }

  /** Fields whose values are nobody's concern here. */
  ignore(...names: readonly string[]): void {
    for (const name of names) this.#known.add(name);
  }

  /** Where the field `name` is written, if it is. */
  find(name: string): Cursor | undefined {
    const entry = this.#entry(name);
    return entry === undefined || isNull(contentOf(entry.value)) ? undefined : this.cursor.at(entry.value, name);
  }

  /** Names in the order of the file. */
  names(): readonly string[] {
    return this.#mapping.entries.map(({ key }) => key.text);
  }

  /** Reports every field that no reader asked for. */
  done(): void {
    for (const { key } of this.#mapping.entries) {
      if (!this.#known.has(key.text)) this.cursor.at(key, key.text).refuse("unknown-field", `unsupported field${unknownFieldHint(key.text, this.#known)}`);
    }
  }

  #entry(name: string): YamlEntry | undefined {
    this.#known.add(name);
    return this.#mapping.entries.find((entry) => entry.key.text === name);
  }
}

/** What reads each field of a mapping. */
export type FieldReaders = Readonly<Record<string, Read<unknown>>>;

/** A mapping whose fields `read` takes; those that it leaves are unknown. */
export function object<T>(read: (fields: Fields, at: Cursor) => T | undefined): Read<T> {
  return (at) => {
    const fields = at.fields();
    if (fields === undefined) return undefined;
    const value = read(fields, at);
    fields.done();
    return value;
  };
}

/** A mapping with these fields and no others, of which nothing is kept. */
export function record(readers: FieldReaders): Read<true> {
  return object((fields) => {
    fields.check(readers);
    return true;
  });
}

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

/** A node in words, for messages. */
export function describe(node: YamlContent): string {
  if (node.kind !== "scalar") return `a ${node.kind}`;
  const value = scalarValue(node);
  if (value === null) return "nothing";
  if (typeof value !== "string") return String(value);
  return `"${value.length > 40 ? `${value.slice(0, 40)}…` : value}"`;
}
