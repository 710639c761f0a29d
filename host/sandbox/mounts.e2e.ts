import { execFileSync } from "node:child_process";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { MOUNT_NAMESPACE, onOwnRoot } from "@sealpod/vmm";

const isRoot = process.getuid?.() === 0;

// A tmpfs is mounted, so this runs in a mount namespace of its own.
it.skipIf(!isRoot)(`tells an emptyDir in memory by the tmpfs that kubelet mounts for it${isRoot ? "" : " (skipped: needs root)"}`, async () => {
  const directory = await mkdtemp(join(tmpdir(), "sealpod-mounts-"));
  try {
    // The space is written as \\040 in mountinfo.
    const source = join(directory, "a b", "kubernetes.io~empty-dir", "fast");
    await mkdir(source, { recursive: true });
    const script = `
      import { planMounts } from ${JSON.stringify(join(import.meta.dirname, "mounts.ts"))};
      const mount = { destination: "/fast", type: "bind", source: process.argv[1], options: ["rbind", "rprivate", "rw"] };
      console.log(JSON.stringify(await planMounts([mount], { sandboxId: "s", containerId: "c", unique: () => "" })));
    `;
    const output = execFileSync(
      "unshare",
      [
        ...MOUNT_NAMESPACE,
        ...onOwnRoot(["/bin/sh", "-c", 'mount -t tmpfs sealpod "$1" && exec "$2" --input-type=module -e "$3" "$1"', "sh", source, process.execPath, script]),
      ],
      { encoding: "utf8" },
    );
    expect(JSON.parse(output)).toEqual({
      mounts: [{ destination: "/fast", type: "bind", source: "/run/kata-containers/sandbox/ephemeral/fast", options: ["rbind", "rprivate", "rw"] }],
      storages: [{ driver: "ephemeral", source: "tmpfs", fstype: "tmpfs", options: [], mountPoint: "/run/kata-containers/sandbox/ephemeral/fast" }],
      copies: [],
      dropped: [],
    });
  } finally {
    await rm(directory, { recursive: true });
  }
});
