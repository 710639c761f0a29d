import type { Builtin, BuiltinContext, RegoArray, Value } from "@sealpod/rego";
import { builtinError, define, isArray, isInteger, normalizeInteger, operandError, smallInteger, string } from "@sealpod/rego";
import type { Civil } from "./calendar.ts";
import { civilTime, DAY_SECONDS, daysFromCivil, daysInMonth, joinNanoseconds, secondsInZone, splitNanoseconds } from "./calendar.ts";
import { DEFAULT_LAYOUT, formatTime, LayoutError, parseTime, WEEKDAYS } from "./time-layout.ts";
import type { Zone } from "./zone.ts";
import { zone } from "./zone.ts";

/** Range of Go's 64-bit nanoseconds: 1677 to 2262. */
const MAX_NANOSECONDS = 2n ** 63n - 1n;

/** More years, months or days than lead from one end of the range of times to the other: keeps the arithmetic exact. */
const MAX_STEP = 1_000_000_000;

interface Moment {
  readonly time: bigint;
  readonly zone: Zone;
  readonly layout: string | undefined;
}

function isInRange(time: bigint): boolean {
  return time <= MAX_NANOSECONDS && time >= -MAX_NANOSECONDS - 1n;
}

function checked(time: bigint): Value {
  if (!isInRange(time)) throw builtinError("time outside of valid range");
  return normalizeInteger(time);
}

/** A time: nanoseconds, or an array of nanoseconds, a zone and a layout. */
function moment(args: RegoArray, at: number, context: BuiltinContext): Moment {
  const value = args[at]!;
  const expected = "either number (ns) or [number (ns), string (tz)]";
  const [time, name = "", layout]: readonly (Value | undefined)[] = isArray(value) ? value : [value];
  if (typeof time !== "number" && typeof time !== "bigint") throw operandError(at + 1, expected, value);
  if (typeof name !== "string" || (layout !== undefined && typeof layout !== "string")) throw operandError(at + 1, expected, value);
  if (!isInteger(time) || !isInRange(BigInt(time))) throw builtinError("timestamp too big");
  return { time: BigInt(time), zone: zone(name, context), layout };
}

function civil(args: RegoArray, context: BuiltinContext): Civil {
  const { time, zone: in_ } = moment(args, 0, context);
  return civilTime(time, in_);
}

function step(args: RegoArray, at: number): number {
  const value = smallInteger(args, at);
  if (Math.abs(value) > MAX_STEP) throw builtinError("time outside of valid range");
  return value;
}

/** The same time of day some years, months and days later; a day that its month does not have counts on into the next. */
function addDate(args: RegoArray, context: BuiltinContext): Value {
  const { time, zone: in_ } = moment(args, 0, context);
  const { year, month, day, hour, minute, second, nanosecond } = civilTime(time, in_);
  const days = daysFromCivil(year + step(args, 1), month + step(args, 2), day + step(args, 3));
  const local = days * DAY_SECONDS + hour * 3600 + minute * 60 + second;
  if (!isInRange(joinNanoseconds(local - 2 * DAY_SECONDS, 0)) && !isInRange(joinNanoseconds(local + 2 * DAY_SECONDS, 0)))
    throw builtinError("time outside of valid range");
  return checked(joinNanoseconds(secondsInZone(local, in_), nanosecond));
}

/** Years, months, days, hours, minutes and seconds between two times, read in the zone of the first. */
function difference(args: RegoArray, context: BuiltinContext): Value {
  const first = moment(args, 0, context);
  const second = moment(args, 1, context);
  const [from, to] = first.time <= second.time ? [first.time, second.time] : [second.time, first.time];
  const a = civilTime(from, first.zone);
  const b = civilTime(to, first.zone);
  let [years, months, days] = [b.year - a.year, b.month - a.month, b.day - a.day];
  let [hours, minutes, seconds] = [b.hour - a.hour, b.minute - a.minute, b.second - a.second];
  if (seconds < 0) {
    seconds += 60;
    minutes--;
  }
  if (minutes < 0) {
    minutes += 60;
    hours--;
  }
  if (hours < 0) {
    hours += 24;
    days--;
  }
  if (days < 0) {
    days += daysInMonth(a.year, a.month);
    months--;
  }
  if (months < 0) {
    months += 12;
    years--;
  }
  return [years, months, days, hours, minutes, seconds];
}

function format(args: RegoArray, context: BuiltinContext): Value {
  const { time, zone: in_, layout = "" } = moment(args, 0, context);
  const used = layout === "" ? DEFAULT_LAYOUT : layout;
  // A character of a layout becomes at most nine.
  context.work(used.length);
  context.allocate(used.length * 9);
  return formatTime(civilTime(time, in_), in_, splitNanoseconds(time).seconds, used);
}

function parse(args: RegoArray, context: BuiltinContext): Value {
  const [layout, text] = [string(args, 0), string(args, 1)];
  context.work(layout.length + text.length);
  context.allocate(layout.length);
  try {
    return checked(parseTime(layout, text));
  } catch (error) {
    if (error instanceof LayoutError) throw builtinError(error.message);
    throw error;
  }
}

/** Times with zones and layouts. The clock and times in RFC 3339 belong to the core. */
export const timeBuiltins: readonly Builtin[] = [
  define("time.parse_ns", 2, parse),
  define("time.format", 1, format),
  define("time.date", 1, (args, context) => {
    const { year, month, day } = civil(args, context);
    return [year, month, day];
  }),
  define("time.clock", 1, (args, context) => {
    const { hour, minute, second } = civil(args, context);
    return [hour, minute, second];
  }),
  define("time.weekday", 1, (args, context) => WEEKDAYS[civil(args, context).weekday]!),
  define("time.add_date", 4, addDate),
  define("time.diff", 2, difference),
];
