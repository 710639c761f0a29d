import { annotationsOf } from "./annotations.ts";
import type { Behaviour } from "./behaviour.ts";
import { capabilitiesOf } from "./capabilities.ts";
import type { ContainerContext } from "./context.ts";
import { mountsAndStoragesOf } from "./mounts.ts";
import type { PolicyContainer, PolicyLinux } from "./policy-data.ts";

/** Paths that containerd hides or protects in every container without privileges. */
const MASKED_PATHS: readonly string[] = [
  "/proc/acpi",
  "/proc/kcore",
  "/proc/keys",
  "/proc/latency_stats",
  "/proc/timer_list",
  "/proc/timer_stats",
  "/proc/sched_debug",
  "/proc/scsi",
  "/sys/firmware",
];
const READONLY_PATHS: readonly string[] = ["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/**
 * The policy's description of one container (specs/genpolicy.md 3.4).
 * @param strippedAnnotations annotations of the pod that carry policies
 */
export function policyContainerOf(context: ContainerContext, behaviour: Behaviour, strippedAnnotations: readonly string[]): PolicyContainer {
  const { workload, container, image, settings, containerSettings } = context;
  const { mounts, storages } = mountsAndStoragesOf(context, behaviour.mounts);
  const { args, env } = behaviour.commandLine(context);
  const described: PolicyContainer = {
    OCI: {
      Version: settings.ociVersion,
      Process: {
        Terminal: behaviour.terminal(context),
        User: behaviour.user(context),
        Args: nonEmpty(args),
        Env: nonEmpty(env),
        Cwd: (container?.workingDir ?? "") || image.config.workingDir || "/",
        Capabilities: capabilitiesOf(context, behaviour.changeCapabilities),
        NoNewPrivileges: container === undefined || behaviour.noNewPrivileges(container, workload),
      },
      Root: { Path: containerSettings.rootPath, Readonly: container === undefined || container.securityContext.readOnlyRootFilesystem === true },
      Mounts: mounts,
      Annotations: annotationsOf(context, { stripped: strippedAnnotations, sandboxName: behaviour.sandboxName(workload) }),
      Linux: linuxOf(context),
    },
    storages,
    devices: undefined,
    sandbox_pidns: container !== undefined && workload.template.spec.shareProcessNamespace,
    exec_commands: behaviour.execCommands(container?.execCommands ?? []),
  };
  return behaviour.complete(described, context);
}

function linuxOf({ workload, container, containerSettings }: ContainerContext): PolicyLinux {
  const privileged = container?.securityContext.privileged === true;
  const types = container === undefined && workload.template.spec.hostNetwork ? ["ipc", "mount"] : ["ipc", "uts", "mount"];
  return {
    Namespaces: types.map((Type) => ({ Type, Path: "" })),
    MaskedPaths: nonEmpty(containerSettings.maskedPaths) ?? (privileged ? [] : MASKED_PATHS),
    ReadonlyPaths: nonEmpty(containerSettings.readonlyPaths) ?? (privileged ? [] : READONLY_PATHS),
  };
}

function nonEmpty<T>(list: readonly T[]): readonly T[] | undefined {
  return list.length === 0 ? undefined : list;
}
