import { asObject, isSealpodError, parseJson, type JsonObject } from "@sealpod/core";
import { ServicesError } from "./errors.ts";
import { laptopFetch } from "./fetch.ts";
import type { Up } from "./up.ts";

/** The part of {@link Up} by which the owner logs in. */
export type OwnerLogin = Pick<Up, "domain" | "host" | "caCertificate" | "endpoints" | "tenantId" | "owner">;

/**
 * Access token of the person at this laptop, from the laptop's identity service.
 * @param resource what the token is for, e.g. `https://attest.azure.net`
 * @throws {ServicesError} ERR_SERVICES_FETCH
 */
export async function requestOwnerToken(up: OwnerLogin, resource: string): Promise<string> {
  const url = `${up.endpoints.authority}/${up.tenantId}/oauth2/v2.0/token`;
  const form = new URLSearchParams({
    grant_type: "client_credentials",
    client_id: up.owner.clientId,
    client_secret: up.owner.clientSecret,
    scope: `${resource}/.default`,
  });
  const response = await laptopFetch(up)(url, { method: "POST", body: form });
  const answer = parseAnswer(await response.text());
  const { access_token: token, error_description: reason } = answer ?? {};
  if (response.status === 200 && typeof token === "string") return token;
  throw new ServicesError(
    "ERR_SERVICES_FETCH",
    `${url} gave the owner no token for ${resource}: ${response.status} ${typeof reason === "string" ? reason : ""}`,
  );
}

function parseAnswer(text: string): JsonObject | undefined {
  try {
    return asObject(parseJson(text));
  } catch (error) {
    if (isSealpodError(error)) return undefined;
    throw error;
  }
}
