import { writeFileSync } from "node:fs";
import { toHex } from "@sealpod/core";
import { run } from "./command.ts";
import { AgentError } from "./errors.ts";
import type { FileNodes } from "./layer.ts";

/** A mount(2), as mount(8) takes it. */
export interface MountRequest {
  readonly type: "tmpfs" | "overlay" | "erofs" | "ext4";
  readonly source: string;
  readonly target: string;
  readonly options: readonly string[];
  /** Relative paths in the options start here. */
  readonly cwd?: string;
}

/** What the agent asks of the kernel besides files: the seam that tests replace. */
export interface GuestSystem extends Omit<FileNodes, "whiteout"> {
  mount(request: MountRequest): Promise<void>;
  /** Takes a mount away, and what is mounted below it. */
  unmount(target: string): Promise<void>;
  /** Makes a character device 0:0. */
  makeWhiteout(path: string): Promise<void>;
  setHostname(name: string): void;
}

/** The Linux that the agent runs on, by the programs of util-linux, coreutils and attr. No shell is involved, and no path of a program is searched for. */
export const linux: GuestSystem = {
  // -i: no mount.TYPE helper is called.
  mount: ({ type, source, target, options, cwd }) =>
    run("/usr/bin/mount", ["-i", "-t", type, ...(options.length === 0 ? [] : ["-o", options.join(",")]), "--", source, target], cwd),
  // Lazily: a process that still has a file open keeps that file, and nothing else.
  unmount: (target) => run("/usr/bin/umount", ["-i", "-l", "-R", "--", target]),
  makeWhiteout: (path) => run("/usr/bin/mknod", ["-m", "0", "--", path, "c", "0", "0"]),
  makePipe: (path) => run("/usr/bin/mkfifo", ["--", path]),
  async setXattr(path, name, value) {
    try {
      await run("/usr/bin/setfattr", ["-h", "-n", name, "-v", `0x${toHex(value)}`, "--", path]);
    } catch (cause) {
      if (!(cause instanceof AgentError) || cause.details["status"] !== undefined) throw cause;
      throw new AgentError("ERR_AGENT_COMMAND", `a layer needs the extended attribute ${name}, and /usr/bin/setfattr is not there`, {
        cause,
        hint: "Install the package `attr` where the guest agent runs.",
      });
    }
  },
  setHostname: (name) => writeFileSync("/proc/sys/kernel/hostname", name),
};
