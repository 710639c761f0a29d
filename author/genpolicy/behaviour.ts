import type { Container, Workload } from "@sealpod/kube";
import type { ChangeCapabilities } from "./capabilities.ts";
import type { CommandLine } from "./command-line.ts";
import type { LookupRules } from "./config-sources.ts";
import type { ContainerContext, Report } from "./context.ts";
import type { UserRules } from "./images.ts";
import type { MountRules } from "./mounts.ts";
import type { PolicyContainer, PolicyUser } from "./policy-data.ts";

/**
 * How values of a policy are computed: as the known tool of one generation does, to the byte, or as Kubernetes does. Everything
 * that the three do in the same way is in container.ts.
 */
export interface Behaviour {
  readonly lookup: LookupRules;
  /** How the users of images are looked up. */
  readonly userRules: UserRules;
  /** Name of the pods, or a pattern of it; undefined leaves the annotation out. */
  sandboxName(workload: Workload): string | undefined;
  commandLine(context: ContainerContext): CommandLine;
  user(context: ContainerContext): PolicyUser;
  terminal(context: ContainerContext): boolean;
  /** For a container of the pod; the pause container always has it. */
  noNewPrivileges(container: Container, workload: Workload): boolean;
  readonly changeCapabilities: ChangeCapabilities;
  readonly mounts: MountRules;
  execCommands(commands: readonly (readonly string[])[]): PolicyContainer["exec_commands"];
  /** The container with the devices, sysctls and image of generations that have them. */
  complete(container: PolicyContainer, context: ContainerContext): PolicyContainer;
  /** What the manifest has and no policy of this behaviour can hold, or would be refused at run time. */
  check(workload: Workload, report: Report, warn: Report): void;
}
