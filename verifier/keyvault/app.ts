import { Hono, type Context } from "hono";
import { bodyLimit } from "hono/body-limit";
import {
  asObject,
  decodeUtf8,
  fromBase64url,
  messageOf,
  newUuid,
  parseJson,
  toBase64url,
  encodeUtf8,
  type Clock,
  type JsonObject,
  type Logger,
  type Random,
} from "@sealpod/core";
import { challenge, verifyBearer, type BearerContext, type Caller, type TokenIssuer } from "./bearer.ts";
import { badParameter, KeyvaultError, type KeyvaultErrorCode } from "./errors.ts";
import { IssuerKeys, trimSlash, type Fetch } from "./issuer-keys.ts";
import { deletion, keyBundle, keyId, keyItem, type JsonBody } from "./key-bundle.ts";
import { generateFromRequest, parseImport, parseKeyName, parseUpdate, type KeyPlace, type VaultKind } from "./key-request.ts";
import { deletedConflict, type KeyPermission, type KeyRecord, type KeyStore } from "./key-store.ts";
import { parseWrapAlgorithm } from "./key-wrap.ts";
import { releaseKey, requireSigner, type ReleaseContext, type ReleaseSigner } from "./release.ts";

/** An attestation token with a large policy around it is below 100 KiB. */
const MAX_BODY = 1024 * 1024;
const MAX_PAGE = 25;
/** Limit of the genuine service for the nonce of a release, as far as is known; ours keeps it out of the way. */
const MAX_NONCE = 1024;
const API_VERSION = /^(7\.\d(-preview(\.\d+)?)?|\d{4}-\d{2}-\d{2}(-preview)?)$/;

/** One vault. */
export interface Vault {
  /** First label of its host name, lower case. */
  readonly name: string;
  readonly kind: VaultKind;
}

