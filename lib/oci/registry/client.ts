import type { Authorizer, Grant } from "./authorizer.ts";
import { retriesFor } from "./endpoint.ts";
import { refusal, unreachable, violation } from "./failure.ts";
import type { Subject } from "./failure.ts";
import type { HttpClient, HttpReply } from "./http.ts";

/** Registries redirect once, to the store behind them; a few more for stores that move. */
const MAX_REDIRECTS = 5;
/** Longest redirect target: signed URLs have one or two thousand characters. */
const MAX_LOCATION = 8192;

const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);

/** Parts that a {@link RegistryClient} works with. */
export interface ClientParts {
  readonly http: HttpClient;
  readonly authorizer: Authorizer;
  readonly retries: number;
}

/** Reads from the repositories of registries: logs in where it must, follows redirects where it may. */
export class RegistryClient {
  readonly #parts: ClientParts;

  constructor(parts: ClientParts) {
    this.#parts = parts;
  }

  /** How often a request is repeated. */
  retriesFor({ endpoint }: Subject): number {
    return retriesFor(endpoint, this.#parts.retries);
  }

  /** Waits before another attempt at a download. */
  async pause(subject: Subject, attempt: number, why: string): Promise<void> {
    await this.#parts.http.pause(attempt, `${subject.what}: ${why}`, subject.signal);
  }

  /**
   * A document or blob of the repository. The reply has status 200 or 206.
   * @param path below the repository, e.g. `manifests/latest`
   * @throws {OciError} ERR_OCI_AUTH, ERR_OCI_NOT_FOUND, ERR_OCI_REGISTRY, ERR_OCI_UNREACHABLE, ERR_OCI_CREDENTIALS
   */
  async get(subject: Subject, path: string, headers: Readonly<Record<string, string>>): Promise<HttpReply> {
    const url = new URL(`${subject.endpoint.base}/${path}`);
    let grant = this.#parts.authorizer.current(subject.endpoint);
    for (let wasAsked = false; ; wasAsked = true) {
      const reply = await this.#follow(subject, url, headers, grant);
      if (reply.status === 200 || reply.status === 206) return reply;
      // Once: a registry that refuses a new token will refuse the next one too.
      if (reply.status !== 401 || wasAsked || reply.url.origin !== url.origin) {
        throw await refusal(subject, reply, { hadLogin: grant?.hadLogin === true });
      }
      try {
        grant = await this.#parts.authorizer.authorize(subject, reply, grant);
      } finally {
        await reply.drop();
      }
    }
  }

  async #follow(subject: Subject, start: URL, headers: Readonly<Record<string, string>>, grant: Grant | undefined): Promise<HttpReply> {
    let url = start;
    let authorization: Readonly<Record<string, string>> = grant === undefined ? {} : { authorization: grant.header };
    for (let hops = 0; ; hops++) {
      const reply = await this.#parts.http.send({
        method: "GET",
        url,
        headers: { ...headers, ...authorization },
        retries: this.retriesFor(subject),
        signal: subject.signal,
      });
      if (reply.kind === "failure") throw unreachable(subject, reply);
      if (!REDIRECTS.has(reply.status)) return reply;
      await reply.drop();
      if (hops === MAX_REDIRECTS) throw violation(subject, start, `more than ${MAX_REDIRECTS} redirects`);
      url = this.#target(subject, reply);
      // The login is the registry's; and once the way has left it, no later hop gets it back.
      if (url.origin !== start.origin) authorization = {};
    }
  }

  #target(subject: Subject, reply: HttpReply): URL {
    const location = reply.headers.get("location");
    if (location === null || location.length > MAX_LOCATION || !URL.canParse(location, reply.url.href)) {
      throw violation(subject, reply.url, `status ${reply.status} without a usable Location header`);
    }
    const target = new URL(location, reply.url.href);
    if (target.protocol !== "https:" && (target.protocol !== "http:" || reply.url.protocol === "https:")) {
      throw violation(subject, reply.url, `redirects from ${reply.url.protocol}// to ${target.protocol}//, which is not followed`);
    }
    if (target.username !== "" || target.password !== "") throw violation(subject, reply.url, "redirects to a URL with a user name or password in it");
    return target;
  }
}
