import type { JsonValue } from "@sealpod/core";
import type { LayerFormat } from "../images.ts";
import type { ExecDefaults, PolicyCommon, PolicyStorage, RequestDefaults } from "../policy-data.ts";
import type { Setting } from "../setting.ts";
import type { ContainerSettings, Settings, StorageSettings } from "../settings.ts";

/** Parts of settings that both generations have (specs/genpolicy.md 4.1, 4.2). */

/** What both generations write in the same way. */
export function commonSettings(root: Setting): Pick<Settings, "pauseContainer" | "otherContainer" | "mountDestinations" | "followKubernetes"> {
  return {
    pauseContainer: containerSettings(root.get("pause_container")),
    otherContainer: containerSettings(root.get("other_container")),
    mountDestinations: root.get("mount_destinations").texts(),
    followKubernetes: root.optional("sealpod")?.optional("follow_kubernetes")?.flag() ?? false,
  };
}

/** The sets of capabilities, the last members of `common`. */
export function capabilitySets(common: Setting): Pick<PolicyCommon, "default_caps" | "privileged_caps"> {
  return { default_caps: common.get("default_caps").texts(), privileged_caps: common.get("privileged_caps").texts() };
}

function containerSettings(setting: Setting): ContainerSettings {
  const root = setting.get("Root");
  const process = setting.optional("Process");
  const user = process?.optional("User");
  const linux = setting.optional("Linux");
  // The known tools decide Readonly by the pod's YAML, but want the setting to be there.
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
    uid: user?.optional("UID")?.u32() ?? 0,
    gid: user?.optional("GID")?.u32() ?? 0,
    additionalGids: (user?.optional("AdditionalGids")?.items() ?? []).map((item) => item.u32()),
    maskedPaths: linux?.optional("MaskedPaths")?.texts() ?? [],
    readonlyPaths: linux?.optional("ReadonlyPaths")?.texts() ?? [],
    devices: (linux?.optional("Devices")?.items() ?? []).map((device) => ({
      Type: device.optional("Type")?.text() ?? "",
      Path: device.optional("Path")?.text() ?? "",
    })),
    sysctl: linux?.optional("Sysctl")?.textMap() ?? new Map(),
  };
}

export function storageSettings(setting: Setting): StorageSettings {
  return {
    mountType: setting.get("mount_type").text(),
    mountSource: setting.get("mount_source").text(),
    mountPoint: setting.get("mount_point").text(),
    driver: setting.get("driver").text(),
    driverOptions: setting.optional("driver_options")?.texts() ?? [],
    source: setting.optional("source")?.text() ?? "",
    fstype: setting.get("fstype").text(),
    options: setting.get("options").texts(),
    shared: setting.optional("shared")?.flag() ?? false,
  };
}

export function optionalStorage(volumes: Setting, name: string): StorageSettings | undefined {
  const setting = volumes.optional(name);
  return setting === undefined ? undefined : storageSettings(setting);
}

/**
 * Storages of the sandbox; what is not written is empty.
 * @param shared true for the generation whose storages have that field
 */
export function sandboxStorages(root: Setting, shared: boolean): readonly PolicyStorage[] {
  return root
    .get("sandbox")
    .get("storages")
    .items()
    .map((storage) => ({
      driver: storage.optional("driver")?.text() ?? "",
      driver_options: storage.optional("driver_options")?.texts() ?? [],
      source: storage.optional("source")?.text() ?? "",
      fstype: storage.optional("fstype")?.text() ?? "",
      options: storage.optional("options")?.texts() ?? [],
      mount_point: storage.optional("mount_point")?.text() ?? "",
      fs_group: fsGroup(storage.optional("fs_group")),
      shared: shared ? (storage.optional("shared")?.flag() ?? false) : undefined,
    }));
}

function fsGroup(setting: Setting | undefined): JsonValue {
  if (setting === undefined) return null;
  return { group_id: setting.get("group_id").u32(), group_change_policy: setting.optional("group_change_policy")?.u32() ?? 0 };
}

/** `common.image_layer_verification`, by the names of Microsoft's fork. */
export function layerFormat(common: Setting, otherwise: LayerFormat): LayerFormat {
  const name = common.optional("image_layer_verification")?.oneOf("none", "host-tarfs-dm-verity", "host-erofs-dm-verity");
  return name === undefined ? otherwise : name === "none" ? "none" : name === "host-tarfs-dm-verity" ? "tarfs" : "erofs";
}

/** Commands as lists of arguments. */
export function commandLists(setting: Setting): readonly (readonly string[])[] {
  return setting.items().map((command) => command.texts());
}

/**
 * What the policy says about requests, in the order of upstream's tool; the tool of 2023 has the same order with fewer of them.
 * @param exec for ExecProcessRequest
 * @param later false leaves out the requests that the generation of 2023 does not know
 */
export function requestDefaults(defaults: Setting, exec: (setting: Setting) => ExecDefaults, later: boolean): RequestDefaults {
  const added = later ? laterDefaults(defaults) : undefined;
  return {
    CreateContainerRequest: { allow_env_regex: defaults.get("CreateContainerRequest").get("allow_env_regex").texts() },
    CopyFileRequest: defaults.get("CopyFileRequest").texts(),
    ExecProcessRequest: exec(defaults.get("ExecProcessRequest")),
    ...added,
    CloseStdinRequest: later ? defaults.get("CloseStdinRequest").flag() : undefined,
    ReadStreamRequest: defaults.get("ReadStreamRequest").flag(),
    UpdateEphemeralMountsRequest: defaults.get("UpdateEphemeralMountsRequest").flag(),
    WriteStreamRequest: defaults.get("WriteStreamRequest").flag(),
    GetDiagnosticDataRequest: later ? defaults.get("GetDiagnosticDataRequest").flag() : undefined,
  };
}

function laterDefaults(defaults: Setting): Pick<RequestDefaults, "UpdateRoutesRequest" | "UpdateInterfaceRequest" | "AddARPNeighborsRequest"> {
  const routes = defaults.get("UpdateRoutesRequest");
  const link = defaults.get("UpdateInterfaceRequest");
  const neighbors = defaults.get("AddARPNeighborsRequest");
  return {
    UpdateRoutesRequest: {
      forbidden_device_names: routes.get("forbidden_device_names").texts(),
      forbidden_source_regex: routes.get("forbidden_source_regex").texts(),
    },
    UpdateInterfaceRequest: {
      allow_raw_flags: link.get("allow_raw_flags").u32(),
      forbidden_names: link.get("forbidden_names").texts(),
      forbidden_hw_addrs: link.get("forbidden_hw_addrs").texts(),
    },
    AddARPNeighborsRequest: {
      forbidden_device_names: neighbors.get("forbidden_device_names").texts(),
      forbidden_cidrs_regex: neighbors.get("forbidden_cidrs_regex").texts(),
      allowed_states: neighbors
        .get("allowed_states")
        .items()
        .map((state) => state.u32()),
    },
  };
}
