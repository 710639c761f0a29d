/** Latest time that a Date holds, and the earliest one negated, in milliseconds (ECMA-262 section 21.4.1.1). */
const MAX_DATE = 8_640_000_000_000_000;

/** A time for messages: ISO 8601, or the number itself if it is no time, as of a clock that fails. It never throws, so that the error is about the certificate. */
export function formatTime(time: number): string {
  return Math.abs(time) <= MAX_DATE ? new Date(time).toISOString() : `no time (${time})`;
}
