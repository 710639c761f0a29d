import type { Module, Rule } from "@sealpod/rego";
import { RuleGraph } from "./reach.ts";
import { declaredIn, visitRule } from "./tree.ts";

/** Starts of the names that passes make up. */
const MADE_UP: readonly string[] = ["shared_", "inlined"];

/** What in a module the passes do not know, in words; undefined if they know all of it. */
export function unsupported(module: Module): string | undefined {
  const { packagePath, imports, rules, version } = module;
  if (version !== "v1") return "they are not Rego v1 (import rego.v1)";
  if (packagePath.join(".") !== "agent_policy") return `package ${packagePath.join(".")} is not agent_policy`;
  const imported = imports.find(({ path }) => path[0] !== "rego" && path[0] !== "future");
  if (imported !== undefined) return `import ${imported.path.join(".")}`;
  const names = new Set(rules.map(({ head }) => head.name));
  for (const rule of rules) {
    const problem = problemOf(rule, names);
    if (problem !== undefined) return `rule ${rule.head.name}: ${problem}`;
  }
  const recursive = new RuleGraph(module).recursive();
  return recursive === undefined ? undefined : `rule ${recursive}: it leads to itself`;
}

function problemOf(rule: Rule, names: ReadonlySet<string>): string | undefined {
  const problems: string[] = [];
  const declared = declaredIn(rule);
  for (const name of declared) {
    if (names.has(name)) problems.push(`its variable ${name} has the name of a rule`);
    if (name === "input" || name === "data") problems.push(`a variable is called ${name}`);
  }
  for (const name of [rule.head.name, ...declared]) if (MADE_UP.some((start) => name.startsWith(start))) problems.push(`the name ${name}`);
  visitRule(rule, {
    term: (term) => {
      if (term.kind === "template") problems.push("a template string");
      if (term.kind === "var" && term.name !== "_" && !names.has(term.name) && !declared.has(term.name) && term.name !== "input" && term.name !== "data") {
        problems.push(`the variable ${term.name} is not declared`);
      }
      // A path that leads back into the package would be a mention that is not seen.
      if (term.kind === "ref" && term.head.kind === "var" && term.head.name === "data") {
        const [step] = term.path;
        if (step?.kind !== "scalar" || step.value === "agent_policy") problems.push("data is read other than by the name of a document");
      } else if (term.kind === "call" && term.operator === undefined && (term.name[0] === "data" || (term.name.length > 1 && names.has(term.name[0] ?? "")))) {
        problems.push(`the call of ${term.name.join(".")}`);
      } else if (term.kind === "call" && term.operator === undefined && declared.has(term.name[0] ?? "")) {
        problems.push(`the call of the variable ${term.name.join(".")}`);
      }
    },
    statement: ({ modifiers, expression }) => {
      if (modifiers.length > 0) problems.push("a with modifier");
      if (expression.kind === "unify") problems.push("a unification (=)");
    },
  });
  // A bare `data` is all documents; it stands alone only where no reference has it as its head.
  let bare = 0;
  visitRule(rule, {
    term: (term) => {
      if (term.kind === "var" && term.name === "data") bare++;
      if (term.kind === "ref" && term.head.kind === "var" && term.head.name === "data") bare--;
    },
  });
  if (bare !== 0) problems.push("data as a whole");
  return problems[0];
}
