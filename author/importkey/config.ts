import { asArray, asObject, fromBase64, isSealpodError, type JsonObject, type JsonValue, messageOf, parseJson, sha256, toHex } from "@sealpod/core";
import { formatPosition, type KubeObject, parseManifest, podAnnotationOf, podTemplateOf, type YamlMapping, scalarText, valueOf } from "@sealpod/kube";
import { ImportKeyError } from "./errors.ts";
import { type Claim, podClaims } from "./release-policy.ts";

/** Annotation that carries the policy (specs/genpolicy.md 3.5). */
const POLICY_ANNOTATION = "io.katacontainers.config.agent.policy";

/** What is to be imported and where, from a configuration file and flags. */
export interface ImportPlan {
  /** Name of the key. */
  readonly kid: string;
  readonly type: "oct-HSM" | "RSA-HSM";
  readonly keyOps: readonly string[];
  /** Host name of the vault, with port if it is not 443. */
  readonly vault: string;
  readonly apiVersion: string;
  /** URL of the attestation service. */
  readonly authority: string;
  /** Each list is one alternative of the release policy. */
  readonly alternatives: readonly (readonly Claim[])[];
  /** Access token for the vault, if the configuration has one. */
  readonly bearerToken?: string;
}

/** Values from flags, which go before those of the file. */
export interface PlanOverrides {
  readonly kid?: string | undefined;
  readonly akvEndpoint?: string | undefined;
  readonly maaEndpoint?: string | undefined;
  readonly complianceStatus?: string | undefined;
  /** True if a PEM file is given. */
  readonly rsa: boolean;
}

/** Value that Sealpod's own guest images are endorsed with. */
export const DEFAULT_COMPLIANCE_STATUS = "sealpod-compliant-uvm";

/** The version that the known tool writes, and that has import with release policies. */
const DEFAULT_API_VERSION = "7.4";

/**
 * The plan of a configuration text: the JSON of the known tool, or an annotated Kubernetes YAML.
 * @throws {ImportKeyError} ERR_IMPORTKEY_CONFIG, ERR_IMPORTKEY_POLICY, ERR_IMPORTKEY_OPTION
 * @throws {KubeError} if it is neither JSON nor a manifest
 */
export function parsePlan(text: string, file: string, overrides: PlanOverrides): ImportPlan {
  const json = jsonConfig(text);
  return json === undefined ? planOfYaml(text, file, overrides) : planOfJson(json, file, overrides);
}

/** The text as the known tool's JSON; undefined for a manifest, which may be written in JSON too. */
function jsonConfig(text: string): JsonObject | undefined {
  if (!text.trimStart().startsWith("{")) return undefined;
  let value: JsonValue;
  try {
    value = parseJson(text, "configuration");
  } catch (error) {
    if (isSealpodError(error)) return undefined;
    throw error;
  }
  const object = asObject(value);
  return object === undefined || object["apiVersion"] !== undefined ? undefined : object;
}

function planOfJson(json: JsonObject, file: string, overrides: PlanOverrides): ImportPlan {
  const refuse = (problem: string): never => {
    throw new ImportKeyError("ERR_IMPORTKEY_CONFIG", `${file}: ${problem}`, {
      details: { file },
      hint: "Either pass the JSON configuration of importkey, or a Kubernetes YAML that `sealpod genpolicy` has annotated.",
    });
  };
  const objectAt = (parent: JsonObject, name: string, path: string): JsonObject => {
    const value = parent[name];
    return value === undefined || value === null ? {} : (asObject(value) ?? refuse(`${path} must be an object`));
  };
  const textAt = (parent: JsonObject, name: string, path: string): string | undefined => {
    const value = parent[name];
    if (value === undefined || value === null || value === "") return undefined;
    return typeof value === "string" ? value : refuse(`${path} must be text`);
  };
  const key = objectAt(json, "key", "key");
  const akv = objectAt(key, "akv", "key.akv");
  const kty = textAt(key, "kty", "key.kty");
  if (kty !== undefined && kty !== "oct-HSM" && kty !== "RSA-HSM") refuse(`key.kty ${JSON.stringify(kty)} is not supported: expected "oct-HSM" or "RSA-HSM"`);
  const type = kty ?? (overrides.rsa ? "RSA-HSM" : "oct-HSM");
  if (type === "RSA-HSM" && !overrides.rsa) throw new ImportKeyError("ERR_IMPORTKEY_OPTION", `${file}: key.kty is RSA-HSM, which needs -kp FILE`);
  if (type === "oct-HSM" && overrides.rsa) throw new ImportKeyError("ERR_IMPORTKEY_OPTION", `${file}: key.kty is oct-HSM, which does not go with -kp`);
  const keyOps = (asArray(key["key_ops"] ?? []) ?? refuse("key.key_ops must be an array")).map((op) =>
    typeof op === "string" ? op : refuse("key.key_ops must hold text"),
  );
  const lists = asArray(json["claims"] ?? []) ?? refuse("claims must be an array of arrays");
  const alternatives = lists.map((list, index) =>
    (asArray(list) ?? refuse(`claims[${index}] must be an array`)).map((item, place): Claim => {
      const { claim, equals } = asObject(item) ?? {};
      if (typeof claim !== "string" || typeof equals !== "string") return refuse(`claims[${index}][${place}] must have a claim and what it equals, both text`);
      return { claim, equals };
    }),
  );
  if (alternatives.length === 0 || alternatives.some((list) => list.length === 0))
    refuse("claims has an alternative without conditions: any guest could get the key");
  const bearerToken = textAt(akv, "bearer_token", "key.akv.bearer_token");
  return {
    kid: keyName(overrides.kid ?? textAt(key, "kid", "key.kid") ?? refuse("no key.kid")),
    type: type === "RSA-HSM" ? "RSA-HSM" : "oct-HSM",
    keyOps,
    vault: hostOf(overrides.akvEndpoint ?? textAt(akv, "endpoint", "key.akv.endpoint") ?? refuse("no key.akv.endpoint"), "vault"),
    apiVersion: apiVersionOf(textAt(akv, "api_version", "key.akv.api_version")),
    authority: authorityOf(
      overrides.maaEndpoint ?? textAt(objectAt(key, "authority", "key.authority"), "endpoint", "key.authority.endpoint") ?? refuse("no key.authority.endpoint"),
    ),
    alternatives,
    ...(bearerToken === undefined ? {} : { bearerToken }),
  };
}

