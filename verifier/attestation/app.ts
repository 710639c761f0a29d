import { Hono, type Context } from "hono";
import { decodeUtf8, isSealpodError, messageOf, parseJson, toHex, type Logger } from "@sealpod/core";
import { parseCertificate } from "@sealpod/pki";
import { requestBody, requestContext } from "@sealpod/service";
import { parseAttestRequest } from "./attest-request.ts";
import { Attester, type AttestationService } from "./attest.ts";
import { parseAttestationType, type AttestationType } from "./attestation-type.ts";
import { AttestationError, type AttestationErrorCode } from "./errors.ts";
import { MAX_REQUEST_TOKEN } from "./jws.ts";
import {
  changeCertificate,
  getCertificates,
  getPolicy,
  jwkOf,
  resetPolicy,
  setPolicy,
  type Management,
  type ManagementAccess,
  type ManagementMode,
} from "./management.ts";
import { PolicyBook } from "./policy-book.ts";
import { KEYS_CACHE_TIME, type PublishedKey } from "./store.ts";
import { completeClaims, signToken, type TokenClaims } from "./token.ts";

/** Genuine requests have some 40 KiB; runtime data may make them larger. */
const MAX_BODY = 2 * 1024 * 1024;
/** A token, and the quotes around it when it comes as a JSON string. */
const MAX_MANAGEMENT_BODY: number = MAX_REQUEST_TOKEN + 16;
const API_VERSION = /^\d{4}-\d{2}-\d{2}(-preview)?$/;
/** RFC 6750 section 2.1; access tokens have a few KiB. */
const BEARER = /^Bearer +([A-Za-z0-9._~+/=-]{1,16384})$/i;
const DEFAULT_RESOURCE = "https://attest.azure.net";

/** Options of {@link attestationApp}. */
export interface AttestationAppOptions extends AttestationService {
  readonly logger: Logger;
  /** Who may read and change policies; without it all management operations answer 401. */
  readonly management?: ManagementAccess;
  /** How policies are protected; `aad` when absent. */
  readonly mode?: ManagementMode;
}

/**
 * The attestation service as an HTTP application, with the wire format of Microsoft Azure Attestation (specs/attestation.md 4). Paths may be in any letter case.
 * @throws {AttestationError} ERR_ATTESTATION_ARGUMENT if the issuer is not a plain https URL, or no root is given
 */
