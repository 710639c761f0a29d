import type { PodContext } from "./context.ts";
import { KubeletError } from "./errors.ts";
import type { DownwardFile, PodContainer, PodMetadata, PodTemplate, ResourceSelector } from "./pod.ts";
import { divideQuantity } from "./quantity.ts";

/** Where a value of the pod is asked for, for messages. */
type Place = string;

/**
 * A field of the pod as a variable's value.
 * @throws {KubeletError} ERR_KUBELET_UNSUPPORTED
 */
export function fieldValue(path: string, place: Place, template: PodTemplate, context: PodContext): string {
  switch (path) {
    case "metadata.name":
      return context.name;
    case "metadata.namespace":
      return context.namespace;
    case "metadata.uid":
      return context.uid;
    case "spec.nodeName":
      return template.spec.nodeName ?? context.nodeName;
    case "spec.serviceAccountName":
      return template.spec.serviceAccountName ?? "default";
    case "status.hostIP":
      return context.hostIps[0] ?? "";
    case "status.hostIPs":
      return context.hostIps.join(",");
    case "status.podIP":
      return context.podIps[0] ?? "";
    case "status.podIPs":
      return context.podIps.join(",");
    default: {
      const match = /^metadata\.(labels|annotations)\['([^']+)'\]$/.exec(path);
      if (match === null) throw new KubeletError("ERR_KUBELET_UNSUPPORTED", `${place}: field ${JSON.stringify(path)} is not one that kubelet gives to a pod`);
      const map = textsOf(template.metadata, match[1] === "labels" ? "labels" : "annotations");
      return map.get(match[2] ?? "") ?? "";
    }
  }
}

/**
 * Content of a file of a downward API volume. The maps as a whole are `key="value"` lines, sorted.
 * @throws {KubeletError} ERR_KUBELET_UNSUPPORTED, ERR_KUBELET_UNRESOLVED
 */
export function downwardFile(file: DownwardFile, place: Place, template: PodTemplate, context: PodContext): string {
  if (file.resourceFieldRef !== undefined) return resourceValue(file.resourceFieldRef, undefined, place, template, context);
  const path = file.fieldRef?.fieldPath ?? "";
  const whole = /^metadata\.(labels|annotations)$/.exec(path)?.[1];
  if (whole !== undefined) {
    const sorted = [...textsOf(template.metadata, whole === "labels" ? "labels" : "annotations")].sort(([a], [b]) => (a < b ? -1 : 1));
    return sorted.map(([key, value]) => `${key}=${quoted(value)}`).join("\n");
  }
  if (/^(?:spec|status)\./.test(path)) {
    throw new KubeletError("ERR_KUBELET_UNSUPPORTED", `${place}: field ${path} is one for variables: a volume shows metadata alone`);
  }
  return fieldValue(path, place, template, context);
}

/**
 * A limit or request of a container, divided and rounded up. A limit that is not given is what the node has; a request that is not given is
 * the container's own limit, else 0.
 * @param own the container that a selector without `containerName` means
 * @throws {KubeletError} ERR_KUBELET_UNSUPPORTED, ERR_KUBELET_UNRESOLVED, ERR_KUBELET_QUANTITY
 */
export function resourceValue(selector: ResourceSelector, own: PodContainer | undefined, place: Place, template: PodTemplate, context: PodContext): string {
  const { resource, containerName, divisor } = selector;
  const all = [...template.spec.containers, ...(template.spec.initContainers ?? [])];
  const container = containerName === undefined ? own : all.find(({ name }) => name === containerName);
  if (container === undefined) throw new KubeletError("ERR_KUBELET_UNRESOLVED", `${place}: the pod has no container ${JSON.stringify(containerName ?? "")}`);
  const match = /^(limits|requests)\.(cpu|memory|ephemeral-storage|hugepages-[0-9A-Za-z]+)$/.exec(resource);
  if (match === null)
    throw new KubeletError("ERR_KUBELET_UNSUPPORTED", `${place}: resource ${JSON.stringify(resource)} is not one that kubelet gives to a pod`);
  const name = match[2] ?? "";
  const amount = (map: Readonly<Record<string, string | number>> | undefined): string | number | undefined =>
    map !== undefined && Object.hasOwn(map, name) ? map[name] : undefined;
  const { limits, requests } = container.resources ?? {};
  const given = match[1] === "limits" ? (amount(limits) ?? amount(context.allocatable)) : (amount(requests) ?? amount(limits));
  return String(divideQuantity(given ?? 0, divisor === undefined || String(divisor) === "0" ? 1 : divisor));
}

function textsOf(metadata: PodMetadata | undefined, which: "labels" | "annotations"): ReadonlyMap<string, string> {
  return new Map(Object.entries(metadata?.[which] ?? {}));
}

const ESCAPES: ReadonlyMap<string, string> = new Map([
  ["\x07", "\\a"],
  ["\b", "\\b"],
  ["\f", "\\f"],
  ["\n", "\\n"],
  ["\r", "\\r"],
  ["\t", "\\t"],
  ["\v", "\\v"],
  ['"', '\\"'],
  ["\\", "\\\\"],
]);

/** A string literal of the language that kubelet is written in. */
function quoted(text: string): string {
  const escaped = text.replaceAll(/["\\]|[^\p{L}\p{M}\p{N}\p{P}\p{S} ]/gu, (char) => {
    const code = char.codePointAt(0) ?? 0;
    const hex = code.toString(16);
    const numeric = code < 0x80 ? `\\x${hex.padStart(2, "0")}` : code < 0x10000 ? `\\u${hex.padStart(4, "0")}` : `\\U${hex.padStart(8, "0")}`;
    return ESCAPES.get(char) ?? numeric;
  });
  return `"${escaped}"`;
}
