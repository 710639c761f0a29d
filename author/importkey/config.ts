import { asArray, asObject, encodeJson, encodeUtf8, fromHex, isSealpodError, type JsonObject, type JsonValue, messageOf, parseJson } from "@sealpod/core";
import type { SourceFile } from "@sealpod/kube";
import { parseReleasePolicy, withoutTrailingCommas, type ReleasePolicy } from "@sealpod/release-policy";
import { ImportKeyError } from "./errors.ts";
import { DEFAULT_DERIVATION_LABEL, type ImportedKeyType, type KeyDerivation } from "./key.ts";
import { type AnnotatedPod, parseAnnotatedPod } from "./pod.ts";
import { podClaims, releasePolicyOf } from "./release-policy.ts";

/** What is to be imported and where, from a configuration file and flags. */
export interface ImportPlan {
  /** Name of the key. */
  readonly kid: string;
  /** Undefined: as the key that is given, and symmetric if none is. */
  readonly type: ImportedKeyType | undefined;
  readonly keyOps: readonly string[];
  /** Host name of the vault, with port if it is not 443. */
  readonly vault: string;
  readonly apiVersion: string;
  readonly releasePolicy: ReleasePolicy;
  readonly derivation: KeyDerivation;
  /** Access token for the vault, if the configuration has one. Secret. */
  readonly bearerToken?: string;
  /** Managed identity to ask the metadata service for, if the configuration names one. */
  readonly identityClientId?: string;
}

/** Values from flags about the pod and its policy, which go before those of the file. */
export interface PolicyOverrides {
  readonly maaEndpoint?: string | undefined;
  readonly complianceStatus?: string | undefined;
  /** `NAME` or `KIND/NAME` of the pod in a YAML. */
  readonly pod?: string | undefined;
}

/** Values from flags, which go before those of the file. */
export interface PlanOverrides extends PolicyOverrides {
  readonly kid?: string | undefined;
  readonly kty?: string | undefined;
  readonly akvEndpoint?: string | undefined;
}

/** Value that Sealpod's own guest images are endorsed with. */
export const DEFAULT_COMPLIANCE_STATUS = "sealpod-compliant-uvm";

/** The version that the known tool writes, and that has import with release policies. */
const DEFAULT_API_VERSION = "7.4";

const KEY_TYPES: readonly ImportedKeyType[] = ["oct-HSM", "RSA-HSM", "EC-HSM"];

/**
 * The plan of a configuration text: the JSON of the known tool, or an annotated Kubernetes YAML.
 * @throws {ImportKeyError} ERR_IMPORTKEY_CONFIG, ERR_IMPORTKEY_POLICY, ERR_IMPORTKEY_OPTION
 * @throws {KubeError} if it is neither JSON nor a manifest
 */
export function parsePlan(file: SourceFile, overrides: PlanOverrides): ImportPlan {
  const json = jsonConfig(file);
  return json === undefined ? planOfYaml(file, overrides) : planOfJson(json, file.name, overrides);
}

/** The release policy that an import would write, and the pod that it is of; without a vault or a key's name. */
export interface PlannedPolicy {
  readonly releasePolicy: ReleasePolicy;
  /** Undefined for the JSON of the known tool. */
  readonly pod: AnnotatedPod | undefined;
}

/**
 * The release policy of a configuration text; see {@link parsePlan}. JSON has claims of its own: of the overrides it takes `maaEndpoint` alone.
 * @throws {ImportKeyError} ERR_IMPORTKEY_CONFIG, ERR_IMPORTKEY_POLICY, ERR_IMPORTKEY_OPTION
 * @throws {KubeError} if it is neither JSON nor a manifest
 */
export function parsePlannedPolicy(file: SourceFile, overrides: PolicyOverrides): PlannedPolicy {
  const json = jsonConfig(file);
  if (json !== undefined) return { releasePolicy: policyOfJson(json, file.name, overrides), pod: undefined };
  const pod = parseAnnotatedPod(file, overrides.pod);
  return { releasePolicy: policyOfPod(pod, overrides), pod };
}

/** The text as the known tool's JSON; undefined for a manifest, which may be written in JSON too. */
function jsonConfig({ name, text }: SourceFile): JsonObject | undefined {
  // With a byte order mark, as editors on Windows write it.
  const bare = text.replace(/^\ufeff/, "");
  if (!bare.trimStart().startsWith("{")) return undefined;
  let value: JsonValue;
  try {
    value = parseJson(withoutTrailingCommas(bare), name);
  } catch (error) {
    if (!isSealpodError(error)) throw error;
    // A manifest in flow style is no JSON, and says so.
    if (bare.includes("apiVersion")) return undefined;
    throw configError(name, messageOf(error).replace(`${name}: `, ""), error);
  }
  const object = asObject(value);
  return object === undefined || object["apiVersion"] !== undefined ? undefined : object;
}

