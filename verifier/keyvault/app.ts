import { Hono, type Context } from "hono";
import { newUuid, type Clock, type Logger, type Random } from "@sealpod/core";
import { requestContext } from "@sealpod/service";
import { ACTIONS, authorize, isAdministrator, requireAdministrator, type AccessModel, type AccessVault } from "./access.ts";
import { ACCESS_POLICY_OPERATIONS } from "./app/access-policies.ts";
import { AUDIT_OPERATIONS } from "./app/audit.ts";
import { answerError } from "./app/error-answer.ts";
import { Exchange, type KeyvaultEnv, type KeyvaultServices, type RestoreScope } from "./app/exchange.ts";
import { KEY_USE_OPERATIONS } from "./app/key-use.ts";
import { KEY_OPERATIONS } from "./app/keys.ts";
import type { Operation } from "./app/operation.ts";
import { canonicalPath } from "./app/paths.ts";
import { RELEASE_OPERATIONS } from "./app/release.ts";
import { ROLE_OPERATIONS } from "./app/roles.ts";
import { ROTATION_OPERATIONS } from "./app/rotation.ts";
import { SECRET_OPERATIONS } from "./app/secrets.ts";
import { refuseUnknown } from "./app/unknown.ts";
import { WHY_OPERATIONS } from "./app/why.ts";
import { verifyBearer, type BearerContext, type Caller, type TokenIssuer } from "./bearer.ts";
import { badParameter, KeyvaultError } from "./errors.ts";
import { IssuerKeys, trimSlash, type Fetch } from "./issuer-keys.ts";
import type { VaultKind } from "./key-request.ts";
import { PolicyMemory } from "./policy-memory.ts";
import { requireSigner, type ReleaseSigner } from "./release.ts";
import type { Principal, VaultStore } from "./store/types.ts";

const API_VERSION = /^(7\.\d(-preview(\.\d+)?)?|\d{4}-\d{2}-\d{2}(-preview)?)$/;

/**
 * Every operation of the service. The first that fits a path is taken: names come after the words that could be one, such as `versions`.
 */
export const OPERATIONS: readonly Operation[] = [
  ...ROLE_OPERATIONS,
  ...ACCESS_POLICY_OPERATIONS,
  ...AUDIT_OPERATIONS,
  ...WHY_OPERATIONS,
  ...ROTATION_OPERATIONS,
  ...RELEASE_OPERATIONS,
  ...KEY_USE_OPERATIONS,
  ...KEY_OPERATIONS,
  ...SECRET_OPERATIONS,
];

/** One vault. */
export interface Vault {
  /** First label of its host name, lower case. */
  readonly name: string;
  readonly kind: VaultKind;
  /** How it decides; a vault by access policies unless it says `roles`, a managed HSM always by roles. */
  readonly access?: AccessModel;
  /** Who may manage its access and read its audit. Nobody by default. */
  readonly administrators?: readonly Principal[];
  /** The rest of its host name; that of the options when absent. */
  readonly domain?: string;
  /** `resource` of its challenge, and an audience of its tokens; that of the options when absent. */
  readonly resource?: string;
}

