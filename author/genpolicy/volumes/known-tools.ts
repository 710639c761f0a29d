import type { Volume, VolumeMount } from "@sealpod/kube";
import type { ContainerContext } from "../context.ts";
import { bindMount, type MountList } from "../mount-list.ts";
import { baseName, mountedClaims, mountedVolumes } from "../mounts.ts";
import { afterLastSlash, escapeAsRust, lastComponent } from "../paths.ts";
import { addDiskEmptyDir, addSandboxEmptyDir } from "./empty-dir.ts";
import { access, addConfigVolume, addHostPath, refuseVolume } from "./parts.ts";

/** Where the guest keeps what was copied in for a StatefulSet's claims; both known tools have it built in. */
const CLAIM_SOURCE = "^/run/kata-containers/shared/containers/$(bundle-id)-[a-z0-9]{16}-";

/** What the two known tools do in different ways. */
interface ToolStyle {
  /** The base name of a copied volume in a pattern. */
  readonly escape: (base: string) => string;
  addEmptyDir(list: MountList, volume: Volume, mount: VolumeMount, memory: boolean, context: ContainerContext): void;
}

const STYLE_OF_2023: ToolStyle = {
  escape: (base) => base,
  // On a disk, readOnly of the mount does not count; fsGroup never does.
  addEmptyDir: (list, volume, mount, memory, context) =>
    addSandboxEmptyDir(list, memory ? mount : { ...mount, readOnly: false }, memory, volume.name, 0, context),
};

const UPSTREAM_STYLE: ToolStyle = {
  escape: escapeAsRust,
  addEmptyDir: (list, volume, mount, memory, context) => addDiskEmptyDir(list, volume, mount, memory, { escape: escapeAsRust, groupPolicy: 0 }, context),
};

/** Volumes as the tool of 2023 describes them: claims of a StatefulSet last (specs/genpolicy.md 3.4). */
export function addVolumesAsIn2023(list: MountList, context: ContainerContext): void {
  for (const [volume, mount] of mountedVolumes(context)) addVolume(list, volume, mount, STYLE_OF_2023, context);
  addClaims(list, context);
}

/** Volumes as upstream's tool describes them: claims of a StatefulSet first, volumes of the image last (specs/genpolicy.md 3.4). */
export function addVolumesAsUpstream(list: MountList, context: ContainerContext): void {
  addClaims(list, context);
  for (const [volume, mount] of mountedVolumes(context)) addVolume(list, volume, mount, UPSTREAM_STYLE, context);
  addImageVolumes(list, context);
}

function addClaims(list: MountList, context: ContainerContext): void {
  for (const mount of mountedClaims(context)) list.append(bindMount(mount.mountPath, `${CLAIM_SOURCE}${baseName(mount, context)}$`, "rprivate", "rw"));
}

function addVolume(list: MountList, volume: Volume, mount: VolumeMount, style: ToolStyle, context: ContainerContext): void {
  const { source } = volume;
  const { mountPath } = mount;
  const base = baseName(mount, context);
  const copied = `$(sfprefix)${style.escape(base)}$`;
  switch (source.kind) {
    case "emptyDir":
      // The tool of 2023 does not know subPath, and upstream's refuses it: as the runtime does, which copies the part.
      if (mount.subPathExpr !== undefined || mount.subPath !== undefined) {
        list.append(bindMount(mountPath, `${context.settings.volumes.subPathSource}${base}$`, "rprivate", access(mount.readOnly)));
      } else style.addEmptyDir(list, volume, mount, source.medium === "Memory", context);
      return;
    case "hostPath":
      addHostPath(list, source.path, mount, copied, mount.subPath === undefined ? ["dev", "sys"] : []);
      return;
    case "persistentVolumeClaim":
    case "azureFile":
    case "csi":
    case "ephemeral":
      list.put(bindMount(mountPath, copied, "rprivate", "rw"));
      return;
    case "configMap":
    case "secret":
      addConfigVolume(list, mount, base, context);
      return;
    case "projected":
      list.put(bindMount(mountPath, copied, "rprivate", "ro"));
      return;
    case "downwardAPI":
      list.put(bindMount(mountPath, `$(sfprefix)${afterLastSlash(mountPath)}$`, "rprivate", "ro"));
      return;
    case "image":
    case "other":
      refuseVolume(volume, source, context);
  }
}

/** `VOLUME` of the image, where nothing else is mounted. */
function addImageVolumes(list: MountList, { image, settings }: ContainerContext): void {
  const kind = settings.volumes.imageVolume;
  if (kind === undefined) return;
  for (const path of image.config.volumes) {
    const destination = path.replaceAll(/\/{2,}/g, "/");
    if (list.has(destination)) continue;
    list.append({ destination, source: `${kind.mountSource}${lastComponent(destination)}$`, type_: kind.fstype, options: kind.options });
  }
}
