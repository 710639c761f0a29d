import type { JsonObject, JsonValue } from "@sealpod/core";
import { formatPosition } from "@sealpod/kube";
import { chainIds, type Image, type ImageConfig, type ImageSource, type Layer, layerId, OciError } from "@sealpod/oci";
import { compile, type Policy } from "@sealpod/rego";
import { GenpolicyError } from "./errors.ts";
import { generatePolicy, type GeneratedPolicy, type GenerateInput } from "./generate.ts";
import type { ImageMeasurer, LayerFormat, MeasuredImage } from "./images.ts";
import type { PolicyContainer, PolicyData } from "./policy-data.ts";
import { readOwnRules, readOwnSettings } from "./own-files.ts";
import { AKS_PROFILE, COCO_PROFILE, type Profile } from "./profile.ts";
import { parseSettings } from "./settings.ts";

/** Helpers of this package's tests: images in memory, and requests as an honest host makes them. */

export const RULES: string = await readOwnRules();
export const SETTINGS: string = await readOwnSettings(AKS_PROFILE);
export const COCO_SETTINGS: string = await readOwnSettings(COCO_PROFILE);

/** The smallest tar that GNU tar writes, and the one of Docker's empty layer: both occur in real AKS policies (specs/genpolicy.md 5.7). */
const TARS: Readonly<Record<string, number>> = {
  "sha256:84ff92691f909a05b224e1c56abb4864f01b4f8e3c854e4bb4c7baf1d3f6d652": 10240,
  "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef": 1024,
};
const MANIFEST_DIGEST = `sha256:${"d1".repeat(32)}`;
export const DIFF_IDS: readonly string[] = Object.keys(TARS);
export const ROOT_HASHES: readonly string[] = [
  "8568c70c0ccfe0051092e818da769111a59882cd19dd799d3bca5ffa82791080",
  "67450082ab56da1aecc5eae2f18d980cd9e7306e79334a1a826a91cfd90114a8",
];

const PLAIN_CONFIG: ImageConfig = {
  user: "",
  env: [],
  entrypoint: [],
  cmd: [],
  workingDir: "",
  tty: false,
  volumes: [],
  diffIds: DIFF_IDS,
  architecture: "amd64",
  os: "linux",
};

/** Images by reference; the pause image is always there. */
export function memoryImages(images: Readonly<Record<string, Partial<ImageConfig>>>): ImageSource & { readonly reads: string[] } {
  const reads: string[] = [];
  const all: Readonly<Record<string, Partial<ImageConfig>>> = {
    "sealpod.internal/pause:1": { user: "65535:65535", entrypoint: ["/pause"], env: ["PATH=/bin"], diffIds: DIFF_IDS.slice(0, 1) },
    ...images,
  };
  return {
    reads,
    resolve(reference) {
      const found = all[reference];
      if (found === undefined) return Promise.reject(new OciError("ERR_OCI_NOT_FOUND", `no image ${reference}`));
      const config = { ...PLAIN_CONFIG, ...found };
      const layers = config.diffIds.map((diffId): Layer => ({
        digest: diffId,
        size: TARS[diffId] ?? 0,
        mediaType: "application/vnd.oci.image.layer.v1.tar",
        diffId,
      }));
      const image: Image = { reference, manifestDigest: MANIFEST_DIGEST, configDigest: MANIFEST_DIGEST, config, layers };
      return Promise.resolve(image);
    },
    layerBlob(layer) {
      return this.layerTar(layer);
    },
    async *layerTar(layer) {
      reads.push(layer.diffId);
      await Promise.resolve();
      yield new Uint8Array(TARS[layer.diffId] ?? 0);
    },
  };
}

/** Files of an image that name users. */
export type UserFiles = Partial<Pick<MeasuredImage, "passwd" | "group" | "linkedUserFiles">>;

/** A measurer of images in memory. Root hashes are looked up, so that nothing is hashed. */
export function memoryMeasurer(
  images: Readonly<Record<string, Partial<ImageConfig> & UserFiles>>,
  format: LayerFormat = "tarfs",
): Pick<ImageMeasurer, "measure"> {
  const source = memoryImages(images);
  return {
    async measure(reference, position) {
      const image = await source.resolve(reference).catch((cause: unknown) => {
        const where = position === undefined ? "cluster_config.pause_container_image" : formatPosition(position);
        const message = `${where}: image ${JSON.stringify(reference)}: no image ${reference}`;
        throw new GenpolicyError("ERR_GENPOLICY_IMAGE", message, { cause, details: { image: reference } });
      });
      const { passwd = "", group = "", linkedUserFiles = [] } = images[reference] ?? {};
      const { manifestDigest, config } = image;
      const ids = chainIds(image.layers.map(({ diffId }) => diffId)).map((chainId) => layerId(chainId));
      const layers = ids.map((id, index) => ({ id, rootHash: ROOT_HASHES[DIFF_IDS.indexOf(config.diffIds[index] ?? "")] ?? "" })).reverse();
      return { reference, manifestDigest, config, layers: format === "none" ? [] : layers, passwd, group, linkedUserFiles };
    },
  };
}

