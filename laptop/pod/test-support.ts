import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PROFILES } from "@sealpod/agent";
import { asObject, encodeUtf8, fromHex, sha256, toHex, type JsonObject, type JsonValue, type Random } from "@sealpod/core";
import { generatePolicy, parseSettings, readOwnRules, readOwnSettings, type GenerateInput, type Profile } from "@sealpod/genpolicy";
import { firstPod, planPod, writeHostFiles, type PlannedContainer, type PodContext, type PodImage, type PodPlan } from "@sealpod/kubelet";
import { AgentService, Health, HealthCheckResponse_ServingStatus, isMessage, type Message } from "@sealpod/proto";
import { compile, type Policy } from "@sealpod/rego";
import { createSandbox, SHARED_CONTAINERS, type ContainerLayer } from "@sealpod/sandbox";
import { implement, memoryStreams, serveTtrpc } from "@sealpod/ttrpc";
import type { MachineExit, VmmDriver } from "@sealpod/vmm";
import { parsePodManifest, type PodManifest } from "./manifest.ts";
import { hostVolumesOf, PAUSE_IMAGE } from "./pod.ts";

/** For the agreement of author and host: both make what they make of one YAML, and the policy decides on the requests. */

const RULES: string = await readOwnRules();

/** An image of one layer, whose bytes nobody looks at. */
export type TestImage = Partial<PodImage["config"]> & Partial<Pick<PodImage, "passwd" | "group">>;

const ROOT_HASH = "8568c70c0ccfe0051092e818da769111a59882cd19dd799d3bca5ffa82791080";
const DIGEST = `sha256:${"d1".repeat(32)}`;
const LAYER: ContainerLayer = { layerId: "a5".repeat(32), format: "erofs", rootHash: fromHex(ROOT_HASH), path: "/layers/one" };
const SERVICES = [{ name: "kubernetes", host: "10.0.0.1", ports: [{ name: "https", port: 443 }] }];

function podImages(images: Readonly<Record<string, TestImage>>): ReadonlyMap<string, PodImage> {
  const pause: TestImage = { user: "65535:65535", entrypoint: ["/pause"], env: ["PATH=/bin"] };
  return new Map(
    Object.entries({ [PAUSE_IMAGE]: pause, ...images }).map(([reference, { passwd = "", group = "", ...config }]) => [
      reference,
      { passwd, group, config: { user: "", env: [], entrypoint: [], cmd: [], workingDir: "", ...config } },
    ]),
  );
}

/** What the author makes of a YAML: its policy, and the YAML with the policy in it. */
export async function authored(
  yaml: string,
  images: Readonly<Record<string, TestImage>>,
  profile: Profile,
): Promise<{ readonly policy: string; readonly yaml: string }> {
  const all = podImages(images);
  const measurer: GenerateInput["measurer"] = {
    measure: async (reference) => {
      const image = all.get(reference);
      if (image === undefined) throw new Error(`no image ${reference}`);
      const config = { tty: false, volumes: [], diffIds: [], architecture: "amd64", os: "linux", ...image.config };
      const layers = [{ id: LAYER.layerId, rootHash: ROOT_HASH }];
      return { reference, manifestDigest: DIGEST, config, layers, passwd: image.passwd ?? "", group: image.group ?? "", linkedUserFiles: [] };
    },
  };
  const settings = parseSettings(await readOwnSettings(profile), profile.ownSettings, profile);
  const made = await generatePolicy({ manifest: { name: "pod.yaml", text: yaml }, settings, rules: RULES, measurer, profile });
  return { policy: made.policies[0]?.policy ?? "", yaml: made.yaml };
}

/** A request as the policy sees it. */
export interface PolicyRequest {
  readonly rule: string;
  readonly input: JsonValue;
}

/** What the host makes of an annotated YAML: a plan, and every request to the agent from the sandbox's beginning to its end. */
export interface HostRun {
  readonly manifest: PodManifest;
  readonly plan: PodPlan;
  readonly requests: readonly PolicyRequest[];
}

/** Runs the host's side against an agent that allows everything. */
export async function hosted(yaml: string, images: Readonly<Record<string, TestImage>>, changes: Partial<PodContext> = {}): Promise<HostRun> {
  const manifest = parsePodManifest({ name: "pod.yaml", text: yaml });
  const directory = await mkdtemp(join(tmpdir(), "sealpod-agreement-"));
  try {
    const random = countingRandom();
    const { name, template } = firstPod(manifest.owner, random);
    const context = { ...podContext(manifest, directory, podImages(images), random), name, ...changes };
    const plan = await planPod(template, context);
    await writeHostFiles(plan.files, directory);
    return { manifest, plan, requests: await runPlan(plan, manifest, random) };
  } finally {
    await rm(directory, { recursive: true });
  }
}

