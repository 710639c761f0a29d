import type { PodContainer } from "./pod.ts";
import type { RuntimeCapabilities } from "./runtime-spec.ts";

/** What containerd gives a container that asks for nothing. */
const DEFAULT_CAPABILITIES: readonly string[] = [
  "CAP_CHOWN",
  "CAP_DAC_OVERRIDE",
  "CAP_FSETID",
  "CAP_FOWNER",
  "CAP_MKNOD",
  "CAP_NET_RAW",
  "CAP_SETGID",
  "CAP_SETUID",
  "CAP_SETFCAP",
  "CAP_SETPCAP",
  "CAP_NET_BIND_SERVICE",
  "CAP_SYS_CHROOT",
  "CAP_KILL",
  "CAP_AUDIT_WRITE",
];

/** All that the kernel knows, without `CAP_`, in its order (capabilities(7)). */
const ALL_CAPABILITIES: readonly string[] = (
  "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW " +
  "IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD " +
  "LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
  .split(" ")
  .map((name) => `CAP_${name}`);

/** Capabilities of the sandbox. */
export function defaultCapabilities(): RuntimeCapabilities {
  return capabilities(DEFAULT_CAPABILITIES);
}

/** Capabilities of a container as containerd puts them together: ALL first, then single names, those to drop last. */
export function containerCapabilities(container: PodContainer): RuntimeCapabilities {
  const { add = [], drop = [] } = container.securityContext?.capabilities ?? {};
  const full = (name: string): string => `CAP_${name.toUpperCase().replace(/^CAP_/, "")}`;
  const dropped = new Set(drop.map(full));
  const added = add.map(full);
  const initial = dropped.has("CAP_ALL") ? [] : added.includes("CAP_ALL") ? ALL_CAPABILITIES : DEFAULT_CAPABILITIES;
  const list = new Set([...initial, ...added.filter((name) => name !== "CAP_ALL")]);
  return capabilities([...list].filter((name) => !dropped.has(name)));
}

function capabilities(list: readonly string[]): RuntimeCapabilities {
  return { bounding: list, effective: list, permitted: list };
}
