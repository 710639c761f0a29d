import { sign, type KeyObject } from "node:crypto";
import { AttestationError, parseJwks, verifyAttestationToken } from "@sealpod/attestation";
import {
  asObject,
  decodeUtf8,
  encodeJson,
  encodeUtf8,
  fromBase64url,
  isSealpodError,
  messageOf,
  parseJson,
  toBase64,
  toBase64url,
  type Clock,
  type JsonObject,
} from "@sealpod/core";

/** A request to the service and its answer, with the body whole. */
export type ServiceFetch = (url: string, request: ServiceRequest) => Promise<{ readonly status: number; readonly text: string }>;

/** What {@link ServiceFetch} sends. */
export interface ServiceRequest {
  readonly method: "GET" | "PUT" | "POST";
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
}

/** How to reach the policies of a service. */
export interface PolicyService {
  readonly endpoint: string;
  readonly type: string;
  readonly apiVersion: string;
  readonly bearerToken: string | undefined;
  readonly fetch: ServiceFetch;
  readonly clock: Clock;
}

/** Who signs a request. */
export interface PolicySigner {
  /** RSA. */
  readonly key: KeyObject;
  /** DER, the certificate of the key first. */
  readonly certificates: readonly Uint8Array[];
}

/** The stored policy: its text, and whether the token that set it is signed. */
export interface StoredPolicyText {
  readonly text: string;
  readonly signed: boolean;
  /** Claims of the result token. */
  readonly claims: JsonObject;
}

/**
 * GET /policies/{type}.
 * @throws {AttestationError} ERR_ATTESTATION_SERVICE; and those of a result token that does not verify
 */
export async function getPolicy(service: PolicyService): Promise<StoredPolicyText> {
  const claims = await call(service, "GET", `/policies/${encodeURIComponent(service.type)}`);
  const token = claims["x-ms-policy"];
  if (typeof token !== "string") throw serviceError(`the result has no x-ms-policy, but ${Object.keys(claims).join(", ").slice(0, 200)}`);
  const [header = "", payload = ""] = token.split(".", 3);
  try {
    const policy = asObject(parseJson(decodeUtf8(fromBase64url(payload)), "the stored policy"))?.["AttestationPolicy"];
    const alg = asObject(parseJson(decodeUtf8(fromBase64url(header)), "the header of the stored policy"))?.["alg"];
    if (typeof policy !== "string") throw serviceError("the stored policy has no AttestationPolicy");
    return { text: decodeUtf8(fromBase64url(policy.replace(/=+$/, ""))), signed: alg !== "none", claims };
  } catch (cause) {
    if (!isSealpodError(cause) || cause instanceof AttestationError) throw cause;
    throw serviceError(`the stored policy cannot be read: ${cause.message}`, cause);
  }
}

/**
 * PUT /policies/{type}.
 * @throws {AttestationError} as {@link getPolicy}
 */
export async function setPolicy(service: PolicyService, text: string, signer?: PolicySigner): Promise<JsonObject> {
  const payload = encodeJson({ AttestationPolicy: toBase64url(encodeUtf8(text)) });
  return call(service, "PUT", `/policies/${encodeURIComponent(service.type)}`, requestToken(payload, signer));
}

/**
 * POST /policies/{type}:reset.
 * @throws {AttestationError} as {@link getPolicy}
 */
export async function resetPolicy(service: PolicyService, signer?: PolicySigner): Promise<JsonObject> {
  return call(service, "POST", `/policies/${encodeURIComponent(service.type)}:reset`, requestToken("", signer));
}

/** The two forms of specs/attestation.md 4.4: unsecured, and RS256 with x5c. */
function requestToken(payload: string, signer: PolicySigner | undefined): string {
  const header = signer === undefined ? { alg: "none" } : { alg: "RS256", x5c: signer.certificates.map((der) => toBase64(der)) };
  const input = `${toBase64url(encodeUtf8(encodeJson(header)))}.${toBase64url(encodeUtf8(payload))}`;
  return `${input}.${signer === undefined ? "" : toBase64url(sign("sha256", encodeUtf8(input), signer.key))}`;
}

/** Claims of the result, once its signature verifies under a key of the service. */
async function call(service: PolicyService, method: ServiceRequest["method"], path: string, body?: string): Promise<JsonObject> {
  const url = `${service.endpoint}${path}?api-version=${encodeURIComponent(service.apiVersion)}`;
  const answer = await service.fetch(url, {
    method,
    headers: {
      accept: "application/json",
      ...(service.bearerToken === undefined ? {} : { authorization: `Bearer ${service.bearerToken}` }),
      ...(body === undefined ? {} : { "content-type": "text/plain" }),
    },
    ...(body === undefined ? {} : { body }),
  });
  const document = jsonObject(answer.text);
  if (answer.status < 200 || answer.status > 299) throw refusal(answer.status, method, path, document);
  const token = document?.["token"];
  if (typeof token !== "string") throw serviceError(`${method} ${path} was answered without a token`);
  const keys = await service.fetch(`${service.endpoint}/certs`, { method: "GET", headers: { accept: "application/json" } });
  if (keys.status !== 200) throw serviceError(`GET /certs was answered with status ${keys.status}`);
  return verifyAttestationToken(token, { keys: parseJwks(keys.text, "the keys of the service"), clock: service.clock }).claims;
}

function refusal(status: number, method: string, path: string, document: JsonObject | undefined): AttestationError {
  const { code, message, innererror } = asObject(document?.["error"]) ?? {};
  const inner = asObject(innererror)?.["code"];
  const said = [code, message].filter((item): item is string => typeof item === "string").join(": ");
  const hint =
    status === 401
      ? "Pass --bearer-token-file FILE; for Azure: az account get-access-token --resource https://attest.azure.net --query accessToken -o tsv > FILE"
      : status === 403
        ? "The token's owner needs the role Attestation Contributor (to read: Attestation Reader)."
        : inner === "ERR_ATTESTATION_SIGNER"
          ? "Pass --key and --cert: the RSA key of one of the instance's policy certificates, and that certificate."
          : undefined;
  return serviceError(`${method} ${path} was refused with status ${status}${said === "" ? "" : `: ${said.slice(0, 4000)}`}`, undefined, hint);
}

function jsonObject(text: string): JsonObject | undefined {
  try {
    return asObject(parseJson(text));
  } catch (error) {
    if (isSealpodError(error)) return undefined;
    throw error;
  }
}

/** The error of a service that cannot be used. */
export function serviceError(problem: string, cause?: unknown, hint?: string): AttestationError {
  return new AttestationError("ERR_ATTESTATION_SERVICE", problem, { cause, ...(hint === undefined ? {} : { hint }) });
}

/** The error of a request that got no answer. */
export function unreachable(url: string, cause: unknown): AttestationError {
  return serviceError(`${new URL(url).host}: ${messageOf(cause)}`, cause, "Check the URL, and for a service with an authority of its own --ca.");
}
