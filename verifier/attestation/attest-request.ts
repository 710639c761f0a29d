import { asArray, asObject, decodeUtf8, fromAnyBase64, messageOf, parseJson, type JsonObject, type JsonValue } from "@sealpod/core";
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
}

/** A utility VM has one endorsement; a few leave room for a change of signer. */
const MAX_ENDORSEMENTS = 8;
const MAX_NONCE = 1024;

/**
 * Decodes the body of POST /attest/SevSnpVm (specs/attestation.md 4.2). Base64 may be of either alphabet, padded or not.
 * @throws {AttestationError} ERR_ATTESTATION_REQUEST naming the member, ERR_ATTESTATION_UNSUPPORTED for a draft policy
 */
export function parseAttestRequest(text: string): AttestRequest {
  const body = requireObject(strictJson(text, "the request body"), "the request body");
  const draft = body["draftPolicyForAttestation"];
  if (draft !== undefined && draft !== null && draft !== "") {
    // To ignore it would give a token under another policy than the one the caller asked to try.
    throw new AttestationError("ERR_ATTESTATION_UNSUPPORTED", "draftPolicyForAttestation is not implemented by this attestation service");
  }
  const evidence = requireObject(strictJson(decodeText(body["report"], "report"), "report"), "report");
  return {
    report: decodeBase64(evidence["SnpReport"], "report.SnpReport"),
    certificates: decodeText(evidence["VcekCertChain"], "report.VcekCertChain"),
    endorsements: parseEndorsements(evidence["Endorsements"]),
    runtimeData: parseBoundData(body["runtimeData"], "runtimeData"),
    initTimeData: parseBoundData(body["initTimeData"], "initTimeData"),
    nonce: parseNonce(body["nonce"]),
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
      return { bytes, json: requireObject(strictJson(utf8(bytes, `${member}.data`), `${member}.data`), `${member}.data`) };
    case "binary":
      return { bytes, json: undefined };
    default:
      throw requestError(`${member}.dataType`, 'expected "JSON" or "Binary"');
  }
}

/** The sidecar sends a 64-bit number, the documents say a string: both become the text, so that no reader of the token rounds it. */
function parseNonce(value: JsonValue | undefined): string | undefined {
  if (value === undefined || value === null) return undefined;
  const text = typeof value === "bigint" || Number.isSafeInteger(value) ? String(value as bigint | number) : value;
  if (typeof text !== "string" || text.length > MAX_NONCE) throw requestError("nonce", `expected a string of at most ${MAX_NONCE} characters, or an integer`);
  return text;
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
