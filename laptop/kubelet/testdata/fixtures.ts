import type { Random } from "@sealpod/core";
import type { PodContext, PodTemplate } from "../index.ts";

/** Bytes that count up: different each time, the same in each run. */
export function countingRandom(): Random {
  let next = 0;
  return { bytes: (length) => Uint8Array.from({ length }, () => (next = (next * 5 + 17) & 0xff)) };
}

/** The pod of the AKS document, mended. */
export const TEMPLATE: PodTemplate = {
  metadata: {
    labels: { app: "nginx", "azure.workload.identity/use": "true" },
    annotations: { "io.katacontainers.config.agent.policy": "cG9saWN5", "example.org/owner": "someone" },
  },
  spec: {
    serviceAccountName: "workload-identity-sa",
    containers: [
      {
        name: "nginx",
        image: "sealpod.internal/nginx:1.22.1",
        command: ["/usr/bin/node", "/app/webapp.mjs"],
        env: [
          { name: "SkrClientKID", value: "doc-sample-key-release" },
          { name: "WHERE", value: "$(POD)/$(SkrClientKID)/$$(POD)/$(NOBODY)" },
          { name: "POD", valueFrom: { fieldRef: { fieldPath: "metadata.name" } } },
        ],
        resources: { limits: { memory: "512Mi", cpu: "60m" } },
      },
      {
        name: "secret-key-release",
        image: "sealpod.internal/skr:1",
        command: ["/skr.sh"],
        resources: { limits: { memory: "512Mi", cpu: "60m" } },
      },
    ],
  },
};

/** A context with everything that a laptop has. */
export function context(changes: Partial<PodContext> = {}): PodContext {
  const image = { user: "", env: ["PATH=/usr/sbin:/usr/bin", "HOSTNAME=baked-in", "NGINX=1.22"], entrypoint: [], cmd: ["nginx"], workingDir: "/srv" };
  return {
    name: "nginx-deployment-5d59d67564-x2lvq",
    namespace: "default",
    uid: "5f0c8f7e-2f51-4a7c-9d37-0d9c2a1b3c4d",
    nodeName: "laptop",
    hostIps: ["192.0.2.1"],
    podIps: ["10.0.2.100"],
    nodeMemory: 8 * 1024 ** 3,
    allocatable: { cpu: "1900m", memory: "6Gi", "ephemeral-storage": "10Gi" },
    clusterDomain: "cluster.local",
    caCertificate: "ca-pem",
    requestToken: async ({ audience, expirationSeconds }) => `token for ${audience || "the API"}, ${expirationSeconds} s`,
    workloadIdentity: { clientId: "client", tenantId: "tenant", authorityHost: "https://login.sealpod.internal:8443/" },
    services: [{ name: "kubernetes", host: "10.0.0.1", ports: [{ name: "https", port: 443 }] }],
    hosts: [{ ip: "10.0.2.2", names: ["attest.sealpod.internal", "login.sealpod.internal"] }],
    resolvConf: "nameserver 10.0.2.3\n",
    runDirectory: "/state/run/1",
    pauseImage: {
      reference: "mcr.microsoft.com/oss/kubernetes/pause:3.6",
      config: { user: "65535:65535", env: ["PATH=/usr/bin"], entrypoint: ["/pause"], cmd: [], workingDir: "" },
    },
    images: new Map([
      ["sealpod.internal/nginx:1.22.1", { config: image }],
      ["sealpod.internal/skr:1", { config: image }],
    ]),
    sandboxPid: 4711,
    clock: { now: () => Date.UTC(2026, 10, 22, 5, 9, 24, 123) },
    random: countingRandom(),
    ...changes,
  };
}
