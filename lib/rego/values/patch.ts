import type { Meter } from "./compare.ts";
import { equalValues } from "./compare.ts";
import { keyText } from "./json.ts";
import type { RegoArray, Value } from "./value.ts";
import { isArray, RegoObject, RegoSet } from "./value.ts";

/** Why a patch does not apply. */
export class PatchError extends Error {}

/** One operation of RFC 6902 with its paths already split. */
export interface PatchStep {
  readonly op: "add" | "remove" | "replace" | "move" | "copy" | "test";
  readonly path: readonly Value[];
  readonly from?: readonly Value[];
  readonly value?: Value;
}

/** Splits a JSON pointer (RFC 6901). With `lenient` a missing leading slash is forgiven, as in OPA's builtins. */
export function parsePointer(pointer: string, lenient = false): readonly string[] {
  if (pointer === "") return [];
  if (!pointer.startsWith("/")) {
    if (!lenient) throw new PatchError(`JSON pointer ${JSON.stringify(pointer)} does not start with "/"`);
    return pointer.split("/").map(unescapeToken);
  }
  return pointer.slice(1).split("/").map(unescapeToken);
}

function unescapeToken(token: string): string {
  return token.replaceAll("~1", "/").replaceAll("~0", "~");
}

/** Applies the operations in order and returns the new document; the old one is untouched, so a failure changes nothing. The meter counts comparisons. */
export function applyPatch(document: Value, steps: Iterable<PatchStep>, meter?: Meter): Value {
  const patch = new Patch(meter);
  // A document may be removed as a whole if another one is added in its place.
  let result: Value | undefined = document;
  for (const step of steps) result = patch.apply(result, step);
  if (result === undefined) throw new PatchError("the whole document cannot be removed");
  return result;
}

function given(step: PatchStep): Value {
  if (step.value === undefined) throw new PatchError(`"${step.op}" of ${show(step.path)} has no value`);
  return step.value;
}

function origin(step: PatchStep): readonly Value[] {
  if (step.from === undefined) throw new PatchError(`"${step.op}" to ${show(step.path)} has no "from"`);
  return step.from;
}

function show(path: readonly Value[]): string {
  return JSON.stringify(`/${path.map((token) => (typeof token === "string" ? token.replaceAll("~", "~0").replaceAll("/", "~1") : keyText(token))).join("/")}`);
}

/** Index of an array that a token names; `length` allows the place behind the last item. */
function index(array: RegoArray, token: Value, limit: number, path: readonly Value[]): number {
  let at: number;
  if (typeof token === "number") at = token;
  else if (typeof token === "string" && isIndexText(token)) at = Number(token);
  else throw new PatchError(`${show(path)}: ${keyText(token)} is not an array index`);
  if (!Number.isInteger(at) || at < 0 || at > limit) throw new PatchError(`${show(path)}: index ${at} is not in an array of ${array.length}`);
  return at;
}

/** RFC 6901 section 4: digits without leading zeros. */
function isIndexText(token: string): boolean {
  if (token.length === 0 || token.length > 9 || (token.length > 1 && token.startsWith("0"))) return false;
  for (const char of token) if (char < "0" || char > "9") return false;
  return true;
}

function child(parent: Value, token: Value, path: readonly Value[]): Value {
  if (parent instanceof RegoObject) {
    const value = parent.get(token);
    if (value !== undefined) return value;
  } else if (isArray(parent)) {
    return parent[index(parent, token, parent.length - 1, path)]!;
  } else if (parent instanceof RegoSet) {
    if (parent.has(token)) return token;
  }
  throw new PatchError(`${show(path)} does not exist`);
}

function find(document: Value, path: readonly Value[]): Value {
  let value = document;
  for (const token of path) value = child(value, token, path);
  return value;
}

/**
 * One run of operations. What it copied once belongs to it and is changed in place after that, so that a thousand
 * additions to one object do not copy it a thousand times.
 */
class Patch {
  readonly #own = new Set<Value>();
  readonly #meter: Meter | undefined;

  constructor(meter: Meter | undefined) {
    this.#meter = meter;
  }

