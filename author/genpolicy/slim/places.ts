import type { Value } from "@sealpod/rego";
import { isArray, RegoObject } from "@sealpod/rego";

// What the analysis of flows is made of.

type Key = string | number;

/**
 * A place of the data or a literal: the values that stand there. The items of an array and the members of an object have one place
 * together as long as nobody asks for one by its key, so that a pod of ten containers has no more places than a pod of one.
 */
export class Place {
  readonly values: readonly Value[];
  readonly #children = new Map<Key, Place | undefined>();
  #items: Place | undefined;
  #keys: Place | undefined;
  /** All of the value matters: it is compared, or goes into a builtin. */
  whole = false;
  /** Any child may be asked for, or all are walked through. */
  walked = false;
  /** Children that are asked for by name. */
  readonly fields: Set<Key> = new Set();

  constructor(values: Iterable<Value>) {
    this.values = [...new Set(values)];
  }

  /** The place of a child, if any of the values has it. */
  get(key: Value): Place | undefined {
    if (typeof key !== "string" && typeof key !== "number") return undefined;
    if (this.#children.has(key)) return this.#children.get(key);
    const found = this.values.flatMap((value) => {
      const child = childOf(value, key);
      return child === undefined ? [] : [child];
    });
    const place = found.length === 0 ? undefined : new Place(found);
    this.#children.set(key, place);
    return place;
  }

  /** True if each of the values has this child. */
  hasAlways(key: Value): boolean {
    return (typeof key === "string" || typeof key === "number") && this.values.every((value) => childOf(value, key) !== undefined);
  }

  /** The place of all children. */
  items(): Place {
    this.#items ??= new Place(this.values.flatMap(childrenOf));
    return this.#items;
  }

  /** The keys, as values of their own. */
  keys(): Place {
    this.#keys ??= new Place(this.values.flatMap(keysOf));
    return this.#keys;
  }

  /** The places of a child of this key, however it is asked for. */
  placesOf(key: Key): readonly Place[] {
    return [this.#children.get(key), this.walked ? this.#items : undefined].filter((place) => place !== undefined);
  }
}

function keysOf(value: Value): readonly Value[] {
  if (isArray(value)) return [...value.keys()];
  return value instanceof RegoObject ? value.keys() : [];
}

function childrenOf(value: Value): readonly Value[] {
  if (isArray(value)) return value;
  return value instanceof RegoObject ? [...value.entries()].map(([, item]) => item) : [];
}

function childOf(value: Value, key: Key): Value | undefined {
  if (value instanceof RegoObject) return value.get(key);
  return isArray(value) && typeof key === "number" ? value[key] : undefined;
}

/** A collection that the rules build. */
export class Built {
  readonly kind: "array" | "set" | "object";
  /** Children whose key is not known. */
  readonly items: Flow = new Flow();
  /** All children. */
  readonly all: Flow = new Flow();
  readonly #fields = new Map<Value, Flow>();
  /** True if it has children of known keys. */
  hasFields = false;

  constructor(kind: Built["kind"]) {
    this.kind = kind;
    this.items.into(this.all);
  }

  /** What stands at a known key. */
  field(key: Value): Flow {
    let field = this.#fields.get(key);
    if (field === undefined) this.#fields.set(key, (field = new Flow()));
    return field;
  }

  /** Adds what stands at a known key. */
  put(key: Value, flow: Flow): void {
    this.hasFields = true;
    flow.into(this.field(key));
    flow.into(this.all);
  }
}

/** What is not known: a text at least, or anything. */
export type Unknown = "text" | "anything";
export type Member = Place | Built | Unknown;

/** What a term can stand for. It grows only; who listens hears of each member once, of those that are there at once. */
export class Flow {
  readonly #members = new Set<Member>();
  #listeners: ((member: Member) => void)[] | undefined;
  #children: Map<Value | undefined, Flow> | undefined;
  #places: readonly Place[] | undefined;
  #values: readonly Value[] | undefined;
  #isWhole = false;

  static of(...members: readonly Member[]): Flow {
    const flow = new Flow();
    for (const member of members) flow.add(member);
    return flow;
  }

  add(member: Member): void {
    if (this.#members.has(member)) return;
    this.#members.add(member);
    this.#places = this.#values = undefined;
    if (this.#listeners !== undefined) for (const listener of this.#listeners) listener(member);
  }

  listen(listener: (member: Member) => void): void {
    for (const member of this.#members) listener(member);
    (this.#listeners ??= []).push(listener);
  }

  /** All that it can stand for, another can too. */
  into(other: Flow): void {
    if (other !== this) this.listen((member) => other.add(member));
  }

  get unknown(): boolean {
    return this.#members.has("anything") || this.#members.has("text");
  }

  get places(): readonly Place[] {
    this.#places ??= [...this.#members].filter((member) => member instanceof Place);
    return this.#places;
  }

  get built(): readonly Built[] {
    return [...this.#members].filter((member) => member instanceof Built);
  }

  /** True if a collection that the rules build is among what it can stand for. */
  get hasBuilt(): boolean {
    for (const member of this.#members) if (member instanceof Built) return true;
    return false;
  }

  get isEmpty(): boolean {
    return this.#members.size === 0;
  }

  /** True if it can stand for nothing but texts. */
  isText(): boolean {
    return !this.#members.has("anything") && !this.hasBuilt && this.values().every((value) => typeof value === "string");
  }

  /** The values of the data and of literals that it can stand for. */
  values(): readonly Value[] {
    this.#values ??= this.places.length === 1 ? (this.places[0]?.values ?? []) : [...new Set(this.places.flatMap(({ values }) => values))];
    return this.#values;
  }

  /** Its values; undefined if it can stand for anything else, or for nothing. */
  known(): readonly Value[] | undefined {
    return this.unknown || this.hasBuilt || this.places.length === 0 ? undefined : this.values();
  }

  /** What a step leads to; undefined for a key that is not known. */
  child(key: Value | undefined): Flow {
    this.#children ??= new Map();
    const known = this.#children.get(key);
    if (known !== undefined) return known;
    const children = new Flow();
    this.#children.set(key, children);
    this.listen((member) => {
      if (member instanceof Place) stepInto(member, key, children);
      else if (member instanceof Built) {
        member.items.into(children);
        if (member.kind === "set" && key !== undefined) {
          // A step into a set compares.
          member.items.needed();
          children.add("anything");
        }
        if (key === undefined) member.all.into(children);
        else member.field(key).into(children);
      } else children.add("anything");
    });
    return children;
  }

  /** It is a condition: a collection is true whatever is in it. */
  tested(): void {
    this.listen((member) => {
      if (member instanceof Place && member.values.some((value) => typeof value !== "object" || value === null)) member.whole = true;
    });
  }

  /** All that it can stand for matters in full. */
  needed(): void {
    if (this.#isWhole) return;
    this.#isWhole = true;
    this.listen((member) => {
      if (member instanceof Place) member.whole = true;
      else if (member instanceof Built) member.all.needed();
    });
  }
}

function stepInto(place: Place, key: Value | undefined, children: Flow): void {
  if (key === undefined) {
    place.walked = true;
    if (place.items().values.length > 0) children.add(place.items());
  } else if (typeof key === "string" || typeof key === "number") {
    place.fields.add(key);
    const child = place.get(key);
    if (child !== undefined) children.add(child);
  }
}
