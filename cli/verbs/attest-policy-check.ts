import { parsePolicy, policyHash, policyProblems, printPolicy } from "@sealpod/attestation";
import { problemsJson, problemsText } from "../attest/policy-text.ts";
import { EXIT } from "../context.ts";
import type { Verb } from "../program.ts";
import { writeJson } from "../rego/output.ts";
import { readText } from "../workspace.ts";

interface Options {
  readonly print?: boolean;
}

/** `sealpod attest policy check`. */
export const run: Verb<Options> = async (options, [file = ""], context) => {
  const { text } = await readText(file, context);
  const problems = policyProblems(text);
  if (problems.length > 0) {
    if (options.json === true) writeJson(context.stdout, { valid: false, problems: problemsJson(file, problems) });
    else context.stderr.write(problemsText(file, problems));
    return EXIT.failed;
  }
  const { tree } = parsePolicy(text);
  const canonical = printPolicy(tree);
  const rules = tree.sections.reduce((sum, section) => sum + section.rules.length, 0);
  if (options.json === true) {
    writeJson(context.stdout, {
      valid: true,
      problems: [],
      version: tree.version,
      rules,
      hash: policyHash(text),
      ...(options.print === true ? { canonical } : {}),
    });
  } else if (options.print === true) context.stdout.write(canonical);
  else
    context.stdout.write(`${file} is a policy of version ${tree.version} with ${rules} rule${rules === 1 ? "" : "s"}\nx-ms-policy-hash: ${policyHash(text)}\n`);
  return EXIT.ok;
};
