import { policyHash } from "@sealpod/attestation";
import { openService, type ServiceOptions } from "../attest/policy-options.ts";
import { getPolicy } from "../attest/policy-service.ts";
import { EXIT } from "../context.ts";
import type { Verb } from "../program.ts";
import { writeJson } from "../rego/output.ts";

/** `sealpod attest policy get`. The text goes to stdout as it is: it may be set again. */
export const run: Verb<ServiceOptions> = async (options, _operands, context) => {
  const { text, signed, claims } = await getPolicy(await openService(options, context));
  if (options.json === true) writeJson(context.stdout, { policy: text, hash: policyHash(text), signed, claims });
  else {
    context.stdout.write(text);
    context.stderr.write(`${text.endsWith("\n") ? "" : "\n"}${signed ? "signed" : "not signed"}; SHA-256 of its base64url: ${policyHash(text)}\n`);
  }
  return EXIT.ok;
};
