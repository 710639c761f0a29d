import { KubeletError } from "./errors.ts";
import type { PodContainer, PodSpec } from "./pod.ts";

/** Groups of sysctls that belong to a pod: the kernel keeps them per namespace. */
const POD_SYSCTL = /^(?:kernel\.(?:shm|msg|sem)|fs\.mqueue\.|net\.)/;

/**
 * Refuses by name what a confidential pod on the laptop cannot be given.
 * @throws {KubeletError} ERR_KUBELET_UNSUPPORTED
 */
export function assertSupported(spec: PodSpec): void {
  if (spec.hostNetwork === true) throw unsupported("hostNetwork", "The pod's network lives in its own VM. Remove hostNetwork.");
  if (spec.hostPID === true || spec.hostIPC === true)
    throw unsupported("hostPID or hostIPC", "The pod runs in its own VM and cannot share namespaces with the node. Remove it.");
  if (spec.hostUsers === false) throw unsupported("hostUsers: false", "The guest has no user namespaces for containers. Remove it.");
  if ((spec.resourceClaims ?? []).length > 0) throw unsupported("resourceClaims", "There are no devices to claim on the laptop. Remove them.");
  if (spec.securityContext?.seccompProfile?.type === "Localhost") throw localhostProfile("the pod");
  for (const { name } of spec.securityContext?.sysctls ?? []) {
    if (!POD_SYSCTL.test(sysctlName(name))) throw unsupported(`sysctl ${name}`, "It is not one that the kernel keeps per pod. Remove it.");
  }
  for (const container of [...(spec.initContainers ?? []), ...spec.containers]) assertContainer(container);
}

/** The name with dots: where `/` comes first it is the separator, and dots are part of a name (sysctl(8)). */
export function sysctlName(name: string): string {
  if (/^[^./]*\./.test(name)) return name;
  return name.replaceAll(/[./]/g, (separator) => (separator === "/" ? "." : "/"));
}

function assertContainer(container: PodContainer): void {
  const what = `container ${container.name}`;
  if (container.securityContext?.privileged === true) {
    throw unsupported(`${what}: privileged`, "A confidential container gets nothing from host privileges. Remove securityContext.privileged.");
  }
  if (container.securityContext?.seccompProfile?.type === "Localhost") throw localhostProfile(what);
  if ((container.volumeDevices ?? []).length > 0) throw unsupported(`${what}: volumeDevices`, "There is no storage on the laptop.");
  if ((container.resources?.claims ?? []).length > 0) throw unsupported(`${what}: resources.claims`, "There are no devices to claim on the laptop.");
}

function localhostProfile(what: string): KubeletError {
  return unsupported(`${what}: seccompProfile Localhost`, "The laptop has no profiles, and the guest takes none. Use RuntimeDefault.");
}

function unsupported(what: string, hint: string): KubeletError {
  return new KubeletError("ERR_KUBELET_UNSUPPORTED", `${what}: not supported`, { hint });
}