export function attestationApp(options: AttestationAppOptions): Hono {
  const { issuer, store } = options;
  requireIssuer(issuer);
  if (options.roots.length === 0) throw new AttestationError("ERR_ATTESTATION_ARGUMENT", "no trust root is given: every report would be refused");
  const policies = new PolicyBook(store, options.defaultPolicyHash);
  const attester = new Attester(options, policies);
  const management: Management = { store, policies, mode: options.mode ?? "aad" };

  const app = new Hono({ getPath: canonicalPath });

  app.post("/attest/sevsnpvm", async (c) => {
    requireApiVersion(c);
    requireContentType(c, ["application/json"]);
    const request = parseAttestRequest(utf8(await readBody(c, MAX_BODY)));
    const attestation = attester.attest(request);
    const { endorsement } = attestation;
    loggerOf(c, options).log(endorsement.kind === "refused" ? "warn" : "info", attestation.draft ? "draft policy tried" : "token issued", {
      root: attestation.root,
      endorsement: endorsement.kind,
      compliance: endorsement.kind === "endorsed" ? endorsement.claim : undefined,
      problem: endorsement.kind === "refused" ? endorsement.problem : undefined,
    });
    // Not of the genuine service: it spares the owner a search for why the compliance status is missing.
    c.header("x-sealpod-uvm-endorsement", endorsement.kind);
    return c.json({ token: attestation.token });
  });
  app.post("/attest/:type{[^/:]+}", (c) => {
    const type = parseAttestationType(c.req.param("type"));
    throw new AttestationError("ERR_ATTESTATION_UNSUPPORTED", `evidence of type ${type} is not implemented by this attestation service: it attests SevSnpVm`);
  });

  const publish = memo((keys: readonly PublishedKey[]) => JSON.stringify({ keys: keys.map(publicJwk) }));
  app.get("/certs", (c) =>
    c.body(publish(store.publishedKeys()), 200, { "content-type": "application/json", "cache-control": `public, max-age=${KEYS_CACHE_TIME / 1000}` }),
  );

  app.get("/.well-known/openid-configuration", (c) =>
    c.json({
      issuer,
      jwks_uri: `${issuer}/certs`,
      revocation_endpoint: `${issuer}/revoke`,
      response_types_supported: ["token", "none"],
      id_token_signing_alg_values_supported: ["RS256"],
      claims_supported: CLAIMS,
    }),
  );

  /** An operation of management: authentication first, so that strangers learn nothing, not even whether their request is well formed. */
  const managed = async (c: Context, what: string, operation: (subject: string, body: string) => TokenClaims): Promise<Response> => {
    const subject = await authenticate(c, options.management);
    requireApiVersion(c);
    const claims = operation(subject, c.req.method === "GET" ? "" : await readToken(c));
    if (c.req.method !== "GET") loggerOf(c, options).log("info", `${what}: done`, { subject, mode: management.mode });
    return c.json({ token: signToken(options, completeClaims(options, claims)) });
  };
  app.get("/policies/:type{[^/:]+}", async (c) => managed(c, "policy read", () => getPolicy(management, typeOf(c))));
  app.put("/policies/:type{[^/:]+}", async (c) => managed(c, "policy set", (subject, body) => setPolicy(management, typeOf(c), body, subject)));
  app.post("/policies/:type{[^/:]+:reset}", async (c) =>
    managed(c, "policy reset", (subject, body) => resetPolicy(management, parseAttestationType(c.req.param("type").slice(0, -":reset".length)), body, subject)),
  );
  app.get("/certificates", async (c) => managed(c, "certificates read", () => getCertificates(management)));
  for (const operation of ["add", "remove"] as const) {
    app.post(`/certificates:${operation}`, async (c) =>
      managed(c, `certificate ${operation}`, (subject, body) => changeCertificate(management, operation, body, subject)),
    );
  }
  app.get("/tcbbaselines/:type{[^/:]+}", async (c) => {
    await authenticate(c, options.management);
    requireApiVersion(c);
    return c.json({ tcbBaselines: typeOf(c) === "SevSnpVm" ? attester.tcbBaselines() : [] });
  });

  app.all("*", (c) => {
    const what = `${c.req.method} ${c.req.path.slice(0, 200)}`;
    const allowed = METHODS.find(([path]) => path.test(c.req.path))?.[1];
    if (allowed === undefined) throw new AttestationError("ERR_ATTESTATION_NOT_FOUND", `there is no operation ${what}`);
    c.header("allow", allowed);
    throw new AttestationError("ERR_ATTESTATION_METHOD", `there is no operation ${what}, expected ${allowed}`);
  });

  app.onError((error, c) => errorResponse(options, error, c));
  return app;
}

/** Methods of the pages that are there, for requests with another one. */
const METHODS: readonly (readonly [RegExp, string])[] = [
  [/^\/attest\/[^/:]+$/, "POST"],
  [/^\/(certs|\.well-known\/openid-configuration|certificates|tcbbaselines\/[^/:]+)$/, "GET"],
  [/^\/policies\/[^/:]+$/, "GET, PUT"],
  [/^\/(policies\/[^/:]+:reset|certificates:(add|remove))$/, "POST"],
];

const CLAIMS: readonly string[] = [
  "x-ms-attestation-type",
  "x-ms-compliance-status",
  "x-ms-inittime",
  "x-ms-policy-hash",
  "x-ms-policy-signer",
  "x-ms-runtime",
  "x-ms-sevsnpvm-hostdata",
  "x-ms-sevsnpvm-is-debuggable",
  "x-ms-sevsnpvm-launchmeasurement",
  "x-ms-sevsnpvm-reportdata",
  "x-ms-ver",
  "x-sealpod-root",
];

