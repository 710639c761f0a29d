/** What to do about a failure, in the words of the program that met it. */
export interface ContainerdHints {
  /** How its user says where the socket is. */
  readonly givePath: string;
  /** Who may open the socket. */
  readonly permission: string;
  /** A blob that an image names is gone. */
  readonly blobMissing: string;
  /** The socket is not containerd's. */
  readonly serviceMissing: string;
}

/** For `genpolicy -d`. */
export const AUTHOR_HINTS: ContainerdHints = {
  givePath: "Give the path of containerd's socket with -d=PATH.",
  permission: "Run as root, or as a user who may open containerd's socket; or leave -d away to pull without containerd.",
  blobMissing:
    "containerd drops layers after unpacking if discard_unpacked_layers is true in its configuration, and never fetches those of other platforms. " +
    "Run `ctr --namespace k8s.io content fetch --platform linux/amd64 IMAGE` to have them again (a pull alone does not bring what was unpacked before), " +
    "or leave -d away to read the registry.",
  serviceMissing: "-d needs containerd; the socket of CRI-O or of a shim is not enough. Leave -d away to read the registry.",
};

/** For what runs on a node: the shim, and the commands that look at a node. */
export const NODE_HINTS: ContainerdHints = {
  givePath: "Give the address under [grpc] in containerd's configuration, usually /run/containerd/containerd.sock.",
  permission: "Run as root.",
  blobMissing:
    "containerd drops layers after unpacking if discard_unpacked_layers is true in its configuration, or if a snapshotter that loads lazily is in use. " +
    "Set discard_unpacked_layers = false, restart containerd, and run `ctr --namespace NAMESPACE content fetch --platform linux/amd64 IMAGE` " +
    "(a pull alone does not bring what was unpacked before).",
  serviceMissing:
    "The address must be that of containerd itself, 1.6 or later, with none of its plugins for containers, images, content and snapshots disabled.",
};
