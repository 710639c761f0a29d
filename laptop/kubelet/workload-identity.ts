import { encodeUtf8, sha256, toHex } from "@sealpod/core";
import { withVolume } from "./added-volume.ts";
import type { WebhookVersion, WorkloadIdentity } from "./context.ts";
import { KubeletError } from "./errors.ts";
import type { EnvVar, PodContainer, PodTemplate, PodVolume } from "./pod.ts";

/** Where a version of the webhook puts the token (specs/attestation.md 8.3). */
interface TokenLayout {
  readonly mountPath: string;
  /** Path of the token in the volume. */
  readonly file: string;
  /** @param podName the pod's name, as the webhook knows it */
  volumeName(podName: string): string;
}

/** The name of a volume is a DNS label. */
const MAX_VOLUME_NAME = 63;

const LAYOUTS: Readonly<Record<WebhookVersion, TokenLayout>> = {
  "1.5": { mountPath: "/var/run/secrets/azure/tokens", file: "azure-identity-token", volumeName: () => "azure-identity-token" },
  "1.6": {
    mountPath: "/var/run/secrets/azure/wi",
    file: "token/azure-identity-token",
    volumeName: (podName) => `azure-workload-identity-reserved-${toHex(sha256(encodeUtf8(podName)))}`.slice(0, MAX_VOLUME_NAME),
  },
};

/** Audience of the federated token (specs/attestation.md 8.2). */
const AUDIENCE = "api://AzureADTokenExchange";

/** Seconds that the token is good for: what the webhook takes, and what it asks for by itself (specs/attestation.md 8.2). */
const MIN_SECONDS = 3600;
const MAX_SECONDS = 86_400;
const DEFAULT_SECONDS = 3600;

const LABEL = "azure.workload.identity/use";
const SKIP = "azure.workload.identity/skip-containers";
const EXPIRATION = "azure.workload.identity/service-account-token-expiration";
const PROXY_SIDECAR = "azure.workload.identity/inject-proxy-sidecar";

/**
 * Does what the webhook of azure-workload-identity does to a pod with the label `azure.workload.identity/use: "true"`, to others nothing:
 * a volume with the service account's token in each container, and the variables that the SDKs look for. Doing it twice changes nothing
 * more, as the API server may (reinvocationPolicy IfNeeded). Of the pod's annotations `skip-containers` and
 * `service-account-token-expiration` count.
 * @param podName used where the pod has no `generateName`: of a generated name the webhook only knows the prefix
 * @throws {KubeletError} ERR_KUBELET_INVALID_POD for an expiration that is no number from 3600 to 86400, or if the pod has another volume
 *   of that name; ERR_KUBELET_UNSUPPORTED for `inject-proxy-sidecar`
 */
export function injectWorkloadIdentity(template: PodTemplate, identity: WorkloadIdentity, podName: string): PodTemplate {
  const { labels = {}, annotations = {}, generateName } = template.metadata ?? {};
  if (labels[LABEL] !== "true") return template;
  refuseProxySidecar(annotations[PROXY_SIDECAR] ?? "");
  const version = identity.webhook ?? "1.5";
  const layout = LAYOUTS[version];
  const { file, mountPath } = layout;
  const name = layout.volumeName(generateName === undefined ? podName : `${generateName} (prefix)`);
  const volume = tokenVolume(name, file, expirationSeconds(annotations[EXPIRATION] ?? ""));
  checkVolume(template, name, file);
  const variables = variablesOf(identity, version, `${mountPath}/${file}`);
  const skipped = (annotations[SKIP] ?? "").split(";").map((item) => item.trim());
  return withVolume(template, volume, mountPath, (container) => (skipped.includes(container.name) ? undefined : withVariables(container, variables)));
}

function tokenVolume(name: string, path: string, seconds: number): PodVolume {
  return { name, projected: { sources: [{ serviceAccountToken: { path, audience: AUDIENCE, expirationSeconds: seconds } }] } };
}

/** In the order in which the webhook adds them. */
function variablesOf({ clientId, tenantId, authorityHost, tokenProxy }: WorkloadIdentity, version: WebhookVersion, tokenFile: string): readonly EnvVar[] {
  const proxy = version === "1.6" ? tokenProxy : undefined;
  return [
    { name: "AZURE_CLIENT_ID", value: clientId },
    { name: "AZURE_TENANT_ID", value: tenantId },
    { name: "AZURE_FEDERATED_TOKEN_FILE", value: tokenFile },
    { name: "AZURE_AUTHORITY_HOST", value: authorityHost },
    { name: "AZURE_KUBERNETES_TOKEN_PROXY", value: proxy?.url ?? "" },
    { name: "AZURE_KUBERNETES_SNI_NAME", value: proxy?.sniName ?? "" },
    { name: "AZURE_KUBERNETES_CA_FILE", value: proxy?.caFile ?? "" },
    { name: "AZURE_KUBERNETES_CA_DATA", value: proxy?.caData ?? "" },
  ].filter(({ value }) => value !== "");
}

function withVariables(container: PodContainer, variables: readonly EnvVar[]): PodContainer {
  const env = container.env ?? [];
  const present = new Set(env.map(({ name }) => name));
  return { ...container, env: [...env, ...variables.filter(({ name }) => !present.has(name))] };
}

/** @param text decimal, or empty for the default */
function expirationSeconds(text: string): number {
  if (text === "") return DEFAULT_SECONDS;
  const seconds = /^\d{1,6}$/.test(text) ? Number(text) : 0;
  if (seconds >= MIN_SECONDS && seconds <= MAX_SECONDS) return seconds;
  throw new KubeletError("ERR_KUBELET_INVALID_POD", `annotation ${EXPIRATION}: ${JSON.stringify(text)} is not a number from ${MIN_SECONDS} to ${MAX_SECONDS}`, {
    hint: "The webhook refuses this pod too. Give the seconds that the token is to be good for, or leave the annotation out.",
  });
}

/** The webhook would add two containers of images of its own, which no policy that was made before knows. */
function refuseProxySidecar(text: string): void {
  if (text === "" || text === "false") return;
  throw new KubeletError("ERR_KUBELET_UNSUPPORTED", `annotation ${PROXY_SIDECAR}: not supported: its containers are not in the pod's policy`, {
    hint: "Write the proxy's containers into the manifest before the policy is made, or remove the annotation: the SDKs read the token themselves.",
  });
}

/** A volume of the same name must be the one of an earlier run. */
function checkVolume({ spec }: PodTemplate, name: string, file: string): void {
  const found = spec.volumes?.find((volume) => volume.name === name);
  if (found === undefined || found.projected?.sources?.some(({ serviceAccountToken }) => serviceAccountToken?.path === file) === true) return;
  throw new KubeletError("ERR_KUBELET_INVALID_POD", `volume ${name}: the webhook of workload identity adds one of this name`, {
    hint: "Give the manifest's volume another name.",
  });
}
