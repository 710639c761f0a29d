import { resolve } from "node:path";
import { asArray, asObject, type JsonObject, type JsonValue } from "@sealpod/core";
import type { OaepHash, Pkcs11Source } from "@sealpod/sealing";
import {
  booleanSetting,
  choiceSetting,
  commonSettings,
  durationSetting,
  fileSetting,
  isPlainUrl,
  jsonSetting,
  listSetting,
  textOf,
  textSetting,
  type CommonSettings,
  type CommonValues,
  type Setting,
} from "@sealpod/service";
import type { TokenIssuer } from "./bearer.ts";
import type { VaultKind } from "./key-request.ts";
import type { Principal } from "./store/types.ts";

const HOUR = 60 * 60 * 1000;
const DAY = 24 * HOUR;

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const LABEL = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
const DOMAIN = /^(?=.{1,200}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$/;

/** A vault as it is configured. */
export interface VaultSetting {
  /** First label of its host name. */
  readonly name: string;
  readonly kind: VaultKind;
  /** What decides who may do what. */
  readonly access: "policies" | "roles";
  /** Who may change that, and read the audit. */
  readonly administrators: readonly Principal[];
  /** The rest of its host name, where it is not that of the service. */
  readonly domain?: string;
  /** Resource of its challenge, where it is not that of the service. */
  readonly resource?: string;
}

/** Configuration of the service. */
export interface KeyvaultSettings extends CommonValues {
  readonly domain: string;
  readonly vaults: readonly VaultSetting[];
  readonly issuers: readonly TokenIssuer[];
  readonly resource: string | undefined;
  readonly audiences: readonly string[];
  readonly database: string;
  readonly masterKey: {
    readonly file: string | undefined;
    readonly environment: string | undefined;
    readonly allowGroup: boolean;
    readonly pkcs11: Pkcs11Source | undefined;
  };
  readonly releases: {
    readonly cert: string | undefined;
    readonly key: string | undefined;
    readonly evidenceRoots: readonly string[];
    readonly authorities: readonly string[];
    readonly audiences: readonly string[];
  };
  readonly trustedCertificates: readonly string[];
  readonly wrappingKeys: { readonly every: number };
}

type Schema<V> = { readonly [K in keyof V]: V[K] extends Section ? Schema<V[K]> : Setting<V[K]> };
type Section = KeyvaultSettings["masterKey" | "releases" | "wrappingKeys"];

/** The keys of the configuration, each with its meaning: `--describe-config` prints them. */
export const KEYVAULT_SETTINGS: CommonSettings & Schema<Omit<KeyvaultSettings, keyof CommonValues>> = {
  domain: textSetting(
    "Parent of the vaults' host names: the vault demo answers as demo.<domain>. Its TLS certificate needs them, or the wildcard *.<domain>.",
    { required: true },
    "a lower-case DNS name",
    (text) => (DOMAIN.test(text) ? undefined : "expected a lower-case DNS name such as vault.example.com"),
  ),
  ...commonSettings("127.0.0.1:8443"),
  vaults: listSetting(
    "The vaults. A managedhsm has HSM keys alone; what may be done in it is decided by roles, in a vault by access policies unless access says roles.",
    { required: true },
    jsonSetting(
      "A vault.",
      '{"name", "kind": "vault" or "managedhsm", "access"?: "policies" or "roles", "administrators": [{"tenantId", "id": object id or client id}], "domain"?, "resource"?: in place of the service\'s own}',
      { required: true },
      parseVault,
    ),
  ),
  issuers: listSetting(
    "Whose access tokens count; the first is named in the challenge.",
    { required: true },
    jsonSetting(
      "An issuer.",
      '{"issuer": iss of its tokens, below which its OpenID configuration is, "tenantId", "authorization": where clients get tokens}',
      { required: true },
      parseIssuer,
    ),
  ),
  resource: textSetting(
    "Resource that the challenge names. The genuine clients insist that a vault's host ends with a dot and the host of this URL. https://<domain> if nothing is said.",
    {},
    "an https URL",
    (text) => (isPlainUrl(text) ? undefined : "expected an https URL without query, fragment or user"),
  ),
  audiences: listSetting(
    "Audiences of access tokens that are taken beside the resource: the genuine sidecar asks for no others than these.",
    { preset: ["https://vault.azure.net", "https://managedhsm.azure.net"] },
    textSetting("An audience.", { required: true }),
  ),
  database: jsonSetting(
    "Path of a SQLite database, made if it is not there, in a directory of the service's own; or a postgres:// URL without password, so that several replicas share it. The variable DATABASE_URL stands above it, and there the URL may have a password.",
    "a path or a postgres:// URL",
    { preset: "keyvault.sqlite" },
    parseDatabase,
  ),
  masterKey: {
    file: fileSetting("File with the master key: 32 bytes, raw, as 64 hexadecimal digits or as base64; readable by the service alone.", {}),
    environment: textSetting(
      "Name of the environment variable with the master key, in place of the file, such as KEYVAULT_MASTER_KEY.",
      {},
      "the name of a variable",
    ),
    allowGroup: booleanSetting("Whether the group of that file, or of the PIN's, may read it: what Kubernetes makes of a secret for a pod with fsGroup.", {
      preset: false,
    }),
    pkcs11: jsonSetting(
      "The master key as an RSA key pair in a PKCS#11 token, in place of file and variable. The program pkcs11-tool (package opensc) speaks to it, when the service starts and when a backup is restored.",
      '{"module": path, "token": label, "label" or "id" (hexadecimal) of the key pair, "pinFile": path or "pinEnvironment": name of a variable, "publicKeyFile"?: its public key in PEM, else read from the token, "hash"?: "sha1" or "sha256" of RSA-OAEP, "tool"?: path of pkcs11-tool, "variables"?: names of variables that the module reads}',
      {},
      parsePkcs11,
    ),
  },
  releases: {
    cert: fileSetting(
      "Certificate and chain that sign releases, in PEM, leaf first. tls.cert if nothing is said: clients compare it with the host that they called.",
      {},
    ),
    key: fileSetting("Its RSA key in PEM, without password. tls.key if nothing is said.", {}),
    evidenceRoots: listSetting(
      'Roots of trust of evidence, as Sealpod\'s attestation service names them in x-sealpod-root, that keys are released to. "emulator" proves nothing about hardware.',
      { preset: ["amd"] },
      textSetting("Name of a root.", { required: true }),
    ),
    authorities: listSetting(
      "Attestation services that release policies may name; the keys of others are not fetched. An empty list lets policies name any.",
      { preset: [] },
      textSetting("An https URL.", { required: true }, "an https URL", (text) =>
        isPlainUrl(text) ? undefined : "expected an https URL without query, fragment or user",
      ),
    ),
    audiences: listSetting(
      "Audiences (aud) that attestation tokens may have beside the vault's URL.",
      { preset: [] },
      textSetting("An audience.", { required: true }),
    ),
  },
  trustedCertificates: listSetting(
    "Files with certificates of authorities, in PEM, that vouch for the TLS of issuers and attestation services beside those that Node knows. Read at the start.",
    { preset: [] },
    fileSetting("A path.", { required: true }),
  ),
  wrappingKeys: {
    every: durationSetting(
      "Age at which the key that seals the records is replaced, and everything sealed again under the new one, while the service runs.",
      { preset: "90d" },
      HOUR,
      3650 * DAY,
    ),
  },
};

const variablesSetting = listSetting("", { required: true }, textSetting("", { required: true }, "the name of a variable"));
const hashSetting = choiceSetting("", ["sha1", "sha256"], { required: true });
const kindSetting = choiceSetting("", ["vault", "managedhsm"], { required: true });
const accessSetting = choiceSetting("", ["policies", "roles"], { required: true });
const pathSetting = fileSetting("", { required: true });

function parseVault(value: JsonValue, directory: string): VaultSetting {
  const vault = fields(value, ["name", "kind"], ["access", "administrators", "domain", "resource"]);
  const name = textOf(vault, "name");
  if (!LABEL.test(name)) throw new Error("expected a lower-case DNS label as name");
  const kind = part("kind", () => kindSetting.parse(vault["kind"] ?? null, directory));
  const access = part("access", () => accessSetting.parse(vault["access"] ?? (kind === "managedhsm" ? "roles" : "policies"), directory));
  if (kind === "managedhsm" && access !== "roles") throw new Error("a managedhsm knows roles alone");
  const administrators = asArray(vault["administrators"] ?? []);
  if (administrators === undefined) throw new Error("expected a list as administrators");
  const domain = vault["domain"] === undefined ? undefined : textOf(vault, "domain");
  if (domain !== undefined && !DOMAIN.test(domain)) throw new Error("expected a lower-case DNS name as domain");
  const resource = vault["resource"] === undefined ? undefined : textOf(vault, "resource");
  if (resource !== undefined && !isPlainUrl(resource)) throw new Error("expected an https URL without query, fragment or user as resource");
  return {
    name,
    kind,
    access,
    administrators: administrators.map(parsePrincipal),
    ...(domain === undefined ? {} : { domain }),
    ...(resource === undefined ? {} : { resource }),
  };
}

function parsePrincipal(value: JsonValue): Principal {
  const principal = fields(value, ["tenantId", "id"]);
  return { tenantId: uuidOf(principal, "tenantId"), id: uuidOf(principal, "id") };
}

function parseIssuer(value: JsonValue): TokenIssuer {
  const entry = fields(value, ["issuer", "tenantId", "authorization"]);
  for (const name of ["issuer", "authorization"]) {
    // Whoever can change what comes from there signs access tokens for every vault.
    if (!isPlainUrl(textOf(entry, name))) throw new Error(`expected an https URL without query, fragment or user as ${name}`);
  }
  return { issuer: textOf(entry, "issuer"), tenantId: uuidOf(entry, "tenantId"), authorization: textOf(entry, "authorization") };
}

function parseDatabase(value: JsonValue, directory: string): string {
  if (typeof value !== "string" || value === "" || value.includes("\0")) throw new Error("expected a path or a postgres:// URL");
  return databaseAddress(value, directory);
}

function parsePkcs11(value: JsonValue, directory: string): Pkcs11Source {
  const entry = fields(value, ["module", "token"], ["label", "id", "pinFile", "pinEnvironment", "publicKeyFile", "hash", "tool", "variables"]);
  for (const [a, b] of [
    ["label", "id"],
    ["pinFile", "pinEnvironment"],
  ] as const) {
    if ((entry[a] === undefined) === (entry[b] === undefined)) throw new Error(`expected either ${a} or ${b}`);
  }
  const optional = (name: string): string | undefined => (entry[name] === undefined ? undefined : textOf(entry, name));
  const path = (name: string): string | undefined => (entry[name] === undefined ? undefined : pathSetting.parse(textOf(entry, name), directory));
  const id = optional("id");
  if (id !== undefined && !/^(?:[0-9a-fA-F]{2})+$/.test(id)) throw new Error("expected bytes in hexadecimal as id");
  const tool = optional("tool");
  const hash: OaepHash | undefined = entry["hash"] === undefined ? undefined : part("hash", () => hashSetting.parse(entry["hash"] ?? null, directory));
  return {
    module: pathSetting.parse(textOf(entry, "module"), directory),
    token: textOf(entry, "token"),
    label: optional("label"),
    id,
    pinFile: path("pinFile"),
    pinEnvironment: optional("pinEnvironment"),
    publicKeyFile: path("publicKeyFile"),
    hash,
    // A name alone is looked for in the PATH.
    tool: tool?.includes("/") === true ? resolve(directory, tool) : tool,
    variables: part("variables", () => variablesSetting.parse(entry["variables"] ?? [], directory)),
  };
}

function part<T>(name: string, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    throw new Error(`${name}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}

/** An object with these members and no others. */
function fields(value: JsonValue, required: readonly string[], optional: readonly string[] = []): JsonObject {
  const found = asObject(value);
  if (found === undefined) throw new Error(`expected an object with ${required.join(", ")}`);
  const missing = required.filter((name) => found[name] === undefined);
  const unknown = Object.keys(found).filter((name) => !required.includes(name) && !optional.includes(name));
  if (missing.length > 0) throw new Error(`expected an object with ${required.join(", ")}; ${missing.join(", ")} missing`);
  if (unknown.length > 0) throw new Error(`expected an object with ${[...required, ...optional].join(", ")}; ${unknown.join(", ")} unknown`);
  return found;
}

function uuidOf(object: JsonObject, name: string): string {
  const value = textOf(object, name).toLowerCase();
  if (!UUID.test(value)) throw new Error(`expected a UUID as ${name}`);
  return value;
}

/**
 * The address of a database: PostgreSQL's as it is, a path from a directory.
 * @throws {Error} for an address of anything else
 */
export function databaseAddress(text: string, directory: string): string {
  if (/^postgres(ql)?:\/\//i.test(text)) return text;
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(text)) throw new Error("expected a path or a postgres:// URL");
  return resolve(directory, text.replace(/^file:/i, ""));
}
