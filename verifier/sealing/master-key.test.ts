import { fromHex, SealpodError, toHex, type ErrorTable, type Random, type SealpodErrorOptions } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { MasterKey, type SealedDatabase } from "./index.ts";

type ProbeCode = "ERR_PROBE_ARGUMENT" | "ERR_PROBE_STORE";

const PROBE_ERRORS: ErrorTable<ProbeCode> = {
  ERR_PROBE_ARGUMENT: { action: "caller", exit: 2, http: 500, summary: "" },
  ERR_PROBE_STORE: { action: "caller", exit: 1, http: 500, summary: "" },
};

class ProbeError extends SealpodError<ProbeCode> {
  constructor(code: ProbeCode, message: string, options?: SealpodErrorOptions) {
    super(PROBE_ERRORS, code, message, options);
  }
}

const DATABASE: SealedDatabase = {
  name: "the probe database",
  argumentError: (message) => new ProbeError("ERR_PROBE_ARGUMENT", message),
  storeError: (message, options) => new ProbeError("ERR_PROBE_STORE", message, options),
};

const zeros: Random = { bytes: (length) => new Uint8Array(length) };

function masterKey(fill = 1, random = zeros): MasterKey {
  return new MasterKey(new Uint8Array(32).fill(fill), random, DATABASE);
}

describe("MasterKey", () => {
  // Test cases 13 and 14 of the GCM specification (McGrew and Viega): key and nonce of zeros, no additional data.
  it.each([
    ["", "530f8afbc74536b9a963b4f1c4cb738b"],
    ["00000000000000000000000000000000", "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"],
  ])("seals %j as nonce, ciphertext and tag of AES-256-GCM", (plaintext, rest) => {
    const sealed = masterKey(0).seal(fromHex(plaintext), "");
    expect(toHex(sealed)).toBe(`${"00".repeat(12)}${rest}`);
    expect(toHex(masterKey(0).open(sealed, ""))).toBe(plaintext);
  });

  it("draws a new nonce for each value", () => {
    let fill = 0;
    const key = masterKey(1, { bytes: (length) => new Uint8Array(length).fill(++fill) });
    const [first, second] = [key.seal(Uint8Array.of(7), "a"), key.seal(Uint8Array.of(7), "a")];
    expect([toHex(first.subarray(0, 12)), toHex(second.subarray(0, 12))]).toEqual(["01".repeat(12), "02".repeat(12)]);
    expect(first.subarray(12)).not.toEqual(second.subarray(12));
    expect([key.open(first, "a"), key.open(second, "a")]).toEqual([Uint8Array.of(7), Uint8Array.of(7)]);
  });

  it("keeps a key of its own", () => {
    const bytes = new Uint8Array(32).fill(1);
    const key = new MasterKey(bytes, zeros, DATABASE);
    bytes.fill(2);
    expect(masterKey(1).open(key.seal(Uint8Array.of(7), "a"), "a")).toEqual(Uint8Array.of(7));
  });

  it.each([0, 16, 31, 33])("refuses a key of %i bytes with the argument error of the database", (length) => {
    expect(() => new MasterKey(new Uint8Array(length), zeros, DATABASE)).toThrow(
      expect.objectContaining({ code: "ERR_PROBE_ARGUMENT", message: `the master key has ${length} bytes, expected 32` }),
    );
  });

  it.each([
    ["another key", masterKey(2), "signing key a"],
    ["another place", masterKey(1), "signing key b"],
  ])("does not open with %s, and says so with the store error of the database", (_what, key, place) => {
    const sealed = masterKey(1).seal(Uint8Array.of(7), "signing key a");
    expect(() => key.open(sealed, place)).toThrow(
      expect.objectContaining({
        code: "ERR_PROBE_STORE",
        message: `the probe database: ${place} does not open with this master key`,
        hint: "Use the master key that the database was made with, or start with an empty state directory.",
        cause: expect.any(Error),
      }),
    );
  });

  it("does not open when any bit is changed", () => {
    const sealed = masterKey().seal(Uint8Array.of(7, 8), "a");
    for (let bit = 0; bit < sealed.length * 8; bit++) {
      const changed = Uint8Array.from(sealed);
      changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      expect(() => masterKey().open(changed, "a"), `bit ${bit}`).toThrow(expect.objectContaining({ code: "ERR_PROBE_STORE" }));
    }
  });

  it("does not open when bytes are missing or left over", () => {
    const sealed = masterKey().seal(Uint8Array.of(7, 8), "a");
    for (let length = 0; length < sealed.length; length++) {
      expect(() => masterKey().open(sealed.subarray(0, length), "a"), `${length} bytes`).toThrow(expect.objectContaining({ code: "ERR_PROBE_STORE" }));
    }
    expect(() => masterKey().open(Uint8Array.of(...sealed, 0), "a")).toThrow(expect.objectContaining({ code: "ERR_PROBE_STORE" }));
  });
});
