import type { Zone } from "./zone.ts";
import type { Civil } from "./calendar.ts";
import { DAY_SECONDS, daysFromCivil, daysInMonth, isLeapYear, joinNanoseconds } from "./calendar.ts";

/**
 * Layouts of Go's `time` package: a text in which parts of the reference time `Mon Jan 2 15:04:05 MST 2006` stand for the
 * parts of a time (https://pkg.go.dev/time#pkg-constants).
 */

const MONTHS: readonly string[] = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];

export const WEEKDAYS: readonly string[] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/** Layouts that have names. */
const NAMED: ReadonlyMap<string, string> = new Map([
  ["ANSIC", "Mon Jan _2 15:04:05 2006"],
  ["UnixDate", "Mon Jan _2 15:04:05 MST 2006"],
  ["RubyDate", "Mon Jan 02 15:04:05 -0700 2006"],
  ["RFC822", "02 Jan 06 15:04 MST"],
  ["RFC822Z", "02 Jan 06 15:04 -0700"],
  ["RFC850", "Monday, 02-Jan-06 15:04:05 MST"],
  ["RFC1123", "Mon, 02 Jan 2006 15:04:05 MST"],
  ["RFC1123Z", "Mon, 02 Jan 2006 15:04:05 -0700"],
  ["RFC3339", "2006-01-02T15:04:05Z07:00"],
  ["RFC3339Nano", "2006-01-02T15:04:05.999999999Z07:00"],
]);

/** The layout that `time.format` uses where none is given. */
export const DEFAULT_LAYOUT = "RFC3339Nano";

type Verb =
  | "text"
  | "fraction"
  | "zone"
  | "abbreviation"
  | "January"
  | "Jan"
  | "Monday"
  | "Mon"
  | "01"
  | "1"
  | "002"
  | "__2"
  | "02"
  | "_2"
  | "2"
  | "15"
  | "03"
  | "3"
  | "04"
  | "4"
  | "05"
  | "5"
  | "2006"
  | "06"
  | "PM"
  | "pm";

interface Part {
  readonly verb: Verb;
  /** As it stands in the layout. */
  readonly text: string;
}

/** Verbs that are texts of their own; of two that fit, the longer one stands first. */
const VERBS: readonly Verb[] = [
  "January",
  "Jan",
  "Monday",
  "Mon",
  "002",
  "01",
  "02",
  "03",
  "04",
  "05",
  "06",
  "15",
  "1",
  "2006",
  "2",
  "__2",
  "_2",
  "3",
  "4",
  "5",
  "PM",
  "pm",
];

/** Forms of an offset behind their first character, `-` or `Z`; the longer one first. */
const ZONES: readonly string[] = ["070000", "07:00:00", "0700", "07:00", "07"];

function isDigit(text: string, at: number): boolean {
  const unit = text.charCodeAt(at);
  return unit >= 0x30 && unit <= 0x39;
}

function isLower(text: string, at: number): boolean {
  const unit = text.charCodeAt(at);
  return unit >= 0x61 && unit <= 0x7a;
}

function partAt(layout: string, at: number): Part | undefined {
  const first = layout[at];
  if (first === "-" || first === "Z") {
    const form = ZONES.find((text) => layout.startsWith(text, at + 1));
    return form === undefined ? undefined : { verb: "zone", text: first + form };
  }
  if (first === "." || first === ",") {
    const digit = layout[at + 1];
    if (digit !== "0" && digit !== "9") return undefined;
    let end = at + 1;
    while (layout[end] === digit) end++;
    // `.00` of `.001` is no fraction.
    return isDigit(layout, end) ? undefined : { verb: "fraction", text: layout.slice(at, end) };
  }
  if (layout.startsWith("MST", at)) return { verb: "abbreviation", text: "MST" };
  const verb = VERBS.find((text) => layout.startsWith(text, at));
  if (verb === undefined) return undefined;
  // `Jan` of `Janus` and `Mon` of `Month` are text.
  if ((verb === "Jan" || verb === "Mon") && isLower(layout, at + 3)) return undefined;
  // `_2006` is an underscore and a year.
  if (verb === "_2" && layout.startsWith("2006", at + 1)) return undefined;
  return { verb, text: verb };
}

