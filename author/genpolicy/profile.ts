/**
 * What differs between the two generations of the format (DESIGN.md section 3). Code asks the profile; nothing else knows
 * which generation it makes a policy for.
 */
export interface Profile {
  readonly name: "aks";
  /** Pod annotation that carries the policy. */
  readonly annotation: string;
  /** `OCI.Version` of every container. */
  readonly ociVersion: string;
  /** Annotations of the pod that are never part of the policy: those that carry it. */
  readonly strippedAnnotations: readonly string[];
  /** Namespace of objects that name none. */
  readonly defaultNamespace: string;
}

/** AKS confidential containers: SetPolicy by annotation, layers pinned by dm-verity roots (specs/genpolicy.md section 0, F23). */
export const AKS_PROFILE: Profile = {
  name: "aks",
  annotation: "io.katacontainers.config.agent.policy",
  ociVersion: "1.1.0-rc.1",
  strippedAnnotations: ["io.katacontainers.config.agent.policy"],
  defaultNamespace: "default",
};
