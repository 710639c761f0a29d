import { decodeUtf8, messageOf, toHex } from "@sealpod/core";
import { PkiError } from "./errors.ts";

/** Identifier octets of the types that certificates use (X.690 section 8.1.2). */
export const TAG = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  null: 0x05,
  oid: 0x06,
  enumerated: 0x0a,
  utf8String: 0x0c,
  printableString: 0x13,
  teletexString: 0x14,
  ia5String: 0x16,
  utcTime: 0x17,
  generalizedTime: 0x18,
  bmpString: 0x1e,
  sequence: 0x30,
  set: 0x31,
} as const;

/** Identifier octet of context tag `[number]`. */
export function contextTag(number: number, constructed: boolean): number {
  return 0x80 | (constructed ? 0x20 : 0) | number;
}

/** Deepest nesting: a certificate needs 9 levels. The bound stops a hostile input from choosing our recursion depth. */
export const MAX_DER_DEPTH = 24;

/** Longest object identifier, in content bytes: far above any real one (a UUID arc takes 19), and it bounds the bigint arithmetic. */
export const MAX_OID_BYTES = 64;

/** Longest INTEGER, in content bytes: an RSA-8192 modulus and its sign byte. */
export const MAX_INTEGER_BYTES = 1025;

/** RFC 5280 section 4.1.2.5: earlier times are UTCTime. */
const FIRST_GENERALIZED: number = Date.UTC(2050, 0, 1);

/** One DER value. The arrays share memory with the input. */
export interface DerElement {
  /** Identifier octet. */
  readonly tag: number;
  /** The content octets. */
  readonly content: Uint8Array;
  /** The whole value: identifier, length and content. */
  readonly encoded: Uint8Array;
}

/**
 * Reads DER (X.690 section 10 and 11) and nothing else: definite, minimal lengths; low tag numbers; one encoding per value.
 * A signature covers bytes, so two readings of the same bytes are how a signed certificate is made to mean something else.
 */
export class DerReader {
  readonly #bytes: Uint8Array;
  readonly #what: string;
  readonly #base: number;
  readonly #depth: number;
  #at = 0;

  /** @param what name of the structure, for messages */
  constructor(bytes: Uint8Array, what: string, base = 0, depth = 0) {
    if (depth > MAX_DER_DEPTH) throw new PkiError("ERR_PKI_LIMIT", `${what}: DER nested deeper than ${MAX_DER_DEPTH}`, { details: { limit: MAX_DER_DEPTH } });
    this.#bytes = bytes;
    this.#what = what;
    this.#base = base;
    this.#depth = depth;
  }

  /** True if every byte was read. */
  get done(): boolean {
    return this.#at === this.#bytes.length;
  }

  /** Identifier octet of the next value, or undefined at the end. */
  peek(): number | undefined {
    return this.#bytes[this.#at];
  }

