import type { Behaviour } from "./behaviour.ts";
import { GenpolicyError } from "./errors.ts";
import type { InitdataTemplate } from "./initdata.ts";
import { AKS_PROFILE } from "./profiles/aks.ts";
import { COCO_PROFILE } from "./profiles/coco.ts";
import type { Setting } from "./setting.ts";
import type { Settings } from "./settings.ts";

export { AKS_PROFILE, COCO_PROFILE };

/**
 * What differs between the two generations of the format (DESIGN.md section 3). Code asks the profile; nothing else knows
 * which generation it makes a policy for.
 */
export interface Profile {
  readonly name: ProfileName;
  /** Pod annotation that carries the policy. */
  readonly annotation: string;
  /** Annotations of the pod that are never part of the policy: those that carry it. */
  readonly strippedAnnotations: readonly string[];
  /** Namespace of objects that name none. */
  readonly defaultNamespace: string;
  /** @throws {GenpolicyError} ERR_GENPOLICY_SETTINGS */
  readSettings(root: Setting): Settings;
  /** How the known tool computes values, for its settings. */
  readonly tool: Behaviour;
  /** File name of our own settings for this generation. */
  readonly ownSettings: string;
  /** What goes to standard output. */
  readonly output: OutputRules;
  /** How values are computed for our own settings. */
  readonly kubernetes: Behaviour;
  /** The policy travels within initdata, for which there can be a template. */
  readonly usesInitdata: boolean;
  /** How a policy gets to the guest. */
  deliver(policy: string, template: InitdataTemplate): Delivery;
}

/** What the known tool of a generation prints (specs/genpolicy.md 1.1, 1.2). */
export interface OutputRules {
  /** Each object, also one without a policy, ends what `-b` prints with a line break. */
  readonly base64Line: boolean;
  /** YAML that came from standard input is printed although `-r` or `-b` print something. */
  readonly yamlBesidePrint: boolean;
}

/** Names for `--profile`. */
export type ProfileName = "aks" | "coco";

/** A policy on its way. */
export interface Delivery {
  /** The measured document: the policy itself, or initdata. */
  readonly document: Uint8Array;
  /** Value of {@link Profile.annotation}. */
  readonly annotation: string;
  /** Hex of 32 bytes: HOST_DATA of the pod's report. */
  readonly hostData: string;
}

/** How values are computed for settings: as the known tool does, for its settings; as Kubernetes does, for ours. */
export function behaviourOf(profile: Profile, settings: Settings): Behaviour {
  return settings.followKubernetes ? profile.kubernetes : profile.tool;
}

/**
 * The profile of this name.
 * @throws {GenpolicyError} ERR_GENPOLICY_OPTION
 */
export function profileOf(name: string): Profile {
  if (name === "aks") return AKS_PROFILE;
  if (name === "coco") return COCO_PROFILE;
  throw new GenpolicyError("ERR_GENPOLICY_OPTION", `--profile ${JSON.stringify(name)}: no such profile`, { hint: "Use --profile aks or --profile coco." });
}
