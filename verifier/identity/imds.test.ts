import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { silentLogger } from "@sealpod/core";
import { imdsApp } from "./index.ts";
import { claimsOf, CLIENT, START, TENANT, World } from "./testdata/support.ts";

const SECOND = "bbbbbbbb-bbbb-4ccc-8ddd-eeeeeeeeeeee";
const RESOURCE_ID = `/subscriptions/${TENANT}/resourceGroups/demo/providers/Microsoft.ManagedIdentity/userAssignedIdentities/web-identity`;
const PATH = "/metadata/identity/oauth2/token";
const QUERY = "?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";

let world: World;
beforeAll(async () => {
  world = await World.open();
  await world.store.registerApplication({ tenantId: TENANT, name: "web", clientId: CLIENT, resourceId: RESOURCE_ID });
  await world.store.registerApplication({ tenantId: TENANT, name: "second", clientId: SECOND });
});
afterAll(async () => world.store.close());

async function ask(
  query: string,
  identities: readonly string[] = [CLIENT],
  headers: Record<string, string> = { metadata: "true" },
): Promise<{ status: number; body: Record<string, unknown> }> {
  const response = await imdsApp({ service: world.service, identities, logger: silentLogger }).request(`http://169.254.169.254${PATH}${query}`, { headers });
  return { status: response.status, body: (await response.json()) as Record<string, unknown> };
}

describe("the metadata service", () => {
  it("gives the host's identity a token for a day, with times as text", async () => {
    const { status, body } = await ask(QUERY);
    expect(status).toBe(200);
    expect(body).toEqual({
      access_token: expect.any(String),
      client_id: CLIENT,
      expires_in: "86399",
      expires_on: String(START / 1000 + 86_400),
      ext_expires_in: "86399",
      not_before: String(START / 1000),
      resource: "https://vault.azure.net",
      token_type: "Bearer",
    });
    expect(claimsOf(body["access_token"])).toMatchObject({ appid: CLIENT, appidacr: "2", xms_mirid: RESOURCE_ID, aud: "https://vault.azure.net" });
    expect((await ask(`${QUERY}%2F`)).body["resource"]).toBe("https://vault.azure.net/");
  });

  it.each([
    ["client_id", CLIENT],
    ["client_id", CLIENT.toUpperCase()],
    ["mi_res_id", RESOURCE_ID],
    ["msi_res_id", RESOURCE_ID.toLowerCase()],
  ])("chooses among several by %s", async (name, value) => {
    expect((await ask(`${QUERY}&${name}=${encodeURIComponent(value)}`, [SECOND, CLIENT])).body["client_id"]).toBe(CLIENT);
  });

  it("chooses by object id", async () => {
    const objectId = (await world.store.application(SECOND))?.objectId ?? "";
    expect((await ask(`${QUERY}&object_id=${objectId}`, [SECOND, CLIENT])).body["client_id"]).toBe(SECOND);
  });

  const header = { metadata: "true" };
  it.each<readonly [string, string, RegExp, readonly string[], Record<string, string>]>([
    ["a request without the header", QUERY, /metadata header/, [CLIENT], {}],
    ["a header that says false", QUERY, /metadata header/, [CLIENT], { metadata: "false" }],
    ["a request through a proxy", QUERY, /proxy/, [CLIENT], { ...header, "x-forwarded-for": "10.0.0.1" }],
    ["no version", "?resource=https%3A%2F%2Fvault.azure.net", /'api-version' is missing/, [CLIENT], header],
    ["another version", "?api-version=1&resource=x", /'api-version' is not/, [CLIENT], header],
    ["no resource", "?api-version=2018-02-01", /'resource' is missing/, [CLIENT], header],
    ["an unknown resource", "?api-version=2018-02-01&resource=https://other", /AADSTS500011/, [CLIENT], header],
    ["a variable given twice", `${QUERY}&resource=x`, /twice/, [CLIENT], header],
    ["two ways to choose", `${QUERY}&client_id=${CLIENT}&object_id=x`, /Only one/, [CLIENT], header],
    ["an identity of somebody else", `${QUERY}&client_id=${SECOND}`, /Identity not found/, [CLIENT], header],
    ["no identity", QUERY, /Identity not found/, [], header],
    ["an identity that is gone", QUERY, /Identity not found/, ["dddddddd-bbbb-4ccc-8ddd-eeeeeeeeeeee"], header],
    ["several, and none chosen", QUERY, /Multiple user assigned identities/, [CLIENT, SECOND], header],
  ])("refuses %s", async (_what, query, message, identities, headers) => {
    const { status, body } = await ask(query, identities, headers);
    expect(status).toBe(400);
    expect(body["error_description"]).toMatch(message);
    expect(body["access_token"]).toBeUndefined();
  });
});