/** The parts of a layout, or of the layout that has this name. */
function parseLayout(nameOrLayout: string): readonly Part[] {
  const layout = NAMED.get(nameOrLayout) ?? nameOrLayout;
  const parts: Part[] = [];
  let from = 0;
  let at = 0;
  while (at < layout.length) {
    const part = partAt(layout, at);
    if (part === undefined) {
      at++;
      continue;
    }
    if (at > from) parts.push({ verb: "text", text: layout.slice(from, at) });
    parts.push(part);
    at += part.text.length;
    from = at;
  }
  if (at > from) parts.push({ verb: "text", text: layout.slice(from) });
  return parts;
}

function padded(value: number, width: number, fill = "0"): string {
  return String(value).padStart(width, fill);
}

/** The text of a time in a layout. */
export function formatTime(civil: Civil, zone: Zone, seconds: number, layout: string): string {
  return parseLayout(layout)
    .map((part) => formatPart(part, civil, zone, seconds))
    .join("");
}

function formatPart({ verb, text }: Part, civil: Civil, zone: Zone, seconds: number): string {
  const hour12 = civil.hour % 12 === 0 ? 12 : civil.hour % 12;
  switch (verb) {
    case "text":
      return text;
    case "fraction":
      return formatFraction(text, civil.nanosecond);
    case "zone":
      return formatOffset(text, civil.offset);
    case "abbreviation":
      return zone.abbreviation(seconds);
    case "January":
      return MONTHS[civil.month - 1]!;
    case "Jan":
      return MONTHS[civil.month - 1]!.slice(0, 3);
    case "Monday":
      return WEEKDAYS[civil.weekday]!;
    case "Mon":
      return WEEKDAYS[civil.weekday]!.slice(0, 3);
    case "01":
      return padded(civil.month, 2);
    case "1":
      return String(civil.month);
    case "002":
      return padded(civil.yearDay, 3);
    case "__2":
      return padded(civil.yearDay, 3, " ");
    case "02":
      return padded(civil.day, 2);
    case "_2":
      return padded(civil.day, 2, " ");
    case "2":
      return String(civil.day);
    case "15":
      return padded(civil.hour, 2);
    case "03":
      return padded(hour12, 2);
    case "3":
      return String(hour12);
    case "04":
      return padded(civil.minute, 2);
    case "4":
      return String(civil.minute);
    case "05":
      return padded(civil.second, 2);
    case "5":
      return String(civil.second);
    case "2006":
      return padded(civil.year, 4);
    case "06":
      return padded(civil.year % 100, 2);
    case "PM":
      return civil.hour < 12 ? "AM" : "PM";
    case "pm":
      return civil.hour < 12 ? "am" : "pm";
  }
}

/** `.000` prints as many digits; `.999` leaves zeros at the end out, and the point if nothing is left. */
function formatFraction(text: string, nanosecond: number): string {
  const digits = padded(nanosecond, 9)
    .padEnd(text.length - 1, "0")
    .slice(0, text.length - 1);
  if (text[1] === "0") return text.charAt(0) + digits;
  let end = digits.length;
  while (end > 0 && digits[end - 1] === "0") end--;
  return end === 0 ? "" : text.charAt(0) + digits.slice(0, end);
}

function formatOffset(text: string, offset: number): string {
  if (text.startsWith("Z") && offset === 0) return "Z";
  const magnitude = Math.abs(offset);
  const colon = text.includes(":") ? ":" : "";
  const digits = text.length - text.split(":").length;
  let result = `${offset < 0 ? "-" : "+"}${padded(Math.floor(magnitude / 3600), 2)}`;
  if (digits > 2) result += colon + padded(Math.floor(magnitude / 60) % 60, 2);
  if (digits > 4) result += colon + padded(magnitude % 60, 2);
  return result;
}

