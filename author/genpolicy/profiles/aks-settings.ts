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

/** What the tool of 2023 has built in. */
const OCI_VERSION = "1.1.0-rc.1";
const PAUSE_IMAGE = "mcr.microsoft.com/oss/kubernetes/pause:3.6";

/** Settings of the tool of 2023 (specs/genpolicy.md 4.2), and our own for this generation, which have a `sealpod` section. */
export function readAksSettings(root: Setting): Settings {
  const volumes = root.get("volumes");
  const common = root.get("common");
  const confidential = root.get("kata_config").get("confidential_guest").flag();
  const shared = commonSettings(root);
  const configMap = storageSettings(volumes.get("configMap"));
  const copied = optionalStorage(volumes, "confidential_configMap") ?? configMap;
  return {
    ...shared,
    volumes: {
      emptyDir: storageSettings(volumes.get("emptyDir")),
      emptyDirMemory: storageSettings(volumes.get("emptyDir_memory")),
      configMap: confidential ? copied : configMap,
      subPathSource: configMap.mountSource,
    },
    sandboxStorages: sandboxStorages(root, false),
    common: {
      cpath: common.get("cpath").text(),
      sfprefix: common.get("sfprefix").text(),
      ipv4_a: common.get("ipv4_a").text(),
      ip_p: common.get("ip_p").text(),
      svc_name: common.get("svc_name").text(),
      dns_label: common.get("dns_label").text(),
      ...capabilitySets(common),
    },
    ociVersion: OCI_VERSION,
    configMapStorages: !confidential,
    pauseImage: root.optional("cluster_config")?.optional("pause_container_image")?.text() ?? PAUSE_IMAGE,
    layerFormat: layerFormat(common, "tarfs"),
    guestPull: false,
    requestDefaults: requestDefaults(root.get("request_defaults"), (exec) => execDefaults(exec, shared.followKubernetes), shared.followKubernetes),
  };
}

function execDefaults(exec: Setting, ours: boolean): ExecDefaults {
  const regex = exec.get("regex").texts();
  return ours ? { allowed_commands: commandLists(exec.get("allowed_commands")), regex } : { commands: exec.get("commands").texts(), regex };
}
