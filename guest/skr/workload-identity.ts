import { TOKEN_FILES, type WorkloadIdentity } from "./access-token.ts";

/** The pod's workload identity as its environment has it, and what is missing if there are only parts of one. */
export interface FoundIdentity {
  readonly identity: WorkloadIdentity | undefined;
  /** Names of the variables that are missing or empty while others are set; empty if none or all are. */
  readonly missing: readonly string[];
}

/**
 * Reads `AZURE_CLIENT_ID`, `AZURE_TENANT_ID`, `AZURE_FEDERATED_TOKEN_FILE` and `AZURE_AUTHORITY_HOST`. Empty is as good as
 * absent: policies are generated with placeholders for them, and a pod without the webhook's label has them empty.
 * The token file may be left out: both places where the webhook puts it are tried (specs/attestation.md 8.3).
 */
export function findWorkloadIdentity(env: Readonly<Record<string, string | undefined>>): FoundIdentity {
  const setting = (name: string): string | undefined => (env[name]?.trim() === "" ? undefined : env[name]?.trim());
  const clientId = setting("AZURE_CLIENT_ID");
  const tenantId = setting("AZURE_TENANT_ID");
  const tokenFile = setting("AZURE_FEDERATED_TOKEN_FILE");
  if (clientId === undefined || tenantId === undefined) {
    const missing = [...(clientId === undefined ? ["AZURE_CLIENT_ID"] : []), ...(tenantId === undefined ? ["AZURE_TENANT_ID"] : [])];
    return { identity: undefined, missing: missing.length === 2 && tokenFile === undefined ? [] : missing };
  }
  const tokenFiles = [...(tokenFile === undefined ? [] : [tokenFile]), ...TOKEN_FILES.filter((path) => path !== tokenFile)];
  return { identity: { clientId, tenantId, tokenFiles, authorityHost: setting("AZURE_AUTHORITY_HOST") }, missing: [] };
}
