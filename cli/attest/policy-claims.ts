import { claimsOfToken, decodeAttestationToken, type PolicyClaim } from "@sealpod/attestation";
import { asArray, asObject, encodeJson, parseJson, type JsonObject, type JsonValue } from "@sealpod/core";
import { CliError } from "../errors.ts";
import { claimsOfRequest } from "./policy-request.ts";

/** Claims to evaluate a policy over, and where they came from, in words. */
export interface ClaimsInput {
  readonly form: string;
  readonly claims: readonly PolicyClaim[];
  /** What is to know about them. */
  readonly notes: readonly string[];
}

/** A compact JWS. */
const TOKEN = /^[\w-]+\.[\w-]+\.[\w-]*$/;
const HINT =
  'Give a token, {"token": …}, a SevSnpVm request, an object of claims by name, or a list such as [{"type": "x", "value": true, "issuer": "CustomClaim"}].';
/** Members of a request to attest; in an object of claims not all names are of these. */
const REQUEST_MEMBERS: readonly string[] = ["report", "runtimeData", "initTimeData", "nonce", "draftPolicyForAttestation"];

/**
 * Claims of a file: a token, an answer that holds one, a request to attest, an object of claims, or a list of claims one by one. Nothing about a token or a report is
 * verified.
 * @throws {CliError} ERR_CLI_FILE; and the errors of the formats
 */
export function parseClaims(text: string, name: string): ClaimsInput {
  const trimmed = text.trim();
  if (TOKEN.test(trimmed)) return ofToken(trimmed);
  const document = parseJson(trimmed, name);
  const list = asArray(document);
  if (list !== undefined) return { form: "list of claims", claims: list.map((item, index) => parseClaim(item, `${name}: [${index}]`)), notes: [] };
  const object = asObject(document);
  if (object === undefined) throw new CliError("ERR_CLI_FILE", `${name} is neither a token nor claims`, { hint: HINT });
  const { token } = object;
  if (Object.keys(object).length === 1 && typeof token === "string" && TOKEN.test(token)) return ofToken(token);
  if (isRequest(object)) {
    const { claims, notes } = claimsOfRequest(trimmed);
    return { form: "claims of the report in a SevSnpVm request (NOT VERIFIED)", claims: claimsOfToken(claims), notes };
  }
  return { form: "claims", claims: claimsOfToken(object), notes: [] };
}

function ofToken(token: string): ClaimsInput {
  return { form: "claims of a token (NOT VERIFIED)", claims: claimsOfToken(decodeAttestationToken(token).claims), notes: [] };
}

function isRequest(object: JsonObject): boolean {
  return typeof object["report"] === "string" && Object.keys(object).every((name) => REQUEST_MEMBERS.includes(name));
}

function parseClaim(item: JsonValue, where: string): PolicyClaim {
  const { type, value, issuer = "AttestationService", ...others } = asObject(item) ?? {};
  const [other] = Object.keys(others);
  if (typeof type !== "string" || value === undefined || other !== undefined) {
    throw new CliError("ERR_CLI_FILE", `${where} is ${encodeJson(item).slice(0, 80)}, expected type, value and perhaps issuer`, { hint: HINT });
  }
  const [claim, more] = claimsOfToken({ [type]: value });
  if (claim !== undefined && more === undefined && (issuer === "AttestationService" || issuer === "AttestationPolicy" || issuer === "CustomClaim")) {
    return { ...claim, issuer };
  }
  throw new CliError(
    "ERR_CLI_FILE",
    `${where}: expected one value, a type that is no claim about the token itself, and an issuer of AttestationService, AttestationPolicy, CustomClaim`,
    {
      hint: HINT,
    },
  );
}
