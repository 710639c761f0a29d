import { describe, expect, it } from "vitest";
import { errorReply, failureOf, pull, SECRETS, World, type Handler } from "./test-support.ts";

/** Logins and tokens: which go where, and which never. */

const TAR = new Uint8Array(5000).map((_, i) => i);
const BASIC = `Basic ${Buffer.from(`user:${SECRETS.password}`).toString("base64")}`;
const BEARER = `Bearer ${SECRETS.accessToken}`;
const REALM = "https://auth.example/token";
const CHALLENGE = `Bearer realm="${REALM}",service="r.example",scope="repository:app:pull"`;
const LOGIN = { auths: { "r.example": { auth: BASIC.slice(6) } } };
const NO_USER = "00000000-0000-0000-0000-000000000000";

function challengeReply(challenge: string | null): Response {
  return errorReply(401, "UNAUTHORIZED", "authentication required", challenge === null ? {} : { "www-authenticate": challenge });
}

/** The registry r.example wants this Authorization header. */
function wants(authorization: string | (() => string), challenge: string | null = CHALLENGE): Handler {
  return ({ url, headers }) => {
    const wanted = typeof authorization === "string" ? authorization : authorization();
    return url.host === "r.example" && headers.get("authorization") !== wanted ? challengeReply(challenge) : undefined;
  };
}

/** The token service. */
function issues(answer: object | Response | ((request: Parameters<Handler>[0]) => object | Response)): Handler {
  return (request) => {
    if (request.url.host !== "auth.example") return undefined;
    const found = typeof answer === "function" ? answer(request) : answer;
    return found instanceof Response ? found : Response.json(found);
  };
}

async function worldWith(...handlers: readonly Handler[]): Promise<World> {
  const world = new World();
  await world.publish([TAR]);
  world.handlers.push(...handlers);
  return world;
}

async function pulls(world: World): Promise<void> {
  expect(await pull(world.open(), "r.example/app:1")).toEqual([TAR]);
  world.checkLogs();
}

async function fails(world: World): Promise<Awaited<ReturnType<typeof failureOf>>> {
  const error = await failureOf(world.open().resolve("r.example/app:1"));
  world.checkLogs();
  return error;
}

