import { asArray, asObject, type JsonObject, type JsonValue } from "@sealpod/core";
import { GenpolicyError } from "./errors.ts";

/** A JSON value of the settings and its path, for messages. Names that nobody asks for are ignored. */
export class Setting {
  readonly value: JsonValue;
  readonly #path: string;
  readonly #file: string;

  /** @param file name of the settings, for messages */
  constructor(value: JsonValue, path: string, file: string) {
    this.value = value;
    this.#path = path;
    this.#file = file;
  }

  /** @throws {GenpolicyError} ERR_GENPOLICY_SETTINGS, as all that follow */
  get(name: string): Setting {
    return this.optional(name) ?? this.#at(name, null).refuse("is missing");
  }

  /** Undefined if the name is absent or null. */
  optional(name: string): Setting | undefined {
    const object = this.#object();
    const value = Object.hasOwn(object, name) ? object[name] : undefined;
    return value === undefined || value === null ? undefined : this.#at(name, value);
  }

  text(): string {
    return typeof this.value === "string" ? this.value : this.refuse("must be text");
  }

  flag(): boolean {
    return typeof this.value === "boolean" ? this.value : this.refuse("must be true or false");
  }

  /** A whole number that fits into 32 bits: ids, flags, states. */
  u32(): number {
    const { value } = this;
    return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= 0xffff_ffff
      ? value
      : this.refuse("must be a whole number from 0 to 4294967295");
  }

  /** One of the given texts. */
  oneOf<const T extends string>(...known: readonly T[]): T {
    const text = this.text();
    return known.find((one) => one === text) ?? this.refuse(`is ${JSON.stringify(text)}, must be one of ${known.join(", ")}`);
  }

  items(): readonly Setting[] {
    const array = asArray(this.value) ?? this.refuse("must be an array");
    return array.map((item, index) => new Setting(item, `${this.#path}[${index}]`, this.#file));
  }

  texts(): readonly string[] {
    return this.items().map((item) => item.text());
  }

  textMap(): ReadonlyMap<string, string> {
    return new Map(Object.entries(this.#object()).map(([name, value]) => [name, this.#at(name, value).text()]));
  }

  refuse(problem: string): never {
    throw new GenpolicyError("ERR_GENPOLICY_SETTINGS", `${this.#file}: ${this.#path === "" ? "the settings" : this.#path} ${problem}`, {
      details: { file: this.#file, path: this.#path },
      hint: "Compare with the settings that come with sealpod, author/genpolicy/data/.",
    });
  }

  #object(): JsonObject {
    return asObject(this.value) ?? this.refuse("must be an object");
  }

  #at(name: string, value: JsonValue): Setting {
    return new Setting(value, this.#path === "" ? name : `${this.#path}.${name}`, this.#file);
  }
}
