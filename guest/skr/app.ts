import {
  asObject,
  decodeUtf8,
  encodeJson,
  encodeUtf8,
  fromBase64,
  isSealpodError,
  messageOf,
  parseJson,
  toBase64,
  toHex,
  type JsonObject,
  type SealpodError,
} from "@sealpod/core";
import { isBearerToken } from "./access-token.ts";
import { fetchAttestationToken } from "./attestation.ts";
import { releaseBy, type BackendPorts, type ReleaseBackend } from "./backend.ts";
import { SkrError } from "./errors.ts";
import { collectEvidence, fetchBoundReport, reportDataOf } from "./evidence.ts";
import { azureBackend, checkEndpoint, type ReleasePorts } from "./key-release.ts";
import { requestGate, type RequestGate } from "./request-gate.ts";

/** A request to the sidecar, its body read to the end. */
export interface SkrRequest {
  readonly method: string;
  /** Path without query. */
  readonly path: string;
  readonly body: Uint8Array;
  /** Aborted when the caller is gone. */
  readonly signal?: AbortSignal;
}

/** The sidecar's answer; the body is sent as JSON. */
export interface SkrResponse {
  readonly status: number;
  readonly body: JsonObject;
}

/** The sidecar's API. Never rejects. */
export type SkrHandler = (request: SkrRequest) => Promise<SkrResponse>;

/** Largest request body: room for 64 KiB of runtime data in base64 and an access token. */
export const MAX_REQUEST_BYTES: number = 256 * 1024;

/** Largest runtime data: the attestation token repeats it, and the token must fit in a release request. */
const MAX_RUNTIME_DATA = 64 * 1024;

interface Page {
  readonly method: "GET" | "POST";
  /** Status of an answer to what stops the page, where the error's own would be 403. */
  readonly failure: 403 | 500;
  answer(ports: BackendPorts, body: JsonObject): Promise<JsonObject>;
}

/**
 * Makes the sidecar's API (specs/attestation.md 5.2). It trusts its callers as the containers of one pod trust each other,
 * so it must listen on localhost alone.
 * @param backends who releases keys, the first that serves an endpoint; Azure's alone if left out
 * @param gate to be shared with other faces of the same process
 */
export function createSkr(
  ports: ReleasePorts,
  backends: readonly ReleaseBackend[] = [azureBackend(ports)],
  gate: RequestGate = requestGate(ports),
): SkrHandler {
  const pages: ReadonlyMap<string, Page> = new Map<string, Page>([
    ["/attest/raw", { method: "POST", failure: 403, answer: raw }],
    ["/attest/combined", { method: "POST", failure: 500, answer: combined }],
    ["/attest/maa", { method: "POST", failure: 403, answer: async (call, body) => attest(call, body, ports.userAgent) }],
    ["/key/release", { method: "POST", failure: 403, answer: async (call, body) => release(call, body, backends) }],
  ]);
  return async (request) => {
    let failure: 403 | 500 = 500;
    try {
      // Not behind the gate: it answers while the others are busy, or the pod would be taken for dead.
      if (request.path === "/status" && request.method === "GET") return { status: 200, body: { message: "Status OK" } };
      const page = pages.get(request.path);
      if (page === undefined && request.path !== "/status") {
        throw new SkrError("ERR_SKR_NO_SUCH_PAGE", `no such page: ${request.method} ${request.path.slice(0, 100)}`, {
          hint: "There are GET /status, and POST /attest/raw, /attest/combined, /attest/maa and /key/release.",
        });
      }
      const method = page?.method ?? "GET";
      if (page === undefined || method !== request.method) throw new SkrError("ERR_SKR_METHOD", `${request.path} takes ${method}, not ${request.method}`);
      failure = page.failure;
      return { status: 200, body: await gate(request.signal, async (call) => page.answer(call, parseBody(request.body))) };
    } catch (error) {
      return failed(ports, request, error, failure);
    }
  };
}

async function raw(call: BackendPorts, body: JsonObject): Promise<JsonObject> {
  return { report: toHex((await fetchBoundReport(call, reportDataOf(runtimeData(body)))).bytes) };
}

async function combined(call: BackendPorts, body: JsonObject): Promise<JsonObject> {
  return combinedEvidence(call, runtimeData(body));
}