function planOfJson(json: JsonObject, file: string, overrides: PlanOverrides): ImportPlan {
  const { complianceStatus, pod } = overrides;
  for (const [flag, value] of [
    ["--compliance-status", complianceStatus],
    ["--pod", pod],
  ] as const) {
    if (value !== undefined)
      throw new ImportKeyError("ERR_IMPORTKEY_OPTION", `${flag} is for a YAML, and ${file} is JSON with claims of its own`, { hint: `Leave ${flag} out.` });
  }
  const read = readerOf(file);
  const key = read.object(json, "key", "key");
  const akv = read.object(key, "akv", "key.akv");
  const derivation = read.object(json, "key_derivation", "key_derivation");
  const bearerToken = read.text(akv, "bearer_token", "key.akv.bearer_token");
  const identityClientId = read.text(read.object(json, "identity", "identity"), "client_id", "identity.client_id");
  const keyOps = (asArray(key["key_ops"] ?? []) ?? read.refuse("key.key_ops must be an array")).map((op) =>
    typeof op === "string" ? op : read.refuse("key.key_ops must hold text"),
  );
  const releasePolicy = policyOfJson(json, file, overrides);
  return {
    kid: keyName(overrides.kid ?? read.text(key, "kid", "key.kid") ?? read.refuse("no key.kid")),
    type: overrides.kty === undefined ? keyType(read.text(key, "kty", "key.kty"), `${file}: key.kty`) : keyType(overrides.kty, "--kty"),
    keyOps,
    vault: hostOf(overrides.akvEndpoint ?? read.text(akv, "endpoint", "key.akv.endpoint") ?? read.refuse("no key.akv.endpoint"), "vault"),
    apiVersion: apiVersionOf(read.text(akv, "api_version", "key.akv.api_version")),
    releasePolicy,
    derivation: {
      salt: saltOf(read.text(derivation, "salt", "key_derivation.salt"), file),
      label: read.text(derivation, "label", "key_derivation.label") ?? DEFAULT_DERIVATION_LABEL,
    },
    ...(bearerToken === undefined ? {} : { bearerToken }),
    ...(identityClientId === undefined ? {} : { identityClientId }),
  };
}

/** Each list of `claims` is an alternative; its conditions may be whatever the grammar of release policies has. */
function policyOfJson(json: JsonObject, file: string, { maaEndpoint }: PolicyOverrides): ReleasePolicy {
  const read = readerOf(file);
  const endpoint = maaEndpoint ?? read.text(read.object(read.object(json, "key", "key"), "authority", "key.authority"), "endpoint", "key.authority.endpoint");
  const authority = authorityOf(endpoint ?? read.refuse("no key.authority.endpoint"));
  const lists = asArray(json["claims"] ?? []) ?? read.refuse("claims must be an array of arrays");
  const alternatives = lists.map((list, index) => asArray(list) ?? read.refuse(`claims[${index}] must be an array`));
  if (alternatives.length === 0 || alternatives.some((list) => list.length === 0))
    read.refuse("claims has an alternative without conditions: any guest could get the key");
  const policy = { version: "1.0.0", anyOf: alternatives.map((allOf): JsonObject => ({ authority, allOf })) };
  try {
    return parseReleasePolicy(encodeUtf8(encodeJson(policy)));
  } catch (error) {
    if (!isSealpodError(error)) throw error;
    return read.refuse(
      messageOf(error)
        .replace("The release policy is not valid at ", "")
        .replaceAll(/\$\.anyOf(\[\d+\])\.allOf/g, "claims$1"),
      error,
    );
  }
}

interface ConfigReader {
  refuse(problem: string, cause?: unknown): never;
  object(parent: JsonObject, name: string, path: string): JsonObject;
  /** Empty text is none, as in the samples. */
  text(parent: JsonObject, name: string, path: string): string | undefined;
}

function readerOf(file: string): ConfigReader {
  const refuse = (problem: string, cause?: unknown): never => {
    throw configError(file, problem, cause);
  };
  return {
    refuse,
    object(parent, name, path) {
      const value = parent[name];
      return value === undefined || value === null ? {} : (asObject(value) ?? refuse(`${path} must be an object`));
    },
    text(parent, name, path) {
      const value = parent[name];
      if (value === undefined || value === null || value === "") return undefined;
      return typeof value === "string" ? value : refuse(`${path} must be text`);
    },
  };
}

