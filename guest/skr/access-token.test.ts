import { beforeAll, describe, expect, it } from "vitest";
import { fetchAccessToken, isBearerToken, type AccessTokenPorts } from "./access-token.ts";
import { ASSERTION, AUTHORITY, json, World } from "./testdata/world.ts";

const IDENTITY = { clientId: "client", tenantId: "tenant", tokenFile: "/token", authorityHost: AUTHORITY };

describe("access tokens", () => {
  let made: World;
  beforeAll(async () => {
    made = await World.make();
  });

  const fetched = async (
    vault: string,
    changes: Partial<AccessTokenPorts>,
    answers: ReturnType<typeof json>[] = [],
  ): Promise<{ token: unknown; world: World }> => {
    const world = new World(made.chain, made.root, made.store);
    world.scripted.push(...answers);
    const token = await fetchAccessToken(world.ports(changes), vault).catch((error: unknown) => error);
    return { token, world };
  };

  it("exchange the pod's assertion at the authority that the pod names", async () => {
    const { token, world } = await fetched("demo.vault.test", {}, [json(200, { access_token: "t" })]);
    expect(token).toBe("t");
    const [request] = world.requests;
    expect(request).toMatchObject({
      method: "POST",
      url: "https://login.test/tenant/oauth2/v2.0/token",
      headers: { "content-type": "application/x-www-form-urlencoded" },
    });
    expect(Object.fromEntries(new URLSearchParams(request?.body))).toEqual({
      client_id: "client",
      scope: "https://vault.azure.net/.default",
      grant_type: "client_credentials",
      client_assertion_type: "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
      client_assertion: ASSERTION,
    });
  });

  it.each([
    [undefined, "https://login.microsoftonline.com/tenant/oauth2/v2.0/token"],
    ["https://login.test:8443", "https://login.test:8443/tenant/oauth2/v2.0/token"],
    ["https://login.test/sub", "https://login.test/sub/tenant/oauth2/v2.0/token"],
  ])("come from authority %j at %s", async (authorityHost, url) => {
    const { world } = await fetched("v", { workloadIdentity: { ...IDENTITY, authorityHost } }, [json(200, { access_token: "t" })]);
    expect(world.requests[0]?.url).toBe(url);
  });

  it("are for the managed HSM if the host name says so", async () => {
    const { world } = await fetched("x.managedhsm.azure.net", {}, [json(200, { access_token: "t" })]);
    expect(new URLSearchParams(world.requests[0]?.body).get("scope")).toBe("https://managedhsm.azure.net/.default");
  });

  it("come from the metadata service where there is no workload identity", async () => {
    const { token, world } = await fetched("v", { workloadIdentity: undefined, clientId: "a/b" }, [json(200, { access_token: "t", expires_in: "3600" })]);
    expect(token).toBe("t");
    expect(world.requests).toMatchObject([
      {
        method: "GET",
        url: "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net&client_id=a%2Fb",
        headers: { metadata: "true" },
      },
    ]);
  });

  it("are asked of the metadata service three times", async () => {
    const { token, world } = await fetched("v", { workloadIdentity: undefined }, [json(503, {}), json(503, {}), json(200, { access_token: "t" })]);
    expect(token).toBe("t");
    expect(world.requests.map((request) => request.url)).toEqual(
      Array.from({ length: 3 }, () => "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net"),
    );
  });

  it.each(["http://login.test/", "login.test", "https://user@login.test/", "https://login.test/?a", ""])(
    "are not asked of authority %j",
    async (authorityHost) => {
      const { token, world } = await fetched("v", { workloadIdentity: { ...IDENTITY, authorityHost } });
      expect(token).toMatchObject({ code: "ERR_SKR_IDENTITY" });
      expect(world.requests).toEqual([]);
    },
  );

  it("need the token file", async () => {
    const { token } = await fetched("v", { readText: () => Promise.reject(new Error("ENOENT")) });
    expect(token).toMatchObject({ code: "ERR_SKR_IDENTITY", message: expect.stringContaining("/token cannot be read: ENOENT") });
  });

  it.each([{}, { access_token: 1 }, { access_token: "" }, { access_token: "a\r\nb" }])("are refused as %j", async (body) => {
    expect((await fetched("v", {}, [json(200, body)])).token).toMatchObject({ code: "ERR_SKR_IDENTITY" });
  });

  it.each([
    ["abc.DEF-_~+/==", true],
    ["", false],
    ["=", false],
    ["a b", false],
    ["a\n", false],
    ["é", false],
  ])("%j as a bearer token: %s", (text, expected) => {
    expect(isBearerToken(text)).toBe(expected);
  });
});
