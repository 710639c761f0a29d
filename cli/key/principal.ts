import { asArray, asObject, type JsonObject } from "@sealpod/core";
import { CliError } from "../errors.ts";
import { shown } from "./output.ts";

/** Flags that say whom something is for, in the words of `az keyvault set-policy`. */
export interface PrincipalOptions {
  /** Client id of an application or managed identity. */
  readonly spn?: string;
  readonly objectId?: string;
  readonly tenant?: string;
}

/** An application or object of a tenant, as access policies name it. */
export interface Principal {
  readonly tenantId: string;
  readonly objectId: string;
}

/**
 * The principal of a command line.
 * @param tenantId tenant where none is named
 * @throws {CliError} ERR_CLI_USAGE
 */
export function principalOf(options: PrincipalOptions, tenantId: string | undefined): Principal {
  const { spn, objectId, tenant = tenantId } = options;
  const id = spn ?? objectId;
  if (id === undefined || (spn !== undefined && objectId !== undefined)) {
    throw new CliError("ERR_CLI_USAGE", id === undefined ? "no principal is given" : "--spn and --object-id are two principals", {
      hint: "Give --spn CLIENT_ID of an application or managed identity, or --object-id ID.",
    });
  }
  if (tenant === undefined) throw new CliError("ERR_CLI_USAGE", "no tenant is given", { hint: "Give --tenant ID, or set AZURE_TENANT_ID." });
  for (const [flag, value] of [
    ["--tenant", tenant],
    [spn === undefined ? "--object-id" : "--spn", id],
  ] as const) {
    if (!/^[\w.-]{1,100}$/.test(value))
      throw new CliError("ERR_CLI_USAGE", `${flag} ${JSON.stringify(value.slice(0, 100))} is no id`, {
        hint: "Expected e.g. 11111111-2222-3333-4444-555555555555",
      });
  }
  return { tenantId: tenant, objectId: id };
}

/** An access policy in a line. */
export function accessText(policy: JsonObject): string {
  const { keys, secrets } = asObject(policy["permissions"]) ?? {};
  const part = (name: string, value: typeof keys): string => {
    const list = (asArray(value) ?? []).map(shown);
    return `${name}: ${list.length === 0 ? "nothing" : list.join(", ")}`;
  };
  return `${shown(policy["objectId"])} of tenant ${shown(policy["tenantId"])}  ${part("keys", keys)}; ${part("secrets", secrets)}\n`;
}
