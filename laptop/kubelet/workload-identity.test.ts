import { decodeUtf8 } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import type { PodContext, PodPlan, WebhookVersion, WorkloadIdentity } from "./context.ts";
import { firstPod } from "./controllers.ts";
import { planPod } from "./plan.ts";
import type { EnvVar, PodContainer, PodMetadata, PodTemplate, PodVolume } from "./pod.ts";
import { context, countingRandom } from "./testdata/fixtures.ts";
import { injectWorkloadIdentity } from "./workload-identity.ts";

const IDENTITY: WorkloadIdentity = { clientId: "client", tenantId: "tenant", authorityHost: "https://login.example/" };
const USE = { "azure.workload.identity/use": "true" };
const EXPIRATION = "azure.workload.identity/service-account-token-expiration";

/** The layouts as specs/attestation.md 8.3 has them; the digests are those of sha256sum. */
const OLD = {
  version: "1.5",
  volume: "azure-identity-token",
  prefixed: "azure-identity-token",
  mountPath: "/var/run/secrets/azure/tokens",
  file: "azure-identity-token",
} as const;
const NEW = {
  version: "1.6",
  volume: "azure-workload-identity-reserved-1ae6fac6e0a6c45234c7f9a125d492",
  prefixed: "azure-workload-identity-reserved-0ec89fcccb41bb6759101e557f3533",
  mountPath: "/var/run/secrets/azure/wi",
  file: "token/azure-identity-token",
} as const;

function template(
  changes: { readonly metadata?: PodMetadata; readonly volumes?: readonly PodVolume[]; readonly containers?: readonly Partial<PodContainer>[] } = {},
): PodTemplate {
  const { metadata, volumes, containers = [{}] } = changes;
  return {
    metadata: { labels: USE, ...metadata },
    spec: {
      containers: containers.map((container, at) => ({ name: `c${at}`, image: "x", ...container })),
      ...(volumes === undefined ? {} : { volumes }),
    },
  };
}

const inject = (pod: PodTemplate, version?: WebhookVersion, more: Partial<WorkloadIdentity> = {}): PodTemplate =>
  injectWorkloadIdentity(pod, { ...IDENTITY, ...more, ...(version === undefined ? {} : { webhook: version }) }, "web-0");

const envOf = (pod: PodTemplate, at = 0): readonly EnvVar[] => pod.spec.containers[at]?.env ?? [];
const secondsOf = (pod: PodTemplate): number | undefined => pod.spec.volumes?.at(-1)?.projected?.sources?.[0]?.serviceAccountToken?.expirationSeconds;

