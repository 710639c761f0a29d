import { asArray, isSealpodError, messageOf, newUuid, type Clock, type JsonObject, type JsonValue, type Random } from "@sealpod/core";
import { AADSTS, type AadstsNumber } from "./aadsts.ts";
import { IdentityError } from "./errors.ts";
import { parseUnverifiedClaims, signToken, verifySignature } from "./jwt.ts";
import type { Application, FederatedCredential, IdentityStore, SigningKey } from "./store.ts";

const CLIENT_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/** Clocks of the cluster and of this service may differ by this much, in seconds; Entra ID allows five minutes. */
const CLOCK_SKEW = 300;
/** Seconds. Entra ID gives 60 to 90 minutes; `expires_in` is one less, as it answers. */
const ACCESS_TOKEN_LIFETIME = 3600;

/** What answers token requests. */
export interface TokenService {
  /** E.g. `https://login.sealpod.internal:8443`, without trailing slash. */
  readonly authority: string;
  /** Tenant ids: lower-case UUIDs. */
  readonly tenants: readonly string[];
  /** Resources that access tokens are given for, e.g. `https://vault.azure.net`; no trailing slash. */
  readonly resources: readonly string[];
  /** The `iss` of the cluster whose tokens may be exchanged. */
  readonly clusterIssuer: string;
  readonly store: IdentityStore;
  readonly clock: Clock;
  readonly random: Random;
}

/** Body of a successful answer. */
export interface TokenResponse {
  readonly token_type: "Bearer";
  readonly expires_in: number;
  readonly ext_expires_in: number;
  readonly access_token: string;
}

/** An error of the table in `aadsts.ts`. */
export function aadsts(number: AadstsNumber, message: string, cause?: unknown): IdentityError {
  return new IdentityError(AADSTS[number].code, message, { details: { aadsts: number }, cause });
}

/**
 * Answers a client-credentials request (RFC 6749 section 4.4, RFC 7523 section 2.2; specs/attestation.md 8.4).
 * @param parameters the decoded form
 * @throws {IdentityError} with `details.aadsts`, a number of {@link AADSTS}
 */
export async function exchangeToken(service: TokenService, tenant: string, parameters: URLSearchParams): Promise<TokenResponse> {
  const tenantId = tenant.toLowerCase();
  if (!service.tenants.includes(tenantId)) {
    throw aadsts(90002, `Tenant '${quote(tenant)}' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud.`);
  }
  // RFC 6749 section 3.2: two values for one name is how a proxy and the endpoint are made to see different requests.
  for (const name of parameters.keys()) {
    if (parameters.getAll(name).length > 1) throw aadsts(9000411, `The request is not properly formatted. The parameter '${quote(name)}' is duplicated.`);
  }
  const grantType = required(parameters, "grant_type");
  if (grantType !== "client_credentials") {
    throw aadsts(70003, `The app requested an unsupported grant type '${quote(grantType)}'. This service knows 'client_credentials'.`);
  }
  const clientId = required(parameters, "client_id").toLowerCase();
  const resource = parseScope(service, required(parameters, "scope"));
  const application = service.store.application(clientId);
  if (application?.tenantId !== tenantId) {
    throw aadsts(
      700016,
      `Application with identifier '${quote(clientId)}' was not found in the directory '${tenantId}'. It is not registered, or in another tenant.`,
    );
  }
  const appidacr = await authenticate(service, application, parameters);
  const access = accessClaims(service, application, resource, appidacr);
  const token = await signToken(access, service.store.signingKeys("tenant")[0]);
  return { token_type: "Bearer", expires_in: ACCESS_TOKEN_LIFETIME - 1, ext_expires_in: ACCESS_TOKEN_LIFETIME - 1, access_token: token };
}

