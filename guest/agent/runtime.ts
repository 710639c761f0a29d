import type { Readable, Writable } from "node:stream";
import type { JsonObject } from "@sealpod/core";
import type { Usage } from "./proc.ts";

/** A process inside a container, as the container runtime gives it. */
export interface RuntimeProcess {
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly stderr: Readable;
  /** Exit status, 128+n after signal n. Never rejects. */
  readonly exited: Promise<number>;
  /** Sends a signal; no error if the process is gone. */
  signal(signal: number): void;
}

/** A container whose first process exists and waits to be released. */
export interface RuntimeContainer {
  readonly init: RuntimeProcess;
  /** Path of the container's pid namespace; good until the container is removed, whatever becomes of its processes. */
  readonly pidNamespace: string;
  /** What its processes use. */
  usage(): Usage & { readonly processes: number };
  /** Lets the first process begin. */
  start(): void;
  /** Kills what still runs and removes what is left. */
  remove(): Promise<void>;
}

/** Runs containers. `crun.ts` is the one implementation; tests bring their own. */
export interface Runtime {
  /**
   * Makes a container.
   * @param bundle a directory of this container alone
   * @param spec `config.json`, OCI runtime specification
   * @throws {AgentError} ERR_AGENT_COMMAND with what the runtime said
   */
  create(id: string, bundle: string, spec: JsonObject): Promise<RuntimeContainer>;
  /** Starts another process in a running container; `process` is the `process` of a `config.json`. */
  exec(id: string, bundle: string, execId: string, process: JsonObject): Promise<RuntimeProcess>;
}
