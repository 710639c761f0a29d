import { describe, expect, it } from "vitest";
import { civilFromDays, daysFromCivil } from "./calendar.ts";
import { answers, failures, table } from "../testdata/tables.ts";
import { timeBuiltins } from "./time.ts";

const answer = answers(timeBuiltins);

/** 2022-12-02T18:40:53.141828752Z, a Friday. */
const NOW = "1670006453141828752";

table("date, clock and weekday", answer, [
  [`time.date(${NOW})`, [2022, 12, 2]],
  [`time.clock(${NOW})`, [18, 40, 53]],
  [`time.weekday(${NOW})`, "Friday"],
  [`time.weekday([${NOW}, "Asia/Kolkata"])`, "Saturday"],
  [`time.clock([${NOW}, "Asia/Kathmandu"])`, [0, 25, 53]],
  [`time.date([${NOW}, "UTC"])`, [2022, 12, 2]],
  [`time.date([${NOW}])`, [2022, 12, 2]],
  ["time.date(0)", [1970, 1, 1]],
  ["time.clock(-1)", [23, 59, 59]],
  ["time.date(-1)", [1969, 12, 31]],
  ["time.date(-9223372036854775808)", [1677, 9, 21]],
  ["time.date(9223372036854775807)", [2262, 4, 11]],
  ["time.date(951782400000000000)", [2000, 2, 29]],
  // Before and after the clocks change: 2021-03-14 and 2021-11-07 in New York.
  ['time.clock([1615705199000000000, "America/New_York"])', [1, 59, 59]],
  ['time.clock([1615705200000000000, "America/New_York"])', [3, 0, 0]],
  ['time.clock([1636264799000000000, "America/New_York"])', [1, 59, 59]],
  ['time.clock([1636264800000000000, "America/New_York"])', [1, 0, 0]],
]);

failures("operands", answer, [
  ["time.date(9223372036854775808)", "timestamp too big"],
  ["time.date(1.5)", "timestamp too big"],
  ['time.date("0")', "operand 1 must be either number (ns) or [number (ns), string (tz)]"],
  ["time.date([])", "operand 1 must be either number (ns) or [number (ns), string (tz)]"],
  ["time.date([0, 1])", "operand 1 must be either number (ns) or [number (ns), string (tz)]"],
  ['time.date([0, "Mars/Phobos"])', "unknown time zone Mars/Phobos"],
  ['time.date([0, "Local"])', "unknown time zone Local"],
  ['time.date([0, "+05:30"])', "unknown time zone +05:30"],
  ['time.date([0, "../../etc/passwd"])', "unknown time zone"],
]);

table("time.format", answer, [
  [`time.format(${NOW})`, "2022-12-02T18:40:53.141828752Z"],
  ["time.format(0)", "1970-01-01T00:00:00Z"],
  ["time.format(120000000)", "1970-01-01T00:00:00.12Z"],
  ['time.format([0, "America/St_Johns"])', "1969-12-31T20:30:00-03:30"],
  ...(
    [
      ["ANSIC", "Fri Dec  2 18:40:53 2022"],
      ["UnixDate", "Fri Dec  2 18:40:53 UTC 2022"],
      ["RubyDate", "Fri Dec 02 18:40:53 +0000 2022"],
      ["RFC822", "02 Dec 22 18:40 UTC"],
      ["RFC822Z", "02 Dec 22 18:40 +0000"],
      ["RFC850", "Friday, 02-Dec-22 18:40:53 UTC"],
      ["RFC1123", "Fri, 02 Dec 2022 18:40:53 UTC"],
      ["RFC1123Z", "Fri, 02 Dec 2022 18:40:53 +0000"],
      ["RFC3339", "2022-12-02T18:40:53Z"],
      ["RFC3339Nano", "2022-12-02T18:40:53.141828752Z"],
      ["", "2022-12-02T18:40:53.141828752Z"],
      ["Jan January 1 01", "Dec December 12 12"],
      ["Mon Monday 2 02 _2 002 __2", "Fri Friday 2 02  2 336 336"],
      ["15 3 03 4 04 5 05 PM pm", "18 6 06 40 40 53 53 PM pm"],
      ["2006 06 _2006", "2022 22 _2022"],
      [".000 ,00 .999999 .0000000000", ".141 ,14 .141828 .1418287520"],
      ["-07 -0700 -07:00 -070000 -07:00:00", "+00 +0000 +00:00 +000000 +00:00:00"],
      ["Z07 Z0700 Z07:00 Z070000", "Z Z Z Z"],
      ["Janus Month MSTx 5.001", "Janus Month UTCx 53.012"],
      ["at 3 o'clock", "at 6 o'clock"],
    ] as const
  ).map(([layout, text]) => [`time.format([${NOW}, "UTC", ${JSON.stringify(layout)}])`, text] as const),
  ['time.format([1700000000000000000, "UTC", ".999"])', ""],
  ['time.format([1625097600000000000, "Europe/Berlin", "MST -07"])', "CEST +02"],
  ['time.format([1609459200000000000, "America/Los_Angeles", "MST Z07:00"])', "PST -08:00"],
  ['time.format([1609459200000000000, "Asia/Kolkata", "MST"])', "IST"],
  ...(
    [
      ["America/Sao_Paulo", "-03"],
      ["America/Havana", "CST"],
      ["America/Hermosillo", "MST"],
      ["Asia/Colombo", "+0530"],
      ["Asia/Dubai", "+04"],
      ["Asia/Jerusalem", "IST"],
      ["Asia/Seoul", "KST"],
      ["Asia/Shanghai", "CST"],
      ["Etc/GMT+5", "-05"],
      ["Etc/UTC", "UTC"],
      ["Europe/Minsk", "+03"],
      ["Europe/Moscow", "MSK"],
      ["GMT", "GMT"],
      ["Pacific/Guam", "ChST"],
      ["US/Aleutian", "HST"],
    ] as const
  ).map(([zone, text]) => [`time.format([1609459200000000000, "${zone}", "MST"])`, text] as const),
  ['time.format([1625097600000000000, "Europe/Dublin", "MST"])', "IST"],
  ['time.format([43200000000000, "UTC", "3PM"])', "12PM"],
  ['time.format([0, "UTC", "3PM"])', "12AM"],
]);

