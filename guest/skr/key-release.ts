import { asArray, asObject, decodeUtf8, encodeUtf8, fromAnyBase64, messageOf, parseJson, type Clock, type JsonObject, type JsonValue } from "@sealpod/core";
import type { Certificate } from "@sealpod/pki";
import { AccessTokens, challengedResource, resourceOf, type AccessTokenPorts } from "./access-token.ts";
import { fetchAttestationToken } from "./attestation.ts";
import type { BackendPorts, ReleaseBackend, ReleaseRequest } from "./backend.ts";
import { SkrError } from "./errors.ts";
import { collectEvidence, reportDataOf, type EvidencePorts } from "./evidence.ts";
import { expectObject, send, type CallPorts, type HttpResponse } from "./http-client.ts";
import { releaseHint } from "./reasons.ts";
import { verifyRelease } from "./release-signature.ts";
import { generateWrappingKey, keyToJwk, unwrapKey, type WrappingKey } from "./wrapping-key.ts";

const API_VERSION = "7.4";
/** An HSM may take some seconds for a release. */
const TIMEOUT = 30_000;

/** Host name with optional port: nothing that could lead a URL made of it elsewhere. */
const ENDPOINT = /^(?=.{1,260}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*(:\d{1,5})?$/;

/** `name` or `name/version`, in the characters that key stores allow. */
const KID = /^[A-Za-z0-9-]{1,127}(\/[A-Za-z0-9]{1,64})?$/;

/** What the sidecar needs to release keys. */
export interface ReleasePorts extends EvidencePorts, AccessTokenPorts {
  readonly clock: Clock;
  /** Authorities that TLS trusts. */
  readonly roots: readonly Certificate[];
  /** Added to the User-Agent of attestation requests. */
  readonly userAgent: string | undefined;
  /** Makes the key pair of one release: {@link generateWrappingKey} if left out, as it is but in tests, where new keys take most of the time. */
  readonly generateKey?: () => Promise<WrappingKey>;
}

/** What {@link azureBackend} keeps between requests. */
export type AzureOptions = Pick<ReleasePorts, "workloadIdentity" | "clientId" | "readText" | "roots" | "userAgent" | "generateKey">;

/**
 * Checks the host name of an attestation service.
 * @throws {SkrError} ERR_SKR_REQUEST
 */
export function checkEndpoint(name: string, value: string | undefined): string {
  if (value === undefined || value === "") throw invalid(`${name} is missing`);
  if (!ENDPOINT.test(value)) {
    throw invalid(
      `${name} is not a host name`,
      /^[a-z]+:\/\//i.test(value) ? "Leave the scheme out: NAME.vault.azure.net, not https://NAME.vault.azure.net/." : undefined,
    );
  }
  return value;
}

/**
 * Releases keys of a Key Vault or Managed HSM (or Sealpod's) to a token of Microsoft Azure Attestation (or Sealpod's): a fresh
 * wrapping key, bound into a report, attested, shown to the key store; what comes back is verified to be the store's and
 * unwrapped (specs/attestation.md 5.5).
 */
export function azureBackend(options: AzureOptions): ReleaseBackend {
  const tokens = new AccessTokens();
  return {
    name: "azure",
    // Endpoints of Azure are host names without scheme (section 5.2); http and https are answered with what is wrong about them.
    serves: (endpoint) => !/^[a-z0-9+.-]+:\/\//i.test(endpoint) || /^https?:\/\//i.test(endpoint),
    check(request) {
      checkEndpoint("maa_endpoint", request.attestationEndpoint);
      checkEndpoint("akv_endpoint", request.storeEndpoint);
      if (request.kid === "") throw invalid("kid is missing");
      if (!KID.test(request.kid)) throw invalid("kid is not name or name/version");
    },
    async attest(ports, request) {
      const attester = checkEndpoint("maa_endpoint", request.attestationEndpoint);
      const wrapping = await (options.generateKey ?? generateWrappingKey)();
      const runtimeData = encodeUtf8(wrapping.jwks);
      const evidence = await collectEvidence(ports, reportDataOf(runtimeData));
      const token = await fetchAttestationToken(ports, { endpoint: attester, evidence, runtimeData, userAgent: options.userAgent });
      return { token, release: async () => release({ ...ports, ...options }, tokens, request, attester, wrapping, token) };
    },
  };
}

async function release(
  ports: BackendPorts & AzureOptions,
  tokens: AccessTokens,
  request: ReleaseRequest,
  attester: string,
  wrapping: WrappingKey,
  target: string,
): Promise<JsonObject> {
  const what = `key store ${request.storeEndpoint}`;
  const secrets = [target];
  const response = await askStore(ports, tokens, request, secrets, target, what);
  const jws = expectObject(response, what, "ERR_SKR_RELEASE", {
    hint: (status, reason) => releaseHint(status, request.storeEndpoint, request.kid, attester, reason),
    secrets,
  })["value"];
  if (typeof jws !== "string") throw new SkrError("ERR_SKR_RELEASE", `${what} answered without a released key`);
  const { payload } = await verifyRelease(jws, hostName(request.storeEndpoint), ports.roots, ports.clock);
  return openRelease(payload, request, wrapping);
}

/**
 * Asks for the release, once more with a new access token if the store refuses a kept one or wants one for another resource. The new one is fetched anew: a kept one may have been taken back
 * since, and there is no third time.
 * @param secrets access tokens are added to it
 */
async function askStore(
  ports: CallPorts & AzureOptions,
  tokens: AccessTokens,
  request: ReleaseRequest,
  secrets: string[],
  target: string,
  what: string,
): Promise<HttpResponse> {
  const ask = async (accessToken: string): Promise<HttpResponse> => {
    secrets.push(accessToken);
    return send(
      ports,
      {
        method: "POST",
        url: `https://${request.storeEndpoint}/keys/${request.kid}/release?api-version=${API_VERSION}`,
        headers: { "content-type": "application/json", authorization: `Bearer ${accessToken}` },
        body: JSON.stringify({ target }),
        timeoutMs: TIMEOUT,
        secrets,
      },
      what,
    );
  };
  if (request.accessToken !== undefined) return ask(request.accessToken);
  const host = hostName(request.storeEndpoint);
  const resource = tokens.resourceFor(host) ?? resourceOf(host);
  const first = await tokens.get(ports, resource);
  const response = await ask(first.token);
  if (response.status !== 401) return response;
  const wanted = challengedResource(response.challenge, host) ?? resource;
  if (wanted === resource && !first.kept) return response;
  tokens.drop(wanted);
  const second = await ask((await tokens.get(ports, wanted)).token);
  if (second.status !== 401) tokens.rememberResource(host, wanted);
  return second;
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
  const host = hostName(request.storeEndpoint).toLowerCase();
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

function invalid(problem: string, hint?: string): SkrError {
  return new SkrError("ERR_SKR_REQUEST", `invalid request format: ${problem}`, hint === undefined ? {} : { hint });
}