/** What {@link policiesOf} can do otherwise than our own aks settings and rules say. */
export type PolicyOptions = Partial<Omit<GenerateInput, "manifest">>;

/** Policies of a YAML text with our own rules and settings, unless `more` says otherwise. */
export async function policiesOf(
  text: string,
  images: Readonly<Record<string, Partial<ImageConfig> & UserFiles>> = { "app:1": {} },
  more: PolicyOptions = {},
): Promise<readonly GeneratedPolicy[]> {
  return (await generated(text, images, more)).policies;
}

/** As {@link policiesOf}, with the YAML and the warnings. */
export function generated(
  text: string,
  images: Readonly<Record<string, Partial<ImageConfig> & UserFiles>> = { "app:1": {} },
  more: PolicyOptions = {},
): ReturnType<typeof generatePolicy> {
  const profile: Profile = more.profile ?? AKS_PROFILE;
  const own = profile.name === "aks" ? SETTINGS : COCO_SETTINGS;
  const given = more.settings ?? own;
  const settings = typeof given === "string" ? parseSettings(given, "genpolicy-settings.json", profile) : given;
  const measurer = memoryMeasurer(images, settings.layerFormat);
  return generatePolicy({ manifest: { name: "app.yaml", text }, rules: RULES, measurer, ...more, settings });
}

/** The data behind `policy_data := `. */
export function dataOf(policy: GeneratedPolicy | undefined): PolicyData {
  if (policy === undefined) throw new Error("no policy");
  return JSON.parse(policy.policy.slice(policy.policy.lastIndexOf("\npolicy_data := ") + "\npolicy_data := ".length)) as PolicyData;
}

/** A policy as the agent loads it. */
export function compilePolicy(text: string): Policy {
  return compile([{ name: "agent_policy", text }], { version: "v1" });
}

/** An agent's view of a policy: evaluates requests and keeps the state that they change. */
export class Guest {
  readonly #policy: Policy;

  /** @param policy text, or a compiled policy that no other guest uses any more */
  constructor(policy: string | Policy) {
    this.#policy = typeof policy === "string" ? compilePolicy(policy) : policy;
    this.#policy.setData({ pstate: {} });
  }

  /** Undefined if allowed, else the reasons as the agent would send them. */
  refusal(name: string, input: JsonValue): string | undefined {
    const { results, prints } = this.#policy.evaluate(`data.agent_policy.${name}`, { input });
    const value = results[0]?.expressions[0] as JsonValue | undefined;
    if (value === true) return undefined;
    const verdict = value as { allowed?: boolean; ops?: Parameters<Policy["patchData"]>[0] } | false | undefined | null;
    if (verdict === undefined || verdict === null || verdict === false || verdict.allowed !== true)
      return prints.map((line) => line.replace(/^[^ ]*:\d+: /, "")).join("\n");
    this.#policy.patchData(verdict.ops ?? []);
    return undefined;
  }

  allowFailures(): boolean {
    return this.#policy.evaluate("data.agent_policy.AllowRequestsFailingPolicy", { input: {} }).results[0]?.expressions[0] === true;
  }
}

/** Ids of a test sandbox. */
export const SANDBOX_ID: string = "5a".repeat(32);
export const CONTAINER_ID: string = "c0".repeat(32);

const LIVE_VALUES: ReadonlyMap<string, string> = new Map([
  ["node-name", "node-7.example"],
  ["pod-uid", "01234567-89ab-cdef-0123-456789abcdef"],
  ["pod-ip", "10.1.2.3"],
  ["pod-ips", "10.1.2.3,fd00::3"],
  ["host-ip", "10.0.0.1"],
  ["host-ips", "10.0.0.1"],
  ["resource-field", "536870912"],
  ["todo-annotation", "anything"],
  ["job-index", "0"],
  ["label", "6d4cf56db6"],
]);

/** What a request needs to know that is not in a policy. */
export interface LiveOptions {
  /** The pod's name. */
  readonly name?: string;
  /** Values of variables that the policy has as hashes. */
  readonly secrets?: Readonly<Record<string, string>>;
}

