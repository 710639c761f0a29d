/**
 * The YAML tree that the rest of this package reads: values with the offsets they came from. Only what a manifest needs:
 * scalars stay text until a reader asks for a type, so the author's spelling is never lost.
 */

/** A scalar and how it was written. */
export interface YamlScalar {
  readonly kind: "scalar";
  /** Offset of the first UTF-16 unit of the value, after anchors and tags. */
  readonly start: number;
  /** Offset after the value, before trailing spaces and comments. */
  readonly end: number;
  readonly style: "plain" | "single" | "double" | "block";
  /** The text after unquoting and folding; empty for a value that is not written at all. */
  readonly text: string;
  /** True if a `!!str` tag makes a plain scalar text. */
  readonly taggedText: boolean;
}

/** A sequence. */
export interface YamlSequence {
  readonly kind: "sequence";
  readonly start: number;
  readonly end: number;
  /** True for `[a, b]`. */
  readonly flow: boolean;
  readonly items: readonly YamlNode[];
}

/** A mapping whose keys are scalars, each used once. */
export interface YamlMapping {
  readonly kind: "mapping";
  readonly start: number;
  readonly end: number;
  /** True for `{a: b}`. */
  readonly flow: boolean;
  readonly entries: readonly YamlEntry[];
}

/** A reference `*name` to an anchored node that stands earlier in the document. */
export interface YamlAlias {
  readonly kind: "alias";
  readonly start: number;
  readonly end: number;
  readonly name: string;
  readonly target: YamlContent;
}

/** One entry of a mapping. */
export interface YamlEntry {
  readonly key: YamlScalar;
  readonly value: YamlNode;
}

/** A node that is not an alias. */
export type YamlContent = YamlScalar | YamlSequence | YamlMapping;

/** Any node. */
export type YamlNode = YamlContent | YamlAlias;

/** The node itself, or what an alias stands for. */
export function contentOf(node: YamlNode): YamlContent {
  return node.kind === "alias" ? node.target : node;
}

/** The entry of `key`, if there is one. */
export function entryOf(mapping: YamlMapping, key: string): YamlEntry | undefined {
  return mapping.entries.find((entry) => entry.key.text === key);
}

/** The value of `key`, aliases followed, if there is one. */
export function valueOf(mapping: YamlMapping, key: string): YamlContent | undefined {
  const entry = entryOf(mapping, key);
  return entry === undefined ? undefined : contentOf(entry.value);
}

/** Value of a scalar by the YAML 1.2 core schema. Numbers beyond 2^53 are `bigint`. */
export type ScalarValue = null | boolean | number | bigint | string;

const NULL = /^(?:|~|null|Null|NULL)$/;
const TRUE = /^(?:true|True|TRUE)$/;
const FALSE = /^(?:false|False|FALSE)$/;
// Integers with leading zeros stay text, as the known tool reads them: 1.1 readers take them for octal, 1.2 readers for decimal.
const INTEGER = /^[-+]?(?:0|[1-9][0-9]*)$/;
const RADIX = /^0(?:o[0-7]+|x[0-9a-fA-F]+)$/;
const FLOAT = /^[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$/;
const NOT_FINITE = /^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$/;

/**
 * Longest integer, in characters; Kubernetes has none of more than 64 bits. Making an integer of its digits, and digits of the integer, takes time that grows faster than their
 * count, so longer ones are the text that they stand for.
 */
const MAX_INTEGER = 128;

/** Value of a scalar by the YAML 1.2 core schema (YAML 1.2.2 section 10.3.2), except that integers with leading zeros are text. */
export function scalarValue(scalar: YamlScalar): ScalarValue {
  const { text } = scalar;
  if (scalar.style !== "plain" || scalar.taggedText) return text;
  if (NULL.test(text)) return null;
  if (TRUE.test(text)) return true;
  if (FALSE.test(text)) return false;
  if (INTEGER.test(text) || RADIX.test(text)) {
    if (text.length > MAX_INTEGER) return text;
    const value = BigInt(text.startsWith("+") ? text.slice(1) : text);
    return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  }
  if (FLOAT.test(text) && Number.isFinite(Number(text))) return Number(text);
  return text;
}

/** True if the scalar is YAML's null: not written, `~` or `null`. */
export function isNull(node: YamlContent): boolean {
  return node.kind === "scalar" && scalarValue(node) === null;
}

/**
 * Text of a scalar where a string is wanted. Unquoted numbers and booleans are taken in canonical spelling, as the known tool
 * does (`port: 80`, `value: 1`); null has no text.
 */
export function scalarText(scalar: YamlScalar): string | undefined {
  const value = scalarValue(scalar);
  if (value === null) return undefined;
  if (typeof value === "number" && !isIntegerText(scalar.text)) return floatText(value);
  return String(value);
}

/** True if a plain scalar of this text would not be read back as the text itself. */
export function isAmbiguousPlain(text: string): boolean {
  return (
    NULL.test(text) ||
    NOT_FINITE.test(text) ||
    FLOAT.test(text) ||
    RADIX.test(text) ||
    // YAML 1.1 readers, kubectl among them, also know these.
    /^(?:true|false|yes|no|on|off|y|n)$/i.test(text) ||
    /^[-+.0-9]/.test(text)
  );
}

function isIntegerText(text: string): boolean {
  return INTEGER.test(text) || RADIX.test(text);
}

function floatText(value: number): string {
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e16 || size < 1e-5)) return value.toExponential().replace("e+", "e");
  const text = String(value);
  return text.includes(".") ? text : `${text}.0`;
}
