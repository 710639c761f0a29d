import { asArray, asObject, decodeUtf8, parseJson } from "@sealpod/core";
import { OciError } from "../errors.ts";
import type { OciErrorCode } from "../errors.ts";
import type { Endpoint } from "./endpoint.ts";
import { placeOf } from "./http.ts";
import type { HttpFailure, HttpReply } from "./http.ts";
import type { SecretMask } from "./mask.ts";
import { isTransientStatus } from "./retry.ts";

/** What requests are for: the beginning of every message about them, what those must not tell, and what ends them. */
export interface Subject {
  /** E.g. `image nginx:1`. */
  readonly what: string;
  readonly endpoint: Endpoint;
  readonly mask: SecretMask;
  readonly signal: AbortSignal;
}

/** Bytes of an error document that are read, and levels of it that are parsed. */
const MAX_ERROR_DOCUMENT = 16 * 1024;
const ERROR_DEPTH = 16;

/** The error for a request that got no answer. */
export function unreachable({ what, endpoint, mask }: Subject, failure: HttpFailure): OciError {
  const { host } = endpoint;
  const place = placeOf(failure.url, mask);
  const connection = `Check that the registry runs and that no proxy or firewall is between. For a registry in plain HTTP, pass --insecure-registry ${host}.`;
  return new OciError("ERR_OCI_UNREACHABLE", `${what}: ${named(endpoint)} cannot be reached at ${place}: ${failure.reason}`, {
    details: { registry: host, url: place },
    hint: {
      certificate: `The registry's certificate is not trusted here. If it comes from your own authority, name its file in NODE_EXTRA_CA_CERTS, or in SSL_CERT_FILE with NODE_OPTIONS=--use-openssl-ca. For a test registry, --insecure-registry ${host} uses plain HTTP.`,
      protocol: `The registry seems not to speak HTTPS. If it is meant to be plain HTTP, pass --insecure-registry ${host}.`,
      name: "Check the registry's name in the image reference, and this machine's DNS.",
      port: "fetch does not speak to ports of other well-known services. Run the registry at another port.",
      nobody: connection,
      connection,
      stall: "The registry or the network is stuck. Try again, or use a mirror.",
    }[failure.cause],
  });
}

/** What is known about a request that was refused. */
export interface RefusalContext {
  /** True if it carried a login of the user's, or a token got by one. */
  readonly hadLogin: boolean;
  /** True if a token service refused, not the registry. */
  readonly isTokenService?: boolean;
}

/** The error for a status that is no success. The reply is dropped. */
export async function refusal({ what, endpoint, mask }: Subject, reply: HttpReply, { hadLogin, isTokenService = false }: RefusalContext): Promise<OciError> {
  const { host } = endpoint;
  const { status, url } = reply;
  const place = placeOf(url, mask);
  const remote = await remoteError(reply, mask);
  // Another host that the registry sent us to has no logins and no image names.
  const isElsewhere = !isTokenService && url.origin !== new URL(endpoint.base).origin;
  const code = codeOf(status, isTokenService, isElsewhere);
  const login = hadLogin
    ? `The stored login for ${host} does not allow this. Check the image's name, or log in again with: docker login ${host}`
    : `Check the image's name. If the image is private, log in first with: docker login ${host}`;
  const hints: Partial<Record<OciErrorCode, string>> = {
    ERR_OCI_AUTH: login,
    ERR_OCI_NOT_FOUND: login,
    ERR_OCI_UNREACHABLE:
      status === 429
        ? `The registry limits how often it is asked. Try again later, log in with docker login ${host}, or use a mirror.`
        : "The registry has a problem of its own. Try again later, or use a mirror.",
  };
  const hint = hints[code];
  const who = isTokenService ? `the token service of ${named(endpoint)}` : named(endpoint);
  return new OciError(code, `${what}: ${who} answered ${place} with status ${status}${remote === "" ? "" : ` (${remote})`}`, {
    details: { registry: host, url: place, status },
    ...(hint === undefined ? {} : { hint }),
  });
}

/** The error for an answer that breaks the protocol. @param problem may say what the answer says */
export function violation({ what, endpoint, mask }: Subject, url: URL, problem: string, code: OciErrorCode = "ERR_OCI_REGISTRY"): OciError {
  const place = placeOf(url, mask);
  return new OciError(code, `${what}: ${named(endpoint)}, ${place}: ${mask.clean(problem)}`, { details: { registry: endpoint.host, url: place } });
}

export function named({ host, isMirror }: Endpoint): string {
  return `${isMirror ? "mirror" : "registry"} ${host}`;
}

function codeOf(status: number, isTokenService: boolean, isElsewhere: boolean): OciErrorCode {
  if (isTransientStatus(status) || status >= 500) return "ERR_OCI_UNREACHABLE";
  // Token services say 400, 401 or 403 to a login that they do not know.
  if (isTokenService) return status === 400 || status === 401 || status === 403 ? "ERR_OCI_AUTH" : "ERR_OCI_REGISTRY";
  if (isElsewhere) return "ERR_OCI_REGISTRY";
  if (status === 401 || status === 403) return "ERR_OCI_AUTH";
  return status === 404 ? "ERR_OCI_NOT_FOUND" : "ERR_OCI_REGISTRY";
}

/** Code and message of the registry's own error (distribution-spec, "Error Codes"), or of a token service; "" if it gives none. */
async function remoteError(reply: HttpReply, mask: SecretMask): Promise<string> {
  const { bytes, end } = await reply.readUpTo(MAX_ERROR_DOCUMENT);
  if (end !== "complete" || bytes.length === 0) return "";
  try {
    const document = asObject(parseJson(decodeUtf8(bytes), "error", { maxLength: MAX_ERROR_DOCUMENT, maxDepth: ERROR_DEPTH }));
    const first = asObject(asArray(document?.["errors"])?.[0]) ?? document;
    const parts = [first?.["code"] ?? first?.["error"], first?.["message"] ?? first?.["error_description"] ?? first?.["details"]];
    return mask.clean(parts.filter((part): part is string => typeof part === "string" && part !== "").join(": "));
  } catch {
    // Not JSON: some proxy's page, which says nothing that the status does not.
    return "";
  }
}