/** Options of {@link keyvaultApp}. */
export interface KeyvaultAppOptions {
  readonly store: KeyStore;
  /** A vault answers under `<name>.<domain>`, e.g. domain `vault.sealpod.internal`. */
  readonly domain: string;
  readonly vaults: readonly Vault[];
  /** Whose access tokens count; the first is named in the challenge. At least one. */
  readonly issuers: readonly TokenIssuer[];
  /** `resource` of the challenge. The genuine clients insist that the vault's host ends with `.` and the host of this URL. */
  readonly resource: string;
  /** `aud` values taken beside `resource`, e.g. `https://vault.azure.net`, which the genuine sidecar always asks for. */
  readonly audiences?: readonly string[];
  readonly signer: ReleaseSigner;
  /** The evidence that this vault releases keys to, by name of its root of trust: `amd`, `emulator`. */
  readonly evidenceRoots: readonly string[];
  /** Fetches OpenID documents of token issuers and attestation services; must verify TLS. */
  readonly fetch: Fetch;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

/** Variables of the application's context. */
export interface KeyvaultEnv {
  Variables: { requestId: string };
}

interface Handling {
  readonly vault: Vault;
  readonly caller: Caller;
  /** Base URL that the client used. */
  readonly base: string;
  readonly apiVersion: string;
  readonly requestId: string;
}

type KeyvaultContext = Context<KeyvaultEnv>;

/**
 * The key vaults as an HTTP application, with the wire format of Key Vault and Managed HSM (specs/attestation.md 7).
 * The URL of a request must have the host that the client used: it chooses the vault, and key ids are made of it.
 * @throws {KeyvaultError} ERR_KEYVAULT_ARGUMENT
 */
export function keyvaultApp(options: KeyvaultAppOptions): Hono<KeyvaultEnv> {
  const [firstIssuer] = options.issuers;
  if (firstIssuer === undefined) throw new KeyvaultError("ERR_KEYVAULT_ARGUMENT", "a key vault needs at least one token issuer");
  requireSigner(options.signer);
  const { store } = options;
  const keys = new IssuerKeys(options.fetch, options.clock);
  const bearer: BearerContext = {
    issuers: options.issuers,
    audiences: [options.resource, ...(options.audiences ?? [])].map(trimSlash),
    keys,
    clock: options.clock,
  };
  const releases: ReleaseContext = { store, keys, clock: options.clock, random: options.random, signer: options.signer, evidenceRoots: options.evidenceRoots };

  const app = new Hono<KeyvaultEnv>({ getPath: canonicalPath });

  app.use(async (c, next) => {
    const requestId = newUuid(options.random);
    c.set("requestId", requestId);
    c.header("x-ms-request-id", requestId);
    c.header("x-ms-keyvault-region", "local");
    c.header("cache-control", "no-cache");
    c.header("x-content-type-options", "nosniff");
    const clientRequestId = c.req.header("x-ms-client-request-id");
    if (clientRequestId !== undefined && /^[\w.-]{1,100}$/.test(clientRequestId)) c.header("x-ms-client-request-id", clientRequestId);
    await next();
  });

  /** Everything before the body: the vault, the caller, the version, the permission. A client's first request has neither body nor token. */
  const begin = async (c: KeyvaultContext): Promise<Handling> => {
    const url = new URL(c.req.url);
    const vault = options.vaults.find((candidate) => url.hostname === `${candidate.name}.${options.domain}`);
    if (vault === undefined)
      throw new KeyvaultError("ERR_KEYVAULT_NOT_FOUND", `There is no vault under the host ${url.hostname.slice(0, 260)}.`, {
        details: { inner: "VaultNotFound" },
      });
    const caller = await verifyBearer(bearer, c.req.header("authorization"));
    // Some clients percent-encode the name of the parameter: URLSearchParams decodes it, a router would not.
    const versions = url.searchParams.getAll("api-version");
    const [apiVersion] = versions;
    if (apiVersion === undefined || versions.length > 1) throw badParameter("api-version must be specified, once.");
    if (!API_VERSION.test(apiVersion)) throw badParameter(`The api-version ${JSON.stringify(apiVersion.slice(0, 40))} is not supported.`);
    return { vault, caller, base: `https://${url.host}`, apiVersion, requestId: c.get("requestId") };
  };

  const authorize = (handling: Handling, permission: KeyPermission): void => {
    const { vault, caller } = handling;
    if (store.permissions(vault.name, caller).has(permission)) return;
    throw new KeyvaultError(
      "ERR_KEYVAULT_ACCESS",
      `The user, group or application 'appid=${caller.appid};oid=${caller.oid};iss=${caller.issuer}' does not have keys ${permission} permission on key vault '${vault.name};location=local'.`,
      {
        details: { inner: "AccessDenied" },
        hint: `Grant it: grant("${vault.name}", { tenantId: "${caller.tenantId}", id: "${caller.appid || caller.oid}" }, ["${permission}", …]).`,
      },
    );
  };

  const requireKey = (vault: Vault, name: string, version?: string): KeyRecord => {
    const key = store.get(vault.name, parseKeyName(name), version);
    if (key !== undefined) return key;
    const what = version === undefined ? name : `${name}/${version.slice(0, 40)}`;
    throw new KeyvaultError(
      "ERR_KEYVAULT_NOT_FOUND",
      `A key with (name/id) ${what} was not found in this key vault. If you recently deleted this key you may be able to recover it using the correct recovery command.`,
      {
        details: { inner: "KeyNotFound" },
      },
    );
  };

  const limit = bodyLimit({
    maxSize: MAX_BODY,
    onError: () => Promise.reject(new KeyvaultError("ERR_KEYVAULT_TOO_LARGE", `The request body is larger than ${MAX_BODY} bytes.`)),
  });

  const placeOf = (handling: Handling, name: string): KeyPlace => {
    const { vault } = handling;
    if (store.getDeleted(vault.name, parseKeyName(name)) !== undefined) throw deletedConflict(name);
    return { vault: vault.name, kind: vault.kind, name, latest: store.get(vault.name, name) };
  };

  app.put("/keys/:name", async (c) => {
    const handling = await begin(c);
    authorize(handling, "import");
    const body = await readBody(c, limit);
    const key = store.add(parseImport(placeOf(handling, c.req.param("name")), body));
    return c.json(keyBundle(handling.base, key));
  });

  app.post("/keys/:name/create", async (c) => {
    const handling = await begin(c);
    authorize(handling, "create");
    const body = await readBody(c, limit);
    const key = store.add(await generateFromRequest(() => placeOf(handling, c.req.param("name")), body, options.random));
    return c.json(keyBundle(handling.base, key));
  });

  app.get("/keys", async (c) => {
    const handling = await begin(c);
    authorize(handling, "list");
    const page = readPage(c);
    return c.json(
      listPage(
        c,
        handling,
        page,
        store.list(handling.vault.name, page.after, page.size + 1),
        (key) => key.name,
        (key) => keyItem(handling.base, key),
      ),
    );
  });

  app.get("/keys/:name/versions", async (c) => {
    const handling = await begin(c);
    authorize(handling, "list");
    const page = readPage(c);
    const name = parseKeyName(c.req.param("name"));
    const versions = store.listVersions(handling.vault.name, name, page.after, page.size + 1);
    return c.json(
      listPage(
        c,
        handling,
        page,
        versions,
        (key) => key.version,
        (key) => keyItem(handling.base, key, key.version),
      ),
    );
  });

  const getKey = async (c: KeyvaultContext, name: string, version?: string): Promise<Response> => {
    const handling = await begin(c);
    authorize(handling, "get");
    return c.json(keyBundle(handling.base, requireKey(handling.vault, name, version)));
  };
  app.get("/keys/:name", (c) => getKey(c, c.req.param("name")));
  app.get("/keys/:name/:version", (c) => getKey(c, c.req.param("name"), c.req.param("version")));

  const updateKey = async (c: KeyvaultContext, name: string, version?: string): Promise<Response> => {
    const handling = await begin(c);
    authorize(handling, "update");
    const body = await readBody(c, limit);
    const key = requireKey(handling.vault, name, version);
    return c.json(keyBundle(handling.base, store.update(key, parseUpdate(key, body, version !== undefined))));
  };
  app.patch("/keys/:name", (c) => updateKey(c, c.req.param("name")));
  app.patch("/keys/:name/:version", (c) => updateKey(c, c.req.param("name"), c.req.param("version")));

  const release = async (c: KeyvaultContext, name: string, version?: string): Promise<Response> => {
    const handling = await begin(c);
    const { vault, caller, base, apiVersion, requestId } = handling;
    try {
      authorize(handling, "release");
    } catch (error) {
      const line = { requestId, at: options.clock.now(), vault: vault.name, name: name.slice(0, 127), version: "", ...caller, authority: "", findings: [] };
      store.appendRelease({ ...line, outcome: "refused", failed: "access", reason: messageOf(error) });
      throw error;
    }
    const body = await readBody(c, limit);
    const { target, nonce, enc } = body;
    if (typeof target !== "string" || target === "") throw badParameter("Property target is missing or no string.");
    if (nonce !== undefined && nonce !== null && (typeof nonce !== "string" || nonce.length > MAX_NONCE))
      throw badParameter(`Property nonce must be a string of at most ${MAX_NONCE} characters.`);
    const algorithm = enc === undefined || enc === null ? "CKM_RSA_AES_KEY_WRAP" : typeof enc === "string" ? parseWrapAlgorithm(enc) : undefined;
    if (algorithm === undefined)
      throw badParameter("Property enc is not supported, expected CKM_RSA_AES_KEY_WRAP, RSA_AES_KEY_WRAP_256 or RSA_AES_KEY_WRAP_384.");
    const key = requireKey(vault, name, version);
    const requestedId = keyId(base, name, version);
    const value = await releaseKey(releases, {
      requestId,
      caller,
      kind: vault.kind,
      base,
      requestedId,
      apiVersion,
      key,
      target,
      algorithm,
      nonce: nonce ?? undefined,
    });
    options.logger.log("info", "key released", { request: requestId, vault: vault.name, key: key.name, version: key.version, appid: caller.appid });
    return c.json({ value });
  };
  app.post("/keys/:name/release", (c) => release(c, c.req.param("name")));
  app.post("/keys/:name/:version/release", (c) => release(c, c.req.param("name"), c.req.param("version")));

  app.delete("/keys/:name", async (c) => {
    const handling = await begin(c);
    authorize(handling, "delete");
    const key = requireKey(handling.vault, c.req.param("name"));
    const deleted = store.delete(handling.vault.name, key.name);
    if (deleted === undefined) throw deletedConflict(key.name);
    return c.json({ ...keyBundle(handling.base, deleted.key), ...deletion(handling.base, deleted) });
  });

  app.get("/deletedkeys", async (c) => {
    const handling = await begin(c);
    authorize(handling, "list");
    const page = readPage(c);
    const deleted = store.listDeleted(handling.vault.name, page.after, page.size + 1);
    return c.json(
      listPage(
        c,
        handling,
        page,
        deleted,
        (item) => item.key.name,
        (item) => ({ ...keyItem(handling.base, item.key), ...deletion(handling.base, item) }),
      ),
    );
  });

  const requireDeleted = (vault: Vault, name: string): NonNullable<ReturnType<KeyStore["getDeleted"]>> => {
    const deleted = store.getDeleted(vault.name, parseKeyName(name));
    if (deleted !== undefined) return deleted;
    throw new KeyvaultError("ERR_KEYVAULT_NOT_FOUND", `A deleted key with (name/id) ${name} was not found in this key vault.`, {
      details: { inner: "KeyNotFound" },
    });
  };
  app.get("/deletedkeys/:name", async (c) => {
    const handling = await begin(c);
    authorize(handling, "get");
    const deleted = requireDeleted(handling.vault, c.req.param("name"));
    return c.json({ ...keyBundle(handling.base, deleted.key), ...deletion(handling.base, deleted) });
  });
  app.delete("/deletedkeys/:name", async (c) => {
    const handling = await begin(c);
    authorize(handling, "purge");
    store.purge(handling.vault.name, requireDeleted(handling.vault, c.req.param("name")).key.name);
    return c.body(null, 204);
  });
  app.post("/deletedkeys/:name/recover", async (c) => {
    const handling = await begin(c);
    authorize(handling, "recover");
    const { key } = requireDeleted(handling.vault, c.req.param("name"));
    store.recover(handling.vault.name, key.name);
    return c.json(keyBundle(handling.base, key));
  });

  app.all("*", async (c) => {
    await begin(c);
    const known = /^\/(secrets|certificates|storage|deletedsecrets|deletedcertificates|rng|backup|restore)(\/|$)/.test(c.req.path);
    const operation = /^\/keys\/[^/]+(\/[^/]+)?\/(encrypt|decrypt|sign|verify|wrapkey|unwrapkey|rotate|backup|rotationpolicy|attestation)$/i.test(c.req.path);
    if (known || operation || c.req.path === "/keys/restore") {
      throw new KeyvaultError(
        "ERR_KEYVAULT_UNSUPPORTED",
        `${c.req.method} ${c.req.path.slice(0, 200)} is not implemented by this key vault: it keeps keys and releases them.`,
      );
    }
    throw new KeyvaultError("ERR_KEYVAULT_NOT_FOUND", `There is no operation ${c.req.method} ${c.req.path.slice(0, 200)}.`, { details: { inner: "NotFound" } });
  });

  app.onError((error, c) => errorResponse(options, firstIssuer, error, c));
  return app;
}

/** Older clients send `//release` for the latest version, newer ones a trailing slash. */
function canonicalPath(request: Request): string {
  const path = new URL(request.url).pathname.replace(/\/{2,}/g, "/");
  return path.length > 1 ? trimSlash(path) : path;
}

async function readBody(c: KeyvaultContext, limit: ReturnType<typeof bodyLimit>): Promise<JsonObject> {
  const type = (c.req.header("content-type") ?? "application/json").split(";")[0]?.trim().toLowerCase();
  if (type !== "application/json")
    throw new KeyvaultError("ERR_KEYVAULT_MEDIA_TYPE", `The content type must be application/json, found ${(type ?? "").slice(0, 100)}.`);
  await limit(c, () => Promise.resolve());
  try {
    const body = asObject(parseJson(decodeUtf8(new Uint8Array(await c.req.arrayBuffer()), "the request body"), "the request body"));
    if (body !== undefined) return body;
  } catch (cause) {
    throw badParameter(`The request body is not strict JSON: ${messageOf(cause)}.`, undefined, cause);
  }
  throw badParameter("The request body is not a JSON object.");
}

interface Page {
  readonly size: number;
  readonly after: string;
}

function readPage(c: KeyvaultContext): Page {
  const parameters = new URL(c.req.url).searchParams;
  const maxresults = parameters.get("maxresults");
  const size = maxresults === null ? MAX_PAGE : /^\d{1,3}$/.test(maxresults) ? Number(maxresults) : 0;
  if (size < 1 || size > MAX_PAGE) throw badParameter(`maxresults must be 1 to ${MAX_PAGE}.`);
  const token = parameters.get("$skiptoken");
  try {
    return { size, after: token === null ? "" : parseKeyName(decodeUtf8(fromBase64url(token.slice(0, 512)))) };
  } catch (cause) {
    throw badParameter("$skiptoken is not one that this service gave out.", undefined, cause);
  }
}

/** One more item than fits says that there is a next page. */
function listPage<T>(
  c: KeyvaultContext,
  handling: Handling,
  page: Page,
  items: readonly T[],
  nameOf: (item: T) => string,
  show: (item: T) => JsonBody,
): JsonBody {
  const shown = items.slice(0, page.size);
  const last = shown.at(-1);
  let nextLink: string | null = null;
  if (items.length > page.size && last !== undefined) {
    const path = canonicalPath(c.req.raw);
    nextLink = `${handling.base}${path}?api-version=${handling.apiVersion}&$skiptoken=${toBase64url(encodeUtf8(nameOf(last)))}&maxresults=${page.size}`;
  }
  return { value: shown.map(show), nextLink };
}

/** `error.code` of the answers. */
const WIRE_CODES: Readonly<Record<KeyvaultErrorCode, string>> = {
  ERR_KEYVAULT_ACCESS: "Forbidden",
  ERR_KEYVAULT_ARGUMENT: "InternalServerError",
  ERR_KEYVAULT_BAD_PARAMETER: "BadParameter",
  ERR_KEYVAULT_CONFLICT: "Conflict",
  ERR_KEYVAULT_ISSUER: "ServiceUnavailable",
  ERR_KEYVAULT_KEY_OPERATION: "Forbidden",
  ERR_KEYVAULT_MEDIA_TYPE: "UnsupportedMediaType",
  ERR_KEYVAULT_NOT_FOUND: "NotFound",
  ERR_KEYVAULT_RELEASE: "Forbidden",
  ERR_KEYVAULT_STORE: "InternalServerError",
  ERR_KEYVAULT_TOKEN: "Forbidden",
  ERR_KEYVAULT_TOO_LARGE: "RequestEntityTooLarge",
  ERR_KEYVAULT_UNAUTHORIZED: "Unauthorized",
  ERR_KEYVAULT_UNSUPPORTED: "NotImplemented",
};

function errorResponse(options: KeyvaultAppOptions, issuer: TokenIssuer, error: Error, c: KeyvaultContext): Response {
  const requestId = c.get("requestId");
  if (!(error instanceof KeyvaultError) || error.row.http === 500) {
    options.logger.log("error", "request failed", { request: requestId, problem: messageOf(error) });
    return c.json({ error: { code: "InternalServerError", message: `The service failed. Request id: ${requestId}` } }, 500);
  }
  options.logger.log("warn", "request refused", { request: requestId, code: error.code, problem: error.message });
  const inner = error.details["inner"];
  // The inner code of "not found" is the code itself: KeyNotFound.
  const code = error.code === "ERR_KEYVAULT_NOT_FOUND" && typeof inner === "string" ? inner : WIRE_CODES[error.code];
  const body = { code, message: error.message, ...(typeof inner === "string" && inner !== code ? { innererror: { code: inner } } : {}) };
  if (error.code === "ERR_KEYVAULT_UNAUTHORIZED")
    c.header("www-authenticate", challenge(issuer, options.resource, c.req.header("authorization") !== undefined));
  return c.json({ error: body }, error.row.http);
}
