import { EXIT } from "../context.ts";
import { applicationText, findApplication, managedVerb, type NamedApplication } from "../identity/application.ts";
import { writeResult } from "../identity/output.ts";
import { manage, type TargetOptions } from "../identity/service.ts";
import type { Verb } from "../program.ts";

/** `sealpod identity app show`. */
export const run: Verb<TargetOptions & NamedApplication> = managedVerb(async (target, options, _operands, context) => {
  const application = await manage(target, "GET", (await findApplication(target, options)).path);
  writeResult(context, options, application, () => applicationText(application));
  return EXIT.ok;
});
