import { readFileSync } from "node:fs";
import { encodeUtf8, type JsonObject, sha256, toBase64, toHex } from "@sealpod/core";
import { DATA_DIRECTORY, generatePolicy, type PolicyContainer, type PolicyData } from "@sealpod/genpolicy";
import type { Image, ImageSource, Layer } from "@sealpod/oci";
import { serviceVariables } from "./pods.ts";

/** The policy that sealpod itself generates, with its own rules, for a pod of ten containers; and the request for the last one. */

const CONTAINERS = 10;
const LAYERS_OF_AN_IMAGE = 2;
const SANDBOX_ID = "5a".repeat(32);
const CONTAINER_ID = "c0".repeat(32);

/** A policy as text with the request and the state that belong to it. */
export async function ownPolicy(): Promise<{ readonly text: string; readonly request: JsonObject; readonly state: JsonObject }> {
  const read = (name: string): string => readFileSync(new URL(name, DATA_DIRECTORY), "utf8");
  const { policies } = await generatePolicy({
    manifest: { name: "pod.yaml", text: manifest() },
    settings: read("genpolicy-settings.json"),
    rules: read("rules.rego"),
    images: images(),
  });
  const text = policies[0]?.policy;
  if (text === undefined) throw new Error("genpolicy made no policy");
  const marker = "\npolicy_data := ";
  const data = JSON.parse(text.slice(text.lastIndexOf(marker) + marker.length)) as PolicyData;
  const sandbox = { name: "web", namespace: "default", id: SANDBOX_ID };
  return { text, request: requestFor(data, data.containers.length - 1), state: { pstate: { sandbox, containers: { [SANDBOX_ID]: 0 } } } };
}

function manifest(): string {
  const lines = ["apiVersion: v1", "kind: Pod", "metadata:", "  name: web", "spec:", "  containers:"];
  for (let index = 0; index < CONTAINERS; index++) {
    lines.push(`    - name: container-${index}`, `      image: app-${index}:1`, "      env:");
    for (const name of ["LISTEN", "REGION", "STAGE", "CACHE"]) lines.push(`        - { name: ${name}, value: "${name.toLowerCase()}-${index}" }`);
    for (const [name, path] of [
      ["POD_NAME", "metadata.name"],
      ["POD_IP", "status.podIP"],
      ["NODE_NAME", "spec.nodeName"],
    ]) {
      lines.push(`        - { name: ${name}, valueFrom: { fieldRef: { fieldPath: ${path} } } }`);
    }
    lines.push(
      "      volumeMounts:",
      "        - { name: settings, mountPath: /srv/settings, readOnly: true }",
      "        - { name: cache, mountPath: /var/cache }",
    );
  }
  lines.push("  volumes:", "    - { name: settings, configMap: { name: settings } }", "    - { name: cache, emptyDir: {} }");
  return `${lines.join("\n")}\n`;
}

/** Images whose layers are empty tars of different lengths. */
function images(): ImageSource {
  const tars = new Map<string, Uint8Array>();
  return {
    resolve(reference): Promise<Image> {
      const number = Number(/[0-9]+/.exec(reference)?.[0] ?? "0");
      const layers = Array.from({ length: LAYERS_OF_AN_IMAGE }, (_, index): Layer => {
        const tar = new Uint8Array(1024 + 512 * (number * LAYERS_OF_AN_IMAGE + index));
        const digest = `sha256:${toHex(sha256(tar))}`;
        tars.set(digest, tar);
        return { digest, size: tar.length, mediaType: "application/vnd.oci.image.layer.v1.tar", diffId: digest };
      });
      const config = {
        user: "",
        env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        entrypoint: ["/usr/bin/serve"],
        cmd: [],
        workingDir: "",
        tty: false,
        volumes: [],
        diffIds: layers.map(({ diffId }) => diffId),
        architecture: "amd64",
        os: "linux",
      };
      return Promise.resolve({ reference, manifestDigest: "sha256:0", configDigest: "sha256:0", config, layers });
    },
    async *layerTar({ diffId }) {
      await Promise.resolve();
      yield tars.get(diffId) ?? new Uint8Array();
    },
  };
}

const LIVE: readonly (readonly [string, string])[] = [
  ["$(host-name)", "web"],
  ["$(sandbox-name)", "web"],
  ["$(node-name)", "node-7"],
  ["$(pod-ip)", "10.244.1.9"],
];

