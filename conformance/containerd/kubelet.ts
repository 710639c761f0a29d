import { randomUUID } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { chmod, mkdir, rename, rm, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { criApi } from "@sealpod/proto";
import type { MessageInitShape } from "@sealpod/proto";
import { parseAllDocuments } from "yaml";
import type { Forwarded } from "./streaming.ts";
import { openForward, RemoteStreams } from "./streaming.ts";
import type { ContainerdWorld } from "./test-support.ts";
import { until } from "./until.ts";

const METHODS = criApi.RuntimeService.method;

/** What a container may see of the kernel unless its pod says otherwise (`procMount: Default`). */
const MASKED = "acpi asound kcore keys latency_stats timer_list timer_stats sched_debug scsi".split(" ").map((name) => `/proc/${name}`);
const READONLY = "bus fs irq sys sysrq-trigger".split(" ").map((name) => `/proc/${name}`);

/** Every pod is told of the API's own service. */
const SERVICE_HOST = "10.96.0.1";
const SERVICES: Readonly<Record<string, string>> = {
  KUBERNETES_SERVICE_HOST: SERVICE_HOST,
  KUBERNETES_SERVICE_PORT: "443",
  KUBERNETES_SERVICE_PORT_HTTPS: "443",
  KUBERNETES_PORT: `tcp://${SERVICE_HOST}:443`,
  KUBERNETES_PORT_443_TCP: `tcp://${SERVICE_HOST}:443`,
  KUBERNETES_PORT_443_TCP_PROTO: "tcp",
  KUBERNETES_PORT_443_TCP_PORT: "443",
  KUBERNETES_PORT_443_TCP_ADDR: SERVICE_HOST,
};

interface KeyRef {
  readonly name: string;
  readonly key: string;
}

interface EnvVar {
  readonly name: string;
  readonly value?: string;
  readonly valueFrom?: { readonly fieldRef?: { readonly fieldPath: string }; readonly configMapKeyRef?: KeyRef; readonly secretKeyRef?: KeyRef };
}

interface SecurityContext {
  readonly runAsUser?: number;
  readonly runAsGroup?: number;
  readonly fsGroup?: number;
  readonly supplementalGroups?: readonly number[];
  readonly privileged?: boolean;
  readonly readOnlyRootFilesystem?: boolean;
  readonly allowPrivilegeEscalation?: boolean;
  readonly capabilities?: { readonly add?: readonly string[]; readonly drop?: readonly string[] };
  readonly seccompProfile?: { readonly type: string };
}

interface ContainerSpec {
  readonly name: string;
  readonly image: string;
  readonly command?: readonly string[];
  readonly args?: readonly string[];
  readonly workingDir?: string;
  readonly env?: readonly EnvVar[];
  readonly envFrom?: readonly { readonly prefix?: string; readonly configMapRef?: { readonly name: string }; readonly secretRef?: { readonly name: string } }[];
  readonly volumeMounts?: readonly { readonly name: string; readonly mountPath: string; readonly readOnly?: boolean; readonly subPath?: string }[];
  readonly resources?: { readonly limits?: Readonly<Record<string, string | number>>; readonly requests?: Readonly<Record<string, string | number>> };
  readonly securityContext?: SecurityContext;
  readonly terminationMessagePath?: string;
  readonly restartPolicy?: string;
  readonly stdin?: boolean;
  readonly stdinOnce?: boolean;
  readonly tty?: boolean;
}

interface Volume {
  readonly name: string;
  readonly emptyDir?: { readonly medium?: string } | null;
  readonly configMap?: { readonly name: string };
  readonly secret?: { readonly secretName: string };
  readonly hostPath?: { readonly path: string };
}

interface PodSpec {
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly uid?: string;
    readonly labels?: Record<string, string>;
    readonly annotations?: Record<string, string>;
  };
  readonly spec: {
    readonly runtimeClassName?: string;
    readonly hostname?: string;
    readonly hostNetwork?: boolean;
    readonly shareProcessNamespace?: boolean;
    readonly automountServiceAccountToken?: boolean;
    readonly securityContext?: SecurityContext & { readonly sysctls?: readonly { readonly name: string; readonly value: string }[] };
    readonly terminationGracePeriodSeconds?: number;
    readonly volumes?: readonly Volume[];
    readonly initContainers?: readonly ContainerSpec[];
    readonly containers: readonly ContainerSpec[];
  };
}

