import { contentOf, scalarText, scalarValue, type Workload, type YamlNode } from "@sealpod/kube";
import type { PodOwner, PodTemplate } from "@sealpod/kubelet";

/** Fields whose values are text, however they are written: the API server would refuse a number there, genpolicy takes it as text. */
const TEXT_FIELDS: ReadonlySet<string> = new Set([
  "annotations",
  "args",
  "command",
  "hostname",
  "image",
  "key",
  "labels",
  "mountPath",
  "name",
  "path",
  "prefix",
  "subPath",
  "subPathExpr",
  "subdomain",
  "value",
]);

/** What of a workload decides about its first pod. */
export function podOwner(workload: Workload, template: YamlNode): PodOwner {
  const { metadata } = workload;
  const object = plain(workload.object.node, false);
  const spec = workload.workload === "CronJob" ? at(object, "spec", "jobTemplate", "spec") : at(object, "spec");
  const ordinal = at(spec, "ordinals", "start");
  return {
    kind: workload.workload,
    template: plain(template, false) as PodTemplate,
    ...(metadata.name === undefined ? {} : { name: metadata.name }),
    ...(metadata.generateName === undefined ? {} : { generateName: metadata.generateName }),
    ...(workload.serviceName === undefined ? {} : { serviceName: workload.serviceName }),
    ...(typeof ordinal === "number" ? { firstOrdinal: ordinal } : {}),
    volumeClaims: workload.volumeClaims,
    indexed: at(spec, "completionMode") === "Indexed",
  };
}

function at(value: unknown, ...path: readonly string[]): unknown {
  let found = value;
  for (const name of path) {
    if (typeof found !== "object" || found === null || !Object.hasOwn(found, name)) return undefined;
    found = (found as Readonly<Record<string, unknown>>)[name];
  }
  return found;
}

/** A YAML tree as the JSON that an API server would store. */
function plain(node: YamlNode, text: boolean): unknown {
  const content = contentOf(node);
  switch (content.kind) {
    case "scalar":
      return text ? (scalarText(content) ?? null) : scalarValue(content);
    case "sequence":
      return content.items.map((item) => plain(item, text));
    case "mapping":
      // Null means absent to an API server.
      return Object.fromEntries(
        content.entries
          .map((entry) => [entry.key.text, plain(entry.value, text || TEXT_FIELDS.has(entry.key.text))] as const)
          .filter(([, value]) => value !== null),
      );
  }
}
