import { concatBytes, decodeUtf8 } from "@sealpod/core";
import { SkrError } from "../errors.ts";

/**
 * Protocol buffers as far as the key provider needs them: its messages have one field each, text or bytes. The library for
 * all of them would double the measured bundle.
 */

/** Largest field number and length that fit the arithmetic here: far above any message that the server takes. */
const MAX_VARINT = 2 ** 31;

/** A length-delimited field (text, bytes, message). */
export function encodeField(number: number, value: Uint8Array): Uint8Array {
  return concatBytes(encodeVarint(number * 8 + 2), encodeVarint(value.length), value);
}

/** A field with a number of 0 to 2³¹. */
export function encodeNumberField(number: number, value: number): Uint8Array {
  return concatBytes(encodeVarint(number * 8), encodeVarint(value));
}

/**
 * The length-delimited fields of a message by number; of one that stands twice the last counts, and fields of other types are
 * skipped, as protocol buffers have it.
 * @throws {SkrError} ERR_SKR_REQUEST
 */
export function parseFields(bytes: Uint8Array): ReadonlyMap<number, Uint8Array> {
  const fields = new Map<number, Uint8Array>();
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let shift = 0; shift < 10; shift++) {
      const byte = bytes[at++];
      if (byte === undefined) throw malformed(`ends inside a number`);
      value += (byte & 0x7f) * 2 ** (7 * shift);
      if (byte < 0x80) return value;
    }
    throw malformed("has a number of more than 10 bytes");
  };
  const take = (length: number): Uint8Array => {
    if (length > bytes.length - at) throw malformed(`ends inside a field of ${length} bytes`);
    at += length;
    return bytes.subarray(at - length, at);
  };
  while (at < bytes.length) {
    const tag = varint();
    const number = Math.floor(tag / 8);
    if (tag > MAX_VARINT * 8 || number === 0) throw malformed(`has field number ${number}`);
    switch (tag % 8) {
      case 0:
        varint();
        break;
      case 1:
        take(8);
        break;
      case 2:
        fields.set(number, take(varint()));
        break;
      case 5:
        take(4);
        break;
      default:
        throw malformed(`has a field of wire type ${tag % 8}`);
    }
  }
  return fields;
}

/**
 * A text field; empty if it is not there.
 * @throws {SkrError} ERR_SKR_REQUEST
 */
export function textField(fields: ReadonlyMap<number, Uint8Array>, number: number): string {
  try {
    return decodeUtf8(fields.get(number) ?? new Uint8Array(), `field ${number}`);
  } catch (cause) {
    throw new SkrError("ERR_SKR_REQUEST", `invalid request format: field ${number} is not UTF-8`, { cause });
  }
}

function encodeVarint(value: number): Uint8Array {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 0x80; rest = Math.floor(rest / 128)) bytes.push((rest % 128) + 128);
  bytes.push(rest);
  return Uint8Array.from(bytes);
}

function malformed(problem: string): SkrError {
  return new SkrError("ERR_SKR_REQUEST", `invalid request format: the message ${problem}`);
}
