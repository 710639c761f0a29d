import { asArray, asObject, isSealpodError, type JsonObject } from "@sealpod/core";
import { IdentityError } from "@sealpod/identity";
import { EXIT, type CliContext } from "../context.ts";
import { formatError } from "../diagnostic.ts";
import { CliError } from "../errors.ts";
import type { GlobalOptions, Verb } from "../program.ts";
import { DEFAULT_PLACE } from "./default-place.ts";
import { credentialText, itemsOf, valueText } from "./output.ts";
import { applicationPath, identityPath, manage, openManaged, type ManagedTarget, type TargetOptions } from "./service.ts";

/** Flags that name an application: by its client id, or by its name. */
export interface NamedApplication {
  readonly clientId?: string;
  readonly identityName?: string;
  /** Of a managed identity, where its name alone is not enough. */
  readonly resourceGroup?: string;
  readonly subscription?: string;
}

/** An application that was found. */
export interface FoundApplication {
  /** Below the management, as of Microsoft Graph. */
  readonly path: string;
  /** Path of Azure Resource Manager: set for a managed identity that was named, as the Azure CLI names it. */
  readonly identityPath: string | undefined;
}

/** Applications that a message lists. */
const MAX_LISTED = 10;
const RESOURCE_ID = /^\/subscriptions\/([^/]+)\/resourceGroups\/([^/]+)\/providers\/Microsoft\.ManagedIdentity\/userAssignedIdentities\/[^/]+$/i;

/** What a verb does with the service that it manages; returns the exit code. */
export type ManagedOperation<O> = (target: ManagedTarget, options: O & GlobalOptions, operands: readonly string[], context: CliContext) => Promise<number>;

/** A verb that manages the identity service of its command line. Who may not gets the exit code of refusals, as from the vault's verbs. */
export function managedVerb<O extends TargetOptions>(operation: ManagedOperation<O>): Verb<O> {
  return async (options, operands, context) => {
    const target = await openManaged(options, context);
    let status = 0;
    const watched: ManagedTarget = {
      ...target,
      async fetch(url, request) {
        const answer = await target.fetch(url, request);
        ({ status } = answer);
        return answer;
      },
    };
    try {
      return await operation(watched, options, operands, context);
    } catch (error) {
      if (status !== 403) throw error;
      const { text } = formatError(error, { json: options.json === true, debug: options.debug === true });
      (options.json === true ? context.stdout : context.stderr).write(text);
      return EXIT.refused;
    }
  };
}

/**
 * The application of a command line. A name is looked up among applications and managed identities alike; group and subscription are needed only where several have it.
 * @throws {CliError} ERR_CLI_USAGE unless one is named, and found once
 * @throws {IdentityError} ERR_IDENTITY_NOT_FOUND and others of {@link manage}
 */
export async function findApplication(target: ManagedTarget, options: NamedApplication): Promise<FoundApplication> {
  const { clientId, identityName, resourceGroup, subscription } = options;
  if (identityName === undefined || clientId !== undefined)
    return { path: await applicationPath(target, { ...DEFAULT_PLACE, ...options }), identityPath: undefined };
  const filter = `displayName eq '${identityName.replaceAll("'", "''")}'`;
  const named = itemsOf(await manage(target, "GET", `/v1.0/applications?$filter=${encodeURIComponent(filter)}`));
  const fitting = named.filter((item) => isIn(item, resourceGroup, subscription));
  const [found, ...others] = fitting;
  if (found === undefined) {
    // Azure compares the names of managed identities without letter case.
    const place = { resourceGroup: resourceGroup ?? DEFAULT_PLACE.resourceGroup, subscription: subscription ?? DEFAULT_PLACE.subscription };
    try {
      return { path: await applicationPath(target, { identityName, ...place }), identityPath: identityPath(identityName, place) };
    } catch (cause) {
      if (!isSealpodError(cause) || cause.code !== "ERR_IDENTITY_NOT_FOUND") throw cause;
      const where =
        resourceGroup === undefined && subscription === undefined ? "" : `, of managed identities in ${place.resourceGroup} of ${place.subscription}`;
      throw new IdentityError("ERR_IDENTITY_NOT_FOUND", `there is no application and no managed identity named ${JSON.stringify(identityName)}${where}`, {
        cause,
        hint: "List what is there: sealpod identity app list",
      });
    }
  }
  if (others.length > 0) {
    const list = fitting
      .slice(0, MAX_LISTED)
      .map(({ appId, resourceId }) => `${valueText(appId)} (${resourceId === undefined ? "application" : valueText(resourceId)})`);
    throw new CliError(
      "ERR_CLI_USAGE",
      `${fitting.length} have the name ${JSON.stringify(identityName)}: ${list.join(", ")}${fitting.length > MAX_LISTED ? ", …" : ""}`,
      { hint: "Name one with --client-id ID, or a managed identity with --resource-group and --subscription as well." },
    );
  }
  const { appId, resourceId } = found;
  const path = await applicationPath(target, { clientId: valueText(appId), ...DEFAULT_PLACE });
  const isManaged = typeof resourceId === "string" && RESOURCE_ID.test(resourceId);
  return { path, identityPath: isManaged ? resourceId.split("/").map(encodeURIComponent).join("/") : undefined };
}

/** Whether an application is where it is looked for; only managed identities are in groups. */
function isIn({ resourceId }: JsonObject, group: string | undefined, subscription: string | undefined): boolean {
  if (group === undefined && subscription === undefined) return true;
  const [, itsSubscription = "", itsGroup = ""] = RESOURCE_ID.exec(valueText(resourceId)) ?? [];
  const same = (wanted: string | undefined, its: string): boolean => wanted === undefined || wanted.toLowerCase() === its.toLowerCase();
  return itsGroup !== "" && same(group, itsGroup) && same(subscription, itsSubscription);
}

/** An application for people, with what it has of credentials: all values in one column. */
export function applicationText(application: JsonObject): string {
  const { displayName, appId, id, tenantId, kind, resourceId } = application;
  const list = (name: string): readonly JsonObject[] => (asArray(application[name]) ?? []).map((item) => asObject(item) ?? {});
  const words = (...values: readonly string[]): string => values.filter((value) => value !== "").join(" ");
  const credentials = [
    ...list("federatedIdentityCredentials").map((item) => ["federated", `${valueText(item["name"])}: ${credentialText(item)}`] as const),
    ...list("passwordCredentials").map(
      (item) => ["secret", words(valueText(item["keyId"]), `${valueText(item["hint"])}…`, valueText(item["displayName"]), endText(item))] as const,
    ),
    ...list("keyCredentials").map((item) => ["certificate", words(valueText(item["keyId"]), valueText(item["customKeyIdentifier"]), endText(item))] as const),
  ];
  const fields = { name: displayName, kind, "client id": appId, "object id": id, tenant: tenantId, "resource id": resourceId };
  const rows = [...Object.entries(fields).map(([name, value]) => [name, valueText(value)] as const), ...credentials].filter(([, text]) => text !== "");
  const width = Math.max(...rows.map(([name]) => name.length), 0) + 2;
  return rows.map(([name, text]) => `${name.padEnd(width)}${text}\n`).join("");
}

function endText(item: JsonObject): string {
  return item["endDateTime"] === undefined ? "without end" : `until ${valueText(item["endDateTime"])}`;
}