function podContext(manifest: PodManifest, runDirectory: string, images: ReadonlyMap<string, PodImage>, random: Random): Omit<PodContext, "name"> {
  const pause = images.get(PAUSE_IMAGE);
  if (pause === undefined) throw new Error("no pause image");
  return {
    namespace: manifest.namespace,
    uid: "5f0c8f7e-2f51-4a7c-9d37-0d9c2a1b3c4d",
    nodeName: "node-1.example",
    hostIps: ["192.0.2.1", "2001:db8::1"],
    podIps: ["10.0.2.100", "2001:db8::100"],
    nodeMemory: 8 * 1024 ** 3,
    allocatable: { cpu: "1900m", memory: "6Gi", "ephemeral-storage": "10Gi" },
    clusterDomain: "cluster.local",
    caCertificate: "ca-pem",
    requestToken: async ({ audience }) => `token for ${audience}`,
    workloadIdentity: {
      clientId: "01234567-89ab-cdef-0123-456789abcdef",
      tenantId: "fedcba98-7654-3210-fedc-ba9876543210",
      authorityHost: "https://login.microsoftonline.com/",
    },
    services: SERVICES,
    hosts: [],
    resolvConf: "nameserver 10.0.2.3\n",
    runDirectory,
    pauseImage: { reference: PAUSE_IMAGE, ...pause },
    images,
    configMaps: manifest.configMaps,
    secrets: manifest.secrets,
    sandboxPid: 4711,
    clock: { now: () => Date.UTC(2026, 10, 22, 5, 9, 24, 123) },
    random,
  };
}

async function runPlan(plan: PodPlan, manifest: PodManifest, random: Random): Promise<readonly PolicyRequest[]> {
  const { driver, requests } = recordingDriver();
  const guest = { kind: "process", command: ["/agent"], measuredFiles: [], commandLine: "" } as const;
  const launch = { launch: async () => Promise.reject(new Error("not used")) };
  const machine = { runDirectory: "/run/x", guest, launch, memoryMiB: 2048, vcpus: 1 };
  const sandbox = await createSandbox({ id: plan.sandbox.id, driver, machine, policy: manifest.policy, hostname: plan.hostname, random });
  const { spec } = manifest.workload.template;
  const start = async ({ id, name, bundle, spec: runtime }: PlannedContainer): Promise<void> => {
    const container = await sandbox.createContainer({ id, bundle, spec: runtime, layers: [LAYER], volumes: hostVolumesOf(plan) });
    const process = await container.start();
    const commands = [...spec.containers, ...spec.initContainers].find((item) => item.name === name)?.execCommands ?? [];
    for (const args of commands) {
      const exec = await container.exec({ execId: toHex(random.bytes(32)), process: { ...runtime.process, terminal: false, args } });
      await exec.exited;
    }
    await process.exited;
  };
  await start(plan.sandbox);
  for (const container of [...plan.initContainers, ...plan.containers]) await start(container);
  await sandbox.destroy();
  const aks = PROFILES.get("aks");
  if (aks === undefined) throw new Error("no profile aks");
  const { method } = AgentService;
  const schemas = new Map(Object.values(method).map(({ input }) => [input.typeName as string, input]));
  // SetPolicy is decided on by the policy before.
  const asked = requests.filter((request) => !isMessage(request, AgentService.method.setPolicy.input));
  return asked.map((request) => {
    const schema = schemas.get(request.$typeName);
    if (schema === undefined) throw new Error(`no method takes ${request.$typeName}`);
    return { rule: schema.name, input: aks.input(schema, request) };
  });
}

