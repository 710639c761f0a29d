import type { JsonValue } from "@sealpod/core";
import type { Volume, VolumeMount } from "@sealpod/kube";
import type { ContainerContext } from "../context.ts";
import type { MountList } from "../mount-list.ts";
import { baseName } from "../mounts.ts";
import { access } from "./parts.ts";

/**
 * An emptyDir of the generation of 2023: a directory of the sandbox, on its disk or in memory.
 * @param group of the directory; 0 says nothing of it
 */
export function addSandboxEmptyDir(list: MountList, mount: VolumeMount, memory: boolean, name: string, group: number, { settings }: ContainerContext): void {
  const { emptyDir, emptyDirMemory } = settings.volumes;
  const kind = memory || emptyDir === undefined ? emptyDirMemory : emptyDir;
  list.addVolumeStorage(kind, { options: ownedBy(group, kind.options), mount_point: `${kind.mountPoint}${name}$` });
  list.append({
    destination: mount.mountPath,
    source: `${kind.mountSource}${name}$`,
    type_: kind.mountType,
    options: ["rbind", "rprivate", access(mount.readOnly)],
  });
}

/** How names and groups are written. */
export interface DiskSpelling {
  readonly escape: (text: string) => string;
  /** `fs_group.group_change_policy`: 0 is Always. */
  readonly groupPolicy: number;
}

/** An emptyDir of upstream's generation: in memory, on a disk of its own, or shared with the host. */
export function addDiskEmptyDir(list: MountList, volume: Volume, mount: VolumeMount, memory: boolean, spelling: DiskSpelling, context: ContainerContext): void {
  const { volumes, emptyDirType } = context.settings;
  const { fsGroup = 0 } = context.workload.template.spec.securityContext;
  const options = ["rbind", "rprivate", access(mount.readOnly)];
  const destination = mount.mountPath;
  if (memory) {
    const kind = volumes.emptyDirMemory;
    list.addVolumeStorage(kind, { options: ownedBy(fsGroup, kind.options), mount_point: `${kind.mountPoint}${volume.name}$` });
    list.append({ destination, source: `${kind.mountSource}${volume.name}$`, type_: kind.mountType, options });
    return;
  }
  const [name, kind] =
    emptyDirType === "block-encrypted"
      ? (["emptyDir_encrypted", volumes.emptyDirEncrypted] as const)
      : emptyDirType === "block-plain"
        ? (["emptyDir_plain", volumes.emptyDirPlain] as const)
        : (["emptyDir", volumes.emptyDir] as const);
  if (kind === undefined) {
    context.report(volume.at, `the settings have no volumes.${name}, which emptyDir needs with cluster_config.emptydir_type ${JSON.stringify(emptyDirType)}`);
  } else if (name === "emptyDir") {
    const base = spelling.escape(baseName(mount, context));
    const shared = { destination, type_: "bind", options };
    list.append({ ...shared, source: `^$(cpath)/sandbox-[0-9a-f]{16}-${spelling.escape(volume.name)}$` });
    list.append({ ...shared, source: `$(sfprefix)${base}$` });
  } else {
    const fsGroupOf: JsonValue = fsGroup === 0 ? null : { group_id: fsGroup, group_change_policy: spelling.groupPolicy };
    list.addVolumeStorage(kind, { fs_group: fsGroupOf });
    list.append({ destination, source: kind.mountSource, type_: kind.mountType, options });
  }
}

/** Options of a storage whose root belongs to the pod's fsGroup in the guest too. */
function ownedBy(group: number, options: readonly string[]): readonly string[] {
  return group === 0 ? options : [...options, `fsgid=${group}`];
}
