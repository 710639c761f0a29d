import { describe, expect, it } from "vitest";
import { fromHex, newUuid, type Random } from "./index.ts";

const fixed = (bytes: Uint8Array): Random => ({ bytes: () => bytes });

describe("newUuid (RFC 9562 section 5.4)", () => {
  it.each([
    ["00000000000000000000000000000000", "00000000-0000-4000-8000-000000000000"],
    ["ffffffffffffffffffffffffffffffff", "ffffffff-ffff-4fff-bfff-ffffffffffff"],
    ["0123456789abcdef0123456789abcdef", "01234567-89ab-4def-8123-456789abcdef"],
    // The example of RFC 9562 appendix A.3, its version and variant spoilt.
    ["919108f752d133205bacf847db4148a8", "919108f7-52d1-4320-9bac-f847db4148a8"],
  ])("keeps all bits of %s but version and variant", (hex, uuid) => {
    expect(newUuid(fixed(fromHex(hex)))).toBe(uuid);
  });

  it("draws 16 bytes once, and leaves what it was given alone", () => {
    const drawn: number[] = [];
    const source = new Uint8Array(16).fill(0xff);
    newUuid({
      bytes: (length) => {
        drawn.push(length);
        return source;
      },
    });
    expect(drawn).toEqual([16]);
    expect(source).toEqual(new Uint8Array(16).fill(0xff));
  });
});
