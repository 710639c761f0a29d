import { decodeUtf8, fromBase64, messageOf, sha256, toHex } from "@sealpod/core";
import {
  contentOf,
  parseManifest,
  podAnnotationOf,
  podTemplateOf,
  readResources,
  scalarText,
  scalarValue,
  type SourceFile,
  type Workload,
  type YamlNode,
} from "@sealpod/kube";
import type { PodTemplate } from "@sealpod/kubelet";
import { PodError } from "./errors.ts";

/** The annotation that carries the policy to the shim in profile `aks` (specs/genpolicy.md 3.5). */
export const POLICY_ANNOTATION = "io.katacontainers.config.agent.policy";

/** One pod of a manifest, ready to be planned. */
export interface PodManifest {
  readonly workload: Workload;
  /** The pod template in the API's spelling. */
  readonly template: PodTemplate;
  readonly namespace: string;
  /** Text of the policy in the annotation. */
  readonly policy: string;
  /** SHA-256 of the policy, hex: the HOST_DATA that the pod is launched with. */
  readonly hostData: string;
  /** ConfigMaps and Secrets of the same file: name → key → value. */
  readonly configMaps: ReadonlyMap<string, ReadonlyMap<string, Uint8Array>>;
  readonly secrets: ReadonlyMap<string, ReadonlyMap<string, Uint8Array>>;
}

/** Fields whose values are text, however they are written: the API server would refuse a number there, genpolicy takes it as text. */
const TEXT_FIELDS: ReadonlySet<string> = new Set(["value", "command", "args", "labels", "annotations", "image", "name"]);

/**
 * Reads the one pod of an annotated manifest.
 * @throws {KubeError} if the YAML is not one of Kubernetes objects
 * @throws {PodError} ERR_POD_MANIFEST, ERR_POD_POLICY
 */
export function parsePodManifest(file: SourceFile): PodManifest {
  const { resources } = readResources(parseManifest(file));
  const workloads = resources.filter((resource) => resource.kind === "workload");
  const [workload] = workloads;
  if (workload === undefined) {
    throw new PodError("ERR_POD_MANIFEST", `${file.name}: nothing here makes pods`, { hint: "Pass the YAML of a Pod, Deployment or another workload." });
  }
  if (workloads.length > 1) {
    const names = workloads.map((item) => `${item.workload}/${item.metadata.name ?? ""}`);
    throw new PodError("ERR_POD_MANIFEST", `${file.name}: ${workloads.length} workloads (${names.join(", ")}), expected one`, {
      hint: "Run them from files of their own.",
    });
  }
  const node = podTemplateOf(workload.object);
  if (node === undefined) throw new PodError("ERR_POD_MANIFEST", `${file.name}: ${workload.workload} has no pod template`);
  const encoder = new TextEncoder();
  const configMaps = resources.filter((resource) => resource.kind === "config-map");
  const secrets = resources.filter((resource) => resource.kind === "secret");
  return {
    workload,
    template: plain(node, false) as PodTemplate,
    namespace: workload.metadata.namespace ?? "default",
    ...policyOf(file, workload),
    configMaps: new Map(configMaps.map((map) => [map.metadata.name ?? "", new Map([...map.data].map(([key, value]) => [key, encoder.encode(value)]))])),
    secrets: new Map(secrets.map((secret) => [secret.metadata.name ?? "", secret.data])),
  };
}

function policyOf(file: SourceFile, workload: Workload): { readonly policy: string; readonly hostData: string } {
  const annotation = podAnnotationOf(workload.object, POLICY_ANNOTATION);
  if (annotation === undefined) {
    throw new PodError("ERR_POD_POLICY", `${file.name}: ${workload.workload} ${workload.metadata.name ?? ""} has no annotation ${POLICY_ANNOTATION}`, {
      hint: `Generate the policy first: sealpod genpolicy -y ${file.name}`,
    });
  }
  const { line, column } = annotation.position;
  try {
    const bytes = fromBase64(annotation.value, "policy annotation");
    return { policy: decodeUtf8(bytes, "policy"), hostData: toHex(sha256(bytes)) };
  } catch (cause) {
    throw new PodError("ERR_POD_POLICY", `${file.name}:${line}:${column}: ${messageOf(cause)}`, {
      cause,
      hint: `Generate the policy again: sealpod genpolicy -y ${file.name}`,
    });
  }
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
