import type { RuntimeMount } from "./runtime-spec.ts";

/** What containerd mounts in every container. */
export const DEFAULT_MOUNTS: readonly RuntimeMount[] = [
  { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
  { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "strictatime", "mode=755", "size=65536k"] },
  { destination: "/dev/pts", type: "devpts", source: "devpts", options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
  { destination: "/dev/shm", type: "tmpfs", source: "shm", options: ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
  { destination: "/dev/mqueue", type: "mqueue", source: "mqueue", options: ["nosuid", "noexec", "nodev"] },
  { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", "ro"] },
];
/** And in all but the sandbox. */
export const CGROUP_MOUNT: RuntimeMount = {
  destination: "/sys/fs/cgroup",
  type: "cgroup",
  source: "cgroup",
  options: ["nosuid", "noexec", "nodev", "relatime", "ro"],
};

/** containerd sorts its own mounts by depth, so that no mount hides one below it, and lets them replace the defaults. */
export function mergeMounts(defaults: readonly RuntimeMount[], mounts: readonly RuntimeMount[]): readonly RuntimeMount[] {
  const taken = new Set(mounts.map((mount) => cleanPath(mount.destination)));
  const hidden = ({ destination }: RuntimeMount): boolean => taken.has(destination) || (taken.has("/dev") && destination.startsWith("/dev/"));
  const depth = (mount: RuntimeMount): number => mount.destination.split("/").filter((part) => part !== "").length;
  return [...defaults.filter((mount) => !hidden(mount)), ...mounts.toSorted((a, b) => depth(a) - depth(b))];
}

/** What kubelet mounts, and of the runtime's own mounts those in whose place kubelet has none. */
export function besideMounts(kubelet: readonly RuntimeMount[], runtime: readonly RuntimeMount[]): readonly RuntimeMount[] {
  const taken = new Set(kubelet.map((mount) => cleanPath(mount.destination)));
  return [...kubelet, ...runtime.filter((mount) => !taken.has(cleanPath(mount.destination)))];
}

/** An absolute path without empty components, so that one place has one spelling. */
export function cleanPath(path: string): string {
  return `/${path
    .split("/")
    .filter((part) => part !== "" && part !== ".")
    .join("/")}`;
}
