import { beforeAll, describe, expect, it } from "vitest";
import { AccessTokens, challengedResource, fetchAccessToken, isBearerToken, resourceOf, TOKEN_FILES, type AccessTokenPorts } from "./access-token.ts";
import { ASSERTION, AUTHORITY, json, World } from "./testdata/world.ts";

const IDENTITY = { clientId: "client", tenantId: "tenant", tokenFiles: ["/token"], authorityHost: AUTHORITY };

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
    const token = await fetchAccessToken(world.ports(changes), resourceOf(vault)).then(
      (answer) => answer.token,
      (error: unknown) => error,
    );
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

  it("look for the token file in the other place too, and say which was named", async () => {
    const [first = "", second = ""] = TOKEN_FILES;
    const identity = { ...IDENTITY, tokenFiles: TOKEN_FILES };
    const readText = async (path: string): Promise<string> => (path === second ? Promise.resolve("a.b.c") : Promise.reject(new Error(`ENOENT ${path}`)));
    const { world } = await fetched("v", { workloadIdentity: identity, readText }, [json(200, { access_token: "t" })]);
    expect(new URLSearchParams(world.requests[0]?.body).get("client_assertion")).toBe("a.b.c");
    const { token } = await fetched("v", { workloadIdentity: identity, readText: async (path) => Promise.reject(new Error(`ENOENT ${path}`)) });
    expect(token).toMatchObject({ code: "ERR_SKR_IDENTITY", message: expect.stringContaining(`${first} cannot be read: ENOENT ${first}`) });
  });

  it.each(["", "two words", "<html>", "x".repeat(70_000)])("do not send what is no token (%#)", async (text) => {
    const { token, world } = await fetched("v", { readText: async () => Promise.resolve(text) });
    expect(token).toMatchObject({ code: "ERR_SKR_IDENTITY", message: expect.not.stringContaining(text === "" ? "nothing" : text) });
    expect(world.requests).toEqual([]);
  });

  it.each([
    ["AADSTS70021: No matching federated identity record found for presented assertion. Assertion Issuer: 'https://x'", "a slash"],
    ["AADSTS700024: Client assertion is not within its valid time range", "has expired"],
    ["AADSTS700016: Application with identifier 'client' was not found", "AZURE_CLIENT_ID"],
    ["AADSTS90061: Request to External OIDC endpoint failed", "issuer"],
  ])("explain %s", async (description, hint) => {
    const { token } = await fetched("v", {}, [json(401, { error: "invalid_client", error_description: description })]);
    expect(token).toMatchObject({ message: expect.stringContaining(description), hint: expect.stringContaining(hint) });
  });

  it("explain a metadata service without an identity", async () => {
    const { token } = await fetched("v", { workloadIdentity: undefined }, [json(400, { error: "invalid_request", error_description: "Identity not found" })]);
    expect(token).toMatchObject({ hint: expect.stringContaining("identity.client_id") });
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

describe("kept access tokens", () => {
  let made: World;
  beforeAll(async () => {
    made = await World.make();
  });

  const A = "https://vault.azure.net";
  const world = (...answers: readonly unknown[]): World => {
    const it = new World(made.chain, made.root, made.store);
    it.scripted.push(...answers.map((body) => json(200, body)));
    return it;
  };

  it.each([3600, "3600"])("are used until shortly before their end (expires_in %j)", async (expires_in) => {
    const network = world({ access_token: "one", expires_in }, { access_token: "two", expires_in });
    const tokens = new AccessTokens();
    expect(await tokens.get(network.ports(), A)).toEqual({ token: "one", kept: false });
    network.now += 54 * 60_000;
    expect(await tokens.get(network.ports(), A)).toEqual({ token: "one", kept: true });
    network.now += 60_000;
    expect(await tokens.get(network.ports(), A)).toEqual({ token: "two", kept: false });
    expect(network.requests).toHaveLength(2);
  });

  it.each([undefined, 0, -1, "x", 300, null, "1e9"])("are none that say nothing useful of their end (%j)", async (expires_in) => {
    const network = world({ access_token: "one", expires_in }, { access_token: "two", expires_in });
    const tokens = new AccessTokens();
    await tokens.get(network.ports(), A);
    expect(await tokens.get(network.ports(), A)).toEqual({ token: "two", kept: false });
  });

  it("are kept for a day at most, and not when the clock goes back", async () => {
    const network = world(...["one", "two", "three"].map((access_token) => ({ access_token, expires_in: 999_999_999 })));
    const tokens = new AccessTokens();
    await tokens.get(network.ports(), A);
    network.now += 24 * 3_600_000 - 5 * 60_000;
    expect(await tokens.get(network.ports(), A)).toMatchObject({ token: "two" });
    network.now -= 1;
    expect(await tokens.get(network.ports(), A)).toMatchObject({ token: "three" });
  });

  it("are one for each resource, eight in all, and can be dropped", async () => {
    const network = world(...Array.from({ length: 12 }, (_, index) => ({ access_token: `t${index}`, expires_in: 3600 })));
    const tokens = new AccessTokens();
    for (let index = 0; index < 9; index++) await tokens.get(network.ports(), `https://r${index}.test`);
    expect(await tokens.get(network.ports(), "https://r8.test")).toEqual({ token: "t8", kept: true });
    expect(await tokens.get(network.ports(), "https://r1.test")).toEqual({ token: "t1", kept: true });
    expect(await tokens.get(network.ports(), "https://r0.test")).toEqual({ token: "t9", kept: false });
    tokens.drop("https://r8.test");
    expect(await tokens.get(network.ports(), "https://r8.test")).toMatchObject({ kept: false });
  });

  it("go with the resources of the last 32 stores that asked for another", () => {
    const tokens = new AccessTokens();
    for (let index = 0; index < 33; index++) tokens.rememberResource(`S${index}.vault.test`, "https://vault.test");
    expect(tokens.resourceFor("s0.vault.test")).toBeUndefined();
    tokens.rememberResource("s1.vault.test", "https://other.test");
    expect(tokens.resourceFor("S1.vault.test")).toBe("https://other.test");
    expect(tokens.resourceFor("s2.vault.test")).toBe("https://vault.test");
  });

  it("are not kept from a refusal", async () => {
    const network = world();
    network.scripted.push(json(400, {}));
    const tokens = new AccessTokens();
    await expect(tokens.get(network.ports(), A)).rejects.toMatchObject({ code: "ERR_SKR_IDENTITY" });
    expect(await tokens.get(network.ports(), A)).toMatchObject({ kept: false });
  });
});

describe("the resource of a challenge", () => {
  const challenge = (resource: string): string => `Bearer authorization="https://login.windows.net/t", resource="${resource}"`;

  it.each([
    ["https://vault.test", "demo.vault.test", "https://vault.test"],
    ["https://vault.azure.cn/", "x.vault.azure.cn", "https://vault.azure.cn"],
    ["https://VAULT.test", "demo.Vault.test", "https://vault.test"],
    // Whose tokens somebody else would like to have.
    ["https://management.azure.com", "demo.vault.test", undefined],
    ["https://vault.test", "demo.evilvault.test", undefined],
    ["https://vault.test", "vault.test", undefined],
    ["https://test", "demo.vault.test", undefined],
    ["http://vault.test", "demo.vault.test", undefined],
    ["https://vault.test/x", "demo.vault.test", undefined],
    ["https://vault.test:444", "demo.vault.test", undefined],
    ["https://u@vault.test", "demo.vault.test", undefined],
    ["vault.test", "demo.vault.test", undefined],
  ])("%s of store %s is %s", (resource, host, expected) => {
    expect(challengedResource(challenge(resource), host)).toBe(expected);
  });

  it("may be written as a scope, or be missing", () => {
    expect(challengedResource('Bearer authorization="x", scope="https://vault.test/.default"', "a.vault.test")).toBe("https://vault.test");
    expect(challengedResource("Bearer", "a.vault.test")).toBeUndefined();
    expect(challengedResource(undefined, "a.vault.test")).toBeUndefined();
    expect(challengedResource(`Bearer ${" ".repeat(5000)}resource="https://vault.test"`, "a.vault.test")).toBeUndefined();
  });
});
