import { asObject, concatBytes, decodeUtf8, encodeUtf8, isSealpodError, type JsonValue, messageOf, parseJson, type Random, toBase64url } from "@sealpod/core";
import type { SourceFile } from "@sealpod/kube";
import { type ImportPlan, parsePlan, type PlanOverrides } from "./config.ts";
import { ImportKeyError } from "./errors.ts";
import { type ImportedKey, rsaKeyOfPem, symmetricKey, symmetricKeyOfHex } from "./key.ts";
import { encodeReleasePolicy } from "./release-policy.ts";

/** Where the key comes from; `new` makes one of 32 bytes. */
export type KeySource =
  | { readonly kind: "bytes"; readonly bytes: Uint8Array }
  | { readonly kind: "hex"; readonly text: string }
  | { readonly kind: "pem"; readonly file: SourceFile }
  | { readonly kind: "new" };

/** What is to be imported. */
export interface ImportKeyInput {
  /** JSON configuration of the known tool, or annotated Kubernetes YAML. */
  readonly config: SourceFile;
  readonly key: KeySource;
  /** Values that go before those of the file. */
  readonly kid?: string | undefined;
  readonly akvEndpoint?: string | undefined;
  readonly maaEndpoint?: string | undefined;
  /** Wanted `x-ms-compliance-status`; YAML only. */
  readonly complianceStatus?: string | undefined;
}

/** A request to the vault; `fetch` of the platform takes it. Redirects are not followed: they would carry the token away. */
export interface VaultRequest {
  readonly method: "PUT";
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  readonly redirect: "manual";
}

/** An answer of any status; `Response` of the platform fits. */
export interface VaultAnswer {
  readonly status: number;
  readonly body: AsyncIterable<Uint8Array> | null;
}

/** The vault, and who may speak to it. */
export interface VaultPorts {
  fetch(url: string, request: VaultRequest): Promise<VaultAnswer>;
  /** Access token: `resource` is the audience, `vault` the host. Not asked if the configuration has a token. */
  token(resource: string, vault: string): Promise<string>;
  readonly random: Random;
}

/** What {@link importKey} did. */
export interface ImportKeyResult {
  /** URL of the new version of the key. */
  readonly kid: string;
  /** Release policy, JSON on one line. */
  readonly releasePolicy: string;
  /** The key as the AKS document shows it, `[34 71 …]`; size and kind for RSA. Secret, but known to the caller or made for it. */
  readonly keyText: string;
}

/** A key that is ready for the vault. */
export interface PreparedKey {
  /** Bytes of a symmetric key; undefined for RSA. Secret. */
  readonly bytes: Uint8Array | undefined;
  /** Sends it. */
  send(): Promise<ImportKeyResult>;
}

/** A key bundle has some 2 KB. */
const MAX_ANSWER = 256 * 1024;
const NEW_KEY_LENGTH = 32;

/**
 * Imports a key into a vault with a release policy. For a YAML that policy asks for SHA-256 of the pod's policy as HOST_DATA,
 * an endorsed guest, and no debugging.
 * @throws {ImportKeyError} ERR_IMPORTKEY_CONFIG, _POLICY, _OPTION, _KEY, _UNAUTHORIZED, _FORBIDDEN, _CONFLICT, _VAULT
 * @throws {KubeError} for a YAML that is none
 */
export async function importKey(input: ImportKeyInput, ports: VaultPorts): Promise<ImportKeyResult> {
  return prepareKey(input, ports).send();
}

/**
 * Does all of {@link importKey} that needs no vault.
 * @throws {ImportKeyError} ERR_IMPORTKEY_CONFIG, _POLICY, _OPTION, _KEY
 * @throws {KubeError}
 */
export function prepareKey(input: ImportKeyInput, ports: VaultPorts): PreparedKey {
  const overrides: PlanOverrides = { ...input, rsa: input.key.kind === "pem" };
  const plan = parsePlan(input.config.text, input.config.name, overrides);
  const key = loadKey(input.key, ports.random);
  const releasePolicy = encodeReleasePolicy({ version: "1.0.0", anyOf: plan.alternatives.map((allOf) => ({ authority: plan.authority, allOf })) });
  const keyText = key.bytes === undefined ? key.summary : `[${key.bytes.join(" ")}]`;
  return { bytes: key.bytes, send: async () => ({ kid: await putKey(plan, key, releasePolicy, ports), releasePolicy, keyText }) };
}

function loadKey(source: KeySource, random: Random): ImportedKey {
  switch (source.kind) {
    case "bytes":
      return symmetricKey(source.bytes);
    case "hex":
      return symmetricKeyOfHex(source.text);
    case "pem":
      return rsaKeyOfPem(source.file.text, source.file.name);
    case "new":
      return symmetricKey(random.bytes(NEW_KEY_LENGTH));
  }
}