describe("tokens", () => {
  it("are fetched without a login where there is none, once for all requests", async () => {
    const world = await worldWith(wants(BEARER), issues({ token: SECRETS.accessToken, expires_in: 300 }));
    await pulls(world);
    const [tokenRequest, ...more] = world.requests.filter(({ url }) => url.host === "auth.example");
    expect(more).toEqual([]);
    expect(tokenRequest?.method).toBe("GET");
    expect(tokenRequest?.url.search).toBe("?service=r.example&scope=repository%3Aapp%3Apull");
    expect(tokenRequest?.headers.get("authorization")).toBeNull();
    expect(world.requests.map(({ url }) => url.host)).toEqual(["r.example", "auth.example", "r.example", "r.example", "r.example"]);
  });

  it("are fetched with the login, which goes to no one else", async () => {
    const world = await worldWith(
      wants(BEARER),
      issues(({ headers }) => (headers.get("authorization") === BASIC ? { access_token: SECRETS.accessToken } : challengeReply(null))),
    );
    world.login(LOGIN);
    await pulls(world);
    for (const { url, headers } of world.requests) if (url.host !== "auth.example") expect(headers.get("authorization")).not.toBe(BASIC);
  });

  it("ask for the repository if the challenge names no scope", async () => {
    const world = await worldWith(wants(BEARER, `bearer REALM="${REALM}?a=b"`), issues({ token: SECRETS.accessToken }));
    await pulls(world);
    expect(world.requests[1]?.url.search).toBe("?a=b&scope=repository%3Aapp%3Apull");
  });

  it("are used until shortly before their end, then fetched again", async () => {
    let issued = 0;
    const world = await worldWith(
      wants(() => `Bearer ${SECRETS.accessToken}${issued}`),
      issues(() => ({ token: `${SECRETS.accessToken}${++issued}`, expires_in: 300 })),
    );
    const source = world.open();
    await source.resolve("r.example/app:1");
    world.now += 289_000;
    await source.resolve("r.example/app:1");
    expect(issued).toBe(1);
    world.now += 1000;
    await source.resolve("r.example/app:1");
    expect(issued).toBe(2);
  });

  it.each([undefined, 5, -1, "soon"])("with the lifetime %j live for the minute that the protocol promises", async (expires) => {
    let issued = 0;
    const world = await worldWith(
      wants(() => `Bearer t${issued}`),
      issues(() => ({ token: `t${++issued}`, expires_in: expires })),
    );
    const source = world.open();
    await source.resolve("r.example/app:1");
    world.now += 49_000;
    await source.resolve("r.example/app:1");
    expect(issued).toBe(1);
  });

  it("that are refused in the middle are replaced, once per request", async () => {
    let good = `${SECRETS.accessToken}1`;
    let issued = 0;
    const world = await worldWith(
      wants(() => `Bearer ${good}`),
      issues(() => ({ token: `${SECRETS.accessToken}${++issued}`, expires_in: 9999 })),
    );
    const source = world.open();
    const image = await source.resolve("r.example/app:1");
    good = `${SECRETS.accessToken}2`;
    await pull(source, "r.example/app:1");
    expect(issued).toBe(2);
    good = "never";
    const before = world.requests.length;
    const error = await failureOf((async () => source.layerBlob(image.layers[0]!)[Symbol.asyncIterator]().next())());
    expect(error.code).toBe("ERR_OCI_AUTH");
    expect(world.requests.slice(before).map(({ url }) => url.host)).toEqual(["r.example", "auth.example", "r.example"]);
  });

  it("are fetched once for requests that need them at the same time", async () => {
    let issued = 0;
    const world = await worldWith(
      wants(BEARER),
      issues(() => (issued++, { token: SECRETS.accessToken })),
    );
    const source = world.open();
    await Promise.all([1, 2, 3].map(() => source.resolve("r.example/app:1")));
    expect(issued).toBe(1);
  });

  it("that were replaced while a request was on its way are not replaced again", async () => {
    let good = "first";
    const issued: string[] = [];
    const replaced = Promise.withResolvers<undefined>();
    let late = false;
    const world = await worldWith(
      // The second of two requests with the old token hears of it when the first has a new one already.
      ({ headers }) => {
        if (good !== "second" || headers.get("authorization") !== "Bearer first" || late) return undefined;
        late = true;
        return replaced.promise.then(() => challengeReply(CHALLENGE));
      },
      wants(() => `Bearer ${good}`),
      issues(() => (issued.push(good), { token: good, expires_in: 9999 })),
    );
    const source = world.open();
    await source.resolve("r.example/app:1");
    good = "second";
    const waiting = source.resolve("r.example/app:1");
    await source.resolve("r.example/app:1");
    replaced.resolve(undefined);
    await waiting;
    expect(issued).toEqual(["first", "second"]);
  });

  it("of one repository are not shown to another", async () => {
    const world = await worldWith(issues({ token: SECRETS.accessToken }), ({ headers, url }) =>
      headers.get("authorization") === null && url.host === "r.example" ? challengeReply(CHALLENGE) : undefined,
    );
    const source = world.open();
    await source.resolve("r.example/app:1");
    const before = world.requests.length;
    await source.resolve("r.example/team/app:1");
    expect(world.requests[before]?.headers.get("authorization")).toBeNull();
  });
});