interface Documents {
  readonly pod: PodSpec;
  /** Files of ConfigMaps and Secrets, by kind and name. */
  readonly data: ReadonlyMap<string, ReadonlyMap<string, Buffer>>;
}

/** Options of {@link runPod}. */
export interface PodOptions {
  /** RuntimeClass handler in the place of the pod's `runtimeClassName`. */
  readonly handler?: string;
  /** More annotations. */
  readonly annotations?: Readonly<Record<string, string>>;
  /** Which containers to start at once; all if absent. */
  readonly start?: readonly string[];
}

/** What an exec gave. */
export interface ExecResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** A line of a container's log. */
export interface LogLine {
  readonly stream: string;
  readonly text: string;
}

/**
 * Does with a pod what kubelet does: sandbox, volumes, init containers, containers, each as kubelet words it to CRI. Resolves when all of them are started;
 * a pod that does not come up is removed before the error is thrown.
 * @param yaml a Pod, or what has a pod template, and the ConfigMaps and Secrets that it names
 */
export async function runPod(world: ContainerdWorld, yaml: string, options: PodOptions = {}): Promise<KubePod> {
  const pod = new KubePod(world, parseDocuments(yaml), options);
  try {
    await pod.start(options.start);
    return pod;
  } catch (error) {
    await pod.remove();
    throw error;
  }
}

/** A pod on the node of a world. */
export class KubePod implements AsyncDisposable {
  readonly uid: string;
  readonly name: string;
  readonly podNamespace: string;
  /** Container ids by name. */
  readonly containers: Map<string, string> = new Map();
  /** Id of the sandbox. */
  id = "";
  /** First address. */
  ip = "";
  readonly #world: ContainerdWorld;
  readonly #documents: Documents;
  readonly #handler: string;
  readonly #sandboxConfig: MessageInitShape<typeof criApi.PodSandboxConfigSchema>;
  /** Of the node, e.g. `/var/lib/kubelet/pods/UID`. */
  readonly #directory: string;
  readonly #mounted: string[] = [];
  readonly #revisions = new Map<string, number>();

  constructor(world: ContainerdWorld, documents: Documents, options: PodOptions) {
    this.#world = world;
    this.#documents = documents;
    const { metadata, spec } = documents.pod;
    this.uid = metadata.uid ?? randomUUID();
    this.name = metadata.name;
    this.podNamespace = metadata.namespace ?? "default";
    this.#handler = options.handler ?? spec.runtimeClassName ?? "runc";
    this.#directory = `/var/lib/kubelet/pods/${this.uid}`;
    const security = spec.securityContext ?? {};
    this.#sandboxConfig = {
      metadata: { name: this.name, uid: this.uid, namespace: this.podNamespace, attempt: 0 },
      hostname: spec.hostNetwork === true ? "" : (spec.hostname ?? this.name).slice(0, 63),
      logDirectory: `/var/log/pods/${this.podNamespace}_${this.name}_${this.uid}`,
      dnsConfig: {
        servers: ["10.96.0.10"],
        searches: [`${this.podNamespace}.svc.cluster.local`, "svc.cluster.local", "cluster.local"],
        options: ["ndots:5"],
      },
      labels: { ...metadata.labels, ...this.#labels() },
      annotations: {
        "kubernetes.io/config.seen": "2026-01-01T00:00:00.000000000Z",
        "kubernetes.io/config.source": "api",
        ...metadata.annotations,
        ...options.annotations,
      },
      linux: {
        cgroupParent: `${world.cgroup}/pod${this.uid}`,
        securityContext: {
          namespaceOptions: this.#namespaces(),
          privileged: spec.containers.some((container) => container.securityContext?.privileged === true),
          seccomp: { profileType: criApi.SecurityProfile_ProfileType.RuntimeDefault },
          ...(security.runAsUser === undefined ? {} : { runAsUser: { value: BigInt(security.runAsUser) } }),
          ...(security.runAsGroup === undefined ? {} : { runAsGroup: { value: BigInt(security.runAsGroup) } }),
          supplementalGroups: supplementalGroups(security),
        },
        sysctls: Object.fromEntries((security.sysctls ?? []).map(({ name, value }) => [name, value])),
        ...sandboxResources(spec.containers),
      },
    };
  }