table("time.parse_ns", answer, [
  ['time.parse_ns("2006-01-02", "2020-02-29")', 1582934400000000000n],
  ['time.parse_ns("RFC3339", "1970-01-01T01:00:00+01:00")', 0],
  ['time.parse_ns("2006-01-02 15:04:05", "1970-01-01 00:00:00.25")', 250000000],
  ['time.parse_ns("15:04:05.000 2006", "00:00:01.5001 1970")', undefined],
  ['time.parse_ns("15:04:05.000 2006", "00:00:01.500 1970")', 1500000000],
  ['time.parse_ns("15:04:05.999 2006", "00:00:01 1970")', 1000000000],
  ['time.parse_ns("15:04:05,9 2006", "00:00:01,123456789123 1970")', 1123456789],
  ['time.parse_ns("Jan _2 2006", "jAN  2 1970")', 86400000000000],
  ['time.parse_ns("January 2, 2006", "March 1, 1970")', 5097600000000000],
  ['time.parse_ns("2006 002", "1972 366")', 94608000000000000n],
  ['time.parse_ns("2006 __2", "1970   2")', 86400000000000],
  ['time.parse_ns("3:04PM 2006", "12:30AM 1970")', 1800000000000],
  ['time.parse_ns("3:04PM 2006", "12:30PM 1970")', 45000000000000],
  ['time.parse_ns("3:04pm 2006", "1:00pm 1970")', 46800000000000],
  ['time.parse_ns("2006 MST", "1970 UTC")', 0],
  ['time.parse_ns("2006 MST", "1970 CEST")', 0],
  ['time.parse_ns("2006 MST", "1970 GMT+3")', -10800000000000],
  ['time.parse_ns("2006 MST", "1970 -03")', 0],
  ['time.parse_ns("2006 Z07:00:00", "1970 -00:00:30")', 30000000000],
  ['time.parse_ns("2006 -07", "1970 +24")', -86400000000000],
  ['time.parse_ns("06", "69")', -31536000000000000n],
  ['time.parse_ns("06", "68")', 3092601600000000000n],
  ['time.parse_ns("2006   Jan", "1970 Jan")', 0],
  ['time.parse_ns("02 Jan 2006", "01 Jan 1970")', 0],
]);

failures("texts that are no times", answer, [
  ['time.parse_ns("2006-01-02", "2021-02-29")', "day out of range"],
  ['time.parse_ns("2006-01-02", "2020-13-01")', "month out of range"],
  ['time.parse_ns("2006-01-02", "2020-00-01")', "month out of range"],
  ['time.parse_ns("2006-01-02", "2020-1-01")', "cannot parse"],
  ['time.parse_ns("2006-01-02", "2020-01-01x")', 'extra text: "x"'],
  ['time.parse_ns("2006-01-02", "2020-01")', 'cannot parse "" as "-"'],
  ['time.parse_ns("2006-01-02", "\u0662020-01-01")', "cannot parse"],
  ['time.parse_ns("15:04", "24:00")', "hour out of range"],
  ['time.parse_ns("3PM", "13PM")', "hour out of range"],
  ['time.parse_ns("3PM", "1pm")', 'as "PM"'],
  ['time.parse_ns("15:04", "12:60")', "minute out of range"],
  ['time.parse_ns("05", "60")', "second out of range"],
  ['time.parse_ns("Mon", "Foo")', 'cannot parse "Foo" as "Mon"'],
  ['time.parse_ns("2006 002", "1970 366")', "day-of-year out of range"],
  ['time.parse_ns("2006 01 002", "1970 02 001")', "day-of-year does not match month"],
  ['time.parse_ns("-0700", "+2500")', "time zone offset hour out of range"],
  ['time.parse_ns("-07:00", "+0500")', "cannot parse"],
  ['time.parse_ns("MST", "ABCDEF")', "cannot parse"],
  ['time.parse_ns("MST", "abc")', "cannot parse"],
  ['time.parse_ns("2006", "0001")', "time outside of valid range"],
  ['time.parse_ns("", "x")', "extra text"],
  ["time.parse_ns(1, 2)", "operand 1 must be string but got number"],
]);

