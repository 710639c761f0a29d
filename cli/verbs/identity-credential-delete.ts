import { EXIT } from "../context.ts";
import { findApplication, managedVerb, type NamedApplication } from "../identity/application.ts";
import { writeResult } from "../identity/output.ts";
import { manage, type TargetOptions } from "../identity/service.ts";
import type { Verb } from "../program.ts";

interface Options extends TargetOptions, NamedApplication {
  readonly name: string;
}

/** `sealpod identity federated-credential delete`. */
export const run: Verb<Options> = managedVerb(async (target, options, _operands, context) => {
  await manage(target, "DELETE", `${(await findApplication(target, options)).path}/federatedIdentityCredentials/${encodeURIComponent(options.name)}`);
  writeResult(context, options, { deleted: true }, () => "deleted\n");
  return EXIT.ok;
});
