import { withVolume } from "./added-volume.ts";
import type { PodContext } from "./context.ts";
import { KubeletError } from "./errors.ts";
import { assertDnsLabel, assertDnsSubdomain, safeString } from "./names.ts";
import type { PodContainer, PodTemplate, PodVolume } from "./pod.ts";
import { assertSupported } from "./support.ts";
import { injectWorkloadIdentity } from "./workload-identity.ts";

/** Where a pod finds the cluster's token, certificate and namespace. */
const SERVICE_ACCOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount";

/** Seconds of the token there: an hour and a little, so that it is told from others. */
const SERVICE_ACCOUNT_SECONDS = 3607;

/** Containers in a pod: far above any real pod, and it bounds the work that one manifest can ask for. */
const MAX_CONTAINERS = 64;

/**
 * Does what the API server does between `kubectl apply` and the node: checks the names, mounts the service account
 * (ServiceAccount admission), injects the workload identity (webhook). The answer is what kubelet reads.
 * @throws {KubeletError} ERR_KUBELET_INVALID_POD, ERR_KUBELET_UNSUPPORTED
 */
export function admit(template: PodTemplate, context: PodContext): PodTemplate {
  checkPod(template, context);
  assertSupported(template.spec);
  let admitted = template;
  if (template.spec.automountServiceAccountToken !== false) {
    const name = `kube-api-access-${safeString(5, context.random)}`;
    admitted = withVolume(admitted, accountVolume(name), SERVICE_ACCOUNT_PATH, (container) => container);
  }
  return context.workloadIdentity === undefined ? admitted : injectWorkloadIdentity(admitted, context.workloadIdentity, context.name);
}

function accountVolume(name: string): PodVolume {
  return {
    name,
    projected: {
      sources: [
        { serviceAccountToken: { path: "token", expirationSeconds: SERVICE_ACCOUNT_SECONDS } },
        { configMap: { name: "kube-root-ca.crt", items: [{ key: "ca.crt", path: "ca.crt" }] } },
        { downwardAPI: { items: [{ path: "namespace", fieldRef: { fieldPath: "metadata.namespace" } }] } },
      ],
    },
  };
}

function checkPod(template: PodTemplate, context: PodContext): void {
  assertDnsSubdomain(context.name, "pod name");
  assertDnsLabel(context.namespace, "namespace");
  const { spec } = template;
  const all = [...(spec.initContainers ?? []), ...spec.containers];
  if (spec.containers.length === 0) throw new KubeletError("ERR_KUBELET_INVALID_POD", `pod ${context.name} has no containers`);
  if (all.length > MAX_CONTAINERS)
    throw new KubeletError("ERR_KUBELET_INVALID_POD", `pod ${context.name} has ${all.length} containers, more than ${MAX_CONTAINERS}`);
  const names = new Set<string>();
  for (const container of all) {
    assertDnsLabel(container.name, "container name");
    if (names.has(container.name)) throw new KubeletError("ERR_KUBELET_INVALID_POD", `pod ${context.name} has two containers named ${container.name}`);
    names.add(container.name);
    checkMounts(container);
  }
  const volumes = new Set<string>();
  for (const volume of spec.volumes ?? []) {
    assertDnsLabel(volume.name, "volume name");
    if (volumes.has(volume.name)) throw new KubeletError("ERR_KUBELET_INVALID_POD", `pod ${context.name} has two volumes named ${volume.name}`);
    volumes.add(volume.name);
  }
}

function checkMounts(container: PodContainer): void {
  const paths = new Set<string>();
  for (const mount of container.volumeMounts ?? []) {
    const where = `container ${container.name}: mountPath ${JSON.stringify(mount.mountPath)}`;
    // A ":" would be read as a separator by tools that print mounts; ".." would let a mount name a place other than it says.
    if (!mount.mountPath.startsWith("/") || mount.mountPath.includes(":") || mount.mountPath.split("/").includes("..")) {
      throw new KubeletError("ERR_KUBELET_INVALID_POD", `${where} must be absolute, without ':' and '..'`);
    }
    if (paths.has(mount.mountPath)) throw new KubeletError("ERR_KUBELET_INVALID_POD", `${where} is used twice`);
    paths.add(mount.mountPath);
    if (mount.subPath !== undefined && mount.subPathExpr !== undefined)
      throw new KubeletError("ERR_KUBELET_INVALID_POD", `${where} has both subPath and subPathExpr`);
  }
}
