import { openOperatorToken } from "@sealpod/service";
import type { ManagementOptions } from "./management.ts";
import { ownTokenAccess } from "./own-tokens.ts";
import type { IdentitySettings } from "./server-settings.ts";
import type { TokenService } from "./token-service.ts";

/**
 * Who may manage the service, as configured; undefined if nobody may.
 * @throws {ServiceError} ERR_SERVICE_CONFIG for a token file that is no use or that others can read
 */
export async function openManagement(
  { tokenFile, administrators }: IdentitySettings["management"],
  service: TokenService,
): Promise<ManagementOptions | undefined> {
  if (tokenFile === undefined && administrators.length === 0) return undefined;
  const isOperator = tokenFile === undefined ? undefined : await openOperatorToken(tokenFile);
  const own = ownTokenAccess(service, administrators);
  return {
    ...own,
    async authenticate(token) {
      if (isOperator?.(token) === true) return { kind: "allowed", subject: "operator" };
      return own.authenticate(token);
    },
  };
}
