import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { silentLogger } from "@sealpod/core";
import type { Logger } from "@sealpod/core";
import { lockFile, writeStreamAtomic } from "@sealpod/io";
import { LayoutWriter } from "@sealpod/oci";
import type { ImageSpec, Layer, LayoutStore } from "@sealpod/oci";
import { packageVersion, upstreamVersion } from "./debian.ts";
import { ImagesError } from "./errors.ts";
import { LayerCache } from "./layer-cache.ts";
import { DEFAULT_PATH, nginxApplicationLayer, nginxLayer, nodeLayer, pauseLayer, shellLayer, skrApplicationLayer } from "./layers.ts";
import type { NginxApplication, SkrApplication } from "./layers.ts";
import type { Rootfs } from "./rootfs.ts";

/** What {@link buildImages} builds. */
export interface BuildImagesOptions {
  /** Directory of the OCI layout; made if it is not there. Its index is written anew and names the images of this call alone. */
  readonly output: string;
  readonly pause?: boolean;
  readonly nginx?: NginxApplication;
  readonly skr?: SkrApplication;
  /** Node binary for the images; default: the one that runs this. */
  readonly node?: string;
  readonly logger?: Logger;
}

/** An image that was built. */
export interface BuiltImage {
  readonly name: "pause" | "nginx" | "skr";
  /** E.g. `sealpod.internal/nginx:1.22.1`. */
  readonly reference: string;
  readonly manifestDigest: string;
  /** Bottom first. */
  readonly layers: readonly Layer[];
}

/** All images of a call. */
export interface BuiltImages {
  /** Digest of the layout's `index.json`. */
  readonly indexDigest: string;
  readonly images: readonly BuiltImage[];
  /** Layers that were made, and layers that were there from an earlier call with the same inputs. */
  readonly builtLayers: number;
  readonly reusedLayers: number;
}

/** Registry part of the names: never a host that could be asked. */
const REGISTRY = "sealpod.internal";

/** Node's 120 MB compress to nearly the same at level 1 as at 6, in a third of the time. */
const GZIP_LEVEL = 1;

/** Part of each layer's cache key: changes when the way layers are packed does. */
const CACHE_VERSION = 1;

/** User and group that Kubernetes' own pause image has (specs/genpolicy.md 5.9). */
const PAUSE_USER = "65535:65535";

/**
 * Builds the example's images into an OCI layout, from Debian packages installed on this machine and given bundles. The same
 * inputs give the same bytes on the same version of Node; layers whose inputs did not change are not built again.
 * @throws {ImagesError} ERR_IMAGES_PACKAGE and others; {IoError} ERR_IO_LOCKED if another build runs in `output`
 */
export async function buildImages(options: BuildImagesOptions): Promise<BuiltImages> {
  if (process.platform !== "linux" || process.arch !== "x64") {
    throw new ImagesError("ERR_IMAGES_PLATFORM", `this machine is ${process.platform}/${process.arch}; images are built from its files for linux/amd64`);
  }
  await mkdir(join(options.output, "blobs/sha256"), { recursive: true });
  await using _lock = await lockFile(join(options.output, "build.lock"));
  const build = new Build(options, await LayerCache.open(options.output));

  if (options.pause === true) {
    await build.image("pause", "1", { user: PAUSE_USER, env: [DEFAULT_PATH], entrypoint: ["/bin/busybox", "sleep", "infinity"], cmd: [], workingDir: "" }, [
      await pauseLayer(),
    ]);
  }
  if (options.nginx !== undefined || options.skr !== undefined) {
    const node = await nodeLayer(options.node ?? process.execPath);
    if (options.nginx !== undefined) {
      const version = upstreamVersion(await packageVersion("nginx"));
      await build.image("nginx", version, { user: "", env: [DEFAULT_PATH], entrypoint: [], cmd: ["/usr/bin/node", "/app/webapp.mjs"], workingDir: "/" }, [
        node,
        await nginxLayer(node),
        nginxApplicationLayer(options.nginx),
      ]);
    }
    if (options.skr !== undefined) {
      await build.image("skr", "1", { user: "", env: [DEFAULT_PATH], entrypoint: [], cmd: ["/skr.sh"], workingDir: "/" }, [
        node,
        await shellLayer(),
        skrApplicationLayer(options.skr),
      ]);
    }
  }
  return await build.finish();
}

/** One call's work. */
class Build {
  readonly #logger: Logger;
  readonly #cache: LayerCache;
  readonly #writer: LayoutWriter;
  readonly #done = new Map<Rootfs, Layer>();
  readonly #images: BuiltImage[] = [];
  #built = 0;
  #reused = 0;

  constructor(options: BuildImagesOptions, cache: LayerCache) {
    this.#logger = options.logger ?? silentLogger;
    this.#cache = cache;
    this.#writer = new LayoutWriter(directoryStore(options.output));
  }

  async image(name: BuiltImage["name"], tag: string, config: ImageSpec["config"], rootfs: readonly Rootfs[]): Promise<void> {
    const layers: Layer[] = [];
    for (const item of rootfs) layers.push(await this.#layer(name, item));
    const reference = `${REGISTRY}/${name}:${tag}`;
    const manifestDigest = await this.#writer.addImage(reference, { config, layers });
    this.#logger.log("info", "image built", { reference, digest: manifestDigest });
    this.#images.push({ name, reference, manifestDigest, layers });
  }

  async finish(): Promise<BuiltImages> {
    const indexDigest = await this.#writer.finish();
    await this.#cache.save();
    return { indexDigest, images: this.#images, builtLayers: this.#built, reusedLayers: this.#reused };
  }

  async #layer(image: string, rootfs: Rootfs): Promise<Layer> {
    const known = this.#done.get(rootfs);
    if (known !== undefined) return known;
    // Another zlib packs other bytes, which are as good; but a cache must not hide that from who compares digests.
    const key = `${CACHE_VERSION}-gzip${GZIP_LEVEL}-zlib${process.versions.zlib}-${await rootfs.inputsDigest()}`;
    const cached = await this.#cache.get(key);
    if (cached === undefined) this.#built++;
    else this.#reused++;
    const layer = cached ?? (await this.#writer.addLayer(rootfs.tar(), { compression: "gzip", level: GZIP_LEVEL }));
    this.#logger.log("debug", cached === undefined ? "layer built" : "layer reused", { image, digest: layer.digest, size: layer.size });
    this.#cache.set(key, layer);
    this.#done.set(rootfs, layer);
    return layer;
  }
}

/** A directory as the store of a layout. */
function directoryStore(directory: string): LayoutStore {
  return {
    async create() {
      const file = await writeStreamAtomic(join(directory, "blobs/sha256/pending"), 0o644);
      return {
        write: (bytes) => file.write(bytes),
        commit: (path) => file.commit(join(directory, path)),
        abort: () => file.abort(),
      };
    },
  };
}