function live(text: string, { name = "web", secrets = {} }: LiveOptions, namespace: string): string {
  return text.replaceAll(/\$\$|\$\(([^)]*)\)/g, (found: string, placeholder?: string) => {
    if (placeholder === undefined) return "$";
    if (placeholder.startsWith("sha256:")) return secrets[text.slice(0, text.indexOf("="))] ?? found;
    if (placeholder === "sandbox-name" || placeholder === "host-name") return name;
    if (placeholder === "sandbox-namespace") return namespace;
    return LIVE_VALUES.get(placeholder) ?? found;
  });
}

/** The CreateContainer request that an honest host makes for a policy container, unwrapped. */
export function requestOf(data: PolicyData, index: number, options: LiveOptions = {}): JsonObject {
  const container = data.containers[index];
  if (container === undefined) throw new Error(`no container ${index}`);
  const annotations = container.OCI.Annotations as unknown as Readonly<Record<string, string>>;
  const name = options.name ?? "web";
  const namespace = annotations["io.kubernetes.cri.sandbox-namespace"] || "default";
  const pause = annotations["io.kubernetes.cri.container-type"] === "sandbox";
  const id = pause ? SANDBOX_ID : CONTAINER_ID.slice(0, 62) + index.toString(16).padStart(2, "0");
  const caps = (list: readonly string[]): readonly string[] =>
    list.flatMap((cap) => (cap === "$(default_caps)" ? data.common.default_caps : cap === "$(privileged_caps)" ? data.common.privileged_caps : cap));
  const process = container.OCI.Process;
  const path = (pattern: string): string => livePath(pattern, data, id);
  const storages = liveStorages(container, data, id);
  // Volumes on disks of their own are mounted from where their storages are.
  const disks = storages
    .filter((_, at) => container.storages[at]?.mount_point.includes("$(b64_device_id)") === true)
    .map(({ mount_point }) => mount_point ?? "");
  const input = {
    container_id: id,
    exec_id: id,
    string_user: null,
    devices: (container.devices ?? []).filter(({ type_ }) => type_ === ""),
    storages,
    OCI: {
      Version: container.OCI.Version,
      Process: {
        Terminal: process.Terminal,
        ConsoleSize: null,
        User: { UID: process.User.UID, GID: process.User.GID, AdditionalGids: process.User.AdditionalGids, Username: "" },
        Args: (process.Args ?? []).map((arg) => live(arg, options, namespace)),
        Env: (process.Env ?? []).map((variable) => live(variable, options, namespace)),
        Cwd: process.Cwd ?? "",
        Capabilities: {
          Bounding: caps(process.Capabilities.Bounding),
          Effective: caps(process.Capabilities.Effective),
          Inheritable: [],
          Permitted: caps(process.Capabilities.Permitted),
          Ambient: [],
        },
        Rlimits: [],
        NoNewPrivileges: process.NoNewPrivileges,
        ApparmorProfile: "",
        OOMScoreAdj: 1000,
        SelinuxLabel: "",
      },
      Root: { Path: path(container.OCI.Root.Path), Readonly: container.OCI.Root.Readonly },
      Hostname: "",
      Mounts: container.OCI.Mounts.map(({ destination, source, type_, options }) => ({
        destination,
        source: source === "" ? disks.shift() : path(source),
        type_,
        options,
      })),
      Hooks: null,
      Annotations: {
        "io.katacontainers.pkg.oci.bundle_path": `/run/containerd/io.containerd.runtime.v2.task/k8s.io/${id}`,
        "io.katacontainers.pkg.oci.container_type": pause ? "pod_sandbox" : "pod_container",
        "io.kubernetes.cri.container-type": pause ? "sandbox" : "container",
        "io.kubernetes.cri.sandbox-id": SANDBOX_ID,
        "io.kubernetes.cri.sandbox-name": name,
        "io.kubernetes.cri.sandbox-namespace": namespace,
        "io.kubernetes.cri.sandbox-uid": "01234567-89ab-cdef-0123-456789abcdef",
        ...(pause
          ? {
              "nerdctl/network-namespace": "/var/run/netns/cni-01234567-89ab-cdef-0123-456789abcdef",
              "io.kubernetes.cri.sandbox-log-directory": `/var/log/pods/${namespace}_${name}_01234567-89ab-cdef-0123-456789abcdef`,
            }
          : {
              "io.kubernetes.cri.container-name": annotations["io.kubernetes.cri.container-name"] ?? "",
              "io.kubernetes.cri.image-name": "docker.io/library/spelled-otherwise:1",
            }),
      },
      Linux: {
        UIDMappings: [],
        GIDMappings: [],
        Sysctl: {},
        Resources: { Devices: [], Memory: { Limit: 536870912 }, CPU: null, Pids: null, BlockIO: null, HugepageLimits: [], Network: null },
        CgroupsPath: "/kubepods/x",
        Namespaces: container.OCI.Linux.Namespaces,
        Devices: (container.OCI.Linux.Devices ?? []).map(({ Path }) => ({ Path, Type: "b", Major: 8, Minor: 0, FileMode: 432, UID: 0, GID: 0 })),
        Seccomp: null,
        RootfsPropagation: "",
        MaskedPaths: container.OCI.Linux.MaskedPaths,
        ReadonlyPaths: container.OCI.Linux.ReadonlyPaths,
        MountLabel: "",
        IntelRdt: null,
      },
      Solaris: null,
      Windows: null,
    },
    sandbox_pidns: container.sandbox_pidns,
    shared_mounts: [],
    stdin_port: 0,
    stdout_port: 0,
    stderr_port: 0,
  };
  return structuredClone(input) as unknown as JsonObject;
}

