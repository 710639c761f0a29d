import { concatBytes, encodeUtf8, fromHex } from "@sealpod/core";
import { contextTag, TAG } from "./der-reader.ts";
import { PkiError } from "./errors.ts";

/** A DER value: identifier octet, minimal length, contents one after the other. */
export function encodeDer(tag: number, ...contents: readonly Uint8Array[]): Uint8Array {
  const content = concatBytes(...contents);
  return concatBytes(Uint8Array.of(tag), encodeLength(content.length), content);
}

export function encodeSequence(...items: readonly Uint8Array[]): Uint8Array {
  return encodeDer(TAG.sequence, ...items);
}

/** SET OF: the encodings in ascending order (X.690 section 11.6). */
export function encodeSetOf(...items: readonly Uint8Array[]): Uint8Array {
  return encodeDer(TAG.set, ...items.toSorted((a, b) => Buffer.compare(a, b)));
}

/** EXPLICIT context tag `[number]` around a value. */
export function encodeExplicit(number: number, ...items: readonly Uint8Array[]): Uint8Array {
  return encodeDer(contextTag(number, true), ...items);
}

export function encodeBoolean(value: boolean): Uint8Array {
  return encodeDer(TAG.boolean, Uint8Array.of(value ? 0xff : 0));
}

/** INTEGER of a value that is not negative. */
export function encodeInteger(value: bigint | number): Uint8Array {
  const number = BigInt(value);
  if (number < 0n) throw new PkiError("ERR_PKI_TEMPLATE", `INTEGER ${number} is negative`);
  const digits = number.toString(16);
  const magnitude = fromHex(digits.length % 2 === 0 ? digits : `0${digits}`);
  return encodeDer(TAG.integer, Uint8Array.from((magnitude[0] ?? 0) >= 0x80 ? [0] : []), magnitude);
}

/**
 * OBJECT IDENTIFIER from dotted text.
 * @throws {PkiError} ERR_PKI_TEMPLATE
 */
export function encodeOid(dotted: string): Uint8Array {
  if (!/^[0-2](?:\.(?:0|[1-9]\d{0,49})){1,30}$/.test(dotted)) throw new PkiError("ERR_PKI_TEMPLATE", `${JSON.stringify(dotted)} is not an object identifier`);
  const [root = 0n, second = 0n, ...rest] = dotted.split(".").map(BigInt);
  if (root < 2n && second >= 40n) throw new PkiError("ERR_PKI_TEMPLATE", `${dotted}: the second arc is below 40 under arcs 0 and 1`);
  return encodeDer(TAG.oid, ...[root * 40n + second, ...rest].map(encodeArc));
}

/** ENUMERATED of a small value that is not negative. */
export function encodeEnumerated(value: number): Uint8Array {
  if (!Number.isInteger(value) || value < 0 || value > 127) throw new PkiError("ERR_PKI_TEMPLATE", `ENUMERATED ${value} is not 0 to 127`);
  return encodeDer(TAG.enumerated, Uint8Array.of(value));
}

export function encodeOctetString(bytes: Uint8Array): Uint8Array {
  return encodeDer(TAG.octetString, bytes);
}

/** BIT STRING of whole bytes, or with `unused` low bits of the last byte left out. */
export function encodeBitString(bytes: Uint8Array, unused = 0): Uint8Array {
  return encodeDer(TAG.bitString, Uint8Array.of(unused), bytes);
}

export function encodeNull(): Uint8Array {
  return encodeDer(TAG.null);
}

export function encodeUtf8String(text: string): Uint8Array {
  return encodeDer(TAG.utf8String, encodeUtf8(text));
}

export function encodePrintableString(text: string): Uint8Array {
  return encodeDer(TAG.printableString, encodeUtf8(text));
}

export function encodeIa5String(text: string): Uint8Array {
  return encodeDer(TAG.ia5String, encodeUtf8(text));
}

/**
 * UTCTime until 2049, GeneralizedTime after it (RFC 5280 section 4.1.2.5).
 * @param time milliseconds since 1970; parts of a second are dropped
 * @throws {PkiError} ERR_PKI_TEMPLATE before 1950 and after 9999
 */
export function encodeTime(time: number): Uint8Array {
  const digits = timeDigits(time, 1950);
  return digits < "2050" ? encodeDer(TAG.utcTime, encodeUtf8(`${digits.slice(2)}Z`)) : encodeDer(TAG.generalizedTime, encodeUtf8(`${digits}Z`));
}

/**
 * GeneralizedTime, whatever the year: for fields that have no UTCTime.
 * @param time milliseconds since 1970; parts of a second are dropped
 * @throws {PkiError} ERR_PKI_TEMPLATE before year 0 and after 9999
 */
export function encodeGeneralizedTime(time: number): Uint8Array {
  return encodeDer(TAG.generalizedTime, encodeUtf8(`${timeDigits(time, 0)}Z`));
}

/** YYYYMMDDHHMMSS. */
function timeDigits(time: number, firstYear: number): string {
  const date = new Date(time);
  const year = date.getUTCFullYear();
  if (!(year >= firstYear && year <= 9999)) throw new PkiError("ERR_PKI_TEMPLATE", `time ${time} cannot be written in a certificate or CRL`);
  return date.toISOString().slice(0, 19).replaceAll(/[-:T]/g, "");
}

function encodeLength(length: number): Uint8Array {
  if (length < 0x80) return Uint8Array.of(length);
  const octets: number[] = [];
  for (let rest = length; rest > 0; rest = Math.floor(rest / 256)) octets.unshift(rest % 256);
  return Uint8Array.of(0x80 | octets.length, ...octets);
}

function encodeArc(arc: bigint): Uint8Array {
  const octets = [Number(arc & 0x7fn)];
  for (let rest = arc >> 7n; rest > 0n; rest >>= 7n) octets.unshift(Number(rest & 0x7fn) | 0x80);
  return Uint8Array.from(octets);
}
