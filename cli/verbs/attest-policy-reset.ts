import { openService, openSigner, type ServiceOptions, type SignerOptions } from "../attest/policy-options.ts";
import { resultText } from "../attest/policy-result.ts";
import { resetPolicy } from "../attest/policy-service.ts";
import { EXIT } from "../context.ts";
import type { Verb } from "../program.ts";
import { writeJson } from "../rego/output.ts";

/** `sealpod attest policy reset`. */
export const run: Verb<ServiceOptions & SignerOptions> = async (options, _operands, context) => {
  const signer = await openSigner(options, context);
  const claims = await resetPolicy(await openService(options, context), signer);
  if (options.json === true) writeJson(context.stdout, claims);
  else context.stdout.write(resultText(claims));
  return EXIT.ok;
};
