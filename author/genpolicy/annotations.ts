import type { ContainerContext } from "./context.ts";

const UUID_PATTERN = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";

/** What is particular to a generation in a container's annotations. */
export interface AnnotationRules {
  /** Annotations of the pod that are never part of the policy: those that carry it. */
  readonly stripped: readonly string[];
  /** Name or pattern of the pod's name; undefined leaves the annotation out. */
  readonly sandboxName: string | undefined;
}

/** Annotations of a container (specs/genpolicy.md 3.4): the pod's come first, so that they stand in for most of the others. */
export function annotationsOf(context: ContainerContext, rules: AnnotationRules): ReadonlyMap<string, string> {
  const { workload, container, containerSettings, namespace } = context;
  const annotations = new Map(workload.template.metadata.annotations);
  for (const key of rules.stripped) annotations.delete(key);
  const orInsert = (key: string, value: string): void => {
    if (!annotations.has(key)) annotations.set(key, value);
  };
  for (const [key, value] of containerSettings.annotations) orInsert(key, value);
  if (rules.sandboxName !== undefined) orInsert("io.kubernetes.cri.sandbox-name", rules.sandboxName);
  if (container !== undefined) orInsert("io.kubernetes.cri.image-name", container.image.includes(":") ? container.image : `${container.image}:latest`);
  annotations.set("io.kubernetes.cri.sandbox-namespace", namespace);
  if (container === undefined) {
    const bridge = workload.template.spec.hostNetwork ? "cnitest" : "cni";
    orInsert("nerdctl/network-namespace", `^/var/run/netns/${bridge}-${UUID_PATTERN}$`);
  } else if (container.name !== "") orInsert("io.kubernetes.cri.container-name", container.name);
  return annotations;
}
