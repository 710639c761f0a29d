import {
  asObject,
  encodeUtf8,
  fromAnyBase64,
  isSealpodError,
  type JsonObject,
  type JsonValue,
  messageOf,
  type Random,
  toBase64url,
  toHex,
} from "@sealpod/core";
import type { SourceFile } from "@sealpod/kube";
import { parseReleasePolicy, type ReleasePolicy } from "@sealpod/release-policy";
import { type Answer, problemOf, readAnswer, refusalHint, type VaultAnswer, type VaultRequest } from "./answer.ts";
import { type ImportPlan, parsePlan, type PlanOverrides } from "./config.ts";
import { ImportKeyError } from "./errors.ts";
import { deriveKey, type ImportedKey, newRsaKey, privateKeyOfPem, symmetricKey, symmetricKeyOfHex } from "./key.ts";
import { changesText, releasePolicyChanges, releasePolicyText } from "./release-policy.ts";
import { cautionsOf, overriddenWeaknesses, requireStrong } from "./weakness.ts";

/** Where the key comes from; `new` makes one: RSA of 2048 bits if the configuration says RSA-HSM, 32 bytes otherwise. */
export type KeySource =
  | { readonly kind: "bytes"; readonly bytes: Uint8Array }
  | { readonly kind: "hex"; readonly text: string }
  | { readonly kind: "pem"; readonly file: SourceFile }
  | { readonly kind: "new" };

/** What is to be imported. */
export interface ImportKeyInput extends PlanOverrides {
  /** JSON configuration of the known tool, or annotated Kubernetes YAML. */
  readonly config: SourceFile;
  readonly key: KeySource;
  /** Takes a release policy that pods satisfy which nobody chose. */
  readonly allowAny?: boolean | undefined;
}

/** The vault, and who may speak to it. */
export interface VaultPorts {
  fetch(url: string, request: VaultRequest): Promise<VaultAnswer>;
  /** Access token: `resource` is the audience, `vault` the host. Not asked if the configuration has a token and `prefersPort` is not set. */
  token(resource: string, vault: string, identityClientId?: string): Promise<string>;
  /** The caller has named a source of tokens: it goes before the token of the configuration. */
  readonly prefersPort?: boolean;
  readonly random: Random;
  /** Told before the key is sent, e.g. that the policy of an existing key changes. */
  warn?(text: string): void;
}

/** What {@link importKey} did. */
export interface ImportKeyResult {
  /** URL of the new version of the key. */
  readonly kid: string;
  /** Release policy, JSON on one line. */
  readonly releasePolicy: string;
  /** The key as the AKS document shows it, `[34 71 …]`; size and kind for the others. Secret, but known to the caller or made for it. */
  readonly keyText: string;
}

/** A key that is ready for the vault. */
export interface PreparedKey {
  /** Bytes of a symmetric key; undefined for the others. Secret. */
  readonly bytes: Uint8Array | undefined;
  /** PKCS#8 PEM of a key that was made here. Secret. */
  readonly pem: string | undefined;
  /** `oct 256 bits`, `RSA 3072 bits`. */
  readonly summary: string;
  /** The policy, JSON on one line. */
  readonly releasePolicy: string;
  /** The request without token and without key: what is secret of it is replaced by words. */
  readonly request: { readonly method: "PUT"; readonly url: string; readonly body: JsonObject };
  /** The bytes for keyfile.bin: the key, or what an encrypted filesystem derives of it. Secret. @throws {ImportKeyError} ERR_IMPORTKEY_OPTION for EC */
  keyFile(): { readonly bytes: Uint8Array; readonly text: string };
  /** Sends it. */
  send(): Promise<ImportKeyResult>;
}

const NEW_KEY_LENGTH = 32;
/** Members of a JWK that are not secret. */
const PUBLIC_MEMBERS: ReadonlySet<string> = new Set(["kty", "n", "e", "crv", "x", "y", "key_size", "key_ops"]);

/**
 * Imports a key into a vault with a release policy. For a YAML that policy asks for the HOST_DATA of the pod's policy, an endorsed guest, and no debugging.
 * @throws {ImportKeyError} ERR_IMPORTKEY_CONFIG, _POLICY, _WEAK, _OPTION, _KEY, _UNAUTHORIZED, _FORBIDDEN, _CONFLICT, _VAULT
 * @throws {KubeError} for a YAML that is none
 */
