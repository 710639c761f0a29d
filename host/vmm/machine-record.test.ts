import { describe, expect, it } from "vitest";
import { parseStartTime } from "./machine-record.ts";

/** Fields 3 to 24 of a process that started at tick 4711. */
const REST = "1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1000 200";

describe("the start time of a process", () => {
  it.each([
    [`42 (qemu) S ${REST}`, "4711"],
    // The name is the process' own choice.
    [`42 (a) Z 1 2 3 (b) R ${REST}`, "4711"],
    [`42 (\n) S 0 0) D ${REST}`, "4711"],
  ])("is field 22 of %j", (stat, expected) => {
    expect(parseStartTime(stat)).toBe(expected);
  });

  it.each([`42 (qemu) Z ${REST}`, `42 (qemu) X ${REST}`, "", "42 (qemu", "42 (qemu) S 1 2"])("is not there in %j", (stat) => {
    expect(parseStartTime(stat)).toBeUndefined();
  });
});