async function authenticate(service: TokenService, application: Application, parameters: URLSearchParams): Promise<"1" | "2"> {
  const assertion = parameters.get("client_assertion");
  const secret = parameters.get("client_secret");
  if (assertion !== null && secret !== null) throw aadsts(9000411, "The request carries both a client_secret and a client_assertion; expected one of them.");
  if (assertion !== null) {
    const type = required(parameters, "client_assertion_type");
    if (type !== CLIENT_ASSERTION_TYPE)
      throw aadsts(50027, `The client_assertion_type '${quote(type)}' is not supported, expected '${CLIENT_ASSERTION_TYPE}'.`);
    await verifyAssertion(service, application, assertion);
    return "2";
  }
  if (secret === null) throw aadsts(7000218, "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.");
  try {
    await service.store.verifyClientSecret(application.clientId, secret);
  } catch (cause) {
    if (!isSealpodError(cause) || cause.code !== "ERR_IDENTITY_SECRET") throw cause;
    throw aadsts(7000215, `Invalid client secret provided: ${cause.message}. Ensure the secret being sent is the client secret value, not its id.`, cause);
  }
  return "1";
}

/**
 * Verifies a federated token: its issuer is one the application names, that issuer signed it, it is in its time, and one
 * credential matches issuer, subject and audience exactly. The order matters: what the credentials expect of subject and
 * audience is told to the issuer's own tokens only.
 */
async function verifyAssertion(service: TokenService, application: Application, assertion: string): Promise<void> {
  let unverified: JsonObject;
  try {
    unverified = parseUnverifiedClaims(assertion);
  } catch (cause) {
    throw aadsts(50027, `JWT token is invalid or malformed: ${messageOf(cause)}.`, cause);
  }
  const credentials = service.store.federatedCredentials(application.clientId);
  const found = `Assertion Issuer: '${text(unverified["iss"])}'. Assertion Subject: '${text(unverified["sub"])}'. Assertion Audience: '${audienceText(unverified["aud"])}'.`;
  if (credentials.length === 0) {
    throw aadsts(
      70021,
      `No matching federated identity record found for presented assertion. ${found} Application ${application.clientId} has no federated identity credential.`,
    );
  }
  const fromIssuer = credentials.filter((credential) => credential.issuer === unverified["iss"]);
  if (fromIssuer.length === 0) {
    const expected = credentials.map((credential) => credential.issuer);
    throw aadsts(
      700211,
      `No matching federated identity record found for presented assertion issuer '${text(unverified["iss"])}'. ${difference("issuer", text(unverified["iss"]), expected)}`,
    );
  }
  if (unverified["iss"] !== service.clusterIssuer) {
    throw aadsts(
      50013,
      `Assertion failed signature validation. [Reason - this service has no keys of issuer '${text(unverified["iss"])}', it knows '${service.clusterIssuer}'.]`,
    );
  }
  const claims = await verifyAssertionSignature(assertion, service.store.signingKeys("cluster"));
  checkTime(claims, service.clock);
  matchCredential(fromIssuer, claims, found);
}

async function verifyAssertionSignature(assertion: string, keys: readonly SigningKey[]): Promise<JsonObject> {
  try {
    return await verifySignature(assertion, keys);
  } catch (cause) {
    throw aadsts(50013, `Assertion failed signature validation. [Reason - ${messageOf(cause)}.]`, cause);
  }
}

function checkTime(claims: JsonObject, clock: Clock): void {
  const now = Math.floor(clock.now() / 1000);
  const { exp, nbf } = claims;
  if (typeof exp !== "number" || (nbf !== undefined && typeof nbf !== "number")) {
    throw aadsts(50027, "JWT token is invalid or malformed: 'exp' must be a number of seconds, and so must 'nbf' if it is there.");
  }
  if (exp + CLOCK_SKEW < now || (nbf ?? 0) > now + CLOCK_SKEW) {
    const times = `Current time: ${isoTime(now)}, assertion valid from ${nbf === undefined ? "ever" : isoTime(nbf)}, expiry time of assertion ${isoTime(exp)}.`;
    throw aadsts(700024, `Client assertion is not within its valid time range. ${times}`);
  }
}