/** Options of {@link keyvaultApp}. */
export interface KeyvaultAppOptions {
  readonly store: VaultStore;
  /** A vault answers under `<name>.<domain>`, e.g. domain `vault.sealpod.internal`. */
  readonly domain: string;
  readonly vaults: readonly Vault[];
  /** Whose access tokens count; the first is named in the challenge. At least one. */
  readonly issuers: readonly TokenIssuer[];
  /** `resource` of the challenge. The genuine clients insist that the vault's host ends with `.` and the host of this URL. */
  readonly resource: string;
  /** `aud` values taken beside the resource, e.g. `https://vault.azure.net`, which the genuine sidecar always asks for. */
  readonly audiences?: readonly string[];
  readonly signer: ReleaseSigner;
  /** The evidence that this vault releases keys to, by name of its root of trust: `amd`, `emulator`. */
  readonly evidenceRoots: readonly string[];
  /** The attestation services whose tokens release keys; any that a release policy names when absent. */
  readonly authorities?: readonly string[];
  /** `aud` values that attestation tokens may have, beside the URL of the vault. */
  readonly attestationAudiences?: readonly string[];
  /**
   * Where backups can be restored; into the vault of the same name alone when absent, which may be in another database. Who may restore into a vault gets everything there that a policy of
   * that vault gives him, and may replace release policies there that are not immutable: a backup that goes elsewhere leaves the rules of its owner behind.
   */
  readonly restoreInto?: RestoreScope;
  /** Fetches OpenID documents of token issuers and attestation services; must verify TLS. */
  readonly fetch: Fetch;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

/** A vault with everything about it. */
interface Face extends AccessVault {
  readonly host: string;
  readonly resource: string;
  readonly bearer: BearerContext;
}

/**
 * The key vaults as an HTTP application, with the wire format of Key Vault and Managed HSM (specs/attestation.md 7).
 * The URL of a request must have the host that the client used: it chooses the vault, and key ids are made of it.
 *
 * Every request of a known caller for an operation leaves one line in the audit before it is answered, whatever comes of it; if the line cannot be written, the answer is 500.
 * Requests without a valid token are in the log alone: there is nobody to write down, and strangers must not fill the disk.
 * @throws {KeyvaultError} ERR_KEYVAULT_ARGUMENT
 */
export function keyvaultApp(options: KeyvaultAppOptions): Hono {
  const [firstIssuer] = options.issuers;
  if (firstIssuer === undefined) throw new KeyvaultError("ERR_KEYVAULT_ARGUMENT", "a key vault needs at least one token issuer");
  requireSigner(options.signer);
  const { store, clock, random, logger } = options;
  const keys = new IssuerKeys(options.fetch, clock);
  const faces = new Map(options.vaults.map((vault) => faceOf(options, keys, vault)).map((face) => [face.host, face]));
  const services: KeyvaultServices = {
    store,
    clock,
    random,
    logger,
    restoreInto: options.restoreInto ?? "same-vault",
    releases: {
      store,
      keys,
      policies: new PolicyMemory(),
      clock,
      random,
      signer: options.signer,
      evidenceRoots: options.evidenceRoots,
      ...(options.authorities === undefined ? {} : { authorities: options.authorities }),
      ...(options.attestationAudiences === undefined ? {} : { audiences: options.attestationAudiences }),
    },
  };

  const app = new Hono<KeyvaultEnv>({ getPath: canonicalPath });

  app.use(async (c, next) => {
    const { id, clientRequestId } = requestContext(c);
    const requestId = id === "none" ? newUuid(random) : id;
    c.set("requestId", requestId);
    c.header("x-ms-request-id", requestId);
    c.header("x-ms-keyvault-region", "local");
    c.header("cache-control", "no-cache");
    c.header("x-content-type-options", "nosniff");
    const given = clientRequestId ?? c.req.header("x-ms-client-request-id");
    if (given !== undefined && /^[\w.-]{1,100}$/.test(given)) c.header("x-ms-client-request-id", given);
    await next();
  });

  /** The vault and the caller, before anything else is looked at: a client's first request has neither body nor token. */
  const authenticate = async (
    c: Context<KeyvaultEnv>,
    operation: string,
    own: boolean,
    admission?: (exchange: Exchange) => Promise<void>,
  ): Promise<Exchange> => {
    const url = new URL(c.req.url);
    const vault = requireFace(faces, url);
    const verify = async (): Promise<Caller> => verifyBearer(vault.bearer, c.req.header("authorization"));
    const caller = await verify();
    const versions = own ? [] : url.searchParams.getAll("api-version");
    const exchange = new Exchange(services, c, {
      vault,
      caller,
      base: `https://${url.host}`,
      apiVersion: versions.join(","),
      requestId: c.get("requestId"),
      operation,
      admitAgain: async () => {
        await verify();
        await admission?.(exchange);
      },
    });
    return exchange;
  };

  const answer = async (c: Context<KeyvaultEnv>, operation: Operation): Promise<Response> => {
    const admission = async (one: Exchange): Promise<void> => admit(one, operation);
    const exchange = await authenticate(c, operation.name, operation.own === true, admission);
    // Another kind of vault has no such operation: nothing is decided, so nothing is audited.
    if (operation.only !== undefined && operation.only !== exchange.vault.kind) return refuseUnknown(OPERATIONS, exchange);
    try {
      if (operation.own !== true) requireApiVersion(exchange.apiVersion);
      await admission(exchange);
      const response = await operation.run(exchange);
      await exchange.auditAllowed();
      return response;
    } catch (error) {
      await exchange.auditRefused(error);
      throw error;
    }
  };
  // A genuine operation that is not here: without this its name would be looked up as a version of the key.
  app.get("/keys/:name/attestation", async (c) => refuseUnknown(OPERATIONS, await authenticate(c, "unknown", true)));
  for (const operation of OPERATIONS) app.on(operation.method, [...operation.paths], (c) => answer(c, operation));

  app.all("*", async (c) => refuseUnknown(OPERATIONS, await authenticate(c, "unknown", true)));
  app.onError((error, c) => answerError(logger, error, c, () => ({ issuer: firstIssuer, resource: resourceOf(faces, options, c) })));
  // Its variables are nobody's business: services take plain applications.
  return app as unknown as Hono;
}

/** Lets the caller in, or throws. The parts of the path are not looked up before: a refusal is the same whether they exist or not. */
async function admit(exchange: Exchange, operation: Operation): Promise<void> {
  const { vault, caller, store } = exchange;
  const { need } = operation;
  if (need === "administrator") {
    requireAdministrator(vault, caller);
    return;
  }
  if (typeof need === "object" && isAdministrator(vault, caller)) return;
  const action = ACTIONS[typeof need === "object" ? need.administratorOr : need];
  await authorize({ store, vault, caller, action, scope: operation.scope(exchange) });
}

function requireApiVersion(version: string): void {
  // Several come joined by commas: no version has one.
  if (version === "" || version.includes(",")) throw badParameter("api-version must be specified, once.");
  if (!API_VERSION.test(version)) throw badParameter(`The api-version ${JSON.stringify(version.slice(0, 40))} is not supported.`);
}

function faceOf(options: KeyvaultAppOptions, keys: IssuerKeys, vault: Vault): Face {
  const { name, kind } = vault;
  const access = vault.access ?? (kind === "managedhsm" ? "roles" : "policies");
  if (kind === "managedhsm" && access !== "roles") {
    throw new KeyvaultError("ERR_KEYVAULT_ARGUMENT", `vault ${name} is a managed HSM with access policies, expected roles: managed HSMs have no others`);
  }
  const resource = vault.resource ?? options.resource;
  const audiences = [resource, ...(options.audiences ?? [])].map(trimSlash);
  return {
    name,
    kind,
    access,
    administrators: vault.administrators ?? [],
    host: `${name}.${vault.domain ?? options.domain}`,
    resource,
    bearer: { issuers: options.issuers, audiences, keys, clock: options.clock },
  };
}

function requireFace(faces: ReadonlyMap<string, Face>, url: URL): Face {
  const face = faces.get(url.hostname);
  if (face !== undefined) return face;
  throw new KeyvaultError("ERR_KEYVAULT_NOT_FOUND", `There is no vault under the host ${url.hostname.slice(0, 260)}.`, { details: { inner: "VaultNotFound" } });
}

function resourceOf(faces: ReadonlyMap<string, Face>, options: KeyvaultAppOptions, c: Context): string {
  return faces.get(new URL(c.req.url).hostname)?.resource ?? options.resource;
}
