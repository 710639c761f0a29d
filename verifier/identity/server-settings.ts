import { resolve } from "node:path";
import type { JsonValue } from "@sealpod/core";
import {
  booleanSetting,
  choiceSetting,
  commonSettings,
  durationSetting,
  fields,
  fileSetting,
  isPlainUrl,
  jsonSetting,
  listSetting,
  textSetting,
  type CommonSettings,
  type CommonValues,
  type Setting,
} from "@sealpod/service";
import { KEYS_CACHE_TIME } from "./signing-keys.ts";
import type { Cluster, IssuerForm, TokenResource } from "./token-service.ts";

const MINUTE: number = 60 * 1000;
const DAY: number = 24 * 60 * MINUTE;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** Configuration of the service. */
export interface IdentitySettings extends CommonValues {
  readonly authority: string;
  readonly tenants: readonly string[];
  readonly database: string;
  readonly databaseUrlEnvironment: string | undefined;
  readonly masterKey: { readonly file: string | undefined; readonly environment: string | undefined; readonly allowGroup: boolean };
  readonly clusters: readonly Cluster[];
  readonly federation: "on" | "off";
  readonly resources: readonly TokenResource[];
  readonly tokens: { readonly lifetime: number; readonly issuer: IssuerForm; readonly audit: boolean };
  readonly management: { readonly tokenFile: string | undefined; readonly administrators: readonly string[] };
  readonly keyRotation: { readonly every: number; readonly overlap: number };
}

type Schema<V> = { readonly [K in keyof V]: V[K] extends Section ? Schema<V[K]> : Setting<V[K]> };
type Section = IdentitySettings["masterKey" | "tokens" | "management" | "keyRotation"];

/** The keys of the configuration, each with its meaning: `--describe-config` prints them. */
export const IDENTITY_SETTINGS: CommonSettings & Schema<Omit<IdentitySettings, keyof CommonValues>> = {
  authority: textSetting(
    "Public https URL of the service, without path: what clients name as authority host, and the beginning of iss in access tokens.",
    { required: true },
    "an https URL without path",
    (text) =>
      isPlainUrl(text) && new URL(text).pathname === "/" && !text.endsWith("/") ? undefined : "expected an https URL without path, query, fragment or user",
  ),
  tenants: listSetting("Tenants, each a directory of applications.", { required: true }, uuidSetting("A tenant's id.")),
  ...commonSettings("127.0.0.1:8444"),
  database: jsonSetting(
    "Database with applications, credentials, keys and audit: a path (SQLite, made if it is not there, in a directory of the service's own), or postgres://… without password.",
    "a path or postgres://…",
    { preset: "identity.sqlite" },
    parseDatabase,
  ),
  databaseUrlEnvironment: textSetting(
    "Name of the environment variable with the address of the database, in place of database: for addresses with a password.",
    {},
    "the name of a variable",
  ),
  masterKey: {
    file: fileSetting(
      "File with the key that seals the signing keys: 32 bytes, raw, as 64 hexadecimal digits or as base64; readable by the service alone.",
      {},
    ),
    environment: textSetting(
      "Name of the environment variable with that key, in place of the file, such as IDENTITY_MASTER_KEY.",
      {},
      "the name of a variable",
    ),
    allowGroup: booleanSetting("Whether the file's group may read it: what Kubernetes makes of a secret for a pod with fsGroup.", { preset: false }),
  },
  clusters: listSetting(
    "Clusters whose service-account tokens are signed here: discovery and keys are served under the path of each issuer. The issuer is compared exactly, so a slash at its end counts.",
    { preset: [] },
    jsonSetting("A cluster.", '{"name", "issuer"}', { required: true }, parseCluster),
  ),
  federation: choiceSetting(
    "Whether other issuers are asked for their keys, over https, when a federated credential names them. Off: tokens of this service's clusters alone are exchanged.",
    ["on", "off"],
    { preset: "on" },
  ),
  resources: listSetting(
    "Resources that access tokens are given for. version 2.0 gives tokens in the newer form; audience is what stands in aud if it is not the resource.",
    { preset: ["https://vault.azure.net", "https://managedhsm.azure.net", "https://attest.azure.net"] },
    jsonSetting("A resource.", 'a URI, or {"resource", "version"?, "audience"?}', { required: true }, parseResource),
  ),
  tokens: {
    lifetime: durationSetting("Time for which access tokens are valid.", { preset: "60m" }, 10 * MINUTE, DAY),
    issuer: choiceSetting(
      "iss of access tokens of version 1.0: authority, {authority}/{tenant}/v2.0, where their keys are; sts, Entra's own https://sts.windows.net/{tenant}/, for relying parties that take no other.",
      ["authority", "sts"],
      { preset: "authority" },
    ),
    audit: booleanSetting("Whether each token that is issued is a line of the audit in the database. The log has them in any case.", { preset: false }),
  },
  management: {
    tokenFile: fileSetting("File with a bearer token that may manage everything: 32 characters or more, readable by the service alone.", {}),
    administrators: listSetting(
      "Client ids of applications that may manage their tenant, with access tokens of this service for https://management.azure.com or https://graph.microsoft.com.",
      { preset: [] },
      uuidSetting("A client id."),
    ),
  },
  keyRotation: {
    every: durationSetting("Time for which a signing key signs.", { preset: "90d" }, DAY, 3650 * DAY),
    overlap: durationSetting("Time for which a signing key is published before it signs.", { preset: "1d" }, KEYS_CACHE_TIME + MINUTE, 365 * DAY),
  },
};

function parseDatabase(value: JsonValue, directory: string): string {
  if (typeof value !== "string" || value === "" || value.includes("\0")) throw new Error("expected a path or postgres://…");
  if (!/^[a-z]{2,}:/i.test(value)) return resolve(directory, value);
  // What stands here is printed by --print-config.
  if (URL.canParse(value) && new URL(value).password !== "")
    throw new Error("it has a password: put the address into a variable, and name that with databaseUrlEnvironment");
  return value;
}

function uuidSetting(doc: string): Setting<string> {
  return textSetting(doc, { required: true }, "a lower-case UUID", (text) => (UUID.test(text) ? undefined : "expected a lower-case UUID"));
}

function parseCluster(value: JsonValue): Cluster {
  const { name, issuer } = fields(value, ["name", "issuer"]);
  if (typeof name !== "string" || !/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(name)) throw new Error("expected a name of lower-case letters, digits and -");
  if (typeof issuer !== "string" || !isPlainUrl(issuer)) throw new Error("expected an https URL without query, fragment or user as issuer");
  return { name, issuer };
}

function parseResource(value: JsonValue): TokenResource {
  const { resource, version = "1.0", audience } = typeof value === "string" ? { resource: value } : fields(value, ["resource"], ["version", "audience"]);
  if (typeof resource !== "string" || !URL.canParse(resource) || resource.endsWith("/") || /\s/.test(resource))
    throw new Error("expected a URI without slash at its end as resource");
  if (version !== "1.0" && version !== "2.0") throw new Error('expected "1.0" or "2.0" as version');
  if (audience !== undefined && (typeof audience !== "string" || audience === "")) throw new Error("expected text as audience");
  return { resource, version, ...(audience === undefined ? {} : { audience }) };
}