/** `x5c` alone in the genuine service; `n` and `e` beside it are for clients that do not read certificates. */
function publicJwk({ kid, certificate }: PublishedKey): Record<string, unknown> {
  return { kid, alg: "RS256", use: "sig", ...jwkOf(parseCertificate(certificate)) };
}

/** The last result of a function of one object. */
function memo<A extends object, R>(compute: (argument: A) => R): (argument: A) => R {
  let last: { readonly argument: A; readonly result: R } | undefined;
  return (argument) => {
    if (last?.argument !== argument) last = { argument, result: compute(argument) };
    return last.result;
  };
}

function canonicalPath(request: Request): string {
  const path = new URL(request.url).pathname
    .toLowerCase()
    .replaceAll("%3a", ":")
    .replace(/\/{2,}/g, "/");
  return path.length > 1 && path.endsWith("/") ? path.slice(0, -1) : path;
}

function typeOf(c: Context): AttestationType {
  return parseAttestationType(c.req.param("type") ?? "");
}

function requireApiVersion(c: Context): void {
  const versions = new URL(c.req.url).searchParams.getAll("api-version");
  if (versions.length === 1 && API_VERSION.test(versions[0] ?? "")) return;
  const found = versions.length === 0 ? "none" : versions.map((version) => JSON.stringify(version.slice(0, 40))).join(", ");
  throw new AttestationError("ERR_ATTESTATION_REQUEST", `the query parameter api-version is required, once, such as 2022-08-01; found ${found}`);
}

function requireContentType(c: Context, types: readonly [string, ...string[]]): void {
  const type = (c.req.header("content-type") ?? types[0]).split(";")[0]?.trim().toLowerCase() ?? "";
  if (!types.includes(type))
    throw new AttestationError("ERR_ATTESTATION_MEDIA_TYPE", `the content type is ${type.slice(0, 100)}, expected ${types.join(" or ")}`);
}

async function readBody(c: Context, limit: number): Promise<Uint8Array> {
  try {
    return await requestBody(c, limit);
  } catch (cause) {
    if (!isSealpodError(cause) || cause.code !== "ERR_SERVICE_BODY") throw cause;
    throw new AttestationError("ERR_ATTESTATION_TOO_LARGE", cause.message, { cause });
  }
}

/** The token of a management request: plain text, or a JSON string as the genuine client sends it to /certificates. */
async function readToken(c: Context): Promise<string> {
  requireContentType(c, ["text/plain", "application/json", "application/jose", "application/jwt"]);
  const text = utf8(await readBody(c, MAX_MANAGEMENT_BODY));
  if (!text.startsWith('"')) return text;
  let value: unknown;
  try {
    value = parseJson(text, "the request body", { maxLength: MAX_MANAGEMENT_BODY, maxDepth: 0 });
  } catch (cause) {
    throw new AttestationError("ERR_ATTESTATION_REQUEST", messageOf(cause), { cause });
  }
  return String(value);
}

function utf8(body: Uint8Array): string {
  try {
    return decodeUtf8(body, "the request body");
  } catch (cause) {
    throw new AttestationError("ERR_ATTESTATION_REQUEST", messageOf(cause), { cause });
  }
}

async function authenticate(c: Context, access: ManagementAccess | undefined): Promise<string> {
  const challenge = (error?: string): string =>
    `Bearer ${access === undefined ? "" : `authorization_uri="${access.authority}", `}resource="${access?.resource ?? DEFAULT_RESOURCE}"${error === undefined ? "" : `, error="${error}"`}`;
  const refuse = (message: string, error?: string): never => {
    c.header("www-authenticate", challenge(error));
    throw new AttestationError("ERR_ATTESTATION_UNAUTHORIZED", message);
  };
  const token = BEARER.exec(c.req.header("authorization") ?? "")?.[1];
  if (token === undefined) return refuse("a bearer token is required for this operation");
  if (access === undefined) return refuse("this attestation service was set up without anybody who may manage it", "invalid_token");
  const verdict = await access.authenticate(token);
  switch (verdict.kind) {
    case "allowed":
      return verdict.subject;
    case "refused":
      return refuse(`the bearer token is not accepted: ${verdict.problem}`, "invalid_token");
    case "forbidden":
      throw new AttestationError("ERR_ATTESTATION_FORBIDDEN", `${verdict.subject} may not manage this attestation service: ${verdict.problem}`);
  }
}

