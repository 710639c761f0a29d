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
import { KeyvaultError } from "./errors.ts";

/** The part of `fetch` that is used. */
export type Fetch = (url: string, init: RequestInit) => Promise<Response>;

/** Keys are fetched again after this long, so that a key its issuer has withdrawn stops counting. Milliseconds. */
const MAX_AGE = 60 * 60 * 1000;
/** An unknown `kid` makes a fetch, at most one in this time: otherwise invented kids would aim this service at the issuer. */
const MIN_REFETCH = 10 * 1000;
/** Issuers come from release policies, which any importer writes; the oldest entry goes first. */
const MAX_ISSUERS = 64;
/** An issuer of Azure publishes about ten keys with their chains, some 60 KiB. */
const MAX_DOCUMENT = 1024 * 1024;
const MAX_KEYS = 100;
const FETCH_TIMEOUT = 10_000;
/** RFC 7518 section 3.3. */
const MIN_RSA_BITS = 2048;

interface Entry {
  readonly fetched: number;
  readonly keys: ReadonlyMap<string, KeyObject>;
}

/** Fetches and keeps the public keys of token issuers: OpenID discovery, then the JWKS it names. */
export class IssuerKeys {
  readonly #fetch: Fetch;
  readonly #clock: Clock;
  readonly #entries = new Map<string, Entry>();
  readonly #pending = new Map<string, Promise<Entry>>();

  constructor(fetch: Fetch, clock: Clock) {
    this.#fetch = fetch;
    this.#clock = clock;
  }

  /**
   * The RSA key with this `kid`; an unknown `kid` makes the keys be fetched again, because issuers roll their keys over.
   * @param issuer an https URL, with or without trailing slash
   * @returns undefined if the issuer has no such key
   * @throws {KeyvaultError} ERR_KEYVAULT_ISSUER
   */
  async find(issuer: string, kid: string): Promise<KeyObject | undefined> {
    const base = trimSlash(issuer);
    const now = this.#clock.now();
    const kept = this.#entries.get(base);
    // A clock that was set back must not keep keys for ever, hence the absolute value.
    const age = kept === undefined ? Number.POSITIVE_INFINITY : Math.abs(now - kept.fetched);
    if (kept !== undefined && age <= MAX_AGE) {
      const key = kept.keys.get(kid);
      if (key !== undefined || age < MIN_REFETCH) return key;
    }
    return (await this.#refresh(base)).keys.get(kid);
  }

  async #refresh(base: string): Promise<Entry> {
    const pending = this.#pending.get(base);
    if (pending !== undefined) return pending;
    const refresh = this.#load(base).finally(() => this.#pending.delete(base));
    this.#pending.set(base, refresh);
    return refresh;
  }

  async #load(base: string): Promise<Entry> {
    const fetched = this.#clock.now();
    const configuration = await this.#fetchJson(`${base}/.well-known/openid-configuration`);
    const { issuer, jwks_uri: jwksUri } = configuration;
    // OpenID Connect Discovery section 4.3: a document that names another issuer belongs to that one. Some issuers leave it out.
    if (issuer !== undefined && (typeof issuer !== "string" || trimSlash(issuer) !== base)) {
      throw issuerError(base, `its OpenID configuration names the issuer ${encodeJson(issuer).slice(0, 200)}`);
    }
    if (typeof jwksUri !== "string") throw issuerError(base, "its OpenID configuration has no jwks_uri");
    const keys = parseJwks(base, await this.#fetchJson(jwksUri));
    const entry = { fetched, keys };
    this.#entries.delete(base);
    this.#entries.set(base, entry);
    if (this.#entries.size > MAX_ISSUERS) for (const oldest of [...this.#entries.keys()].slice(0, 1)) this.#entries.delete(oldest);
    return entry;
  }

  async #fetchJson(url: string): Promise<JsonObject> {
    if (!URL.canParse(url) || new URL(url).protocol !== "https:") throw issuerError(url, "it is not an https URL");
    try {
      // A redirect could lead from the name in the policy to any other, http included.
      const response = await this.#fetch(url, { redirect: "error", headers: { accept: "application/json" }, signal: AbortSignal.timeout(FETCH_TIMEOUT) });
      const body = await readLimited(response);
      if (response.status !== 200) throw issuerError(url, `it answered ${response.status}`);
      const document = asObject(parseJson(decodeUtf8(body, url), url));
      if (document === undefined) throw issuerError(url, "its answer is not a JSON object");
      return document;
    } catch (cause) {
      if (cause instanceof KeyvaultError) throw cause;
      throw issuerError(url, messageOf(cause), cause);
    }
  }
}

/** The URL without one trailing slash: the one difference that issuers are allowed. */
export function trimSlash(url: string): string {
  return url.endsWith("/") ? url.slice(0, -1) : url;
}

function parseJwks(base: string, document: JsonObject): ReadonlyMap<string, KeyObject> {
  const list = asArray(document["keys"]);
  if (list === undefined || list.length > MAX_KEYS) throw issuerError(base, `its JWKS has no list of at most ${MAX_KEYS} keys`);
  const keys = new Map<string, KeyObject>();
  for (const item of list) {
    const jwk = asObject(item);
    const kid = jwk?.["kid"];
    // Keys that this service cannot use are no reason to refuse those it can.
    if (jwk?.["kty"] !== "RSA" || typeof kid !== "string" || (jwk["use"] !== undefined && jwk["use"] !== "sig")) continue;
    const key = parseRsaKey(jwk);
    if (key === undefined) continue;
    if (keys.has(kid)) throw issuerError(base, `its JWKS has two keys with kid ${JSON.stringify(kid.slice(0, 100))}`);
    keys.set(kid, key);
  }
  return keys;
}

function parseRsaKey(jwk: JsonObject): KeyObject | undefined {
  try {
    const { n, e } = jwk;
    const bare = typeof n === "string" && typeof e === "string" ? createPublicKey({ key: { kty: "RSA", n, e }, format: "jwk" }) : undefined;
    const certified = certificateKey(jwk["x5c"]);
    if (bare !== undefined && certified !== undefined && !bare.equals(certified)) return undefined;
    const key = bare ?? certified;
    return key?.asymmetricKeyType === "rsa" && (key.asymmetricKeyDetails?.modulusLength ?? 0) >= MIN_RSA_BITS ? key : undefined;
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
    if (length > MAX_DOCUMENT) throw new RangeError(`its answer is larger than ${MAX_DOCUMENT} bytes`);
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
