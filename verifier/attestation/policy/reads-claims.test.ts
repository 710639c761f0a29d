import { describe, expect, it } from "vitest";
import { claimsOfToken, evaluatePolicy, parsePolicy } from "./index.ts";

describe("policies that read no claims", () => {
  const claims = claimsOfToken({ "x-ms-ver": "1.0", "x-ms-sevsnpvm-vmpl": 0 });

  it.each([
    [
      "=> permit();",
      'issuancerules{ => issue(type="a", value="b"); => add(type="c", value=1); => issueproperty(type="report_validity_in_minutes", value=5); };',
    ],
    ["=> deny();", ""],
    ["", ""],
  ])("decide the same with claims and without: %s", (authorization, issuance) => {
    const policy = parsePolicy(`version= 1.0;authorizationrules{${authorization}};${issuance}`);
    expect(policy.readsClaims).toBe(false);
    expect(evaluatePolicy(policy, [])).toEqual(evaluatePolicy(policy, claims));
  });

  it.each(['[type=="x-ms-ver"] => permit();', '![type=="x"] => permit();'])("are no others: %s", (rule) => {
    const policy = parsePolicy(`version= 1.0;authorizationrules{${rule}};`);
    expect(policy.readsClaims).toBe(true);
    expect(evaluatePolicy(policy, claims).permitted).toBe(true);
  });

  it("are not those whose issuance alone reads them", () => {
    expect(
      parsePolicy('version= 1.0;authorizationrules{=> permit();};issuancerules{c:[type=="x-ms-ver"] => issue(type="v", value=c.value);};').readsClaims,
    ).toBe(true);
  });
});
