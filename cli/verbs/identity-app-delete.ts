import { EXIT } from "../context.ts";
import { findApplication, managedVerb, type NamedApplication } from "../identity/application.ts";
import { writeResult } from "../identity/output.ts";
import { manage, type TargetOptions } from "../identity/service.ts";
import type { Verb } from "../program.ts";

/** `sealpod identity app delete`. */
export const run: Verb<TargetOptions & NamedApplication> = managedVerb(async (target, options, _operands, context) => {
  await manage(target, "DELETE", (await findApplication(target, options)).path);
  writeResult(context, options, { deleted: true }, () => "deleted\n");
  return EXIT.ok;
});
