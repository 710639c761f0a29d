import { asObject, decodeUtf8, parseJson, unlessAborted } from "@sealpod/core";
import type { Clock, JsonObject } from "@sealpod/core";
import { parseChallenges } from "./challenge.ts";
import type { Challenge } from "./challenge.ts";
import type { CredentialLookup } from "./credentials.ts";
import { basicAuthorization } from "./docker-config.ts";
import type { Credentials } from "./docker-config.ts";
import { isLoopback, retriesFor } from "./endpoint.ts";
import type { Endpoint } from "./endpoint.ts";
import { refusal, unreachable, violation } from "./failure.ts";
import type { Subject } from "./failure.ts";
import type { HttpClient, HttpReply } from "./http.ts";
import type { SecretMask } from "./mask.ts";
import { SharedWork } from "./shared-work.ts";

/** Bytes of a token document; tokens of large services have some 5 KiB. */
const MAX_TOKEN_DOCUMENT = 64 * 1024;
/** Characters of a token: more does not fit into the header that servers take. */
const MAX_TOKEN = 16 * 1024;
/** Seconds that a token lives if its document does not say (Docker, "token authentication": 60), and bounds on what it says. */
const DEFAULT_LIFETIME = 60;
const MAX_LIFETIME = 24 * 3600;
/** Seconds before its end from which a token is not used any more: a request takes time. */
const MARGIN = 10;

/** An Authorization header and the time it is good for. */
export interface Grant {
  readonly header: string;
  /** True if a login of the user's is behind it. */
  readonly hadLogin: boolean;
  /** Milliseconds since 1970. */
  readonly expires: number;
}

/** Parts that an {@link Authorizer} works with. */
export interface AuthorizerParts {
  readonly http: HttpClient;
  readonly credentials: CredentialLookup;
  readonly mask: SecretMask;
  readonly clock: Clock;
  readonly retries: number;
}

/**
 * Answers the challenges of registries (Docker, "token authentication"; RFC 7617 for Basic). A grant is for one repository at
 * one host, and goes nowhere else.
 */
export class Authorizer {
  readonly #parts: AuthorizerParts;
  readonly #grants = new Map<string, Grant>();
  readonly #pending = new Map<string, SharedWork<Grant>>();

  constructor(parts: AuthorizerParts) {
    this.#parts = parts;
  }

  /** The grant from an earlier answer, if it is still good. */
  current(endpoint: Endpoint): Grant | undefined {
    const grant = this.#grants.get(endpoint.base);
    return grant !== undefined && grant.expires > this.#parts.clock.now() ? grant : undefined;
  }

  /**
   * The grant that a 401 asks for. Requests that ask at the same time share one answer.
   * @param rejected the grant that the request had
   * @throws {OciError} ERR_OCI_AUTH, ERR_OCI_REGISTRY, ERR_OCI_UNREACHABLE, ERR_OCI_CREDENTIALS
   */
  async authorize(subject: Subject, reply: HttpReply, rejected: Grant | undefined): Promise<Grant> {
    const { base } = subject.endpoint;
    const current = this.current(subject.endpoint);
    // Another request may have got a new grant meanwhile.
    if (current !== undefined && current !== rejected) return current;
    this.#grants.delete(base);
    let pending = this.#pending.get(base);
    if (pending === undefined || pending.isStopped) {
      const work: SharedWork<Grant> = new SharedWork(async (signal) => {
        try {
          return await this.#answer({ ...subject, signal }, reply, rejected !== undefined);
        } finally {
          if (this.#pending.get(base) === work) this.#pending.delete(base);
        }
      });
      pending = work;
      this.#pending.set(base, work);
    }
    const grant = await pending.wait(subject.signal);
    this.#grants.set(base, grant);
    return grant;
  }

  async #answer(subject: Subject, reply: HttpReply, again: boolean): Promise<Grant> {
    const { endpoint } = subject;
    const header = reply.headers.get("www-authenticate");
    const challenges = header === null ? [] : parseChallenges(header);
    if (challenges === undefined) throw violation(subject, reply.url, "its WWW-Authenticate header is malformed");
    const bearer = challenges.find(({ scheme }) => scheme === "bearer");
    const basic = challenges.find(({ scheme }) => scheme === "basic");
    if (bearer === undefined && basic === undefined) {
      throw violation(subject, reply.url, "it wants a login, and neither by Bearer nor by Basic, the two that are supported", "ERR_OCI_AUTH");
    }
    const credentials = await unlessAborted(this.#parts.credentials.find(endpoint.host, endpoint.repository, again), subject.signal);
    if (credentials?.kind === "bearer") return this.#grant(subject, reply.url, credentials.token, MAX_LIFETIME, true);
    if (bearer !== undefined) return this.#fetchToken(subject, reply.url, bearer, credentials);
    const login = credentials?.kind === "basic" ? credentials : credentials?.basic;
    if (login === undefined) throw await refusal(subject, reply, { hadLogin: credentials !== undefined });
    const authorization = basicAuthorization(login);
    this.#parts.mask.add(authorization.slice("Basic ".length));
    return { header: authorization, hadLogin: true, expires: Number.POSITIVE_INFINITY };
  }

  async #fetchToken(subject: Subject, from: URL, challenge: Challenge, credentials: Exclude<Credentials, { kind: "bearer" }> | undefined): Promise<Grant> {
    const realm = this.#realm(subject, from, challenge);
    const service = challenge.parameters.get("service");
    const parameters: Record<string, string> = {
      ...(service === undefined ? {} : { service }),
      scope: challenge.parameters.get("scope") ?? `repository:${subject.endpoint.repository}:pull`,
    };
    if (credentials?.kind === "identity") {
      const reply = await this.#send(subject, realm, { ...parameters, grant_type: "refresh_token", client_id: "sealpod", refresh_token: credentials.token });
      // Services without OAuth2 take the same secret as a password.
      if (credentials.basic === undefined || reply.status === 200 || reply.status >= 429) return this.#readToken(subject, reply, true);
      await reply.drop();
    }
    const login = credentials?.kind === "identity" ? credentials.basic : credentials;
    const url = new URL(realm);
    for (const [name, value] of Object.entries(parameters)) url.searchParams.append(name, value);
    return this.#readToken(subject, await this.#send(subject, url, undefined, login), login !== undefined);
  }