/** A machine with an agent that remembers what it is asked. */
function recordingDriver(): { readonly driver: VmmDriver; readonly requests: Message[] } {
  const requests: Message[] = [];
  const driver: VmmDriver = {
    name: "recording",
    isolation: "none",
    probe: async () => undefined,
    start: async ({ id }) => {
      const exited = Promise.withResolvers<MachineExit>();
      const [near, far] = memoryStreams();
      const health = implement(Health, { check: () => ({ status: HealthCheckResponse_ServingStatus.SERVING }) });
      const agent = implement(AgentService, {}, (_method, request) => {
        requests.push(request);
        return {};
      });
      void serveTtrpc(far, [health, agent]);
      return {
        id,
        pid: 4711,
        guestNetwork: [],
        exited: exited.promise,
        connectAgent: async () => near,
        attachDisk: async () => ({ source: "02" }),
        forwardPort: async (port) => port,
        stop: async () => {
          far.close();
          exited.resolve({ kind: "stopped", exitCode: 0, signal: null });
        },
      };
    },
  };
  return { driver, requests };
}

/** Bytes that look random and are the same in each run. */
function countingRandom(): Random {
  let count = 0;
  return {
    bytes: (length) => {
      const blocks: Uint8Array[] = [];
      for (let size = 0; size < length; size += 32) blocks.push(sha256(encodeUtf8(`agreement ${count++}`)));
      return new Uint8Array(Buffer.concat(blocks).subarray(0, length));
    },
  };
}

/** An agent's view of a policy. */
export class Judge {
  readonly #policy: Policy;

  constructor(text: string) {
    this.#policy = compile([{ name: "agent_policy", text }], { version: "v1" });
    this.#policy.setData({ pstate: {} });
  }

  /** Undefined if the request is allowed, else why not. What an allowed request changes is kept. */
  refusal(request: PolicyRequest): string | undefined {
    const value = this.#ask(request);
    if (!isAllowed(value)) return `${request.rule}: ${this.#reasons(request)}`;
    this.#policy.patchData((asObject(value)?.["ops"] ?? []) as unknown as Parameters<Policy["patchData"]>[0]);
    return undefined;
  }

  /** True if the request would be allowed now. */
  allows(request: PolicyRequest): boolean {
    return isAllowed(this.#ask(request));
  }

  #ask({ rule, input }: PolicyRequest): JsonValue | undefined {
    return this.#policy.evaluate(`data.agent_policy.${rule}`, { input, prints: false }).results[0]?.expressions[0];
  }

  #reasons({ rule, input }: PolicyRequest): string {
    const { prints } = this.#policy.evaluate(`data.agent_policy.${rule}`, { input, prints: true });
    return prints.map((line) => line.replace(/^[^ ]*:\d+: /, "")).join("; ");
  }
}

function isAllowed(value: JsonValue | undefined): boolean {
  return (asObject(value)?.["allowed"] ?? value) === true;
}

/** A change that a host could make to a CreateContainer request, in place. */
export interface Mutation {
  readonly what: string;
  readonly change: (request: MutableRequest) => void;
}

/** The parts of a CreateContainer request that are changed. */
export interface MutableRequest {
  storages: { driver: string; source: string; fstype: string; options: string[]; mount_point: string }[];
  sandbox_pidns: boolean;
  devices: object[];
  OCI: {
    Version: string;
    Root: { Path: string; Readonly: boolean };
    Process: {
      Terminal: boolean;
      User: { UID: number; GID: number; AdditionalGids: number[] };
      Args: string[];
      Env: string[];
      Cwd: string;
      NoNewPrivileges: boolean;
      Capabilities: Record<"Bounding" | "Effective" | "Permitted" | "Inheritable" | "Ambient", string[]>;
    };
    Mounts: { destination: string; source: string; type_: string; options: string[] }[];
    Annotations: Record<string, string>;
    Linux: { Namespaces: { Type: string; Path: string }[]; MaskedPaths: string[]; ReadonlyPaths: string[]; Sysctl: Record<string, string> };
  };
}

/** Where files that the host supplies are in the guest. */
const COPIES = `${SHARED_CONTAINERS}/`;

