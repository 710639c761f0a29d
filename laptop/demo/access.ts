import { asObject, messageOf, parseJson, type JsonObject } from "@sealpod/core";
import type { LaptopFetch, Up } from "@sealpod/services";
import { DemoError } from "./errors.ts";

/** Resource that vault tokens are asked for, as the genuine sidecar and SDKs do. */
const VAULT_SCOPE = "https://vault.azure.net/.default";

/** An answer of one of the services. */
export interface Answer {
  readonly status: number;
  readonly body: JsonObject;
  readonly text: string;
  /** By this the service's own records name the request. */
  readonly requestId: string | undefined;
}

/** Sends JSON and reads JSON. */
export async function call(fetch: LaptopFetch, method: string, url: string, body?: unknown, bearer?: string): Promise<Answer> {
  const headers: Record<string, string> = { accept: "application/json" };
  if (body !== undefined) headers["content-type"] = "application/json";
  if (bearer !== undefined) headers["authorization"] = `Bearer ${bearer}`;
  const response = await fetch(url, { method, headers, ...(body === undefined ? {} : { body: JSON.stringify(body) }) });
  const text = await response.text();
  try {
    return {
      status: response.status,
      body: asObject(parseJson(text === "" ? "{}" : text, url)) ?? {},
      text,
      requestId: response.headers.get("x-ms-request-id") ?? undefined,
    };
  } catch (cause) {
    throw new DemoError("ERR_DEMO_SERVICE", `${url} answered ${response.status} with something that is not JSON: ${messageOf(cause)}`, { cause });
  }
}

/** Access token of the person at this laptop, who owns the vault's keys. */
export async function ownerToken(up: Up, fetch: LaptopFetch): Promise<string> {
  const url = `${up.endpoints.authority}/${up.tenantId}/oauth2/v2.0/token`;
  const form = new URLSearchParams({
    grant_type: "client_credentials",
    client_id: up.owner.clientId,
    client_secret: up.owner.clientSecret,
    scope: VAULT_SCOPE,
  });
  const response = await fetch(url, { method: "POST", headers: { "content-type": "application/x-www-form-urlencoded" }, body: form.toString() });
  const body = asObject(parseJson(await response.text(), url));
  const token = body?.["access_token"];
  if (response.status !== 200 || typeof token !== "string") {
    const reason = body?.["error_description"];
    throw new DemoError("ERR_DEMO_SERVICE", `${url} gave no token to the owner: ${response.status} ${typeof reason === "string" ? reason : ""}`);
  }
  return token;
}

/** The text that a service gives as its reason. */
export function reasonOf(answer: Answer): string {
  const error = asObject(answer.body["error"]);
  const message = error?.["message"] ?? answer.body["error_description"] ?? answer.body["error"];
  return `${answer.status} ${typeof message === "string" ? message : answer.text}`;
}
