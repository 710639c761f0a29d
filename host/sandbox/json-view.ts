import { SandboxError } from "./errors.ts";

/**
 * Reads a JSON object with checked types. Absent and null are the zero value, as in the runtime specification's own language; other types
 * are errors that name the path. Names that nobody asks for are ignored: what is not read is not sent.
 */
export class JsonView {
  readonly #value: Readonly<Record<string, unknown>>;
  readonly #path: string;

  /** @throws {SandboxError} ERR_SANDBOX_SPEC if `value` is not an object */
  constructor(value: unknown, path: string) {
    if (typeof value !== "object" || value === null || Array.isArray(value)) throw wrongType(path, value, "an object");
    this.#value = value as Readonly<Record<string, unknown>>;
    this.#path = path;
  }

  object(name: string): JsonView | undefined {
    const value = this.#get(name);
    return value === undefined ? undefined : new JsonView(value, this.#pathOf(name));
  }

  objects(name: string): readonly JsonView[] {
    return this.#list(name).map((value, index) => new JsonView(value, `${this.#pathOf(name)}[${index}]`));
  }

  text(name: string): string {
    const value = this.#get(name) ?? "";
    if (typeof value !== "string") throw wrongType(this.#pathOf(name), value, "a string");
    return value;
  }

  texts(name: string): string[] {
    return this.#list(name).map((value, index) => {
      if (typeof value !== "string") throw wrongType(`${this.#pathOf(name)}[${index}]`, value, "a string");
      return value;
    });
  }

  textMap(name: string): Record<string, string> {
    const value = this.object(name);
    return value === undefined ? {} : Object.fromEntries(Object.keys(value.#value).map((key) => [key, value.text(key)]));
  }

  flag(name: string): boolean {
    const value = this.#get(name) ?? false;
    if (typeof value !== "boolean") throw wrongType(this.#pathOf(name), value, "true or false");
    return value;
  }

  u32(name: string): number {
    return Number(this.#integer(name, this.#get(name) ?? 0, 0n, 2n ** 32n - 1n));
  }

  u32s(name: string): number[] {
    return this.#list(name).map((value, index) => Number(this.#integer(`${name}[${index}]`, value, 0n, 2n ** 32n - 1n)));
  }

  i64(name: string): bigint {
    return this.#integer(name, this.#get(name) ?? 0, -(2n ** 63n), 2n ** 63n - 1n);
  }

  u64(name: string): bigint {
    return this.#integer(name, this.#get(name) ?? 0, 0n, 2n ** 64n - 1n);
  }

  #get(name: string): unknown {
    const value = Object.hasOwn(this.#value, name) ? this.#value[name] : undefined;
    return value === null ? undefined : value;
  }

  #list(name: string): readonly unknown[] {
    const value = this.#get(name) ?? [];
    if (!Array.isArray(value)) throw wrongType(this.#pathOf(name), value, "a list");
    return value;
  }

  // A number beyond 2^53 has lost digits already: such values have to come as bigint.
  #integer(name: string, value: unknown, least: bigint, most: bigint): bigint {
    const integer = typeof value === "bigint" ? value : Number.isSafeInteger(value) ? BigInt(value as number) : undefined;
    if (integer === undefined || integer < least || integer > most) throw wrongType(this.#pathOf(name), value, `an integer from ${least} to ${most}`);
    return integer;
  }

  #pathOf(name: string): string {
    return `${this.#path}.${name}`;
  }
}

function wrongType(path: string, value: unknown, expected: string): SandboxError {
  return new SandboxError("ERR_SANDBOX_SPEC", `${path} is ${shown(value)}, expected ${expected}`, { details: { path } });
}

function shown(value: unknown): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return "a list";
  if (typeof value === "bigint" || typeof value === "number" || typeof value === "boolean") return String(value);
  return typeof value === "string" ? JSON.stringify(value.slice(0, 100)) : `of type ${typeof value}`;
}
