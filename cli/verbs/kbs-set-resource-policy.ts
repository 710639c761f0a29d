import { EXIT } from "../context.ts";
import { kbsVerb, type KbsOperation, type KbsOptions } from "../kbs/open-kbs.ts";
import { policyText, readPolicy } from "../kbs/policy-file.ts";
import type { Verb } from "../program.ts";
import { writeJson } from "../rego/output.ts";

interface Options extends KbsOptions {
  readonly policyFile: string;
}

/** `sealpod kbs set-resource-policy` with its key broker. */
export const operation: KbsOperation<Options> = async (kbs, { policyFile, json }, _operands, context) => {
  await kbs.call("POST", "resource-policy", { policy: policyText(await readPolicy(policyFile, context)) });
  if (json === true) writeJson(context.stdout, { policy: "resource" });
  else context.stdout.write("the resource policy is set\n");
  return EXIT.ok;
};

/** `sealpod kbs set-resource-policy`. */
export const run: Verb<Options> = kbsVerb(operation);
