import { createPublicKey, X509Certificate, type KeyObject } from "node:crypto";
import {
  asArray,
  asObject,
  concatBytes,
  decodeUtf8,
  encodeJson,
  fromBase64,
  messageOf,
  parseJson,
  type Clock,
  type JsonObject,
  type JsonValue,
} from "@sealpod/core";
import { trimSlash } from "@sealpod/release-policy";
import { KeyvaultError } from "./errors.ts";
import { TokenMemory } from "./token-memory.ts";

export { trimSlash } from "@sealpod/release-policy";

/** The part of `fetch` that is used. */
export type Fetch = (url: string, init: RequestInit) => Promise<Response>;

/**
 * Who vouches for what: the issuers of callers' access tokens are configured by who runs the service; the authorities of attestation tokens come from release policies, which any
 * importer of a key writes. They are kept apart: no number of authorities pushes out the keys without which nobody can call.
 */
export type IssuerRole = "caller" | "authority";

/** Proven: it is configured, or keys of it were had. */
type Standing = "proven" | "unproven";

/** For whom keys are looked up. */
export interface IssuerUse {
  readonly role: IssuerRole;
  /**
   * The vault whose release policy names an authority. What is known of authorities, and the fetches under way, are each vault's own: whoever may import keys into one vault can name
   * authorities that never answer, or thousands that do, and holds up no other's releases.
   */
  readonly vault?: string | undefined;
}

/** Milliseconds. Keys older than this are not used, so that a key its issuer has withdrawn stops counting. */
const MAX_AGE = 60 * 60 * 1000;
/** Keys older than this are fetched again while they are in use, so that an issuer may be down for half an hour before anybody notices. */
const REFRESH_AGE = MAX_AGE / 2;
/** An unknown `kid` makes a fetch, at most one in this time: otherwise invented kids would aim this service at the issuer. */
const MIN_REFETCH = 10 * 1000;
/** Time without another attempt after one that failed, and its double after each more, up to the second. Meanwhile the failure is the answer, at once. */
const BACKOFF = { first: 1000, last: 60 * 1000 };
/** How many issuers are remembered, and how many fetches of them may be under way. */
interface Limits {
  readonly kept: number;
  readonly fetching: number;
}

/** For callers' issuers. They are as many as are configured; this is for the case that somebody configures without measure. */
const CALLER_LIMITS: Limits = { kept: 1024, fetching: 32 };
/**
 * For the authorities of one vault, those of which keys were had and those of which none ever were: what has never answered may never do so, and neither pushes out nor stands in the
 * way of what has. Vaults are configured, so that their number bounds all of them together.
 */
const AUTHORITY_LIMITS: Readonly<Record<Standing, Limits>> = { proven: { kept: 32, fetching: 8 }, unproven: { kept: 16, fetching: 4 } };
/** An issuer of Azure publishes about ten keys with their chains, some 60 KiB. */
const MAX_DOCUMENT = 1024 * 1024;
const MAX_KEYS = 100;
/** Milliseconds for both documents together. An issuer that is configured, or has answered before, may have a bad day; any other holds up those behind it. */
const FETCH_TIMEOUT: Readonly<Record<Standing, number>> = { proven: 10_000, unproven: 5000 };
/** RFC 7518 section 3.3; more than the upper bound is a way to burn our time. */
const RSA_BITS = { least: 2048, most: 8192 };

interface Keys {
  readonly fetched: number;
  readonly keys: ReadonlyMap<string, KeyObject>;
}

interface IssuerState {
  readonly base: string;
  readonly role: IssuerRole;
  current: Keys | undefined;
  pending: Promise<Keys> | undefined;
  /** Since the last success. */
  failures: number;
  failed: number;
  problem: KeyvaultError | undefined;
}

/** Some issuers that compete with one another, and with no others. The first of the map is the one that was not used for longest. */
interface Room {
  readonly limits: Limits;
  readonly issuers: Map<string, IssuerState>;
  fetching: number;
}

/** Those of one vault, or of all callers. */
type Space = Readonly<Record<Standing, Room>>;

/** Fetches and keeps the public keys of token issuers: OpenID discovery, then the JWKS it names. */
export class IssuerKeys {
  /** Access tokens whose signature was verified with one of these keys. */
  readonly memory: TokenMemory = new TokenMemory();
  readonly #fetch: Fetch;
  readonly #clock: Clock;
  readonly #callers: Space = newSpace(CALLER_LIMITS, CALLER_LIMITS);
  /** By vault. */
  readonly #authorities = new Map<string, Space>();
  #waits = 0;

  /** @param fetch must verify TLS: that and the issuer's name are all that vouches for the keys */
  constructor(fetch: Fetch, clock: Clock) {
    this.#fetch = fetch;
    this.#clock = clock;
  }

  /** How often somebody began to wait for an issuer. While it stays the same, what is read and decided upon is of one moment. */
  get waits(): number {
    return this.#waits;
  }

