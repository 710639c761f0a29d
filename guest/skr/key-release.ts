import {
  asArray,
  asObject,
  decodeUtf8,
  encodeUtf8,
  fromAnyBase64,
  messageOf,
  parseJson,
  type Clock,
  type JsonObject,
  type JsonValue,
  type Logger,
} from "@sealpod/core";
import type { Certificate } from "@sealpod/pki";
import { fetchAccessToken, type AccessTokenPorts } from "./access-token.ts";
import { fetchAttestationToken } from "./attestation.ts";
import { SkrError } from "./errors.ts";
import { collectEvidence, type EvidencePorts } from "./evidence.ts";
import { expectObject, send } from "./http-client.ts";
import { verifyRelease } from "./release-signature.ts";
import { generateWrappingKey, keyToJwk, unwrapKey, type WrappingKey } from "./wrapping-key.ts";

const API_VERSION = "7.4";
/** An HSM may take some seconds for a release. */
const TIMEOUT = 30_000;

/** What a key release needs. */
export interface ReleasePorts extends EvidencePorts, AccessTokenPorts {
  readonly clock: Clock;
  readonly logger: Logger;
  /** Authorities that TLS trusts. */
  readonly roots: readonly Certificate[];
  readonly userAgent: string | undefined;
}

/** A key to release, and where. Endpoints are host names with optional port. */
export interface ReleaseRequest {
  readonly attestationEndpoint: string;
  readonly vaultEndpoint: string;
  /** `name` or `name/version`. */
  readonly kid: string;
  /** Access token of the caller's own; otherwise the pod's identity gets one. */
  readonly accessToken: string | undefined;
}

/**
 * Releases a key to this guest: a fresh wrapping key, bound into a report, attested, shown to the key store; what comes
 * back is verified to be the store's and unwrapped (specs/attestation.md 5.5).
 * @returns the JWK as text
 * @throws {SkrError} whose message carries the reason of the service that refused
 */
export async function releaseKey(ports: ReleasePorts, request: ReleaseRequest): Promise<string> {
  const wrapping = await generateWrappingKey();
  const runtimeData = encodeUtf8(wrapping.jwks);
  const evidence = await collectEvidence(ports, runtimeData);
  const target = await fetchAttestationToken(ports, { endpoint: request.attestationEndpoint, evidence, runtimeData, userAgent: ports.userAgent });
  ports.logger.log("info", "attested", { service: request.attestationEndpoint });
  const accessToken = request.accessToken ?? (await fetchAccessToken(ports, request.vaultEndpoint));
  const what = `key store ${request.vaultEndpoint}`;
  const response = await send(
    ports,
    {
      method: "POST",
      url: `https://${request.vaultEndpoint}/keys/${request.kid}/release?api-version=${API_VERSION}`,
      headers: { "content-type": "application/json", authorization: `Bearer ${accessToken}` },
      body: JSON.stringify({ target }),
      timeoutMs: TIMEOUT,
    },
    what,
  );
  const jws = expectObject(response, what, "ERR_SKR_RELEASE")["value"];
  if (typeof jws !== "string") throw new SkrError("ERR_SKR_RELEASE", `${what} answered without a released key`);
  const { payload } = await verifyRelease(jws, hostName(request.vaultEndpoint), ports.roots, ports.clock);
  const jwk = openRelease(payload, request, wrapping);
  ports.logger.log("info", "key released", { store: request.vaultEndpoint, kid: request.kid });
  return JSON.stringify(jwk);
}

