import type { PolicyMount, PolicyStorage } from "./policy-data.ts";
import type { StorageSettings } from "./settings.ts";

/** Mounts and storages of a container while they are put together. */
export class MountList {
  readonly #mounts: PolicyMount[] = [];
  readonly #storages: PolicyStorage[] = [];
  readonly #sharedField: boolean;

  /** @param sharedField true for the generation whose storages have a field `shared` */
  constructor(sharedField: boolean) {
    this.#sharedField = sharedField;
  }

  get mounts(): readonly PolicyMount[] {
    return this.#mounts;
  }

  get storages(): readonly PolicyStorage[] {
    return this.#storages;
  }

  has(destination: string): boolean {
    return this.#mounts.some((mount) => mount.destination === destination);
  }

  append(mount: PolicyMount): void {
    this.#mounts.push(inOrder(mount));
  }

  /** Takes the place of the mount at `place`, whose destination stays, or is appended. */
  put(mount: PolicyMount, place: string = mount.destination): void {
    const at = this.#mounts.findIndex(({ destination }) => destination === place);
    if (at === -1) this.append(mount);
    else this.#mounts[at] = inOrder({ ...mount, destination: place });
  }

  remove(destination: string): void {
    const kept = this.#mounts.filter((mount) => mount.destination !== destination);
    this.#mounts.splice(0, this.#mounts.length, ...kept);
  }

  addStorage(storage: Omit<PolicyStorage, "shared">, shared = false): void {
    const { driver, driver_options, source, fstype, options, mount_point, fs_group } = storage;
    this.#storages.push({ driver, driver_options, source, fstype, options, mount_point, fs_group, shared: this.#sharedField ? shared : undefined });
  }

  /** A storage as settings describe it. */
  addVolumeStorage(kind: StorageSettings, more: Partial<Pick<PolicyStorage, "source" | "mount_point" | "options" | "fs_group">>): void {
    const { driver, driverOptions, source, fstype, options, mountPoint } = kind;
    this.addStorage({ driver, driver_options: driverOptions, source, fstype, options, mount_point: mountPoint, fs_group: null, ...more }, kind.shared);
  }
}

/** The mount with its fields in the order in which they are printed. */
function inOrder({ destination, source, type_, options }: PolicyMount): PolicyMount {
  return { destination, source, type_, options };
}

/** A bind mount as the runtime makes it of a volume. */
export function bindMount(destination: string, source: string, propagation: string, access: string): PolicyMount {
  return { destination, source, type_: "bind", options: ["rbind", propagation, access] };
}
