import type { Volume, VolumeMount } from "@sealpod/kube";
import type { ContainerContext } from "../context.ts";
import { bindMount, type MountList } from "../mount-list.ts";
import { baseName, mountedClaims, mountedVolumes } from "../mounts.ts";
import { escapePattern, lastComponent } from "../paths.ts";
import { addDiskEmptyDir, addSandboxEmptyDir } from "./empty-dir.ts";
import { access, addConfigVolume, addHostPath, refuseVolume } from "./parts.ts";

/** Sources that the guest has itself; the runtime hands their paths on. */
const GUEST_OWN = ["dev", "sys", "proc"];

/**
 * Volumes as kubelet and the runtime make them: what is on the host is copied into the guest (specs/runtime.md 4.11), never two
 * mounts at one place, read-only where the pod or the sort of volume says so.
 */
export function addVolumesAsKubernetes(list: MountList, context: ContainerContext): void {
  // What the pod mounts stands in the place of what every container gets there.
  for (const { mountPath } of context.container?.volumeMounts ?? []) list.remove(mountPath);
  const claims = new Set(context.workload.volumeClaims);
  for (const [volume, mount] of mountedVolumes(context)) {
    // A claim template takes the place of a volume of the same name.
    if (!claims.has(volume.name)) addVolume(list, volume, mount, context);
  }
  for (const mount of mountedClaims(context)) list.append(bindMount(mount.mountPath, copyOf(mount, context), "rprivate", access(mount.readOnly)));
  for (const path of context.image.config.volumes) {
    const destination = `/${path}`.replaceAll(/\/{2,}/g, "/");
    const base = lastComponent(destination);
    if (!list.has(destination) && base !== "") list.append(bindMount(destination, `$(sfprefix)${escapePattern(base)}$`, "rprivate", "rw"));
  }
}

function addVolume(list: MountList, volume: Volume, mount: VolumeMount, context: ContainerContext): void {
  const { source } = volume;
  const { fsGroup = 0, fsGroupChangePolicy } = context.workload.template.spec.securityContext;
  const copied = copyOf(mount, context);
  const copy = (readOnly: boolean): void => list.append(bindMount(mount.mountPath, copied, "rprivate", access(readOnly || mount.readOnly)));
  // A part of a volume is a bind mount of its own on the node, which the runtime cannot tell from other files.
  const isPart = mount.subPath !== undefined || mount.subPathExpr !== undefined;
  switch (source.kind) {
    case "emptyDir":
      if (source.medium !== "" && source.medium !== "Memory") {
        context.report(volume.at, `emptyDir medium ${JSON.stringify(source.medium)} is not supported: leave it out, or use Memory`);
      } else if (isPart) copy(false);
      else if (context.settings.emptyDirType === undefined) {
        addSandboxEmptyDir(list, mount, source.medium === "Memory", escapePattern(volume.name), fsGroup, context);
      } else {
        const groupPolicy = fsGroupChangePolicy === "OnRootMismatch" ? 1 : 0;
        addDiskEmptyDir(list, volume, mount, source.medium === "Memory", { escape: escapePattern, groupPolicy }, context);
      }
      return;
    case "hostPath":
      addHostPath(list, source.path, mount, copied, isPart ? [] : GUEST_OWN);
      return;
    case "persistentVolumeClaim":
    case "azureFile":
    case "csi":
      copy(source.readOnly);
      return;
    case "ephemeral":
      copy(false);
      return;
    case "configMap":
    case "secret":
      if (isPart || !context.settings.configMapStorages) copy(true);
      else addConfigVolume(list, mount, escapePattern(baseName(mount, context)), context);
      return;
    case "projected":
    case "downwardAPI":
      copy(true);
      return;
    case "image":
    case "other":
      refuseVolume(volume, source, context);
  }
}

/** Pattern of the path that the runtime copies a volume to. */
function copyOf(mount: VolumeMount, context: ContainerContext): string {
  return `$(sfprefix)${escapePattern(baseName(mount, context))}$`;
}
