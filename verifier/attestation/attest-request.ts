import { asArray, asObject, decodeUtf8, fromAnyBase64, messageOf, parseJson, type JsonObject, type JsonValue } from "@sealpod/core";
import { MAX_ATTESTATION_TOKEN, MAX_CLAIMS_DEPTH } from "./claims.ts";
import { AttestationError } from "./errors.ts";

/** Data that a hash in the report speaks for. */
export interface BoundData {
  readonly bytes: Uint8Array;
  /** The object that the bytes are the JSON text of; undefined for binary data. */
  readonly json: JsonObject | undefined;
}

/** An attestation request, decoded; nothing in it is verified. */
export interface AttestRequest {
  /** Raw report. */
  readonly report: Uint8Array;
  /** PEM text of VCEK or VLEK, intermediate and root. */
  readonly certificates: string;
  /** COSE_Sign1 endorsements of the utility VM. */
  readonly endorsements: readonly Uint8Array[];
  /** Bound by REPORT_DATA; undefined if the caller gave none. */
  readonly runtimeData: BoundData | undefined;
  /** Bound by HOST_DATA; undefined if the caller gave none. */
  readonly initTimeData: BoundData | undefined;
  /** Decimal text if the caller sent a number. */
  readonly nonce: string | undefined;
  /** JWS of a policy to try in place of the stored one. */
  readonly draftPolicy: string | undefined;
}

/** A utility VM has one endorsement; a few leave room for a change of signer. */
const MAX_ENDORSEMENTS = 8;
const MAX_NONCE = 1024;
/** Bytes of JSON that becomes a claim: more would not fit a token, even without anything else in it. */
const MAX_JSON_DATA: number = (MAX_ATTESTATION_TOKEN / 4) * 3;

/**
 * Decodes the body of POST /attest/SevSnpVm (specs/attestation.md 4.2). Base64 may be of either alphabet, padded or not.
 * @throws {AttestationError} ERR_ATTESTATION_REQUEST naming the member
 */
export function parseAttestRequest(text: string): AttestRequest {
  const body = requireObject(strictJson(text, "the request body"), "the request body");
  const evidence = requireObject(strictJson(decodeText(body["report"], "report"), "report"), "report");
  return {
    report: decodeBase64(evidence["SnpReport"], "report.SnpReport"),
    certificates: decodeText(evidence["VcekCertChain"], "report.VcekCertChain"),
    endorsements: parseEndorsements(evidence["Endorsements"]),
    runtimeData: parseBoundData(body["runtimeData"], "runtimeData"),
    initTimeData: parseBoundData(body["initTimeData"], "initTimeData"),
    nonce: parseNonce(body["nonce"]),
    draftPolicy: parseDraftPolicy(body["draftPolicyForAttestation"]),
  };
}

function parseEndorsements(value: JsonValue | undefined): readonly Uint8Array[] {
  if (value === undefined || value === null || value === "") return [];
  const object = requireObject(strictJson(decodeText(value, "report.Endorsements"), "report.Endorsements"), "report.Endorsements");
  const list = asArray(object["Uvm"] ?? []);
  if (list === undefined || list.length > MAX_ENDORSEMENTS) throw requestError("report.Endorsements.Uvm", `expected a list of at most ${MAX_ENDORSEMENTS}`);
  return list.map((item, index) => decodeBase64(item, `report.Endorsements.Uvm[${index}]`));
}

function parseBoundData(value: JsonValue | undefined, member: string): BoundData | undefined {
  if (value === undefined || value === null) return undefined;
  const object = requireObject(value, member);
  const { data, dataType } = object;
  // The sidecar of the field always sends the member, with two empty strings for "none".
  if (data === undefined || data === null || data === "") return undefined;
  const bytes = decodeBase64(data, `${member}.data`);
  switch (typeof dataType === "string" ? dataType.toLowerCase() : undefined) {
    case "json":
      return { bytes, json: parseClaim(bytes, `${member}.data`) };
    case "binary":
      return { bytes, json: undefined };
    default:
      throw requestError(`${member}.dataType`, 'expected "JSON" or "Binary"');
  }
}

/** An object that fits a token: readers of the token have these limits, ours among them. */
function parseClaim(bytes: Uint8Array, member: string): JsonObject {
  if (bytes.length > MAX_JSON_DATA)
    throw requestError(member, `${bytes.length} bytes of JSON, more than the ${MAX_JSON_DATA} that fit a token of ${MAX_ATTESTATION_TOKEN} characters`);
  const text = utf8(bytes, member);
  return requireObject(
    mend(member, () => parseJson(text, member, { maxLength: MAX_JSON_DATA, maxDepth: MAX_CLAIMS_DEPTH - 1 })),
    member,
  );
}

/** The sidecar sends a 64-bit number, the documents say a string: both become the text, so that no reader of the token rounds it. */
function parseNonce(value: JsonValue | undefined): string | undefined {
  if (value === undefined || value === null) return undefined;
  // Before it becomes text: the time for that grows faster than the number of digits.
  const isInteger = typeof value === "bigint" ? value >= -(2n ** 63n) && value < 2n ** 64n : Number.isSafeInteger(value);
  const text = isInteger ? String(value as bigint | number) : value;
  if (typeof text !== "string" || text.length > MAX_NONCE)
    throw requestError("nonce", `expected a string of at most ${MAX_NONCE} characters, or an integer of 64 bits`);
  return text;
}

function parseDraftPolicy(value: JsonValue | undefined): string | undefined {
  if (value === undefined || value === null || value === "") return undefined;
  if (typeof value !== "string") throw requestError("draftPolicyForAttestation", "expected a string");
  return value;
}

function decodeText(value: JsonValue | undefined, member: string): string {
  return utf8(decodeBase64(value, member), member);
}

function decodeBase64(value: JsonValue | undefined, member: string): Uint8Array {
  if (typeof value !== "string" || value === "") throw requestError(member, "missing, empty or no string");
  return mend(member, () => fromAnyBase64(value, member));
}

function utf8(bytes: Uint8Array, member: string): string {
  return mend(member, () => decodeUtf8(bytes, member));
}

function strictJson(text: string, member: string): JsonValue {
  return mend(member, () => parseJson(text, member));
}

function requireObject(value: JsonValue, member: string): JsonObject {
  const object = asObject(value);
  if (object === undefined) throw requestError(member, "not a JSON object");
  return object;
}

function mend<T>(member: string, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    throw requestError(member, messageOf(cause), cause);
  }
}

function requestError(member: string, problem: string, cause?: unknown): AttestationError {
  return new AttestationError("ERR_ATTESTATION_REQUEST", `${member}: ${problem}`, { details: { member }, cause });
}
