import { createPublicKey, type JsonWebKeyInput } from "node:crypto";
import {
  asArray,
  asObject,
  concatBytes,
  decodeUtf8,
  messageOf,
  parseJson,
  silentLogger,
  type Clock,
  type JsonObject,
  type JsonValue,
  type Logger,
} from "@sealpod/core";
import { IdentityError } from "./errors.ts";
import { algorithmOf, type VerificationKey } from "./jwt.ts";

/** The part of `fetch` that is used: GET of https URLs. */
export type FederationFetch = (url: string, init: RequestInit) => Promise<Response>;

/** Options of {@link FederatedIssuers}. */
export interface FederationOptions {
  readonly fetch: FederationFetch;
  readonly clock: Clock;
  readonly logger?: Logger;
  /** Milliseconds for one document. Default 5000. */
  readonly timeout?: number;
}

/** Milliseconds. A document that does not come within it fails the request; Entra ID's own limit is of that order. */
const TIMEOUT = 5000;
/** Bytes of a document: clusters have some 3 KiB, large providers with chains some 60. */
const MAX_DOCUMENT = 512 * 1024;
/** Keys of one issuer: large providers have ten. */
const MAX_KEYS = 100;
/** Milliseconds for which keys are used without another look. An issuer that rotates publishes a new key for longer before it signs. */
const FRESH: number = 60 * 60 * 1000;
/** Milliseconds for which keys are used on while their issuer does not answer: longer, and a key that was taken back would live for ever. */
const STALE: number = 24 * 60 * 60 * 1000;
/** Milliseconds for which an issuer is not asked again, after it failed, or did not have a key: tokens that anybody can invent would aim this service at it. */
const COOLDOWN = 30_000;
/** Issuers that are remembered. They come from credentials that administrators have registered. */
const MAX_ISSUERS = 1000;

interface Entry {
  keys: ReadonlyMap<string, VerificationKey>;
  /** Milliseconds since 1970 of the last success. */
  fetched: number;
  failure: { readonly at: number; readonly problem: string } | undefined;
  pending: Promise<void> | undefined;
}

/**
 * The keys of issuers that this service is not: each is asked for its discovery document and its key set (OpenID Connect Discovery 1.0 section 4), once for all who ask at a
 * time, and the answer is kept. Only ask for issuers that somebody has chosen to trust: this is a request to an address that the caller names.
 */
export class FederatedIssuers {
  readonly #fetch: FederationFetch;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #timeout: number;
  readonly #entries = new Map<string, Entry>();

  constructor({ fetch, clock, logger = silentLogger, timeout = TIMEOUT }: FederationOptions) {
    this.#fetch = fetch;
    this.#clock = clock;
    this.#logger = logger;
    this.#timeout = timeout;
  }

  /**
   * The key of an issuer with a name; undefined if the issuer has none of that name.
   * @param issuer the `iss` claim as it stands, https
   * @throws {IdentityError} ERR_IDENTITY_UNREACHABLE
   */
  async key(issuer: string, kid: string): Promise<VerificationKey | undefined> {
    const entry = this.#entry(issuer);
    const found = entry.keys.get(kid);
    const age = Math.abs(this.#clock.now() - entry.fetched);
    if (found !== undefined && age < FRESH) return found;
    // A name that is new may be the next key's: the issuer is asked, though not for each of them.
    if (found === undefined && age < COOLDOWN) return undefined;
    try {
      await this.#refresh(issuer, entry);
    } catch (error) {
      if (found === undefined || age >= STALE) throw error;
      this.#logger.log("warn", "the keys of an issuer cannot be renewed; those from before are used", { issuer, problem: messageOf(error) });
      return found;
    }
    return entry.keys.get(kid);
  }

  #entry(issuer: string): Entry {
    const present = this.#entries.get(issuer);
    // The least recently used is the first of the map.
    this.#entries.delete(issuer);
    const entry = present ?? { keys: new Map(), fetched: Number.NEGATIVE_INFINITY, failure: undefined, pending: undefined };
    this.#entries.set(issuer, entry);
    if (this.#entries.size > MAX_ISSUERS) {
      const [oldest] = this.#entries.keys();
      if (oldest !== undefined) this.#entries.delete(oldest);
    }
    return entry;
  }

