import type { Container, FieldReference, PodSpec, ResourceReference, Workload } from "@sealpod/kube";
import type { ContainerContext } from "./context.ts";
import { encodeLiteral, encodePlaceholder } from "./expansion.ts";
import { divideUp, parseQuantity } from "./quantity.ts";

/** Fields that only the running pod has. */
const RUNTIME_FIELDS: ReadonlyMap<string, string> = new Map([
  ["metadata.name", "sandbox-name"],
  ["metadata.uid", "pod-uid"],
  ["status.hostIP", "host-ip"],
  ["status.hostIPs", "host-ips"],
  ["status.podIP", "pod-ip"],
  ["status.podIPs", "pod-ips"],
]);

/**
 * The value of a field of the pod, as kubelet gives it to a variable (core/v1 EnvVarSource.fieldRef), as an encoded text;
 * undefined if there is no such field.
 */
export function fieldValue({ fieldPath, at }: FieldReference, context: ContainerContext): string | undefined {
  const { workload, namespace } = context;
  const { spec, metadata } = workload.template;
  const runtime = RUNTIME_FIELDS.get(fieldPath);
  if (runtime !== undefined) return encodePlaceholder(runtime);
  if (fieldPath === "metadata.namespace") return namespace === "" ? encodePlaceholder("sandbox-namespace") : encodeLiteral(namespace);
  if (fieldPath === "spec.nodeName") return spec.nodeName === undefined ? encodePlaceholder("node-name") : encodeLiteral(spec.nodeName);
  if (fieldPath === "spec.serviceAccountName") return encodeLiteral(spec.serviceAccountName ?? "default");
  const keyed = /^metadata\.(annotations|labels)\['([^']+)'\]$/.exec(fieldPath);
  if (keyed === null) return undefined;
  const key = keyed[2] ?? "";
  const added = addedByController(workload, keyed[1] === "labels" ? "label" : "annotation", key);
  if (added !== undefined) return added;
  const found = (keyed[1] === "labels" ? metadata.labels : metadata.annotations).get(key);
  // What is not there is empty; a value that a webhook adds would be one that the author does not know.
  if (found === undefined)
    context.warn(at, `the pod has no ${keyed[1] === "labels" ? "label" : "annotation"} ${JSON.stringify(key)}: the policy takes its value for empty`);
  return encodeLiteral(found ?? "");
}

/** Labels and annotations that controllers set on the pods that they make, whatever the template says. */
function addedByController({ workload, metadata }: Workload, sort: "label" | "annotation", key: string): string | undefined {
  const isJob = workload === "Job" || workload === "CronJob";
  if (isJob && key === "batch.kubernetes.io/job-completion-index") return encodePlaceholder("job-index");
  if (sort === "annotation") return undefined;
  switch (key) {
    case "pod-template-hash":
      return workload === "Deployment" ? encodePlaceholder("label") : undefined;
    case "controller-revision-hash":
      return workload === "DaemonSet" || workload === "StatefulSet" ? encodePlaceholder("label") : undefined;
    case "statefulset.kubernetes.io/pod-name":
      return workload === "StatefulSet" ? encodePlaceholder("sandbox-name") : undefined;
    case "apps.kubernetes.io/pod-index":
      return workload === "StatefulSet" ? encodePlaceholder("job-index") : undefined;
    case "job-name":
    case "batch.kubernetes.io/job-name":
      if (!isJob) return undefined;
      return workload === "Job" && metadata.name !== undefined ? encodeLiteral(metadata.name) : encodePlaceholder("label");
    case "controller-uid":
    case "batch.kubernetes.io/controller-uid":
      return isJob ? encodePlaceholder("label") : undefined;
    default:
      return undefined;
  }
}

const RESOURCE = /^(limits|requests)\.(cpu|memory|ephemeral-storage|hugepages-[0-9A-Za-z]+)$/;

/**
 * The value of `resourceFieldRef`: the quantity divided by the divisor, rounded up. A limit that the manifest does not give is what
 * the node has, or what a LimitRange says: any number.
 */
export function resourceValue(reference: ResourceReference, own: Container, spec: PodSpec): { readonly value: string } | { readonly problem: string } {
  const { resource, containerName, divisor } = reference;
  const match = RESOURCE.exec(resource);
  if (match === null)
    return { problem: `resource ${JSON.stringify(resource)} is not one of limits or requests of cpu, memory, ephemeral-storage, hugepages-*` };
  const container = containerName === undefined ? own : [...spec.containers, ...spec.initContainers].find(({ name }) => name === containerName);
  if (container === undefined) return { problem: `the pod has no container named ${JSON.stringify(containerName)}` };
  const { limits, requests } = container.resources;
  const name = match[2] ?? "";
  // The API server takes a limit for a request that is not given.
  const written = match[1] === "limits" ? limits.get(name) : (requests.get(name) ?? limits.get(name));
  const by = parseQuantity(divisor === undefined || divisor === "0" ? "1" : divisor);
  if (by === undefined) return { problem: `divisor ${JSON.stringify(divisor)} is not a quantity` };
  if (written === undefined) return { value: encodePlaceholder("resource-field") };
  const quantity = parseQuantity(written);
  const value = quantity === undefined ? undefined : divideUp(quantity, by);
  return value === undefined ? { problem: `${resource} ${JSON.stringify(written)} is not a quantity` } : { value: String(value) };
}