describe("identity tokens", () => {
  const form = { grant_type: "refresh_token", refresh_token: SECRETS.refreshToken, client_id: "sealpod", service: "r.example", scope: "repository:app:pull" };

  it.each<readonly [string, object]>([
    ["from the file", { auths: { "r.example": { identitytoken: SECRETS.refreshToken } } }],
    ["that az acr login stored as a password", { auths: { "r.example": { auth: Buffer.from(`${NO_USER}:${SECRETS.refreshToken}`).toString("base64") } } }],
  ])("%s are exchanged by POST", async (_, login) => {
    const world = await worldWith(wants(BEARER), issues({ access_token: SECRETS.accessToken }));
    world.login(login);
    await pulls(world);
    const [, request] = world.requests;
    expect(request?.method).toBe("POST");
    expect(request?.url.href).toBe(REALM);
    expect(request?.headers.get("content-type")).toBe("application/x-www-form-urlencoded");
    expect(request?.headers.get("authorization")).toBeNull();
    expect(Object.fromEntries(new URLSearchParams(request?.body))).toEqual(form);
  });

  it("stored as a password are sent as one where there is no OAuth2", async () => {
    const password = `Basic ${Buffer.from(`${NO_USER}:${SECRETS.refreshToken}`).toString("base64")}`;
    const world = await worldWith(
      wants(BEARER),
      issues(({ method, headers }) =>
        method === "GET" && headers.get("authorization") === password ? { token: SECRETS.accessToken } : new Response(null, { status: 404 }),
      ),
    );
    world.login({ auths: { "r.example": { username: NO_USER, password: SECRETS.refreshToken } } });
    await pulls(world);
  });

  it("that are refused say so", async () => {
    const world = await worldWith(wants(BEARER), issues(errorReply(401, "UNAUTHORIZED", `bad ${SECRETS.refreshToken}`)));
    world.login({ auths: { "r.example": { identitytoken: SECRETS.refreshToken } } });
    const error = await fails(world);
    expect(error.code).toBe("ERR_OCI_AUTH");
    expect(error.message).toBe(
      "image r.example/app:1: the token service of registry r.example answered https://auth.example/token with status 401 (UNAUTHORIZED: bad ***)",
    );
    expect(error.hint).toContain("docker login r.example");
  });
});

describe("other logins", () => {
  it("registry tokens go to the registry as they are", async () => {
    const world = await worldWith(wants(`Bearer ${SECRETS.registryToken}`));
    world.login({ auths: { "r.example": { registrytoken: SECRETS.registryToken } } });
    await pulls(world);
    expect(new Set(world.requests.map(({ url }) => url.host))).toEqual(new Set(["r.example"]));
  });

  it("Basic is answered with the login, and not asked for again", async () => {
    const world = await worldWith(wants(BASIC, 'Basic realm="r"'));
    world.login(LOGIN);
    await pulls(world);
    expect(world.requests.filter(({ headers }) => headers.get("authorization") === null)).toHaveLength(1);
  });

  it("Bearer is preferred to Basic", async () => {
    const world = await worldWith(wants(BEARER, `Basic realm="r", ${CHALLENGE}`), issues({ token: SECRETS.accessToken }));
    world.login(LOGIN);
    await pulls(world);
  });

  it("nothing is read or run before a registry asks", async () => {
    const world = await worldWith();
    world.files.set("/home/user/.docker/config.json", new Error("must not be read"));
    await pulls(world);
    expect(world.requests.every(({ headers }) => !headers.has("authorization"))).toBe(true);
  });
});

