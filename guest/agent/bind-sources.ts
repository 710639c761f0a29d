import type { Mount } from "@sealpod/proto";
import { componentsBelow, ConfinedDirectory, shown } from "./confined-directory.ts";
import { AgentError } from "./errors.ts";

/** True for mounts that show a file or a directory of the guest. */
export function isBindMount({ type, options }: Mount): boolean {
  return type === "bind" || options.includes("bind") || options.includes("rbind");
}

/**
 * Checks that the sources of bind mounts are what their paths say, the way to them included: the policy has seen the path, and the runtime would follow a link.
 * Only below the root of the guest, where the host (CopyFile) and containers (volumes) make files; links inside of a directory that is mounted are left alone. What is
 * missing the runtime finds.
 * @param root directory of the guest ({@link GuestPaths})
 * @throws {AgentError} ERR_AGENT_PATH
 */
export function requirePlainSources(root: string, mounts: readonly Mount[]): void {
  for (const { source } of mounts.filter((mount) => isBindMount(mount))) {
    const path = source.endsWith("/") ? source.slice(0, -1) : source;
    // With `.` or `//` in it, a path below the root would not look like one.
    const components = componentsBelow("", path);
    if (!path.startsWith(`${root}/`)) continue;
    let at: ConfinedDirectory | undefined = ConfinedDirectory.open(root);
    for (const name of components.slice(root.split("/").length - 1)) {
      using parent: ConfinedDirectory = at;
      at = undefined;
      const found = parent.stat(name);
      if (found?.isSymbolicLink() === true)
        throw new AgentError("ERR_AGENT_PATH", `source ${shown(source)} of a bind mount: ${parent.describe(name)} is a symbolic link`);
      if (found?.isDirectory() !== true) break;
      at = parent.child(name);
    }
    at?.[Symbol.dispose]();
  }
}
