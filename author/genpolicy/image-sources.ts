import { isSealpodError, messageOf } from "@sealpod/core";
import type { Image, ImageSource, Layer } from "@sealpod/oci";
import { GenpolicyError } from "./errors.ts";

/** A place that images come from. */
export type SourceSpec =
  /** An OCI image layout: a directory. */
  | { readonly kind: "oci"; readonly path: string }
  /** A file that `docker save` or `podman save` wrote. */
  | { readonly kind: "docker-archive"; readonly path: string }
  /** containerd, by its socket. */
  | { readonly kind: "containerd"; readonly path: string }
  /** The registry that the reference names. */
  | { readonly kind: "registry" };

/** Where containerd listens (specs/genpolicy.md 1.1, `-d`). */
export const CONTAINERD_SOCKET = "/var/run/containerd/containerd.sock";

/**
 * A source as `--images` takes it: `oci:DIR`, `docker-archive:FILE`, `containerd`, `containerd:SOCKET` or `registry`, the
 * names that skopeo and podman have for them.
 * @throws {GenpolicyError} ERR_GENPOLICY_OPTION
 */
export function parseSource(text: string): SourceSpec {
  const colon = text.indexOf(":");
  const [kind, path] = colon === -1 ? [text, ""] : [text.slice(0, colon), text.slice(colon + 1)];
  if (kind === "registry" && path === "") return { kind };
  if (kind === "containerd") return { kind, path: path === "" ? CONTAINERD_SOCKET : path };
  if ((kind === "oci" || kind === "docker-archive") && path !== "") return { kind, path };
  throw new GenpolicyError("ERR_GENPOLICY_OPTION", `--images ${JSON.stringify(text)} is no source of images`, {
    hint: "Write oci:DIR, docker-archive:FILE, containerd, containerd:SOCKET or registry.",
  });
}

/** A source as messages name it. */
export function sourceName(spec: SourceSpec): string {
  return spec.kind === "registry" ? "the registry" : `${spec.kind}:${spec.path}`;
}

/** A source of {@link firstOfSources} and how it is opened. */
export interface LazySource {
  readonly spec: SourceSpec;
  /** Called once, when the first image is asked for. */
  readonly open: () => Promise<ImageSource>;
}

/**
 * Images of several sources: each comes from the first that has it. A source that cannot be opened, or has the image and
 * cannot give it, is an error: the next one might have another image of the same name.
 * @param found told from which source each image came
 */
export function firstOfSources(sources: readonly LazySource[], found: (reference: string, spec: SourceSpec) => void = () => undefined): ImageSource {
  const opened = new Map<LazySource, Promise<ImageSource>>();
  const owners = new Map<string, ImageSource>();
  const open = async (source: LazySource): Promise<ImageSource> => {
    let result = opened.get(source);
    if (result === undefined) {
      result = openOrFail(source);
      opened.set(source, result);
    }
    return result;
  };
  const ownerOf = ({ digest }: Layer): ImageSource => {
    const owner = owners.get(digest);
    if (owner === undefined) throw new RangeError(`layer ${digest} of an image that was not resolved`);
    return owner;
  };
  return {
    async resolve(reference, signal) {
      const missing: { readonly spec: SourceSpec; readonly error: unknown }[] = [];
      for (const source of sources) {
        let image: Image;
        const images = await open(source);
        try {
          image = await images.resolve(reference, signal);
        } catch (error) {
          if (signal?.aborted === true || !isSealpodError(error) || error.code !== "ERR_OCI_NOT_FOUND") throw error;
          missing.push({ spec: source.spec, error });
          continue;
        }
        for (const layer of image.layers) owners.set(layer.digest, images);
        found(reference, source.spec);
        return image;
      }
      const [first, ...others] = missing;
      if (first !== undefined && others.length === 0) throw first.error;
      throw new GenpolicyError("ERR_GENPOLICY_IMAGE", missing.map(({ spec, error }) => `${sourceName(spec)}: ${messageOf(error)}`).join("; "), {
        hint: "Check the image's name, or say with --images where it is.",
      });
    },
    layerBlob: (layer, signal) => ownerOf(layer).layerBlob(layer, signal),
    rejectLayer: (layer) => ownerOf(layer).rejectLayer?.(layer),
    layerTar: (layer) => ownerOf(layer).layerTar(layer),
  };
}

async function openOrFail({ spec, open }: LazySource): Promise<ImageSource> {
  try {
    return await open();
  } catch (error) {
    throw new GenpolicyError("ERR_GENPOLICY_IMAGE", `${sourceName(spec)}: ${messageOf(error)}`, {
      cause: error,
      details: { source: sourceName(spec) },
      hint: isSealpodError(error) && error.hint !== undefined ? error.hint : "Check what --images names: oci:DIR, docker-archive:FILE, containerd:SOCKET.",
    });
  }
}