  /**
   * The RSA key with this `kid`; an unknown `kid` makes the keys be fetched again, because issuers roll their keys over.
   * @param issuer an https URL, with or without trailing slash
   * @returns undefined if the issuer has no such key; the same object for the same key until the keys are fetched again
   * @throws {KeyvaultError} ERR_KEYVAULT_ISSUER when that cannot be known; its message may name addresses, and is for those who run the service
   */
  async find(issuer: string, kid: string, use: IssuerUse): Promise<KeyObject | undefined> {
    const base = trimSlash(issuer);
    const now = this.#clock.now();
    const space = this.#spaceOf(use);
    const state = stateOf(space, base, use.role);
    // A clock that was set back must not keep keys for ever, hence the absolute values.
    const age = state.current === undefined ? Number.POSITIVE_INFINITY : Math.abs(now - state.current.fetched);
    const mayFetch = state.failures === 0 || Math.abs(now - state.failed) >= Math.min(BACKOFF.first * 2 ** (state.failures - 1), BACKOFF.last);
    if (state.current !== undefined && age <= MAX_AGE) {
      const key = state.current.keys.get(kid);
      if (key !== undefined) {
        // Nobody waits for it; what it throws is kept in the state.
        if (age > REFRESH_AGE && mayFetch) this.#refresh(space, state).catch(() => undefined);
        return key;
      }
      if (age < MIN_REFETCH) return undefined;
    }
    if (!mayFetch && state.pending === undefined && state.problem !== undefined) throw state.problem;
    this.#waits++;
    return (await this.#refresh(space, state)).keys.get(kid);
  }

  #spaceOf({ role, vault = "" }: IssuerUse): Space {
    if (role === "caller") return this.#callers;
    const space = this.#authorities.get(vault) ?? newSpace(AUTHORITY_LIMITS.proven, AUTHORITY_LIMITS.unproven);
    this.#authorities.set(vault, space);
    return space;
  }

  async #refresh(space: Space, state: IssuerState): Promise<Keys> {
    if (state.pending !== undefined) return state.pending;
    const standing = standingOf(state);
    const room = space[standing];
    // Not a failure of this issuer, which was not asked: nothing of it is remembered.
    if (room.fetching >= room.limits.fetching) throw issuerError(state.base, `${room.fetching} other issuers are being asked already`);
    keep(room, state);
    room.fetching++;
    state.pending = this.#load(space, state, standing).finally(() => {
      room.fetching--;
      state.pending = undefined;
    });
    return state.pending;
  }

  async #load(space: Space, state: IssuerState, standing: Standing): Promise<Keys> {
    try {
      state.current = await this.#fetchKeys(state.base, state.role, FETCH_TIMEOUT[standing]);
      state.failures = 0;
      state.problem = undefined;
      space.unproven.issuers.delete(state.base);
      keep(space.proven, state);
      return state.current;
    } catch (error) {
      const problem = error instanceof KeyvaultError ? error : issuerError(state.base, messageOf(error), error);
      state.failures++;
      state.failed = this.#clock.now();
      state.problem = problem;
      throw problem;
    }
  }

  async #fetchKeys(base: string, role: IssuerRole, timeout: number): Promise<Keys> {
    const fetched = this.#clock.now();
    const signal = AbortSignal.timeout(timeout);
    const { issuer, jwks_uri: jwksUri } = await this.#fetchJson(base, `${base}/.well-known/openid-configuration`, signal);
    // OpenID Connect Discovery section 4.3: a configuration that names another issuer belongs to that one. Some issuers leave it out.
    if (issuer !== undefined && (typeof issuer !== "string" || trimSlash(issuer) !== base)) {
      throw issuerError(base, `its OpenID configuration names the issuer ${encodeJson(issuer).slice(0, 200)}`);
    }
    if (typeof jwksUri !== "string") throw issuerError(base, "its OpenID configuration has no jwks_uri");
    // An importer can name an authority of their own. What that one answers must not aim this service at others: attestation services keep their keys by themselves.
    if (role === "authority" && !(URL.canParse(jwksUri) && new URL(jwksUri).origin === new URL(base).origin)) {
      throw issuerError(base, `its jwks_uri ${JSON.stringify(jwksUri.slice(0, 200))} is on another host`);
    }
    return { fetched, keys: parseJwks(base, await this.#fetchJson(base, jwksUri, signal)) };
  }

  async #fetchJson(base: string, url: string, signal: AbortSignal): Promise<JsonObject> {
    if (!URL.canParse(url) || new URL(url).protocol !== "https:") throw issuerError(base, `${url.slice(0, 200)} is not an https URL`);
    try {
      // A redirect could lead from the name in the policy to any other, http included.
      const response = await this.#fetch(url, { redirect: "error", headers: { accept: "application/json" }, signal });
      if (response.status !== 200) {
        await response.body?.cancel();
        throw issuerError(base, `${url} answered ${response.status}`);
      }
      const document = asObject(parseJson(decodeUtf8(await readLimited(response), url), url));
      if (document === undefined) throw issuerError(base, `${url} is not a JSON object`);
      return document;
    } catch (cause) {
      if (cause instanceof KeyvaultError) throw cause;
      throw issuerError(base, `${url}: ${describeFailure(cause)}`, cause);
    }
  }
}