function requestFor(data: PolicyData, index: number): JsonObject {
  const container = data.containers[index];
  if (container === undefined) throw new Error(`no container ${index}`);
  const { OCI } = container;
  const annotations = OCI.Annotations as unknown as Readonly<Record<string, string>>;
  const capabilities = (names: readonly string[]): readonly string[] =>
    names.flatMap((name) => (name === "$(default_caps)" ? data.common.default_caps : [name]));
  const live = (text: string): string => LIVE.reduce((value, [placeholder, found]) => value.replaceAll(placeholder, found), text);
  const { Capabilities, User, Args, Env, Cwd } = OCI.Process;
  return {
    container_id: CONTAINER_ID,
    exec_id: CONTAINER_ID,
    string_user: null,
    devices: [],
    storages: requestStorages(container, data),
    OCI: {
      Version: OCI.Version,
      Process: {
        Terminal: OCI.Process.Terminal,
        ConsoleSize: null,
        User: { ...User },
        Args: [...(Args ?? [])],
        Env: [...(Env ?? []).map(live), ...serviceVariables()],
        Cwd: Cwd ?? "",
        Capabilities: {
          Bounding: capabilities(Capabilities.Bounding),
          Effective: capabilities(Capabilities.Effective),
          Inheritable: [],
          Permitted: capabilities(Capabilities.Permitted),
          Ambient: [],
        },
        Rlimits: [],
        NoNewPrivileges: OCI.Process.NoNewPrivileges,
        ApparmorProfile: "",
        OOMScoreAdj: 1000,
        SelinuxLabel: "",
      },
      Root: { Path: livePath(OCI.Root.Path, data), Readonly: OCI.Root.Readonly },
      Hostname: "",
      Mounts: OCI.Mounts.map(({ destination, source, type_, options }) => ({ destination, source: livePath(source, data), type_, options })),
      Hooks: null,
      Annotations: {
        "io.katacontainers.pkg.oci.bundle_path": `/run/containerd/io.containerd.runtime.v2.task/k8s.io/${CONTAINER_ID}`,
        "io.katacontainers.pkg.oci.container_type": "pod_container",
        "io.kubernetes.cri.container-name": annotations["io.kubernetes.cri.container-name"] ?? "",
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.image-name": annotations["io.kubernetes.cri.image-name"] ?? "",
        "io.kubernetes.cri.sandbox-id": SANDBOX_ID,
        "io.kubernetes.cri.sandbox-name": "web",
        "io.kubernetes.cri.sandbox-namespace": "default",
        "io.kubernetes.cri.sandbox-uid": "01234567-89ab-cdef-0123-456789abcdef",
      },
      Linux: {
        UIDMappings: [],
        GIDMappings: [],
        Sysctl: {},
        Resources: { Devices: [], Memory: { Limit: 536870912 }, CPU: null, Pids: null, BlockIO: null, HugepageLimits: [], Network: null },
        CgroupsPath: "/kubepods/burstable/pod01234567",
        Namespaces: OCI.Linux.Namespaces.map((namespace) => ({ ...namespace })),
        Devices: [],
        Seccomp: null,
        RootfsPropagation: "",
        MaskedPaths: OCI.Linux.MaskedPaths,
        ReadonlyPaths: OCI.Linux.ReadonlyPaths,
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
}

/** A path that a pattern of the policy matches. */
function livePath(pattern: string, data: PolicyData): string {
  return pattern
    .replace("$(sfprefix)", data.common.sfprefix)
    .replaceAll("$(cpath)", data.common.cpath)
    .replaceAll("$(bundle-id)", CONTAINER_ID)
    .replaceAll("$(sandbox-id)", SANDBOX_ID)
    .replace("[a-z0-9]{16}", "0123456789abcdef")
    .replace(/^\^/, "")
    .replace(/\$$/, "");
}

function requestStorages(container: PolicyContainer, data: PolicyData): readonly JsonObject[] {
  const overlay = container.storages.find(({ driver }) => driver === "overlayfs");
  const [ids = [], hashes = []] = (overlay?.options ?? []).map((option) => option.split(":"));
  const verity = (index: number): readonly string[] => [
    "ro",
    "io.katacontainers.fs-opt.block_device=file",
    "io.katacontainers.fs-opt.is-layer",
    `io.katacontainers.fs-opt.root-hash=${hashes[index]}`,
  ];
  return container.storages.map(({ driver, fstype, source, options, mount_point }, index): JsonObject => {
    const common = { driver, driver_options: [], fstype, fs_group: null, shared: false };
    // The layers come first, in the order of their ids.
    if (driver === "blk")
      return { ...common, source: `0${index + 2}`, options: verity(index), mount_point: `/run/kata-containers/sandbox/layers/${ids[index]}` };
    if (driver === "overlayfs") {
      const layers = ids.map((id, layer) => `io.katacontainers.fs-opt.layer=${toBase64(encodeUtf8([id, "tar", ...verity(layer)].join(",")))}`);
      const prefix = "io.katacontainers.fs-opt.layer-src-prefix=/var/lib/containerd/io.containerd.snapshotter.v1.tardev/layers";
      const all = [prefix, ...layers, "io.katacontainers.fs-opt.overlay-rw", `lowerdir=${ids.join(":")}`];
      return { ...common, source: "none", options: all, mount_point: livePath(container.OCI.Root.Path, data) };
    }
    return { ...common, source: livePath(source, data), options, mount_point: livePath(mount_point, data) };
  });
}
