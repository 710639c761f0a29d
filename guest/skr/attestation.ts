import { encodeJson, encodeUtf8, type JsonValue } from "@sealpod/core";
import { toPaddedBase64url } from "./base64url.ts";
import { SkrError } from "./errors.ts";
import type { Evidence } from "./evidence.ts";
import { expectObject, send, type CallPorts } from "./http-client.ts";
import { attestationHint } from "./reasons.ts";

const API_VERSION = "2020-10-01";
/** Verifying a chain and evaluating a policy takes the service well under a second; the rest is the network. */
const TIMEOUT = 30_000;
/** A genuine token is below 8 KiB; a release request carries it on. */
const MAX_TOKEN = 256 * 1024;

/** What an attestation request is made of. */
export interface AttestationRequest {
  /** Host name with optional port. */
  readonly endpoint: string;
  readonly evidence: Evidence;
  /** The bytes whose SHA-256 is in the report: a JSON object. */
  readonly runtimeData: Uint8Array;
  readonly userAgent: string | undefined;
}

/**
 * Exchanges evidence for a token of an attestation service (specs/attestation.md 4.2, 5.3).
 * @throws {SkrError} ERR_SKR_ATTESTATION with the service's reason, ERR_SKR_NETWORK
 */
export async function fetchAttestationToken(ports: CallPorts, request: AttestationRequest): Promise<string> {
  const what = `attestation service ${request.endpoint}`;
  const response = await send(
    ports,
    {
      method: "POST",
      url: `https://${request.endpoint}/attest/SevSnpVM?api-version=${API_VERSION}`,
      headers: {
        "content-type": "application/json",
        "user-agent": request.userAgent === undefined ? "ConfidentialSkrContainer" : `ConfidentialSkrContainer ${request.userAgent}`,
      },
      body: encodeJson(attestationBody(request, ports.random.bytes(8))),
      timeoutMs: TIMEOUT,
    },
    what,
  );
  const token = expectObject(response, what, "ERR_SKR_ATTESTATION", { hint: (status, reason) => attestationHint(status, request.endpoint, reason) })["token"];
  if (typeof token !== "string" || token.length > MAX_TOKEN || !/^[\w-]+\.[\w-]+\.[\w-]+$/.test(token)) {
    throw new SkrError("ERR_SKR_ATTESTATION", `${what} answered without a token`);
  }
  return token;
}

/** The request body, byte by byte as the genuine sidecar shapes it: padded base64url, a 64-bit number as nonce, empty init-time data. */
function attestationBody(request: AttestationRequest, nonce: Uint8Array): JsonValue {
  const { report, certificates, uvmEndorsement } = request.evidence;
  const inner: JsonValue = {
    SnpReport: toPaddedBase64url(report),
    VcekCertChain: toPaddedBase64url(encodeUtf8(certificates)),
    ...(uvmEndorsement === undefined ? {} : { Endorsements: toPaddedBase64url(encodeUtf8(encodeJson({ Uvm: [toPaddedBase64url(uvmEndorsement)] }))) }),
  };
  return {
    report: toPaddedBase64url(encodeUtf8(encodeJson(inner))),
    runtimeData: { data: toPaddedBase64url(request.runtimeData), dataType: "JSON" },
    initTimeData: { data: "", dataType: "" },
    nonce: new DataView(nonce.buffer, nonce.byteOffset, 8).getBigUint64(0, false),
  };
}
