import { messageOf } from "@sealpod/core";
import { cdeEncodeOptions, decode, encode, Tag } from "cbor2";
import { CoseError } from "./errors.ts";

/** A CBOR value of the kinds that COSE uses. Integers beyond 2^53 are `bigint`; there are no floats, no `undefined`, no other simple values. */
export type CborValue = number | bigint | string | boolean | null | Uint8Array | readonly CborValue[] | CborMap | CborTag;

/** A map. Keys are integers or text: COSE labels are nothing else (RFC 9052 section 1.5). */
export type CborMap = ReadonlyMap<CborKey, CborValue>;

/** A key of a {@link CborMap}. */
export type CborKey = number | bigint | string;

/** A tagged value. */
export class CborTag {
  readonly tag: number;
  readonly value: CborValue;

  constructor(tag: number, value: CborValue) {
    this.tag = tag;
    this.value = value;
  }
}

/** Largest item, in bytes: genuine endorsements have 11 KiB. A hostile one of this size costs some 80 ms and 20 MiB. */
export const MAX_CBOR_BYTES: number = 64 * 1024;

/** Deepest nesting: COSE_Sign1 needs 5 levels. */
export const MAX_CBOR_DEPTH = 16;

/**
 * Reads one item of CBOR in preferred serialization (RFC 8949 section 4.1): shortest forms, definite lengths, no key twice, no trailing bytes.
 * Keys may stand in any order: COSE does not ask for a deterministic encoding (RFC 9052 section 9), and signers write claims in the order of their numbers or their names.
 * That leaves one meaning to each text of bytes, which is what a signature is over; it does not leave one text to each meaning.
 * @param what name of the item, for messages
 * @throws {CoseError} ERR_COSE_CBOR, ERR_COSE_LIMIT
 */
export function parseCbor(bytes: Uint8Array, what: string): CborValue {
  if (bytes.length > MAX_CBOR_BYTES) {
    throw new CoseError("ERR_COSE_LIMIT", `${what}: ${bytes.length} bytes, more than the limit of ${MAX_CBOR_BYTES}`, { details: { limit: MAX_CBOR_BYTES } });
  }
  let value: unknown;
  try {
    // Global tag decoders would turn hostile input into RegExp and Date objects.
    value = decode(Uint8Array.from(bytes), {
      rejectStreaming: true,
      requirePreferred: true,
      // Wherever the two stand: keys need not be sorted, so equal ones need not be neighbours.
      rejectDuplicateKeys: true,
      preferMap: true,
      ignoreGlobalTags: true,
      // The library counts some levels more than once; the exact limit is checked below.
      maxDepth: 3 * MAX_CBOR_DEPTH,
      rejectFloats: true,
      rejectSimple: true,
      rejectUndefined: true,
    });
  } catch (cause) {
    throw new CoseError("ERR_COSE_CBOR", `${what} is not CBOR as COSE has it: ${messageOf(cause)}`, { cause });
  }
  return fromLibrary(value, what, 0);
}

/** The deterministic encoding of a value (RFC 8949 section 4.2.1): keys are sorted. */
export function encodeCbor(value: CborValue): Uint8Array {
  return Uint8Array.from(encode(toLibrary(value), cdeEncodeOptions));
}

/** The value as a map, or undefined. */
export function asMap(value: CborValue | undefined): CborMap | undefined {
  return value instanceof Map ? (value as CborMap) : undefined;
}

/** The value as a list, or undefined. */
export function asList(value: CborValue | undefined): readonly CborValue[] | undefined {
  return Array.isArray(value) ? (value as readonly CborValue[]) : undefined;
}

function fromLibrary(value: unknown, what: string, depth: number): CborValue {
  if (depth > MAX_CBOR_DEPTH) throw new CoseError("ERR_COSE_LIMIT", `${what}: nested deeper than ${MAX_CBOR_DEPTH}`, { details: { limit: MAX_CBOR_DEPTH } });
  switch (typeof value) {
    case "number":
      // Floats were refused, so an integer: bigger ones come as bigint, but for -2^53, which no longer stands for itself alone.
      return Number.isSafeInteger(value) ? value : BigInt(value);
    case "bigint":
    case "string":
    case "boolean":
      return value;
    case "object":
      if (value === null) return null;
      if (value instanceof Uint8Array) return Uint8Array.from(value);
      if (Array.isArray(value)) return value.map((item) => fromLibrary(item, what, depth + 1));
      if (value instanceof Map) return new Map([...value].map(([key, item]) => [fromLibraryKey(key, what), fromLibrary(item, what, depth + 1)]));
      // A tag number that no number holds exactly has no meaning here either.
      if (value instanceof Tag && Number.isSafeInteger(Number(value.tag))) return new CborTag(Number(value.tag), fromLibrary(value.contents, what, depth + 1));
      break;
    default:
  }
  throw new CoseError("ERR_COSE_CBOR", `${what} holds a CBOR value that has no place in COSE`);
}

function fromLibraryKey(key: unknown, what: string): CborKey {
  if (typeof key === "number") return Number.isSafeInteger(key) ? key : BigInt(key);
  if (typeof key === "bigint" || typeof key === "string") return key;
  throw new CoseError("ERR_COSE_CBOR", `${what} has a map key that is neither integer nor text`);
}

function toLibrary(value: CborValue): unknown {
  if (typeof value === "number" && !Number.isSafeInteger(value)) throw new CoseError("ERR_COSE_CBOR", `${value} is not an integer that a number holds exactly`);
  if (value === null || typeof value !== "object") return value;
  // A plain copy: the library writes a Buffer as the object that Buffer.toJSON gives.
  if (value instanceof Uint8Array) return Uint8Array.from(value);
  if (value instanceof CborTag) return new Tag(value.tag, toLibrary(value.value));
  if (value instanceof Map) return new Map([...(value as CborMap)].map(([key, item]) => [key, toLibrary(item)]));
  return (value as readonly CborValue[]).map(toLibrary);
}
