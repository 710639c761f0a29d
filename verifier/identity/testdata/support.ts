import { createHash, createHmac, generateKeyPairSync, randomBytes, sign, type KeyObject } from "node:crypto";
import type { Hono } from "hono";
import { silentLogger, type Random } from "@sealpod/core";
import { FederatedIssuers, identityApp, openIdentityStore, TOKEN_EXCHANGE_AUDIENCE, type IdentityStore, type ManagementOptions, type TokenService } from "../index.ts";

export const AUTHORITY = "https://login.test:8443";
export const CLUSTER = "https://login.test:8443/cluster/";
export const TENANT = "11111111-2222-4333-8444-555555555555";
export const CLIENT = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";
export const SUBJECT = "system:serviceaccount:default:web";
export const START: number = Date.UTC(2026, 0, 15, 12);
export const random: Random = { bytes: (length) => new Uint8Array(randomBytes(length)) };

/** An answer as tests look at it. */
export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Record<string, unknown>;
}

/** A service without a socket, whose time stands until a test moves it. */
export class World {
  time: number = START;
  readonly clock = { now: (): number => this.time };
  readonly network: Network = new Network();
  declare store: IdentityStore;
  declare service: TokenService;
  declare app: Hono;

  static async open(change: Partial<TokenService> = {}, management?: (service: TokenService) => ManagementOptions): Promise<World> {
    const world = new World();
    const { clock } = world;
    world.store = await openIdentityStore({ url: ":memory:", masterKey: new Uint8Array(32).fill(7), clusters: ["default", "second"], clock, random });
    world.service = {
      authority: AUTHORITY,
      tenants: [TENANT],
      resources: ["https://vault.azure.net", { resource: "api://second", version: "2.0", audience: "the-second" }],
      clusters: [
        { name: "default", issuer: CLUSTER },
        { name: "second", issuer: "https://login.test:8443/second" },
      ],
      federation: new FederatedIssuers({ fetch: world.network.fetch, clock }),
      store: world.store,
      clock,
      random,
      ...change,
    };
    world.app = identityApp({ ...world.service, logger: silentLogger, ...(management === undefined ? {} : { management: management(world.service) }) });
    return world;
  }

  async ask(method: string, path: string, init: { readonly headers?: Record<string, string>; readonly body?: string } = {}): Promise<Answer> {
    const response = await this.app.request(`${AUTHORITY}${path}`, { method, ...init });
    const text = await response.text();
    return { status: response.status, headers: response.headers, body: text === "" ? {} : (JSON.parse(text) as Record<string, unknown>) };
  }

  async token(fields: Record<string, string>, headers: Record<string, string> = {}, path = `/${TENANT}/oauth2/v2.0/token`): Promise<Answer> {
    const body = new URLSearchParams({ scope: "https://vault.azure.net/.default", grant_type: "client_credentials", ...fields }).toString();
    return this.ask("POST", path, { headers: { "content-type": "application/x-www-form-urlencoded", ...headers }, body });
  }

  async exchange(assertion: string, clientId: string = CLIENT): Promise<Answer> {
    return this.token({ client_id: clientId, client_assertion_type: "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", client_assertion: assertion });
  }
}

/** AADSTS number of an answer, or 0 for one with a token. */
export function numberOf({ body }: Answer): unknown {
  return typeof body["access_token"] === "string" ? 0 : (body["error_codes"] as unknown[] | undefined)?.[0];
}

/** Claims of a token, not verified. */
export function claimsOf(token: unknown): Record<string, unknown> {
  return JSON.parse(Buffer.from(String(token).split(".")[1] ?? "", "base64url").toString()) as Record<string, unknown>;
}

const segment = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");

/** A token made by hand, so that each field can be wrong. @param key undefined for no signature, a buffer for HMAC */
export function forge(header: { readonly alg: string } & Record<string, unknown>, claims: unknown, key: KeyObject | Buffer | undefined): string {
  const input = `${segment(header)}.${segment(claims)}`;
  if (key === undefined) return `${input}.`;
  if (Buffer.isBuffer(key)) return `${input}.${createHmac("sha256", key).update(input).digest("base64url")}`;
  const hash = `sha${header.alg.slice(2)}`;
  const isEc = key.asymmetricKeyType === "ec";
  const padding = header.alg.startsWith("PS") ? { padding: 6, saltLength: -1 } : {};
  return `${input}.${sign(hash, Buffer.from(input), { key, ...(isEc ? { dsaEncoding: "ieee-p1363" as const } : padding) }).toString("base64url")}`;
}

/** An issuer elsewhere: its keys, and what it publishes. */
export class Issuer {
  readonly issuer: string;
  readonly alg: string;
  readonly privateKey: KeyObject;
  readonly kid: string;
  readonly jwk: Record<string, unknown>;

  constructor(issuer: string, alg: "RS256" | "ES256" | "ES384" | "ES512" = "RS256") {
    this.issuer = issuer;
    this.alg = alg;
    const curve = { ES256: "P-256", ES384: "P-384", ES512: "P-521", RS256: "" }[alg];
    const pair = alg === "RS256" ? generateKeyPairSync("rsa", { modulusLength: 2048 }) : generateKeyPairSync("ec", { namedCurve: curve });
    this.privateKey = pair.privateKey;
    this.kid = createHash("sha256").update(pair.publicKey.export({ type: "spki", format: "der" })).digest("base64url");
    this.jwk = { ...pair.publicKey.export({ format: "jwk" }), use: "sig", kid: this.kid, alg };
  }

  token(claims: Record<string, unknown> = {}, header: Record<string, unknown> = {}): string {
    return forge({ alg: this.alg, kid: this.kid, ...header }, { ...this.claims(), ...claims }, this.privateKey);
  }

  claims(): Record<string, unknown> {
    const now = START / 1000;
    return { iss: this.issuer, sub: SUBJECT, aud: [TOKEN_EXCHANGE_AUDIENCE], iat: now, nbf: now, exp: now + 600 };
  }

  /** Publishes discovery and keys. */
  publish(network: Network, keys: readonly unknown[] = [this.jwk]): void {
    const base = this.issuer.replace(/\/$/, "");
    network.pages.set(`${base}/.well-known/openid-configuration`, { issuer: this.issuer, jwks_uri: `${base}/keys` });
    network.pages.set(`${base}/keys`, { keys });
  }
}

/** What stands in for the network: JSON values by URL, or functions that answer. */
export class Network {
  readonly pages: Map<string, unknown> = new Map<string, unknown>();
  readonly asked: string[] = [];
  /** Answers wait for it. */
  gate: Promise<void> = Promise.resolve();

  readonly fetch = async (url: string, init: RequestInit): Promise<Response> => {
    this.asked.push(url);
    if (init.redirect !== "error") throw new Error("redirects would be followed");
    await this.gate;
    const page = this.pages.get(url);
    if (page === undefined) throw new TypeError("fetch failed");
    return typeof page === "function" ? (page as () => Response)() : Response.json(page);
  };
}
