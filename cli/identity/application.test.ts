import { describe, expect, it } from "vitest";
import { applicationText, findApplication } from "./application.ts";
import type { ManagedTarget } from "./service.ts";

const ID = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";
const OTHER = "aaaaaaaa-bbbb-4ccc-8ddd-ffffffffffff";
const resource = (group: string, name: string, subscription = "s1"): string =>
  `/subscriptions/${subscription}/resourceGroups/${group}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/${name}`;

/** A service with these applications; `asked` are the paths of its requests. */
function serviceOf(applications: readonly object[], asked: string[] = []): ManagedTarget {
  return {
    authority: "https://login.test",
    tenant: undefined,
    up: undefined,
    bearer: "t0ken",
    async fetch(url) {
      const { pathname, searchParams } = new URL(url);
      asked.push(pathname);
      const name = /^displayName eq '(.*)'$/.exec(searchParams.get("$filter") ?? "")?.[1]?.replaceAll("''", "'");
      if (pathname === "/v1.0/applications" && name !== undefined) {
        const value = applications.filter((item) => (item as { displayName: string }).displayName === name);
        return Promise.resolve({ status: 200, text: JSON.stringify({ value }) });
      }
      const found = applications.find((item) => (item as { resourceId?: string }).resourceId?.toLowerCase() === pathname.toLowerCase());
      if (found === undefined) return Promise.resolve({ status: 404, text: '{"error":{"code":"ResourceNotFound","message":"none"}}' });
      return Promise.resolve({ status: 200, text: JSON.stringify({ properties: { clientId: (found as { appId: string }).appId } }) });
    },
  };
}

const graph = (id: string): string => `/v1.0/applications(appId='${id}')`;

describe("an application of a command line", () => {
  it("is found by its client id without asking", async () => {
    const asked: string[] = [];
    expect(await findApplication(serviceOf([], asked), { clientId: ID.toUpperCase() })).toEqual({ path: graph(ID), identityPath: undefined });
    expect(asked).toEqual([]);
  });

  it("is found by the name that it alone has, whatever kind it is and whichever group it is in", async () => {
    const service = serviceOf([
      { appId: ID, displayName: "it's mine" },
      { appId: OTHER, displayName: "web", resourceId: resource("demo", "web") },
    ]);
    expect(await findApplication(service, { identityName: "it's mine" })).toEqual({ path: graph(ID), identityPath: undefined });
    expect(await findApplication(service, { identityName: "web" })).toEqual({ path: graph(OTHER), identityPath: resource("demo", "web") });
    expect((await findApplication(service, { identityName: "web", resourceGroup: "DEMO" })).path).toBe(graph(OTHER));
  });

  it("of a name that several have is found by group and subscription, or not at all", async () => {
    const service = serviceOf([
      { appId: ID, displayName: "web" },
      { appId: OTHER, displayName: "web", resourceId: resource("demo", "web") },
      { appId: "aaaaaaaa-bbbb-4ccc-8ddd-000000000000", displayName: "web", resourceId: resource("demo", "web", "s2") },
    ]);
    expect((await findApplication(service, { identityName: "web", resourceGroup: "demo", subscription: "s1" })).path).toBe(graph(OTHER));
    await expect(findApplication(service, { identityName: "web", resourceGroup: "demo" })).rejects.toMatchObject({
      code: "ERR_CLI_USAGE",
      message: expect.stringMatching(/^2 have the name "web": .*ffff \(\/subscriptions\/s1/),
    });
    await expect(findApplication(service, { identityName: "web" })).rejects.toMatchObject({
      message: expect.stringContaining(`${ID} (application)`),
      hint: expect.stringContaining("--client-id"),
    });
  });

  it("of another letter case is found where Azure finds it: among the managed identities of a group", async () => {
    const service = serviceOf([{ appId: ID, displayName: "web", resourceId: resource("sealpod", "web", "00000000-0000-0000-0000-000000000000") }]);
    expect(await findApplication(service, { identityName: "Web" })).toEqual({
      path: graph(ID),
      identityPath: resource("sealpod", "Web", "00000000-0000-0000-0000-000000000000"),
    });
  });

  it("that is not there is said to be neither", async () => {
    await expect(findApplication(serviceOf([]), { identityName: "web" })).rejects.toMatchObject({
      code: "ERR_IDENTITY_NOT_FOUND",
      message: 'there is no application and no managed identity named "web"',
    });
    const elsewhere = serviceOf([{ appId: ID, displayName: "web", resourceId: resource("demo", "web") }]);
    await expect(findApplication(elsewhere, { identityName: "web", resourceGroup: "other" })).rejects.toMatchObject({
      message: expect.stringContaining("of managed identities in other"),
    });
  });

  it.each([
    [{}, /neither/],
    [{ clientId: ID, identityName: "web" }, /both/],
    [{ clientId: "x')/y" }, /not a UUID/],
  ])("named as %j is a mistake", async (options, problem) => {
    await expect(findApplication(serviceOf([]), options)).rejects.toMatchObject({ code: "ERR_CLI_USAGE", message: expect.stringMatching(problem) });
  });
});

describe("an application for people", () => {
  it.each([
    ["without a resource id", {}],
    ["with one", { resourceId: resource("demo", "web") }],
  ])("%s has all values in one column", (_what, more) => {
    const text = applicationText({
      displayName: "web",
      appId: ID,
      id: OTHER,
      tenantId: ID,
      kind: "application",
      ...more,
      federatedIdentityCredentials: [{ name: "github", issuer: "https://i/", subject: "s", audiences: ["a"] }],
      passwordCredentials: [{ keyId: "k1", hint: "abc", displayName: "" }],
      keyCredentials: [{ keyId: "k2", customKeyIdentifier: "FF", endDateTime: "2027-01-01T00:00:00Z" }],
    });
    const lines = text.trimEnd().split("\n");
    const columns = lines.map((line) => /^.*? {2,}(?=\S)/.exec(line)?.[0].length);
    expect(new Set(columns), text).toEqual(new Set(["certificate  ".length]));
    expect(lines.slice(-3)).toEqual([
      "federated    github: https://i/  s  a",
      "secret       k1 abc… without end",
      "certificate  k2 FF until 2027-01-01T00:00:00Z",
    ]);
  });

  it("without credentials is no wider than it must be", () => {
    expect(applicationText({ displayName: "web", appId: ID })).toBe(`name       web\nclient id  ${ID}\n`);
  });
});
