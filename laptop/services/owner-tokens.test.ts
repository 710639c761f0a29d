import { createHmac, generateKeyPairSync, sign } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { encodeUtf8, toBase64url } from "@sealpod/core";
import { openIdentityStore, type IdentityStore } from "@sealpod/identity";
import { systemRandom } from "@sealpod/io";
import { ATTESTATION_RESOURCE, OwnerTokens, type OwnerVerdict } from "./owner-tokens.ts";

const NOW = Date.UTC(2026, 0, 15);
const ISSUER = "https://login.test/tenant/v2.0";
const OWNER = "11111111-2222-4333-8444-555555555555";
const clock = { now: () => NOW };

let identities: IdentityStore;
beforeAll(async () => {
  identities = await openIdentityStore({ url: ":memory:", masterKey: new Uint8Array(32).fill(1), clock, random: systemRandom });
});
afterAll(async () => identities.close());

const part = (value: object): string => toBase64url(encodeUtf8(JSON.stringify(value)));
const CLAIMS = { iss: ISSUER, aud: ATTESTATION_RESOURCE, appid: OWNER, nbf: NOW / 1000, exp: NOW / 1000 + 600 };
function token(claims: object = {}, header: object = {}): string {
  const [key] = identities.signingKeys("tenant");
  const input = `${part({ alg: "RS256", kid: key.kid, typ: "JWT", ...header })}.${part({ ...CLAIMS, ...claims })}`;
  return `${input}.${toBase64url(sign("sha256", encodeUtf8(input), key.privateKey))}`;
}
const judge = (bearer: string, resources: readonly string[] = [ATTESTATION_RESOURCE]): OwnerVerdict =>
  new OwnerTokens({ identities, issuer: ISSUER, ownerClientId: OWNER, clock }).judge(bearer, resources);

describe("OwnerTokens", () => {
  it("lets the owner in", () => {
    expect(judge(token())).toEqual({ kind: "allowed", subject: `application ${OWNER}` });
  });

  it("knows others, and keeps them out", () => {
    expect(judge(token({ appid: "other" }))).toMatchObject({ kind: "forbidden", subject: "application other" });
    expect(judge(token({ appid: undefined }))).toMatchObject({ kind: "forbidden" });
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
  it.each(refused)("refuses a token %s", (_what, make) => {
    expect(judge(make())).toMatchObject({ kind: "refused" });
  });
});
