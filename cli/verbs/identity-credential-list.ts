import { EXIT } from "../context.ts";
import { findApplication, managedVerb, type NamedApplication } from "../identity/application.ts";
import { credentialText, itemsOf, valueText, writeResult } from "../identity/output.ts";
import { manage, type TargetOptions } from "../identity/service.ts";
import type { Verb } from "../program.ts";

/** `sealpod identity federated-credential list`. */
export const run: Verb<TargetOptions & NamedApplication> = managedVerb(async (target, options, _operands, context) => {
  const items = itemsOf(await manage(target, "GET", `${(await findApplication(target, options)).path}/federatedIdentityCredentials`));
  writeResult(context, options, items, () => items.map((item) => `${valueText(item["name"])}  ${credentialText(item)}\n`).join(""));
  return EXIT.ok;
});
