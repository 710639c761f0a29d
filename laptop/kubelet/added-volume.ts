import type { PodContainer, PodTemplate, PodVolume, VolumeMount } from "./pod.ts";

/** The pod with a volume, mounted in each container that `change` does not leave out and that has nothing there. */
export function withVolume(
  template: PodTemplate,
  volume: PodVolume,
  mountPath: string,
  change: (container: PodContainer) => PodContainer | undefined,
): PodTemplate {
  const { spec } = template;
  const mount: VolumeMount = { name: volume.name, mountPath, readOnly: true };
  const changed = (container: PodContainer): PodContainer => {
    const to = change(container);
    if (to === undefined) return container;
    const mounts = to.volumeMounts ?? [];
    return mounts.some((other) => other.mountPath === mountPath) ? to : { ...to, volumeMounts: [...mounts, mount] };
  };
  const volumes = spec.volumes ?? [];
  return {
    ...template,
    spec: {
      ...spec,
      volumes: volumes.some((other) => other.name === volume.name) ? volumes : [...volumes, volume],
      containers: spec.containers.map(changed),
      ...(spec.initContainers === undefined ? {} : { initContainers: spec.initContainers.map(changed) }),
    },
  };
}
