import { EXIT } from "../context.ts";
import { findApplication, managedVerb, type NamedApplication } from "../identity/application.ts";
import { valueText, writeResult } from "../identity/output.ts";
import { manage, type TargetOptions } from "../identity/service.ts";
import type { Verb } from "../program.ts";

interface Options extends TargetOptions, NamedApplication {
  readonly displayName?: string;
  readonly endDate?: string;
}

/** `sealpod identity secret create`. The secret alone goes to stdout, so that it can go into a file. */
export const run: Verb<Options> = managedVerb(async (target, options, _operands, context) => {
  const { displayName, endDate } = options;
  const passwordCredential = { ...(displayName === undefined ? {} : { displayName }), ...(endDate === undefined ? {} : { endDateTime: endDate }) };
  const made = await manage(target, "POST", `${(await findApplication(target, options)).path}/addPassword`, { passwordCredential });
  writeResult(context, options, made, () => `${valueText(made["secretText"])}\n`);
  if (options.json !== true) context.stderr.write(`secret ${valueText(made["keyId"])}: it is not shown again\n`);
  return EXIT.ok;
});
