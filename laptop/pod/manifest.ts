import { decodeUtf8, encodeUtf8, fromBase64, messageOf, sha256, toHex } from "@sealpod/core";
import { parseManifest, podAnnotationOf, podTemplateOf, readResources, type SourceFile, type Workload } from "@sealpod/kube";
import type { ConfigMapObject, PodOwner } from "@sealpod/kubelet";
import type { LayerFormat } from "@sealpod/sandbox";
import { PodError } from "./errors.ts";
import { podOwner } from "./owner.ts";

/** The annotation that carries the policy to the shim in profile `aks` (specs/genpolicy.md 3.5). */
export const POLICY_ANNOTATION = "io.katacontainers.config.agent.policy";

/** One pod of a manifest, ready to be planned. */
export interface PodManifest {
  readonly workload: Workload;
  /** The workload as the controllers see it, with the pod template in the API's spelling. */
  readonly owner: PodOwner;
  readonly namespace: string;
  /** Text of the policy in the annotation. */
  readonly policy: string;
  /** SHA-256 of the policy, hex: the HOST_DATA that the pod is launched with. */
  readonly hostData: string;
  /** File system of image layers whose root hashes the policy has. */
  readonly layerFormat: LayerFormat;
  /** ConfigMaps of the same file by name. */
  readonly configMaps: ReadonlyMap<string, ConfigMapObject>;
  /** Secrets of the same file: name → key → value. */
  readonly secrets: ReadonlyMap<string, ReadonlyMap<string, Uint8Array>>;
}

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
  const configMaps = resources.filter((resource) => resource.kind === "config-map");
  const secrets = resources.filter((resource) => resource.kind === "secret");
  return {
    workload,
    owner: podOwner(workload, node),
    namespace: workload.metadata.namespace ?? "default",
    ...policyOf(file, workload),
    configMaps: new Map(
      configMaps.map(({ metadata, data, binaryData }) => [
        metadata.name ?? "",
        { data: new Map([...data].map(([key, value]) => [key, encodeUtf8(value)])), binaryData },
      ]),
    ),
    secrets: new Map(secrets.map((secret) => [secret.metadata.name ?? "", secret.data])),
  };
}

/** The first file system that the policy names for a disk. It is a hint: layers in another one do not have the root hashes that the policy wants. */
function layerFormatOf(policy: string): LayerFormat {
  return /"fstype"\s*:\s*"(?:tar|erofs)"/.exec(policy)?.[0].includes("tar") === true ? "tar" : "erofs";
}

function policyOf(file: SourceFile, workload: Workload): Pick<PodManifest, "policy" | "hostData" | "layerFormat"> {
  const annotation = podAnnotationOf(workload.object, POLICY_ANNOTATION);
  if (annotation === undefined) {
    throw new PodError("ERR_POD_POLICY", `${file.name}: ${workload.workload} ${workload.metadata.name ?? ""} has no annotation ${POLICY_ANNOTATION}`, {
      hint: `Generate the policy first: sealpod genpolicy -y ${file.name}`,
    });
  }
  const { line, column } = annotation.position;
  try {
    const bytes = fromBase64(annotation.value, "policy annotation");
    const policy = decodeUtf8(bytes, "policy");
    return { policy, hostData: toHex(sha256(bytes)), layerFormat: layerFormatOf(policy) };
  } catch (cause) {
    throw new PodError("ERR_POD_POLICY", `${file.name}:${line}:${column}: ${messageOf(cause)}`, {
      cause,
      hint: `Generate the policy again: sealpod genpolicy -y ${file.name}`,
    });
  }
}
