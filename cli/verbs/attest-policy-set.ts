import { policyProblems } from "@sealpod/attestation";
import { openService, openSigner, type ServiceOptions, type SignerOptions } from "../attest/policy-options.ts";
import { resultText } from "../attest/policy-result.ts";
import { setPolicy } from "../attest/policy-service.ts";
import { problemsJson, problemsText } from "../attest/policy-text.ts";
import { EXIT } from "../context.ts";
import type { Verb } from "../program.ts";
import { writeJson } from "../rego/output.ts";
import { readText } from "../workspace.ts";

interface Options extends ServiceOptions, SignerOptions {
  readonly check: boolean;
}

/** `sealpod attest policy set`. */
export const run: Verb<Options> = async (options, [file = ""], context) => {
  const { text } = await readText(file, context);
  const problems = options.check ? policyProblems(text) : [];
  if (problems.length > 0) {
    if (options.json === true) writeJson(context.stdout, { valid: false, problems: problemsJson(file, problems) });
    else context.stderr.write(problemsText(file, problems));
    return EXIT.failed;
  }
  const signer = await openSigner(options, context);
  const claims = await setPolicy(await openService(options, context), text, signer);
  if (options.json === true) writeJson(context.stdout, claims);
  else context.stdout.write(resultText(claims));
  return EXIT.ok;
};