describe.each([OLD, NEW])("the webhook with the layout of $version", ({ version, volume, prefixed, mountPath, file }) => {
  it("adds the volume, its mount and the variables, in this order", () => {
    const { spec } = inject(template(), version);
    expect(spec.volumes).toEqual([
      { name: volume, projected: { sources: [{ serviceAccountToken: { path: file, audience: "api://AzureADTokenExchange", expirationSeconds: 3600 } }] } },
    ]);
    expect(spec.containers[0]?.volumeMounts).toEqual([{ name: volume, mountPath, readOnly: true }]);
    expect(spec.containers[0]?.env).toEqual([
      { name: "AZURE_CLIENT_ID", value: "client" },
      { name: "AZURE_TENANT_ID", value: "tenant" },
      { name: "AZURE_FEDERATED_TOKEN_FILE", value: `${mountPath}/${file}` },
      { name: "AZURE_AUTHORITY_HOST", value: "https://login.example/" },
    ]);
  });

  it("knows of a generated name the prefix alone", () => {
    expect(inject(template({ metadata: { labels: USE, generateName: "web-5d59d67564-" } }), version).spec.volumes?.[0]?.name).toBe(prefixed);
  });

  it("puts the variables behind those of the container, and adds what is absent and not empty", () => {
    const env = [
      { name: "AZURE_AUTHORITY_HOST", value: "https://mine/" },
      { name: "AZURE_TENANT_ID", value: "" },
    ];
    expect(envOf(inject(template({ containers: [{ env }] }), version, { clientId: "" }))).toEqual([
      ...env,
      { name: "AZURE_FEDERATED_TOKEN_FILE", value: `${mountPath}/${file}` },
    ]);
  });

  it("goes into init containers too, and not into those that are to be skipped", () => {
    const annotations = { "azure.workload.identity/skip-containers": "other; c1 ;i1" };
    const before = template({ metadata: { labels: USE, annotations }, containers: [{}, {}] });
    const init = [
      { name: "i0", image: "x" },
      { name: "i1", image: "x" },
    ];
    const { containers, initContainers } = inject({ ...before, spec: { ...before.spec, initContainers: init } }, version).spec;
    const touched = [...(initContainers ?? []), ...containers].filter(({ env, volumeMounts }) => env !== undefined || volumeMounts !== undefined);
    expect(touched.map(({ name }) => name)).toEqual(["i0", "c0"]);
  });

  it("leaves a place alone where something is mounted", () => {
    const volumeMounts = [{ name: "mine", mountPath }];
    const after = inject(template({ volumes: [{ name: "mine", emptyDir: {} }], containers: [{ volumeMounts }] }), version);
    expect(after.spec.containers[0]?.volumeMounts).toEqual(volumeMounts);
    expect(after.spec.volumes?.map(({ name }) => name)).toEqual(["mine", volume]);
  });

  it("changes nothing more when it is called again", () => {
    const once = inject(template({ containers: [{}, {}] }), version);
    expect(inject(once, version)).toEqual(once);
  });

  it("refuses another volume of its name", () => {
    const volumes = [{ name: volume, emptyDir: {} }];
    expect(() => inject(template({ volumes }), version)).toThrow(expect.objectContaining({ code: "ERR_KUBELET_INVALID_POD" }));
  });

  it.each([undefined, "", "True", "yes"])("does nothing where the label is %j", (use) => {
    const labels: Record<string, string> = use === undefined ? {} : { "azure.workload.identity/use": use };
    const pod = template({ metadata: { labels } });
    expect(inject(pod, version)).toBe(pod);
  });

  it.each([
    ["3600", 3600],
    ["86400", 86_400],
    ["07200", 7200],
    ["", 3600],
  ])("asks for a token of %j seconds", (text, seconds) => {
    expect(secondsOf(inject(template({ metadata: { labels: USE, annotations: { [EXPIRATION]: text } } }), version))).toBe(seconds);
  });

  it.each(["3599", "86401", "-3600", "1e4", "7200.0", " 7200", "1h", "0x1c20", "9".repeat(400)])("refuses an expiration of %j", (text) => {
    const pod = template({ metadata: { labels: USE, annotations: { [EXPIRATION]: text } } });
    expect(() => inject(pod, version)).toThrow(expect.objectContaining({ code: "ERR_KUBELET_INVALID_POD", message: expect.stringContaining("3600 to 86400") }));
  });

  it("refuses the proxy sidecar, whose containers no policy knows", () => {
    const asking = (text: string): PodTemplate =>
      template({ metadata: { labels: USE, annotations: { "azure.workload.identity/inject-proxy-sidecar": text } } });
    expect(() => inject(asking("true"), version)).toThrow(expect.objectContaining({ code: "ERR_KUBELET_UNSUPPORTED" }));
    expect(inject(asking("false"), version).spec.containers).toHaveLength(1);
  });
});

