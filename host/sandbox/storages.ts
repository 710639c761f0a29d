import { encodeUtf8, toBase64, toHex } from "@sealpod/core";
import type { MessageInitShape, StorageSchema } from "@sealpod/proto";
import { DISK_VOLUMES, LAYER_DIRECTORY, SANDBOX_SHM } from "./guest-paths.ts";

/** A storage of a request to the agent. */
export type StorageInit = MessageInitShape<typeof StorageSchema>;

/** File system of a layer's disk: an EROFS image, or the tar of the AKS format with an index behind it. The policy's root hashes are those of one of them. */
export type LayerFormat = "erofs" | "tar";

/** One layer of a container's image. */
export interface ContainerLayer {
  /** Hex SHA-256 of the chain id: the layer's name in policies and in the guest. */
  readonly layerId: string;
  /** dm-verity root hash, 32 bytes. */
  readonly rootHash: Uint8Array;
  readonly format: LayerFormat;
  /** The layer file on the host. */
  readonly path: string;
}

/** A layer that is attached to the machine. */
export interface AttachedLayer extends ContainerLayer {
  /** Name of its disk in the guest. */
  readonly source: string;
}

const OPTION = "io.katacontainers.fs-opt.";

/** Where the tardev snapshotter keeps its layers. Policies compare the text; here nothing is there. */
const LAYER_SOURCE_PREFIX = "/var/lib/containerd/io.containerd.snapshotter.v1.tardev/layers";

/** The pod's /dev/shm, 64 MiB as everywhere in Kubernetes. */
export function shmStorage(): StorageInit {
  return {
    driver: "ephemeral",
    source: "shm",
    fstype: "tmpfs",
    options: ["noexec", "nosuid", "nodev", "mode=1777", "size=67108864"],
    mountPoint: SANDBOX_SHM,
  };
}

/**
 * The storages of a container's root (specs/runtime.md 4.10 A): a disk for each layer, top first, then the overlay that joins them.
 * @param layers bottom first
 */
export function rootStorages(layers: readonly AttachedLayer[], rootPath: string): readonly StorageInit[] {
  const topFirst = layers.toReversed();
  const disks = topFirst.map(({ layerId, rootHash, source, format }): StorageInit => ({
    driver: "blk",
    source,
    fstype: format,
    options: ["ro", ...layerOptions(rootHash)],
    mountPoint: `${LAYER_DIRECTORY}/${layerId}`,
  }));
  const overlay: StorageInit = {
    driver: "overlayfs",
    source: "none",
    fstype: "fuse3.kata-overlay",
    options: [
      `${OPTION}layer-src-prefix=${LAYER_SOURCE_PREFIX}`,
      ...topFirst.map(
        ({ layerId, rootHash, format }) => `${OPTION}layer=${toBase64(encodeUtf8([layerId, format, "ro", ...layerOptions(rootHash)].join(",")))}`,
      ),
      `${OPTION}overlay-rw`,
      `lowerdir=${topFirst.map(({ layerId }) => layerId).join(":")}`,
    ],
    mountPoint: rootPath,
  };
  return [...disks, overlay];
}

/** An emptyDir: in the guest it is memory, whatever it was on the node. */
export function localStorage(mountPoint: string, group: number): StorageInit {
  return { driver: "local", source: "local", fstype: "local", options: ["mode=0777", ...groupOptions(group)], mountPoint };
}

/** An emptyDir with medium Memory: a file system of its own. */
export function ephemeralStorage(mountPoint: string, group: number): StorageInit {
  return { driver: "ephemeral", source: "tmpfs", fstype: "tmpfs", options: groupOptions(group), mountPoint };
}

/**
 * An emptyDir on a disk that the guest encrypts with a key that it makes and keeps to itself. It is the sandbox's: containers that have the volume
 * in common name it with the same words.
 * @param source name of the disk in the guest
 */
export function encryptedStorage(source: string, group: number): StorageInit {
  return {
    driver: "blk",
    source,
    fstype: "ext4",
    options: [],
    driverOptions: ["encryption_key=ephemeral", "create_filesystem"],
    // Policies write base64 with `-` and `_`, and with the padding.
    mountPoint: `${DISK_VOLUMES}/${toBase64(encodeUtf8(source)).replaceAll("+", "-").replaceAll("/", "_")}`,
    ...(group === 0 ? {} : { fsGroup: { groupId: group } }),
    shared: true,
  };
}

/** A group other than root's is the pod's fsGroup, which the directory belongs to in the guest too (specs/runtime.md 2.10). */
function groupOptions(group: number): string[] {
  return group === 0 ? [] : [`fsgid=${group}`];
}

function layerOptions(rootHash: Uint8Array): readonly string[] {
  return [`${OPTION}block_device=file`, `${OPTION}is-layer`, `${OPTION}root-hash=${toHex(rootHash)}`];
}
