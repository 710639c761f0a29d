import { createRemoteJWKSet, customFetch, decodeJwt, errors, jwtVerify, type JWTPayload } from "jose";
import { asArray, asObject, concatBytes, decodeUtf8, messageOf, parseJson, type Clock } from "@sealpod/core";
import { openOperatorToken } from "@sealpod/service";
import type { ManagementAccess, ManagementVerdict } from "./management.ts";
import type { AttestationSettings, ManagementIssuer } from "./server-settings.ts";

/** What tokens are for if only a token file is configured. */
const NO_AUTHORITY = "urn:sealpod:operator";
/** Milliseconds. A key set that does not come within it fails the request. */
const KEYS_TIME = 5000;
/** Milliseconds for which an issuer whose keys did not come is not asked again: tokens that anybody can invent would aim this service at it. */
const KEYS_COOLDOWN = 30_000;
/** Bytes of a key set: a genuine one has ten keys with their chains, some 60 KiB. */
const MAX_KEYS = 1024 * 1024;

/**
 * Who may manage policies, as configured; undefined if nobody may.
 * @throws {ServiceError} ERR_SERVICE_CONFIG for a token file that is no use or that others can read
 */
export async function openManagement(
  management: AttestationSettings["management"],
  { clock, fetch }: { readonly clock: Clock; readonly fetch: (url: string, init: RequestInit) => Promise<Response> },
): Promise<ManagementAccess | undefined> {
  const { tokenFile, issuers } = management;
  if (tokenFile === undefined && issuers.length === 0) return undefined;
  const isOperator = tokenFile === undefined ? undefined : await openOperatorToken(tokenFile);
  const known = new Map(
    issuers.map((entry) => [
      entry.issuer,
      { entry, keys: createRemoteJWKSet(new URL(entry.keys), { timeoutDuration: KEYS_TIME, [customFetch]: sparingFetch(fetch, clock) }) },
    ]),
  );
  return {
    authority: management.authority ?? issuers[0]?.issuer ?? NO_AUTHORITY,
    ...(issuers[0] === undefined ? {} : { resource: issuers[0].audience }),
    async authenticate(token) {
      if (isOperator?.(token) === true) return { kind: "allowed", subject: "operator" };
      const issuer = issuerOf(token);
      const found = issuer === undefined ? undefined : known.get(issuer);
      if (found === undefined) return { kind: "refused", problem: "the token is of no issuer that this service accepts" };
      return verdict(token, found.entry, found.keys, clock);
    },
  };
}

async function verdict(token: string, entry: ManagementIssuer, keys: ReturnType<typeof createRemoteJWKSet>, clock: Clock): Promise<ManagementVerdict> {
  let payload: JWTPayload;
  try {
    ({ payload } = await jwtVerify(token, keys, {
      issuer: entry.issuer,
      audience: entry.audience,
      algorithms: ["RS256", "PS256", "ES256", "ES384"],
      requiredClaims: ["exp"],
      currentDate: new Date(clock.now()),
    }));
  } catch (error) {
    // A key set that does not come is the service's trouble, not the token's.
    if (!(error instanceof errors.JOSEError)) throw error;
    return { kind: "refused", problem: messageOf(error) };
  }
  const ids = holderIds(payload);
  const subject = ids.find((id) => entry.subjects.includes(id));
  if (subject !== undefined) return { kind: "allowed", subject };
  return { kind: "forbidden", subject: ids[0] ?? "nobody", problem: "the token is accepted, and its holder is not among those who manage this service" };
}

/**
 * The names of who a token is for: `oid`, or `sub` where there is none; and of an app that acts for itself also `appid` or `azp`. In a user's token these name the app by
 * which the user came: any user of it would be let in with it.
 *
 * For itself acts an app whose token has no `scp` (what a user delegated), and says so (`idtyp` "app"), or says nothing and has nobody else as subject: in Entra's tokens
 * for apps `sub` is `oid`, in those for users the two differ; of other issuers `sub` is the app, or is not there.
 */
function holderIds(payload: JWTPayload): readonly string[] {
  const { oid, sub, idtyp, scp, appid, azp } = payload;
  const own = oid === undefined ? sub : oid;
  const isOwnSubject = oid === undefined ? sub === undefined || sub === (appid ?? azp) : sub === oid;
  const isApp = scp === undefined && (idtyp === "app" || (idtyp === undefined && isOwnSubject));
  const ids = isApp ? [own, appid, azp] : [own];
  return ids.filter((id) => typeof id === "string");
}

/**
 * `fetch` for a key set, that fails for a while as it failed last, without asking again. Success does not pass through here twice in vain: of keys that have come, jose has a
 * cooldown of its own.
 */
function sparingFetch(fetch: (url: string, init: RequestInit) => Promise<Response>, clock: Clock): (url: string, init: RequestInit) => Promise<Response> {
  let failure: { readonly at: number; readonly problem: string } | undefined;
  return async (url, init) => {
    // A clock that was set back must not keep a failure for ever, hence the absolute value.
    if (failure !== undefined && Math.abs(clock.now() - failure.at) < KEYS_COOLDOWN) throw new Error(`${failure.problem} (not asked again so soon)`);
    try {
      const keys = await keySet(await fetch(url, init));
      failure = undefined;
      return keys;
    } catch (cause) {
      failure = { at: clock.now(), problem: `the keys of ${new URL(url).host} cannot be fetched: ${messageOf(cause)}` };
      throw new Error(failure.problem, { cause });
    }
  };
}

/** The same answer once it is known to be a key set: jose takes it from there. */
async function keySet(response: Response): Promise<Response> {
  if (response.status !== 200) {
    await response.body?.cancel();
    throw new Error(`status ${response.status}, expected 200`);
  }
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of response.body ?? []) {
    length += chunk.length;
    if (length > MAX_KEYS) throw new Error(`more than ${MAX_KEYS} bytes`);
    chunks.push(chunk);
  }
  const text = decodeUtf8(concatBytes(...chunks), "the key set");
  if (asArray(asObject(parseJson(text, "the key set"))?.["keys"])?.every((key) => asObject(key) !== undefined) !== true) throw new Error("not a key set");
  return new Response(text);
}

function issuerOf(token: string): string | undefined {
  try {
    return decodeJwt(token).iss;
  } catch {
    return undefined;
  }
}
