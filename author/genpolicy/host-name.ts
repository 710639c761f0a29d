import { scalarText, valueOf, type Workload } from "@sealpod/kube";
import type { ContainerContext } from "./context.ts";
import { encodeLiteral, encodePlaceholder } from "./expansion.ts";

/** The pod's host name as an encoded text: what containerd puts into HOSTNAME. */
export function hostName(context: ContainerContext): string {
  const { workload } = context;
  const { spec } = workload.template;
  if (spec.hostnameOverride !== undefined) return encodeLiteral(spec.hostnameOverride);
  if (spec.hostNetwork) return encodePlaceholder("node-name");
  const isStateful = workload.workload === "StatefulSet";
  const subdomain = isStateful ? workload.serviceName : spec.subdomain;
  if (spec.setHostnameAsFQDN && subdomain !== undefined && subdomain !== "") {
    context.report(spec.at, "setHostnameAsFQDN: the policy cannot know the cluster's domain: set hostnameOverride, or remove it");
  }
  // The controllers of StatefulSets and Indexed Jobs replace what the template says.
  if (isIndexedJob(workload)) return indexedJobHostName(workload);
  return spec.hostname === undefined || isStateful ? encodePlaceholder("host-name") : encodeLiteral(spec.hostname);
}

/** Pods of an Indexed Job are named `JOB-INDEX` in DNS, other than the pod itself. */
function indexedJobHostName({ workload, metadata: { name, generateName = "" } }: Workload): string {
  const own = name === undefined ? `${encodeLiteral(generateName)}${encodePlaceholder("label")}` : encodeLiteral(name);
  const due = workload === "CronJob" ? `${encodePlaceholder("job-index")}-` : "";
  return `${own}-${due}${encodePlaceholder("job-index")}`;
}

/** True for a Job, or a CronJob's, with `completionMode: Indexed`. */
export function isIndexedJob({ workload, object }: Workload): boolean {
  if (workload !== "Job" && workload !== "CronJob") return false;
  let node = valueOf(object.node, "spec");
  if (workload === "CronJob") for (const step of ["jobTemplate", "spec"]) node = node?.kind === "mapping" ? valueOf(node, step) : undefined;
  const mode = node?.kind === "mapping" ? valueOf(node, "completionMode") : undefined;
  return mode?.kind === "scalar" && scalarText(mode) === "Indexed";
}
