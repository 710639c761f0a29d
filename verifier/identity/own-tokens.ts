import { messageOf } from "@sealpod/core";
import { IdentityError } from "./errors.ts";
import { parseUnverified, verifySignature } from "./jwt.ts";
import type { ManagementOptions, ManagementVerdict } from "./management.ts";
import { firstIssuer, tenantIssuer, type TokenService } from "./token-service.ts";

/** What tokens for the management of this service are for: what the clients of Azure Resource Manager and of Microsoft Graph ask for. */
export const MANAGEMENT_RESOURCES: readonly string[] = ["https://management.azure.com", "https://graph.microsoft.com"];

/**
 * Lets the administrators of a tenant manage it with access tokens of this service itself, for one of {@link MANAGEMENT_RESOURCES}.
 * @param administrators client ids
 */
export function ownTokenAccess(service: TokenService, administrators: readonly string[]): ManagementOptions {
  return {
    authority: `${service.authority}/${service.tenants[0] ?? ""}`,
    resource: MANAGEMENT_RESOURCES[0] ?? "",
    authenticate: async (token) => judge(service, administrators, token),
  };
}

async function judge(service: TokenService, administrators: readonly string[], token: string): Promise<ManagementVerdict> {
  const refused = (problem: string): ManagementVerdict => ({ kind: "refused", problem });
  try {
    const { kid } = parseUnverified(token).header;
    const key = typeof kid === "string" ? await service.store.findKey("tenant", "default", kid) : undefined;
    if (key === undefined) return refused("its key is not one of this service's");
    const { iss, aud, exp, nbf, tid, appid, azp } = await verifySignature(token, key);
    const tenantId = service.tenants.find((tenant) => tenant === tid);
    if (tenantId === undefined || (iss !== firstIssuer(service, tenantId) && iss !== tenantIssuer(service.authority, tenantId)))
      return refused("its issuer is not this service");
    if (typeof aud !== "string" || !MANAGEMENT_RESOURCES.includes(aud)) return refused(`its audience is none of ${MANAGEMENT_RESOURCES.join(", ")}`);
    const now = service.clock.now() / 1000;
    if (typeof exp !== "number" || exp <= now || typeof nbf !== "number" || nbf > now) return refused("it is not, or no longer, in its time");
    const client = appid ?? azp;
    const subject = `application ${typeof client === "string" ? client : "unknown"}`;
    // The application may be gone since: then its tokens manage nothing, though they live on elsewhere until they end.
    const application = typeof client === "string" ? await service.store.application(client) : undefined;
    if (typeof client === "string" && administrators.includes(client) && application?.tenantId === tenantId) return { kind: "allowed", subject, tenantId };
    return { kind: "forbidden", subject, problem: "it is not among those who manage this service" };
  } catch (error) {
    if (!(error instanceof IdentityError) || error.code === "ERR_IDENTITY_STORE") throw error;
    return refused(messageOf(error));
  }
}
