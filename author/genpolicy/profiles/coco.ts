import { changeAsTool } from "../capabilities.ts";
import type { Behaviour } from "../behaviour.ts";
import { encodeInitdata, hostDataOf, initdataAnnotation } from "../initdata.ts";
import type { Profile } from "../profile.ts";
import { nameAsUpstream } from "../sandbox-name.ts";
import { toolCommandLine } from "../tool-environment.ts";
import { userAsUpstream } from "../users.ts";
import { addVolumesAsUpstream } from "../volumes/known-tools.ts";
import { readCocoSettings } from "./coco-settings.ts";
import { kubernetesBehaviour } from "./kubernetes.ts";
import { checkName, terminalAsTool, withDevices } from "./parts.ts";

/** What upstream's tool computes (specs/genpolicy.md, UP). */
const UPSTREAM_TOOL: Behaviour = {
  lookup: { lists: false, namespaces: false },
  userRules: "known",
  sandboxName: nameAsUpstream,
  commandLine: (context) => toolCommandLine(context, { labels: true }),
  user: userAsUpstream,
  terminal: terminalAsTool,
  noNewPrivileges({ securityContext }, { template }) {
    return (securityContext.allowPrivilegeEscalation ?? template.spec.securityContext.allowPrivilegeEscalation) === false;
  },
  changeCapabilities: changeAsTool,
  mounts: {
    sharedField: true,
    rootMountPoint: ({ containerSettings }) => containerSettings.rootPath,
    privilegedPause: true,
    escapeBase: (base) => base,
    wantsSettingsMount: () => true,
    addVolumes: addVolumesAsUpstream,
  },
  execCommands: (commands) => commands,
  complete: withDevices,
  check: checkName,
};

/** Upstream Kata and CoCo: initdata by annotation, images by digest, our own settings also by layers (specs/genpolicy.md section 0, UP). */
export const COCO_PROFILE: Profile = {
  name: "coco",
  annotation: "io.katacontainers.config.hypervisor.cc_init_data",
  strippedAnnotations: ["io.katacontainers.config.hypervisor.cc_init_data"],
  // The first namespace that the guest sees is taken.
  defaultNamespace: "",
  ownSettings: "genpolicy-settings-coco.json",
  output: { base64Line: false, yamlBesidePrint: false },
  readSettings: readCocoSettings,
  tool: UPSTREAM_TOOL,
  kubernetes: kubernetesBehaviour({ sharedField: true }),
  usesInitdata: true,
  deliver(policy, template) {
    const document = encodeInitdata(policy, template);
    return { document, annotation: initdataAnnotation(document), hostData: hostDataOf(document, template.algorithm) };
  },
};
