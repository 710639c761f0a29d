import { generateKeyPair, type KeyObject } from "node:crypto";
import { promisify } from "node:util";
import { flattenedDecrypt } from "jose";
import {
  canonicalJson,
  asObject,
  concatBytes,
  decodeUtf8,
  encodeJson,
  encodeUtf8,
  isSealpodError,
  messageOf,
  parseJson,
  sha384,
  type JsonObject,
  type JsonValue,
} from "@sealpod/core";
import { SkrError } from "../errors.ts";
import { collectEvidence, fetchBoundReport, type EvidencePorts } from "../evidence.ts";
import { expectObject, MAX_RESPONSE_BYTES, send, type HttpResponse } from "../http-client.ts";
import { formatResource, type KbsResource } from "./resource-uri.ts";
import { encodeSnpEvidence } from "./snp-evidence.ts";

/** The version of the protocol that key brokers of CoCo take, and the only one (specs/attestation.md 9.1). */
export const KBS_PROTOCOL = "0.4.0";
/** Milliseconds. The broker may have to fetch certificates from AMD. */
const TIMEOUT = 30_000;
const SESSION_COOKIE = "kbs-session-id";
/** A cookie is at most 4096 bytes (RFC 6265 section 6.1). */
const COOKIE = /^kbs-session-id=([!#-+\--:<-[\]-~]{1,4096})(?:;|$)/;
/** A token that fits a header besides others; a longer one the session stands for. */
const MAX_BEARER = 8 * 1024;
const MAX_NONCE = 1024;

const generate = promisify(generateKeyPair);

/** What a guest tells a key broker beside its evidence. */
export interface KbsOptions {
  /** Its init data, TOML text to the byte as it was measured into HOST_DATA: then the broker's policies can look into it. */
  readonly initData?: string;
}

/** A guest that a key broker has attested. The private key is in memory alone. */
export interface KbsSession {
  /** A secret: it may be exchanged for resources until it expires. */
  readonly token: string;
  /** P-256; the token's evidence has its public half, and resources come encrypted to it. */
  readonly privateKey: KeyObject;
  /**
   * Fetches a resource and opens it.
   * @throws {SkrError} ERR_SKR_RELEASE with the broker's reason, ERR_SKR_RELEASED_KEY if it is not encrypted to this session's key, ERR_SKR_NETWORK
   */
  fetchResource(resource: KbsResource): Promise<Uint8Array>;
}

/**
 * Attests this guest to a key broker (RCAR of specs/attestation.md 9.1): a nonce from the broker, a fresh P-256 key, a report over the hash of both, a token.
 * @param base `https://HOST[:PORT]`
 * @throws {SkrError} ERR_SKR_ATTESTATION with the broker's reason, ERR_SKR_REPORT, ERR_SKR_NETWORK
 */
export async function attestToKbs(ports: EvidencePorts, base: string, options: KbsOptions = {}): Promise<KbsSession> {
  const what = `key broker ${new URL(base).host}`;
  const call = async (method: "GET" | "POST", path: string, headers: Readonly<Record<string, string>>, body?: JsonObject): Promise<HttpResponse> => {
    const secrets = Object.values(headers);
    const content = body === undefined ? {} : { body: encodeJson(body) };
    const typed = { accept: "application/json", ...(body === undefined ? {} : { "content-type": "application/json" }), ...headers };
    return send(ports, { method, url: `${base}/kbs/v0/${path}`, headers: typed, ...content, timeoutMs: TIMEOUT, secrets }, what);
  };

  const opened = await call(
    "POST",
    "auth",
    {},
    {
      version: KBS_PROTOCOL,
      tee: "snp",
      "extra-params": { "supported-hash-algorithms": ["sha256", "sha384", "sha512"] },
    },
  );
  const { nonce } = expectObject(opened, what, "ERR_SKR_ATTESTATION");
  if (typeof nonce !== "string" || nonce.length > MAX_NONCE) throw new SkrError("ERR_SKR_ATTESTATION", `${what} gave no nonce`);
  let cookie = cookieOf(opened);
  if (cookie === undefined) throw new SkrError("ERR_SKR_ATTESTATION", `${what} gave no session: there is no cookie ${SESSION_COOKIE}`);

  const { privateKey, publicKey } = await generate("ec", { namedCurve: "prime256v1" });
  const { x = "", y = "" } = publicKey.export({ format: "jwk" });
  const teeKey = { kty: "EC", crv: "P-256", alg: "ECDH-ES+A256KW", x, y };
  const reportData = kbsReportData(nonce, teeKey);
  const attested = await call(
    "POST",
    "attest",
    { cookie },
    {
      "init-data": options.initData === undefined ? null : { format: "toml", body: options.initData },
      "runtime-data": { nonce, "tee-pubkey": teeKey },
      "tee-evidence": { primary_evidence: await evidenceOver(ports, reportData), additional_evidence: "" },
    },
  );
  const { token } = expectObject(attested, what, "ERR_SKR_ATTESTATION", { secrets: [cookie] });
  if (typeof token !== "string" || !/^[\w-]+\.[\w-]+\.[\w-]+$/.test(token)) throw new SkrError("ERR_SKR_ATTESTATION", `${what} answered without a token`);
  cookie = cookieOf(attested) ?? cookie;

  const credentials = { cookie, ...(token.length <= MAX_BEARER ? { authorization: `Bearer ${token}` } : {}) };
  return {
    token,
    privateKey,
    async fetchResource(resource) {
      const response = await call("GET", `resource/${formatResource(resource)}`, credentials);
      return openResource(expectObject(response, what, "ERR_SKR_RELEASE", { secrets: [token, credentials.cookie], hint: refusalHint }), privateKey);
    },
  };
}

/** REPORT_DATA that binds nonce and key: SHA-384 of their canonical JSON, then 16 zero bytes (specs/attestation.md 9.1.3). */
export function kbsReportData(nonce: string, teeKey: JsonObject, additionalEvidence = ""): Uint8Array {
  const bound: JsonValue = { "additional-evidence": additionalEvidence, nonce, "tee-pubkey": teeKey };
  return concatBytes(sha384(encodeUtf8(canonicalJson(bound))), new Uint8Array(16));
}

/** Evidence with the certificates that are at hand; a broker can find them itself, so their lack stops nothing here. */
export async function evidenceOver(ports: EvidencePorts, reportData: Uint8Array): Promise<JsonObject> {
  try {
    const { report, chain } = await collectEvidence(ports, reportData);
    return encodeSnpEvidence(report, chain);
  } catch (error) {
    if (!isSealpodError(error) || error.code !== "ERR_SKR_CERTIFICATES") throw error;
    ports.logger.log("info", "evidence goes without certificates: the key broker has to find them", { problem: messageOf(error) });
    return encodeSnpEvidence((await fetchBoundReport(ports, reportData)).bytes, undefined);
  }
}

/**
 * Opens the JWE of a resource.
 * @throws {SkrError} ERR_SKR_RELEASED_KEY
 */
export async function openResource(jwe: JsonObject, privateKey: KeyObject): Promise<Uint8Array> {
  const text = (name: string): string => {
    const value = jwe[name];
    if (typeof value === "string" && value.length <= MAX_RESPONSE_BYTES) return value;
    throw new SkrError("ERR_SKR_RELEASED_KEY", `the resource: its JWE has no member ${name}`);
  };
  const flattened = { protected: text("protected"), encrypted_key: text("encrypted_key"), iv: text("iv"), ciphertext: text("ciphertext"), tag: text("tag") };
  try {
    // The algorithms are ours to choose: a header that names others belongs to no answer to us.
    const { plaintext } = await flattenedDecrypt(flattened, privateKey, {
      keyManagementAlgorithms: ["ECDH-ES+A256KW"],
      contentEncryptionAlgorithms: ["A256GCM"],
    });
    return plaintext;
  } catch (cause) {
    throw new SkrError("ERR_SKR_RELEASED_KEY", `the resource is not encrypted to the key of this session: ${messageOf(cause)}`, { cause });
  }
}

/**
 * A resource as a key: a JWK if it is the JSON of one, otherwise its bytes as a symmetric key.
 * @throws {SkrError} ERR_SKR_RELEASED_KEY for nothing, which is no key
 */
export function resourceToJwk(bytes: Uint8Array): JsonObject {
  if (bytes.length === 0) throw new SkrError("ERR_SKR_RELEASED_KEY", "the resource is empty: it is no key");
  try {
    const object = bytes[0] === 0x7b ? asObject(parseJson(decodeUtf8(bytes), "resource")) : undefined;
    if (typeof object?.["kty"] === "string") return object;
  } catch {
    // Not JSON: bytes that begin with a brace are a key as good as others.
  }
  return { kty: "oct", k: Buffer.from(bytes).toString("base64url") };
}

/** Value of a `Cookie` header for the session. */
function cookieOf({ cookies = [] }: HttpResponse): string | undefined {
  for (const cookie of cookies) {
    const value = COOKIE.exec(cookie)?.[1];
    if (value !== undefined) return `${SESSION_COOKIE}=${value}`;
  }
  return undefined;
}

function refusalHint(status: number): string {
  if (status === 404) return "Check akv_endpoint: is it the host of a key broker (Trustee)?";
  return status === 401
    ? "The broker answers 401 to all refusals: its resource policy does not allow this guest, the resource is not there, or the token has expired. Its log or audit says which."
    : "";
}
