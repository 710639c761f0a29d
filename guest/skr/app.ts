import { asObject, decodeUtf8, encodeUtf8, fromBase64, isSealpodError, messageOf, parseJson, toBase64, toHex, type JsonObject } from "@sealpod/core";
import { isBearerToken } from "./access-token.ts";
import { fetchAttestationToken } from "./attestation.ts";
import { SkrError } from "./errors.ts";
import { collectEvidence, fetchBoundReport } from "./evidence.ts";
import { releaseKey, type ReleasePorts } from "./key-release.ts";

/** A request to the sidecar, its body read to the end. */
export interface SkrRequest {
  readonly method: string;
  /** Path without query. */
  readonly path: string;
  readonly body: Uint8Array;
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

/** Requests that are worked on at once. Each makes an RSA key, so without a bound one container could starve the pod. */
const MAX_CONCURRENT = 16;

/** Host name with optional port: nothing that could lead a URL made of it elsewhere. */
const ENDPOINT = /^(?=.{1,260}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*(:\d{1,5})?$/;

/** `name` or `name/version`, in the characters that key stores allow. */
const KID = /^[A-Za-z0-9-]{1,127}(\/[A-Za-z0-9]{1,64})?$/;

interface Page {
  readonly method: "GET" | "POST";
  /** Status of an answer to what stops the page, where the error's own would be 403. */
  readonly failure: 403 | 500;
  answer(body: JsonObject): Promise<JsonObject>;
}

/**
 * Makes the sidecar's API (specs/attestation.md 5.2). It trusts its callers as the containers of one pod trust each other,
 * so it must listen on localhost alone.
 */
export function createSkr(ports: ReleasePorts): SkrHandler {
  const pages: ReadonlyMap<string, Page> = new Map<string, Page>([
    ["/status", { method: "GET", failure: 500, answer: () => Promise.resolve({ message: "Status OK" }) }],
    [
      "/attest/raw",
      { method: "POST", failure: 403, answer: async (body) => ({ report: toHex((await fetchBoundReport(ports.reports, runtimeData(body))).bytes) }) },
    ],
    ["/attest/combined", { method: "POST", failure: 500, answer: (body) => combined(ports, body) }],
    ["/attest/maa", { method: "POST", failure: 403, answer: (body) => attest(ports, body) }],
    ["/key/release", { method: "POST", failure: 403, answer: (body) => release(ports, body) }],
  ]);
  let working = 0;
  return async (request) => {
    let failure: 403 | 500 = 500;
    working++;
    try {
      const page = pages.get(request.path);
      if (page === undefined) throw new SkrError("ERR_SKR_NO_SUCH_PAGE", `no such page: ${request.method} ${request.path.slice(0, 100)}`);
      if (page.method !== request.method) throw new SkrError("ERR_SKR_METHOD", `${request.path} takes ${page.method}, not ${request.method}`);
      if (working > MAX_CONCURRENT) throw new SkrError("ERR_SKR_BUSY", `already ${MAX_CONCURRENT} requests at work`);
      failure = page.failure;
      return { status: 200, body: await page.answer(page.method === "GET" ? {} : parseBody(request.body)) };
    } catch (error) {
      return failed(ports, request, error, failure);
    } finally {
      working--;
    }
  };
}

async function combined(ports: ReleasePorts, body: JsonObject): Promise<JsonObject> {
  const evidence = await collectEvidence(ports, runtimeData(body));
  return {
    evidence: toBase64(evidence.report),
    endorsements: toBase64(encodeUtf8(evidence.certificates)),
    uvm_endorsements: evidence.uvmEndorsement === undefined ? "" : toBase64(evidence.uvmEndorsement),
    endorsed_tcb: evidence.tcb,
  };
}

async function attest(ports: ReleasePorts, body: JsonObject): Promise<JsonObject> {
  const endpoint = matching(body, "maa_endpoint", ENDPOINT, "a host name");
  const data = runtimeData(body);
  const evidence = await collectEvidence(ports, data);
  return { token: await fetchAttestationToken(ports, { endpoint, evidence, runtimeData: data, userAgent: ports.userAgent }) };
}

async function release(ports: ReleasePorts, body: JsonObject): Promise<JsonObject> {
  const accessToken = body["access_token"];
  if (accessToken !== undefined && accessToken !== "" && (typeof accessToken !== "string" || !isBearerToken(accessToken))) {
    throw invalid("access_token is not a bearer token");
  }
  const key = await releaseKey(ports, {
    attestationEndpoint: matching(body, "maa_endpoint", ENDPOINT, "a host name"),
    vaultEndpoint: matching(body, "akv_endpoint", ENDPOINT, "a host name"),
    kid: matching(body, "kid", KID, "name or name/version"),
    accessToken: typeof accessToken === "string" && accessToken !== "" ? accessToken : undefined,
  });
  return { key };
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
  const encoded = required(body, "runtime_data");
  let bytes: Uint8Array;
  try {
    bytes = fromBase64(encoded, "runtime_data");
  } catch (cause) {
    throw invalid(messageOf(cause), cause);
  }
  if (bytes.length > MAX_RUNTIME_DATA) throw invalid(`runtime_data has ${bytes.length} bytes, more than ${MAX_RUNTIME_DATA}`);
  return bytes;
}

function matching(body: JsonObject, name: string, pattern: RegExp, expected: string): string {
  const value = required(body, name);
  if (!pattern.test(value)) throw invalid(`${name} is not ${expected}`);
  return value;
}

function required(body: JsonObject, name: string): string {
  const value = body[name];
  if (typeof value !== "string" || value === "") throw invalid(`${name} is missing`);
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
  return { status: http === 403 ? failure : http, body: { error: error.message } };
}
