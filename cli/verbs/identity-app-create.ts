import { asObject } from "@sealpod/core";
import { EXIT } from "../context.ts";
import { CliError } from "../errors.ts";
import { applicationText, managedVerb } from "../identity/application.ts";
import { writeResult } from "../identity/output.ts";
import { identityPath, manage, type ApplicationOptions, type TargetOptions } from "../identity/service.ts";
import type { Verb } from "../program.ts";

interface Options extends TargetOptions, Pick<ApplicationOptions, "resourceGroup" | "subscription"> {
  readonly clientId?: string;
  readonly managed?: boolean;
}

const create = managedVerb<Options>(async (target, options, [name = ""], context) => {
  if (options.managed !== true) {
    const body = { displayName: name, ...(options.clientId === undefined ? {} : { appId: options.clientId }) };
    const made = await manage(target, "POST", "/v1.0/applications", body);
    writeResult(context, options, made, () => applicationText(made));
    return EXIT.ok;
  }
  const made = await manage(target, "PUT", identityPath(name, options), { location: "local" });
  const { clientId, principalId, tenantId } = asObject(made["properties"]) ?? {};
  const shown = {
    displayName: name,
    kind: "managedIdentity",
    appId: clientId ?? "",
    id: principalId ?? "",
    tenantId: tenantId ?? "",
    resourceId: made["id"] ?? "",
  };
  writeResult(context, options, made, () => applicationText(shown));
  return EXIT.ok;
});

/** `sealpod identity app create`. */
export const run: Verb<Options> = async (options, operands, context) => {
  if (options.managed === true && options.clientId !== undefined)
    throw new CliError("ERR_CLI_USAGE", "--client-id is for applications: a managed identity gets a new one");
  return create(options, operands, context);
};
