import { beforeAll, describe, expect, it } from "vitest";
import { parseAllowedStores, restrictedTo } from "./allowed-stores.ts";
import { createSkr } from "./app.ts";
import { kbsBackend } from "./kbs/index.ts";
import { azureBackend } from "./key-release.ts";
import { call, MAA, VAULT, World } from "./testdata/world.ts";

describe("SkrAllowedStores", () => {
  it.each<[string | undefined, string, boolean]>([
    [undefined, "thief.example", true],
    ["", "thief.example", true],
    ["demo.vault.test", "demo.vault.test", true],
    ["demo.vault.test", "DEMO.vault.test:443", true],
    ["Demo.Vault.Test:443", "demo.vault.test", true],
    ["demo.vault.test", "demo.vault.test:8443", false],
    ["demo.vault.test:8443", "demo.vault.test:8443", true],
    ["demo.vault.test:8443", "demo.vault.test", false],
    ["demo.vault.test", "thief.example", false],
    ["demo.vault.test", "x.demo.vault.test", false],
    ["demo.vault.test", "demo.vault.test.thief.example", false],
    ["a.test,  *.vault.test\n,", "demo.vault.test", true],
    ["*.vault.test", "a.b.vault.test", false],
    ["*.vault.test", "vault.test", false],
    ["*.vault.test", "evilvault.test", false],
    ["kbs.test:8443", "kbs+https://KBS.test:8443", true],
    ["kbs.test", "kbs+https://kbs.test/", true],
    ["kbs.test", "kbs+https://thief.example", false],
    ["10.0.0.5", "10.0.0.5", true],
  ])("%j and store %s: %s", (value, endpoint, expected) => {
    expect(parseAllowedStores({ SkrAllowedStores: value })(endpoint)).toBe(expected);
  });

  it.each([
    ",",
    "*",
    "*.*.test",
    "https://demo.vault.test",
    "demo.vault.test/x",
    "a..test",
    "demo.vault.test:123456",
    "u@a.test",
    "é.test",
    Array(65).fill("a.test").join(),
  ])("%j is none", (value) => {
    expect(() => parseAllowedStores({ SkrAllowedStores: value })).toThrow(expect.objectContaining({ code: "ERR_SKR_CONFIGURATION" }));
  });

  let world: World;
  beforeAll(async () => {
    world = await World.make();
  });

  it("keeps evidence and access tokens from other stores", async () => {
    const ports = world.ports();
    const allowed = parseAllowedStores({ SkrAllowedStores: VAULT });
    const skr = createSkr(
      ports,
      [kbsBackend(), azureBackend(ports)].map((backend) => restrictedTo(allowed, backend)),
    );
    for (const akv_endpoint of ["thief.example", "kbs+https://thief.example"]) {
      const answer = await call(skr, "/key/release", { maa_endpoint: MAA, akv_endpoint, kid: akv_endpoint.startsWith("kbs") ? "default/key/k" : "k" });
      expect(answer).toMatchObject({ status: 400, body: { error: expect.stringMatching(/is not among the key stores.*SkrAllowedStores/) } });
    }
    expect(world.requests).toEqual([]);
    expect((await call(skr, "/key/release", { maa_endpoint: MAA, akv_endpoint: VAULT, kid: "k" })).status).toBe(200);
  });
});
