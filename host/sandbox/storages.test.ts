import { describe, expect, it } from "vitest";
import { rootStorages, shmStorage } from "./storages.ts";

const layer = (name: string, source: string, format: "erofs" | "tar"): Parameters<typeof rootStorages>[0][number] => ({
  format,
  layerId: name.repeat(64),
  rootHash: new Uint8Array(32).fill(Number.parseInt(name.repeat(2), 16)),
  path: `/layers/${name}`,
  source,
});

describe("storages", () => {
  it.each(["erofs", "tar"] as const)("of a root of layers as %s: disks top first, then the overlay that names them again", (format) => {
    const root = "/run/kata-containers/shared/containers/c";
    const options = (name: string): string[] => [
      "io.katacontainers.fs-opt.block_device=file",
      "io.katacontainers.fs-opt.is-layer",
      `io.katacontainers.fs-opt.root-hash=${name.repeat(64)}`,
    ];
    const described = (name: string): string => Buffer.from(`${name.repeat(64)},${format},ro,${options(name).join(",")}`).toString("base64");
    expect(rootStorages([layer("a", "03", format), layer("b", "02", format)], root)).toEqual([
      {
        driver: "blk",
        source: "02",
        fstype: format,
        options: ["ro", ...options("b")],
        mountPoint: `/run/kata-containers/sandbox/layers/${"b".repeat(64)}`,
      },
      {
        driver: "blk",
        source: "03",
        fstype: format,
        options: ["ro", ...options("a")],
        mountPoint: `/run/kata-containers/sandbox/layers/${"a".repeat(64)}`,
      },
      {
        driver: "overlayfs",
        source: "none",
        fstype: "fuse3.kata-overlay",
        options: [
          "io.katacontainers.fs-opt.layer-src-prefix=/var/lib/containerd/io.containerd.snapshotter.v1.tardev/layers",
          `io.katacontainers.fs-opt.layer=${described("b")}`,
          `io.katacontainers.fs-opt.layer=${described("a")}`,
          "io.katacontainers.fs-opt.overlay-rw",
          `lowerdir=${"b".repeat(64)}:${"a".repeat(64)}`,
        ],
        mountPoint: root,
      },
    ]);
  });

  it("of the pod: its shared memory", () => {
    expect(shmStorage()).toEqual({
      driver: "ephemeral",
      source: "shm",
      fstype: "tmpfs",
      options: ["noexec", "nosuid", "nodev", "mode=1777", "size=67108864"],
      mountPoint: "/run/kata-containers/sandbox/shm",
    });
  });
});
