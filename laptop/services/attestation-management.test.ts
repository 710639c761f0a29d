import { createHmac, generateKeyPairSync, sign } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { encodeUtf8, toBase64url } from "@sealpod/core";
import { openIdentityStore, type IdentityStore } from "@sealpod/identity";
import { systemRandom } from "@sealpod/io";
import { ATTESTATION_RESOURCE, laptopManagement } from "./attestation-management.ts";

const NOW = Date.UTC(2026, 0, 15);
const ISSUER = "https://login.test/tenant/v2.0";
const OWNER = "11111111-2222-4333-8444-555555555555";
const clock = { now: () => NOW };

let identities: IdentityStore;
beforeAll(async () => {
  identities = await openIdentityStore({ file: ":memory:", masterKey: new Uint8Array(32).fill(1), clock, random: systemRandom });
});
afterAll(() => {
  identities.close();
});

const part = (value: object): string => toBase64url(encodeUtf8(JSON.stringify(value)));
const CLAIMS = { iss: ISSUER, aud: ATTESTATION_RESOURCE, appid: OWNER, nbf: NOW / 1000, exp: NOW / 1000 + 600 };
function token(claims: object = {}, header: object = {}): string {
  const [key] = identities.signingKeys("tenant");
  const input = `${part({ alg: "RS256", kid: key.kid, typ: "JWT", ...header })}.${part({ ...CLAIMS, ...claims })}`;
  return `${input}.${toBase64url(sign("sha256", encodeUtf8(input), key.privateKey))}`;
}
const judge = async (bearer: string): Promise<unknown> =>
  laptopManagement({ identities, issuer: ISSUER, authority: "https://login.test/tenant", ownerClientId: OWNER, clock }).authenticate(bearer);

describe("laptopManagement", () => {
  it("lets the owner in", async () => {
    expect(await judge(token())).toEqual({ kind: "allowed", subject: `application ${OWNER}` });
  });

  it("knows others, and keeps them out", async () => {
    expect(await judge(token({ appid: "other" }))).toMatchObject({ kind: "forbidden", subject: "application other" });
    expect(await judge(token({ appid: undefined }))).toMatchObject({ kind: "forbidden" });
  });

  const refused: readonly (readonly [string, () => string])[] = [
    ["of another audience", () => token({ aud: "https://vault.azure.net" })],
    ["of several audiences", () => token({ aud: [ATTESTATION_RESOURCE] })],
    ["of another issuer", () => token({ iss: `${ISSUER}/` })],
    ["that has expired", () => token({ exp: NOW / 1000 })],
    ["that never expires", () => token({ exp: undefined })],
    ["that is not valid yet", () => token({ nbf: NOW / 1000 + 1 })],
    ["without algorithm", () => `${part({ alg: "none", kid: identities.signingKeys("tenant")[0].kid })}.${part(CLAIMS)}.`],
    ["with an extension", () => token({}, { crit: ["x"] })],
    ["of an unknown key", () => token({}, { kid: "x" })],
    ["of the cluster", () => token({}, { kid: identities.signingKeys("cluster")[0].kid })],
    ["with a changed claim", () => token().replace(/\.[^.]*\./, `.${part({ ...CLAIMS, appid: OWNER, admin: true })}.`)],
    [
      "with an HMAC of the public key",
      () => {
        const [key] = identities.signingKeys("tenant");
        const input = `${part({ alg: "HS256", kid: key.kid })}.${part(CLAIMS)}`;
        return `${input}.${createHmac("sha256", key.publicKey.export({ type: "spki", format: "pem" }))
          .update(input)
          .digest("base64url")}`;
      },
    ],
    [
      "of a stranger's key",
      () => {
        const input = token().split(".").slice(0, 2).join(".");
        return `${input}.${sign("sha256", encodeUtf8(input), generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey).toString("base64url")}`;
      },
    ],
    ["that is none", () => "admin"],
    ["with four parts", () => `${token()}.x`],
    ["whose header is no JSON", () => `e30x.${part(CLAIMS)}.AA`],
    ["that is endless", () => "a.".repeat(100_000)],
  ];
  it.each(refused)("refuses a token %s", async (_what, make) => {
    expect(await judge(make())).toMatchObject({ kind: "refused" });
  });
});