function matchCredential(credentials: readonly FederatedCredential[], claims: JsonObject, found: string): void {
  const subject = claims["sub"];
  const audiences = audiencesOf(claims["aud"]);
  const fitsAudience = (credential: FederatedCredential): boolean => credential.audiences.some((audience) => audiences.includes(audience));
  const fromSubject = credentials.filter((credential) => credential.subject === subject);
  if (fromSubject.some(fitsAudience)) return;
  if (fromSubject.length > 0) {
    const expected = fromSubject.flatMap((credential) => credential.audiences);
    throw aadsts(
      700212,
      `No matching federated identity record found for presented assertion audience '${audienceText(claims["aud"])}'. ${difference("audience", audiences[0] ?? "", expected)}`,
    );
  }
  const expected = credentials.map((credential) => credential.subject);
  if (!credentials.some(fitsAudience)) {
    throw aadsts(
      70021,
      `No matching federated identity record found for presented assertion. ${found} ${difference("subject", text(subject), expected)} The audience does not match either.`,
    );
  }
  throw aadsts(
    700213,
    `No matching federated identity record found for presented assertion subject '${text(subject)}'. ${difference("subject", text(subject), expected)}`,
  );
}

/** Says how the value found differs from the nearest value expected: most mistakes are one slash or one letter. */
function difference(what: string, found: string, expected: readonly string[]): string {
  const [first = "", ...others] = [...expected].sort((a, b) => commonPrefix(b, found) - commonPrefix(a, found));
  const list = [first, ...others.slice(0, 4)].map((value) => `'${quote(value)}'`).join(", ");
  const lead = `The application's credentials expect ${what} ${list}.`;
  if (found === first) return lead;
  if (`${found}/` === first) return `${lead} The trailing slash is missing.`;
  if (found === `${first}/`) return `${lead} The trailing slash is too much.`;
  if (found.toLowerCase() === first.toLowerCase()) return `${lead} The letter case differs.`;
  return `${lead} They differ from character ${commonPrefix(first, found) + 1} on.`;
}

function commonPrefix(a: string, b: string): number {
  let length = 0;
  while (length < a.length && a[length] === b[length]) length++;
  return length;
}

function accessClaims(service: TokenService, application: Application, resource: string, appidacr: "1" | "2"): JsonObject {
  const now = Math.floor(service.clock.now() / 1000);
  const issuer = tenantIssuer(service.authority, application.tenantId);
  return {
    aud: resource,
    iss: issuer,
    iat: now,
    nbf: now,
    exp: now + ACCESS_TOKEN_LIFETIME,
    appid: application.clientId,
    appidacr,
    idp: issuer,
    oid: application.objectId,
    sub: application.objectId,
    tid: application.tenantId,
    uti: newUuid(service.random),
    ver: "1.0",
  };
}

/** The `iss` of access tokens, and the base of the tenant's OpenID configuration. */
export function tenantIssuer(authority: string, tenantId: string): string {
  return `${authority}/${tenantId}/v2.0`;
}

function parseScope(service: TokenService, scope: string): string {
  if (!scope.endsWith("/.default") || /\s/.test(scope)) {
    throw aadsts(70011, `The provided value for the input parameter 'scope' is not valid: '${quote(scope)}', expected one '<resource>/.default'.`);
  }
  // A resource that ends with a slash asks with two: `https://vault.azure.net//.default`.
  const resource = scope.slice(0, -"/.default".length).replace(/\/$/, "");
  if (!service.resources.includes(resource)) {
    throw aadsts(500011, `The resource principal named ${quote(resource)} was not found in the tenant. This service knows ${service.resources.join(", ")}.`);
  }
  return resource;
}

function required(parameters: URLSearchParams, name: string): string {
  const value = parameters.get(name);
  if (value === null || value === "") throw aadsts(900144, `The request body must contain the following parameter: '${name}'.`);
  return value;
}

function audiencesOf(aud: JsonValue | undefined): readonly string[] {
  if (typeof aud === "string") return [aud];
  return (asArray(aud) ?? []).filter((item) => typeof item === "string");
}

function audienceText(aud: JsonValue | undefined): string {
  return quote(audiencesOf(aud).join(", "));
}

function text(value: JsonValue | undefined): string {
  return typeof value === "string" ? quote(value) : "";
}

/** Text of a stranger within our own: one line, not endless. */
function quote(value: string): string {
  // eslint-disable-next-line no-control-regex -- control characters would forge lines in answers and logs
  const line = value.replace(/[\u0000-\u001f\u007f']/g, "?");
  return line.length > 300 ? `${line.slice(0, 300)}…` : line;
}

function isoTime(seconds: number): string {
  const date = new Date(seconds * 1000);
  return Number.isNaN(date.getTime()) ? String(seconds) : date.toISOString();
}