describe("credential helpers", () => {
  const config = { credHelpers: { "r.example": "ecr-login" } };
  const secret = (username: string, value: string): { exitCode: number; stdout: string } => ({
    exitCode: 0,
    stdout: JSON.stringify({ Username: username, Secret: value }),
  });

  it("give the login, asked once while it is good", async () => {
    const world = await worldWith(wants(BASIC, "Basic"));
    world.login(config);
    world.helper = () => secret("user", SECRETS.password);
    const source = world.open();
    await pull(source, "r.example/app:1");
    await pull(source, "r.example/team/app:1");
    expect(world.helperCalls).toEqual(["ecr-login r.example"]);
  });

  it("are asked again when their login was refused", async () => {
    let valid = "first-secret";
    const world = await worldWith(wants(() => `Basic ${Buffer.from(`user:${valid}`).toString("base64")}`, "Basic"));
    world.login(config);
    world.helper = () => secret("user", valid);
    const source = world.open();
    await source.resolve("r.example/app:1");
    valid = "second-secret";
    await source.resolve("r.example/app:1");
    expect(world.helperCalls).toHaveLength(2);
  });

  it("may give identity tokens", async () => {
    const world = await worldWith(
      wants(BEARER),
      issues(({ method }) => (method === "POST" ? { access_token: SECRETS.accessToken } : challengeReply(null))),
    );
    world.login(config);
    world.helper = () => secret("<token>", SECRETS.refreshToken);
    await pulls(world);
  });

  it.each<readonly [string, { exitCode: number; stdout: string } | Error, RegExp | undefined]>([
    ["is missing", new Error("spawn docker-credential-ecr-login ENOENT"), /ENOENT/],
    ["fails", { exitCode: 1, stdout: SECRETS.password }, /exit code 1/],
    ["answers nonsense", { exitCode: 0, stdout: SECRETS.password }, /not one/],
    ["knows no login", { exitCode: 1, stdout: "credentials not found in native keychain\n" }, undefined],
  ])("one that %s is passed over", async (_, result, warning) => {
    const world = await worldWith(wants(BEARER), issues({ token: SECRETS.accessToken }));
    world.login(config);
    world.helper = () => result;
    await pulls(world);
    const warnings = world.logs.filter(({ level }) => level === "warn").map(({ text }) => text);
    if (warning === undefined) expect(warnings).toEqual([]);
    else expect(warnings).toEqual([expect.stringMatching(warning)]);
  });

  it("one that fails leaves the login of the file", async () => {
    const world = await worldWith(wants(BASIC, "Basic"));
    world.login({ ...LOGIN, credsStore: "desktop" });
    await pulls(world);
    expect(world.helperCalls).toEqual(["desktop r.example"]);
  });
});

