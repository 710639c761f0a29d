import type { ExecDefaults } from "../policy-data.ts";
import type { Setting } from "../setting.ts";
import type { Settings } from "../settings.ts";
import {
  commandLists,
  capabilitySets,
  commonSettings,
  layerFormat,
  optionalStorage,
  requestDefaults,
  sandboxStorages,
  storageSettings,
} from "./settings-parts.ts";

/** Settings of upstream's tool (specs/genpolicy.md 4.1), and our own for this generation, which have a `sealpod` section. */
export function readCocoSettings(root: Setting): Settings {
  const volumes = root.get("volumes");
  const common = root.get("common");
  const kata = root.get("kata_config");
  const cluster = root.get("cluster_config");
  const vfio = root.get("devices").get("vfio");
  const nvidia = vfio.get("nvidia");
  const shared = commonSettings(root);
  const configMap = storageSettings(volumes.get("configMap"));
  const clusterConfig = {
    pause_container_image: cluster.get("pause_container_image").text(),
    guest_pull: cluster.get("guest_pull").flag(),
    emptydir_type: cluster.get("emptydir_type").oneOf("shared-fs", "block-encrypted", "block-plain"),
    cgroup_mount_extras_allowed: cluster.optional("cgroup_mount_extras_allowed")?.texts() ?? [],
  };
  return {
    ...shared,
    volumes: {
      emptyDir: optionalStorage(volumes, "emptyDir"),
      emptyDirEncrypted: optionalStorage(volumes, "emptyDir_encrypted"),
      emptyDirPlain: optionalStorage(volumes, "emptyDir_plain"),
      emptyDirMemory: storageSettings(volumes.get("emptyDir_memory")),
      configMap,
      subPathSource: configMap.mountSource,
      imageVolume: storageSettings(volumes.get("image_volume")),
    },
    sandboxStorages: sandboxStorages(root, true),
    common: {
      cpath: common.get("cpath").text(),
      root_path: common.get("root_path").text(),
      sfprefix: common.get("sfprefix").text(),
      spath: common.get("spath").text(),
      ipv4_a: common.get("ipv4_a").text(),
      ip_p: common.get("ip_p").text(),
      svc_name_downward_env: common.get("svc_name_downward_env").text(),
      dns_label: common.get("dns_label").text(),
      ...capabilitySets(common),
    },
    ociVersion: kata.get("oci_version").text(),
    configMapStorages: kata.get("enable_configmap_secret_storages").flag(),
    pauseImage: clusterConfig.pause_container_image,
    layerFormat: layerFormat(common, shared.followKubernetes ? "tarfs" : "none"),
    guestPull: clusterConfig.guest_pull,
    emptyDirType: clusterConfig.emptydir_type,
    vfio: {
      devicePath: vfio.get("device_path").text(),
      annotationKeyRegex: vfio.get("anno_key_regex").text(),
      gpuAnnotationValueRegex: nvidia.get("gpu_anno_value_regex").text(),
      gpuDeviceType: nvidia.get("gpu_gk_device_type").text(),
      gpuResourceKeys: nvidia.get("pgpu_resource_keys").texts(),
    },
    requestDefaults: requestDefaults(root.get("request_defaults"), execDefaults, true),
    clusterConfig,
  };
}

function execDefaults(exec: Setting): ExecDefaults {
  const commands = exec.optional("commands");
  if (commands !== undefined && commands.texts().length > 0) commands.refuse("is not supported any more: write lists of arguments into allowed_commands");
  return { commands: commands?.texts(), allowed_commands: commandLists(exec.get("allowed_commands")), regex: exec.get("regex").texts() };
}
