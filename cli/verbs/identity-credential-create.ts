import { TOKEN_EXCHANGE_AUDIENCE } from "@sealpod/identity";
import { EXIT } from "../context.ts";
import { CliError } from "../errors.ts";
import { findApplication, managedVerb, type NamedApplication } from "../identity/application.ts";
import { credentialText, valueText, writeResult } from "../identity/output.ts";
import { manage, type TargetOptions } from "../identity/service.ts";
import type { Verb } from "../program.ts";

interface Options extends TargetOptions, NamedApplication {
  readonly name: string;
  readonly issuer?: string;
  readonly subject: string;
  readonly audiences?: readonly string[];
  readonly description?: string;
}

/** `sealpod identity federated-credential create`. */
export const run: Verb<Options> = managedVerb(async (target, options, _operands, context) => {
  const issuer = options.issuer ?? target.up?.endpoints.issuer;
  if (issuer === undefined)
    throw new CliError("ERR_CLI_USAGE", "no --issuer is given", { hint: "It is the iss of the cluster's tokens, with its slash if it has one." });
  const { name, subject, audiences = [TOKEN_EXCHANGE_AUDIENCE], description } = options;
  const flat = { name, issuer, subject, audiences };
  const { path, identityPath } = await findApplication(target, options);
  if (identityPath !== undefined) {
    // In the form of Azure Resource Manager, as az identity federated-credential answers.
    const made = await manage(target, "PUT", `${identityPath}/federatedIdentityCredentials/${encodeURIComponent(name)}`, {
      properties: { issuer, subject, audiences },
    });
    writeResult(context, options, made, () => `${name}  ${credentialText(flat)}\n`);
    return EXIT.ok;
  }
  const body = { ...flat, ...(description === undefined ? {} : { description }) };
  const made = await manage(target, "POST", `${path}/federatedIdentityCredentials`, body);
  writeResult(context, options, made, () => `${valueText(made["name"])}  ${credentialText(made)}\n`);
  return EXIT.ok;
});