  apply(document: Value | undefined, step: PatchStep): Value | undefined {
    if (document === undefined) {
      if (step.op !== "add" || step.path.length > 0) throw new PatchError(`${show(step.path)} does not exist: the document was removed`);
      return given(step);
    }
    switch (step.op) {
      case "add":
        return this.#insert(document, step.path, 0, given(step), "add");
      case "replace":
        return this.#insert(document, step.path, 0, given(step), "replace");
      case "remove":
        return step.path.length === 0 ? undefined : this.#remove(document, step.path, 0);
      case "copy": {
        const value = find(document, origin(step));
        // From here on the value stands in two places: nothing in it may be changed in place.
        this.#own.clear();
        return this.#insert(document, step.path, 0, value, "add");
      }
      case "move": {
        const from = origin(step);
        const value = find(document, from);
        // RFC 6902 section 4.4: a location cannot be moved into one of its children.
        if (from.length === 0 && step.path.length === 0) return document;
        if (from.length < step.path.length && from.every((token, at) => equalValues(token, step.path[at]!))) {
          throw new PatchError(`cannot move ${show(from)} into itself`);
        }
        return this.#insert(this.#remove(document, from, 0), step.path, 0, value, "add");
      }
      case "test":
        if (!equalValues(find(document, step.path), given(step), this.#meter)) throw new PatchError(`test of ${show(step.path)} failed`);
        return document;
    }
  }

  #ownObject(object: RegoObject): RegoObject {
    if (this.#own.has(object)) return object;
    const copy = object.copy();
    this.#own.add(copy);
    return copy;
  }

  #ownArray(array: RegoArray): Value[] {
    const copy = this.#own.has(array) ? (array as Value[]) : array.slice();
    this.#own.add(copy);
    return copy;
  }

  #withChild(parent: Value, token: Value, value: Value, path: readonly Value[]): Value {
    if (parent instanceof RegoObject) {
      const own = this.#ownObject(parent);
      own.put(token, value);
      return own;
    }
    if (isArray(parent)) {
      const at = index(parent, token, parent.length - 1, path);
      const own = this.#ownArray(parent);
      own[at] = value;
      return own;
    }
    if (parent instanceof RegoSet) return RegoSet.of([...parent.items().filter((item) => !equalValues(item, token)), value]);
    throw new PatchError(`${show(path)} does not exist`);
  }

  #insert(document: Value, path: readonly Value[], depth: number, value: Value, mode: "add" | "replace"): Value {
    const token = path[depth];
    if (token === undefined) return value;
    if (depth < path.length - 1) {
      return this.#withChild(document, token, this.#insert(child(document, token, path), path, depth + 1, value, mode), path);
    }
    if (mode === "replace") {
      child(document, token, path);
      // An item of a set is its own key: it can be replaced by itself only.
      if (document instanceof RegoSet && !equalValues(token, value)) throw new PatchError(`${show(path)}: an item of a set cannot be replaced by another one`);
      return this.#withChild(document, token, value, path);
    }
    if (isArray(document)) {
      const at = token === "-" ? document.length : index(document, token, document.length, path);
      const own = this.#ownArray(document);
      own.splice(at, 0, value);
      return own;
    }
    if (document instanceof RegoSet) {
      // An item of a set is its own key.
      if (!equalValues(token, value)) throw new PatchError(`${show(path)}: the last step of a path into a set must be the item itself`);
      return RegoSet.of([...document.items(), value]);
    }
    return this.#withChild(document, token, value, path);
  }

  #remove(document: Value, path: readonly Value[], depth: number): Value {
    const token = path[depth]!;
    const found = child(document, token, path);
    if (depth < path.length - 1) return this.#withChild(document, token, this.#remove(found, path, depth + 1), path);
    if (document instanceof RegoObject) {
      const own = this.#ownObject(document);
      own.remove(token);
      return own;
    }
    if (isArray(document)) {
      const at = index(document, token, document.length - 1, path);
      const own = this.#ownArray(document);
      own.splice(at, 1);
      return own;
    }
    if (document instanceof RegoSet) return RegoSet.of(document.items().filter((item) => !equalValues(item, token)));
    throw new PatchError(`${show(path)} does not exist`);
  }
}
