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
    root = asObject(parseJson(decodeUtf8(fromBase64(text.trim(), "SkrSideCarArgs"), "SkrSideCarArgs"), "SkrSideCarArgs"));
  } catch (cause) {
    throw wrong(`is not base64 of JSON: ${messageOf(cause)}`, cause);
  }
  if (root === undefined) throw wrong("is not a JSON object");
  const clientId = optionalText(section(root, "identity"), "identity", "client_id");
  const userAgent = optionalText(section(root, "maaconfig"), "maaconfig", "user_agent");
  if (userAgent !== undefined && !/^[\u0020-\u007e]*$/.test(userAgent)) throw wrong("maaconfig.user_agent has characters that a header cannot carry");
  return { certificateCache: parseCache(section(root, "certcache")), clientId, userAgent };
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
      return { kind, endpoint: endpoint ?? "169.254.169.254/metadata/THIM/amd/certification" };
    case "AzCache":
      if (endpoint === undefined) throw wrong("certcache.endpoint is missing");
      return {
        kind,
        endpoint,
        teeType: optionalText(cache, "certcache", "tee_type") ?? "SevSnpVM",
        apiVersion: optionalText(cache, "certcache", "api_version") ?? "api-version=2020-10-15-preview",
        clientId: optionalText(cache, "certcache", "client_id") ?? "",
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

function checkEndpoint(endpoint: string): void {
  if (!/^[A-Za-z0-9.-]+(:\d{1,5})?(\/[A-Za-z0-9._~/-]*)?$/.test(endpoint))
    throw wrong(`certcache.endpoint ${JSON.stringify(endpoint)} is not a host name with an optional path`);
}

function wrong(problem: string, cause?: unknown): SkrError {
  return new SkrError("ERR_SKR_CONFIGURATION", `SkrSideCarArgs ${problem}`, {
    cause,
    hint: 'It is base64 of {"certcache":{"endpoint_type":"LocalTHIM"}} or the like.',
  });
}
