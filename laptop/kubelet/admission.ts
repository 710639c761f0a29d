import { encodeUtf8 } from "@sealpod/core";
import type { PodContext, WorkloadIdentity } from "./context.ts";
import { KubeletError } from "./errors.ts";
import { assertDnsLabel, assertDnsSubdomain, safeString } from "./names.ts";
import type { EnvVar, PodContainer, PodTemplate, VolumeMount } from "./pod.ts";

/** Where a pod finds the cluster's token, certificate and namespace. */
const SERVICE_ACCOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount";

/** Where azure-workload-identity up to v1.5.1 puts the token; v1.6.0 moved it, and the `aks` policy does not know the new path. */
const AZURE_TOKEN_DIRECTORY = "/var/run/secrets/azure/tokens";
const AZURE_TOKEN_FILE = "azure-identity-token";
const AZURE_VOLUME = "azure-identity-token";

/** Containers in a pod: far above any real pod, and it bounds the work that one manifest can ask for. */
const MAX_CONTAINERS = 64;

/** A pod after admission: what the API server would store and kubelet would read. */
export interface AdmittedPod {
  readonly template: PodTemplate;
  /** Projected volumes that admission added: volume name → file name → content. */
  readonly projected: ReadonlyMap<string, ReadonlyMap<string, Uint8Array>>;
}

/**
 * Does what the API server does between `kubectl apply` and the node: checks the names, mounts the service account
 * (ServiceAccount admission), injects the workload identity (webhook).
 * @throws {KubeletError} ERR_KUBELET_INVALID_POD, ERR_KUBELET_UNSUPPORTED
 */
export function admit(template: PodTemplate, context: PodContext): AdmittedPod {
  checkPod(template, context);
  const projected = new Map<string, ReadonlyMap<string, Uint8Array>>();
  let admitted = template;
  if (template.spec.automountServiceAccountToken !== false) {
    const name = `kube-api-access-${safeString(5, context.random)}`;
    projected.set(
      name,
      new Map([
        ["token", encodeUtf8(context.serviceAccount.token)],
        ["ca.crt", encodeUtf8(context.serviceAccount.caCertificate)],
        ["namespace", encodeUtf8(context.namespace)],
      ]),
    );
    admitted = mapContainers(admitted, (container) => withMount(container, { name, mountPath: SERVICE_ACCOUNT_PATH, readOnly: true }));
  }
  const identity = context.workloadIdentity;
  if (identity !== undefined && template.metadata?.labels?.["azure.workload.identity/use"] === "true") {
    const skipped = (template.metadata.annotations?.["azure.workload.identity/skip-containers"] ?? "").split(";").map((name) => name.trim());
    projected.set(AZURE_VOLUME, new Map([[AZURE_TOKEN_FILE, encodeUtf8(identity.token)]]));
    admitted = mapContainers(admitted, (container) => (skipped.includes(container.name) ? container : withIdentity(container, identity)));
  }
  return { template: admitted, projected };
}

function withIdentity(container: PodContainer, identity: WorkloadIdentity): PodContainer {
  const variables: readonly EnvVar[] = [
    { name: "AZURE_CLIENT_ID", value: identity.clientId },
    { name: "AZURE_TENANT_ID", value: identity.tenantId },
    { name: "AZURE_FEDERATED_TOKEN_FILE", value: `${AZURE_TOKEN_DIRECTORY}/${AZURE_TOKEN_FILE}` },
    { name: "AZURE_AUTHORITY_HOST", value: identity.authorityHost },
  ];
  const present = new Set((container.env ?? []).map((entry) => entry.name));
  const added = variables.filter((entry) => !present.has(entry.name) && entry.value !== "");
  return withMount({ ...container, env: [...(container.env ?? []), ...added] }, { name: AZURE_VOLUME, mountPath: AZURE_TOKEN_DIRECTORY, readOnly: true });
}

function withMount(container: PodContainer, mount: VolumeMount): PodContainer {
  const mounts = container.volumeMounts ?? [];
  if (mounts.some((other) => other.mountPath === mount.mountPath)) return container;
  return { ...container, volumeMounts: [...mounts, mount] };
}

function mapContainers(template: PodTemplate, change: (container: PodContainer) => PodContainer): PodTemplate {
  const { spec } = template;
  return {
    ...template,
    spec: {
      ...spec,
      containers: spec.containers.map(change),
      ...(spec.initContainers === undefined ? {} : { initContainers: spec.initContainers.map(change) }),
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
    if (container.securityContext?.privileged === true) {
      throw unsupported(
        `container ${container.name} is privileged`,
        "A confidential container gets nothing from host privileges. Remove securityContext.privileged.",
      );
    }
  }
  if (spec.hostNetwork === true) throw unsupported(`pod ${context.name} uses hostNetwork`, "The pod's network lives in its own VM. Remove hostNetwork.");
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
    if (mount.subPath !== undefined) throw unsupported(`${where} has a subPath`, "Mount the whole volume.");
  }
}

function unsupported(what: string, hint: string): KubeletError {
  return new KubeletError("ERR_KUBELET_UNSUPPORTED", `${what}: not supported`, { hint });
}