function requireIssuer(issuer: string): void {
  const url = URL.canParse(issuer) ? new URL(issuer) : undefined;
  if (url?.protocol !== "https:" || issuer.endsWith("/") || url.search !== "" || url.hash !== "" || url.username !== "") {
    throw new AttestationError(
      "ERR_ATTESTATION_ARGUMENT",
      `issuer is ${JSON.stringify(issuer)}, expected an https URL without trailing slash, query, fragment or user`,
    );
  }
}

/** `error.code` of the answers; a code that is not here belongs to the client's half of this package. */
const WIRE_CODES: Readonly<Partial<Record<AttestationErrorCode, string>>> = {
  ERR_ATTESTATION_EVIDENCE: "InvalidParameter",
  ERR_ATTESTATION_FORBIDDEN: "Forbidden",
  ERR_ATTESTATION_INIT_TIME_DATA: "InvalidParameter",
  ERR_ATTESTATION_JWS: "InvalidParameter",
  ERR_ATTESTATION_MEDIA_TYPE: "UnsupportedMediaType",
  ERR_ATTESTATION_METHOD: "MethodNotAllowed",
  ERR_ATTESTATION_NOT_FOUND: "NotFound",
  ERR_ATTESTATION_OPERATION: "InvalidOperation",
  ERR_ATTESTATION_POLICY_DENIED: "PolicyEvaluationError",
  ERR_ATTESTATION_POLICY_EVALUATION: "PolicyEvaluationError",
  ERR_ATTESTATION_POLICY_LIMIT: "PolicyEvaluationError",
  ERR_ATTESTATION_POLICY_SYNTAX: "PolicyParsingError",
  ERR_ATTESTATION_REPORT_POLICY: "InvalidParameter",
  ERR_ATTESTATION_REQUEST: "InvalidParameter",
  ERR_ATTESTATION_RUNTIME_DATA: "InvalidParameter",
  ERR_ATTESTATION_SIGNER: "InvalidOperation",
  ERR_ATTESTATION_TOO_LARGE: "RequestEntityTooLarge",
  ERR_ATTESTATION_UNAUTHORIZED: "Unauthorized",
  ERR_ATTESTATION_UNSUPPORTED: "NotImplemented",
};

/** The body names the check that failed: whoever holds the evidence can verify it as well, so this tells nobody a secret. */
function errorResponse(options: AttestationAppOptions, error: Error, c: Context): Response {
  const logger = loggerOf(c, options);
  const code = error instanceof AttestationError && error.row.http !== 500 ? WIRE_CODES[error.code] : undefined;
  if (!(error instanceof AttestationError) || code === undefined) {
    const id = toHex(options.random.bytes(8));
    logger.log("error", "request failed", { id, problem: messageOf(error) });
    return c.json({ error: { code: "InternalServerError", message: `The service failed. Id in its log: ${id}` } }, 500);
  }
  const check = error.details["check"];
  const inner = typeof check === "string" ? check : error.code;
  logger.log("warn", "request refused", { code: error.code, check: inner, problem: error.message });
  return c.json(
    { error: { code, message: error.message, innererror: { code: inner, ...(error.hint === undefined ? {} : { hint: error.hint }) } } },
    error.row.http,
  );
}

function loggerOf(c: Context, { logger }: AttestationAppOptions): Logger {
  return requestContext(c, logger).logger;
}
