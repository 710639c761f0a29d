import type { Volume, VolumeMount, VolumeSource } from "@sealpod/kube";
import type { ContainerContext } from "../context.ts";
import { bindMount, type MountList } from "../mount-list.ts";
import { isBelow } from "../paths.ts";

/** Parts of volumes that the generations, or the known tools and Kubernetes, have in common. */

/** `ro` or `rw`. */
export function access(readOnly: boolean): "ro" | "rw" {
  return readOnly ? "ro" : "rw";
}

/** hostPath: devices and the like are the guest's own, everything else is a copy of the host's file. */
export function addHostPath(list: MountList, path: string, mount: VolumeMount, copied: string, guestOwn: readonly string[]): void {
  const propagation = mount.mountPropagation === "Bidirectional" ? "rshared" : "rprivate";
  list.put(bindMount(mount.mountPath, isBelow(path, ...guestOwn) ? path : copied, propagation, access(mount.readOnly)));
}

/** ConfigMap or Secret: copied files, or a storage for them where the settings say so. */
export function addConfigVolume(list: MountList, mount: VolumeMount, base: string, { settings }: ContainerContext): void {
  const kind = settings.volumes.configMap;
  const mountPoint = `${kind.mountPoint}${base}$`;
  if (settings.configMapStorages) list.addVolumeStorage(kind, { source: `${kind.mountSource}${base}$`, mount_point: mountPoint });
  list.append({ destination: mount.mountPath, source: mountPoint, type_: kind.mountType, options: kind.options });
}

/** Reports a volume that a policy cannot describe. */
export function refuseVolume(volume: Volume, source: Extract<VolumeSource, { readonly kind: "image" | "other" }>, { report }: ContainerContext): void {
  const sort = source.kind === "image" ? "image" : source.type;
  // A field that is not known, which `silent` lets pass.
  const found = sort === "" ? "has no source that is known here" : `is of type ${sort}, which a policy cannot describe`;
  report(
    volume.at,
    `volume ${JSON.stringify(volume.name)} ${found}: use emptyDir, configMap, secret, projected, downwardAPI, hostPath, persistentVolumeClaim, csi, ephemeral or azureFile`,
  );
}
