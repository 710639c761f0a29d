import type { Clock, Random } from "@sealpod/core";
import type { RuntimeSpec } from "./runtime-spec.ts";

/** What containerd reads from an image's configuration. `ImageConfig` of `@sealpod/oci` fits. */
export interface ImageSettings {
  /** `user`, `user:group`, `uid`, `uid:gid` or empty. */
  readonly user: string;
  readonly env: readonly string[];
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  readonly workingDir: string;
  /** Paths that the image declares as volumes. */
  readonly volumes?: readonly string[];
}

/** An image of the pod. */
export interface PodImage {
  readonly config: ImageSettings;
  /** Text of the image's /etc/passwd and /etc/group; empty or absent if it has none. containerd looks users and groups up in them. */
  readonly passwd?: string;
  readonly group?: string;
}

/** Layouts of the workload-identity webhook: `1.5` that of v1.5.1 and before, `1.6` that since v1.6.0 (specs/attestation.md 8.3). */
export type WebhookVersion = "1.5" | "1.6";

/** What the workload-identity webhook injects (specs/attestation.md 8.3). An empty text is not injected. */
export interface WorkloadIdentity {
  readonly clientId: string;
  readonly tenantId: string;
  /** `AZURE_AUTHORITY_HOST`, with the slash at its end. */
  readonly authorityHost: string;
  /** Layout of the token's volume; `1.5` if it is absent. */
  readonly webhook?: WebhookVersion;
  /** Set if the cluster has tokens exchanged by a proxy of its own; only `1.6` tells the pod. */
  readonly tokenProxy?: TokenProxy;
}

/** A proxy that exchanges tokens in the place of the authority. What it is verified by reaches the pod as given: no file is made. */
export interface TokenProxy {
  /** `AZURE_KUBERNETES_TOKEN_PROXY`. */
  readonly url: string;
  /** `AZURE_KUBERNETES_SNI_NAME`. */
  readonly sniName?: string;
  /** `AZURE_KUBERNETES_CA_FILE`, a path in the pod, and `AZURE_KUBERNETES_CA_DATA`; the SDKs take one of the two. */
  readonly caFile?: string;
  readonly caData?: string;
}

/** A ConfigMap as the API server has it. */
export interface ConfigMapObject {
  /** UTF-8 text. */
  readonly data: ReadonlyMap<string, Uint8Array>;
  /** Reaches volumes alone. */
  readonly binaryData?: ReadonlyMap<string, Uint8Array>;
}

/** A token that kubelet asks the API server for. */
export interface TokenWish {
  /** Empty: that of the API server. */
  readonly audience: string;
  readonly expirationSeconds: number;
}

/** A Service whose address kubelet puts in every container's environment. */
export interface ServiceAddress {
  readonly name: string;
  readonly host: string;
  readonly ports: readonly { readonly name?: string; readonly port: number; readonly protocol?: "TCP" }[];
}

/** Everything about the node, the cluster and this one start of the pod that the template does not say. */
export interface PodContext {
  readonly name: string;
  readonly namespace: string;
  /** UUID of the pod object. */
  readonly uid: string;
  readonly nodeName: string;
  /** Addresses of the node and of the pod, at least one each; the first is the primary. */
  readonly hostIps: readonly string[];
  readonly podIps: readonly string[];
  /** Memory of the node in bytes: the OOM score of burstable containers depends on it. */
  readonly nodeMemory: number;
  /** What pods may have of the node, as its quantities: limits that a container does not have are these for `resourceFieldRef`. */
  readonly allocatable: Readonly<Record<"cpu" | "memory" | "ephemeral-storage", string | number>>;
  /** Domain of the cluster's services, `cluster.local`. */
  readonly clusterDomain: string;
  /** PEM of the cluster's authority, the ConfigMap `kube-root-ca.crt` of every namespace. */
  readonly caCertificate: string;
  /** Asks for a token of the pod's service account. */
  readonly requestToken: (wish: TokenWish) => Promise<string>;
  /** Set if the cluster runs the webhook; it acts on pods with the label `azure.workload.identity/use: "true"`. */
  readonly workloadIdentity?: WorkloadIdentity;
  readonly services?: readonly ServiceAddress[];
  /** Names that resolve in the pod although no DNS server knows them. */
  readonly hosts: readonly { readonly ip: string; readonly names: readonly string[] }[];
  /** Text of /etc/resolv.conf. */
  readonly resolvConf: string;
  /** Absolute path; what kubelet and containerd keep for the pod goes below it. */
  readonly runDirectory: string;
  readonly pauseImage: PodImage & { readonly reference: string };
  /** By the reference in the manifest. */
  readonly images: ReadonlyMap<string, PodImage>;
  /** ConfigMaps of the namespace by name. */
  readonly configMaps?: ReadonlyMap<string, ConfigMapObject>;
  /** Secrets of the namespace: name → key → value. */
  readonly secrets?: ReadonlyMap<string, ReadonlyMap<string, Uint8Array>>;
  /**
   * Process that stands for the sandbox in the paths of the namespaces that containers join. The shim clears these paths:
   * inside the guest the agent makes the namespaces.
   */
  readonly sandboxPid: number;
  readonly clock: Clock;
  readonly random: Random;
}

/**
 * A file to make on the host before the shim is called. Paths are absolute and lie below the run directory. `gid` is the pod's
 * fsGroup, where it owns the file.
 */
export type HostFile =
  | { readonly kind: "directory"; readonly path: string; readonly mode: number; readonly gid?: number }
  | { readonly kind: "file"; readonly path: string; readonly mode: number; readonly gid?: number; readonly content: Uint8Array }
  | { readonly kind: "symlink"; readonly path: string; readonly target: string };

/** One container as the shim is asked to create it. */
export interface PlannedContainer {
  /** 64 lower-case hex digits. */
  readonly id: string;
  /** Name in the manifest; `POD` for the sandbox, as in kubelet's own records. */
  readonly name: string;
  /** Image reference as in the manifest. */
  readonly image: string;
  /** Bundle directory that containerd would use; the `aks` policy derives the container id from it. */
  readonly bundle: string;
  readonly spec: RuntimeSpec;
  /** An init container that runs as long as the pod: the next is started without waiting for its end. */
  readonly sidecar?: boolean;
}

/** What kubelet and containerd hand to the shim for one pod. */
export interface PodPlan {
  readonly name: string;
  readonly namespace: string;
  readonly uid: string;
  readonly hostname: string;
  /** Annotations of the pod object, the policy among them. */
  readonly annotations: Readonly<Record<string, string>>;
  readonly sandbox: PlannedContainer;
  readonly initContainers: readonly PlannedContainer[];
  readonly containers: readonly PlannedContainer[];
  /** In an order in which they can be made. */
  readonly files: readonly HostFile[];
  /** Directories that stand for a tmpfs that kubelet mounts: emptyDir with medium Memory. */
  readonly memoryDirectories: ReadonlySet<string>;
  /** What of the manifest is without effect here, for the user. */
  readonly notes: readonly string[];
}