describe("the webhook", () => {
  it("has the layout of 1.5 unless the cluster says otherwise", () => {
    const file = (pod: PodTemplate, version?: WebhookVersion): string | undefined =>
      envOf(inject(pod, version)).find(({ name }) => name.endsWith("_FILE"))?.value;
    const [old, current] = [OLD, NEW].map(({ mountPath, file: name }) => `${mountPath}/${name}`);
    expect([file(template()), file(template(), "1.5"), file(template(), "1.6")]).toEqual([old, old, current]);
  });

  it("names the volume by a DNS label for the longest pod name", () => {
    const pod = injectWorkloadIdentity(template(), { ...IDENTITY, webhook: "1.6" }, "a".repeat(253));
    expect(pod.spec.volumes?.[0]?.name).toMatch(/^azure-workload-identity-reserved-[0-9a-f]{30}$/);
  });

  const PROXY = { url: "https://proxy.example:8443", sniName: "proxy.example", caFile: "/ca.pem", caData: "pem" };
  const added = (version: WebhookVersion, tokenProxy: NonNullable<WorkloadIdentity["tokenProxy"]>): readonly string[] =>
    envOf(inject(template(), version, { tokenProxy }))
      .slice(4)
      .map(({ name, value }) => `${name}=${value}`);

  it("tells of the cluster's token proxy since 1.6, behind the other variables", () => {
    expect(added("1.6", PROXY)).toEqual([
      "AZURE_KUBERNETES_TOKEN_PROXY=https://proxy.example:8443",
      "AZURE_KUBERNETES_SNI_NAME=proxy.example",
      "AZURE_KUBERNETES_CA_FILE=/ca.pem",
      "AZURE_KUBERNETES_CA_DATA=pem",
    ]);
    expect(added("1.6", { url: PROXY.url })).toEqual(["AZURE_KUBERNETES_TOKEN_PROXY=https://proxy.example:8443"]);
    expect(added("1.5", PROXY)).toEqual([]);
  });
});

describe("the plan of a pod with the layout of 1.6", () => {
  const plan = async (pod: PodTemplate, changes: Partial<PodContext> = {}): Promise<PodPlan> => {
    const [image] = [...context().images.values()];
    if (image === undefined) throw new Error("the fixture has no image");
    return planPod(pod, context({ workloadIdentity: { ...IDENTITY, webhook: "1.6" }, images: new Map([["x", image]]), name: "web-0", ...changes }));
  };

  it("has the token where the variable says, in a volume of the reserved name", async () => {
    const annotations = { [EXPIRATION]: "7200" };
    const { files, containers } = await plan(template({ metadata: { labels: USE, annotations } }));
    const spec = containers[0]?.spec;
    expect(spec?.process.env).toContain("AZURE_FEDERATED_TOKEN_FILE=/var/run/secrets/azure/wi/token/azure-identity-token");
    const mount = spec?.mounts.find(({ destination }) => destination === "/var/run/secrets/azure/wi");
    expect(mount?.source).toContain(`/kubernetes.io~projected/${NEW.volume}`);
    expect(mount?.options).toEqual(["rbind", "rprivate", "ro"]);
    const own = files.filter(({ path }) => path.startsWith(`${mount?.source}/`));
    expect(own.map((file) => `${file.path.slice((mount?.source.length ?? 0) + 1)}${file.kind === "symlink" ? ` -> ${file.target}` : ""}`)).toEqual([
      "..2026_11_22_05_09_24.123000000",
      "..2026_11_22_05_09_24.123000000/token",
      "..2026_11_22_05_09_24.123000000/token/azure-identity-token",
      "..data -> ..2026_11_22_05_09_24.123000000",
      "token -> ..data/token",
    ]);
    expect(own.flatMap((file) => (file.kind === "file" ? [decodeUtf8(file.content)] : []))).toEqual(["token for api://AzureADTokenExchange, 7200 s"]);
  });

  it("names the volume by the prefix that the controller gave the pod, not by what the API server made of it", async () => {
    const random = countingRandom();
    const { name, template: pod } = firstPod({ kind: "Deployment", name: "web", template: template() }, random);
    const { files } = await plan({ ...pod }, { name, random });
    const reserved = files.flatMap(({ path }) => /azure-workload-identity-reserved-[^/]*$/.exec(path)?.[0] ?? []);
    const named = injectWorkloadIdentity(template(), { ...IDENTITY, webhook: "1.6" }, `${name.slice(0, -5)} (prefix)`);
    expect(reserved).toEqual([named.spec.volumes?.[0]?.name]);
  });
});
