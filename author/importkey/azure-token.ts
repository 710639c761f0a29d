import { asObject, messageOf } from "@sealpod/core";
import { readAnswer, printable, type Answer, type VaultAnswer, type VaultRequest } from "./answer.ts";
import { ImportKeyError } from "./errors.ts";

/** The world of {@link azureAccessToken}. */
export interface AzureTokenPorts {
  /** An environment variable. */
  env(name: string): string | undefined;
  /** Text of the projected service-account token. */
  readText(path: string): Promise<string>;
  fetch(url: string, request: VaultRequest): Promise<VaultAnswer>;
  /** Milliseconds between tries. */
  wait(milliseconds: number): Promise<void>;
}

/** Where tokens of workload identities come from if the environment does not say. */
const PUBLIC_AUTHORITY = "https://login.microsoftonline.com/";
const METADATA_SERVICE = "http://169.254.169.254/metadata/identity/oauth2/token";
const TRIES = 3;
const PAUSE = 1000;
const ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const VARIABLES = ["AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_FEDERATED_TOKEN_FILE"] as const;

/**
 * An access token of this machine's own identity: by workload identity where AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_FEDERATED_TOKEN_FILE are set
 * (specs/attestation.md 8.4), otherwise of the metadata service (5.4).
 * @param resource e.g. `https://vault.azure.net`
 * @param clientId managed identity to ask the metadata service for
 * @throws {ImportKeyError} ERR_IMPORTKEY_TOKEN
 */
export async function azureAccessToken(resource: string, clientId: string | undefined, ports: AzureTokenPorts): Promise<string> {
  const values = VARIABLES.map((name) => ports.env(name) ?? "");
  const missing = VARIABLES.filter((_, index) => values[index] === "");
  const [client = "", tenant = "", file = ""] = values;
  if (missing.length === 0) return workloadToken({ resource, client, tenant, file }, ports);
  try {
    return await metadataToken(resource, clientId, ports);
  } catch (error) {
    if (!(error instanceof ImportKeyError) || missing.length === VARIABLES.length) throw error;
    throw new ImportKeyError(
      "ERR_IMPORTKEY_TOKEN",
      `${error.message}; workload identity was not tried, because ${missing.join(" and ")} ${missing.length > 1 ? "are" : "is"} not set`,
      {
        cause: error,
        hint: 'In a pod, the label azure.workload.identity/use: "true" and the service account\'s annotation make the webhook set them.',
      },
    );
  }
}

/** True if the environment is that of a workload identity. */
export function hasWorkloadIdentity(env: (name: string) => string | undefined): boolean {
  return VARIABLES.every((name) => (env(name) ?? "") !== "");
}

async function workloadToken(
  identity: { readonly resource: string; readonly client: string; readonly tenant: string; readonly file: string },
  ports: AzureTokenPorts,
): Promise<string> {
  const authority = ports.env("AZURE_AUTHORITY_HOST") ?? "";
  const base = (authority === "" ? PUBLIC_AUTHORITY : authority).replace(/\/+$/, "");
  const url = `${base}/${encodeURIComponent(identity.tenant)}/oauth2/v2.0/token`;
  // Before the assertion leaves: whoever reads it on the way is this workload.
  if (!URL.canParse(url) || new URL(url).protocol !== "https:")
    throw tokenError(
      `AZURE_AUTHORITY_HOST ${JSON.stringify(printable(authority))} is no https URL`,
      undefined,
      "Expected e.g. https://login.microsoftonline.com/",
    );
  const assertion = (await ports.readText(identity.file)).trim();
  const form = new URLSearchParams({
    client_id: identity.client,
    scope: `${identity.resource}/.default`,
    grant_type: "client_credentials",
    client_assertion_type: ASSERTION_TYPE,
    client_assertion: assertion,
  });
  const headers = { accept: "application/json", "content-type": "application/x-www-form-urlencoded" };
  const answer = await send(url, { method: "POST", headers, body: form.toString(), redirect: "manual" }, ports);
  return tokenOf(answer, url, "Check the federated credential of the identity: its issuer and subject must be exactly those of the service account's token.");
}

async function metadataToken(resource: string, clientId: string | undefined, ports: AzureTokenPorts): Promise<string> {
  const url = `${METADATA_SERVICE}?${new URLSearchParams({ "api-version": "2018-02-01", resource, ...(clientId === undefined ? {} : { client_id: clientId }) }).toString()}`;
  const hint =
    "Away from Azure, pass --bearer-token-file FILE; on Azure, give the machine a managed identity, and name it in identity.client_id if it has several.";
  for (let attempt = 1; ; attempt++) {
    try {
      const answer = await send(url, { method: "GET", headers: { metadata: "true" }, redirect: "manual" }, ports);
      if (attempt === TRIES || (answer.status < 500 && answer.status !== 429 && answer.status !== 410)) return tokenOf(answer, METADATA_SERVICE, hint);
    } catch (error) {
      if (attempt === TRIES || !(error instanceof ImportKeyError) || error.details["status"] !== undefined) throw error;
    }
    await ports.wait(PAUSE * attempt);
  }
}

async function send(url: string, request: VaultRequest, ports: AzureTokenPorts): Promise<Answer> {
  try {
    return await readAnswer(await ports.fetch(url, request));
  } catch (error) {
    throw tokenError(`${new URL(url).host}: no answer: ${messageOf(error)}`, error, "Away from Azure, pass --bearer-token-file FILE.");
  }
}

function tokenOf({ status, json }: Answer, url: string, hint: string): string {
  const { access_token: token, error_description: description, error } = asObject(json) ?? {};
  if (status === 200 && typeof token === "string" && token !== "") return token;
  const said = [description, error].find((part) => typeof part === "string");
  throw new ImportKeyError("ERR_IMPORTKEY_TOKEN", `${new URL(url).host} gave no token: ${status}${said === undefined ? "" : ` ${printable(said)}`}`, {
    details: { status },
    hint,
  });
}

function tokenError(problem: string, cause: unknown, hint: string): ImportKeyError {
  return new ImportKeyError("ERR_IMPORTKEY_TOKEN", problem, { cause, hint });
}
