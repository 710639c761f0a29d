import { verify } from "node:crypto";
import {
  asArray,
  asObject,
  decodeUtf8,
  encodeJson,
  encodeUtf8,
  fromBase64,
  fromBase64url,
  isSealpodError,
  messageOf,
  parseJson,
  toBase64url,
  type JsonObject,
} from "@sealpod/core";
import { parseCertificate, type Certificate } from "@sealpod/pki";
import { AttestationError } from "./errors.ts";

/** A token that asks for a change: unsigned, or signed by the key of the certificate that it brings. Whether that certificate counts is for the caller. */
export interface RequestToken {
  /** As it came, without white space around it. */
  readonly token: string;
  /** "" for an empty payload, as a reset has. */
  readonly payload: string;
  /** Its key signed the token; undefined for an unsigned token. */
  readonly signer: Certificate | undefined;
}

/**
 * Longest token: a policy of the largest size in two layers of base64, with certificates. In the answer to GET /policies it stands in a third one, and the whole is no longer
 * than the longest token that our own client takes (MAX_ATTESTATION_TOKEN), with some KiB for the rest.
 */
export const MAX_REQUEST_TOKEN: number = 188 * 1024;

/** A header holds a few certificates of some 2 KiB. */
const MAX_HEADER = 64 * 1024;
/** Longest chain of x5c; only the first certificate is looked at. */
const MAX_X5C = 5;
/** The name that the documents of the genuine service print once in place of RS256. */
const RS256_NAMES: readonly unknown[] = ["RS256", "RSA256"];

/**
 * Reads a compact JWS (RFC 7515) and verifies its signature if it has one. The two forms that exist: `none` without signature and certificate, and RS256 with x5c.
 * Anything between is refused, so that no reader takes a token for signed that another takes for unsigned.
 * @throws {AttestationError} ERR_ATTESTATION_JWS
 */
export function parseRequestToken(text: string): RequestToken {
  const token = text.trim();
  if (token.length > MAX_REQUEST_TOKEN) throw jwsError(`it has ${token.length} characters, more than the limit of ${MAX_REQUEST_TOKEN}`);
  const parts = token.split(".", 4);
  const [header64, payload64, signature64] = parts;
  if (parts.length !== 3 || header64 === undefined || payload64 === undefined || signature64 === undefined)
    throw jwsError(`it has ${parts.length > 3 ? "more than 3" : parts.length} parts separated by dots, expected 3`);
  if (header64.length > MAX_HEADER) throw jwsError(`its header has ${header64.length} characters, more than the limit of ${MAX_HEADER}`);
  const header = parseHeader(header64);
  const payload = mend(() => decodeUtf8(fromBase64url(payload64, "its payload"), "its payload"));
  const signature = mend(() => fromBase64url(signature64, "its signature"));
  // Extensions change how the rest is read (RFC 7515 section 4.1.11, RFC 7797): none is understood here.
  for (const name of ["crit", "b64"]) if (name in header) throw jwsError(`its header has ${JSON.stringify(name)}: extensions are not understood here`);
  const { alg } = header;
  if (alg === "none") {
    if (signature.length > 0) throw jwsError('its algorithm is "none" and it has a signature');
    if ("x5c" in header) throw jwsError('its algorithm is "none" and it has a certificate');
    return { token, payload, signer: undefined };
  }
  if (!RS256_NAMES.includes(alg)) throw jwsError(`its algorithm is ${encodeJson(alg ?? null).slice(0, 60)}, expected "none" or "RS256"`);
  const signer = parseSigner(header["x5c"]);
  if (signer.publicKey.kind !== "rsa") throw jwsError(`its certificate has a key of type ${signer.publicKey.kind}, expected rsa`);
  if (!verify("sha256", encodeUtf8(`${header64}.${payload64}`), signer.publicKey.key, signature))
    throw jwsError("its signature does not verify under the key of its certificate");
  return { token, payload, signer };
}

/** The unsigned token with this payload: what the genuine client makes when it has no key. */
export function encodeUnsignedToken(payload: JsonObject): string {
  return `${toBase64url(encodeUtf8('{"alg":"none"}'))}.${toBase64url(encodeUtf8(encodeJson(payload)))}.`;
}

function parseHeader(part: string): JsonObject {
  const header = mend(() =>
    asObject(parseJson(decodeUtf8(fromBase64url(part, "its header"), "its header"), "its header", { maxLength: MAX_HEADER, maxDepth: 8 })),
  );
  if (header === undefined) throw jwsError("its header is not a JSON object");
  return header;
}

function parseSigner(x5c: unknown): Certificate {
  const list = asArray(x5c as never);
  const [first] = list ?? [];
  if (list === undefined || typeof first !== "string" || list.length > MAX_X5C) throw jwsError(`its header has no x5c with 1 to ${MAX_X5C} certificates`);
  return mend(() => parseCertificate(fromBase64(first, "x5c[0]"), "x5c[0]"));
}

function mend<T>(read: () => T): T {
  try {
    return read();
  } catch (cause) {
    if (!isSealpodError(cause)) throw cause;
    throw jwsError(messageOf(cause), cause);
  }
}

function jwsError(problem: string, cause?: unknown): AttestationError {
  return new AttestationError("ERR_ATTESTATION_JWS", `the token is refused: ${problem}`, {
    cause,
    hint: 'Send a compact JWS: {"alg":"none"} with an empty signature, or RS256 with x5c.',
  });
}