export async function importKey(input: ImportKeyInput, ports: VaultPorts): Promise<ImportKeyResult> {
  return prepareKey(input, ports).send();
}

/**
 * Does all of {@link importKey} that needs no vault.
 * @throws {ImportKeyError} ERR_IMPORTKEY_CONFIG, _POLICY, _WEAK, _OPTION, _KEY
 * @throws {KubeError}
 */
export function prepareKey(input: ImportKeyInput, ports: VaultPorts): PreparedKey {
  const plan = parsePlan(input.config, input);
  requireStrong(plan.releasePolicy, input.allowAny === true);
  for (const line of [...overriddenWeaknesses(plan.releasePolicy), ...cautionsOf(plan.releasePolicy)]) ports.warn?.(line);
  const key = loadKey(input.key, plan, input.config.name, ports.random);
  const releasePolicy = releasePolicyText(plan.releasePolicy);
  const keyText = key.bytes === undefined ? key.summary : `[${key.bytes.join(" ")}]`;
  return {
    bytes: key.bytes,
    pem: key.pem,
    summary: key.summary,
    releasePolicy,
    request: { method: "PUT", url: urlOf(plan), body: bodyOf(plan, withoutSecrets(key.jwk), releasePolicy) },
    keyFile: () => keyFileOf(key, plan),
    send: async () => ({ kid: await sendKey(plan, key, releasePolicy, ports), releasePolicy, keyText }),
  };
}

function loadKey(source: KeySource, plan: ImportPlan, file: string, random: Random): ImportedKey {
  const kty = JSON.stringify(plan.type ?? "");
  if (source.kind === "new" && plan.type === "EC-HSM")
    throw new ImportKeyError("ERR_IMPORTKEY_OPTION", `${file}: the key's type is ${kty}, which needs -kp FILE`);
  const key = readKey(source, plan, random);
  if (plan.type === undefined || plan.type === key.type) return key;
  const flag = source.kind === "pem" ? "-kp" : "-kh";
  throw new ImportKeyError("ERR_IMPORTKEY_OPTION", `${file}: the key's type is ${kty}, which does not go with ${flag}: that is ${key.summary}`, {
    hint: "Change key.kty or --kty, or pass a key of that type: -kh for oct-HSM, -kp for the others.",
  });
}

function readKey(source: KeySource, plan: ImportPlan, random: Random): ImportedKey {
  switch (source.kind) {
    case "bytes":
      return symmetricKey(source.bytes);
    case "hex":
      return symmetricKeyOfHex(source.text);
    case "pem":
      return privateKeyOfPem(source.file.text, source.file.name);
    case "new":
      return plan.type === "RSA-HSM" ? newRsaKey() : symmetricKey(random.bytes(NEW_KEY_LENGTH));
  }
}

function keyFileOf(key: ImportedKey, plan: ImportPlan): { readonly bytes: Uint8Array; readonly text: string } {
  if (key.bytes !== undefined) return { bytes: key.bytes, text: `[${key.bytes.join(" ")}]` };
  const bytes = deriveKey(key, plan.derivation);
  // The line of the known tool.
  return { bytes, text: `Symmetric key ${toHex(bytes)} (salt: ${toHex(plan.derivation.salt)} label: ${plan.derivation.label})` };
}

function urlOf(plan: ImportPlan): string {
  return `https://${plan.vault}/keys/${plan.kid}?api-version=${encodeURIComponent(plan.apiVersion)}`;
}

function bodyOf(plan: ImportPlan, jwk: Readonly<Record<string, string | number>>, releasePolicy: string): JsonObject {
  return {
    key: { ...jwk, ...(plan.keyOps.length === 0 ? {} : { key_ops: plan.keyOps }) },
    hsm: true,
    attributes: { exportable: true },
    release_policy: { contentType: "application/json; charset=utf-8", data: toBase64url(encodeUtf8(releasePolicy)) },
  };
}

function withoutSecrets(jwk: Readonly<Record<string, string | number>>): Record<string, string | number> {
  return Object.fromEntries(Object.entries(jwk).map(([name, value]) => [name, PUBLIC_MEMBERS.has(name) ? value : "(not shown)"]));
}

