import { verify } from "node:crypto";
import { asObject, decodeUtf8, encodeUtf8, fromBase64url, isSealpodError, messageOf, parseJson, type Clock, type JsonObject } from "@sealpod/core";
import type { IdentityStore } from "@sealpod/identity";

/** Audience of tokens for the management of the attestation service: what the genuine clients ask for. */
export const ATTESTATION_RESOURCE = "https://attest.azure.net";

/** Access tokens of the laptop have below 2 KiB. */
const MAX_TOKEN: number = 16 * 1024;

/** Whose tokens are judged. */
export interface OwnerTokensOptions {
  readonly identities: Pick<IdentityStore, "signingKeys">;
  /** `iss` of the tenant's access tokens. */
  readonly issuer: string;
  /** Application of the owner of this laptop. */
  readonly ownerClientId: string;
  readonly clock: Clock;
}

/** What came of looking at a token. */
export type OwnerVerdict =
  | { readonly kind: "allowed"; readonly subject: string }
  | { readonly kind: "refused"; readonly problem: string }
  | { readonly kind: "forbidden"; readonly subject: string; readonly problem: string };

/** Lets the owner of the laptop manage its services, with access tokens of the laptop's own identity service. */
export class OwnerTokens {
  readonly #options: OwnerTokensOptions;

  constructor(options: OwnerTokensOptions) {
    this.#options = options;
  }

  /** @param resources audiences of which the token has to have one */
  judge(token: string, resources: readonly string[]): OwnerVerdict {
    return judge(this.#options, token, resources);
  }
}

function judge({ identities, issuer, ownerClientId, clock }: OwnerTokensOptions, token: string, resources: readonly string[]): OwnerVerdict {
  const refused = (problem: string): OwnerVerdict => ({ kind: "refused", problem });
  const [header64, payload64, signature64, ...rest] = token.length > MAX_TOKEN ? [] : token.split(".");
  if (header64 === undefined || payload64 === undefined || signature64 === undefined || rest.length > 0) return refused("it is not a JSON Web Token");
  let claims: JsonObject;
  try {
    const header = parseObject(header64);
    if (header["alg"] !== "RS256" || "crit" in header) return refused("its algorithm is not RS256, or it asks for an extension");
    const key = identities.signingKeys("tenant").find(({ kid }) => kid === header["kid"]);
    if (key === undefined) return refused("its key is not one of the tenant's");
    if (!verify("sha256", encodeUtf8(`${header64}.${payload64}`), key.publicKey, fromBase64url(signature64))) return refused("its signature does not verify");
    claims = parseObject(payload64);
  } catch (error) {
    if (!isSealpodError(error)) throw error;
    return refused(messageOf(error));
  }
  const { iss, aud, exp, nbf, appid } = claims;
  const now = clock.now() / 1000;
  if (iss !== issuer) return refused(`its issuer is not ${issuer}`);
  if (typeof aud !== "string" || !resources.includes(aud)) return refused(`its audience is not ${resources.join(" or ")}`);
  if (typeof exp !== "number" || exp <= now || typeof nbf !== "number" || nbf > now) return refused("it is not, or no longer, in its time");
  if (appid === ownerClientId) return { kind: "allowed", subject: `application ${ownerClientId}` };
  return { kind: "forbidden", subject: `application ${typeof appid === "string" ? appid : "unknown"}`, problem: "only the laptop's owner may" };
}

function parseObject(part: string): JsonObject {
  return asObject(parseJson(decodeUtf8(fromBase64url(part)), "token", { maxLength: MAX_TOKEN, maxDepth: 8 })) ?? {};
}
