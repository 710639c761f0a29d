import { spawnSync } from "node:child_process";
import { createReadStream } from "node:fs";
import { mkdir, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { blobPath, LayoutWriter } from "@sealpod/oci";
import type { ImageSpec, Layer, LayoutStore } from "@sealpod/oci";
import { encodeTar } from "@sealpod/verity";
import type { TarItem } from "@sealpod/verity";

/** Names of the images of a world. The registry part is never asked. */
export const IMAGES = {
  /** Sleeps, as user 65535. The pod sandboxes are made of it. */
  pause: "sealpod.internal/pause:1",
  /** One layer: busybox with all its names. Runs a shell. */
  busybox: "sealpod.internal/busybox:1",
  /** Three layers, of which the last changes, adds to and removes from those below; user 1000:1000, working directory /app, entry point /app/run. */
  layered: "sealpod.internal/layered:1",
} as const;

const BASE = { uid: 0, gid: 0, mtime: 0 } as const;
const PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const PASSWD = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/app:/bin/sh\n";
const GROUP = "root:x:0:\napp:x:1000:\n";

const directory = (path: string, mode = 0o755): TarItem => ({ ...BASE, kind: "directory", path, mode });
const file = (path: string, data: string, mode = 0o644): TarItem => ({ ...BASE, kind: "file", path, mode, data: Buffer.from(data) });
const link = (path: string, target: string): TarItem => ({ ...BASE, kind: "symlink", path, mode: 0o777, target });

/** Busybox of this machine, with a link for each of its programs. */
async function busyboxItems(): Promise<readonly TarItem[]> {
  const names = spawnSync("busybox", ["--list"], { encoding: "utf8" }).stdout.split("\n");
  const { size } = await stat("/bin/busybox");
  return [
    ...["bin", "dev", "etc", "proc", "run", "sys", "var", "www"].map((path) => directory(path)),
    directory("root", 0o700),
    directory("tmp", 0o1777),
    { ...BASE, kind: "file", path: "bin/busybox", mode: 0o755, size, data: createReadStream("/bin/busybox") },
    ...names.filter((name) => name !== "" && name !== "busybox" && !name.includes("/")).map((name) => link(`bin/${name}`, "busybox")),
    file("etc/passwd", PASSWD),
    file("etc/group", GROUP),
    file("www/index.html", "hello from the pod\n"),
  ];
}

/** Writes the {@link IMAGES} as a layout and as an archive that containerd imports, and gives their manifests' digests. */
export async function writeImages(layout: string, archive: string): Promise<Readonly<Record<keyof typeof IMAGES, string>>> {
  const files = new Map<string, Uint8Array>();
  const writer = new LayoutWriter(memoryStore(files));
  const gzip = { compression: "gzip", level: 1 } as const;
  const busybox = await writer.addLayer(encodeTar(await busyboxItems()), gzip);
  const pause = await writer.addLayer(
    encodeTar([
      directory("bin"),
      { ...BASE, kind: "file", path: "bin/busybox", mode: 0o755, size: (await stat("/bin/busybox")).size, data: createReadStream("/bin/busybox") },
    ]),
    gzip,
  );
  const middle = await writer.addLayer(encodeTar([directory("app"), file("app/run", "#!/bin/sh\necho middle\n", 0o755), file("app/removed", "there\n")]), gzip);
  const top = await writer.addLayer(
    encodeTar([
      { ...directory("app"), uid: 1000, gid: 1000 },
      file("app/.wh.removed", ""),
      file("app/run", '#!/bin/sh\necho "top $(id -u):$(id -g) $(pwd) $(ls /app)"\nexec "$@"\n', 0o755),
    ]),
    { compression: "none" },
  );
  const image = (name: keyof typeof IMAGES, layers: readonly Layer[], config: Partial<ImageSpec["config"]>): Promise<string> =>
    writer.addImage(IMAGES[name], { config: { user: "", env: [PATH], entrypoint: [], cmd: [], workingDir: "", ...config }, layers });
  const digests = {
    pause: await image("pause", [pause], { user: "65535:65535", entrypoint: ["/bin/busybox", "sleep", "infinity"] }),
    busybox: await image("busybox", [busybox], { cmd: ["/bin/sh"] }),
    layered: await image("layered", [busybox, middle, top], {
      user: "1000:1000",
      env: [PATH, "IMAGE=layered"],
      entrypoint: ["/app/run"],
      cmd: ["sleep", "infinity"],
      workingDir: "/app",
    }),
  };
  await writer.finish();
  const items = [...files].map(([name, data]): TarItem => ({ ...BASE, kind: "file", mode: 0o644, path: name, data }));
  const parts: Uint8Array[] = [];
  for await (const part of encodeTar(items)) parts.push(part.slice());
  await writeFile(archive, Buffer.concat(parts));
  await mkdir(join(layout, "blobs/sha256"), { recursive: true });
  for (const [name, data] of files) await writeFile(join(layout, name), data);
  for (const digest of Object.values(digests)) if (!files.has(blobPath(digest))) throw new Error(`the layout lacks ${digest}`);
  return digests;
}

function memoryStore(files: Map<string, Uint8Array>): LayoutStore {
  return {
    create: () => {
      const parts: Uint8Array[] = [];
      return Promise.resolve({
        write: (bytes) => Promise.resolve(void parts.push(bytes.slice())),
        commit: (path) => Promise.resolve(void files.set(path, Buffer.concat(parts))),
        abort: () => Promise.resolve(),
      });
    },
  };
}