/** Takes the key out of the claims of a release. */
function openRelease(payload: JsonObject, request: ReleaseRequest, wrapping: WrappingKey): JsonObject {
  const key = asObject(at(payload, "response", "key", "key"));
  if (key === undefined) throw wrong("it has no response.key.key");
  checkIdentifier(text(key["kid"], "kid"), request);
  const kty = text(key["kty"], "kty");
  const sealed = parseSealed(text(key["key_hsm"], "key_hsm"));
  // The store names the key that it wrapped to; another one means that this answer belongs to another request.
  if (sealed.kid !== undefined && sealed.kid !== wrapping.kid) throw wrong("it is wrapped to another key than that of this request");
  const plaintext = unwrapKey(wrapping.privateKey, sealed.enc, sealed.ciphertext);
  try {
    const jwk = keyToJwk(kty, plaintext);
    for (const member of ["n", "e", "crv", "x", "y"]) {
      const published = key[member];
      if (jwk[member] !== undefined && published !== undefined && !sameBytes(jwk[member], published)) {
        throw wrong(`the unwrapped key is not the one whose public half the store names (${member} differs)`);
      }
    }
    const operations = asArray(key["key_ops"]);
    return { ...(jwk as JsonObject), ...(operations === undefined ? {} : { key_ops: operations }) };
  } finally {
    plaintext.fill(0);
  }
}

/** `key_hsm`: base64url of `{"header":{"kid","alg":"dir","enc"},"ciphertext"}`. */
function parseSealed(encoded: string): { readonly kid: string | undefined; readonly enc: string; readonly ciphertext: Uint8Array } {
  try {
    const sealed = asObject(parseJson(decodeUtf8(fromAnyBase64(encoded, "key_hsm"), "key_hsm"), "key_hsm"));
    const header = asObject(sealed?.["header"]);
    const kid = header?.["kid"];
    return {
      kid: kid === undefined ? undefined : text(kid, "key_hsm.header.kid"),
      enc: text(header?.["enc"], "key_hsm.header.enc"),
      ciphertext: fromAnyBase64(text(sealed?.["ciphertext"], "key_hsm.ciphertext"), "key_hsm.ciphertext"),
    };
  } catch (cause) {
    throw cause instanceof SkrError ? cause : wrong(messageOf(cause), cause);
  }
}

/** The released key must be the one asked for: a signed answer for another key of the same store proves nothing about it. */
function checkIdentifier(kid: string, request: ReleaseRequest): void {
  const url = URL.canParse(kid) ? new URL(kid) : undefined;
  const [empty, keys, name, version, ...rest] = url?.pathname.split("/") ?? [];
  const [askedName, askedVersion] = request.kid.split("/");
  const host = hostName(request.vaultEndpoint).toLowerCase();
  if (url === undefined || url.hostname !== host || empty !== "" || keys !== "keys" || rest.length > 0 || name?.toLowerCase() !== askedName?.toLowerCase()) {
    throw wrong(`the key is ${JSON.stringify(kid.slice(0, 200))}, expected key ${request.kid} of ${host}`);
  }
  if (askedVersion !== undefined && version !== askedVersion) throw wrong(`it is version ${String(version)} of the key, expected ${askedVersion}`);
}

function hostName(endpoint: string): string {
  return endpoint.replace(/:\d+$/, "");
}

/** Compares two base64url numbers without leading zero bytes: stores write them with and without. */
function sameBytes(ours: unknown, theirs: JsonValue): boolean {
  if (typeof ours !== "string" || typeof theirs !== "string") return false;
  return ours === theirs || stripZeros(ours) === stripZeros(theirs);
}

function stripZeros(value: string): string {
  return Buffer.from(value, "base64url")
    .toString("hex")
    .replace(/^(00)+/, "");
}

function at(value: JsonValue, ...path: readonly string[]): JsonValue | undefined {
  let current: JsonValue | undefined = value;
  for (const name of path) current = asObject(current)?.[name];
  return current;
}

function text(value: JsonValue | undefined, what: string): string {
  if (typeof value !== "string") throw wrong(`${what} is not a string`);
  return value;
}

function wrong(problem: string, cause?: unknown): SkrError {
  return new SkrError("ERR_SKR_RELEASED_KEY", `the released key: ${problem}`, { cause });
}
