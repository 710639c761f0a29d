import { readFileSync, statfsSync } from "node:fs";
import { type MessageInitShape, type VolumeStatsResponseSchema, VolumeUsage_Unit } from "@sealpod/proto";
import { componentsBelow, ConfinedDirectory, shown } from "./confined-directory.ts";
import { AgentError } from "./errors.ts";
import type { GuestPaths } from "./paths.ts";

/** Fields of the answer. */
export type VolumeStats = MessageInitShape<typeof VolumeStatsResponseSchema>;

/**
 * Space and inodes of a volume: of a file system that is mounted below the guest's root, or a directory at the top of the share root.
 *
 * Only those, because the host made them and knows their names. To answer for any path would tell it which directories a container has.
 *
 * @param mountPoints mount points of this machine
 * @throws {AgentError} ERR_AGENT_PATH if it leaves the guest's root, ERR_AGENT_REQUEST if it is no volume
 */
export function volumeStats(path: string, paths: GuestPaths, mountPoints: () => ReadonlySet<string>): VolumeStats {
  const components = componentsBelow(paths.root, path);
  const isTopLevel = path.slice(0, path.lastIndexOf("/")) === paths.shared;
  if (!isTopLevel && !mountPoints().has(path)) throw new AgentError("ERR_AGENT_REQUEST", `${shown(path)} is no volume`, { details: { path: shown(path) } });
  using root = ConfinedDirectory.open(paths.root);
  using volume = root.descend(components);
  const { bsize, blocks, bfree, bavail, files, ffree } = statfsSync(volume.self(), { bigint: true });
  return {
    usage: [
      { unit: VolumeUsage_Unit.BYTES, total: blocks * bsize, used: (blocks - bfree) * bsize, available: bavail * bsize },
      { unit: VolumeUsage_Unit.INODES, total: files, used: files - ffree, available: ffree },
    ],
    volumeCondition: { abnormal: false, message: "OK" },
  };
}

/** Mount points of the agent's mount namespace (proc(5), /proc/self/mountinfo). */
export function mountPoints(): ReadonlySet<string> {
  return new Set(
    readFileSync("/proc/self/mountinfo", "utf8")
      .split("\n")
      .map((line) => (line.split(" ")[4] ?? "").replaceAll(/\\([0-7]{3})/g, (_match, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)))),
  );
}
