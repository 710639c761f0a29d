import { asObject, concatBytes, decodeUtf8, isSealpodError, type JsonObject, type JsonValue, parseJson } from "@sealpod/core";

/** A request; `fetch` of the platform takes it. Redirects are not followed: they would carry tokens away. */
export interface VaultRequest {
  readonly method: "GET" | "PUT" | "POST";
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
  readonly redirect: "manual";
}

/** An answer of any status; `Response` of the platform fits. */
export interface VaultAnswer {
  readonly status: number;
  readonly body: AsyncIterable<Uint8Array> | null;
}

/** An answer that has been read. */
export interface Answer {
  readonly status: number;
  /** Undefined if the body is not JSON: what the status says is enough then. */
  readonly json: JsonValue | undefined;
}

/** What a vault says in its errors (specs/attestation.md 7.1). */
export interface VaultProblem {
  readonly status: number;
  /** `BadParameter: text`, for a terminal; "" if it says nothing. */
  readonly said: string;
  /** `AKV.SKR.1004`, `ForbiddenByPolicy`; "" if there is none. */
  readonly inner: string;
}

/** A key bundle has some 2 KB. */
const MAX_ANSWER = 256 * 1024;
const MAX_SAID = 500;

/** Reads an answer, up to 256 KiB of it. */
export async function readAnswer({ status, body }: VaultAnswer): Promise<Answer> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of body ?? []) {
    size += chunk.length;
    if (size > MAX_ANSWER) return { status, json: undefined };
    chunks.push(chunk);
  }
  try {
    return { status, json: parseJson(decodeUtf8(concatBytes(...chunks)), "answer") };
  } catch (error) {
    if (isSealpodError(error)) return { status, json: undefined };
    throw error;
  }
}

/** The error of an answer that is none. */
export function problemOf(status: number, json: JsonValue | undefined): VaultProblem {
  const error: JsonObject | undefined = asObject(asObject(json)?.["error"]);
  const inner = asObject(error?.["innererror"])?.["code"];
  return {
    status,
    said: [error?.["code"], error?.["message"]]
      .filter((part) => typeof part === "string")
      .map((part) => printable(part))
      .join(": "),
    inner: typeof inner === "string" ? printable(inner) : "",
  };
}

/** What to do about refusals that Key Vault and Managed HSM are known for (specs/attestation.md 6.2); undefined where nothing is known. */
export function refusalHint({ status, said, inner }: VaultProblem): string | undefined {
  // The genuine service has these codes in its text, ours in innererror.
  const code = /AKV\.SKR\.\d{4}/.exec(`${inner} ${said}`)?.[0];
  if (code !== undefined && Object.hasOwn(SKR_HINTS, code)) return SKR_HINTS[code];
  if (/k property of oct key is too large/.test(said)) return "A symmetric key has at most 64 bytes. If the file holds hex, pass the digits themselves.";
  if (status === 401) return "Get a fresh access token for the vault; it must be issued for the vault's tenant and audience.";
  if (status === 429) return "The vault is asked too often: wait, and try again.";
  return undefined;
}

const SKR_HINTS: Readonly<Record<string, string>> = {
  "AKV.SKR.1001": "Only premium vaults and managed HSMs have exportable keys: az keyvault create --sku premium. Or give key.akv.api_version 7.4.",
  "AKV.SKR.1003": "A key of this name exists and is not exportable: take another name.",
  "AKV.SKR.1004": "The release policy did not arrive: it is sent as base64url of its JSON.",
  "AKV.SKR.1005": "Make the key exportable, or leave the release policy out.",
  "AKV.SKR.1006": "Take a kty that ends with -HSM: software keys are not released.",
  "AKV.SKR.1016": "Name the key without a version: a release policy is set on the key.",
  "AKV.SKR.1020": "The policy of this key was made immutable: take another name for the key.",
};

/** Text of another for a terminal: one line, no control characters, not long. */
export function printable(text: string): string {
  return text.replaceAll(/\p{C}+/gu, " ").slice(0, MAX_SAID);
}
