import type { Zone } from "./zone.ts";

/** Date and time of day in some zone. Months count from 1, weekdays from Sunday as 0. */
export interface Civil {
  readonly year: number;
  readonly month: number;
  readonly day: number;
  readonly hour: number;
  readonly minute: number;
  readonly second: number;
  readonly nanosecond: number;
  readonly weekday: number;
  readonly yearDay: number;
  /** Seconds east of UTC. */
  readonly offset: number;
}

export const DAY_SECONDS = 86_400;

const NANOSECONDS = 1_000_000_000n;

export function isLeapYear(year: number): boolean {
  return year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0);
}

export function daysInMonth(year: number, month: number): number {
  if (month === 2) return isLeapYear(year) ? 29 : 28;
  return [4, 6, 9, 11].includes(month) ? 30 : 31;
}

/**
 * Days from 1970-01-01 to a date of the proleptic Gregorian calendar. Months and days beyond their range count on, so the
 * 32nd of January is the first of February.
 */
export function daysFromCivil(year: number, month: number, day: number): number {
  // Years that begin in March have their leap day last, so months before it always have the same length.
  const shifted = year * 12 + (month - 3);
  const marchYear = Math.floor(shifted / 12);
  const marchMonth = shifted - marchYear * 12;
  const leapDays = Math.floor(marchYear / 4) - Math.floor(marchYear / 100) + Math.floor(marchYear / 400);
  const monthDays = Math.floor((153 * marchMonth + 2) / 5);
  return marchYear * 365 + leapDays + monthDays + day - 1 - 719_468;
}

/** Inverse of {@link daysFromCivil}. */
export function civilFromDays(days: number): { readonly year: number; readonly month: number; readonly day: number } {
  const shifted = days + 719_468;
  const era = Math.floor(shifted / 146_097);
  const dayOfEra = shifted - era * 146_097;
  const yearOfEra = Math.floor((dayOfEra - Math.floor(dayOfEra / 1460) + Math.floor(dayOfEra / 36_524) - Math.floor(dayOfEra / 146_096)) / 365);
  const dayOfYear = dayOfEra - (365 * yearOfEra + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100));
  const marchMonth = Math.floor((5 * dayOfYear + 2) / 153);
  const month = marchMonth < 10 ? marchMonth + 3 : marchMonth - 9;
  return { year: yearOfEra + era * 400 + (month <= 2 ? 1 : 0), month, day: dayOfYear - Math.floor((153 * marchMonth + 2) / 5) + 1 };
}

/** Splits nanoseconds since the epoch into whole seconds, rounded down, and the rest. */
export function splitNanoseconds(time: bigint): { readonly seconds: number; readonly nanosecond: number } {
  const nanosecond = ((time % NANOSECONDS) + NANOSECONDS) % NANOSECONDS;
  return { seconds: Number((time - nanosecond) / NANOSECONDS), nanosecond: Number(nanosecond) };
}

export function joinNanoseconds(seconds: number, nanosecond: number): bigint {
  return BigInt(seconds) * NANOSECONDS + BigInt(nanosecond);
}

/** Date and time of day of an instant, in a zone. */
export function civilTime(time: bigint, zone: Zone): Civil {
  const { seconds, nanosecond } = splitNanoseconds(time);
  const offset = zone.offset(seconds);
  const local = seconds + offset;
  const days = Math.floor(local / DAY_SECONDS);
  const rest = local - days * DAY_SECONDS;
  const date = civilFromDays(days);
  return {
    ...date,
    hour: Math.floor(rest / 3600),
    minute: Math.floor(rest / 60) % 60,
    second: rest % 60,
    nanosecond,
    // 1970-01-01 was a Thursday.
    weekday: (((days + 4) % 7) + 7) % 7,
    yearDay: days - daysFromCivil(date.year, 1, 1) + 1,
    offset,
  };
}

/** Seconds since the epoch of a time of day in a zone. Of two instants, or where there is none, the choice is Go's. */
export function secondsInZone(local: number, zone: Zone): number {
  return local - zone.offset(local - zone.offset(local));
}
