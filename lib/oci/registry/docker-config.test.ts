import { encodeUtf8 } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { DockerConfig, dockerConfigPath, parseHelperAnswer } from "./docker-config.ts";
import { SECRETS } from "./test-support.ts";

const base64 = (text: string): string => Buffer.from(text).toString("base64");
const auth = base64(`user:${SECRETS.password}`);
const basic = { kind: "basic", username: "user", password: SECRETS.password };

function lookup(config: unknown, host: string, repository = "team/app"): unknown {
  return new DockerConfig(encodeUtf8(typeof config === "string" ? config : JSON.stringify(config)), "/c.json").loginFor(host, repository);
}

describe("DockerConfig", () => {
  it.each<readonly [string, object, string, unknown]>([
    ["user and password", { "r.example": { auth } }, "r.example", basic],
    ["another registry's", { "q.example": { auth } }, "r.example", undefined],
    ["a registry with a port", { "r.example:5000": { auth } }, "r.example:5000", basic],
    ["the port decides", { "r.example:5000": { auth } }, "r.example", undefined],
    ["a URL", { "https://r.example": { auth } }, "r.example", basic],
    ["a URL with a path", { "https://r.example/v2/": { auth } }, "r.example", basic],
    ["upper case", { "R.Example": { auth } }, "r.example", basic],
    ["Docker Hub as Docker writes it", { "https://index.docker.io/v1/": { auth } }, "docker.io", basic],
    ["Docker Hub as Podman writes it", { "docker.io": { auth } }, "docker.io", basic],
    ["Docker Hub by its API", { "registry-1.docker.io": { auth } }, "docker.io", basic],
    ["separate fields", { "r.example": { username: "user", password: SECRETS.password } }, "r.example", basic],
    ["a password with colons", { "r.example": { auth: base64("u:a:b:c") } }, "r.example", { kind: "basic", username: "u", password: "a:b:c" }],
    ["padding of old files", { "r.example": { auth: base64("u:pass\0\0") } }, "r.example", { kind: "basic", username: "u", password: "pass" }],
    ["unpadded base64", { "r.example": { auth: base64("u:passw").replace(/=+$/, "") } }, "r.example", { kind: "basic", username: "u", password: "passw" }],
    ["an empty entry", { "r.example": {} }, "r.example", undefined],
    ["null", { "r.example": null }, "r.example", undefined],
    [
      "az acr login",
      { "r.example": { auth: base64("00000000-0000-0000-0000-000000000000:"), identitytoken: SECRETS.refreshToken } },
      "r.example",
      { kind: "identity", token: SECRETS.refreshToken },
    ],
    [
      "az acr login with the token as a password",
      { "r.example": { auth: base64(`00000000-0000-0000-0000-000000000000:${SECRETS.refreshToken}`) } },
      "r.example",
      { kind: "identity", token: SECRETS.refreshToken, basic: { username: "00000000-0000-0000-0000-000000000000", password: SECRETS.refreshToken } },
    ],
    ["a registry token", { "r.example": { auth, registrytoken: SECRETS.registryToken } }, "r.example", { kind: "bearer", token: SECRETS.registryToken }],
    ["the namespace's own", { "r.example": { auth: base64("a:1") }, "r.example/team": { auth } }, "r.example", basic],
    ["the longest namespace", { "r.example/team/app": { auth }, "r.example/team": { auth: base64("a:1") } }, "r.example", basic],
    ["no other namespace's", { "r.example/tea": { auth } }, "r.example", undefined],
    ["the plain host over a URL", { "r.example": { auth }, "https://r.example/": { auth: base64("a:1") } }, "r.example", basic],
  ])("finds %s", (_, auths, host, stored) => {
    expect(lookup({ auths }, host)).toEqual({ helper: undefined, stored });
  });

  it("asks the registry's helper, else the store, by the name that Docker uses", () => {
    const config = { credHelpers: { "r.example": "ecr-login", "docker.io": "" }, credsStore: "desktop", auths: {} };
    expect(lookup(config, "r.example")).toMatchObject({ helper: { name: "ecr-login", server: "r.example" } });
    expect(lookup(config, "q.example")).toMatchObject({ helper: { name: "desktop", server: "q.example" } });
    expect(lookup(config, "docker.io")).toMatchObject({ helper: { name: "desktop", server: "https://index.docker.io/v1/" } });
    expect(lookup({}, "r.example")).toEqual({ helper: undefined, stored: undefined });
    expect(lookup(config, "constructor")).toMatchObject({ helper: { name: "desktop" } });
    expect(lookup({}, "constructor")).toEqual({ helper: undefined, stored: undefined });
  });

  it.each<readonly [string, unknown, string]>([
    ["no JSON", "{", "/c.json:1:2: a name in double quotes expected"],
    ["an array", [], "/c.json: the document is not an object"],
    ["auths", { auths: [] }, "/c.json: auths is not an object"],
    ["an entry", { auths: { "r.example": SECRETS.password } }, '/c.json: auths["r.example"] is not an object'],
    ["auth", { auths: { "r.example": { auth: 5 } } }, '/c.json: auths["r.example"].auth is not text'],
    ["base64", { auths: { "r.example": { auth: `${SECRETS.password}!` } } }, '/c.json: auths["r.example"].auth is not base64'],
    ["a colon", { auths: { "r.example": { auth: base64(SECRETS.password) } } }, '/c.json: auths["r.example"].auth is not base64 of user:password'],
    ["helpers", { credHelpers: { "r.example": "../../bin/sh" } }, '/c.json: credHelpers["r.example"] is not the name of a credential helper'],
    ["a store", { credsStore: "a b" }, "/c.json: credsStore is not the name of a credential helper"],
    ["a store's type", { credsStore: {} }, "/c.json: credsStore is not text"],
    ["a name twice", '{"auths":{},"auths":{}}', '/c.json:1:20: duplicate name "auths"'],
  ])("refuses a wrong %s, by its place and not its text", (_, config, message) => {
    const error = (() => {
      try {
        return lookup(config, "r.example");
      } catch (thrown) {
        return thrown;
      }
    })() as Error;
    expect(error).toMatchObject({ code: "ERR_OCI_CREDENTIALS", message: `Docker's configuration: ${message}` });
    expect(JSON.stringify(error, Object.getOwnPropertyNames(error))).not.toContain(SECRETS.password);
  });
});

describe("parseHelperAnswer", () => {
  it.each<readonly [string, unknown]>([
    [JSON.stringify({ ServerURL: "x", Username: "user", Secret: SECRETS.password }), basic],
    [JSON.stringify({ Username: "<token>", Secret: SECRETS.refreshToken }), { kind: "identity", token: SECRETS.refreshToken }],
    [JSON.stringify({ Username: "", Secret: "x" }), undefined],
    [JSON.stringify({ Username: "u", Secret: "" }), undefined],
    [JSON.stringify({ Username: "u" }), undefined],
    ["credentials", undefined],
    ["[]", undefined],
    ["", undefined],
    [`{"Username":"u","Secret":"${"x".repeat(2_000_000)}"}`, undefined],
  ])("reads %.60s", (stdout, expected) => {
    expect(parseHelperAnswer(stdout)).toEqual(expected);
  });
});

it("dockerConfigPath follows DOCKER_CONFIG, else the home directory", () => {
  expect(dockerConfigPath(undefined, "/home/u")).toBe("/home/u/.docker/config.json");
  expect(dockerConfigPath("", "/home/u")).toBe("/home/u/.docker/config.json");
  expect(dockerConfigPath("/etc/d", "/home/u")).toBe("/etc/d/config.json");
});
