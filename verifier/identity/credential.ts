import { IdentityError } from "./errors.ts";

/** The assertions that may stand for an application; all three parts are compared exactly, letter case included, without wildcards. */
export interface FederatedCredential {
  /** 3 to 120 letters, digits, `-` and `_`; the first a letter or digit. */
  readonly name: string;
  /** The `iss` claim, a trailing slash included. */
  readonly issuer: string;
  /** The `sub` claim, e.g. `system:serviceaccount:default:web`. */
  readonly subject: string;
  /** One of these must be in the `aud` claim; `api://AzureADTokenExchange` by custom. */
  readonly audiences: readonly string[];
  readonly description?: string;
}

/** The audience that Entra ID expects of a federated token. */
export const TOKEN_EXCHANGE_AUDIENCE = "api://AzureADTokenExchange";
/** The limit of Entra ID for one application. */
export const MAX_CREDENTIALS = 20;

/** The length of Entra ID for issuer, subject and audience. */
const MAX_TEXT = 600;
/** Entra ID takes one; more than a few would be a list that nobody reads. */
const MAX_AUDIENCES = 10;
const NAME = /^[A-Za-z0-9][A-Za-z0-9_-]{2,119}$/;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
/** ARM's id of a managed identity; names as ARM allows them. */
const RESOURCE_ID =
  /^\/subscriptions\/[0-9a-f-]{36}\/resourcegroups\/[-\w.()]{1,90}\/providers\/microsoft\.managedidentity\/userassignedidentities\/[a-z0-9][-_a-z0-9]{2,127}$/i;

/** @throws {IdentityError} ERR_IDENTITY_ARGUMENT */
export function checkCredential(credential: FederatedCredential): void {
  const { name, issuer, subject, audiences, description = "" } = credential;
  if (!NAME.test(name)) {
    throw argument(`credential name ${shown(name)}: expected 3 to 120 letters, digits, '-' and '_', the first a letter or digit`);
  }
  const url = URL.canParse(issuer) ? new URL(issuer) : undefined;
  if (url?.protocol !== "https:" || url.search !== "" || url.hash !== "" || url.username !== "" || url.password !== "" || issuer.length > MAX_TEXT) {
    throw argument(
      `credential ${name}: the issuer must be an https URL without query, fragment or user, of ${MAX_TEXT} characters or fewer, found ${shown(issuer)}`,
    );
  }
  if (subject === "" || audiences.length === 0 || audiences.includes("")) throw argument(`credential ${name}: subject and audiences must not be empty`);
  if (audiences.length > MAX_AUDIENCES) throw argument(`credential ${name}: found ${audiences.length} audiences, expected ${MAX_AUDIENCES} or fewer`);
  for (const [what, text] of [
    ["issuer", issuer],
    ["subject", subject],
    ...audiences.map((audience) => ["audience", audience] as const),
    ["description", description],
  ] as const) {
    if (text.length > MAX_TEXT) throw argument(`credential ${name}: the ${what} has ${text.length} characters, expected ${MAX_TEXT} or fewer`);
    // White space at an end is what a copied line brings along, and it would never match.
    if (text.trim() !== text || hasControl(text))
      throw argument(`credential ${name}: the ${what} ${shown(text)} begins or ends with white space, or has control characters`);
  }
}

/** @throws {IdentityError} ERR_IDENTITY_ARGUMENT unless `value` is a lower-case UUID */
export function checkUuid(what: string, value: string): void {
  if (!UUID.test(value)) throw argument(`the ${what} ${shown(value)} is not a lower-case UUID`);
}

/** @throws {IdentityError} ERR_IDENTITY_ARGUMENT */
export function checkName(what: string, value: string): void {
  if (value.length === 0 || value.length > 120 || value.trim() !== value || hasControl(value)) {
    throw argument(`the ${what} ${shown(value)} is not usable: expected 1 to 120 characters without white space at its ends`);
  }
}

/** @throws {IdentityError} ERR_IDENTITY_ARGUMENT unless `value` is the ARM id of a user-assigned managed identity */
export function checkResourceId(value: string): void {
  if (RESOURCE_ID.test(value)) return;
  throw argument(
    `the resource id ${shown(value)} is not that of a managed identity: expected /subscriptions/{UUID}/resourceGroups/{name}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}`,
  );
}

function argument(message: string): IdentityError {
  return new IdentityError("ERR_IDENTITY_ARGUMENT", message);
}

function hasControl(text: string): boolean {
  // eslint-disable-next-line no-control-regex -- control characters would forge lines in answers and logs
  return /[\u0000-\u001f\u007f]/.test(text);
}

function shown(value: string): string {
  return JSON.stringify(value.length > 200 ? `${value.slice(0, 200)}…` : value);
}
