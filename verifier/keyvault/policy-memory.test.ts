import { describe, expect, it } from "vitest";
import { PolicyMemory } from "./policy-memory.ts";

const policy = (value: string): string =>
  JSON.stringify({ version: "1.0.0", anyOf: [{ authority: "https://attest.test", allOf: [{ claim: "x-ms-attestation-type", equals: value }] }] });

describe("PolicyMemory", () => {
  it("parses a text once, and every other text by itself", () => {
    const memory = new PolicyMemory();
    const first = memory.parse(policy("a"));
    expect(first.anyOf[0]?.condition.conditions).toEqual([{ kind: "claim", claim: "x-ms-attestation-type", equals: "a" }]);
    expect(memory.parse(policy("a"))).toBe(first);
    expect(memory.parse(policy("b")).anyOf[0]?.condition.conditions).toEqual([{ kind: "claim", claim: "x-ms-attestation-type", equals: "b" }]);
    expect(memory.parse(`${policy("a")} `)).not.toBe(first);
  });

  it("remembers nothing of what is no policy", () => {
    const memory = new PolicyMemory();
    for (const text of ["", "{}", policy("a").slice(1)]) {
      for (let time = 0; time < 2; time++) expect(() => memory.parse(text)).toThrow(expect.objectContaining({ code: "ERR_RELEASE_POLICY" }));
    }
    expect(memory.size).toBe(0);
  });

  it("has an end: what was not used for longest goes first, and what is long is not kept", () => {
    const memory = new PolicyMemory();
    const [used, unused] = [memory.parse(policy("used")), memory.parse(policy("unused"))];
    for (let count = 0; count < 254; count++) memory.parse(policy(String(count)));
    expect(memory.parse(policy("used"))).toBe(used);
    memory.parse(policy("one more"));
    expect(memory.size).toBe(256);
    expect(memory.parse(policy("used"))).toBe(used);
    expect(memory.parse(policy("unused"))).not.toBe(unused);
    const long = policy("x".repeat(9000));
    expect(memory.parse(long)).not.toBe(memory.parse(long));
    expect(memory.size).toBe(256);
  });
});
