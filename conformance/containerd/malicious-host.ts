import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { chmod, rename, rm, symlink, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { join, resolve } from "node:path";
import { connectContainerd, type ContainerdEvent } from "@sealpod/containerd";
import { asArray, asObject, type JsonObject, silentLogger } from "@sealpod/core";
import { systemClock, systemRandom } from "@sealpod/io";
import { ProcessorClient } from "@sealpod/processor";
import { AgentService, criApi, type DescMethodUnary, type MessageInitShape } from "@sealpod/proto";
import { SecurityProcessor, servePsp } from "@sealpod/psp";
import { Sandbox, type ContainerLayer, type SandboxOptions } from "@sealpod/sandbox";
import { parseReport } from "@sealpod/snp";
import { byteStream, type ByteStream, STATUS, TtrpcClient, TtrpcError } from "@sealpod/ttrpc";
import type { Machine } from "@sealpod/vmm";
import { AgentClient } from "../../host/sandbox/agent-client.ts";
import { readBundle } from "../../host/shim/bundle.ts";
import { guestSpec, policyBundle } from "../../host/shim/guest-spec.ts";
import { ContainerdImages } from "../../host/shim/images.ts";
import { LAUNCHER_NAME } from "../../host/shim/launcher.ts";
import type { BundleEdit } from "./malicious-launcher.ts";
import { openContainerdWorld, shimHandler, until, type ContainerdVersion, type ContainerdWorld, type KubePod } from "./test-support.ts";

/** A node whose owner wants to know, or to do, what the owner of a pod did not allow: genuine containerd, the genuine shim, and hands on all that lies between them. */

const METHODS = criApi.RuntimeService.method;

const BUNDLES = "/run/containerd/io.containerd.runtime.v2.task/k8s.io";

/** Of the world's directory, where nobody looks for what pods leave behind. */
const LYING_SOCKET = "/var/lib/lying-processor.sock";
const LAYERS = "/var/lib/sealpod/layers";

/** RuntimeClass handlers of the node; those of the second pair start guests for which the processor was told another HOST_DATA. */
export const HANDLERS = { process: "kata-cc", vm: "kata-cc-isolation", lyingProcess: "lying", lyingVm: "lying-isolation" } as const;

/** How something was refused, as a user sees it. */
export interface Refusal {
  /** What the call of CRI was answered with. */
  readonly error: string;
  /** What the container's status says from then on. */
  readonly reason: string;
  readonly message: string;
  /** Topics of containerd's events about the container. */
  readonly topics: readonly string[];
}

/** The node of a malicious owner. */
export class MaliciousHost implements AsyncDisposable {
  readonly world: ContainerdWorld;
  /** HOST_DATA that the lying processor puts in the place of what it is told. */
  hostData: Uint8Array = new Uint8Array(32);
  readonly #owned: AsyncDisposableStack;
  readonly #events: ContainerdEvent[] = [];
  /** Of the one that is not refused it is 0. */
  #attempts = 1;

  private constructor(world: ContainerdWorld, owned: AsyncDisposableStack) {
    this.world = world;
    this.#owned = owned;
  }

  static async open(version: ContainerdVersion): Promise<MaliciousHost> {
    await using stack = new AsyncDisposableStack();
    const lying = { processor: { socket: LYING_SOCKET } };
    const world = stack.use(
      await openContainerdWorld({
        version,
        handlers: {
          [HANDLERS.process]: shimHandler("process"),
          [HANDLERS.vm]: shimHandler("vm"),
          [HANDLERS.lyingProcess]: shimHandler("process", lying),
          [HANDLERS.lyingVm]: shimHandler("vm", lying),
        },
      }),
    );
    const host = new MaliciousHost(world, stack.move());
    try {
      await host.#serveLies();
      await host.#standBeforeTheLauncher();
      await host.#listen();
      return host;
    } catch (error) {
      await host[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Puts a wrapper in the launcher's place that edits bundles. */
  async #standBeforeTheLauncher(): Promise<void> {
    const launcher = join(this.world.directory, "bin", LAUNCHER_NAME);
    const genuine = `${launcher}.genuine`;
    await rename(launcher, genuine);
    const edit = `'${process.execPath}' --no-warnings '${resolve(import.meta.dirname, "malicious-launcher.ts")}' '${this.#edits}' >/dev/null 2>&1`;
    await writeFile(
      launcher,
      `#!/bin/sh\ncase " $* " in *" start "*) if [ -e '${this.#edits}' ]; then ${edit} || exit 1; fi ;; esac\nexec '${genuine}' "$@"\n`,
    );
    await chmod(launcher, 0o755);
  }

  async #serveLies(): Promise<void> {
    const { directory } = this.world;
    const processor = await SecurityProcessor.open(join(directory, "lying-keys"), { clock: systemClock, random: systemRandom });
    const launch = processor.launch.bind(processor);
    processor.launch = (input) => launch({ ...input, hostData: this.hostData });
    const socketPath = join(directory, LYING_SOCKET);
    this.#owned.use(await servePsp({ processor, socketPath, guestInfoBase: join(directory, "lied-to"), logger: silentLogger }));
  }

  /** Its subscription is announced by nothing but the first event. */
  async #listen(): Promise<void> {
    const controller = new AbortController();
    const listening = (async () => {
      for await (const event of connectContainerd({ socketPath: this.world.socket }).events([], controller.signal)) this.#events.push(event);
    })();
    listening.catch(() => undefined);
    this.#owned.defer(() => controller.abort());
    let probes = 0;
    await until(async () => {
      await this.world.ctr("namespaces", "create", `probe-${probes++}`);
      if (this.#events.length === 0) throw new Error("no event came");
    });
  }

  get #edits(): string {
    return join(this.world.directory, "edits.json");
  }

  /** Edits bundles while something is done. */
  async editing<T>(container: string, patch: BundleEdit["patch"], act: () => Promise<T>): Promise<T> {
    await writeFile(this.#edits, JSON.stringify([{ container, patch }] satisfies BundleEdit[]));
    try {
      return await act();
    } finally {
      await rm(this.#edits);
    }
  }

  /** Creates and starts a container of a pod, which must fail, and removes it. */
  async refused(pod: KubePod, name: string): Promise<Refusal> {
    const containerId = await pod.createContainer(name, this.#attempts++);
    const error = await this.world.cri(METHODS.startContainer, { containerId }).then(
      () => {
        throw new Error(`container ${name} was started`);
      },
      (cause: unknown) => (cause instanceof Error ? cause.message : String(cause)),
    );
    const { reason, message, state, exitCode } = await pod.status(name);
    if (state !== criApi.ContainerState.CONTAINER_EXITED || exitCode === 0) throw new Error(`the container is in state ${state} and has exit code ${exitCode}`);
    pod.containers.delete(name);
    await this.world.cri(METHODS.removeContainer, { containerId });
    const topics = await until(() => {
      const found = this.topics(containerId);
      if (!found.includes("/containers/delete")) throw new Error("containerd has not told of the container's end");
      return found;
    });
    return { error, reason, message, topics };
  }

  /** Topics of the events so far that name a container. */
  topics(containerId: string): readonly string[] {
    return this.#events.filter(({ value }) => Buffer.from(value).includes(containerId)).map(({ topic }) => topic);
  }

  /** HOST_DATA that verifiers see in the reports of a pod's machine. */
  async provenHostData(pod: KubePod): Promise<Uint8Array> {
    const { processor, launch } = this.#record(pod);
    const { report } = await new ProcessorClient(join(this.world.directory, processor)).fetchReport(launch, systemRandom.bytes(64));
    return parseReport(report).hostData;
  }

  /** What the shim has written down of a pod. */
  #record(pod: KubePod): { readonly directory: string; readonly processor: string; readonly launch: string } {
    const path = join(this.world.directory, BUNDLES, pod.id, "shim.json");
    return JSON.parse(readFileSync(path, "utf8")) as { directory: string; processor: string; launch: string };
  }

  /** A connection of the host's own to the agent of a pod of processes. */
  async connectAgent(pod: KubePod): Promise<RogueClient> {
    const { directory } = this.#record(pod);
    return new RogueClient(this, pod, join(this.world.directory, directory, "vm"));
  }

  /** The cache of layer files. */
  get layerDirectory(): string {
    return join(this.world.directory, LAYERS);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#owned.disposeAsync();
    await this.world[Symbol.asyncDispose]();
  }
}

type Methods = typeof AgentService.method;

/** What an agent answered. */
export interface Answer {
  readonly code: number;
  readonly message: string;
}

/** A host that speaks to the agent past its own shim. */
export class RogueClient implements AsyncDisposable {
  readonly #host: MaliciousHost;
  readonly #pod: KubePod;
  readonly #directory: string;
  readonly #streams: ByteStream[] = [];
  #devices = 0x80;

  constructor(host: MaliciousHost, pod: KubePod, directory: string) {
    this.#host = host;
    this.#pod = pod;
    this.#directory = directory;
  }

  /** Sends a request as it is. */
  async send<K extends keyof Methods>(name: K, request: MessageInitShape<Methods[K]["input"]>): Promise<Answer & { readonly body?: unknown }> {
    const client = new TtrpcClient(await this.#connect());
    const method: DescMethodUnary = AgentService.method[name];
    try {
      return { code: STATUS.ok, message: "", body: await client.unary(method, request) };
    } catch (error) {
      if (error instanceof TtrpcError && error.code === "ERR_TTRPC_STATUS") return { code: error.status.code, message: error.status.message };
      throw error;
    } finally {
      client.close();
    }
  }

  /**
   * Asks for a container by the shim's own code, but of another's bundle.
   * @param from name of the container whose bundle it is
   * @param change what the host makes of its specification
   */
  async createContainer(id: string, from: string, change: (spec: JsonObject) => JsonObject = (spec) => spec): Promise<Answer> {
    const { world, layerDirectory } = this.#host;
    const fromId = this.#pod.container(from);
    const bundle = await readBundle(fromId, join(world.directory, BUNDLES, fromId));
    const images = new ContainerdImages({ address: world.socket, namespace: "k8s.io", layerDirectory, clock: systemClock, logger: silentLogger });
    const layers: readonly ContainerLayer[] = await images.layersOf(fromId, Object.fromEntries(bundle.annotations), "erofs");
    const machine: Pick<Machine, "id" | "exited" | "attachDisk"> = {
      id: this.#pod.id,
      exited: new Promise(() => undefined),
      attachDisk: (path) => this.#attach(path),
    };
    const options: Pick<SandboxOptions, "id" | "random" | "hostname"> = { id: this.#pod.id, hostname: "", random: { bytes: (length) => randomBytes(length) } };
    const sandbox = new Sandbox(machine as Machine, new AgentClient(await this.#connect()), options as SandboxOptions);
    const spec = change(this.#visible(guestSpec(bundle, { ociVersion: undefined, withoutCpuLimit: false })));
    try {
      const container = await sandbox.createContainer({ id, spec, bundle: policyBundle({ ...bundle, id }), layers });
      await container.remove();
      return { code: 0, message: "" };
    } catch (error) {
      const { cause } = error as Error;
      if (cause instanceof TtrpcError) return { code: cause.status.code, message: cause.status.message };
      throw error;
    }
  }

  /** A specification whose files of the node are where they are seen from here. */
  #visible(spec: JsonObject): JsonObject {
    const mounts = (asArray(spec["mounts"]) ?? []).map((item) => {
      const mount = asObject(item) ?? {};
      const { source } = { source: undefined, ...mount };
      return typeof source === "string" && /^\/(run|var)\//.test(source) ? { ...mount, source: this.#host.world.namespace.path(source) } : mount;
    });
    return { ...spec, mounts };
  }

  async #attach(path: string): Promise<{ readonly source: string }> {
    const source = (this.#devices++).toString(16);
    await symlink(path.replace(this.#host.world.directory, ""), join(this.#directory, "devices", source));
    return { source };
  }

  #connect(): Promise<ByteStream> {
    const socket = connect(join(this.#directory, "agent.sock"));
    return new Promise((done, fail) => {
      socket.once("error", fail).once("connect", () => {
        const stream = byteStream(socket);
        this.#streams.push(stream);
        done(stream);
      });
    });
  }

  [Symbol.asyncDispose](): Promise<void> {
    for (const stream of this.#streams) stream.close();
    return Promise.resolve();
  }
}