/** What a host may try with a container: each of these changes one thing that the manifest decides, and none may be allowed. */
export function ownMutations({ storages, OCI: { Process, Mounts } }: MutableRequest): readonly Mutation[] {
  const args = Process.Args.map((_word, at) => of(`argument ${at}`, ({ OCI }) => void (OCI.Process.Args[at] += "!x")));
  const variables = Process.Env.flatMap((variable, at) => [
    of(`the value of ${variable}`, ({ OCI }) => void (OCI.Process.Env[at] += "!x")),
    ...(isClustersOwn(variable) ? [] : [of(`no ${variable}`, ({ OCI }) => void OCI.Process.Env.splice(at, 1))]),
  ]);
  const mounts = Mounts.flatMap(({ destination, source, type_ }, at) => {
    if (type_ !== "bind" && type_ !== "local") return [];
    return [
      of(`the source of ${destination}`, ({ OCI }) => void (OCI.Mounts[at] = { ...mountAt(OCI.Mounts, at), source: `${source}/../x` })),
      of(`the place of ${destination}`, ({ OCI }) => void (OCI.Mounts[at] = { ...mountAt(OCI.Mounts, at), destination: `${destination}-x` })),
      of(
        `the access to ${destination}`,
        ({ OCI }) => void (OCI.Mounts[at] = { ...mountAt(OCI.Mounts, at), options: otherAccess(mountAt(OCI.Mounts, at).options) }),
      ),
      // What the host supplies it may leave out: it could as well be empty.
      ...(source.startsWith(COPIES) && type_ === "bind" ? [] : [of(`no ${destination}`, ({ OCI }) => void OCI.Mounts.splice(at, 1))]),
    ];
  });
  const volumes = storages.flatMap(({ driver, options, mount_point }, at) => {
    if (driver === "blk" || driver === "overlayfs") return [];
    return [
      of(`storage ${at}: its place`, (changed) => void (changed.storages[at] = { ...storageAt(changed.storages, at), mount_point: `${mount_point}x` })),
      of(`storage ${at}: its options`, (changed) => void (changed.storages[at] = { ...storageAt(changed.storages, at), options: [...options, "x"] })),
      of(`no storage ${at}`, (changed) => void changed.storages.splice(at, 1)),
    ];
  });
  return [
    of("another argument", ({ OCI }) => void OCI.Process.Args.push("--debug")),
    ...args,
    of("another variable", ({ OCI }) => void OCI.Process.Env.push("LD_PRELOAD=/evil.so")),
    ...variables,
    of("the user", ({ OCI }) => void OCI.Process.User.UID++),
    of("the group", ({ OCI }) => void OCI.Process.User.GID++),
    of("another group", ({ OCI }) => void OCI.Process.User.AdditionalGids.push(4242)),
    of("one group less", ({ OCI }) => void OCI.Process.User.AdditionalGids.pop()),
    of("the directory", ({ OCI }) => void (OCI.Process.Cwd += "/x")),
    of("the terminal", ({ OCI }) => void (OCI.Process.Terminal = !OCI.Process.Terminal)),
    of("NoNewPrivileges", ({ OCI }) => void (OCI.Process.NoNewPrivileges = !OCI.Process.NoNewPrivileges)),
    of("a capability", ({ OCI }) => void OCI.Process.Capabilities.Effective.push("CAP_PERFMON_X")),
    of("a writable root", ({ OCI }) => void (OCI.Root.Readonly = !OCI.Root.Readonly)),
    of("another sysctl", ({ OCI }) => void (OCI.Linux.Sysctl["kernel.core_pattern"] = "|/evil")),
    of("shared processes", (changed) => void (changed.sandbox_pidns = !changed.sandbox_pidns)),
    ...mounts,
    ...volumes,
  ];
}

