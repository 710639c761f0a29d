import { concatBytes } from "./bytes.ts";
import { CoreError } from "./errors.ts";

/** Reads fixed structures from bytes. Every read is bounds-checked; views share memory with the input. */
export class ByteReader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #what: string;
  #at = 0;

  /** @param what name of the structure, for messages */
  constructor(bytes: Uint8Array, what: string) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#what = what;
  }

  /** Offset of the next byte. */
  get offset(): number {
    return this.#at;
  }

  /** Bytes left. */
  get remaining(): number {
    return this.#bytes.length - this.#at;
  }

  /** @throws {CoreError} ERR_CORE_TRUNCATED */
  bytes(length: number): Uint8Array {
    const at = this.#take(length);
    return this.#bytes.subarray(at, at + length);
  }

  u8(): number {
    return this.#view.getUint8(this.#take(1));
  }

  u16le(): number {
    return this.#view.getUint16(this.#take(2), true);
  }

  u16be(): number {
    return this.#view.getUint16(this.#take(2), false);
  }

  u32le(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  u32be(): number {
    return this.#view.getUint32(this.#take(4), false);
  }

  u64le(): bigint {
    return this.#view.getBigUint64(this.#take(8), true);
  }

  u64be(): bigint {
    return this.#view.getBigUint64(this.#take(8), false);
  }

  /**
   * Asserts that nothing is left.
   * @throws {CoreError} ERR_CORE_TRAILING
   */
  end(): void {
    if (this.remaining !== 0) {
      throw new CoreError("ERR_CORE_TRAILING", `${this.#what}: ${this.remaining} bytes after the end at offset ${this.#at}`, {
        details: { offset: this.#at, trailing: this.remaining },
      });
    }
  }

  #take(length: number): number {
    const at = this.#at;
    if (length < 0 || length > this.remaining) {
      throw new CoreError("ERR_CORE_TRUNCATED", `${this.#what}: needs ${length} bytes at offset ${at}, has ${this.remaining}`, {
        details: { offset: at, needed: length, available: this.remaining },
      });
    }
    this.#at = at + length;
    return at;
  }
}

/** Writes fixed structures. */
export class ByteWriter {
  readonly #parts: Uint8Array[] = [];
  #length = 0;

  /** Bytes written so far. */
  get length(): number {
    return this.#length;
  }

  bytes(bytes: Uint8Array): this {
    this.#parts.push(bytes);
    this.#length += bytes.length;
    return this;
  }

  /** `length` zero bytes. */
  zeros(length: number): this {
    return this.bytes(new Uint8Array(length));
  }

  u8(value: number): this {
    return this.bytes(Uint8Array.of(value & 0xff));
  }

  u16le(value: number): this {
    return this.#number(2, (view) => view.setUint16(0, value, true));
  }

  u16be(value: number): this {
    return this.#number(2, (view) => view.setUint16(0, value, false));
  }

  u32le(value: number): this {
    return this.#number(4, (view) => view.setUint32(0, value, true));
  }

  u32be(value: number): this {
    return this.#number(4, (view) => view.setUint32(0, value, false));
  }

  u64le(value: bigint): this {
    return this.#number(8, (view) => view.setBigUint64(0, value, true));
  }

  u64be(value: bigint): this {
    return this.#number(8, (view) => view.setBigUint64(0, value, false));
  }

  /** All bytes written, as one array of its own. */
  toBytes(): Uint8Array {
    return concatBytes(...this.#parts);
  }

  #number(length: number, set: (view: DataView) => void): this {
    const bytes = new Uint8Array(length);
    set(new DataView(bytes.buffer));
    return this.bytes(bytes);
  }
}
