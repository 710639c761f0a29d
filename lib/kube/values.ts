import { describe, type Read } from "./fields.ts";
import { kubectlKey, kubectlReading } from "./kubectl-yaml.ts";
import { scalarText, scalarValue, type YamlScalar } from "./yaml-node.ts";

/** Anything: for parts of an object that only the API server understands. */
export const anything: Read<true> = () => true;

/** Text; unquoted numbers and booleans are taken as text, with a warning where kubectl makes other text of them. */
export const text: Read<string> = (at) => {
  const reading = at.node.kind === "scalar" ? kubectlReading(at.node) : undefined;
  // The message never shows the value: it may be that of a Secret.
  if (reading !== undefined && reading.type !== "null" && at.node.kind === "scalar" && reading.json !== at.node.text)
    at.warn("bad-value", `kubectl reads this as a ${reading.type}, not as the text that stands here: put it in quotes`);
  return anyText(at);
};

const anyText: Read<string> = (at) => {
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

/** A TCP or UDP port. */
export const portNumber: Read<number> = integer(1, 65_535);

/** `int32` of the API where it is a count or a time. */
export const count: Read<number> = integer(0, 0x7fff_ffff);

/** `int64` of the API where it is a time; beyond 2^53 it is no number anybody means. */
export const seconds: Read<number> = integer(0, Number.MAX_SAFE_INTEGER);

/** A whole number, negative ones too. */
export const signed: Read<number> = integer(-0x8000_0000, 0x7fff_ffff);

/** A number of things, or a percentage or the name of a port. */
export const numberOrText: Read<string> = text;

/** One of the words that the API knows. */
export function oneOf<T extends string>(...words: readonly T[]): Read<T> {
  return (at) => {
    const value = text(at);
    if (value === undefined) return undefined;
    return words.find((word) => word === value) ?? at.refuse("bad-value", `expected ${wordList(words)}, found ${describe(at.node)}`);
  };
}

function wordList(words: readonly string[]): string {
  const quoted = words.map((word) => JSON.stringify(word));
  return quoted.length < 2 ? quoted.join("") : `${quoted.slice(0, -1).join(", ")} or ${quoted.at(-1)}`;
}

/** Text of a form that `test` tells; `what` is what it should be. */
export function textLike(test: (value: string) => boolean, what: string): Read<string> {
  return (at) => {
    const value = text(at);
    return value === undefined || test(value) ? value : at.refuse("bad-value", `expected ${what}, found ${describe(at.node)}`);
  };
}

/** A mapping from text to values, in the order of the file; `checkKey` says what is wrong with a key, if anything is. */
export function mapOf<T>(read: Read<T>, checkKey?: (key: string) => string | undefined): Read<ReadonlyMap<string, T>> {
  return (at) => {
    if (at.node.kind !== "mapping") return at.refuse("wrong-type", `expected a mapping of text, found ${describe(at.node)}`);
    const map = new Map<string, T>();
    for (const { key, value } of at.node.entries) {
      const wrong = checkKey?.(key.text) ?? otherKey(key);
      if (wrong !== undefined) at.at(key, key.text).refuse("bad-value", wrong);
      const found = read(at.at(value, key.text));
      if (found !== undefined) map.set(key.text, found);
    }
    return map;
  };
}

/** Under the key that kubectl makes of it the value would be in another file or variable, or in the place of another. */
function otherKey(key: YamlScalar): string | undefined {
  const type = kubectlKey(key);
  return type === undefined
    ? undefined
    : `kubectl reads this key as ${type === "null" ? "null" : `a ${type}`}, not as the text that stands here: put it in quotes`;
}

/** A mapping from text to text. */
export const textMap: Read<ReadonlyMap<string, string>> = mapOf(text);

const QUANTITY = /^[-+]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[KMGTPE]i|[numkMGTPE]|[eE][-+]?[0-9]{1,4})?$/;

/** An amount as it is written, such as `512Mi` or `0.5`. */
export const quantity: Read<string> = (at) => {
  const value = anyText(at);
  if (value === undefined) return undefined;
  if (!QUANTITY.test(value)) return at.refuse("bad-value", `expected a quantity such as 500m or 512Mi, found ${describe(at.node)}`);
  const reading = at.node.kind === "scalar" ? kubectlReading(at.node) : undefined;
  // The API server takes numbers for amounts, so kubectl's octal 010 is an amount of 8.
  return reading === undefined || Number(reading.json) === Number(value)
    ? value
    : at.refuse("bad-value", `kubectl reads ${value} as the number ${reading.json}: write that, or put it in quotes`);
};

/** Amounts by the name of the resource. */
export const quantities: Read<ReadonlyMap<string, string>> = mapOf(quantity);

/**
 * Permission bits of a file. kubectl reads `0644` as octal (YAML 1.1), so that is what people write; 420 is the same. Bits
 * beyond 0777 are refused, as the API server does: `644` without the zero is one of those.
 */
export const fileMode: Read<number> = (at) => {
  const { node } = at;
  const octal = node.kind === "scalar" && node.style === "plain" && !node.taggedText ? /^0o?([0-7]{1,6})$/.exec(node.text) : null;
  const value = octal === null ? (node.kind === "scalar" ? scalarValue(node) : undefined) : Number.parseInt(octal[1] ?? "", 8);
  if (typeof value !== "number" || !Number.isInteger(value)) return at.refuse("wrong-type", `expected a file mode such as 0644, found ${describe(node)}`);
  return value >= 0 && value <= 0o777
    ? value
    : at.refuse("bad-value", `expected a file mode from 0 to 0777, found ${value}, which is 0${value.toString(8)} in octal`);
};