/** Why a text is no time in a layout. */
export class LayoutError extends Error {}

/** What has been read of a time. */
interface Fields {
  year: number;
  month: number | undefined;
  day: number | undefined;
  yearDay: number | undefined;
  hour: number;
  minute: number;
  second: number;
  nanosecond: number;
  half: "AM" | "PM" | undefined;
  offset: number | undefined;
}

/**
 * Nanoseconds since the epoch of a text in a layout, as Go's `time.Parse` reads it. What the layout leaves out is that of
 * 0000-01-01T00:00:00Z. Zones by abbreviation but `GMT+3` count as UTC, since Go knows them for the local zone only.
 * @throws {LayoutError}
 */
export function parseTime(nameOrLayout: string, text: string): bigint {
  return new TimeReader(nameOrLayout, text).read();
}

/** True for a text that {@link parseTime} reads. */
export function isTime(nameOrLayout: string, text: string): boolean {
  try {
    parseTime(nameOrLayout, text);
    return true;
  } catch (error) {
    if (error instanceof LayoutError) return false;
    throw error;
  }
}

class TimeReader {
  readonly #layout: string;
  readonly #text: string;
  readonly #parts: readonly Part[];
  readonly #fields: Fields = {
    year: 0,
    month: undefined,
    day: undefined,
    yearDay: undefined,
    hour: 0,
    minute: 0,
    second: 0,
    nanosecond: 0,
    half: undefined,
    offset: undefined,
  };
  #at = 0;

  constructor(nameOrLayout: string, text: string) {
    this.#layout = NAMED.get(nameOrLayout) ?? nameOrLayout;
    this.#text = text;
    this.#parts = parseLayout(nameOrLayout);
  }

  read(): bigint {
    for (const [index, part] of this.#parts.entries()) this.#part(part, this.#parts[index + 1]);
    if (this.#at < this.#text.length) throw this.#error(`extra text: ${quoted(this.#text.slice(this.#at))}`);
    return this.#instant();
  }

  #instant(): bigint {
    const { year, hour, half, minute, second, nanosecond, offset } = this.#fields;
    const { month, day } = this.#date();
    const hours = half === "PM" && hour < 12 ? hour + 12 : half === "AM" && hour === 12 ? 0 : hour;
    const seconds = daysFromCivil(year, month, day) * DAY_SECONDS + hours * 3600 + minute * 60 + second - (offset ?? 0);
    return joinNanoseconds(seconds, nanosecond);
  }

  #date(): { readonly month: number; readonly day: number } {
    const { year, yearDay, month = 1, day = 1 } = this.#fields;
    if (yearDay !== undefined) {
      if (yearDay < 1 || yearDay > (isLeapYear(year) ? 366 : 365)) throw this.#range("day-of-year");
      let [inMonth, rest] = [1, yearDay];
      while (rest > daysInMonth(year, inMonth)) rest -= daysInMonth(year, inMonth++);
      if (this.#fields.month !== undefined && month !== inMonth) throw this.#error("day-of-year does not match month");
      if (this.#fields.day !== undefined && day !== rest) throw this.#error("day-of-year does not match day");
      return { month: inMonth, day: rest };
    }
    if (day < 1 || day > daysInMonth(year, month)) throw this.#range("day");
    return { month, day };
  }

  #part(part: Part, next: Part | undefined): void {
    const fields = this.#fields;
    switch (part.verb) {
      case "text":
        this.#literal(part);
        return;
      case "2006":
        fields.year = this.#fixed(4, part);
        return;
      case "06": {
        const year = this.#fixed(2, part);
        fields.year = year + (year >= 69 ? 1900 : 2000);
        return;
      }
      case "January":
      case "Jan":
        fields.month = 1 + this.#name(MONTHS, part);
        return;
      case "Monday":
      case "Mon":
        this.#name(WEEKDAYS, part);
        return;
      case "01":
      case "1":
        fields.month = this.#number(part, 1, 12, "month");
        return;
      case "02":
      case "_2":
      case "2":
        if (part.verb === "_2" && this.#text[this.#at] === " ") this.#at++;
        // The month may come later, so the day is checked at the end.
        fields.day = this.#number(part, 0, 99, "day");
        return;
      case "002":
      case "__2":
        fields.yearDay = this.#yearDay(part);
        return;
      case "15":
        fields.hour = this.#number(part, 0, 23, "hour");
        return;
      case "03":
      case "3":
        fields.hour = this.#number(part, 0, 12, "hour");
        return;
      case "04":
      case "4":
        fields.minute = this.#number(part, 0, 59, "minute");
        return;
      case "05":
      case "5":
        fields.second = this.#number(part, 0, 59, "second");
        // A fraction may follow the seconds where the layout has none.
        if (next?.verb !== "fraction") this.#fraction();
        return;
      case "fraction":
        if (part.text[1] === "9") this.#fraction();
        else this.#fullFraction(part);
        return;
      case "PM":
      case "pm": {
        const half = this.#text.slice(this.#at, this.#at + 2);
        if ((part.verb === "PM" ? half.toUpperCase() : half.toLowerCase()) !== half || !["AM", "PM"].includes(half.toUpperCase())) throw this.#mismatch(part);
        fields.half = half.toUpperCase() === "PM" ? "PM" : "AM";
        this.#at += 2;
        return;
      }
      case "zone":
        fields.offset = this.#offset(part);
        return;
      case "abbreviation":
        fields.offset = this.#abbreviation(part);
    }
  }

  /** Text of the layout; a run of spaces stands for any run of spaces. */
  #literal(part: Part): void {
    for (let at = 0; at < part.text.length;) {
      if (part.text[at] === " ") {
        if (this.#at < this.#text.length && this.#text[this.#at] !== " ") throw this.#mismatch(part);
        while (part.text[at] === " ") at++;
        while (this.#text[this.#at] === " ") this.#at++;
        continue;
      }
      if (this.#text[this.#at] !== part.text[at]) throw this.#mismatch(part);
      at++;
      this.#at++;
    }
  }

  #fixed(count: number, part: Part): number {
    let value = 0;
    for (let end = this.#at + count; this.#at < end; this.#at++) {
      if (!isDigit(this.#text, this.#at)) throw this.#mismatch(part);
      value = value * 10 + (this.#text.charCodeAt(this.#at) - 0x30);
    }
    return value;
  }

  /** One or two digits; two if the layout has two, but for hours of a day. */
  #number(part: Part, low: number, high: number, what: string): number {
    const two = isDigit(this.#text, this.#at + 1);
    const fixed = part.text.startsWith("0");
    const value = this.#fixed(two || fixed ? 2 : 1, part);
    if (value < low || value > high) throw this.#range(what);
    return value;
  }

  /** Three digits; of `__2` one to three, behind spaces. */
  #yearDay(part: Part): number {
    if (part.verb === "002") return this.#fixed(3, part);
    for (let spaces = 0; spaces < 2 && this.#text[this.#at] === " "; spaces++) this.#at++;
    let digits = 1;
    while (digits < 3 && isDigit(this.#text, this.#at + digits)) digits++;
    return this.#fixed(digits, part);
  }

  #name(names: readonly string[], part: Part): number {
    const long = part.verb === "January" || part.verb === "Monday";
    const index = names.findIndex((name) => {
      const wanted = (long ? name : name.slice(0, 3)).toLowerCase();
      return this.#text.slice(this.#at, this.#at + wanted.length).toLowerCase() === wanted;
    });
    if (index === -1) throw this.#mismatch(part);
    this.#at += long ? names[index]!.length : 3;
    return index;
  }

  /** A point or comma and digits, if there are any. Digits behind the ninth are dropped. */
  #fraction(): void {
    if (!this.#atPoint() || !isDigit(this.#text, this.#at + 1)) return;
    const start = ++this.#at;
    while (isDigit(this.#text, this.#at)) this.#at++;
    this.#fields.nanosecond = Number(this.#text.slice(start, Math.min(this.#at, start + 9)).padEnd(9, "0"));
  }

  #fullFraction(part: Part): void {
    if (!this.#atPoint()) throw this.#mismatch(part);
    const start = ++this.#at;
    for (const end = start + part.text.length - 1; this.#at < end; this.#at++) if (!isDigit(this.#text, this.#at)) throw this.#mismatch(part);
    this.#fields.nanosecond = Number(this.#text.slice(start, Math.min(this.#at, start + 9)).padEnd(9, "0"));
  }

  #atPoint(): boolean {
    return this.#text[this.#at] === "." || this.#text[this.#at] === ",";
  }

  #offset(part: Part): number {
    if (part.text.startsWith("Z") && this.#text[this.#at] === "Z") {
      this.#at++;
      return 0;
    }
    const sign = this.#text[this.#at];
    if (sign !== "+" && sign !== "-") throw this.#mismatch(part);
    this.#at++;
    let total = 0;
    for (const [index, unit] of [3600, 60, 1].slice(0, part.text.replaceAll(":", "").length >> 1).entries()) {
      if (index > 0 && part.text.includes(":")) {
        if (this.#text[this.#at] !== ":") throw this.#mismatch(part);
        this.#at++;
      }
      const value = this.#fixed(2, part);
      // Go takes offsets of 24 hours and of 60 minutes.
      if (value > (unit === 3600 ? 24 : 60)) throw this.#range(unit === 3600 ? "time zone offset hour" : "time zone offset minute");
      total += value * unit;
    }
    return sign === "-" ? -total : total;
  }

  /** An abbreviation such as `CEST`, `WITA`, `+03` or `GMT-5`; gives the offset of the last kind. */
  #abbreviation(part: Part): number {
    const rest = this.#text.slice(this.#at, this.#at + 6);
    if (rest.startsWith("GMT")) {
      this.#at += 3;
      return 3600 * this.#signedHours();
    }
    if (rest.startsWith("+") || rest.startsWith("-")) {
      const start = this.#at;
      this.#signedHours();
      if (this.#at === start) throw this.#mismatch(part);
      return 0;
    }
    const length = abbreviationLength(rest);
    if (length === 0) throw this.#mismatch(part);
    this.#at += length;
    return 0;
  }

  #signedHours(): number {
    const sign = this.#text[this.#at];
    if (sign !== "+" && sign !== "-") return 0;
    let end = this.#at + 1;
    while (end < this.#at + 4 && isDigit(this.#text, end)) end++;
    const hours = Number(this.#text.slice(this.#at + 1, end));
    if (end === this.#at + 1 || hours > 23) return 0;
    this.#at = end;
    return sign === "-" ? -hours : hours;
  }

  #mismatch(part: Part): LayoutError {
    return this.#error(`cannot parse ${quoted(this.#text.slice(this.#at))} as ${quoted(part.text)}`);
  }

  #range(what: string): LayoutError {
    return this.#error(`${what} out of range`);
  }

  #error(why: string): LayoutError {
    return new LayoutError(`parsing time ${quoted(this.#text)} as ${quoted(this.#layout)}: ${why}`);
  }
}

/** Texts in messages are cut: the reader knows what was given. */
function quoted(text: string): string {
  return JSON.stringify(text.length > 128 ? `${text.slice(0, 128)}...` : text);
}

/** Length of an abbreviation at the begin of a text: three capitals, or four or five that end in T. */
function abbreviationLength(text: string): number {
  if (text.startsWith("ChST") || text.startsWith("MeST") || text.startsWith("WITA")) return 4;
  let capitals = 0;
  while (capitals < 6 && text.charCodeAt(capitals) >= 0x41 && text.charCodeAt(capitals) <= 0x5a) capitals++;
  if (capitals === 3) return 3;
  return (capitals === 4 || capitals === 5) && text[capitals - 1] === "T" ? capitals : 0;
}