async function putKey(plan: ImportPlan, key: ImportedKey, releasePolicy: string, ports: VaultPorts): Promise<string> {
  const base = `https://${plan.vault}/keys/${plan.kid}`;
  const resource = plan.vault.includes("managedhsm") ? "https://managedhsm.azure.net" : "https://vault.azure.net";
  const token = plan.bearerToken ?? (await ports.token(resource, plan.vault));
  if (!/^[\u0021-\u007e]+$/.test(token))
    throw new ImportKeyError("ERR_IMPORTKEY_UNAUTHORIZED", "the access token is empty or not printable ASCII", { hint: "Check the token file." });
  const body = JSON.stringify({
    key: { ...key.jwk, ...(plan.keyOps.length === 0 ? {} : { key_ops: plan.keyOps }) },
    hsm: true,
    attributes: { exportable: true },
    release_policy: { contentType: "application/json; charset=utf-8", data: toBase64url(encodeUtf8(releasePolicy)) },
  });
  let answer: Answer;
  try {
    const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
    const response = await ports.fetch(`${base}?api-version=${encodeURIComponent(plan.apiVersion)}`, { method: "PUT", headers, body, redirect: "manual" });
    answer = { status: response.status, json: await readJson(response.body) };
  } catch (error) {
    throw new ImportKeyError("ERR_IMPORTKEY_VAULT", `${base}: no answer: ${messageOf(error)}`, {
      cause: error,
      hint: "Check the vault's name; on a laptop, `sealpod up` starts the services.",
    });
  }
  if (answer.status !== 200) throw refusal(base, plan, answer);
  const kid = asObject(asObject(answer.json)?.["key"])?.["kid"];
  // The URL is printed and copied into deployments: take none that points elsewhere.
  if (typeof kid !== "string" || !isVersionOf(kid, base)) throw new ImportKeyError("ERR_IMPORTKEY_VAULT", `${base}: the answer has no key id of this key`);
  return kid;
}

function refusal(base: string, plan: ImportPlan, answer: Answer): ImportKeyError {
  const error = asObject(asObject(answer.json)?.["error"]);
  const said = [error?.["code"], error?.["message"]].filter((part) => typeof part === "string").join(": ");
  const message = `${base}: the vault answered ${answer.status}${said === "" ? "" : `, ${printable(said)}`}`;
  const details = { status: answer.status, key: plan.kid, vault: plan.vault };
  switch (answer.status) {
    case 401:
      return new ImportKeyError("ERR_IMPORTKEY_UNAUTHORIZED", message, {
        details,
        hint: "Get a fresh access token for the vault; it must be issued for the vault's tenant and audience.",
      });
    case 403:
      return new ImportKeyError("ERR_IMPORTKEY_FORBIDDEN", message, {
        details,
        hint: "Give this identity the permission keys/import (Key Vault Crypto Officer, or Managed HSM Crypto User).",
      });
    case 409:
      return new ImportKeyError("ERR_IMPORTKEY_CONFLICT", message, {
        details,
        hint: `Purge or recover the deleted key ${plan.kid}, or pass another name with --kid.`,
      });
    default:
      return new ImportKeyError("ERR_IMPORTKEY_VAULT", message, { details });
  }
}

/** True for `base/VERSION` on the same host. */
function isVersionOf(kid: string, base: string): boolean {
  if (!URL.canParse(kid)) return false;
  const found = new URL(kid);
  const wanted = new URL(base);
  return (
    found.origin === wanted.origin &&
    found.pathname.toLowerCase().startsWith(`${wanted.pathname.toLowerCase()}/`) &&
    /^\/keys\/[0-9A-Za-z-]+\/[0-9A-Za-z]+$/.test(found.pathname) &&
    kid === found.origin + found.pathname
  );
}

interface Answer {
  readonly status: number;
  /** Undefined if the body is not JSON: what the status says is enough then. */
  readonly json: JsonValue | undefined;
}

async function readJson(body: AsyncIterable<Uint8Array> | null): Promise<JsonValue | undefined> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of body ?? []) {
    size += chunk.length;
    if (size > MAX_ANSWER) return undefined;
    chunks.push(chunk);
  }
  try {
    return parseJson(decodeUtf8(concatBytes(...chunks)), "answer");
  } catch (error) {
    if (isSealpodError(error)) return undefined;
    throw error;
  }
}

/** Text of the vault for a terminal: one line, no control characters, not long. */
function printable(text: string): string {
  return text.replaceAll(/\p{C}+/gu, " ").slice(0, 500);
}