/** What a host may try with any container, whatever its manifest says. */
export function commonMutations({ storages, OCI: { Process, Mounts, Annotations } }: MutableRequest): readonly Mutation[] {
  return [
    of("no last argument", ({ OCI }) => void OCI.Process.Args.pop()),
    ...Process.Env.map((variable) => of(`${variable} twice`, ({ OCI }) => void OCI.Process.Env.push(`${variable}!x`))),
    ...(["Bounding", "Effective", "Permitted", "Ambient", "Inheritable"] as const).map((set) =>
      of(`${set} capabilities`, ({ OCI }) => void OCI.Process.Capabilities[set].push("CAP_PERFMON_X")),
    ),
    of("the version", ({ OCI }) => void (OCI.Version += "x")),
    of("the root", ({ OCI }) => void (OCI.Root.Path += "x")),
    of("another mount", ({ OCI }) => void OCI.Mounts.push({ destination: "/evil", type_: "bind", source: "/run/evil", options: ["rbind", "rprivate", "rw"] })),
    ...Mounts.flatMap(({ destination, source }, at) => [
      of(`the options of ${destination}`, ({ OCI }) => void mountAt(OCI.Mounts, at).options.push("exec")),
      of(`the type of ${destination}`, ({ OCI }) => void (OCI.Mounts[at] = { ...mountAt(OCI.Mounts, at), type_: "overlay" })),
      ...(source.startsWith(COPIES) ? [] : [of(`no ${destination}`, ({ OCI }) => void OCI.Mounts.splice(at, 1))]),
    ]),
    ...["a.b/c", "io.kubernetes.cri.sandbox-name", "io.kubernetes.cri.sandbox-namespace"].map((name) =>
      of(`annotation ${name}`, ({ OCI }) => void (OCI.Annotations[name] = `${Annotations[name] ?? ""}!x`)),
    ),
    of("the bundle", ({ OCI }) => void (OCI.Annotations["io.katacontainers.pkg.oci.bundle_path"] += "x")),
    of("a namespace less", ({ OCI }) => void OCI.Linux.Namespaces.pop()),
    of("the host's namespace", ({ OCI }) => void (OCI.Linux.Namespaces = OCI.Linux.Namespaces.map((item) => ({ ...item, Path: "/proc/1/ns/mnt" })))),
    of("a masked path less", ({ OCI }) => void OCI.Linux.MaskedPaths.pop()),
    of("a read-only path less", ({ OCI }) => void OCI.Linux.ReadonlyPaths.pop()),
    of("a device", (changed) => void changed.devices.push({ id: "", type_: "blk", vm_path: "/dev/vdz", container_path: "/dev/x", options: [] })),
    ...storages.map((_storage, at) =>
      of(`storage ${at}: its driver`, (changed) => void (changed.storages[at] = { ...storageAt(changed.storages, at), driver: "bind" })),
    ),
    of("no layer", (changed) => void changed.storages.shift()),
    of("another root hash", (changed) => void (changed.storages[0] = otherHash(storageAt(changed.storages, 0)))),
    of(
      "another storage",
      (changed) => void changed.storages.push({ ...storageAt(changed.storages, 0), driver: "local", fstype: "local", source: "local", options: ["mode=0777"] }),
    ),
  ];
}

function of(what: string, change: Mutation["change"]): Mutation {
  return { what, change };
}

function otherAccess(options: readonly string[]): string[] {
  return options.includes("rw") || options.includes("ro")
    ? options.map((option) => (option === "ro" ? "rw" : option === "rw" ? "ro" : option))
    : [...options, "x"];
}

function mountAt(mounts: MutableRequest["OCI"]["Mounts"], at: number): MutableRequest["OCI"]["Mounts"][number] {
  const mount = mounts[at];
  if (mount === undefined) throw new Error(`no mount ${at}`);
  return mount;
}

function storageAt(storages: MutableRequest["storages"], at: number): MutableRequest["storages"][number] {
  const storage = storages[at];
  if (storage === undefined) throw new Error(`no storage ${at}`);
  return storage;
}

function otherHash(storage: MutableRequest["storages"][number]): MutableRequest["storages"][number] {
  return { ...storage, options: storage.options.map((option) => option.replace(/root-hash=.{4}/, "root-hash=dead")) };
}

/** Which services a namespace has, and whether a webhook runs, is the cluster's to say: such variables may be there or not. */
function isClustersOwn(variable: string): boolean {
  return /^(?:KUBERNETES_|AZURE_)/.test(variable);
}

/** The request with one thing changed, as the policy of the AKS generation sees it. */
export function mutated(input: JsonValue, { change }: Mutation): JsonValue {
  const request = structuredClone((input as JsonObject)["base"]) as unknown as MutableRequest;
  change(request);
  const variables = request.OCI.Process.Env.map((variable) => [variable.slice(0, variable.indexOf("=")), variable.slice(variable.indexOf("=") + 1)] as const);
  return { base: request as unknown as JsonObject, env_map: Object.fromEntries(variables) };
}

/**
 * The request as upstream's runtime would make it, which is not emulated here: other places of the root, another version, not wrapped.
 * What differs in volumes and the rest of the life of a pod stays untested.
 */
export function asUpstream({ rule, input }: PolicyRequest, version: string): PolicyRequest {
  const request = structuredClone((input as JsonObject)["base"]) as unknown as MutableRequest & { container_id: string };
  const root = `/run/kata-containers/${request.container_id}/rootfs`;
  request.OCI.Version = version;
  request.storages = request.storages.map((storage) => (storage.mount_point === request.OCI.Root.Path ? { ...storage, mount_point: root } : storage));
  request.OCI.Root.Path = root;
  return { rule, input: request as unknown as JsonObject };
}
