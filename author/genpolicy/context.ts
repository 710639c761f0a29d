import type { Container, Position, Workload } from "@sealpod/kube";
import type { ConfigSources } from "./config-sources.ts";
import type { MeasuredImage } from "./images.ts";
import type { ContainerSettings, Settings } from "./settings.ts";

/** Takes a problem of the manifest and its place. */
export type Report = (position: Position, message: string) => void;

/** What a policy container is made from. */
export interface ContainerContext {
  readonly workload: Workload;
  /** Undefined for the pause container. */
  readonly container: Container | undefined;
  readonly image: MeasuredImage;
  readonly settings: Settings;
  /** The settings' section for this class of container. */
  readonly containerSettings: ContainerSettings;
  /** Namespace that the manifest names, or the generation's default: "" if it is not known. */
  readonly namespace: string;
  readonly sources: ConfigSources;
  readonly report: Report;
  readonly warn: Report;
}

/** Where problems of the container as a whole are reported. */
export function placeOf({ workload, container }: ContainerContext): Position {
  return container?.at ?? workload.template.spec.at;
}