/** As the agent passes it: with a map of the environment. */
export function wrapped(request: JsonObject): JsonObject {
  const { Env } = (request as unknown as { OCI?: { Process?: { Env?: unknown } | null } | null }).OCI?.Process ?? {};
  const variables = Array.isArray(Env) ? Env.filter((variable: unknown): variable is string => typeof variable === "string") : [];
  const pairs = variables.map((variable) => [variable.slice(0, variable.indexOf("=")), variable.slice(variable.indexOf("=") + 1)] as const);
  return { base: request, env_map: Object.fromEntries(pairs) };
}

/** With padding, as the agent names directories. */
function base64url(text: string): string {
  return Buffer.from(text).toString("base64").replaceAll("+", "-").replaceAll("/", "_");
}

function livePath(pattern: string, data: PolicyData, id: string): string {
  return pattern
    .replace("$(sfprefix)", data.common.sfprefix)
    .replace("$(root_path)", data.common.root_path ?? "")
    .replaceAll("$(cpath)", data.common.cpath)
    .replaceAll("$(bundle-id)", id)
    .replaceAll("$(sandbox-id)", SANDBOX_ID)
    .replaceAll(/\((?:\?:)?[a-z/]+\)\?/g, "")
    .replace(/\[a-z0-9\]\{16\}|\[0-9a-f\]\{16\}/, "0123456789abcdef")
    .replaceAll(/\\(.)/g, "$1")
    .replace(/^\^/, "")
    .replace(/\$$/, "");
}

function liveStorages(container: PolicyContainer, data: PolicyData, id: string): readonly JsonObject[] {
  const overlay = container.storages.find(({ driver }) => driver === "overlayfs");
  const ids = overlay?.options[0]?.split(":") ?? [];
  const hashes = overlay?.options[1]?.split(":") ?? [];
  const fstype = container.storages.find(({ driver }) => driver === "blk")?.fstype ?? "";
  const layerOptions = (index: number): readonly string[] => [
    "ro",
    "io.katacontainers.fs-opt.block_device=file",
    "io.katacontainers.fs-opt.is-layer",
    `io.katacontainers.fs-opt.root-hash=${hashes[index]}`,
  ];
  let layer = 0;
  let disk = 0;
  return container.storages.map((storage): JsonObject => {
    const common = { driver: storage.driver, driver_options: [], fstype: storage.fstype, fs_group: null, shared: false };
    if (storage.driver === "blk") {
      const index = layer++;
      const source = (index + 2).toString(16).padStart(2, "0");
      return { ...common, source, options: layerOptions(index), mount_point: `/run/kata-containers/sandbox/layers/${ids[index]}` };
    }
    if (storage.driver === "overlayfs") {
      const options = [
        "io.katacontainers.fs-opt.layer-src-prefix=/var/lib/containerd/io.containerd.snapshotter.v1.tardev/layers",
        ...ids.map((name, index) => `io.katacontainers.fs-opt.layer=${Buffer.from([name, fstype, ...layerOptions(index)].join(",")).toString("base64")}`),
        "io.katacontainers.fs-opt.overlay-rw",
        `lowerdir=${ids.join(":")}`,
      ];
      return { ...common, source: "none", options, mount_point: livePath(container.OCI.Root.Path, data, id) };
    }
    const more = { driver_options: storage.driver_options, fs_group: storage.fs_group, options: storage.options, shared: storage.shared ?? false };
    if (storage.mount_point.includes("$(b64_device_id)")) {
      const source = (16 + disk++).toString(16);
      const point = storage.mount_point.replace("$(spath)", data.common.spath ?? "").replace("$(b64_device_id)", base64url(source));
      return { ...common, ...more, driver: "blk", source, mount_point: point };
    }
    return { ...common, ...more, source: livePath(storage.source, data, id), mount_point: livePath(storage.mount_point, data, id) };
  });
}
