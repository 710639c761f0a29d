import { changeAsContainerd } from "../capabilities.ts";
import type { Behaviour } from "../behaviour.ts";
import type { ContainerContext } from "../context.ts";
import { kubernetesCommandLine } from "../kubernetes-environment.ts";
import { escapePattern } from "../paths.ts";
import { namePattern } from "../sandbox-name.ts";
import { userAsKubernetes } from "../users.ts";
import { addVolumesAsKubernetes } from "../volumes/kubernetes.ts";
import { checkName, withDevices } from "./parts.ts";

const SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount";

/**
 * What Kubernetes and the runtime really do, for our own settings of either generation.
 * @param format.sharedField storages of the generation have a field `shared`
 */
export function kubernetesBehaviour(format: { readonly sharedField: boolean }): Behaviour {
  return {
    lookup: { lists: true, namespaces: true },
    userRules: "exact",
    sandboxName: namePattern,
    commandLine: kubernetesCommandLine,
    user: userAsKubernetes,
    terminal: ({ container }) => container?.tty === true,
    noNewPrivileges: ({ securityContext }) => securityContext.allowPrivilegeEscalation === false,
    changeCapabilities: changeAsContainerd,
    mounts: {
      sharedField: format.sharedField,
      rootMountPoint: ({ containerSettings }) => containerSettings.rootPath,
      privilegedPause: true,
      escapeBase: escapePattern,
      wantsSettingsMount: (destination, { workload }) => destination !== SERVICE_ACCOUNT || workload.template.spec.automountServiceAccountToken !== false,
      addVolumes: addVolumesAsKubernetes,
    },
    execCommands: (commands) => commands,
    complete(container, context) {
      const { reference, manifestDigest } = context.image;
      const after = startedBefore(context);
      const sysctls = [...context.workload.template.spec.securityContext.sysctls].map(([name, value]) => [dottedName(name), value] as const);
      return {
        ...withDevices(container, context, new Map(sysctls)),
        after: after.length === 0 ? undefined : after,
        image: { reference, manifest_digest: manifestDigest },
      };
    },
    check(workload, report) {
      const { spec } = workload.template;
      checkName(workload, report);
      for (const { at, name, resources } of [...spec.initContainers, ...spec.containers]) {
        if (resources.claims.length > 0)
          report(at, `container ${name}: resources.claims ask for devices that a policy cannot describe: use limits, or volumeDevices`);
      }
    },
  };
}

/**
 * A sysctl's name as kubelet hands it on (sysctl(8)): parted by dots. Where the first separator is a slash, slashes part, and dots
 * belong to the parts: they become slashes.
 */
function dottedName(name: string): string {
  if (/[./]/.exec(name)?.[0] !== "/") return name;
  return name.replaceAll(/[./]/g, (separator) => (separator === "/" ? "." : "/"));
}

/**
 * Indexes in the policy of the init containers that Kubernetes starts before a container: all of them, or those before it among
 * them. The policy has them from the last to the first, behind the pause container.
 */
function startedBefore({ workload, container }: ContainerContext): readonly number[] {
  const { initContainers } = workload.template.spec;
  if (container === undefined) return [];
  const own = initContainers.indexOf(container);
  const earlier = own === -1 ? initContainers : initContainers.slice(0, own);
  return earlier.map((_, position) => initContainers.length - position);
}
