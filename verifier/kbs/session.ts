import { createHmac } from "node:crypto";
import { deflateRawSync, inflateRawSync } from "node:zlib";
import {
  asObject,
  decodeUtf8,
  encodeJson,
  encodeUtf8,
  equalBytes,
  fromBase64url,
  parseJson,
  toBase64,
  toBase64url,
  toHex,
  type Clock,
  type JsonObject,
  type Random,
} from "@sealpod/core";
import { KbsError } from "./errors.ts";

/** Name of the cookie, which CoCo's clients look for. */
export const SESSION_COOKIE = "kbs-session-id";

/** RFC 6265 section 6.1: what every client keeps of one cookie, name and attributes included. */
const MAX_COOKIE = 4000;
/** A token that a cookie carries: what {@link MAX_COOKIE} holds, even if it deflates well. */
const MAX_INFLATED = 64 * 1024;
const MAC_LENGTH = 32;
/** Tokens that do not fit a cookie and are kept here: they come after verified evidence alone, so a stranger cannot fill this. */
const MAX_KEPT_SESSIONS = 4096;
const MAX_KEPT_LENGTH = 64 * 1024 * 1024;

/** A session that has been opened: a nonce that evidence must be made for. */
export interface OpenSession {
  readonly kind: "open";
  /** 32 hex digits. */
  readonly id: string;
  /** Standard base64 of 32 bytes. */
  readonly nonce: string;
  /** Protocol version that the client asked for. */
  readonly version: string;
  /** Seconds since 1970. */
  readonly expires: number;
}

/** A session whose guest was attested. */
export interface AttestedSession {
  readonly kind: "attested";
  readonly id: string;
  readonly expires: number;
  readonly token: string;
}

/**
 * Sessions as cookies that carry all there is to know of them, signed (HMAC-SHA-256) with a key that all replicas share: to open one costs this service no memory, so strangers cannot
 * fill it, and any replica can go on with it. Nothing in a cookie is a secret of ours: nonce and token are the client's anyway.
 *
 * A token too long for a cookie (one with large init data) stays in the memory of the replica that issued it: there a session needs stickiness, the token as a bearer does not.
 */
export class Sessions {
  readonly #key: () => Promise<Uint8Array>;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #lifetime: number;
  readonly #kept = new Map<string, { readonly token: string; readonly expires: number }>();
  #keptLength = 0;

  /** @param options.lifetime seconds */
  constructor(options: { readonly key: () => Promise<Uint8Array>; readonly clock: Clock; readonly random: Random; readonly lifetime: number }) {
    this.#key = options.key;
    this.#clock = options.clock;
    this.#random = options.random;
    this.#lifetime = options.lifetime;
  }

  /** A new session, not yet in any cookie. */
  open(version: string): OpenSession {
    return {
      kind: "open",
      id: toHex(this.#random.bytes(16)),
      nonce: toBase64(this.#random.bytes(32)),
      version,
      expires: this.#now() + this.#lifetime,
    };
  }

  /** Value of the cookie for a session. */
  async encode(session: OpenSession | AttestedSession): Promise<string> {
    const { id, expires } = session;
    if (session.kind === "open") return this.#seal({ i: id, e: expires, n: session.nonce, v: session.version });
    const packed = toBase64url(deflateRawSync(encodeUtf8(session.token)));
    const cookie = await this.#seal({ i: id, e: expires, t: packed });
    if (cookie.length <= MAX_COOKIE && session.token.length <= MAX_INFLATED) return cookie;
    this.#keep(session);
    return this.#seal({ i: id, e: expires, t: "" });
  }

  /**
   * The session of a cookie.
   * @throws {KbsError} ERR_KBS_SESSION if it is not ours or has expired
   */
  async decode(cookie: string | undefined): Promise<OpenSession | AttestedSession> {
    if (cookie === undefined) throw refused(`there is no cookie ${SESSION_COOKIE}`, "Begin with POST /kbs/v0/auth, and keep the cookie of its answer.");
    const claims = await this.#unseal(cookie);
    const { i: id, e: expires, n: nonce, v: version, t: packed } = claims;
    // The signature says that we wrote this; the types are for the compiler.
    if (typeof id !== "string" || typeof expires !== "number") throw refused("the cookie is not a session's");
    if (expires <= this.#now()) throw refused(`the session expired ${this.#now() - expires} seconds ago`, "Begin again with POST /kbs/v0/auth.");
    if (typeof nonce === "string" && typeof version === "string") return { kind: "open", id, nonce, version, expires };
    if (typeof packed !== "string") throw refused("the cookie is not a session's");
    if (packed !== "") {
      const token = decodeUtf8(inflateRawSync(fromBase64url(packed), { maxOutputLength: MAX_INFLATED }));
      return { kind: "attested", id, expires, token };
    }
    const kept = this.#kept.get(id);
    if (kept === undefined)
      throw refused(
        "the session's token is too long for a cookie, and this replica has not issued it",
        "Send the token that POST /kbs/v0/attest gave as a bearer, or have the load balancer keep a client at one replica.",
      );
    return { kind: "attested", id, expires, token: kept.token };
  }

  async #seal(claims: JsonObject): Promise<string> {
    const payload = encodeUtf8(encodeJson(claims));
    return `${toBase64url(payload)}.${toBase64url(await this.#mac(payload))}`;
  }

  async #unseal(cookie: string): Promise<JsonObject> {
    const [payload = "", mac = "", ...rest] = cookie.length > MAX_COOKIE ? [] : cookie.split(".");
    try {
      const bytes = fromBase64url(payload, "cookie");
      if (rest.length === 0 && equalBytes(fromBase64url(mac, "cookie").subarray(0, MAC_LENGTH + 1), await this.#mac(bytes)))
        return asObject(parseJson(decodeUtf8(bytes), "cookie")) ?? {};
    } catch (cause) {
      if (cause instanceof KbsError) throw cause;
    }
    throw refused("the cookie is not one of this key broker");
  }

  async #mac(payload: Uint8Array): Promise<Uint8Array> {
    return new Uint8Array(
      createHmac("sha256", await this.#key())
        .update("sealpod kbs session\0")
        .update(payload)
        .digest(),
    );
  }

  #keep({ id, token, expires }: AttestedSession): void {
    this.#forget(id);
    this.#kept.set(id, { token, expires });
    this.#keptLength += token.length;
    const now = this.#now();
    // The oldest first: those that are over, then those that are too many.
    for (const [oldest, { expires: end }] of this.#kept) {
      if (end > now && this.#kept.size <= MAX_KEPT_SESSIONS && this.#keptLength <= MAX_KEPT_LENGTH) break;
      this.#forget(oldest);
    }
  }

  #forget(id: string): void {
    this.#keptLength -= this.#kept.get(id)?.token.length ?? 0;
    this.#kept.delete(id);
  }

  #now(): number {
    return Math.floor(this.#clock.now() / 1000);
  }
}

/** The value of one cookie of a request; undefined if it is not there. */
export function readCookie(header: string | undefined, name: string): string | undefined {
  for (const pair of (header ?? "").slice(0, 64 * 1024).split(";")) {
    const at = pair.indexOf("=");
    if (at !== -1 && pair.slice(0, at).trim() === name) return pair.slice(at + 1).trim();
  }
  return undefined;
}

function refused(problem: string, hint?: string): KbsError {
  return new KbsError("ERR_KBS_SESSION", problem, hint === undefined ? {} : { hint });
}
