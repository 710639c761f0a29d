import { messageOf, type JsonObject } from "@sealpod/core";
import { SkrError } from "./errors.ts";
import { expectObject, send, type CallPorts } from "./http-client.ts";
import { identityHint } from "./reasons.ts";

/** Azure's link-local metadata service. It speaks plain HTTP; the address never leaves the host. */
const METADATA_TOKEN = "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01";

const DEFAULT_AUTHORITY = "https://login.microsoftonline.com/";
const ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/** Where the webhook mounts the service account token: until 1.5.1, and since 1.6.0 (specs/attestation.md 8.3). */
export const TOKEN_FILES: readonly string[] = ["/var/run/secrets/azure/tokens/azure-identity-token", "/var/run/secrets/azure/wi/token/azure-identity-token"];

/** Milliseconds, as the genuine sidecar waits. */
const TIMEOUT = 7000;

/** A service account token has 1 to 2 KiB. */
const MAX_ASSERTION = 64 * 1024;

/** The workload identity that Kubernetes gives the pod (specs/attestation.md 8.3). */
export interface WorkloadIdentity {
  readonly clientId: string;
  readonly tenantId: string;
  /** Files to look for the service account token in; the first that can be read counts. */
  readonly tokenFiles: readonly string[];
  /** `AZURE_AUTHORITY_HOST`. */
  readonly authorityHost: string | undefined;
}

/** What getting an access token needs. */
export interface AccessTokenPorts extends CallPorts {
  readonly workloadIdentity: WorkloadIdentity | undefined;
  /** Client id for the metadata service; undefined takes the machine's own identity. */
  readonly clientId: string | undefined;
  /** Text of a file; Kubernetes renews the token in it, so it is read anew each time. */
  readonly readText: (path: string) => Promise<string>;
}

/** An access token. A secret. */
export interface AccessToken {
  readonly token: string;
  /** Milliseconds for which it is good; undefined if the service does not say. */
  readonly lifetimeMs: number | undefined;
}

/** The resource that a key store's tokens are for, going by its host name: managed HSMs are another resource than vaults. */
export function resourceOf(storeHost: string): string {
  return storeHost.includes("managedhsm") ? "https://managedhsm.azure.net" : "https://vault.azure.net";
}

/**
 * The resource that a store's challenge asks tokens for (specs/attestation.md 7.2), if it is plausible: https, and a domain that
 * the store's host is in, as Azure's own clients demand. Without that, whoever answers for a host could have tokens for
 * anything. The authority in the challenge is never followed: the pod's assertion goes to the pod's authority alone.
 */
export function challengedResource(challenge: string | undefined, storeHost: string): string | undefined {
  if (challenge === undefined || challenge.length > 4096) return undefined;
  const text = /\b(?:resource|scope)="([^"\s]{1,300})"/.exec(challenge)?.[1]?.replace(/\/\.default$/, "");
  const url = text !== undefined && URL.canParse(text) ? new URL(text) : undefined;
  if (url?.protocol !== "https:" || url.pathname !== "/" || url.search !== "" || url.hash !== "" || url.username !== "" || url.port !== "") return undefined;
  const host = url.hostname.toLowerCase();
  return host.includes(".") && storeHost.toLowerCase().endsWith(`.${host}`) ? url.origin : undefined;
}

/**
 * An access token for a resource: by the pod's workload identity, or else from the metadata service.
 * @param resource such as "https://vault.azure.net"
 * @throws {SkrError} ERR_SKR_IDENTITY, ERR_SKR_NETWORK
 */
export async function fetchAccessToken(ports: AccessTokenPorts, resource: string): Promise<AccessToken> {
  const answer =
    ports.workloadIdentity === undefined ? await fromMetadata(ports, resource) : await fromWorkloadIdentity(ports, ports.workloadIdentity, resource);
  const token = answer["access_token"];
  if (typeof token !== "string" || !isBearerToken(token)) throw new SkrError("ERR_SKR_IDENTITY", "the identity service answered without an access token");
  return { token, lifetimeMs: lifetimeOf(answer) };
}

/** True for text that an Authorization header can carry (RFC 6750 section 2.1): nothing in it can start another header. */
export function isBearerToken(text: string): boolean {
  return text.length <= 64 * 1024 && /^[A-Za-z0-9._~+/-]+=*$/.test(text);
}

/** Tokens that are kept at once: a pod has one or two key stores. */
const MAX_TOKENS = 8;
/** Stores whose resource is remembered; one is as long as a host name. */
const MAX_STORES = 32;
/** Milliseconds before its end from which a token is not used any more: a release takes some seconds, and clocks differ. */
const MARGIN = 5 * 60_000;
/** Longest time for which a token is kept, in milliseconds: Azure's are good for up to a day. */
const MAX_LIFETIME = 24 * 3_600_000;

/** A token, and whether it was kept from an earlier request. */
export interface CachedToken {
  readonly token: string;
  readonly kept: boolean;
}

/** Access tokens in memory until shortly before they end, one for each resource; and which resource a store has asked tokens for. */
export class AccessTokens {
  readonly #kept = new Map<string, { readonly token: string; readonly from: number; readonly until: number }>();
  readonly #resources = new Map<string, string>();

