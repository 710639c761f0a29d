import { describe, expect, it } from "vitest";
import { SecretMask } from "./mask.ts";

describe("SecretMask", () => {
  it("hides a secret in the forms in which it travels, and the longer of two first", () => {
    const mask = new SecretMask();
    for (const secret of ["abcd", "abcd/+ efgh", "abc"]) mask.add(secret);
    expect(mask.clean("1 abcd/+ efgh 2 abcd%2F%2B%20efgh 3 abcd%2F%2B+efgh 4 abcd 5 abc")).toBe("1 *** 2 *** 3 *** 4 *** 5 abc");
  });

  it("leaves one line of printable text", () => {
    const mask = new SecretMask();
    expect(mask.clean(" a\r\nb\u0000\u001B[31mc\u202Ed\u2028é ")).toBe("a b [31mc d é");
    expect(mask.clean("x".repeat(400))).toBe(`${"x".repeat(300)}…`);
    mask.add("tail-secret");
    expect(mask.clean(`${"x".repeat(295)}tail-secret`)).toBe(`${"x".repeat(295)}***`);
  });
});
