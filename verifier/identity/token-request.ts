import { isSealpodError } from "@sealpod/core";
import { issueAccessToken, resourceOf, type AccessToken, type ClientProof } from "./access-token.ts";
import { verifyAssertion } from "./assertion.ts";
import { quote } from "./hints.ts";
import type { Application } from "./store.ts";
import { aadsts, type TokenResource, type TokenService } from "./token-service.ts";

const CLIENT_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/** Parameters of a request: MSAL sends some twenty. */
const MAX_PARAMETERS = 64;
/** Characters of a client secret: ours have 43, Entra ID's 40. */
const MAX_SECRET = 1024;

/** Body of a successful answer. */
export interface TokenResponse {
  readonly token_type: "Bearer";
  readonly expires_in: number;
  readonly ext_expires_in: number;
  readonly access_token: string;
}

/** Which of Entra ID's two token endpoints is asked: `/oauth2/token` takes `resource`, `/oauth2/v2.0/token` takes `scope`. */
export type EndpointVersion = "v1" | "v2";

/** A request for a token, before anything about it is believed. */
export interface TokenRequestForm {
  readonly tenant: string;
  readonly endpoint: EndpointVersion;
  /** The decoded form. */
  readonly parameters: URLSearchParams;
  /** The header of that name. */
  readonly authorization?: string | undefined;
}

/** A token, and to whom it went. */
export interface IssuedToken {
  readonly application: Application;
  readonly resource: TokenResource;
  readonly proof: ClientProof;
  readonly access: AccessToken;
}

/**
 * Answers a client-credentials request (RFC 6749 section 4.4, RFC 7523 section 2.2; specs/attestation.md 8.4). `claims` and the other parameters that MSAL adds are not
 * looked at: they ask for what is optional.
 * @throws {IdentityError} with `details.aadsts`, a number of {@link AADSTS}
 */
export async function exchangeToken(service: TokenService, request: TokenRequestForm): Promise<IssuedToken> {
  const { parameters, endpoint } = request;
  const tenantId = request.tenant.toLowerCase();
  if (!service.tenants.includes(tenantId)) {
    throw aadsts(
      90002,
      `Tenant '${quote(request.tenant)}' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud.`,
    );
  }
  checkParameters(parameters);
  const grantType = required(parameters, "grant_type");
  if (grantType !== "client_credentials") {
    throw aadsts(70003, `The app requested an unsupported grant type '${quote(grantType)}'. This service knows 'client_credentials'.`);
  }
  const client = clientOf(request);
  const resource = resourceOf(service, endpoint === "v1" ? required(parameters, "resource") : parseScope(required(parameters, "scope")));
  const application = await service.store.application(client.id);
  if (application?.tenantId !== tenantId) {
    throw aadsts(
      700016,
      `Application with identifier '${quote(client.id)}' was not found in the directory '${tenantId}'. It is not registered, or in another tenant.`,
    );
  }
  const proof = await authenticate(service, application, parameters, client.secret);
  return { application, resource, proof, access: await issueAccessToken(service, application, resource, proof) };
}

/** The answer to a request that was granted. */
export function tokenResponse({ issued, expires, token }: AccessToken): TokenResponse {
  // One less, as Entra ID answers: the token is under way for a moment.
  const left = expires - issued - 1;
  return { token_type: "Bearer", expires_in: left, ext_expires_in: left, access_token: token };
}

function checkParameters(parameters: URLSearchParams): void {
  const names = new Set<string>();
  for (const name of parameters.keys()) {
    // RFC 6749 section 3.2: two values for one name is how a proxy and the endpoint are made to see different requests.
    if (names.has(name)) throw aadsts(9000411, `The request is not properly formatted. The parameter '${quote(name)}' is duplicated.`);
    if (names.size >= MAX_PARAMETERS) throw aadsts(9000411, `The request is not properly formatted. It has more than ${MAX_PARAMETERS} parameters.`);
    names.add(name);
  }
}

/** Who asks, and the secret if the client sent one: in the form, or in the header (RFC 6749 section 2.3.1). */
function clientOf({ parameters, authorization }: TokenRequestForm): { readonly id: string; readonly secret: string | undefined } {
  const secret = parameters.get("client_secret") ?? undefined;
  if (authorization === undefined) return { id: required(parameters, "client_id").toLowerCase(), secret };
  const basic = parseBasic(authorization);
  const named = parameters.get("client_id");
  if (secret !== undefined || parameters.has("client_assertion")) {
    throw aadsts(9000411, "The request proves the client's identity twice, in the header Authorization and in the body; expected one of them.");
  }
  if (named !== null && named.toLowerCase() !== basic.id) throw aadsts(9000411, "The client_id of the body is not the one of the header Authorization.");
  return basic;
}

function parseBasic(authorization: string): { readonly id: string; readonly secret: string } {
  const problem = "The header Authorization is not 'Basic' with base64 of client id, colon and client secret, each percent-encoded.";
  const [, encoded = ""] = /^basic +([A-Za-z0-9+/]+={0,2})$/i.exec(authorization) ?? [];
  const [, id = "", secret = ""] = /^([^:]+):(.+)$/.exec(Buffer.from(encoded, "base64").toString("utf8")) ?? [];
  try {
    if (id !== "") return { id: decodeURIComponent(id.replaceAll("+", " ")).toLowerCase(), secret: decodeURIComponent(secret.replaceAll("+", " ")) };
  } catch (cause) {
    throw aadsts(50027, problem, cause);
  }
  throw aadsts(50027, problem);
}

async function authenticate(service: TokenService, application: Application, parameters: URLSearchParams, secret: string | undefined): Promise<ClientProof> {
  const assertion = parameters.get("client_assertion");
  if (assertion !== null && secret !== undefined) {
    throw aadsts(9000411, "The request carries both a client_secret and a client_assertion; expected one of them.");
  }
  if (assertion !== null) {
    const type = required(parameters, "client_assertion_type");
    if (type !== CLIENT_ASSERTION_TYPE)
      throw aadsts(50027, `The client_assertion_type '${quote(type)}' is not supported, expected '${CLIENT_ASSERTION_TYPE}'.`);
    await verifyAssertion(service, application, assertion);
    return "assertion";
  }
  if (secret === undefined) throw aadsts(7000218, "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.");
  try {
    if (secret.length > MAX_SECRET) throw aadsts(7000215, `Invalid client secret provided: it has ${secret.length} characters, more than any.`);
    await service.store.verifyClientSecret(application.clientId, secret);
  } catch (cause) {
    if (!isSealpodError(cause) || cause.code !== "ERR_IDENTITY_SECRET" || cause.details["aadsts"] !== undefined) throw cause;
    if (cause.details["expired"] === true) throw aadsts(7000222, `The provided client secret keys are expired: ${cause.message}. Make a new one.`, cause);
    throw aadsts(7000215, `Invalid client secret provided: ${cause.message}. Ensure the secret being sent is the client secret value, not its id.`, cause);
  }
  return "secret";
}

function parseScope(scope: string): string {
  if (!scope.endsWith("/.default") || /\s/.test(scope)) {
    throw aadsts(70011, `The provided value for the input parameter 'scope' is not valid: '${quote(scope)}', expected one '<resource>/.default'.`);
  }
  return scope.slice(0, -"/.default".length);
}

function required(parameters: URLSearchParams, name: string): string {
  const value = parameters.get(name);
  if (value === null || value === "") throw aadsts(900144, `The request body must contain the following parameter: '${name}'.`);
  return value;
}
