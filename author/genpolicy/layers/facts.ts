import type { Layer } from "@sealpod/oci";

/** How the guest's host serves layers: `tarfs` is the tar with an index behind it, `erofs` a file system image; `none` means that no root hash is wanted. */
export type LayerFormat = "tarfs" | "erofs" | "none";

/**
 * How `/etc/passwd` and `/etc/group` are found in a layer: `known` as the known tool does (specs/genpolicy.md 5.5), `exact` as the
 * layers look when they are stacked (also opaque directories and a removed `/etc`); `none` means that they are not wanted.
 */
export type UserRules = "known" | "exact" | "none";

/**
 * What a layer says about a user file: nothing; that it is gone; its text; or that it is a link to another file, which is
 * not followed, so that the text is not known.
 */
export type UserFile = { readonly kind: "absent" | "removed" | "link" } | { readonly kind: "text"; readonly text: string };

/** The user files of one layer. */
export interface LayerUsers {
  readonly passwd: UserFile;
  readonly group: UserFile;
}

/** What is known of a layer's tar. Each part is there if somebody asked for it. */
export interface LayerFacts {
  /** dm-verity root hashes by format: 64 lower-case hex digits. */
  readonly roots: Readonly<Partial<Record<"tarfs" | "erofs", string>>>;
  readonly users: Readonly<Partial<Record<"known" | "exact", LayerUsers>>>;
}

/** What to find out about a layer: a root hash, the user files, or both. */
export interface LayerWish {
  readonly format: LayerFormat;
  readonly users: UserRules;
}

/** Nothing is known. */
export const NO_FACTS: LayerFacts = { roots: {}, users: {} };

/** What of a wish the facts leave open. */
export function missing(facts: LayerFacts, { format, users }: LayerWish): LayerWish {
  return {
    format: format === "none" || facts.roots[format] !== undefined ? "none" : format,
    users: users === "none" || facts.users[users] !== undefined ? "none" : users,
  };
}

/** All that two know; where both know something, the second counts. */
export function mergeFacts(first: LayerFacts, second: LayerFacts): LayerFacts {
  return { roots: { ...first.roots, ...second.roots }, users: { ...first.users, ...second.users } };
}

/** Finds out facts of layers. */
export interface LayerReader {
  /**
   * @param blob opens the layer's bytes as stored; called once, when it is this layer's turn, with a signal that ends them
   * @param signal ends it at once, with its reason
   * @throws {OciError} and {VerityError} for a layer that is damaged, hostile or over a limit
   */
  read(layer: Layer, blob: (signal: AbortSignal) => AsyncIterable<Uint8Array>, wish: LayerWish, signal: AbortSignal): Promise<LayerFacts>;
}