async function sendKey(plan: ImportPlan, key: ImportedKey, releasePolicy: string, ports: VaultPorts): Promise<string> {
  const base = `https://${plan.vault}/keys/${plan.kid}`;
  const token = await tokenFor(plan, ports);
  const authorization = `Bearer ${token}`;
  const exchange = async (request: Omit<VaultRequest, "redirect">): Promise<Answer> => {
    try {
      return await readAnswer(await ports.fetch(urlOf(plan), { ...request, redirect: "manual" }));
    } catch (error) {
      throw new ImportKeyError("ERR_IMPORTKEY_VAULT", `${base}: no answer: ${messageOf(error)}`, {
        cause: error,
        hint: "Check the vault's name; on a laptop, `sealpod up` starts the services.",
      });
    }
  };
  // Who may import need not be allowed to look: then nothing is known of what is there.
  const existing = await exchange({ method: "GET", headers: { authorization } });
  if (existing.status === 401) throw refusal(base, plan, existing);
  if (existing.status === 200) comparePolicy(existing.json, plan, ports);

  const body = JSON.stringify(bodyOf(plan, key.jwk, releasePolicy));
  const answer = await exchange({ method: "PUT", headers: { authorization, "content-type": "application/json" }, body });
  if (answer.status !== 200) throw refusal(base, plan, answer);
  const kid = asObject(asObject(answer.json)?.["key"])?.["kid"];
  // The URL is printed and copied into deployments: take none that points elsewhere.
  if (typeof kid !== "string" || !isVersionOf(kid, base)) throw new ImportKeyError("ERR_IMPORTKEY_VAULT", `${base}: the answer has no key id of this key`);
  return kid;
}

async function tokenFor(plan: ImportPlan, ports: VaultPorts): Promise<string> {
  const resource = plan.vault.includes("managedhsm") ? "https://managedhsm.azure.net" : "https://vault.azure.net";
  const own = ports.prefersPort === true ? undefined : plan.bearerToken;
  const token = own ?? (await ports.token(resource, plan.vault, plan.identityClientId));
  if (/^[\u0021-\u007e]+$/.test(token)) return token;
  throw new ImportKeyError("ERR_IMPORTKEY_UNAUTHORIZED", "the access token is empty or not printable ASCII", { hint: "Check the token file." });
}

/** Warns of a policy that changes, and refuses where the vault would: a change is often a YAML that was edited, and the pods that run lose the key. */
function comparePolicy(bundle: JsonValue | undefined, plan: ImportPlan, ports: VaultPorts): void {
  const policy = asObject(asObject(bundle)?.["release_policy"]);
  const data = policy?.["data"];
  if (typeof data !== "string") return;
  let existing: ReleasePolicy;
  try {
    existing = parseReleasePolicy(fromAnyBase64(data, "release_policy.data"));
  } catch (error) {
    if (!isSealpodError(error)) throw error;
    ports.warn?.(`key ${plan.kid} has a release policy that this program cannot read, and this import replaces it`);
    return;
  }
  const changes = releasePolicyChanges(existing, plan.releasePolicy);
  if (changes.length === 0) return;
  const text = changesText(changes);
  if (policy?.["immutable"] === true) {
    throw new ImportKeyError("ERR_IMPORTKEY_CONFLICT", `key ${plan.kid} has an immutable release policy, and this is another:\n${text}`, {
      hint: "Take another name for the key with --kid.",
    });
  }
  ports.warn?.(
    `key ${plan.kid} has a release policy already, and its new version gets another: pods that satisfy only the old one do not get the new version\n${text}`,
  );
}

function refusal(base: string, plan: ImportPlan, answer: Answer): ImportKeyError {
  const problem = problemOf(answer.status, answer.json);
  const message = `${base}: the vault answered ${answer.status}${problem.said === "" ? "" : `, ${problem.said}`}`;
  const details = { status: answer.status, key: plan.kid, vault: plan.vault, ...(problem.inner === "" ? {} : { inner: problem.inner }) };
  const hint = refusalHint(problem);
  switch (answer.status) {
    case 401:
      return new ImportKeyError("ERR_IMPORTKEY_UNAUTHORIZED", message, { details, ...(hint === undefined ? {} : { hint }) });
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
      return new ImportKeyError("ERR_IMPORTKEY_VAULT", message, { details, ...(hint === undefined ? {} : { hint }) });
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
