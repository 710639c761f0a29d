import { createPublicKey, type KeyObject } from "node:crypto";
import { compactVerify } from "jose";
import {
  asArray,
  asObject,
  decodeUtf8,
  encodeJson,
  encodeUtf8,
  fromBase64url,
  messageOf,
  parseJson,
  sha256,
  toHex,
  type Clock,
  type ErrorDetails,
  type JsonObject,
  type JsonValue,
} from "@sealpod/core";
import { KbsError } from "./errors.ts";

/** What came of looking at a bearer token of a request for administrators. */
export type AdminVerdict =
  | { readonly kind: "allowed"; readonly tenantId: string; readonly appid: string; readonly oid: string }
  /** The token is nobody's whom the key broker knows, or not one of an administrator. `problem` goes to the client. */
  | { readonly kind: "refused"; readonly problem: string };

/** Who may set resources, policies and reference values. */
export interface AdminAccess {
  authenticate(token: string): Promise<AdminVerdict>;
}

/** CoCo's tool makes tokens of two hours. */
const MAX_LIFETIME = 24 * 60 * 60;
const CLOCK_SKEW = 60;

/**
 * The administrators of CoCo's `kbs-client --auth-private-key`: who can sign a JWT with an Ed25519 key (EdDSA, `exp` within a day).
 * @param publicKeys in PEM
 * @throws {KbsError} ERR_KBS_ARGUMENT
 */
export function ed25519Admins(publicKeys: readonly string[], clock: Clock): AdminAccess {
  const keys = publicKeys.map((pem) => parseAdminKey(pem));
  return {
    async authenticate(token) {
      for (const { key, id } of keys) {
        let payload: Uint8Array;
        try {
          ({ payload } = await compactVerify(token, key, { algorithms: ["EdDSA", "Ed25519"] }));
        } catch {
          continue;
        }
        const problem = problemOf(payload, Math.floor(clock.now() / 1000));
        return problem === undefined ? { kind: "allowed", tenantId: "", appid: "kbs-admin", oid: id } : { kind: "refused", problem };
      }
      return { kind: "refused", problem: "no key of an administrator signed it" };
    },
  };
}

function parseAdminKey(pem: string): { readonly key: KeyObject; readonly id: string } {
  let key: KeyObject;
  try {
    key = createPublicKey(pem);
  } catch (cause) {
    throw new KbsError("ERR_KBS_ARGUMENT", `the key of an administrator is no public key in PEM: ${messageOf(cause)}`, { cause });
  }
  if (key.asymmetricKeyType !== "ed25519")
    throw new KbsError("ERR_KBS_ARGUMENT", `the key of an administrator is of type ${String(key.asymmetricKeyType)}, expected ed25519`);
  return { key, id: `ed25519:${toHex(sha256(new Uint8Array(key.export({ format: "der", type: "spki" })))).slice(0, 32)}` };
}

function problemOf(payload: Uint8Array, now: number): string | undefined {
  let claims: JsonObject | undefined;
  try {
    claims = asObject(parseJson(decodeUtf8(payload), "claims"));
  } catch (cause) {
    return messageOf(cause);
  }
  const { exp, nbf } = claims ?? {};
  if (typeof exp !== "number") return "it has no exp";
  if (exp <= now) return `it expired ${now - exp} seconds ago`;
  // A token without end would be a password.
  if (exp > now + MAX_LIFETIME + CLOCK_SKEW) return `it expires in ${exp - now} seconds, more than the limit of ${MAX_LIFETIME}`;
  if (nbf !== undefined && (typeof nbf !== "number" || nbf > now + CLOCK_SKEW)) return "it is not valid yet";
  return undefined;
}

/** `{"policy": base64url}` and what else the tool sends with it. @throws {KbsError} ERR_KBS_POLICY_SYNTAX */
export function parsePolicyRequest(body: JsonObject): string {
  const { policy } = body;
  if (typeof policy !== "string") throw new KbsError("ERR_KBS_POLICY_SYNTAX", 'member "policy" is missing or no string');
  try {
    // Padded by some clients.
    return decodeUtf8(fromBase64url(policy.replace(/={1,2}$/, ""), "policy"), "policy");
  } catch (cause) {
    throw new KbsError("ERR_KBS_POLICY_SYNTAX", `member "policy": ${messageOf(cause)}`, { cause });
  }
}

/**
 * Details of an error about what is well-formed and of no use. CoCo's key broker takes it and then gives nothing to anybody; there is no answer of it to keep to, so the status is the one that
 * HTTP has for it.
 */
export const USELESS: ErrorDetails = { status: 400 };

/** What the values of a name have to be, to be ever equal to what evidence says. */
interface Shape {
  readonly expected: string;
  fits(value: JsonValue): boolean;
}

const matches = (pattern: RegExp, expected: string): Shape => ({ expected, fits: (value) => typeof value === "string" && pattern.test(value) });
/** A byte of a TCB version, or of the guest policy's ABI version. */
const BYTE: Shape = {
  expected: "an integer from 0 to 255",
  fits: (value) => typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= 255,
};
const FLAG: Shape = { expected: "true or false", fits: (value) => typeof value === "boolean" };

/** Names that the default policies ask for. Others are free: policies of administrators give them their meaning. */
const SHAPES: ReadonlyMap<string, Shape> = new Map([
  // Policies compare it as it is, and evidence has lower case.
  ["snp_launch_measurement", matches(/^[0-9a-f]{96}$/, "96 lower-case hex digits")],
  ["snp_host_data", matches(/^[0-9a-f]{64}$/i, "64 hex digits")],
  ...["snp_bootloader", "snp_microcode", "snp_snp_svn", "snp_tee_svn", "snp_guest_abi_major", "snp_guest_abi_minor"].map((name) => [name, BYTE] as const),
  ...["snp_smt_enabled", "snp_tsme_enabled", "snp_single_socket", "snp_smt_allowed"].map((name) => [name, FLAG] as const),
]);

/**
 * Refuses a reference value of a known name that no evidence can have.
 * @throws {KbsError} ERR_KBS_POLICY_SYNTAX with {@link USELESS}
 */
export function checkReferenceValue(id: string, value: JsonValue): void {
  const shape = SHAPES.get(id);
  if (shape === undefined) return;
  const list = asArray(value);
  const wrong = list?.findIndex((item) => !shape.fits(item));
  if (wrong === -1) return;
  const found = encodeJson((wrong === undefined ? value : list?.[wrong]) ?? null);
  throw new KbsError(
    "ERR_KBS_POLICY_SYNTAX",
    `the reference value ${id} ${wrong === undefined ? "is" : `has at index ${wrong}`} ${found.length > 110 ? `${found.slice(0, 110)}…` : found}, expected ${wrong === undefined ? `a list of which each is ${shape.expected}` : shape.expected}`,
    { details: USELESS },
  );
}

/** Text as base64url, as policies are given back. */
export function encodePolicy(text: string): string {
  return Buffer.from(encodeUtf8(text)).toString("base64url");
}
