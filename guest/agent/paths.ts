/** Directories of the guest, all below one root that is empty when the sandbox begins (specs/runtime.md 2.4, 4.10, 4.11). */
export interface GuestPaths {
  /** `/run/kata-containers`; tests put it elsewhere. */
  readonly root: string;
  /** Layers, one directory each; what `lowerdir` names are relative to. */
  readonly layers: string;
  /** The share root: roots of containers, and what CopyFile brings. */
  readonly shared: string;
  /** A character device 0:0 that whiteouts of layers are links to. */
  readonly whiteout: string;
  readonly resolvConf: string;
  /** crun's notes. */
  readonly runtimeState: string;
  /** Directory of one container: bundle, and upper and work directories of its root. */
  container(id: string): string;
}

/** The directories below `root`. */
export function guestPaths(root: string): GuestPaths {
  return {
    root,
    layers: `${root}/sandbox/layers`,
    shared: `${root}/shared/containers`,
    whiteout: `${root}/sandbox/whiteout`,
    resolvConf: `${root}/sandbox/resolv.conf`,
    runtimeState: `${root}/sandbox/crun`,
    container: (id) => `${root}/${id}`,
  };
}
