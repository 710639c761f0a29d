import { asArray, asObject, isSealpodError, type JsonObject, type JsonValue, parseJson } from "@sealpod/core";
import { GenpolicyError } from "./errors.ts";
import type { PolicyCommon, PolicyMount, PolicyStorage, RequestDefaults } from "./policy-data.ts";

/** What `genpolicy-settings.json` says (specs/genpolicy.md 4.2), in the shape that the AKS tool reads. */
export interface Settings {
  readonly pauseContainer: ContainerSettings;
  readonly otherContainer: ContainerSettings;
  readonly volumes: VolumeSettings;
  /** Destinations of the settings' mounts that every container gets. */
  readonly mountDestinations: readonly string[];
  readonly sandboxStorages: readonly PolicyStorage[];
  readonly common: PolicyCommon;
  /** True: files of ConfigMaps and Secrets are copied into the guest, no storages for them. */
  readonly confidentialGuest: boolean;
  readonly pauseImage: string;
  readonly requestDefaults: RequestDefaults;
  /**
   * False: values as the AKS tool computes them, to the byte, its differences from Kubernetes included. True: as Kubernetes
   * does, so that the pod's own requests are accepted and nothing more (see docs/policy.md).
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
}

/** Storage and mount of one sort of volume. */
export interface StorageSettings {
  readonly mountType: string;
  readonly mountSource: string;
  readonly mountPoint: string;
  readonly driver: string;
  readonly source: string;
  readonly fstype: string;
  readonly options: readonly string[];
}

export interface VolumeSettings {
  readonly emptyDir: StorageSettings;
  readonly emptyDirMemory: StorageSettings;
  readonly configMap: StorageSettings;
  readonly confidentialConfigMap: StorageSettings;
}

/** The image that the AKS tool has built in. */
const AKS_PAUSE_IMAGE = "mcr.microsoft.com/oss/kubernetes/pause:3.6";

/**
 * Parses settings. Names that are not known are ignored, since other versions of the tool write more of them; what is read
 * must be there and have the right type.
 * @throws {GenpolicyError} ERR_GENPOLICY_SETTINGS naming the path of the setting
 */
export function parseSettings(text: string, name = "genpolicy-settings.json"): Settings {
  return readSettings(parseSettingsJson(text, name), name);
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

/** @throws {GenpolicyError} ERR_GENPOLICY_SETTINGS */
export function readSettings(json: JsonValue, name: string): Settings {
  const root = new Setting(json, "", name);
  const volumes = root.get("volumes");
  const common = root.get("common");
  const defaults = root.get("request_defaults");
  const exec = defaults.get("ExecProcessRequest");
  const configMap = storageOf(volumes.get("configMap"));
  const confidential = volumes.optional("confidential_configMap");
  return {
    pauseContainer: containerOf(root.get("pause_container")),
    otherContainer: containerOf(root.get("other_container")),
    volumes: {
      emptyDir: storageOf(volumes.get("emptyDir")),
      emptyDirMemory: storageOf(volumes.get("emptyDir_memory")),
      configMap,
      confidentialConfigMap: confidential === undefined ? configMap : storageOf(confidential),
    },
    mountDestinations: root.get("mount_destinations").texts(),
    sandboxStorages: root
      .get("sandbox")
      .get("storages")
      .items()
      .map((item) => sandboxStorageOf(item)),
    common: {
      cpath: common.get("cpath").text(),
      sfprefix: common.get("sfprefix").text(),
      ipv4_a: common.get("ipv4_a").text(),
      ip_p: common.get("ip_p").text(),
      svc_name: common.get("svc_name").text(),
      dns_label: common.get("dns_label").text(),
      default_caps: common.get("default_caps").texts(),
      privileged_caps: common.get("privileged_caps").texts(),
    },
    confidentialGuest: root.get("kata_config").get("confidential_guest").flag(),
    pauseImage: root.optional("cluster_config")?.optional("pause_container_image")?.text() ?? AKS_PAUSE_IMAGE,
    requestDefaults: {
      CreateContainerRequest: { allow_env_regex: defaults.get("CreateContainerRequest").get("allow_env_regex").texts() },
      CopyFileRequest: defaults.get("CopyFileRequest").texts(),
      ExecProcessRequest: { commands: exec.get("commands").texts(), regex: exec.get("regex").texts() },
      ReadStreamRequest: defaults.get("ReadStreamRequest").flag(),
      UpdateEphemeralMountsRequest: defaults.get("UpdateEphemeralMountsRequest").flag(),
      WriteStreamRequest: defaults.get("WriteStreamRequest").flag(),
    },
    followKubernetes: root.optional("sealpod")?.optional("follow_kubernetes")?.flag() ?? false,
  };
}

function containerOf(setting: Setting): ContainerSettings {
  const root = setting.get("Root");
  const process = setting.optional("Process");
  const user = process?.optional("User");
  const linux = setting.optional("Linux");
  // The AKS tool decides Readonly by the pod's YAML, but wants the setting to be there.
  root.get("Readonly").flag();
  return {
    rootPath: root.get("Path").text(),
    mounts: setting
      .get("Mounts")
      .items()
      .map((mount) => ({
        destination: mount.get("destination").text(),
        source: mount.get("source").text(),
        type_: mount.get("type_").text(),
        options: mount.get("options").texts(),
      })),
    annotations: setting.optional("Annotations")?.textMap() ?? new Map(),
    args: process?.optional("Args")?.texts() ?? [],
    env: process?.optional("Env")?.texts() ?? [],
    uid: user?.optional("UID")?.unixId() ?? 0,
    gid: user?.optional("GID")?.unixId() ?? 0,
    additionalGids: (user?.optional("AdditionalGids")?.items() ?? []).map((item) => item.unixId()),
    maskedPaths: linux?.optional("MaskedPaths")?.texts() ?? [],
    readonlyPaths: linux?.optional("ReadonlyPaths")?.texts() ?? [],
  };
}

function storageOf(setting: Setting): StorageSettings {
  return {
    mountType: setting.get("mount_type").text(),
    mountSource: setting.get("mount_source").text(),
    mountPoint: setting.get("mount_point").text(),
    driver: setting.get("driver").text(),
    source: setting.optional("source")?.text() ?? "",
    fstype: setting.get("fstype").text(),
    options: setting.get("options").texts(),
  };
}

function sandboxStorageOf(setting: Setting): PolicyStorage {
  return {
    driver: setting.optional("driver")?.text() ?? "",
    driver_options: setting.optional("driver_options")?.texts() ?? [],
    source: setting.optional("source")?.text() ?? "",
    fstype: setting.optional("fstype")?.text() ?? "",
    options: setting.optional("options")?.texts() ?? [],
    mount_point: setting.optional("mount_point")?.text() ?? "",
    fs_group: null,
  };
}

/** A JSON value and its path, for messages. */
class Setting {
  readonly #value: JsonValue;
  readonly #path: string;
  readonly #file: string;

  constructor(value: JsonValue, path: string, file: string) {
    this.#value = value;
    this.#path = path;
    this.#file = file;
  }

  get(name: string): Setting {
    return this.optional(name) ?? this.#at(name, null).#refuse("is missing");
  }

  /** Undefined if the name is absent or null. */
  optional(name: string): Setting | undefined {
    const value = this.#object()[name];
    return value === undefined || value === null ? undefined : this.#at(name, value);
  }

  text(): string {
    return typeof this.#value === "string" ? this.#value : this.#refuse("must be text");
  }

  flag(): boolean {
    return typeof this.#value === "boolean" ? this.#value : this.#refuse("must be true or false");
  }

  unixId(): number {
    const value = this.#value;
    return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= 0xffff_ffff ? value : this.#refuse("must be a user or group id");
  }

  items(): readonly Setting[] {
    const array = asArray(this.#value) ?? this.#refuse("must be an array");
    return array.map((item, index) => new Setting(item, `${this.#path}[${index}]`, this.#file));
  }

  texts(): readonly string[] {
    return this.items().map((item) => item.text());
  }

  textMap(): ReadonlyMap<string, string> {
    return new Map(Object.entries(this.#object()).map(([name, value]) => [name, this.#at(name, value).text()]));
  }

  #object(): JsonObject {
    return asObject(this.#value) ?? this.#refuse("must be an object");
  }

  #at(name: string, value: JsonValue): Setting {
    return new Setting(value, this.#path === "" ? name : `${this.#path}.${name}`, this.#file);
  }

  #refuse(problem: string): never {
    throw new GenpolicyError("ERR_GENPOLICY_SETTINGS", `${this.#file}: ${this.#path === "" ? "the settings" : this.#path} ${problem}`, {
      details: { file: this.#file, path: this.#path },
      hint: "Compare with the settings that come with sealpod, author/genpolicy/data/genpolicy-settings.json.",
    });
  }
}