  /** Creates and starts everything; with `only`, of the containers those alone. */
  async start(only?: readonly string[]): Promise<void> {
    const { spec } = this.#documents.pod;
    await mkdir(this.#host(this.#sandboxConfig.logDirectory ?? ""), { recursive: true });
    await this.#world.makeCgroup(`pod${this.uid}`);
    for (const volume of this.#volumes()) await this.#makeVolume(volume);
    const { podSandboxId } = await this.#world.cri(METHODS.runPodSandbox, { config: this.#sandboxConfig, runtimeHandler: this.#handler });
    this.id = podSandboxId;
    const { status } = await this.#world.cri(METHODS.podSandboxStatus, { podSandboxId });
    this.ip = status?.network?.ip ?? "";
    for (const container of spec.initContainers ?? []) {
      const id = await this.startContainer(container.name);
      if (container.restartPolicy === "Always") continue;
      const exitCode = await this.exited(container.name);
      if (exitCode !== 0) throw new Error(`init container ${container.name} (${id}) ended with ${exitCode}`);
    }
    for (const { name } of spec.containers) if (only === undefined || only.includes(name)) await this.startContainer(name);
  }

  /** Creates and starts a container of the pod, and gives its id. */
  async startContainer(name: string, attempt = 0): Promise<string> {
    const id = await this.createContainer(name, attempt);
    await this.#world.cri(METHODS.startContainer, { containerId: id });
    return id;
  }

  /** Creates a container of the pod without starting it. */
  async createContainer(name: string, attempt = 0): Promise<string> {
    const { spec } = this.#documents.pod;
    const container = [...(spec.initContainers ?? []), ...spec.containers].find((item) => item.name === name);
    if (container === undefined) throw new Error(`the pod has no container ${name}`);
    const config = await this.#containerConfig(container, attempt);
    const { containerId } = await this.#world.cri(METHODS.createContainer, { podSandboxId: this.id, config, sandboxConfig: this.#sandboxConfig });
    this.containers.set(name, containerId);
    return containerId;
  }

  /** Id of a container; of the only one if no name is given. */
  container(name?: string): string {
    const id = name === undefined ? [...this.containers.values()][0] : this.containers.get(name);
    if (id === undefined) throw new Error(`no container ${name ?? "at all"}`);
    return id;
  }

  /** Runs a command by ExecSync. */
  async exec(command: readonly string[], name?: string, timeoutSeconds = 0): Promise<ExecResult> {
    const answer = await this.#world.cri(METHODS.execSync, { containerId: this.container(name), cmd: [...command], timeout: BigInt(timeoutSeconds) });
    return { exitCode: answer.exitCode, stdout: Buffer.from(answer.stdout).toString("utf8"), stderr: Buffer.from(answer.stderr).toString("utf8") };
  }

  /** Runs a command with streams, as `kubectl exec` does. */
  async execStream(
    command: readonly string[],
    { stdin = false, tty = false }: { readonly stdin?: boolean; readonly tty?: boolean } = {},
    name?: string,
  ): Promise<RemoteStreams> {
    const { url } = await this.#world.cri(METHODS.exec, { containerId: this.container(name), cmd: [...command], stdin, tty, stdout: true, stderr: !tty });
    return RemoteStreams.open(this.#world.namespace, url);
  }

  /** Joins the streams of a container's own process. */
  async attach({ stdin = false, tty = false }: { readonly stdin?: boolean; readonly tty?: boolean } = {}, name?: string): Promise<RemoteStreams> {
    const { url } = await this.#world.cri(METHODS.attach, { containerId: this.container(name), stdin, tty, stdout: true, stderr: !tty });
    return RemoteStreams.open(this.#world.namespace, url);
  }

  /** Connects to a port as `kubectl port-forward` does. */
  async forward(port: number): Promise<Forwarded> {
    const { url } = await this.#world.cri(METHODS.portForward, { podSandboxId: this.id, port: [port] });
    return openForward(this.#world.namespace, url);
  }

  /** The log of a container, as kubelet reads it. */
  logs(name?: string, attempt = 0): readonly LogLine[] {
    const container = name ?? [...this.containers.keys()][0] ?? "";
    const path = this.#host(`${this.#sandboxConfig.logDirectory ?? ""}/${container}/${attempt}.log`);
    if (!existsSync(path)) return [];
    return readFileSync(path, "utf8")
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => {
        const [, stream = "", , ...rest] = line.split(" ");
        return { stream, text: rest.join(" ") };
      });
  }

  /** Waits until a container's log has a line that contains, or matches, this. */
  logged(words: string | RegExp, name?: string): Promise<LogLine> {
    return until(() => {
      const line = this.logs(name).find(({ text }) => (typeof words === "string" ? text.includes(words) : words.test(text)));
      if (line === undefined) throw new Error(`the log has no ${String(words)}: ${JSON.stringify(this.logs(name))}`);
      return line;
    });
  }

  async status(name?: string): Promise<criApi.ContainerStatus> {
    const { status } = await this.#world.cri(METHODS.containerStatus, { containerId: this.container(name) });
    if (status === undefined) throw new Error("no status");
    return status;
  }

  /** Waits for the end of a container's process and gives its exit code. */
  exited(name?: string): Promise<number> {
    return until(async () => {
      const status = await this.status(name);
      if (status.state !== criApi.ContainerState.CONTAINER_EXITED) throw new Error(`container ${status.metadata?.name ?? ""} is in state ${status.state}`);
      return status.exitCode;
    });
  }

  /** What a container has written to its termination log. */
  terminationMessage(name: string): string {
    return readFileSync(this.#host(this.#terminationLog(name, 0)), "utf8");
  }

  /** Puts new files into a ConfigMap or Secret volume as kubelet's atomic writer does. */
  async updateVolume(volume: string, files: Readonly<Record<string, string>>): Promise<void> {
    const found = this.#volumes().find(({ name }) => name === volume);
    if (found === undefined) throw new Error(`the pod has no volume ${volume}`);
    await this.#writeFiles(this.#volumePath(found), new Map(Object.entries(files).map(([name, text]) => [name, Buffer.from(text)])));
  }

  /** Directory of a volume on the node, as seen from the test. */
  volumeDirectory(volume: string): string {
    const found = this.#volumes().find(({ name }) => name === volume);
    if (found === undefined) throw new Error(`the pod has no volume ${volume}`);
    return this.#host(this.#volumePath(found));
  }

  async stopContainer(name: string, graceSeconds = 30): Promise<void> {
    await this.#world.cri(METHODS.stopContainer, { containerId: this.container(name), timeout: BigInt(graceSeconds) });
  }

  /** Stops all containers, then the sandbox. */
  async stop(graceSeconds: number = this.#documents.pod.spec.terminationGracePeriodSeconds ?? 30): Promise<void> {
    await Promise.all(
      [...this.containers.values()].map((containerId) => this.#world.cri(METHODS.stopContainer, { containerId, timeout: BigInt(graceSeconds) })),
    );
    if (this.id !== "") await this.#world.cri(METHODS.stopPodSandbox, { podSandboxId: this.id });
  }

  /** Stops and removes everything, kubelet's files as well. Without effect after the first call. */
  async remove(graceSeconds = 1): Promise<void> {
    await this.stop(graceSeconds);
    // Of a sandbox that did not come up there is no id, but it may be there.
    const { items } = await this.#world.cri(METHODS.listPodSandbox, { filter: { labelSelector: { "io.kubernetes.pod.uid": this.uid } } });
    for (const { id } of items) {
      const { containers } = await this.#world.cri(METHODS.listContainers, { filter: { podSandboxId: id } });
      for (const container of containers) await this.#world.cri(METHODS.removeContainer, { containerId: container.id });
      await this.#world.cri(METHODS.stopPodSandbox, { podSandboxId: id });
      await this.#world.cri(METHODS.removePodSandbox, { podSandboxId: id });
    }
    this.containers.clear();
    this.id = "";
    for (const path of this.#mounted.splice(0)) await this.#world.inside("umount", path);
    await rm(this.#host(this.#directory), { recursive: true, force: true });
    await rm(this.#host(this.#sandboxConfig.logDirectory ?? ""), { recursive: true, force: true });
    await this.#world.removeCgroup(`pod${this.uid}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.remove();
  }

  async #containerConfig(container: ContainerSpec, attempt: number): Promise<MessageInitShape<typeof criApi.ContainerConfigSchema>> {
    const { spec } = this.#documents.pod;
    const env = this.#env(container);
    const expanded = (texts: readonly string[] | undefined): string[] => (texts ?? []).map((text) => expand(text, env));
    const mounts = [...this.#mounts(container), ...(await this.#kubeletMounts(container, attempt))];
    const security = { ...spec.securityContext, ...container.securityContext };
    const privileged = container.securityContext?.privileged === true;
    const resources = containerResources(container);
    return {
      metadata: { name: container.name, attempt },
      image: { image: container.image },
      command: expanded(container.command),
      args: expanded(container.args),
      workingDir: container.workingDir ?? "",
      envs: [...env].map(([key, value]) => ({ key, value })),
      mounts,
      labels: { ...this.#labels(), "io.kubernetes.container.name": container.name },
      annotations: {
        "io.kubernetes.container.hash": "5ea1b0d5",
        "io.kubernetes.container.restartCount": String(attempt),
        "io.kubernetes.container.terminationMessagePath": container.terminationMessagePath ?? "/dev/termination-log",
        "io.kubernetes.container.terminationMessagePolicy": "File",
        "io.kubernetes.pod.terminationGracePeriod": String(spec.terminationGracePeriodSeconds ?? 30),
      },
      logPath: `${container.name}/${attempt}.log`,
      stdin: container.stdin ?? false,
      stdinOnce: container.stdinOnce ?? false,
      tty: container.tty ?? false,
      linux: {
        resources,
        securityContext: {
          capabilities: { addCapabilities: [...(security.capabilities?.add ?? [])], dropCapabilities: [...(security.capabilities?.drop ?? [])] },
          privileged,
          namespaceOptions: this.#namespaces(),
          ...(security.runAsUser === undefined ? {} : { runAsUser: { value: BigInt(security.runAsUser) } }),
          ...(security.runAsGroup === undefined ? {} : { runAsGroup: { value: BigInt(security.runAsGroup) } }),
          readonlyRootfs: security.readOnlyRootFilesystem ?? false,
          supplementalGroups: supplementalGroups(spec.securityContext ?? {}),
          noNewPrivs: security.allowPrivilegeEscalation === false,
          maskedPaths: privileged ? [] : [...MASKED, "/sys/firmware"],
          readonlyPaths: privileged ? [] : [...READONLY],
          seccomp: {
            profileType:
              security.seccompProfile?.type === "RuntimeDefault"
                ? criApi.SecurityProfile_ProfileType.RuntimeDefault
                : criApi.SecurityProfile_ProfileType.Unconfined,
          },
        },
      },
    };
  }

  /** Variables of a container in their order; a later one of the same name wins, in the place of the first. */
  #env(container: ContainerSpec): ReadonlyMap<string, string> {
    const env = new Map<string, string>();
    for (const { prefix = "", configMapRef, secretRef } of container.envFrom ?? []) {
      const files = configMapRef === undefined ? this.#files("Secret", secretRef?.name ?? "") : this.#files("ConfigMap", configMapRef.name);
      for (const [key, value] of files) env.set(`${prefix}${key}`, value.toString("utf8"));
    }
    const known = new Map([...Object.entries(SERVICES), ...env]);
    for (const { name, value, valueFrom } of container.env ?? []) {
      const text = value === undefined && valueFrom !== undefined ? this.#valueFrom(valueFrom) : expand(value ?? "", known);
      env.set(name, text);
      known.set(name, text);
    }
    for (const [name, value] of Object.entries(SERVICES)) if (!env.has(name)) env.set(name, value);
    return env;
  }

  #valueFrom(source: NonNullable<EnvVar["valueFrom"]>): string {
    const { fieldRef, configMapKeyRef, secretKeyRef } = source;
    if (configMapKeyRef !== undefined) return this.#files("ConfigMap", configMapKeyRef.name).get(configMapKeyRef.key)?.toString("utf8") ?? "";
    if (secretKeyRef !== undefined) return this.#files("Secret", secretKeyRef.name).get(secretKeyRef.key)?.toString("utf8") ?? "";
    const { metadata } = this.#documents.pod;
    const path = fieldRef?.fieldPath ?? "";
    const keyed = /^metadata\.(labels|annotations)\['(.*)'\]$/.exec(path);
    if (keyed !== null) return (keyed[1] === "labels" ? metadata.labels : metadata.annotations)?.[keyed[2] ?? ""] ?? "";
    const fields: Readonly<Record<string, string>> = {
      "metadata.name": this.name,
      "metadata.namespace": this.podNamespace,
      "metadata.uid": this.uid,
      "spec.nodeName": "node-1",
      "spec.serviceAccountName": "default",
      "status.podIP": this.ip,
      "status.podIPs": this.ip,
      "status.hostIP": "10.88.0.1",
    };
    const value = fields[path];
    if (value === undefined) throw new Error(`this kubelet does not know the field ${path}`);
    return value;
  }

  #mounts(container: ContainerSpec): readonly MessageInitShape<typeof criApi.MountSchema>[] {
    const mounts = (container.volumeMounts ?? []).map((mount) => {
      const volume = this.#volumes().find(({ name }) => name === mount.name);
      if (volume === undefined) throw new Error(`the pod has no volume ${mount.name}`);
      // What kubelet itself writes is not for containers to change.
      const written = volume.configMap !== undefined || volume.secret !== undefined;
      return {
        containerPath: mount.mountPath,
        hostPath: join(this.#volumePath(volume), mount.subPath ?? ""),
        readonly: written || (mount.readOnly ?? false),
      };
    });
    const token = this.#tokenVolume();
    if (token === undefined) return mounts;
    return [...mounts, { containerPath: "/var/run/secrets/kubernetes.io/serviceaccount", hostPath: this.#volumePath(token), readonly: true }];
  }

  /** What kubelet adds: the names of the pod's hosts, and the file for last words. */
  async #kubeletMounts(container: ContainerSpec, attempt: number): Promise<readonly MessageInitShape<typeof criApi.MountSchema>[]> {
    const hosts = `${this.#directory}/etc-hosts`;
    const hostname = this.#sandboxConfig.hostname ?? "";
    const text = `# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n${this.ip}\t${hostname}\n`;
    await this.#write(hosts, text, 0o644);
    const last = this.#terminationLog(container.name, attempt);
    await this.#write(last, "", 0o666);
    return [
      { containerPath: "/etc/hosts", hostPath: hosts },
      { containerPath: container.terminationMessagePath ?? "/dev/termination-log", hostPath: last },
    ];
  }

  #terminationLog(container: string, attempt: number): string {
    return `${this.#directory}/containers/${container}/${(0x5ea1b0d0 + attempt).toString(16)}`;
  }

  #labels(): Record<string, string> {
    return { "io.kubernetes.pod.name": this.name, "io.kubernetes.pod.namespace": this.podNamespace, "io.kubernetes.pod.uid": this.uid };
  }

  #namespaces(): MessageInitShape<typeof criApi.NamespaceOptionSchema> {
    const { hostNetwork, shareProcessNamespace } = this.#documents.pod.spec;
    return {
      network: hostNetwork === true ? criApi.NamespaceMode.NODE : criApi.NamespaceMode.POD,
      pid: shareProcessNamespace === true ? criApi.NamespaceMode.POD : criApi.NamespaceMode.CONTAINER,
      ipc: criApi.NamespaceMode.POD,
    };
  }

  #volumes(): readonly (Volume & { readonly projected?: true })[] {
    const token = this.#tokenVolume();
    return [...(this.#documents.pod.spec.volumes ?? []), ...(token === undefined ? [] : [token])];
  }

  /** What the service account's admission adds to a pod. */
  #tokenVolume(): (Volume & { readonly projected: true }) | undefined {
    return this.#documents.pod.spec.automountServiceAccountToken === false ? undefined : { name: "kube-api-access-x7k2p", projected: true };
  }

  #volumePath(volume: Volume & { readonly projected?: true }): string {
    if (volume.hostPath !== undefined) return volume.hostPath.path;
    const kind = volume.projected === true ? "projected" : volume.configMap !== undefined ? "configmap" : volume.secret !== undefined ? "secret" : "empty-dir";
    return `${this.#directory}/volumes/kubernetes.io~${kind}/${volume.name}`;
  }

  async #makeVolume(volume: Volume & { readonly projected?: true }): Promise<void> {
    const path = this.#volumePath(volume);
    await mkdir(this.#host(path), { recursive: true });
    if (volume.hostPath !== undefined) return;
    // Kubelet keeps what is secret, and what is asked for, in memory.
    if (volume.projected === true || volume.secret !== undefined || volume.emptyDir?.medium === "Memory") {
      await this.#world.inside("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", path);
      this.#mounted.unshift(path);
    }
    await chmod(this.#host(path), 0o777);
    const files =
      volume.projected === true
        ? TOKEN_FILES
        : volume.configMap !== undefined
          ? this.#files("ConfigMap", volume.configMap.name)
          : volume.secret !== undefined
            ? this.#files("Secret", volume.secret.secretName)
            : undefined;
    if (files !== undefined) await this.#writeFiles(path, files);
  }

  #files(kind: "ConfigMap" | "Secret", name: string): ReadonlyMap<string, Buffer> {
    const files = this.#documents.data.get(`${kind}/${name}`);
    if (files === undefined) throw new Error(`the documents have no ${kind} ${name}`);
    return files;
  }

  /** A directory named by its time, a link to it that is replaced at once, and a link for each file. */
  async #writeFiles(path: string, files: ReadonlyMap<string, Buffer>): Promise<void> {
    const revision = (this.#revisions.get(path) ?? 0) + 1;
    this.#revisions.set(path, revision);
    const directory = this.#host(path);
    const fresh = `..2026_01_01_00_00_0${revision}.${String(1_000_000_000 + revision)}`;
    await mkdir(join(directory, fresh));
    for (const [name, data] of files) await writeFile(join(directory, fresh, name), data, { mode: 0o644 });
    await symlink(fresh, join(directory, "..data_tmp"));
    await rename(join(directory, "..data_tmp"), join(directory, "..data"));
    for (const name of files.keys()) if (!existsSync(join(directory, name))) await symlink(`..data/${name}`, join(directory, name));
    if (revision > 1) {
      const old = `..2026_01_01_00_00_0${revision - 1}.${String(1_000_000_000 + revision - 1)}`;
      await rm(join(directory, old), { recursive: true });
    }
  }

  async #write(path: string, text: string, mode: number): Promise<void> {
    await mkdir(dirname(this.#host(path)), { recursive: true });
    await writeFile(this.#host(path), text);
    await chmod(this.#host(path), mode);
  }

  #host(path: string): string {
    return this.#world.namespace.path(path);
  }
}

const TOKEN_FILES: ReadonlyMap<string, Buffer> = new Map([
  ["ca.crt", Buffer.from("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")],
  ["namespace", Buffer.from("default")],
  ["token", Buffer.from("e30.e30.e30")],
]);

function parseDocuments(yaml: string): Documents {
  const data = new Map<string, ReadonlyMap<string, Buffer>>();
  let pod: PodSpec | undefined;
  for (const document of parseAllDocuments(yaml)) {
    const value = document.toJS() as Record<string, unknown> | null;
    if (value === null) continue;
    const kind = String(value["kind"]);
    if (kind === "ConfigMap" || kind === "Secret") {
      const {
        metadata,
        data: encoded = {},
        stringData = {},
        binaryData = {},
      } = value as {
        readonly metadata: { readonly name: string };
        readonly data?: Readonly<Record<string, string>>;
        readonly stringData?: Readonly<Record<string, string>>;
        readonly binaryData?: Readonly<Record<string, string>>;
      };
      const plain = kind === "ConfigMap" ? encoded : stringData;
      const base64 = kind === "ConfigMap" ? binaryData : encoded;
      data.set(
        `${kind}/${metadata.name}`,
        new Map([
          ...Object.entries(base64).map(([name, text]) => [name, Buffer.from(text, "base64")] as const),
          ...Object.entries(plain).map(([name, text]) => [name, Buffer.from(text)] as const),
        ]),
      );
    } else if (kind === "Pod") pod = value as unknown as PodSpec;
    else if (isTemplated(value)) pod = { ...value.spec.template, metadata: { ...value.metadata, ...value.spec.template.metadata } };
  }
  if (pod === undefined) throw new Error("the documents have no pod");
  return { pod, data };
}

function isTemplated(value: object): value is { readonly metadata: PodSpec["metadata"]; readonly spec: { readonly template: PodSpec } } {
  const spec: unknown = "spec" in value ? value.spec : undefined;
  return typeof spec === "object" && spec !== null && "template" in spec;
}

/** Kubernetes' `$(NAME)`; `$$` is a dollar, and what is not known stays. */
function expand(text: string, env: ReadonlyMap<string, string>): string {
  return text.replaceAll(/\$\$|\$\(([^)]*)\)/g, (all, name: string | undefined) => (name === undefined ? "$" : (env.get(name) ?? all)));
}

function supplementalGroups({ fsGroup, supplementalGroups: groups = [] }: SecurityContext): bigint[] {
  return [...(fsGroup === undefined ? [] : [fsGroup]), ...groups].map(BigInt);
}

/** What a container may use, in kubelet's arithmetic. */
function containerResources({ resources = {} }: ContainerSpec): MessageInitShape<typeof criApi.LinuxContainerResourcesSchema> {
  const { limits = {}, requests = {} } = resources;
  const cpu = quantity(limits["cpu"]);
  const asked = quantity(requests["cpu"] ?? limits["cpu"]);
  const memory = quantity(limits["memory"]);
  return {
    cpuPeriod: 100_000n,
    cpuQuota: cpu === 0 ? 0n : BigInt(Math.max(1000, Math.round(cpu * 100_000))),
    cpuShares: asked === 0 ? 2n : BigInt(Math.max(2, Math.floor(asked * 1024))),
    memoryLimitInBytes: BigInt(Math.round(memory)),
    oomScoreAdj: 1000n,
  };
}

/** The sums that the sandbox is told of (since Kubernetes 1.23). */
function sandboxResources(containers: readonly ContainerSpec[]): Pick<MessageInitShape<typeof criApi.LinuxPodSandboxConfigSchema>, "overhead" | "resources"> {
  const all = containers.map(containerResources);
  const sum = (name: "cpuQuota" | "cpuShares" | "memoryLimitInBytes"): bigint => {
    const values = all.map((item) => BigInt(item[name] ?? 0));
    // One without a limit makes the sum have none.
    return name !== "cpuShares" && values.includes(0n) ? 0n : values.reduce((a, b) => a + b, 0n);
  };
  return {
    overhead: {},
    resources: { cpuPeriod: 100_000n, cpuQuota: sum("cpuQuota"), cpuShares: sum("cpuShares"), memoryLimitInBytes: sum("memoryLimitInBytes") },
  };
}

const UNITS: Readonly<Record<string, number>> = { m: 1e-3, "": 1, k: 1e3, M: 1e6, G: 1e9, Ki: 2 ** 10, Mi: 2 ** 20, Gi: 2 ** 30 };

function quantity(value: string | number | undefined): number {
  if (value === undefined) return 0;
  const match = /^([0-9.]+)([a-zA-Z]*)$/.exec(String(value));
  const unit = UNITS[match?.[2] ?? "?"];
  if (match === null || unit === undefined) throw new Error(`not a quantity: ${value}`);
  return Number(match[1]) * unit;
}
