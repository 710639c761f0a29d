import type { JsonObject } from "@sealpod/core";
import {
  AKS_PROFILE,
  COCO_PROFILE,
  type GenerateInput,
  generatePolicy,
  parseSettings,
  type Profile,
  readOwnRules,
  readOwnSettings,
  type Settings,
  withWebhook,
} from "@sealpod/genpolicy";
import type { WebhookVersion, WorkloadIdentity } from "@sealpod/kubelet";
import { describe, expect, it } from "vitest";
import { asUpstream, authored, hosted, Judge, type MutableRequest, type Mutation, mutated, type PolicyRequest } from "./test-support.ts";

/**
 * The webhook changes a pod after its policy was made. What the kubelet of a cluster with either version asks for is allowed by the policy
 * that was made for that version, and refused by the other's.
 */

const IMAGES = { "app:1": { entrypoint: ["/entry"], env: ["PATH=/bin"] } };
const VERSIONS = ["1.5", "1.6"] as const;
const DIRECTORIES: Readonly<Record<WebhookVersion, string>> = { "1.5": "/var/run/secrets/azure/tokens", "1.6": "/var/run/secrets/azure/wi" };
const IDENTITY: WorkloadIdentity = {
  clientId: "01234567-89ab-cdef-0123-456789abcdef",
  tenantId: "fedcba98-7654-3210-fedc-ba9876543210",
  authorityHost: "https://login.microsoftonline.com/",
};
const RULES = await readOwnRules();

const SPEC = "{containers: [{name: app, image: 'app:1'}, {name: bare, image: 'app:1'}], initContainers: [{name: init, image: 'app:1'}]}";
const METADATA =
  "labels: {azure.workload.identity/use: 'true', app: web}, annotations: {azure.workload.identity/skip-containers: bare, azure.workload.identity/service-account-token-expiration: '7200'}";
const PODS = {
  Pod: `apiVersion: v1\nkind: Pod\nmetadata: {name: web, ${METADATA}}\nspec: ${SPEC}\n`,
  "Pod with a generated name": `apiVersion: v1\nkind: Pod\nmetadata: {generateName: web-, ${METADATA}}\nspec: ${SPEC}\n`,
  Deployment: `apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {selector: {matchLabels: {app: web}}, template: {metadata: {${METADATA}}, spec: ${SPEC}}}\n`,
};

/** The images of `hosted` as an author measures them: one layer each, with the root hash that it has there. */
const measurer: GenerateInput["measurer"] = {
  measure: async (reference) => ({
    reference,
    manifestDigest: `sha256:${"d1".repeat(32)}`,
    config: {
      ...(reference === "app:1" ? { user: "", ...IMAGES["app:1"] } : { user: "65535:65535", entrypoint: ["/pause"], env: ["PATH=/bin"] }),
      cmd: [],
      workingDir: "",
      tty: false,
      volumes: [],
      diffIds: [],
      architecture: "amd64",
      os: "linux",
    },
    layers: [{ id: "a5".repeat(32), rootHash: "8568c70c0ccfe0051092e818da769111a59882cd19dd799d3bca5ffa82791080" }],
    passwd: "",
    group: "",
    linkedUserFiles: [],
  }),
};

/** The policy of a pod for a cluster with this version of the webhook. */
async function policyOf(yaml: string, profile: Profile, version: WebhookVersion, more: readonly string[] = []): Promise<string> {
  const settings = withWebhook(parseSettings(await readOwnSettings(profile), profile.ownSettings, profile), version, profile.ownSettings);
  const { requestDefaults } = settings;
  const patterns = [...requestDefaults.CreateContainerRequest.allow_env_regex, ...more];
  const changed: Settings = { ...settings, requestDefaults: { ...requestDefaults, CreateContainerRequest: { allow_env_regex: patterns } } };
  const { policies } = await generatePolicy({ manifest: { name: "pod.yaml", text: yaml }, settings: changed, rules: RULES, measurer, profile });
  return policies[0]?.policy ?? "";
}

/** What a cluster asks of the agent, as the policies of a generation see it. */
async function requestsOf(yaml: string, profile: Profile, identity: WorkloadIdentity): Promise<readonly PolicyRequest[]> {
  // What policy the host carries to the guest does not change what it asks for.
  const annotated = (await authored(yaml, IMAGES, AKS_PROFILE)).yaml;
  const { requests } = await hosted(annotated, IMAGES, { workloadIdentity: identity });
  if (profile === AKS_PROFILE) return requests;
  return requests
    .filter(({ rule }) => rule !== "CopyFileRequest" && rule !== "ReadStreamRequest")
    .map((request) => (request.rule === "CreateContainerRequest" ? asUpstream(request, "1.1.0") : request));
}

function refusals(policy: string, requests: readonly PolicyRequest[]): readonly string[] {
  const judge = new Judge(policy);
  return requests.flatMap((request) => judge.refusal(request) ?? []);
}