function configError(file: string, problem: string, cause?: unknown): ImportKeyError {
  return new ImportKeyError("ERR_IMPORTKEY_CONFIG", `${file}: ${problem}`, {
    cause,
    details: { file },
    hint: "Either pass the JSON configuration of importkey, or a Kubernetes YAML that `sealpod genpolicy` has annotated.",
  });
}

function planOfYaml(file: SourceFile, overrides: PlanOverrides): ImportPlan {
  const pod = parseAnnotatedPod(file, overrides.pod);
  return {
    kid: keyName(overrides.kid ?? setting(pod, "--kid", "SkrClientKID")),
    type: keyType(overrides.kty, "--kty"),
    keyOps: [],
    vault: hostOf(overrides.akvEndpoint ?? setting(pod, "--akv-endpoint", "SkrClientAKVEndpoint"), "vault"),
    apiVersion: DEFAULT_API_VERSION,
    releasePolicy: policyOfPod(pod, overrides),
    derivation: { salt: new Uint8Array(), label: DEFAULT_DERIVATION_LABEL },
  };
}

function policyOfPod(pod: AnnotatedPod, { maaEndpoint, complianceStatus }: PolicyOverrides): ReleasePolicy {
  const authority = authorityOf(maaEndpoint ?? setting(pod, "--maa-endpoint", "SkrClientMAAEndpoint"));
  return releasePolicyOf(authority, [podClaims(pod.hostData, complianceStatus ?? DEFAULT_COMPLIANCE_STATUS)]);
}

/** A value that the pod's containers have in their environment. */
function setting(pod: AnnotatedPod, flag: string, name: string): string {
  const found = pod.variable(name);
  const [value] = found;
  if (value !== undefined && found.length === 1) return value;
  const problem = found.length > 1 ? `${found.map((item) => JSON.stringify(item)).join(" and ")} for ${name}` : `no env ${name} with a value in any container`;
  throw new ImportKeyError("ERR_IMPORTKEY_OPTION", `${pod.place}: ${problem}, and no ${flag}`, { hint: `Pass ${flag}.` });
}

function keyType(text: string | undefined, where: string): ImportedKeyType | undefined {
  if (text === undefined) return undefined;
  const type = KEY_TYPES.find((known) => known.toLowerCase() === text.toLowerCase());
  if (type !== undefined) return type;
  throw new ImportKeyError(
    "ERR_IMPORTKEY_CONFIG",
    `${where} ${JSON.stringify(text)} is not supported: expected ${KEY_TYPES.map((known) => JSON.stringify(known)).join(", ")}`,
    {
      hint: "Only keys of these kinds can be released.",
    },
  );
}

function saltOf(text: string | undefined, file: string): Uint8Array {
  try {
    return fromHex(text ?? "", "key_derivation.salt");
  } catch (error) {
    throw configError(file, messageOf(error), error);
  }
}

/** Key names of Key Vault: 1 to 127 letters, digits and hyphens. A `$NAME` that nothing has replaced is no name. */
function keyName(name: string): string {
  if (/^[0-9A-Za-z-]{1,127}$/.test(name)) return name;
  throw new ImportKeyError("ERR_IMPORTKEY_CONFIG", `key name ${JSON.stringify(name)} is not 1 to 127 letters, digits and hyphens`, {
    hint: name.includes("$") ? "A placeholder in the file was not replaced." : "Pass --kid NAME.",
  });
}

/** Host name, with port if any; `https://` in front and a slash behind are taken off. */
function hostOf(endpoint: string, what: string): string {
  const host = endpoint.replace(/^https:\/\//i, "").replace(/\/$/, "");
  const valid = /^(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*(?::[0-9]{1,5})?$/.test(host);
  if (valid && URL.canParse(`https://${host}`)) return host.toLowerCase();
  throw new ImportKeyError("ERR_IMPORTKEY_CONFIG", `${what} endpoint ${JSON.stringify(endpoint)} is not a host name`, {
    hint: endpoint.includes("$") ? "A placeholder in the file was not replaced." : "Give a host name, with :PORT if it is not 443.",
  });
}

function authorityOf(endpoint: string): string {
  return `https://${hostOf(endpoint, "attestation")}`;
}

/** The known tool writes `api-version=7.4` into its configuration. */
function apiVersionOf(text: string | undefined): string {
  const version = text?.replace(/^api-version=/, "") ?? DEFAULT_API_VERSION;
  if (/^[0-9][0-9A-Za-z.-]{0,31}$/.test(version)) return version;
  throw new ImportKeyError("ERR_IMPORTKEY_CONFIG", `key.akv.api_version ${JSON.stringify(text)} is not a version such as "api-version=7.4"`);
}
