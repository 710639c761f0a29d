import { describe, expect, it } from "vitest";
import { isAtLeast, parseQemuVersion } from "./version.ts";

describe("QEMU's version", () => {
  it("is read from the first line", () => {
    const text = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)";
    expect(parseQemuVersion(`${text}\nCopyright (c) 2003-2022 version 9.9`)).toEqual({ major: 7, minor: 2, text });
    expect(parseQemuVersion("QEMU emulator version 10.0.2")).toMatchObject({ major: 10, minor: 0 });
  });

  it("is refused when it is not there", () => {
    for (const text of ["", "QEMU emulator", "QEMU emulator version x.y", "\nversion 7.2"]) {
      expect(() => parseQemuVersion(text)).toThrow(expect.objectContaining({ code: "ERR_VMM_UNAVAILABLE" }));
    }
  });

  it("is compared by numbers", () => {
    const version = (major: number, minor: number): boolean => isAtLeast({ major, minor, text: "" }, { major: 9, minor: 1 });
    expect([version(9, 1), version(9, 10), version(10, 0), version(9, 0), version(8, 9), version(7, 2)]).toEqual([true, true, true, false, false, false]);
  });
});
