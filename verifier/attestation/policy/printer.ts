import type { Action, Condition, Expression, PolicyTree, Rule } from "./ast.ts";

/** The canonical text of a policy: parsed again, it is the same policy. Comments are not kept. */
export function printPolicy({ version, sections }: PolicyTree): string {
  const blocks = sections.map(({ kind, rules }) =>
    rules.length === 0 ? `${kind}{};` : `${kind}\n{\n${rules.map((rule) => `    ${printRule(rule)}\n`).join("")}};`,
  );
  return `version= ${version};\n${blocks.map((block) => `${block}\n`).join("")}`;
}

/** Canonical text of a rule, with its `;`. */
export function printRule({ conditions, action }: Rule): string {
  const lead = conditions.length === 0 ? "" : `${conditions.map(printCondition).join(" && ")} `;
  return `${lead}=> ${printAction(action)};`;
}

/** Canonical text of a condition. */
export function printCondition({ negated, identifier, tests }: Condition): string {
  const inner = tests.map(({ property, operator, operand }) => `${property} ${operator} ${printExpression(operand)}`).join(", ");
  return `${negated ? "!" : ""}${identifier === undefined ? "" : `${identifier.name}:`}[${inner}]`;
}

/** Canonical text of an action. */
export function printAction(action: Action): string {
  if (action.kind === "decide") return `${action.name}()`;
  if (action.kind === "hand-on") return `${action.name}(claim=${action.claim.name})`;
  const { type, value, issuer, valueType } = action;
  const given = Object.entries({ type, value, issuer, valueType }).flatMap(([name, item]) => (item === undefined ? [] : [`${name}=${printExpression(item)}`]));
  return `${action.name}(${given.join(", ")})`;
}

function printExpression(expression: Expression): string {
  switch (expression.kind) {
    case "string":
      return `"${expression.value.replaceAll(/["\\]/g, (char) => `\\${char}`)}"`;
    case "integer":
    case "boolean":
      return String(expression.value);
    case "reference":
      return `${expression.identifier}.${expression.property}`;
    case "call":
      return `${expression.name}(${expression.arguments.map(printExpression).join(", ")})`;
  }
}
