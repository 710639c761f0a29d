import { describe, expect, it } from "vitest";
import { formatResult, formatSummary, formatTime } from "./format.ts";
import type { DemoResult, RefusalResult, StepResult } from "./result.ts";

const step: StepResult = {
  kind: "step",
  name: "genpolicy",
  title: "Generate",
  command: "sealpod genpolicy",
  ok: true,
  milliseconds: 1234,
  facts: { HOST_DATA: "ab" },
};
const refusal: RefusalResult = {
  kind: "refusal",
  name: "exec",
  title: "Exec",
  command: "sealpod exec",
  refuser: "agent",
  ok: false,
  milliseconds: 7,
  reason: "no\nreason",
  facts: {},
};

function demo(ok: boolean): DemoResult {
  return { emulated: ["the processor"], steps: [step], refusals: [{ ...refusal, ok }], ok, milliseconds: 2000, kept: "/tmp/x" };
}

describe("the demo's text", () => {
  it("shows what a step did, its command and its time", () => {
    expect(formatResult(step)).toBe("ok   Generate  (1.2 s)\n     $ sealpod genpolicy\n     HOST_DATA: ab\n");
  });

  it("never calls an attack refused that was not", () => {
    expect(formatSummary(demo(false))).toContain("NOT REFUSED AS SAID: no reason");
    expect(formatSummary(demo(false))).toContain("0 of 1 attacks refused");
    expect(formatSummary(demo(false))).not.toContain("Everything came out");
    expect(formatSummary(demo(true))).toContain("Everything came out as said.");
  });

  it("says what is emulated and where the artefacts are", () => {
    expect(formatSummary(demo(true))).toContain("EMULATED: the processor");
    expect(formatSummary(demo(true))).toContain("Artefacts: /tmp/x");
  });

  it("cuts a long reason to one line", () => {
    const text = formatResult({ ...refusal, reason: "x".repeat(5000) });
    expect(Math.max(...text.split("\n").map((line) => line.length))).toBeLessThan(450);
  });

  it("writes times for people", () => {
    expect([formatTime(3.4), formatTime(999), formatTime(61_000)]).toEqual(["3 ms", "999 ms", "61.0 s"]);
  });
});
