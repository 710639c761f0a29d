import type { PodContext, WorkloadIdentity } from "./context.ts";
import { KubeletError } from "./errors.ts";
import { assertDnsLabel, assertDnsSubdomain, safeString } from "./names.ts";
import type { EnvVar, PodContainer, PodTemplate, PodVolume, VolumeMount } from "./pod.ts";
import { assertSupported } from "./support.ts";

/** Where a pod finds the cluster's token, certificate and namespace. */
const SERVICE_ACCOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount";

/** Seconds of the token there: an hour and a little, so that it is told from others. */
const SERVICE_ACCOUNT_SECONDS = 3607;

/** Where azure-workload-identity up to v1.5.1 puts the token; v1.6.0 moved it, and the `aks` policy does not know the new path. */
const AZURE_TOKEN_DIRECTORY = "/var/run/secrets/azure/tokens";
const AZURE_TOKEN_FILE = "azure-identity-token";
const AZURE_VOLUME = "azure-identity-token";

/** Audience of the federated token (specs/attestation.md 8.2). */
const AZURE_AUDIENCE = "api://AzureADTokenExchange";
const AZURE_SECONDS = 3600;

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
  const identity = context.workloadIdentity;
  const { labels = {}, annotations = {} } = template.metadata ?? {};
  if (identity !== undefined && labels["azure.workload.identity/use"] === "true") {
    const skipped = (annotations["azure.workload.identity/skip-containers"] ?? "").split(";").map((name) => name.trim());
    admitted = withVolume(admitted, AZURE_IDENTITY, AZURE_TOKEN_DIRECTORY, (container) =>
      skipped.includes(container.name) ? undefined : withVariables(container, identity),
    );
  }
  return admitted;
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

const AZURE_IDENTITY: PodVolume = {
  name: AZURE_VOLUME,
  projected: { sources: [{ serviceAccountToken: { path: AZURE_TOKEN_FILE, audience: AZURE_AUDIENCE, expirationSeconds: AZURE_SECONDS } }] },
};

/** The pod with a volume, mounted in each container that `change` does not leave out and that has nothing there. */
function withVolume(template: PodTemplate, volume: PodVolume, mountPath: string, change: (container: PodContainer) => PodContainer | undefined): PodTemplate {
  const { spec } = template;
  const mount: VolumeMount = { name: volume.name, mountPath, readOnly: true };
  const changed = (container: PodContainer): PodContainer => {
    const to = change(container);
    if (to === undefined) return container;
    const mounts = to.volumeMounts ?? [];
    return mounts.some((other) => other.mountPath === mountPath) ? to : { ...to, volumeMounts: [...mounts, mount] };
  };
  return {
    ...template,
    spec: {
      ...spec,
      volumes: [...(spec.volumes ?? []), volume],
      containers: spec.containers.map(changed),
      ...(spec.initContainers === undefined ? {} : { initContainers: spec.initContainers.map(changed) }),
    },
  };
}

function withVariables(container: PodContainer, identity: WorkloadIdentity): PodContainer {
  const variables: readonly EnvVar[] = [
    { name: "AZURE_CLIENT_ID", value: identity.clientId },
    { name: "AZURE_TENANT_ID", value: identity.tenantId },
    { name: "AZURE_FEDERATED_TOKEN_FILE", value: `${AZURE_TOKEN_DIRECTORY}/${AZURE_TOKEN_FILE}` },
    { name: "AZURE_AUTHORITY_HOST", value: identity.authorityHost },
  ];
  const present = new Set((container.env ?? []).map((entry) => entry.name));
  const added = variables.filter((entry) => !present.has(entry.name) && entry.value !== "");
  return { ...container, env: [...(container.env ?? []), ...added] };
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
