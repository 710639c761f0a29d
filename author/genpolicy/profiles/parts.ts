import type { Behaviour } from "../behaviour.ts";
import type { Workload } from "@sealpod/kube";
import type { ContainerContext, Report } from "../context.ts";
import { devicesOf } from "../devices.ts";
import type { PolicyContainer } from "../policy-data.ts";

/** The image's terminal, unless the container says otherwise: what both known tools do. */
export const terminalAsTool: Behaviour["terminal"] = ({ container, image }) => container?.tty ?? image.config.tty;

/**
 * A container with devices, sysctls and annotations of the runtime, as upstream's tool writes them.
 * @param podSysctls sysctls of the pod, by the names that the container gets
 */
export function withDevices(
  container: PolicyContainer,
  context: ContainerContext,
  podSysctls: ReadonlyMap<string, string> = context.workload.template.spec.securityContext.sysctls,
): PolicyContainer {
  const { devices, linuxDevices, runtimeAnnotations } = devicesOf(context);
  // A Map keeps the order, so that the pod's values are the last; it is printed sorted.
  const sysctl = new Map([...context.containerSettings.sysctl, ...podSysctls]);
  const Linux = { ...container.OCI.Linux, Devices: linuxDevices, Sysctl: sysctl.size === 0 ? undefined : sysctl };
  return { ...container, OCI: { ...container.OCI, Linux }, devices, runtime_anno_patterns: runtimeAnnotations };
}

/** A policy that names its pod needs a name. */
export function checkName({ metadata, template }: Workload, report: Report): void {
  if (metadata.name === undefined && metadata.generateName === undefined) {
    report(template.spec.at, "the object has no metadata.name, so the names of its pods cannot be checked: give it one");
  }
}
