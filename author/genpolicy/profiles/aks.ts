import { encodeUtf8, sha256, toBase64, toHex } from "@sealpod/core";
import { changeAsTool } from "../capabilities.ts";
import type { Behaviour } from "../behaviour.ts";
import type { Profile } from "../profile.ts";
import { nameAsIn2023 } from "../sandbox-name.ts";
import { toolCommandLine } from "../tool-environment.ts";
import { userAsIn2023 } from "../users.ts";
import { addVolumesAsIn2023 } from "../volumes/known-tools.ts";
import { readAksSettings } from "./aks-settings.ts";
import { kubernetesBehaviour } from "./kubernetes.ts";
import { terminalAsTool } from "./parts.ts";

/** Where the tool of 2023 mounts the overlay of an image's layers; it has that built in. */
const ROOT_MOUNT_POINT = "$(cpath)/$(bundle-id)";

/** What the tool of 2023 computes (specs/genpolicy.md, F23). */
const TOOL_OF_2023: Behaviour = {
  lookup: { lists: false, namespaces: false },
  userRules: "none",
  sandboxName: nameAsIn2023,
  commandLine: (context) => toolCommandLine(context, { labels: false }),
  user: userAsIn2023,
  terminal: terminalAsTool,
  noNewPrivileges: ({ securityContext }) => securityContext.allowPrivilegeEscalation === false,
  changeCapabilities: changeAsTool,
  mounts: {
    sharedField: false,
    rootMountPoint: () => ROOT_MOUNT_POINT,
    privilegedPause: false,
    escapeBase: (base) => base,
    wantsSettingsMount: () => true,
    addVolumes: addVolumesAsIn2023,
  },
  execCommands: (commands) => commands.map((command) => command.join(" ")),
  complete: (container) => container,
  check({ template: { spec } }, _report, warn) {
    for (const { name, volumeDevices } of [...spec.initContainers, ...spec.containers]) {
      const first = volumeDevices[0];
      if (first !== undefined)
        warn(first.at, `container ${name}: these settings have no rule for volumeDevices, the pod will be refused: use those of sealpod`);
    }
    if (spec.securityContext.sysctls.size > 0) {
      warn(spec.securityContext.at, "these settings have no rule for sysctls of a pod, it will be refused: use those of sealpod");
    }
  },
};

/** AKS confidential containers: SetPolicy by annotation, layers pinned by dm-verity roots (specs/genpolicy.md section 0, F23). */
export const AKS_PROFILE: Profile = {
  name: "aks",
  annotation: "io.katacontainers.config.agent.policy",
  strippedAnnotations: ["io.katacontainers.config.agent.policy"],
  defaultNamespace: "default",
  ownSettings: "genpolicy-settings.json",
  output: { base64Line: true, yamlBesidePrint: true },
  readSettings: readAksSettings,
  tool: TOOL_OF_2023,
  kubernetes: kubernetesBehaviour({ sharedField: false }),
  usesInitdata: false,
  deliver(policy) {
    const bytes = encodeUtf8(policy);
    return { document: bytes, annotation: toBase64(bytes), hostData: toHex(sha256(bytes)) };
  },
};
