import { createHash, X509Certificate } from "node:crypto";
import { isSealpodError, messageOf, type Clock, type JsonObject } from "@sealpod/core";
import type { FederatedCredential } from "./credential.ts";
import { audiencesOf, difference, isoTime, quote, text } from "./hints.ts";
import { parseUnverified, verifySignature, type UnverifiedToken, type VerificationKey } from "./jwt.ts";
import type { Application } from "./store.ts";
import { aadsts, CLOCK_SKEW, tenantIssuer, type TokenService } from "./token-service.ts";

/**
 * Verifies a client assertion (RFC 7523 section 3): a token of another issuer that a federated credential names, or one that the application signed with its certificate.
 * Assertions may be used again until they end, as at Entra ID: a pod's token is a file that serves for an hour.
 * @throws {IdentityError} with `details.aadsts`
 */
export async function verifyAssertion(service: TokenService, application: Application, assertion: string): Promise<void> {
  let unverified: UnverifiedToken;
  try {
    unverified = parseUnverified(assertion);
  } catch (cause) {
    throw aadsts(50027, `JWT token is invalid or malformed: ${messageOf(cause)}.`, cause);
  }
  // RFC 7523 section 3: a client that vouches for itself is its own issuer. An issuer of federation is a URL, so that neither is taken for the other.
  if (unverified.claims["iss"] === application.clientId) await verifyOwnAssertion(service, application, assertion, unverified);
  else await verifyFederated(service, application, assertion, unverified);
}

/**
 * A federated token: its issuer is one that the application names, that issuer signed it, it is in its time, and one credential matches issuer, subject and audience exactly.
 * The order matters: what the credentials expect of subject and audience is told to the issuer's own tokens only, and no address is asked for keys that nobody registered.
 */
async function verifyFederated(
  service: TokenService,
  application: Application,
  assertion: string,
  { header, claims: unverified }: UnverifiedToken,
): Promise<void> {
  const credentials = await service.store.federatedCredentials(application.clientId);
  const issuer = unverified["iss"];
  const found = `Assertion Issuer: '${text(issuer)}'. Assertion Subject: '${text(unverified["sub"])}'. Assertion Audience: '${quote(audiencesOf(unverified["aud"]).join(", "))}'.`;
  if (credentials.length === 0) {
    throw aadsts(
      70021,
      `No matching federated identity record found for presented assertion. ${found} Application ${application.clientId} has no federated identity credential.`,
    );
  }
  const fromIssuer = credentials.filter((credential) => credential.issuer === issuer);
  if (typeof issuer !== "string" || fromIssuer.length === 0) {
    const expected = [...new Set(credentials.map((credential) => credential.issuer))];
    const say = typeof issuer === "string" ? difference("issuer", issuer, expected) : "The assertion has no issuer.";
    throw aadsts(700211, `No matching federated identity record found for presented assertion issuer '${text(issuer)}'. ${say}`);
  }
  const key = await keyOf(service, issuer, header["kid"]);
  const claims = await verified(assertion, key, 50013, "Assertion failed signature validation");
  checkTime(claims, service.clock);
  matchCredential(fromIssuer, claims, found);
}

async function keyOf(service: TokenService, issuer: string, kid: unknown): Promise<VerificationKey> {
  const fail = (problem: string): Error => aadsts(50013, `Assertion failed signature validation. [Reason - ${problem}.]`);
  if (typeof kid !== "string" || kid === "") throw fail("the assertion's header has no kid, which names the key");
  const cluster = service.clusters.find((item) => item.issuer === issuer);
  if (cluster !== undefined) {
    const own = await service.store.findKey("cluster", cluster.name, kid);
    if (own === undefined) throw fail(`the cluster has no key with kid '${quote(kid)}'`);
    return own;
  }
  if (service.federation === undefined) throw fail(`this service asks no other issuers for their keys, and '${quote(issuer)}' is none of its clusters`);
  try {
    const key = await service.federation.key(issuer, kid);
    if (key === undefined) throw fail(`issuer '${quote(issuer)}' publishes no key with kid '${quote(kid)}' that can verify (RS256, ES256, ES384, ES512)`);
    return key;
  } catch (cause) {
    if (!isSealpodError(cause) || cause.code !== "ERR_IDENTITY_UNREACHABLE") throw cause;
    throw aadsts(90061, `Request to External OIDC endpoint failed. [Reason - ${quote(cause.message)}]`, cause);
  }
}

