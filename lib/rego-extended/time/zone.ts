import type { BuiltinContext } from "@sealpod/rego";
import { builtinError } from "@sealpod/rego";

/** A time zone: offset from UTC and abbreviation at an instant, given in seconds since the epoch. */
export interface Zone {
  readonly name: string;
  /** Seconds east of UTC. */
  offset(seconds: number): number;
  /** As Go's layouts print it for `MST`: `PST`, `CEST`, or the offset where there is none. */
  abbreviation(seconds: number): string;
}

export const UTC: Zone = { name: "UTC", offset: () => 0, abbreviation: () => "UTC" };

/**
 * Abbreviations of the IANA database by the English names that CLDR has for them. Intl's own abbreviations will not do: CLDR has
 * none for most zones (`MSK`, `JST`), others than IANA for some, and changes them. Its long names are stable. They begin in 1970.
 */
const ABBREVIATIONS: ReadonlyMap<string, string> = new Map([
  ["Alaska Daylight Time", "AKDT"],
  ["Alaska Standard Time", "AKST"],
  ["American Samoa Standard Time", "SST"],
  ["Atlantic Daylight Time", "ADT"],
  ["Atlantic Standard Time", "AST"],
  ["Australian Central Daylight Time", "ACDT"],
  ["Australian Central Standard Time", "ACST"],
  ["Australian Eastern Daylight Time", "AEDT"],
  ["Australian Eastern Standard Time", "AEST"],
  ["Australian Western Standard Time", "AWST"],
  ["British Summer Time", "BST"],
  ["Central Africa Time", "CAT"],
  ["Central Daylight Time", "CDT"],
  ["Central European Standard Time", "CET"],
  ["Central European Summer Time", "CEST"],
  ["Central Indonesia Time", "WITA"],
  ["Central Standard Time", "CST"],
  ["Chamorro Standard Time", "ChST"],
  ["China Standard Time", "CST"],
  ["Coordinated Universal Time", "UTC"],
  ["Cuba Daylight Time", "CDT"],
  ["Cuba Standard Time", "CST"],
  ["East Africa Time", "EAT"],
  ["Eastern Daylight Time", "EDT"],
  ["Eastern European Standard Time", "EET"],
  ["Eastern European Summer Time", "EEST"],
  ["Eastern Indonesia Time", "WIT"],
  ["Eastern Standard Time", "EST"],
  ["Greenwich Mean Time", "GMT"],
  ["Hawaii-Aleutian Daylight Time", "HDT"],
  ["Hawaii-Aleutian Standard Time", "HST"],
  ["Hong Kong Standard Time", "HKT"],
  ["India Standard Time", "IST"],
  ["Irish Standard Time", "IST"],
  ["Israel Daylight Time", "IDT"],
  ["Israel Standard Time", "IST"],
  ["Japan Standard Time", "JST"],
  ["Korean Standard Time", "KST"],
  ["Mexican Pacific Standard Time", "MST"],
  ["Moscow Standard Time", "MSK"],
  ["Mountain Daylight Time", "MDT"],
  ["Mountain Standard Time", "MST"],
  ["New Zealand Daylight Time", "NZDT"],
  ["New Zealand Standard Time", "NZST"],
  ["Newfoundland Daylight Time", "NDT"],
  ["Newfoundland Standard Time", "NST"],
  ["Pacific Daylight Time", "PDT"],
  ["Pacific Standard Time", "PST"],
  ["Pakistan Standard Time", "PKT"],
  ["Philippine Standard Time", "PST"],
  ["South Africa Standard Time", "SAST"],
  ["Taiwan Standard Time", "CST"],
  ["West Africa Time", "WAT"],
  ["Western European Standard Time", "WET"],
  ["Western European Summer Time", "WEST"],
  ["Western Indonesia Time", "WIB"],
  ["Yukon Time", "MST"],
]);

/** Zones that share such a name with others but have no abbreviation. */
const UNNAMED: readonly string[] = [
  "Africa/Casablanca",
  "Africa/El_Aaiun",
  "Antarctica/Casey",
  "Antarctica/Troll",
  "Asia/Colombo",
  "Asia/Dili",
  "Europe/Minsk",
];

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

function formatter(name: string, timeZoneName: "longOffset" | "long", context: BuiltinContext): Intl.DateTimeFormat {
  context.work(FORMATTER_WORK);
  try {
    return new Intl.DateTimeFormat("en-US", { timeZone: name, timeZoneName });
  } catch (error) {
    if (error instanceof RangeError) throw unknownZone(name);
    throw error;
  }
}

function intlZone(name: string, context: BuiltinContext): Zone {
  const offsets = formatter(name, "longOffset", context);
  let names: Intl.DateTimeFormat | undefined;
  const offset = (seconds: number): number => {
    context.work(FORMAT_WORK);
    return parseOffset(zonePart(offsets, seconds));
  };
  return {
    name,
    offset,
    abbreviation(seconds) {
      context.work(FORMAT_WORK);
      names ??= formatter(name, "long", context);
      const known = UNNAMED.includes(name) ? undefined : ABBREVIATIONS.get(zonePart(names, seconds));
      // CLDR calls Greenwich's own zones UTC.
      if (known === "UTC" && (name.includes("GMT") || name.includes("Greenwich"))) return "GMT";
      return known ?? numericOffset(offset(seconds));
    },
  };
}

function zonePart(format: Intl.DateTimeFormat, seconds: number): string {
  return format.formatToParts(seconds * 1000).find(({ type }) => type === "timeZoneName")?.value ?? "";
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
