import type { LayerFormat } from "@sealpod/sandbox";

/**
 * What the text of a policy says about requests that would fit it. A hint, never a decision: the guest holds every request to the policy, and a
 * wrong guess is a request that it denies.
 */
export interface PolicyHints {
  /** File system of the layers whose root hashes the policy has. */
  readonly layerFormat: LayerFormat;
  /** Version of the runtime specification that the policy wants to be told, if it says one. */
  readonly ociVersion: string | undefined;
  /** True if it wants emptyDirs on encrypted disks, false if in memory; undefined if it names none. */
  readonly encryptedEmptyDir: boolean | undefined;
}

/** Hints of a pod without a policy. */
export const NO_HINTS: PolicyHints = { layerFormat: "erofs", ociVersion: undefined, encryptedEmptyDir: undefined };

/** Versions of the OCI runtime specification, as containerd writes them: 1.0.2-dev, 1.1.0-rc.1, 1.2.0. */
const VERSION = /"(1\.[0-9]\.[0-9]{1,2}(?:-[a-z0-9.]{1,12})?)"/g;

/** The same where its name stands before it. */
const NAMED_VERSION = /"Version" {0,4}: {0,4}"(1\.[0-9]\.[0-9]{1,2}(?:-[a-z0-9.]{1,12})?)"/;

/**
 * Reads the hints. A small policy (`sealpod genpolicy` without `--full`) has most names and values behind shorter ones, so what is looked for are
 * values that stand for nothing else. Takes one pass over the text for each hint.
 */
export function policyHints(policy: string): PolicyHints {
  const disk = policy.includes('"encryption_key=ephemeral"');
  return {
    layerFormat: layerFormatOf(policy),
    ociVersion: ociVersionOf(policy),
    encryptedEmptyDir: disk ? true : policy.includes('"mode=0777"') ? false : undefined,
  };
}

/** The type that stands with driver `blk` in one object: its fields hold no other objects. */
function layerFormatOf(policy: string): LayerFormat {
  for (const object of policy.split(/[{}]/)) {
    if (!object.includes('"blk"')) continue;
    if (object.includes('"erofs"')) return "erofs";
    if (object.includes('"tar"')) return "tar";
  }
  return "erofs";
}

/** The version that has its name beside it, or else the only one there is. */
function ociVersionOf(policy: string): string | undefined {
  const named = NAMED_VERSION.exec(policy)?.[1];
  if (named !== undefined) return named;
  const found = new Set<string>();
  for (const [, version = ""] of policy.matchAll(VERSION)) {
    found.add(version);
    if (found.size > 1) return undefined;
  }
  return [...found][0];
}
