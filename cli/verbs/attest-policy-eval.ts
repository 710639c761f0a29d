import {
  conditionText,
  evaluatePolicy,
  explainVerdict,
  issuedClaims,
  parsePolicy,
  policyProblems,
  type PolicyVerdict,
  type RuleTrace,
} from "@sealpod/attestation";
import { encodeJson, type JsonObject } from "@sealpod/core";
import { parseClaims } from "../attest/policy-claims.ts";
import { problemsJson, problemsText } from "../attest/policy-text.ts";
import { EXIT } from "../context.ts";
import type { Verb } from "../program.ts";
import { printable, writeJson } from "../rego/output.ts";
import { readText } from "../workspace.ts";

interface Options {
  readonly claims: string;
}

/** `sealpod attest policy eval`. */
export const run: Verb<Options> = async (options, [file = ""], context) => {
  const { text } = await readText(file, context);
  const problems = policyProblems(text);
  if (problems.length > 0) {
    if (options.json === true) writeJson(context.stdout, { valid: false, problems: problemsJson(file, problems) });
    else context.stderr.write(problemsText(file, problems));
    return EXIT.failed;
  }
  const { form, claims, notes } = parseClaims((await readText(options.claims, context)).text, options.claims);
  const verdict = evaluatePolicy(parsePolicy(text), claims);
  if (options.json === true) writeJson(context.stdout, { ...verdictJson(verdict), input: { form, claims: claims.length, notes } });
  else {
    const input = [`${file} over the ${form} in ${options.claims} (${claims.length})`, ...notes.map((note) => `note: ${note}`)];
    context.stdout.write(printable(verdictText(verdict, input)));
  }
  return verdict.permitted ? EXIT.ok : EXIT.refused;
};

function verdictText(verdict: PolicyVerdict, input: readonly string[]): string {
  const lines = [
    ...input,
    "",
    ...explainVerdict(verdict).map((line, index) =>
      index === 0 ? (verdict.permitted ? line.toUpperCase().slice(0, 9) + line.slice(9) : `REFUSED: ${line}`) : `  ${line}`,
    ),
  ];
  lines.push("", "rules:", ...verdict.trace.map(ruleText));
  const sections = { "issued claims": issuedClaims(verdict.claims), properties: verdict.properties };
  for (const [title, members] of Object.entries(sections)) {
    const entries = Object.entries(members);
    if (entries.length > 0) lines.push("", `${title}:`, ...entries.map(([name, value]) => `  ${JSON.stringify(name)}: ${encodeJson(value)}`));
  }
  return `${lines.join("\n")}\n`;
}

function ruleText({ line, column, action, outcome, times, unmet }: RuleTrace): string {
  const why = outcome === "acted" ? (times > 1 ? `, ${times} times` : "") : outcome === "unmet" && unmet !== undefined ? `: ${conditionText(unmet)}` : "";
  return `  ${line}:${column}  ${action}  ${outcome}${why}`;
}

function verdictJson(verdict: PolicyVerdict): JsonObject {
  const { permitted, decidedBy, claims, properties, trace } = verdict;
  return {
    permitted,
    ...(decidedBy === undefined ? {} : { decidedBy }),
    why: explainVerdict(verdict),
    claims: issuedClaims(claims),
    properties,
    rules: trace.map(({ unmet, ...rule }) => ({ ...rule, ...(unmet === undefined ? {} : { unmet: { ...unmet } }) })),
  };
}