/** A token that the application signed with the key of a certificate that it has registered: `private_key_jwt` of OpenID Connect Core section 9. */
async function verifyOwnAssertion(service: TokenService, application: Application, assertion: string, { header }: UnverifiedToken): Promise<void> {
  const certificates = await service.store.clientCertificates(application.clientId);
  const wanted = { "x5t#S256": header["x5t#S256"], x5t: header["x5t"], kid: header["kid"] };
  const found = certificates.find(({ der }) => {
    const strong = createHash("sha256").update(der).digest("base64url");
    // SHA-1 chooses among certificates that administrators have registered; it proves nothing.
    const weak = createHash("sha1").update(der).digest();
    return wanted["x5t#S256"] === undefined
      ? wanted.x5t === undefined
        ? wanted.kid === strong || wanted.kid === weak.toString("hex").toUpperCase()
        : wanted.x5t === weak.toString("base64url")
      : wanted["x5t#S256"] === strong;
  });
  if (found === undefined) {
    const thumbprint = text(wanted["x5t#S256"] ?? wanted.x5t ?? wanted.kid);
    throw aadsts(
      700027,
      `The certificate with identifier used to sign the client assertion is not registered on application. [Reason - The key was not found., Thumbprint of key used by client: '${thumbprint}'.]`,
    );
  }
  const { publicKey, validFromDate, validToDate } = new X509Certificate(found.der);
  const algorithm = header["alg"] === "PS256" ? "PS256" : "RS256";
  const claims = await verified(assertion, { kid: found.keyId, publicKey, algorithm }, 700027, "Client assertion failed signature validation");
  const now = service.clock.now();
  if (validFromDate.getTime() > now || validToDate.getTime() < now) {
    throw aadsts(
      700027,
      `Client assertion failed signature validation. [Reason - The certificate is valid from ${validFromDate.toISOString()} to ${validToDate.toISOString()} alone.]`,
    );
  }
  checkTime(claims, service.clock);
  if (claims["sub"] !== application.clientId)
    throw aadsts(50027, `JWT token is invalid or malformed: 'sub' is '${text(claims["sub"])}', expected the client id as in 'iss'.`);
  const endpoint = `${service.authority}/${application.tenantId}`;
  const accepted = [`${endpoint}/oauth2/v2.0/token`, `${endpoint}/oauth2/token`, tenantIssuer(service.authority, application.tenantId)];
  if (!audiencesOf(claims["aud"]).some((audience) => accepted.includes(audience))) {
    throw aadsts(
      700023,
      `Client assertion audience claim does not match Realm issuer. Found '${quote(audiencesOf(claims["aud"]).join(", "))}', expected '${accepted[0]}'.`,
    );
  }
}

async function verified(assertion: string, key: VerificationKey, number: 50013 | 700027, lead: string): Promise<JsonObject> {
  try {
    return await verifySignature(assertion, key);
  } catch (cause) {
    throw aadsts(number, `${lead}. [Reason - ${messageOf(cause)}.]`, cause);
  }
}

function checkTime(claims: JsonObject, clock: Clock): void {
  const now = Math.floor(clock.now() / 1000);
  const { exp, nbf, iat } = claims;
  const times = [exp, nbf ?? 0, iat ?? 0];
  if (!times.every((time) => typeof time === "number" && Number.isFinite(time))) {
    throw aadsts(50027, "JWT token is invalid or malformed: 'exp' must be a number of seconds, and so must 'nbf' and 'iat' if they are there.");
  }
  const [end = 0, ...starts] = times as number[];
  const start = Math.max(...starts);
  if (end + CLOCK_SKEW < now || start > now + CLOCK_SKEW) {
    const valid = start === 0 ? "ever" : isoTime(start);
    throw aadsts(
      700024,
      `Client assertion is not within its valid time range. Current time: ${isoTime(now)}, assertion valid from ${valid}, expiry time of assertion ${isoTime(end)}.`,
    );
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
      `No matching federated identity record found for presented assertion audience '${quote(audiences.join(", "))}'. ${difference("audience", audiences[0] ?? "", expected)}`,
    );
  }
  const expected = credentials.map((credential) => credential.subject);
  const say = typeof subject === "string" ? difference("subject", subject, expected) : "The assertion has no subject.";
  if (!credentials.some(fitsAudience)) {
    throw aadsts(70021, `No matching federated identity record found for presented assertion. ${found} ${say} The audience does not match either.`);
  }
  throw aadsts(700213, `No matching federated identity record found for presented assertion subject '${text(subject)}'. ${say}`);
}
