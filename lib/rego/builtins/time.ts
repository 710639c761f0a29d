import type { Value } from "../values/index.ts";
import { normalizeInteger } from "../values/index.ts";
import type { Builtin } from "./builtin.ts";
import { builtinError, define, string } from "./builtin.ts";

const NANOSECONDS_PER_MILLISECOND = 1_000_000n;
const NANOSECONDS_PER_SECOND = 1_000_000_000n;

/** Range of Go's 64-bit nanoseconds: 1677 to 2262. */
const MAX_NANOSECONDS = 2n ** 63n - 1n;

function checked(nanoseconds: bigint): Value {
  if (nanoseconds > MAX_NANOSECONDS || nanoseconds < -MAX_NANOSECONDS - 1n) throw builtinError("time outside of valid range");
  return normalizeInteger(nanoseconds);
}

function digitsAt(text: string, at: number, count: number): number | undefined {
  let value = 0;
  for (let index = at; index < at + count; index++) {
    const unit = text.charCodeAt(index);
    if (!(unit >= 0x30 && unit <= 0x39)) return undefined;
    value = value * 10 + (unit - 0x30);
  }
  return value;
}

/** RFC 3339 to nanoseconds since the epoch; undefined if the text is no such time. */
function parseRfc3339(text: string): bigint | undefined {
  const year = digitsAt(text, 0, 4);
  const month = digitsAt(text, 5, 2);
  const day = digitsAt(text, 8, 2);
  const hour = digitsAt(text, 11, 2);
  const minute = digitsAt(text, 14, 2);
  const second = digitsAt(text, 17, 2);
  if (year === undefined || month === undefined || day === undefined || hour === undefined || minute === undefined || second === undefined) return undefined;
  if (text[4] !== "-" || text[7] !== "-" || text[10] !== "T" || text[13] !== ":" || text[16] !== ":") return undefined;
  if (month < 1 || month > 12 || day < 1 || hour > 23 || minute > 59 || second > 59) return undefined;
  const date = new Date(0);
  date.setUTCFullYear(year, month - 1, day);
  if (date.getUTCMonth() !== month - 1) return undefined;
  let at = 19;
  let fraction = "";
  if (text[at] === "." || text[at] === ",") {
    const start = ++at;
    while (digitsAt(text, at, 1) !== undefined) at++;
    fraction = text.slice(start, at);
    if (fraction === "") return undefined;
  }
  let offset = 0;
  if (text[at] === "Z") at++;
  else {
    const sign = text[at] === "+" ? 1 : text[at] === "-" ? -1 : 0;
    const hours = digitsAt(text, at + 1, 2);
    const minutes = digitsAt(text, at + 4, 2);
    if (sign === 0 || hours === undefined || minutes === undefined || text[at + 3] !== ":" || hours > 23 || minutes > 59) return undefined;
    offset = sign * (hours * 60 + minutes);
    at += 6;
  }
  if (at !== text.length) return undefined;
  const seconds = BigInt(date.getTime() / 1000 + hour * 3600 + minute * 60 + second - offset * 60);
  return seconds * NANOSECONDS_PER_SECOND + BigInt(fraction.slice(0, 9).padEnd(9, "0"));
}

const UNITS: ReadonlyMap<string, bigint> = new Map([
  ["ns", 1n],
  ["us", 1000n],
  ["\u00b5s", 1000n],
  ["\u03bcs", 1000n],
  ["ms", NANOSECONDS_PER_MILLISECOND],
  ["s", NANOSECONDS_PER_SECOND],
  ["m", 60n * NANOSECONDS_PER_SECOND],
  ["h", 3600n * NANOSECONDS_PER_SECOND],
]);

/** Go's `time.ParseDuration`: `1h15m30.5s`. */
function parseDuration(text: string): bigint | undefined {
  let at = 0;
  let negative = false;
  if (text[at] === "+" || text[at] === "-") negative = text[at++] === "-";
  if (text.slice(at) === "0") return 0n;
  if (at === text.length) return undefined;
  let total = 0n;
  while (at < text.length) {
    const start = at;
    while (digitsAt(text, at, 1) !== undefined) at++;
    const whole = text.slice(start, at);
    let fraction = "";
    if (text[at] === ".") {
      const from = ++at;
      while (digitsAt(text, at, 1) !== undefined) at++;
      fraction = text.slice(from, at);
    }
    if ((whole === "" && fraction === "") || whole.length + fraction.length > 40) return undefined;
    const unitStart = at;
    while (at < text.length && text[at] !== "." && digitsAt(text, at, 1) === undefined) at++;
    const unit = UNITS.get(text.slice(unitStart, at));
    if (unit === undefined) return undefined;
    total += BigInt(whole === "" ? 0 : whole) * unit;
    if (fraction !== "") total += (BigInt(fraction) * unit) / 10n ** BigInt(fraction.length);
  }
  return negative ? -total : total;
}

/**
 * The clock and times in RFC 3339; zones, layouts and calendars are in `@sealpod/rego-extended`. The current time is the
 * caller's clock; without one it is undefined.
 */
export const timeBuiltins: readonly Builtin[] = [
  define("time.now_ns", 0, (_args, context) => {
    const now = context.now();
    return now === undefined ? undefined : normalizeInteger(BigInt(Math.trunc(now)) * NANOSECONDS_PER_MILLISECOND);
  }),
  define("time.parse_rfc3339_ns", 1, (args) => {
    const text = string(args, 0);
    const time = parseRfc3339(text);
    if (time === undefined) throw builtinError(`cannot parse ${JSON.stringify(text)} as an RFC 3339 time`);
    return checked(time);
  }),
  define("time.parse_duration_ns", 1, (args) => {
    const text = string(args, 0);
    const duration = parseDuration(text);
    if (duration === undefined) throw builtinError(`time: invalid duration ${JSON.stringify(text)}`);
    return checked(duration);
  }),
];
