import { EXIT } from "../context.ts";
import { kbsVerb, type KbsOperation, type KbsOptions } from "../kbs/open-kbs.ts";
import { policyText, readPolicy } from "../kbs/policy-file.ts";
import type { Verb } from "../program.ts";
import { writeJson } from "../rego/output.ts";

interface Options extends KbsOptions {
  readonly policyFile: string;
  readonly type: string;
  readonly id: string;
}

/** `sealpod kbs set-attestation-policy` with its key broker. */
export const operation: KbsOperation<Options> = async (kbs, { policyFile, type, id, json }, _operands, context) => {
  await kbs.call("POST", "attestation-policy", { type, policy_id: id, policy: policyText(await readPolicy(policyFile, context)) });
  if (json === true) writeJson(context.stdout, { policy: "attestation", id });
  else context.stdout.write(`the attestation policy ${JSON.stringify(id)} is set\n`);
  return EXIT.ok;
};

/** `sealpod kbs set-attestation-policy`. */
export const run: Verb<Options> = kbsVerb(operation);
