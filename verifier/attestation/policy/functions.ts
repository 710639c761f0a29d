import type { Condition, Expression, FunctionName, Rule } from "./ast.ts";
import type { PolicyValueType } from "./claims.ts";

/** What a function takes and gives; `undefined` is a value of any kind. */
export interface FunctionSignature {
  readonly takes: readonly (PolicyValueType | undefined)[];
  readonly gives: PolicyValueType | undefined;
  /** Arguments in which `c.value` is the set of the values of all claims that meet the condition of `c`, not that of one. */
  readonly sets: readonly number[];
}

/** Functions of version 1.2. */
export const FUNCTION_SIGNATURES: Readonly<Record<FunctionName, FunctionSignature>> = {
  JmesPath: { takes: ["String", "String"], gives: "String", sets: [] },
  JsonToClaimValue: { takes: ["String"], gives: undefined, sets: [] },
  AppendString: { takes: ["String", "String"], gives: "String", sets: [] },
  NegateBool: { takes: ["Boolean"], gives: "Boolean", sets: [] },
  ContainsOnlyValue: { takes: [undefined, undefined], gives: "Boolean", sets: [0] },
  IsSubsetOf: { takes: [undefined, undefined], gives: "Boolean", sets: [0, 1] },
};

/** The kind that an expression is of wherever it has a value; undefined if that depends on the claims. */
export function staticType(expression: Expression): PolicyValueType | undefined {
  switch (expression.kind) {
    case "string":
      return "String";
    case "integer":
      return "Integer";
    case "boolean":
      return "Boolean";
    case "reference":
      return expression.property === "value" ? undefined : "String";
    case "call":
      return FUNCTION_SIGNATURES[expression.name].gives;
  }
}

/** Names of claims that a rule takes one by one: only these make a rule run once for each claim that meets the condition. */
export function takenOneByOne({ conditions, action }: Rule): ReadonlySet<string> {
  const names = new Set<string>();
  const visit = (expression: Expression | undefined, isSet: boolean): void => {
    if (expression?.kind === "reference" && !isSet) names.add(expression.identifier);
    if (expression?.kind !== "call") return;
    const { sets } = FUNCTION_SIGNATURES[expression.name];
    expression.arguments.forEach((item, index) => visit(item, sets.includes(index)));
  };
  for (const { tests } of conditions) for (const { operand } of tests) visit(operand, false);
  if (action.kind === "hand-on") names.add(action.claim.name);
  if (action.kind === "make") for (const expression of [action.type, action.value, action.issuer, action.valueType]) visit(expression, false);
  return names;
}

/** The type that a condition asks for by a literal: then only claims of that type need a look. */
export function literalType({ tests }: Condition): string | undefined {
  for (const { property, operator, operand } of tests) if (property === "type" && operator === "==" && operand.kind === "string") return operand.value;
  return undefined;
}
