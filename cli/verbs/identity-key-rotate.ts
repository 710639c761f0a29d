import { isSealpodError } from "@sealpod/core";
import { IdentityError } from "@sealpod/identity";
import { EXIT } from "../context.ts";
import { managedVerb } from "../identity/application.ts";
import { fieldsText, writeResult } from "../identity/output.ts";
import { manage, type TargetOptions } from "../identity/service.ts";
import type { Verb } from "../program.ts";

interface Options extends TargetOptions {
  readonly purpose: "tenant" | "cluster";
  readonly cluster: string;
  readonly now?: boolean;
  readonly revokeOthers?: boolean;
}

/** Who may, in the words of the help. */
const OPERATOR_HINT =
  "Give the operator's token with --bearer-token-file: the file that management.tokenFile of the service's configuration names; DIR/operator.token of identity serve --dev DIR.";

/** `sealpod identity key rotate`. */
export const run: Verb<Options> = managedVerb(async (target, options, _operands, context) => {
  // The tenants have one set of keys.
  const scope = options.purpose === "cluster" ? options.cluster : "default";
  const body = { when: options.now === true ? "now" : "overlap", revoke: options.revokeOthers === true };
  const made = await manage(target, "POST", `/sealpod/keys/${options.purpose}/${encodeURIComponent(scope)}/rotate`, body).catch((cause: unknown) => {
    if (!isSealpodError(cause)) throw cause;
    if (cause.code === "ERR_IDENTITY_NOT_FOUND")
      throw new IdentityError("ERR_IDENTITY_NOT_FOUND", cause.message, { cause, hint: "Its keys, by purpose and scope, are in: sealpod identity key list" });
    if (cause.hint === undefined || cause.code !== "ERR_IDENTITY_SERVICE") throw cause;
    throw new IdentityError("ERR_IDENTITY_SERVICE", cause.message, { cause, hint: OPERATOR_HINT });
  });
  const { kid, state, signsFrom } = made;
  writeResult(context, options, made, () => fieldsText({ key: kid, state, "signs from": signsFrom }));
  return EXIT.ok;
});
