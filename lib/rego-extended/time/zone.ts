import type { BuiltinContext } from "@sealpod/rego";
import { builtinError } from "@sealpod/rego";

/** A time zone: offset from UTC and abbreviation at an instant, given in seconds since the epoch. */
export interface Zone {
  readonly name: string;
  /** Seconds east of UTC. */
  offset(seconds: number): number;
  /** As Go's layouts print it for `MST`: `PST`, `CEST`, or the offset where no English region has a name for it. */
  abbreviation(seconds: number): string;
}

export const UTC: Zone = { name: "UTC", offset: () => 0, abbreviation: () => "UTC" };

/**
 * English and other regions in whose texts CLDR abbreviates zones. It knows `CET` in Britain, `IST` in India, `JST` in
 * Japan; none of them knows all.
 */
const LOCALES: readonly string[] = ["en-US", "en-GB", "en-AU", "en-IN", "en-ZA", "en-HK", "ja", "ko", "id"];

/** Work of one question to Intl, measured against a step of the evaluator. */
const FORMAT_WORK = 16;

/** Work of making a formatter. */
const FORMATTER_WORK = 1024;

/** Longest name of a zone: `America/Argentina/ComodRivadavia` has 32 characters. */
const MAX_NAME_LENGTH = 64;

/**
 * A zone of the IANA database by name; the empty name is UTC.
 * @throws {BuiltinError} for unknown names, and for `Local`: a policy must not depend on the machine it runs on
 */
export function zone(name: string, context: BuiltinContext): Zone {
  if (name === "" || name === "UTC") return UTC;
  // Intl also takes offsets such as `+01:00`, which are no names.
  if (name.length > MAX_NAME_LENGTH || !isNameStart(name)) throw unknownZone(name);
  context.allocate(MAX_NAME_LENGTH);
  return context.once(`time zone ${name}`, () => intlZone(name, context));
}

function unknownZone(name: string): Error {
  return builtinError(`unknown time zone ${name}`);
}

function isNameStart(name: string): boolean {
  const first = name.charAt(0);
  return first >= "A" && first <= "Z";
}

function formatter(name: string, locale: string, timeZoneName: "longOffset" | "short", context: BuiltinContext): Intl.DateTimeFormat {
  context.work(FORMATTER_WORK);
  try {
    return new Intl.DateTimeFormat(locale, { timeZone: name, timeZoneName });
  } catch (error) {
    if (error instanceof RangeError) throw unknownZone(name);
    throw error;
  }
}

function intlZone(name: string, context: BuiltinContext): Zone {
  const offsets = formatter(name, "en-US", "longOffset", context);
  const names = new Map<string, Intl.DateTimeFormat>();
  const offset = (seconds: number): number => {
    context.work(FORMAT_WORK);
    return parseOffset(zonePart(offsets, seconds));
  };
  return {
    name,
    offset,
    abbreviation(seconds) {
      for (const locale of LOCALES) {
        context.work(FORMAT_WORK);
        let format = names.get(locale);
        if (format === undefined) names.set(locale, (format = formatter(name, locale, "short", context)));
        const text = zonePart(format, seconds);
        if (isAbbreviation(text)) return text;
      }
      return numericOffset(offset(seconds));
    },
  };
}

function zonePart(format: Intl.DateTimeFormat, seconds: number): string {
  return format.formatToParts(seconds * 1000).find(({ type }) => type === "timeZoneName")?.value ?? "";
}

function isAbbreviation(text: string): boolean {
  for (const char of text) if (char < "A" || char > "Z") return false;
  return text.length >= 2;
}

/** `GMT`, `GMT+05:30`, `GMT-07:52:58`. */
function parseOffset(text: string): number {
  if (text.length <= 3) return 0;
  const [hours = 0, minutes = 0, seconds = 0] = text.slice(4).split(":").map(Number);
  return (text[3] === "-" ? -1 : 1) * (hours * 3600 + minutes * 60 + seconds);
}

/** `+05`, `-0330`: what the IANA database itself has where people use no abbreviation. */
function numericOffset(offset: number): string {
  const minutes = Math.floor(Math.abs(offset) / 60);
  const two = (value: number): string => String(value).padStart(2, "0");
  return `${offset < 0 ? "-" : "+"}${two(Math.floor(minutes / 60))}${minutes % 60 === 0 ? "" : two(minutes % 60)}`;
}