  async #refresh(issuer: string, entry: Entry): Promise<void> {
    const { failure } = entry;
    if (entry.pending === undefined && failure !== undefined && Math.abs(this.#clock.now() - failure.at) < COOLDOWN) {
      throw unreachable(issuer, `${failure.problem} (not asked again so soon)`);
    }
    entry.pending ??= this.#fetchKeys(issuer, entry).finally(() => {
      entry.pending = undefined;
    });
    await entry.pending;
  }

  async #fetchKeys(issuer: string, entry: Entry): Promise<void> {
    try {
      const keys = await this.#keySet(issuer);
      entry.keys = keys;
      entry.fetched = this.#clock.now();
      entry.failure = undefined;
      this.#logger.log("info", "fetched the keys of an issuer", { issuer, keys: keys.size });
    } catch (cause) {
      const problem = messageOf(cause);
      entry.failure = { at: this.#clock.now(), problem };
      throw unreachable(issuer, problem, cause);
    }
  }

  async #keySet(issuer: string): Promise<ReadonlyMap<string, VerificationKey>> {
    // Section 4.1: a slash at the end of the issuer is taken away before the path is appended.
    const discovery = await this.#document(`${issuer.replace(/\/$/, "")}/.well-known/openid-configuration`);
    const { issuer: own, jwks_uri: jwksUri } = discovery;
    if (own !== issuer) throw new Error(`its discovery document is of issuer ${shown(own)}${typeof own === "string" ? slashHint(own, issuer) : ""}`);
    if (typeof jwksUri !== "string" || !isHttps(jwksUri)) throw new Error(`its jwks_uri ${shown(jwksUri)} is not an https URL`);
    const list = asArray((await this.#document(jwksUri))["keys"]);
    if (list === undefined || list.length > MAX_KEYS)
      throw new Error(`its key set has ${list === undefined ? "no keys" : `${list.length} keys, more than ${MAX_KEYS}`}`);
    const keys = new Map<string, VerificationKey>();
    for (const item of list) {
      const key = parseKey(item);
      // A key that cannot verify is of no use here; two of one name are no name.
      if (key === undefined) continue;
      if (keys.has(key.kid)) throw new Error(`its key set has two keys named ${shown(key.kid)}`);
      keys.set(key.kid, key);
    }
    return keys;
  }

  async #document(url: string): Promise<JsonObject> {
    // A redirect could lead to any host, and past the check that the address is https.
    const response = await this.#fetch(url, { headers: { accept: "application/json" }, redirect: "error", signal: AbortSignal.timeout(this.#timeout) });
    if (response.status !== 200) {
      void response.body?.cancel().catch(() => undefined);
      throw new Error(`GET ${url} was answered with status ${response.status}, expected 200`);
    }
    const chunks: Uint8Array[] = [];
    let length = 0;
    for await (const chunk of (response.body ?? []) as AsyncIterable<Uint8Array>) {
      length += chunk.length;
      if (length > MAX_DOCUMENT) throw new Error(`the answer to GET ${url} has more than ${MAX_DOCUMENT} bytes`);
      chunks.push(chunk);
    }
    const document = asObject(parseJson(decodeUtf8(concatBytes(...chunks), url), url, { maxLength: MAX_DOCUMENT, maxDepth: 16 }));
    if (document === undefined) throw new Error(`the answer to GET ${url} is not a JSON object`);
    return document;
  }
}

/** A key of a key set (RFC 7517 section 4) that tokens may be signed with; undefined for any other. */
export function parseKey(value: JsonValue): VerificationKey | undefined {
  const { kty, kid, use, alg, n, e, crv, x, y } = asObject(value) ?? {};
  if (typeof kid !== "string" || kid === "" || (use !== undefined && use !== "sig")) return undefined;
  if (kty !== "RSA" && kty !== "EC") return undefined;
  try {
    // Nothing but the public parts: whatever else stands there is not for us to know.
    const jwk: JsonObject = kty === "RSA" ? { kty, n: n ?? "", e: e ?? "" } : { kty, crv: crv ?? "", x: x ?? "", y: y ?? "" };
    const publicKey = createPublicKey({ key: jwk as JsonWebKeyInput["key"], format: "jwk" });
    const algorithm = algorithmOf(publicKey);
    if (algorithm === undefined || (alg !== undefined && alg !== algorithm)) return undefined;
    return { kid, publicKey, algorithm };
  } catch {
    return undefined;
  }
}

function isHttps(text: string): boolean {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  return url?.protocol === "https:" && url.username === "" && url.password === "";
}

function slashHint(own: string, issuer: string): string {
  return own === `${issuer}/` || `${own}/` === issuer ? `: the two differ by the slash at the end, and the credential must have ${shown(own)}` : "";
}

function unreachable(issuer: string, problem: string, cause?: unknown): IdentityError {
  return new IdentityError("ERR_IDENTITY_UNREACHABLE", `the keys of issuer ${shown(issuer)} cannot be fetched: ${problem}`, { cause });
}

function shown(value: unknown): string {
  return typeof value === "string"
    ? JSON.stringify(value.length > 300 ? `${value.slice(0, 300)}…` : value)
    : value === undefined
      ? "that is missing"
      : `that is ${typeof value}`;
}
