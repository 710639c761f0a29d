import type { ContainerContext } from "./context.ts";
import type { PolicyDevice, PolicyLinuxDevice } from "./policy-data.ts";

/** Annotations that the runtime adds to every container but the sandbox (specs/genpolicy.md 3.4). */
const RUNTIME_ANNOTATIONS: readonly (readonly [string, string])[] = [
  ["^io\\.kubernetes\\.container\\.terminationMessagePath$", "^/.*$"],
  ["^io\\.kubernetes\\.container\\.terminationMessagePolicy$", "^(File|FallbackToLogsOnError)$"],
];

/** What a container's devices are in a policy. */
export interface ContainerDevices {
  readonly devices: readonly PolicyDevice[];
  readonly linuxDevices: readonly PolicyLinuxDevice[];
  readonly runtimeAnnotations: ReadonlyMap<string, string>;
}

/** Raw volumes and GPUs of a container (specs/genpolicy.md 3.4, "Linux.Devices / devices"). */
export function devicesOf(context: ContainerContext): ContainerDevices {
  const { container, containerSettings, settings } = context;
  if (container === undefined) return { devices: [], linuxDevices: containerSettings.devices, runtimeAnnotations: new Map() };
  const { vfio } = settings;
  const devices: PolicyDevice[] = [];
  const linuxDevices: PolicyLinuxDevice[] = [];
  for (const { at, devicePath } of container.volumeDevices) {
    if (vfio !== undefined && devicePath.startsWith(vfio.devicePath)) {
      context.report(at, `devicePath ${JSON.stringify(devicePath)} is where passed-through devices are: use another path`);
    }
    devices.push({ id: "", type_: "", vm_path: "", container_path: devicePath, options: [] });
    linuxDevices.push({ Type: "", Path: devicePath });
  }
  const runtimeAnnotations = new Map(RUNTIME_ANNOTATIONS);
  const gpus = gpuCount(context);
  if (vfio !== undefined && gpus > 0) {
    for (let index = 0; index < gpus; index++) devices.push({ id: "", type_: vfio.gpuDeviceType, vm_path: "", container_path: vfio.devicePath, options: [] });
    runtimeAnnotations.set(vfio.annotationKeyRegex, vfio.gpuAnnotationValueRegex);
  }
  return { devices, linuxDevices: [...linuxDevices, ...containerSettings.devices], runtimeAnnotations };
}

/** GPUs of one container: no machine has more, and each is a line of the policy. */
const MAX_GPUS = 1024;

function gpuCount(context: ContainerContext): number {
  const { container, settings } = context;
  let count = 0;
  for (const key of settings.vfio?.gpuResourceKeys ?? []) {
    const limit = container?.resources.limits.get(key) ?? "";
    // Anything but a plain whole number counts as none, as in upstream's tool.
    if (/^[0-9]{1,9}$/.test(limit)) count += Number(limit);
  }
  if (count <= MAX_GPUS) return count;
  context.report(container?.at ?? context.workload.template.spec.at, `resources.limits ask for ${count} GPUs, more than ${MAX_GPUS}`);
  return 0;
}
