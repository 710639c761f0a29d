import { isSealpodError, type JsonValue, parseJson } from "@sealpod/core";
import { GenpolicyError } from "./errors.ts";
import type { LayerFormat } from "./images.ts";
import type { EmptyDirType, PolicyClusterConfig, PolicyCommon, PolicyLinuxDevice, PolicyMount, PolicyStorage, RequestDefaults } from "./policy-data.ts";
import type { Profile } from "./profile.ts";
import { Setting } from "./setting.ts";
import { withWebhook } from "./webhook.ts";

/** What `genpolicy-settings.json` says, of either generation (specs/genpolicy.md 4.1, 4.2). */
export interface Settings {
  readonly pauseContainer: ContainerSettings;
  readonly otherContainer: ContainerSettings;
  readonly volumes: VolumeSettings;
  /** Destinations of the settings' mounts that every container gets. */
  readonly mountDestinations: readonly string[];
  readonly sandboxStorages: readonly PolicyStorage[];
  readonly common: PolicyCommon;
  /** `OCI.Version` of every container. */
  readonly ociVersion: string;
  /** True: volumes of ConfigMaps and Secrets are storages too; false: their files are copied into the guest. */
  readonly configMapStorages: boolean;
  readonly pauseImage: string;
  /** The layers whose root hashes the policy names. */
  readonly layerFormat: LayerFormat;
  /** The guest pulls images and looks users up itself. */
  readonly guestPull: boolean;
  /** Undefined: on the node's disk or in memory, as the runtime of 2023 does. */
  readonly emptyDirType?: EmptyDirType | undefined;
  readonly vfio?: VfioSettings | undefined;
  readonly requestDefaults: RequestDefaults;
  /** Goes into the policy as it is. */
  readonly clusterConfig?: PolicyClusterConfig | undefined;
  /**
   * False: values as the known tool of this generation computes them, to the byte, its differences from Kubernetes included.
   * True: as Kubernetes and the runtime do, so that the pod's own requests are accepted and nothing more (docs/policy.md).
   */
  readonly followKubernetes: boolean;
}

/** Settings of one class of containers. */
export interface ContainerSettings {
  readonly rootPath: string;
  readonly mounts: readonly PolicyMount[];
  readonly annotations: ReadonlyMap<string, string>;
  readonly args: readonly string[];
  readonly env: readonly string[];
  readonly uid: number;
  readonly gid: number;
  readonly additionalGids: readonly number[];
  readonly maskedPaths: readonly string[];
  readonly readonlyPaths: readonly string[];
  readonly devices: readonly PolicyLinuxDevice[];
  readonly sysctl: ReadonlyMap<string, string>;
}

/** Storage and mount of one sort of volume. */
export interface StorageSettings {
  readonly mountType: string;
  readonly mountSource: string;
  readonly mountPoint: string;
  readonly driver: string;
  readonly driverOptions: readonly string[];
  readonly source: string;
  readonly fstype: string;
  readonly options: readonly string[];
  readonly shared: boolean;
}

export interface VolumeSettings {
  readonly emptyDir?: StorageSettings | undefined;
  readonly emptyDirEncrypted?: StorageSettings | undefined;
  readonly emptyDirPlain?: StorageSettings | undefined;
  readonly emptyDirMemory: StorageSettings;
  readonly configMap: StorageSettings;
  /** Prefix of the copy that an emptyDir with a sub-path is bound from. */
  readonly subPathSource: string;
  readonly imageVolume?: StorageSettings | undefined;
}

/** Devices that are passed through to the guest. */
export interface VfioSettings {
  readonly devicePath: string;
  readonly annotationKeyRegex: string;
  readonly gpuAnnotationValueRegex: string;
  readonly gpuDeviceType: string;
  /** Resources that stand for one GPU each. */
  readonly gpuResourceKeys: readonly string[];
}

/**
 * Parses settings. Names that are not known are ignored, since other versions of the tool write more of them; what is read
 * must be there and have the right type.
 * @throws {GenpolicyError} ERR_GENPOLICY_SETTINGS naming the path of the setting
 */
export function parseSettings(text: string, name: string, profile: Profile): Settings {
  return readSettings(parseSettingsJson(text, name), name, profile);
}

/**
 * Parses the JSON of settings or of a drop-in, without looking at the names in it.
 * @throws {GenpolicyError} ERR_GENPOLICY_SETTINGS with line and column
 */
export function parseSettingsJson(text: string, name: string): JsonValue {
  try {
    return parseJson(text, name);
  } catch (error) {
    if (!isSealpodError(error)) throw error;
    throw new GenpolicyError("ERR_GENPOLICY_SETTINGS", error.message, {
      cause: error,
      hint: "Settings are strict JSON: no comments, no trailing commas, no duplicate names.",
    });
  }
}

/**
 * Reads settings of a profile's generation; `sealpod.webhook_version` moves the token of workload identity.
 * @throws {GenpolicyError} ERR_GENPOLICY_SETTINGS, also if they are those of the other generation
 */
export function readSettings(json: JsonValue, name: string, profile: Profile): Settings {
  const root = new Setting(json, "", name);
  const found = generationOf(root);
  if (found !== undefined && found !== profile.name) {
    const whose = found === "coco" ? "upstream's tool" : "the AKS tool of 2023";
    throw new GenpolicyError("ERR_GENPOLICY_SETTINGS", `${name}: these are settings of ${whose}, the profile is ${profile.name}`, {
      details: { file: name, profile: profile.name },
      hint: `Pass --profile ${found}.`,
    });
  }
  const settings = profile.readSettings(root);
  const webhook = root.optional("sealpod")?.optional("webhook_version")?.oneOf("1.5", "1.6");
  return webhook === undefined ? settings : withWebhook(settings, webhook, name);
}

/** The generation that only these settings can be of; undefined if that is not clear. */
function generationOf(root: Setting): Profile["name"] | undefined {
  const has = (section: string, name: string): boolean => root.optional(section)?.optional(name) !== undefined;
  if (has("kata_config", "confidential_guest")) return has("common", "root_path") ? undefined : "aks";
  return has("common", "root_path") && has("kata_config", "oci_version") ? "coco" : undefined;
}
