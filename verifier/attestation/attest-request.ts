import { asArray, asObject, decodeUtf8, messageOf, parseJson, type JsonObject, type JsonValue } from "@sealpod/core";
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

function parseDraftPolicy(value: JsonValue | undefined): string | undefined {
  if (value === undefined || value === null || value === "") return undefined;
  if (typeof value !== "string") throw requestError("draftPolicyForAttestation", "expected a string");
  return value;
}

function decodeText(value: JsonValue | undefined, member: string): string {
  return utf8(decodeBase64(value, member), member);
}

/**
 * Bytes of base64 in either alphabet, padded or not: what `fromAnyBase64` of lib/core takes, at a third of its time. A request is base64 in base64, of 40 KiB each, so
 * this is what its reading costs.
 */
function decodeBase64(value: JsonValue | undefined, member: string): Uint8Array {
  if (typeof value !== "string" || value === "") throw requestError(member, "missing, empty or no string");
  const padding = value.length % 4 !== 0 || !value.endsWith("=") ? 0 : value.endsWith("==") ? 2 : 1;
  const bare = value.length - padding;
  const rest = bare % 4;
  const bytes = Buffer.from(value, "base64");
  // The decoder skips what is no digit, ends at "=", and takes characters beyond Latin-1 for others: then bytes are missing, or the text is not ASCII.
  const length = ((bare - rest) / 4) * 3 + Math.max(rest - 1, 0);
  if (rest === 1 || bytes.length !== length || Buffer.byteLength(value) !== value.length)
    throw requestError(member, `${member} is neither base64 nor base64url`);
  // Unused bits of the last digit that are set would be a second way to write the same bytes.
  if (
    rest !== 0 &&
    bytes.toString("base64url", length - (rest - 1)) !==
      value
        .slice(bare - rest, bare)
        .replaceAll("+", "-")
        .replaceAll("/", "_")
  )
    throw requestError(member, `${member} is not canonical: the last digit has bits that mean nothing`);
  return bytes;
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
