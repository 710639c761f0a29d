import { describe, expect, it } from "vitest";
import { Budget } from "./budget.ts";

describe("the budget of what clients make a service hold", () => {
  it("says who of a client is to go when it has more than its quarter, the largest first", () => {
    const budget = new Budget<string>(400);
    budget.add("a", "small", 10);
    budget.add("a", "large", 60);
    budget.add("a", "middle", 30);
    budget.add("b", "other", 90);
    expect([budget.of("a"), budget.overShare("a"), budget.overShare("b"), budget.overShare("nobody")]).toEqual([100, undefined, undefined, undefined]);
    budget.add("a", "small", 1);
    expect(budget.overShare("a")).toBe("large");
    budget.drop("a", "large");
    expect([budget.of("a"), budget.overShare("a"), budget.bytes]).toEqual([41, undefined, 131]);
  });

  it("takes from the client with the most when all have more than there is, not from the largest holder", () => {
    const budget = new Budget<string>(400);
    budget.add("one", "alone", 99);
    for (let at = 0; at < 6; at++) budget.add("many", `part ${at}`, 50 + at);
    expect(budget.bytes).toBe(414);
    expect(budget.overTotal()).toBe("part 5");
    budget.drop("many", "part 5");
    expect(budget.overTotal()).toBe(undefined);
  });

  it("forgets what was given back, and what nobody knows", () => {
    const budget = new Budget<string>(400);
    for (let at = 0; at < 1000; at++) {
      budget.add("a", `holder ${at}`, 300);
      budget.add("a", `holder ${at}`, -200);
      budget.drop("a", `holder ${at}`);
      budget.drop("a", `holder ${at}`);
      budget.drop("b", "nobody");
    }
    expect([budget.bytes, budget.of("a"), budget.overTotal()]).toEqual([0, 0, undefined]);
  });
});
