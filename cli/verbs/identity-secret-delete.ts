import { isSealpodError } from "@sealpod/core";
import { IdentityError } from "@sealpod/identity";
import { EXIT } from "../context.ts";
import { findApplication, managedVerb, type NamedApplication } from "../identity/application.ts";
import { writeResult } from "../identity/output.ts";
import { manage, type TargetOptions } from "../identity/service.ts";
import type { Verb } from "../program.ts";

interface Options extends TargetOptions, NamedApplication {
  readonly keyId: string;
}

/** `sealpod identity secret delete`. */
export const run: Verb<Options> = managedVerb(async (target, options, _operands, context) => {
  const { path } = await findApplication(target, options);
  try {
    await manage(target, "POST", `${path}/removePassword`, { keyId: options.keyId });
  } catch (cause) {
    if (!isSealpodError(cause) || cause.code !== "ERR_IDENTITY_NOT_FOUND") throw cause;
    throw new IdentityError("ERR_IDENTITY_NOT_FOUND", cause.message, { cause, hint: `Its secrets are in: sealpod identity app show ${flagsOf(options)}` });
  }
  writeResult(context, options, { deleted: true }, () => "deleted\n");
  return EXIT.ok;
});

function flagsOf({ clientId, identityName }: NamedApplication): string {
  return clientId === undefined ? `--identity-name ${JSON.stringify(identityName)}` : `--client-id ${clientId}`;
}
