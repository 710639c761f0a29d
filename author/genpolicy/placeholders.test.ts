import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decodeLiteral, encodeLiteral, encodePlaceholder, expandReferences } from "./expansion.ts";
import { replaceVariables } from "./placeholders.ts";

describe("replaceVariables, as the known tools do (3.4)", () => {
  const CASES: readonly (readonly [
    name: string,
    env: readonly string[],
    args: readonly string[],
    expectedEnv: readonly string[],
    expectedArgs: readonly string[],
  ])[] = [
    ["a variable", ["A=1", "B=$(A)"], ["$(B)", "x$(A)y"], ["A=1", "B=1"], ["1", "x1y"]],
    ["all occurrences of the first placeholder", ["A=1", "B=$(A)$(A)"], [], ["A=1", "B=11"], []],
    ["several, one per round", ["A=1", "B=2"], ["$(A)$(B)$(A)"], ["A=1", "B=2"], ["121"]],
    ["a variable behind", ["B=$(A)", "A=1"], [], ["B=1", "A=1"], []],
    ["an unknown first placeholder blocks those behind it", ["A=1"], ["$(X)$(A)"], ["A=1"], ["$(X)$(A)"]],
    ["a value of the running pod", ["A=$(pod-ip)", "B=http://$(A):80"], ["$(A)"], ["A=$(pod-ip)", "B=http://$(pod-ip):80"], ["$(pod-ip)"]],
    ["a value that only begins with a value of the running pod", ["A=$(pod-ip)$(X)"], ["$(A)"], ["A=$(pod-ip)$(X)"], ["$(pod-ip)$(X)"]],
    [
      "host-name and resource-field are not such values",
      ["A=$(host-name)", "C=$(resource-field)"],
      ["$(A)$(C)"],
      ["A=$(host-name)", "C=$(resource-field)"],
      ["$(A)$(C)"],
    ],
    ["not into or from a string with two =", ["A=1=2", "B=$(A)", "C=x=$(B)"], ["$(A)"], ["A=1=2", "B=$(A)", "C=x=$(B)"], ["$(A)"]],
    ["the first of a name that can be used", ["A=$(X)", "A=1", "A=2"], ["$(A)"], ["A=$(X)", "A=1", "A=2"], ["1"]],
    ["$$ is nothing special", ["A=1"], ["$$(A)", "$$"], ["A=1"], ["$1", "$$"]],
    ["a placeholder that does not close", ["A=1"], ["$(A", "$(A$(A)"], ["A=1"], ["$(A", "$(A$(A)"]],
    ["replacement text is not a pattern", ["A=$&$1"], ["$(A)"], ["A=$&$1"], ["$&$1"]],
    ["itself", ["A=x$(A)"], [], ["A=x$(A)"], []],
    ["a circle", ["A=$(B)", "B=$(A)"], ["$(A)"], ["A=$(B)", "B=$(A)"], ["$(A)"]],
  ];
  it.each(CASES)("%s", (_name, env, args, expectedEnv, expectedArgs) => {
    expect(replaceVariables(env, args)).toEqual({ env: expectedEnv, args: expectedArgs });
  });

  it("refuses an empty placeholder, and growth without end", () => {
    expect(replaceVariables(["A=$()"], [])).toEqual({ value: "A=$()", message: "has an empty placeholder $()" });
    const doubling = Array.from({ length: 40 }, (_, index) => `V${index}=$(V${index + 1})$(V${index + 1})`);
    expect(replaceVariables([...doubling, "V40=x"], [])).toMatchObject({ message: "grows beyond 1048576 characters when variables are replaced" });
  });
});

describe("expandReferences, as Kubernetes does", () => {
  const values = new Map([
    ["A", "1"],
    ["D", encodeLiteral("$x")],
    ["IP", encodePlaceholder("pod-ip")],
  ]);
  it.each([
    ["$(A)", "1"],
    ["$(A)$(A)-$(IP)", "11-$(pod-ip)"],
    ["$(D)", "$$x"],
    ["$$(A)", "$$(A)"],
    ["$$$(A)", "$$1"],
    ["$$$$", "$$$$"],
    ["$(X)", "$$(X)"],
    ["$()", "$$()"],
    ["$(A", "$$(A"],
    ["$A $ $", "$$A $$ $$"],
    ["$(A$(A)", "$$(A$$(A)"],
    ["$😀", "$$😀"],
    ["", ""],
  ])("%j", (text, expected) => {
    expect(expandReferences(text, (name) => values.get(name))).toBe(expected);
  });

  it("never makes a placeholder of the author's text", () => {
    const dollars = fc.array(fc.constantFrom("$", "(", ")", "pod-ip", "$$", "$(", "a")).map((parts) => parts.join(""));
    fc.assert(
      fc.property(dollars, (text) => {
        expect(decodeLiteral(encodeLiteral(text))).toBe(text);
        expect(decodeLiteral(expandReferences(text, () => undefined) ?? "$(")).toBeDefined();
        expect(decodeLiteral(`${encodeLiteral(text)}${encodePlaceholder("pod-ip")}`)).toBeUndefined();
      }),
    );
  });

  it("ends at a megabyte", () => {
    expect(expandReferences("$(A)".repeat(2000), () => "x".repeat(1000))).toBeUndefined();
  });
});