function newSpace(proven: Limits, unproven: Limits): Space {
  return {
    proven: { limits: proven, issuers: new Map(), fetching: 0 },
    unproven: { limits: unproven, issuers: new Map(), fetching: 0 },
  };
}

/** What is known of an issuer; one of which nothing is known is kept only once it is asked. */
function stateOf({ proven, unproven }: Space, base: string, role: IssuerRole): IssuerState {
  for (const { issuers } of [proven, unproven]) {
    const state = issuers.get(base);
    if (state === undefined) continue;
    issuers.delete(base);
    issuers.set(base, state);
    return state;
  }
  return { base, role, current: undefined, pending: undefined, failures: 0, failed: 0, problem: undefined };
}

function standingOf({ role, current }: IssuerState): Standing {
  return role === "caller" || current !== undefined ? "proven" : "unproven";
}

/** Puts an issuer among those of its standing, and another one out if they are too many. Those that are being asked stay, and are fewer than all. */
function keep({ issuers, limits }: Room, state: IssuerState): void {
  issuers.set(state.base, state);
  if (issuers.size <= limits.kept) return;
  const out = [...issuers.values()].find((other) => other !== state && other.pending === undefined);
  if (out !== undefined) issuers.delete(out.base);
}

/** `fetch` says only that it failed; the reason is one level below. */
function describeFailure(error: unknown): string {
  const below = error instanceof Error && error.cause instanceof Error ? error.cause : undefined;
  return below === undefined ? messageOf(error) : `${messageOf(error)}: ${below.message}`;
}

function parseJwks(base: string, document: JsonObject): ReadonlyMap<string, KeyObject> {
  const list = asArray(document["keys"]);
  if (list === undefined || list.length > MAX_KEYS) throw issuerError(base, `its JWKS has no list of at most ${MAX_KEYS} keys`);
  const keys = new Map<string, KeyObject>();
  for (const item of list) {
    const jwk = asObject(item);
    const kid = jwk?.["kid"];
    // Keys that this service cannot use are no reason to refuse those it can.
    if (jwk === undefined || typeof kid !== "string" || !isForSignatures(jwk)) continue;
    const key = parseRsaKey(jwk);
    if (key === undefined) continue;
    const other = keys.get(kid);
    // Entra lists a key once for each of its issuers. Two keys of one name leave open which of them is meant.
    if (other !== undefined && !other.equals(key)) throw issuerError(base, `its JWKS has two keys with kid ${JSON.stringify(kid.slice(0, 100))}`);
    keys.set(kid, other ?? key);
  }
  return keys;
}

/** RFC 7517 sections 4.2 to 4.4: what a key says it is for, it is for; what it does not say is left open. */
function isForSignatures({ kty, use, alg, key_ops: operations }: JsonObject): boolean {
  return (
    kty === "RSA" &&
    (use === undefined || use === "sig") &&
    (alg === undefined || alg === "RS256") &&
    (operations === undefined || (asArray(operations)?.includes("verify") ?? false))
  );
}

function parseRsaKey(jwk: JsonObject): KeyObject | undefined {
  try {
    const { n, e } = jwk;
    const bare = typeof n === "string" && typeof e === "string" ? createPublicKey({ key: { kty: "RSA", n, e }, format: "jwk" }) : undefined;
    const certified = certificateKey(jwk["x5c"]);
    if (bare !== undefined && certified !== undefined && !bare.equals(certified)) return undefined;
    const key = bare ?? certified;
    const bits = key?.asymmetricKeyDetails?.modulusLength ?? 0;
    return key?.asymmetricKeyType === "rsa" && bits >= RSA_BITS.least && bits <= RSA_BITS.most ? key : undefined;
  } catch {
    return undefined;
  }
}

/** The keys of the genuine attestation service have `x5c` alone. */
function certificateKey(x5c: JsonValue | undefined): KeyObject | undefined {
  const leaf = asArray(x5c)?.[0];
  return typeof leaf === "string" ? new X509Certificate(fromBase64(leaf, "x5c")).publicKey : undefined;
}

async function readLimited(response: Response): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of response.body ?? []) {
    length += chunk.length;
    if (length > MAX_DOCUMENT) throw new RangeError(`it is larger than ${MAX_DOCUMENT} bytes`);
    chunks.push(chunk);
  }
  return concatBytes(...chunks);
}

function issuerError(issuer: string, problem: string, cause?: unknown): KeyvaultError {
  return new KeyvaultError("ERR_KEYVAULT_ISSUER", `the keys of ${issuer.slice(0, 300)} cannot be fetched: ${problem}`, {
    cause,
    hint: "Check that the issuer is up, that its name resolves, and that this service trusts its TLS certificate.",
  });
}