  /**
   * The next value, whatever its type.
   * @throws {PkiError} ERR_PKI_DER
   */
  any(): DerElement {
    const start = this.#at;
    const tag = this.#octet();
    if ((tag & 0x1f) === 0x1f) this.#fail("a tag number above 30");
    let length = this.#octet();
    if (length >= 0x80) {
      const octets = length & 0x7f;
      if (octets === 0) this.#fail("an indefinite length");
      if (octets > 4) this.#fail(`a length of ${octets} octets`);
      length = 0;
      for (let i = 0; i < octets; i++) length = length * 256 + this.#octet();
      if (length < 0x80 || length < 256 ** (octets - 1)) this.#fail("a length that is not minimal");
    }
    if (length > this.#bytes.length - this.#at) this.#fail(`a length of ${length} where ${this.#bytes.length - this.#at} bytes are left`);
    const content = this.#bytes.subarray(this.#at, this.#at + length);
    this.#at += length;
    return { tag, content, encoded: this.#bytes.subarray(start, this.#at) };
  }

  /**
   * The next value, which must have this identifier octet.
   * @throws {PkiError} ERR_PKI_DER
   */
  read(tag: number): DerElement {
    const found = this.peek();
    if (found !== tag) this.#fail(found === undefined ? "the end" : `tag 0x${hex(found)}`, `tag 0x${hex(tag)}`);
    return this.any();
  }

  /**
   * A reader of the content of the next value, which must be constructed and have this identifier octet.
   * @throws {PkiError} ERR_PKI_DER, ERR_PKI_LIMIT
   */
  enter(tag: number): DerReader {
    return this.enterElement(tag).inner;
  }

  /** Like {@link enter}, with the element itself: for parts whose very bytes are signed or compared. */
  enterElement(tag: number): { readonly element: DerElement; readonly inner: DerReader } {
    const element = this.read(tag);
    return { element, inner: new DerReader(element.content, this.#what, this.#base + this.#at - element.content.length, this.#depth + 1) };
  }

  /** Like {@link enter}, or undefined if the next value has another identifier octet. */
  enterOptional(tag: number): DerReader | undefined {
    return this.peek() === tag ? this.enter(tag) : undefined;
  }

  /** @throws {PkiError} ERR_PKI_DER unless every byte was read */
  end(): void {
    if (!this.done) this.#fail(`${this.#bytes.length - this.#at} more bytes`, "the end");
  }

  boolean(): boolean {
    const { content } = this.read(TAG.boolean);
    if (content.length !== 1 || (content[0] !== 0 && content[0] !== 0xff)) this.#fail("a BOOLEAN that is neither 00 nor FF");
    return content[0] === 0xff;
  }

  integer(): bigint {
    return this.#integer(TAG.integer, "INTEGER");
  }

  /** An INTEGER from 0 to `maximum`. */
  smallInteger(maximum: number): number {
    const value = this.integer();
    // A number of two thousand digits has no place in a message.
    if (value < 0n || value > BigInt(maximum)) this.#fail(value >> 64n === 0n ? `INTEGER ${value}` : "an INTEGER out of range", `0 to ${maximum}`);
    return Number(value);
  }

  /** An ENUMERATED from 0 to `maximum`. */
  enumerated(maximum: number): number {
    const value = this.#integer(TAG.enumerated, "ENUMERATED");
    if (value < 0n || value > BigInt(maximum)) this.#fail("an ENUMERATED out of range", `0 to ${maximum}`);
    return Number(value);
  }

  /** Dotted text of an OBJECT IDENTIFIER; arcs of any size are exact. */
  oid(): string {
    const { content } = this.read(TAG.oid);
    if (content.length === 0 || content.length > MAX_OID_BYTES) this.#fail(`an OBJECT IDENTIFIER of ${content.length} bytes`);
    const arcs: bigint[] = [];
    let arc = 0n;
    let fresh = true;
    for (const octet of content) {
      if (fresh && octet === 0x80) this.#fail("an OBJECT IDENTIFIER with a padded arc");
      arc = (arc << 7n) | BigInt(octet & 0x7f);
      fresh = octet < 0x80;
      if (!fresh) continue;
      if (arcs.length === 0) {
        const root = arc < 80n ? arc / 40n : 2n;
        arcs.push(root, arc - root * 40n);
      } else arcs.push(arc);
      arc = 0n;
    }
    if (!fresh) this.#fail("an OBJECT IDENTIFIER that ends inside an arc");
    return arcs.join(".");
  }

  octetString(): Uint8Array {
    return this.read(TAG.octetString).content;
  }

  /** A BIT STRING: its bytes, and how many low bits of the last byte are unused (they are zero). */
  bitString(): { readonly bytes: Uint8Array; readonly unused: number } {
    const { content } = this.read(TAG.bitString);
    const unused = content[0];
    if (unused === undefined || unused > 7 || (content.length === 1 && unused !== 0)) return this.#fail("a malformed BIT STRING");
    const last = content.at(-1) ?? 0;
    if (content.length > 1 && (last & ((1 << unused) - 1)) !== 0) this.#fail("a BIT STRING whose unused bits are not zero");
    return { bytes: content.subarray(1), unused };
  }

  null(): void {
    if (this.read(TAG.null).content.length !== 0) this.#fail("a NULL with content");
  }

  /** Text of any of the string types that names and alternative names use. */
  string(): string {
    const { tag, content } = this.any();
    switch (tag) {
      case TAG.utf8String:
        try {
          return decodeUtf8(content);
        } catch (cause) {
          throw new PkiError("ERR_PKI_DER", `${this.#what}: ${messageOf(cause)} in a UTF8String before offset ${this.#base + this.#at}`, { cause });
        }
      case TAG.printableString:
        return this.#ascii(content, /^[A-Za-z0-9 '()+,./:=?-]*$/, "PrintableString");
      case TAG.ia5String:
        // eslint-disable-next-line no-control-regex -- X.680 section 41: IA5String is the whole of ASCII
        return this.#ascii(content, /^[\u0000-\u007f]*$/, "IA5String");
      case TAG.teletexString:
        return this.#ascii(content, /^[\u0020-\u007e]*$/, "TeletexString");
      case TAG.bmpString: {
        if (content.length % 2 !== 0) this.#fail("a BMPString of odd length");
        let text = "";
        for (let i = 0; i < content.length; i += 2) text += String.fromCharCode(((content[i] ?? 0) << 8) | (content[i + 1] ?? 0));
        if (!text.isWellFormed()) this.#fail("a BMPString with surrogates");
        return text;
      }
      default:
        return this.#fail(`tag 0x${hex(tag)}`, "a string");
    }
  }

  /** Milliseconds since 1970 of UTCTime (1950 to 2049) or GeneralizedTime (from 2050), as RFC 5280 section 4.1.2.5 divides them. */
  time(): number {
    const tag = this.peek();
    if (tag === TAG.utcTime) {
      const digits = this.#timeDigits(TAG.utcTime, /^\d{12}Z$/);
      return this.#instant(`${digits < "50" ? "20" : "19"}${digits}`);
    }
    if (tag !== TAG.generalizedTime) this.#fail(tag === undefined ? "the end" : `tag 0x${hex(tag)}`, "a time");
    const time = this.generalizedTime();
    if (time < FIRST_GENERALIZED) this.#fail("a GeneralizedTime before 2050");
    return time;
  }

  /** Milliseconds since 1970 of a GeneralizedTime of any year, in whole seconds: what fields have that RFC 5280 gives no UTCTime. */
  generalizedTime(): number {
    return this.#instant(this.#timeDigits(TAG.generalizedTime, /^\d{14}Z$/));
  }

  #timeDigits(tag: number, form: RegExp): string {
    const { content } = this.read(tag);
    // The length first: content may be megabytes long.
    const text = content.length > 15 ? "" : Buffer.from(content).toString("latin1");
    if (!form.test(text)) this.#fail("a time that is not [YY]YYMMDDHHMMSSZ");
    return text.slice(0, -1);
  }

  /** @param digits YYYYMMDDHHMMSS */
  #instant(digits: string): number {
    const iso = digits.replace(/^(....)(..)(..)(..)(..)(..)$/, "$1-$2-$3T$4:$5:$6.000Z");
    const time = Date.parse(iso);
    // 31 February and hour 24 are carried over to the next day; the round trip shows that.
    if (Number.isNaN(time) || new Date(time).toISOString() !== iso) this.#fail("a time that does not exist");
    return time;
  }

  #integer(tag: number, type: string): bigint {
    const { content } = this.read(tag);
    const first = content[0];
    if (first === undefined) return this.#fail(`an empty ${type}`);
    if (content.length > MAX_INTEGER_BYTES) this.#fail(`an ${type} of ${content.length} bytes`);
    const second = content[1];
    if (second !== undefined && ((first === 0 && second < 0x80) || (first === 0xff && second >= 0x80))) this.#fail(`an ${type} that is not minimal`);
    const value = BigInt(`0x${toHex(content)}`);
    return first >= 0x80 ? value - (1n << BigInt(content.length * 8)) : value;
  }

  #ascii(content: Uint8Array, allowed: RegExp, type: string): string {
    const text = Buffer.from(content).toString("latin1");
    return allowed.test(text) ? text : this.#fail(`a character that ${type} does not have`);
  }

  #octet(): number {
    const octet = this.#bytes[this.#at];
    if (octet === undefined) return this.#fail("the end");
    this.#at++;
    return octet;
  }

  #fail(found: string, expected?: string): never {
    const offset = this.#base + this.#at;
    throw new PkiError("ERR_PKI_DER", `${this.#what}: found ${found}${expected === undefined ? "" : `, expected ${expected},`} at offset ${offset}`, {
      details: { offset, found, expected },
    });
  }
}

function hex(tag: number): string {
  return tag.toString(16).padStart(2, "0");
}