  /**
   * A token for a resource, asked for only if none is kept.
   * @throws {SkrError} as {@link fetchAccessToken}
   */
  async get(ports: AccessTokenPorts, resource: string): Promise<CachedToken> {
    const now = ports.clock.now();
    const found = this.#kept.get(resource);
    // A clock that was set back says nothing about how much of the token's time is left.
    if (found !== undefined && found.from <= now && now < found.until) return { token: found.token, kept: true };
    this.#kept.delete(resource);
    const { token, lifetimeMs } = await fetchAccessToken(ports, resource);
    if (lifetimeMs !== undefined && lifetimeMs > MARGIN) {
      const [oldest] = this.#kept.keys();
      if (this.#kept.size >= MAX_TOKENS && oldest !== undefined) this.#kept.delete(oldest);
      this.#kept.set(resource, { token, from: now, until: now + Math.min(lifetimeMs, MAX_LIFETIME) - MARGIN });
    }
    return { token, kept: false };
  }

  /** Forgets a token that a store refused. */
  drop(resource: string): void {
    this.#kept.delete(resource);
  }

  /** The resource whose token a store took, where its challenge had named one. */
  resourceFor(storeHost: string): string | undefined {
    return this.#resources.get(storeHost.toLowerCase());
  }

  /** Remembers the resource whose token a store took: it need not be shown a token for another one each time. */
  rememberResource(storeHost: string, resource: string): void {
    const host = storeHost.toLowerCase();
    const [oldest] = this.#resources.keys();
    if (this.#resources.size >= MAX_STORES && oldest !== undefined && !this.#resources.has(host)) this.#resources.delete(oldest);
    this.#resources.set(host, resource);
  }
}

/** `expires_in` in seconds: a number by OAuth, text by the metadata service. */
function lifetimeOf(answer: JsonObject): number | undefined {
  const value = answer["expires_in"];
  if (typeof value !== "number" && (typeof value !== "string" || !/^\d{1,9}$/.test(value))) return undefined;
  const seconds = Number(value);
  return Number.isFinite(seconds) && seconds > 0 ? seconds * 1000 : undefined;
}

async function fromWorkloadIdentity(ports: AccessTokenPorts, identity: WorkloadIdentity, resource: string): Promise<JsonObject> {
  const authority = authorityUrl(identity.authorityHost ?? DEFAULT_AUTHORITY);
  const assertion = await readAssertion(ports, identity.tokenFiles);
  const form = new URLSearchParams({
    client_id: identity.clientId,
    scope: `${resource}/.default`,
    grant_type: "client_credentials",
    client_assertion_type: ASSERTION_TYPE,
    client_assertion: assertion,
  });
  const what = `identity service ${authority.host}`;
  const secrets = [assertion, encodeURIComponent(assertion)];
  const response = await send(
    ports,
    {
      method: "POST",
      url: new URL(`${encodeURIComponent(identity.tenantId)}/oauth2/v2.0/token`, authority).href,
      headers: { "content-type": "application/x-www-form-urlencoded" },
      body: form.toString(),
      timeoutMs: TIMEOUT,
      secrets,
    },
    what,
  );
  return expectObject(response, what, "ERR_SKR_IDENTITY", { hint: (_status, reason) => identityHint(reason), secrets });
}

async function readAssertion(ports: AccessTokenPorts, files: readonly string[]): Promise<string> {
  let failure: unknown;
  for (const file of files) {
    let text: string;
    try {
      text = (await ports.readText(file)).trim();
    } catch (error) {
      // The first is the one that the pod was told of.
      failure ??= error;
      continue;
    }
    // What is no token must not go out: the file may be another one.
    if (text.length > MAX_ASSERTION || !isBearerToken(text)) {
      throw new SkrError("ERR_SKR_IDENTITY", `the workload identity's token file ${file} does not have a token in it`);
    }
    return text;
  }
  throw new SkrError("ERR_SKR_IDENTITY", `the workload identity's token file ${files[0] ?? ""} cannot be read: ${messageOf(failure)}`, {
    cause: failure,
    hint: "Does the pod have the label azure.workload.identity/use, and its policy the volume of the token?",
  });
}

async function fromMetadata(ports: AccessTokenPorts, resource: string): Promise<JsonObject> {
  const client = ports.clientId === undefined ? "" : `&client_id=${encodeURIComponent(ports.clientId)}`;
  const what = "metadata service";
  const response = await send(
    ports,
    { method: "GET", url: `${METADATA_TOKEN}&resource=${encodeURIComponent(resource)}${client}`, headers: { metadata: "true" }, timeoutMs: TIMEOUT },
    what,
  );
  return expectObject(response, what, "ERR_SKR_IDENTITY", { hint: (_status, reason) => identityHint(reason) });
}

function authorityUrl(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  // Over plain HTTP the host would read the assertion and use it itself.
  if (url?.protocol !== "https:" || url.search !== "" || url.hash !== "" || url.username !== "") {
    throw new SkrError("ERR_SKR_IDENTITY", `AZURE_AUTHORITY_HOST ${JSON.stringify(text.slice(0, 200))} is not an https URL`);
  }
  if (!url.pathname.endsWith("/")) url.pathname += "/";
  return url;
}
