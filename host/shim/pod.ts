import type { ByteSink } from "@sealpod/core";
import type { StatsContainerResponse } from "@sealpod/proto";
import type { GuestProcess, ProcessOutput } from "@sealpod/sandbox";
import type { MachineExit } from "@sealpod/vmm";

/** A pod as the Task service needs it: a machine, and containers in it. */
export interface Pod {
  /** Process id of the machine on this host: what containerd is told of every task, since the guest's processes have none here. */
  readonly pid: number;
  /** Resolves when the machine has ended, for whatever reason, and nothing of it is left. */
  readonly exited: Promise<MachineExit>;
  /**
   * Makes a container; its process waits for {@link PodContainer.start}.
   * @throws {ShimError}, {SandboxError}, {VmmError}, {ContainerdError}, {OciError}
   */
  createContainer(request: ContainerRequest): Promise<PodContainer>;
  /** The id of the next container one of whose processes the guest's kernel ended for want of memory. Rejects when the guest has ended, or its policy forbids to ask. */
  nextOutOfMemory(): Promise<string>;
  /** Ends everything, in the guest and of it on this host; resolves when nothing is left. Calls after the first wait for the same end. */
  stop(): Promise<void>;
}

/** A container that containerd wants. */
export interface ContainerRequest {
  readonly id: string;
  /** Absolute path of the bundle, with `config.json`. */
  readonly bundle: string;
  /** Where containerd says that the container's root is, as it says it (containerd.types.Mount). */
  readonly rootfs: readonly RootfsMount[];
}

/** A mount of a Create request. */
export interface RootfsMount {
  readonly type: string;
  readonly source: string;
  readonly target: string;
  readonly options: readonly string[];
}

/** A container in the guest. All methods throw {@link SandboxError}. */
export interface PodContainer {
  readonly id: string;
  start(output: ProcessOutput): Promise<GuestProcess>;
  /** Starts another process; `process` is that of an OCI runtime specification, as parsed JSON. */
  exec(execId: string, process: unknown, output: ProcessOutput): Promise<GuestProcess>;
  /** Sends a signal to the container's process, or to all of them. */
  signal(signal: number, all: boolean): Promise<void>;
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** `resources` is that of an OCI runtime specification (`linux.resources`), as parsed JSON. */
  update(resources: unknown): Promise<void>;
  stats(): Promise<StatsContainerResponse>;
  /** Ends what still runs in it and removes it from the guest. */
  remove(): Promise<void>;
}

/** Makes the pod of a shim, at the first Create. */
export interface PodOpener {
  /**
   * Starts the machine and the sandbox in it.
   * @param request the first container: its specification says what the pod is
   * @param configPath of the runtime options that came with the Create request, if any
   */
  open(request: ContainerRequest, configPath: string | undefined): Promise<Pod>;
}

/** The streams of one process, as containerd named them. Owned by whoever opened them. */
export interface TaskStreams {
  readonly stdout: ByteSink | undefined;
  readonly stderr: ByteSink | undefined;
  /**
   * What the process is to read, until its writer has gone. Undefined without one.
   * Reading follows the consumer: nothing is read ahead by more than a pipe's length.
   */
  readonly stdin: AsyncIterable<Uint8Array> | undefined;
  /** Tells the reader of stdin that no more comes, once what is in the pipe has been read (CloseIO). */
  closeStdin(): void;
  /** Closes all of them; what has been written before is there for its reader. */
  close(): Promise<void>;
}

/** Names of streams in a Create or Exec request: paths of FIFOs, or `binary://`, `file://` URIs; empty for none. */
export interface StreamNames {
  readonly stdin: string;
  readonly stdout: string;
  readonly stderr: string;
  readonly terminal: boolean;
}