describe("refusals", () => {
  it.each<readonly [string, string | null, string, RegExp]>([
    ["no challenge", null, "ERR_OCI_AUTH", /neither by Bearer nor by Basic/],
    ["a scheme of others", "Negotiate", "ERR_OCI_AUTH", /neither by Bearer nor by Basic/],
    ["a malformed header", 'Bearer realm="x', "ERR_OCI_REGISTRY", /WWW-Authenticate header is malformed/],
    ["no realm", 'Bearer service="x"', "ERR_OCI_REGISTRY", /no URL as realm/],
    ["a relative realm", 'Bearer realm="/token"', "ERR_OCI_REGISTRY", /no URL as realm/],
    ["a realm in plain HTTP", 'Bearer realm="http://auth.example/token"', "ERR_OCI_REGISTRY", /not https but http/],
    ["a realm that is a file", 'Bearer realm="file:///etc/passwd"', "ERR_OCI_REGISTRY", /not https but file/],
    ["a realm with a password", 'Bearer realm="https://a:b@auth.example/token"', "ERR_OCI_REGISTRY", /user name or password/],
    ["Basic without a login", "Basic", "ERR_OCI_AUTH", /status 401 \(UNAUTHORIZED: authentication required\)/],
  ])("%s", async (_, challenge, code, message) => {
    const world = await worldWith(wants("nothing", challenge), issues({ token: SECRETS.accessToken }));
    world.login(code === "ERR_OCI_REGISTRY" ? LOGIN : {});
    const error = await fails(world);
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
    expect(world.requests).toHaveLength(1);
  });

  it.each<readonly [string, object | Response, RegExp]>([
    ["no token", {}, /no token/],
    ["a token that is a number", { token: 5 }, /no token/],
    ["an array", [], /no token/],
    ["no JSON", new Response(SECRETS.accessToken), /no token/],
    ["an empty token", { token: "" }, /no header can carry/],
    ["a second header", { token: `${SECRETS.accessToken}\r\nX-Evil: 1` }, /no header can carry/],
    ["a space", { token: `a ${SECRETS.accessToken}` }, /no header can carry/],
    ["text outside of ASCII", { token: `${SECRETS.accessToken}é` }, /no header can carry/],
    ["a token of 17 KiB", { token: "x".repeat(17 * 1024) }, /too many/],
    ["a document of 100 KiB", { token: SECRETS.accessToken, more: "x".repeat(100_000) }, /more than 65536 bytes/],
    ["deep nesting", new Response(`{"token":"x","a":${"[".repeat(1000)}${"]".repeat(1000)}}`), /no token/],
    ["a redirect", new Response(null, { status: 302, headers: { location: "https://evil.example/" } }), /status 302/],
  ])("a token document with %s", async (_, document, message) => {
    const world = await worldWith(wants(BEARER), issues(document));
    world.login(LOGIN);
    const error = await fails(world);
    expect(error.code).toBe("ERR_OCI_REGISTRY");
    expect(error.message).toMatch(message);
    expect(world.requests.map(({ url }) => url.host)).toEqual(["r.example", "auth.example"]);
  });

  it("tell those with a login from those without", async () => {
    const denied: Handler = ({ url }) => (url.host === "r.example" ? errorReply(403, "DENIED", "requested access is denied") : undefined);
    const anonymous = await fails(await worldWith(denied));
    expect(anonymous.hint).toBe("Check the image's name. If the image is private, log in first with: docker login r.example");
    const world = await worldWith(({ headers }) => (headers.has("authorization") ? undefined : challengeReply("Basic")), denied);
    world.login(LOGIN);
    expect((await fails(world)).hint).toMatch(/^The stored login for r.example does not allow this/);
  });

  it("hide what the registry echoes", async () => {
    const world = await worldWith(
      wants(BEARER),
      issues(({ headers }) => errorReply(403, "DENIED", `you sent ${headers.get("authorization") ?? ""}\u001B[2J\n\u202Eand more`)),
    );
    world.login(LOGIN);
    const error = await fails(world);
    expect(error.message).toMatch(/\(DENIED: you sent Basic \*\*\* \[2J and more\)$/);
  });

  it("name Docker's file when it cannot be used", async () => {
    const world = await worldWith(wants(BEARER));
    world.files.set("/home/user/.docker/config.json", new Error("EACCES: permission denied"));
    expect(await fails(world)).toMatchObject({
      code: "ERR_OCI_CREDENTIALS",
      message: expect.stringContaining("/home/user/.docker/config.json cannot be read") as string,
    });
    world.login({ auths: [SECRETS.password] });
    expect((await fails(world)).message).toBe("Docker's configuration: /home/user/.docker/config.json: auths is not an object");
  });
});

describe("realms in plain HTTP", () => {
  const realm = (host: string): string => `Bearer realm="http://${host}/token"`;
  it.each<readonly [string, readonly string[], boolean]>([
    ["auth.example", [], false],
    ["auth.example", ["r.example"], true],
    ["auth.example", ["auth.example"], false],
    ["127.0.0.1:5001", [], true],
    ["localhost", [], true],
    ["[::1]:80", [], true],
    ["127.0.0.1.evil.example", [], false],
  ])("at %s with the insecure registries %j: %s", async (host, insecureRegistries, allowed) => {
    const world = await worldWith(({ url, headers }) => {
      if (url.pathname === "/token") return Response.json({ token: SECRETS.accessToken });
      return headers.has("authorization") ? undefined : challengeReply(realm(host));
    });
    world.login(LOGIN);
    const source = world.open({ insecureRegistries });
    if (allowed) expect(await pull(source, "r.example/app:1")).toEqual([TAR]);
    else expect((await failureOf(source.resolve("r.example/app:1"))).code).toBe("ERR_OCI_REGISTRY");
  });
});