function planOfYaml(text: string, file: string, overrides: PlanOverrides): ImportPlan {
  const { objects } = parseManifest({ name: file, text });
  const pods = objects.filter((object) => podTemplateOf(object) !== undefined);
  const hashes = pods.map((object) => ({ object, hostData: hostDataOf(object) }));
  const [first] = hashes;
  if (first === undefined) {
    throw new ImportKeyError("ERR_IMPORTKEY_POLICY", `${file}: nothing here makes pods`, { hint: "Pass the YAML of the pod that is to get the key." });
  }
  const other = hashes.find(({ hostData }) => hostData !== first.hostData);
  if (other !== undefined) {
    throw new ImportKeyError(
      "ERR_IMPORTKEY_POLICY",
      `${placeOf(first.object)} and ${placeOf(other.object)} have different policies (${first.hostData} and ${other.hostData}): a key is bound to one`,
      { hint: "Put the pod that is to get the key into a file of its own." },
    );
  }
  const setting = (flag: string, name: string): string => {
    const found = new Set(pods.flatMap((object) => variablesOf(object, name)));
    const [value] = found;
    if (value === undefined || found.size > 1) {
      const problem =
        found.size > 1 ? `${[...found].map((item) => JSON.stringify(item)).join(" and ")} for ${name}` : `no env ${name} with a value in any container`;
      throw new ImportKeyError("ERR_IMPORTKEY_OPTION", `${placeOf(first.object)}: ${problem}, and no ${flag}`, { hint: `Pass ${flag}.` });
    }
    return value;
  };
  return {
    kid: keyName(overrides.kid ?? setting("--kid", "SkrClientKID")),
    type: overrides.rsa ? "RSA-HSM" : "oct-HSM",
    keyOps: [],
    vault: hostOf(overrides.akvEndpoint ?? setting("--akv-endpoint", "SkrClientAKVEndpoint"), "vault"),
    apiVersion: DEFAULT_API_VERSION,
    authority: authorityOf(overrides.maaEndpoint ?? setting("--maa-endpoint", "SkrClientMAAEndpoint")),
    alternatives: [podClaims(first.hostData, overrides.complianceStatus ?? DEFAULT_COMPLIANCE_STATUS)],
  };
}

/** SHA-256 of the policy in the pod's annotation. */
function hostDataOf(object: KubeObject): string {
  const annotation = podAnnotationOf(object, POLICY_ANNOTATION);
  if (annotation === undefined) {
    throw new ImportKeyError("ERR_IMPORTKEY_POLICY", `${placeOf(object)} has no annotation ${POLICY_ANNOTATION}`, {
      hint: `Run \`sealpod genpolicy -y ${object.manifest.file.name}\` first.`,
    });
  }
  let policy: Uint8Array;
  try {
    policy = fromBase64(annotation.value, "the annotation");
  } catch (error) {
    throw new ImportKeyError("ERR_IMPORTKEY_POLICY", `${formatPosition(annotation.position)}: annotation ${POLICY_ANNOTATION}: ${messageOf(error)}`, {
      cause: error,
      hint: `Run \`sealpod genpolicy -y ${object.manifest.file.name}\` again.`,
    });
  }
  if (policy.length === 0) throw new ImportKeyError("ERR_IMPORTKEY_POLICY", `${formatPosition(annotation.position)}: annotation ${POLICY_ANNOTATION} is empty`);
  return toHex(sha256(policy));
}

/** Values of a variable in the containers of a pod, read without regard for the rest of the pod. */
function variablesOf(object: KubeObject, name: string): readonly string[] {
  const spec = mappingAt(podTemplateOf(object), "spec");
  return mappingsIn(spec, "containers").flatMap((container) =>
    mappingsIn(container, "env").flatMap((variable) => (textAt(variable, "name") === name ? (textAt(variable, "value") ?? []) : [])),
  );
}

function mappingAt(mapping: YamlMapping | undefined, name: string): YamlMapping | undefined {
  const value = mapping === undefined ? undefined : valueOf(mapping, name);
  return value?.kind === "mapping" ? value : undefined;
}

function mappingsIn(mapping: YamlMapping | undefined, name: string): readonly YamlMapping[] {
  const value = mapping === undefined ? undefined : valueOf(mapping, name);
  if (value?.kind !== "sequence") return [];
  return value.items.flatMap((item) => {
    const content = item.kind === "alias" ? item.target : item;
    return content.kind === "mapping" ? content : [];
  });
}

function textAt(mapping: YamlMapping, name: string): string | undefined {
  const value = valueOf(mapping, name);
  return value?.kind === "scalar" ? scalarText(value) : undefined;
}

function placeOf(object: KubeObject): string {
  return `${formatPosition(object.manifest.positionOf(object.node.start))}: the ${object.kind}`;
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