table("time.add_date", answer, [
  ["time.add_date(0, 0, 0, 1)", 86400000000000],
  // 31 January and a month is 3 March: February has no 31st.
  ["time.add_date(1675123200000000000, 0, 1, 0)", 1677801600000000000n],
  ["time.add_date(1582934400000000000, 1, 0, 0)", 1614556800000000000n],
  ["time.add_date(0, 0, -13, 0)", -34214400000000000n],
  ["time.add_date(1, 0, 0, 0)", 1],
  ["time.add_date(-1, 0, 0, 1)", 86399999999999],
  // The same time of day, though the night is an hour shorter.
  ['time.add_date([1615687200000000000, "America/New_York"], 0, 0, 1)', 1615770000000000000n],
  ["time.add_date(0, 1000000, -12000000, 1)", 86400000000000],
]);

failures("time.add_date out of range", answer, [
  ["time.add_date(0, 300, 0, 0)", "time outside of valid range"],
  ["time.add_date(0, -300, 0, 0)", "time outside of valid range"],
  ["time.add_date(0, 0, 0, 9007199254740991)", "time outside of valid range"],
  ["time.add_date(0, 99999999999999999999, 0, 0)", "operand 2 is out of range"],
  ["time.add_date(0, 0, 0.5, 0)", "operand 3 must be integer number but got floating-point number"],
]);

table("time.diff", answer, [
  ["time.diff(0, 0)", [0, 0, 0, 0, 0, 0]],
  ["time.diff(90061000000000, 0)", [0, 0, 1, 1, 1, 1]],
  ["time.diff(0, 90061000000000)", [0, 0, 1, 1, 1, 1]],
  ["time.diff(-1, 0)", [0, 0, 0, 0, 0, 1]],
  // 31 January to 1 March 2023: a month of 31 days less than two.
  ["time.diff(1675123200000000000, 1677628800000000000)", [0, 1, 1, 0, 0, 0]],
  ['time.diff([1615687200000000000, "America/New_York"], [1615770000000000000, "Asia/Tokyo"])', [0, 0, 1, 0, 0, 0]],
]);

describe("the calendar", () => {
  it("agrees with JavaScript's over nine centuries", () => {
    for (let days = -150_000; days <= 180_000; days += 1) {
      const date = new Date(days * 86_400_000);
      const civil = civilFromDays(days);
      if (civil.year !== date.getUTCFullYear() || civil.month !== date.getUTCMonth() + 1 || civil.day !== date.getUTCDate())
        expect(civil).toBe(date.toISOString());
      if (daysFromCivil(civil.year, civil.month, civil.day) !== days) expect(civil).toBe(days);
    }
  });

  it("parses what it prints", () => {
    for (const layout of ["RFC3339Nano", "Mon Jan _2 15:04:05.000000000 -0700 2006", "002 2006 3:04:05.999999999PM Z07:00"]) {
      for (const time of ["0", "-1", NOW, "-9223372036854775808", "9223372036854775807"]) {
        expect(answer(`time.parse_ns("${layout}", time.format([${time}, "Etc/GMT-9", "${layout}"])) == ${time}`)).toBe(true);
      }
    }
  });
});

describe("hostile times", () => {
  it("many unknown zones meet the limit", () => {
    expect(answer('count([1 | some i in numbers.range(1, 1000000); not time.date([0, sprintf("X%d", [i])])])')).toMatch(/^ERR_REGO_LIMIT_/);
  });

  it("long layouts and texts cost what they are long", () => {
    const long = "-".repeat(1_000_000);
    expect(answer('time.format([0, "UTC", input])', { input: long })).toBe(long);
    expect(answer("time.parse_ns(input, input)", { input: long })).toBeUndefined();
    expect(answer('count(time.format([0, "UTC", input]))', { input: "January".repeat(200_000) })).toBe(1_400_000);
    expect(answer('time.parse_ns("05", concat("", ["01.", input]))', { input: "1".repeat(1_000_000) })).toBeUndefined();
  });
});
