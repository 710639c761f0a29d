import { encodeUtf8 } from "@sealpod/core";
import { VerityError } from "./errors.ts";
import { toLatin1 } from "./tar-format.ts";

/**
 * Parses the records of a PAX extended header: `LENGTH KEY=VALUE\n`, where LENGTH counts the whole record.
 * A key may occur once: readers disagree on which of two counts. Keys map to the value's bytes.
 * @throws {VerityError} ERR_VERITY_TAR
 */
export function parsePaxRecords(bytes: Uint8Array, offset: number): ReadonlyMap<string, Uint8Array> {
  const records = new Map<string, Uint8Array>();
  let at = 0;
  while (at < bytes.length) {
    // No record is longer than a header of 1 MiB, so seven digits are enough and the search is bounded.
    const digits = /^([1-9][0-9]{0,6}) /.exec(toLatin1(bytes.subarray(at, at + 8)))?.[1];
    const end = at + Number(digits ?? Number.NaN);
    if (digits === undefined || end > bytes.length || bytes[end - 1] !== 0x0a) throw malformed(offset, at, "its length does not fit");
    const record = bytes.subarray(at + digits.length + 1, end - 1);
    const equals = record.indexOf(0x3d);
    if (equals < 1) throw malformed(offset, at, "it has no key");
    const key = toLatin1(record.subarray(0, equals));
    if (key.includes("\0")) throw malformed(offset, at, "its key has a NUL");
    if (records.has(key)) throw malformed(offset, at, `the key ${JSON.stringify(key)} occurs twice`);
    records.set(key, record.slice(equals + 1));
    at = end;
  }
  return records;
}

/** One PAX record. */
export function encodePaxRecord(key: string, value: Uint8Array): Uint8Array {
  const body = encodeUtf8(` ${key}=`).length + value.length + 1;
  // The length counts its own digits: at most one more digit than the body alone has.
  let length = body + String(body).length;
  if (String(length).length !== String(body).length) length = body + String(length).length;
  const out = new Uint8Array(length);
  const head = encodeUtf8(`${length} ${key}=`);
  out.set(head);
  out.set(value, head.length);
  out[length - 1] = 0x0a;
  return out;
}

function malformed(offset: number, at: number, problem: string): VerityError {
  return new VerityError("ERR_VERITY_TAR", `PAX record at offset ${offset + at} is malformed: ${problem}`, { details: { offset: offset + at } });
}