/** Puts a request of a container into the place of the one that the host makes, and asks for it where it would come. */
function refusalOf(policy: string, requests: readonly PolicyRequest[], container: string, change: Mutation["change"]): string | undefined {
  const judge = new Judge(policy);
  for (const request of requests) {
    const { OCI } = request.rule === "CreateContainerRequest" ? ((request.input as JsonObject)["base"] as unknown as MutableRequest) : {};
    if (OCI?.Annotations["io.kubernetes.cri.container-name"] === container)
      return judge.refusal({ rule: request.rule, input: mutated(request.input, { what: "", change }) });
    judge.refusal(request);
  }
  throw new Error(`no container ${container}`);
}

const CASES = [AKS_PROFILE, COCO_PROFILE].flatMap((profile) => Object.entries(PODS).map(([kind, yaml]) => ({ generation: profile.name, profile, kind, yaml })));

describe.each(CASES)("$generation, a $kind", ({ profile, yaml }) => {
  it.each(VERSIONS)("that the webhook %s admits is allowed by its own policy alone", async (version) => {
    const requests = await requestsOf(yaml, profile, { ...IDENTITY, webhook: version });
    const other = version === "1.5" ? "1.6" : "1.5";
    expect(refusals(await policyOf(yaml, profile, version), requests)).toEqual([]);
    const [first] = refusals(await policyOf(yaml, profile, other), requests);
    expect(first).toContain("CreateContainerRequest");
    expect(first).toContain(DIRECTORIES[version]);
  });
});

describe("of the other version's layout", () => {
  const changes = (to: WebhookVersion): readonly (readonly [what: string, change: Mutation["change"]])[] => {
    const file = to === "1.5" ? `${DIRECTORIES["1.5"]}/azure-identity-token` : `${DIRECTORIES["1.6"]}/token/azure-identity-token`;
    const isToken = ({ destination }: { readonly destination: string }): boolean => Object.values(DIRECTORIES).includes(destination);
    return [
      ["the variable", ({ OCI }) => void (OCI.Process.Env = OCI.Process.Env.map((text) => text.replace(/^(AZURE_FEDERATED_TOKEN_FILE=).*/, `$1${file}`)))],
      ["the mount's place", ({ OCI }) => void (OCI.Mounts = OCI.Mounts.map((mount) => (isToken(mount) ? { ...mount, destination: DIRECTORIES[to] } : mount)))],
      [
        "the mount's copy",
        ({ OCI }) =>
          void (OCI.Mounts = OCI.Mounts.map((mount) =>
            isToken(mount) ? { ...mount, source: mount.source.replace(/-(?:wi|tokens)$/, to === "1.5" ? "-tokens" : "-wi") } : mount,
          )),
      ],
      [
        "a second mount",
        ({ OCI }) => {
          const mount = OCI.Mounts.find(isToken);
          if (mount !== undefined)
            OCI.Mounts.push({ ...mount, destination: DIRECTORIES[to], source: mount.source.replace(/-(?:wi|tokens)$/, to === "1.5" ? "-tokens" : "-wi") });
        },
      ],
    ];
  };
  const CHANGES = VERSIONS.flatMap((version) => changes(version === "1.5" ? "1.6" : "1.5").map(([what, change]) => ({ what, version, change })));

  it.each(CHANGES)("$what alone is refused by the policy for $version", async ({ version, change }) => {
    const requests = await requestsOf(PODS.Pod, AKS_PROFILE, { ...IDENTITY, webhook: version });
    const policy = await policyOf(PODS.Pod, AKS_PROFILE, version);
    expect(refusalOf(policy, requests, "app", () => undefined)).toBeUndefined();
    expect(refusalOf(policy, requests, "app", change)).toContain("CreateContainerRequest");
  });
});

describe("the cluster's token proxy", () => {
  const url = "https://proxy.example:8443";

  it("is refused unless the settings name it: whoever it is gets the pod's token", async () => {
    const requests = await requestsOf(PODS.Pod, AKS_PROFILE, { ...IDENTITY, webhook: "1.6", tokenProxy: { url, sniName: "proxy.example" } });
    const pattern = "^AZURE_KUBERNETES_(?:TOKEN_PROXY=https://proxy\\.example:8443|SNI_NAME=proxy\\.example)$";
    expect(refusals(await policyOf(PODS.Pod, AKS_PROFILE, "1.6"), requests)[0]).toContain(`AZURE_KUBERNETES_TOKEN_PROXY=${url}`);
    expect(refusals(await policyOf(PODS.Pod, AKS_PROFILE, "1.6", [pattern]), requests)).toEqual([]);
    const elsewhere = await requestsOf(PODS.Pod, AKS_PROFILE, { ...IDENTITY, webhook: "1.6", tokenProxy: { url: "https://proxy-example:8443" } });
    expect(refusals(await policyOf(PODS.Pod, AKS_PROFILE, "1.6", [pattern]), elsewhere)[0]).toContain("https://proxy-example:8443");
  });
});
