import { Hono, type Context } from "hono";
import { bodyLimit } from "hono/body-limit";
import { decodeUtf8, isSealpodError, messageOf, toBase64, toHex, type Logger } from "@sealpod/core";
import { parseAttestRequest } from "./attest-request.ts";
import { attest, type AttestationService } from "./attest.ts";
import { AttestationError, type AttestationErrorCode } from "./errors.ts";
import type { SigningKey } from "./store.ts";

/** Genuine requests have some 40 KiB; runtime data may make them larger. */
const MAX_BODY = 2 * 1024 * 1024;
const API_VERSION = /^\d{4}-\d{2}-\d{2}(-preview)?$/;

/** Options of {@link attestationApp}. */
export interface AttestationAppOptions extends AttestationService {
  readonly logger: Logger;
}

/**
 * The attestation service as an HTTP application, with the wire format of Microsoft Azure Attestation (specs/attestation.md 4). Paths may be in any letter case.
 * @throws {AttestationError} ERR_ATTESTATION_ARGUMENT if the issuer is not a plain https URL, or no root is given
 */
export function attestationApp(options: AttestationAppOptions): Hono {
  const { issuer, store, logger } = options;
  requireIssuer(issuer);
  if (options.roots.length === 0) throw new AttestationError("ERR_ATTESTATION_ARGUMENT", "no trust root is given: every report would be refused");

  const app = new Hono({ getPath: canonicalPath });
  const limit = bodyLimit({
    maxSize: MAX_BODY,
    onError: () => Promise.reject(new AttestationError("ERR_ATTESTATION_TOO_LARGE", `the request body is larger than ${MAX_BODY} bytes`)),
  });

  app.post("/attest/sevsnpvm", limit, async (c) => {
    requireApiVersion(c);
    const type = (c.req.header("content-type") ?? "application/json").split(";")[0]?.trim().toLowerCase();
    if (type !== "application/json")
      throw new AttestationError("ERR_ATTESTATION_MEDIA_TYPE", `the content type is ${(type ?? "").slice(0, 100)}, expected application/json`);
    const attestation = await attest(options, parseAttestRequest(bodyText(await c.req.arrayBuffer())));
    const { endorsement } = attestation;
    logger.log(endorsement.kind === "refused" ? "warn" : "info", "token issued", {
      root: attestation.root,
      endorsement: endorsement.kind,
      compliance: endorsement.kind === "endorsed" ? endorsement.claim : undefined,
      problem: endorsement.kind === "refused" ? endorsement.problem : undefined,
    });
    // Not of the genuine service: it spares the owner a search for why the compliance status is missing.
    c.header("x-sealpod-uvm-endorsement", endorsement.kind);
    return c.json({ token: attestation.token });
  });

  app.get("/certs", (c) => c.json({ keys: store.signingKeys().map(jwk) }));

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

  app.all("*", (c) => {
    const what = `${c.req.method} ${c.req.path.slice(0, 200)}`;
    if (/^\/(attest|policies|certificates|certificates:(add|remove)|tcbbaselines|operations)(\/|$)/.test(c.req.path)) {
      throw new AttestationError(
        "ERR_ATTESTATION_UNSUPPORTED",
        `${what} is not implemented by this attestation service: it attests SEV-SNP VMs under its default policy`,
      );
    }
    throw new AttestationError("ERR_ATTESTATION_NOT_FOUND", `there is no operation ${what}`);
  });

  app.onError((error, c) => errorResponse(options, error, c));
  return app;
}

const CLAIMS: readonly string[] = [
  "x-ms-attestation-type",
  "x-ms-compliance-status",
  "x-ms-inittime",
  "x-ms-policy-hash",
  "x-ms-runtime",
  "x-ms-sevsnpvm-hostdata",
  "x-ms-sevsnpvm-is-debuggable",
  "x-ms-sevsnpvm-launchmeasurement",
  "x-ms-sevsnpvm-reportdata",
  "x-ms-ver",
  "x-sealpod-root",
];

/** `x5c` alone in the genuine service; `n` and `e` beside it are for clients that do not read certificates. */
function jwk(key: SigningKey): Record<string, unknown> {
  const { n, e } = key.publicKey.export({ format: "jwk" });
  return { kid: key.kid, kty: "RSA", alg: "RS256", use: "sig", n, e, x5c: [toBase64(key.certificate)] };
}

function canonicalPath(request: Request): string {
  const path = new URL(request.url).pathname.toLowerCase().replace(/\/{2,}/g, "/");
  return path.length > 1 && path.endsWith("/") ? path.slice(0, -1) : path;
}

function requireApiVersion(c: Context): void {
  const versions = new URL(c.req.url).searchParams.getAll("api-version");
  if (versions.length === 1 && API_VERSION.test(versions[0] ?? "")) return;
  const found = versions.length === 0 ? "none" : versions.map((version) => JSON.stringify(version.slice(0, 40))).join(", ");
  throw new AttestationError("ERR_ATTESTATION_REQUEST", `the query parameter api-version is required, once, such as 2022-08-01; found ${found}`);
}

function bodyText(body: ArrayBuffer): string {
  try {
    return decodeUtf8(new Uint8Array(body), "the request body");
  } catch (cause) {
    throw new AttestationError("ERR_ATTESTATION_REQUEST", messageOf(cause), { cause });
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

/** `error.code` of the answers. */
const WIRE_CODES: Readonly<Record<AttestationErrorCode, string>> = {
  ERR_ATTESTATION_ARGUMENT: "InternalServerError",
  ERR_ATTESTATION_EVIDENCE: "InvalidParameter",
  ERR_ATTESTATION_INIT_TIME_DATA: "InvalidParameter",
  ERR_ATTESTATION_MEDIA_TYPE: "UnsupportedMediaType",
  ERR_ATTESTATION_NOT_FOUND: "NotFound",
  ERR_ATTESTATION_REQUEST: "InvalidParameter",
  ERR_ATTESTATION_RUNTIME_DATA: "InvalidParameter",
  ERR_ATTESTATION_STORE: "InternalServerError",
  ERR_ATTESTATION_TOO_LARGE: "RequestEntityTooLarge",
  ERR_ATTESTATION_UNSUPPORTED: "NotImplemented",
};

/** The body names the check that failed: whoever holds the evidence can verify it as well, so this tells nobody a secret. */
function errorResponse(options: AttestationAppOptions, error: Error, c: Context): Response {
  if (!isSealpodError(error) || !(error instanceof AttestationError) || error.row.http === 500) {
    const id = toHex(options.random.bytes(8));
    options.logger.log("error", "request failed", { id, problem: messageOf(error) });
    return c.json({ error: { code: "InternalServerError", message: `The service failed. Id in its log: ${id}` } }, 500);
  }
  const check = error.details["check"];
  const inner = typeof check === "string" ? check : error.code;
  options.logger.log("warn", "request refused", { code: error.code, check: inner, problem: error.message });
  return c.json(
    { error: { code: WIRE_CODES[error.code], message: error.message, innererror: { code: inner, ...(error.hint === undefined ? {} : { hint: error.hint }) } } },
    error.row.http,
  );
}