/** The body of `/attest/combined`: report, certificates and endorsement over runtime data. */
export async function combinedEvidence(call: BackendPorts, data: Uint8Array): Promise<JsonObject> {
  const evidence = await collectEvidence(call, reportDataOf(data));
  return {
    evidence: toBase64(evidence.report),
    endorsements: toBase64(encodeUtf8(evidence.certificates)),
    uvm_endorsements: evidence.uvmEndorsement === undefined ? "" : toBase64(evidence.uvmEndorsement),
    endorsed_tcb: evidence.tcb,
  };
}

async function attest(call: BackendPorts, body: JsonObject, userAgent: string | undefined): Promise<JsonObject> {
  const endpoint = checkEndpoint("maa_endpoint", required(body, "maa_endpoint"));
  const data = runtimeData(body);
  const evidence = await collectEvidence(call, reportDataOf(data));
  return { token: await fetchAttestationToken(call, { endpoint, evidence, runtimeData: data, userAgent }) };
}

async function release(call: BackendPorts, body: JsonObject, backends: readonly ReleaseBackend[]): Promise<JsonObject> {
  const accessToken = optional(body, "access_token");
  if (accessToken !== undefined && !isBearerToken(accessToken)) throw invalid("access_token is not a bearer token");
  const jwk = await releaseBy(backends, call, {
    attestationEndpoint: optional(body, "maa_endpoint"),
    storeEndpoint: required(body, "akv_endpoint"),
    kid: required(body, "kid"),
    accessToken,
  });
  return { key: encodeJson(jwk) };
}

function parseBody(bytes: Uint8Array): JsonObject {
  if (bytes.length > MAX_REQUEST_BYTES) throw new SkrError("ERR_SKR_TOO_LARGE", `the request body has more than ${MAX_REQUEST_BYTES} bytes`);
  let object: JsonObject | undefined;
  try {
    object = asObject(parseJson(decodeUtf8(bytes, "request body"), "request body", { maxLength: MAX_REQUEST_BYTES, maxDepth: 8 }));
  } catch (cause) {
    throw invalid(messageOf(cause), cause);
  }
  if (object === undefined) throw invalid("the body is not a JSON object");
  return object;
}

function runtimeData(body: JsonObject): Uint8Array {
  return decodeRuntimeData(required(body, "runtime_data"), "runtime_data");
}

/**
 * Runtime data out of base64.
 * @throws {SkrError} ERR_SKR_REQUEST
 */
export function decodeRuntimeData(encoded: string, name: string): Uint8Array {
  let bytes: Uint8Array;
  try {
    bytes = fromBase64(encoded, name);
  } catch (cause) {
    throw invalid(messageOf(cause), cause);
  }
  if (bytes.length > MAX_RUNTIME_DATA) throw invalid(`${name} has ${bytes.length} bytes, more than ${MAX_RUNTIME_DATA}`);
  return bytes;
}

function required(body: JsonObject, name: string): string {
  const value = optional(body, name);
  if (value === undefined) throw invalid(`${name} is missing`);
  return value;
}

function optional(body: JsonObject, name: string): string | undefined {
  const value = body[name];
  if (value === undefined || value === null || value === "") return undefined;
  if (typeof value !== "string") throw invalid(`${name} is not a string`);
  return value;
}

function invalid(problem: string, cause?: unknown): SkrError {
  return new SkrError("ERR_SKR_REQUEST", `invalid request format: ${problem}`, { cause });
}

function failed(ports: ReleasePorts, request: SkrRequest, error: unknown, failure: 403 | 500): SkrResponse {
  const path = request.path.slice(0, 100);
  if (!isSealpodError(error)) {
    // What went wrong inside is for the log; its text was not written for a caller.
    ports.logger.log("error", "internal error", { path, problem: messageOf(error) });
    return { status: 500, body: { error: "internal error" } };
  }
  ports.logger.log("warn", "request failed", { path, code: error.code, problem: error.message });
  const { http } = error.row;
  return { status: http === 403 ? failure : http, body: { error: withHint(error) } };
}

/** What an error says, and what to do about it. */
export function withHint(error: SealpodError): string {
  return error.hint === undefined ? error.message : `${error.message.replace(/[.\s]+$/, "")}. ${error.hint}`;
}