  /** Where tokens come from. Credentials go there, so it must be as safe as the registry itself. */
  #realm(subject: Subject, from: URL, challenge: Challenge): URL {
    const realm = challenge.parameters.get("realm");
    if (realm === undefined || !URL.canParse(realm)) throw violation(subject, from, "its Bearer challenge has no URL as realm");
    const url = new URL(realm);
    if (url.username !== "" || url.password !== "") throw violation(subject, from, "the realm of its Bearer challenge has a user name or password in it");
    const isPlain = url.protocol === "http:" && (subject.endpoint.isInsecure || isLoopback(url));
    if (url.protocol !== "https:" && !isPlain) throw violation(subject, from, `the realm of its Bearer challenge is not https but ${url.protocol}//`);
    return url;
  }

  async #send(
    subject: Subject,
    url: URL,
    form: Readonly<Record<string, string>> | undefined,
    login?: { readonly username: string; readonly password: string },
  ): Promise<HttpReply> {
    const headers: Record<string, string> = { accept: "application/json" };
    if (login !== undefined) {
      headers["authorization"] = basicAuthorization(login);
      this.#parts.mask.add(headers["authorization"].slice("Basic ".length));
    }
    if (form !== undefined) headers["content-type"] = "application/x-www-form-urlencoded";
    const outcome = await this.#parts.http.send({
      method: form === undefined ? "GET" : "POST",
      url,
      headers,
      ...(form === undefined ? {} : { body: new URLSearchParams(form).toString() }),
      retries: retriesFor(subject.endpoint, this.#parts.retries),
      signal: subject.signal,
    });
    if (outcome.kind === "failure") throw unreachable(subject, outcome);
    return outcome;
  }

  async #readToken(subject: Subject, reply: HttpReply, hadLogin: boolean): Promise<Grant> {
    // Redirects are not followed: the secret was for this URL.
    if (reply.status !== 200) throw await refusal(subject, reply, { hadLogin, isTokenService: true });
    const { bytes, end } = await reply.readUpTo(MAX_TOKEN_DOCUMENT);
    if (end === "over") throw violation(subject, reply.url, `its token document has more than ${MAX_TOKEN_DOCUMENT} bytes`);
    if (end !== "complete") throw unreachable(subject, end);
    let document: JsonObject | undefined;
    try {
      document = asObject(parseJson(decodeUtf8(bytes), "token document", { maxLength: MAX_TOKEN_DOCUMENT, maxDepth: 8 }));
    } catch {
      // What stands there may hold the token: it is not shown.
    }
    const [token, lifetime] = [document?.["token"] ?? document?.["access_token"], document?.["expires_in"] ?? DEFAULT_LIFETIME];
    if (typeof token !== "string") throw violation(subject, reply.url, "its token document has no token");
    return this.#grant(subject, reply.url, token, typeof lifetime === "number" ? lifetime : DEFAULT_LIFETIME, hadLogin);
  }

  #grant(subject: Subject, from: URL, token: string, seconds: number, hadLogin: boolean): Grant {
    // A line break in a header would make a second header of it.
    if (token.length > MAX_TOKEN || !/^[\x21-\x7e]+$/.test(token))
      throw violation(subject, from, "the token has characters that no header can carry, or too many");
    this.#parts.mask.add(token);
    const lifetime = Math.min(Math.max(seconds, DEFAULT_LIFETIME), MAX_LIFETIME) - MARGIN;
    return { header: `Bearer ${token}`, hadLogin, expires: this.#parts.clock.now() + lifetime * 1000 };
  }
}
