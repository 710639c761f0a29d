import { asObject, decodeUtf8, fromBase64, messageOf, parseJson, type JsonObject } from "@sealpod/core";
import { SkrError } from "./errors.ts";

/** Where certificates come from when neither the host nor the processor gave the right ones. */
export type CertificateCache =
  | { readonly kind: "AMD"; readonly endpoint: string }
  | { readonly kind: "AzCache"; readonly endpoint: string; readonly teeType: string; readonly apiVersion: string; readonly clientId: string }
  | { readonly kind: "LocalTHIM"; readonly endpoint: string };

/** Decoded `SkrSideCarArgs`. */
export interface SidecarArguments {
  readonly certificateCache: CertificateCache | undefined;
  /** Client id of the user-assigned identity that the metadata service is asked for. */
  readonly clientId: string | undefined;
  /** Added to the User-Agent of attestation requests. */
  readonly userAgent: string | undefined;
}

/** The example of the AKS document has 300 characters; this leaves room and stops nonsense. */
const MAX_ARGUMENTS = 64 * 1024;

const KDS = "kdsintf.amd.com";

/**
 * Decodes `SkrSideCarArgs`: base64 of JSON (specs/attestation.md 5.1). Absent or empty means no arguments.
 * @throws {SkrError} ERR_SKR_CONFIGURATION
 */
export function parseSidecarArguments(text: string | undefined): SidecarArguments {
  if (text === undefined || text.trim() === "") return { certificateCache: undefined, clientId: undefined, userAgent: undefined };
  if (text.length > MAX_ARGUMENTS) throw wrong(`has ${text.length} characters, more than ${MAX_ARGUMENTS}`);
  let root: JsonObject | undefined;
  try {
    root = asObject(parseJson(decodeUtf8(fromBase64(unwrapLines(text), "SkrSideCarArgs"), "SkrSideCarArgs"), "SkrSideCarArgs"));
  } catch (cause) {
    throw wrong(`is not base64 of JSON: ${messageOf(cause)}`, cause);
  }
  if (root === undefined) throw wrong("is not a JSON object");
  const clientId = optionalText(section(root, "identity"), "identity", "client_id");
  const userAgent = optionalText(section(root, "maaconfig"), "maaconfig", "user_agent");
  if (userAgent !== undefined && !/^[\u0020-\u007e]*$/.test(userAgent)) throw wrong("maaconfig.user_agent has characters that a header cannot carry");
  return { certificateCache: parseCache(section(root, "certcache")), clientId, userAgent };
}

/** `base64` breaks its lines after 76 characters, and the genuine sidecar does not mind. */
function unwrapLines(text: string): string {
  return text.replaceAll(/[\r\n]+/g, "").trim();
}

function parseCache(cache: JsonObject | undefined): CertificateCache | undefined {
  if (cache === undefined) return undefined;
  const endpoint = optionalText(cache, "certcache", "endpoint");
  // The argument in the AKS document has no endpoint_type; its endpoint is an Azure cache.
  const kind = optionalText(cache, "certcache", "endpoint_type") ?? "AzCache";
  if (endpoint !== undefined) checkEndpoint(endpoint);
  switch (kind) {
    case "AMD":
      return { kind, endpoint: endpoint ?? KDS };
    case "LocalTHIM":
      if (endpoint !== undefined && !endpoint.startsWith("169.254.169.254/")) {
        throw wrong("certcache.endpoint is not at 169.254.169.254: LocalTHIM is asked over plain HTTP, and that is allowed to the machine's own address alone");
      }
      return { kind, endpoint: endpoint ?? "169.254.169.254/metadata/THIM/amd/certification" };
    case "AzCache":
      if (endpoint === undefined) throw wrong("certcache.endpoint is missing");
      return {
        kind,
        endpoint,
        teeType: matching(cache, "tee_type", /^[A-Za-z0-9]{1,40}$/, "a word such as SevSnpVM") ?? "SevSnpVM",
        apiVersion:
          matching(cache, "api_version", /^(api-version=)?[A-Za-z0-9.-]{1,40}$/, "api-version=2020-10-15-preview or the like") ??
          "api-version=2020-10-15-preview",
        clientId: matching(cache, "client_id", /^[\u0021-\u007e]{1,200}$/, "clientId=NAME or the like") ?? "",
      };
    default:
      throw wrong(`invalid endpoint type: ${kind}; expected AMD, AzCache or LocalTHIM`);
  }
}

function section(root: JsonObject, name: string): JsonObject | undefined {
  const value = root[name];
  if (value === undefined || value === null) return undefined;
  const object = asObject(value);
  if (object === undefined) throw wrong(`${name} is not an object`);
  return object;
}

function optionalText(object: JsonObject | undefined, parent: string, name: string): string | undefined {
  const value = object?.[name];
  if (value === undefined || value === "") return undefined;
  if (typeof value !== "string") throw wrong(`${parent}.${name} is not a string`);
  return value;
}

function matching(cache: JsonObject, name: string, pattern: RegExp, expected: string): string | undefined {
  const value = optionalText(cache, "certcache", name);
  if (value !== undefined && !pattern.test(value)) throw wrong(`certcache.${name} is ${JSON.stringify(value.slice(0, 60))}; expected ${expected}`);
  return value;
}

function checkEndpoint(endpoint: string): void {
  if (!/^[A-Za-z0-9.-]+(:\d{1,5})?(\/[A-Za-z0-9._~/-]*)?$/.test(endpoint))
    throw wrong(`certcache.endpoint ${JSON.stringify(endpoint)} is not a host name with an optional path`);
}

function wrong(problem: string, cause?: unknown): SkrError {
  return new SkrError("ERR_SKR_CONFIGURATION", `SkrSideCarArgs ${problem}`, {
    cause,
    hint: 'It is base64 (padded, standard alphabet) of {"certcache":{"endpoint_type":"LocalTHIM"}} or the like.',
  });
}
