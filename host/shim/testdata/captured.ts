import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { HostVolumes } from "@sealpod/sandbox";
import type { ContainerRequest } from "../pod.ts";

/** The versions of containerd whose bundles are here (README.md). */
export const CONTAINERD_VERSIONS: readonly string[] = ["1.6.20", "1.7.24"];

/** Ids in the bundles. */
export const SANDBOX_ID: string = "5a".repeat(32);
export const CONTAINER_ID: string = "c0".repeat(32);

/** Changes the text of a `config.json`. */
export type Edit = (text: string) => string;

/** A node with the files that the captured bundles name. */
export class CapturedNode implements AsyncDisposable {
  readonly directory: string;

  private constructor(directory: string) {
    this.directory = directory;
  }

  static async create(): Promise<CapturedNode> {
    const node = new CapturedNode(await mkdtemp(join(tmpdir(), "sealpod-shim-")));
    const volumes = node.path("pods/volumes");
    for (const volume of ["kubernetes.io~empty-dir/disk", "kubernetes.io~empty-dir/ram"]) await mkdir(join(volumes, volume), { recursive: true });
    for (const volume of ["kubernetes.io~configmap/cfg", "kubernetes.io~projected/kube-api-access-abcde"]) {
      // As the kubelet makes them: the content in a directory, and links to it.
      await mkdir(join(volumes, volume, "..2026_11_23"), { recursive: true });
      await writeFile(join(volumes, volume, "..2026_11_23", "k"), "v");
      await symlink("..2026_11_23", join(volumes, volume, "..data"));
      await symlink("..data/k", join(volumes, volume, "k"));
    }
    await mkdir(node.path("pods/containers/app"), { recursive: true });
    await writeFile(node.path("pods/containers/app/1234"), "");
    await writeFile(node.path("pods/etc-hosts"), "127.0.0.1 localhost\n");
    return node;
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  /** The owner and kind of the volumes, which tests without root can neither give nor make. */
  get volumes(): HostVolumes {
    return { owner: (path) => (path.includes("empty-dir") ? { uid: 0, gid: 2000 } : undefined), isTmpfs: async (path) => path.endsWith("/ram") };
  }

  /** Lays a bundle down: `name` is sandbox, container or ctr. */
  async bundle(version: string, name: string, id: string, edit: Edit = (text) => text): Promise<ContainerRequest> {
    const captured = await readFile(join(import.meta.dirname, `containerd-${version}`, `${name}.json`), "utf8");
    const text = edit(captured.replaceAll("@NODE@", this.directory));
    const files = this.path("containerd/root/io.containerd.grpc.v1.cri/sandboxes");
    await mkdir(join(files, SANDBOX_ID), { recursive: true });
    await writeFile(join(files, SANDBOX_ID, "hostname"), "web\n");
    await writeFile(join(files, SANDBOX_ID, "resolv.conf"), "search default.svc.cluster.local\nnameserver 10.96.0.10\n\noptions ndots:5\n");
    const bundle = this.path(`bundles/${id}`);
    await mkdir(bundle, { recursive: true });
    await writeFile(join(bundle, "config.json"), text);
    return { id, bundle, rootfs: [] };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.directory, { recursive: true, force: true });
  }
}
