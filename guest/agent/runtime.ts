import type { Readable, Writable } from "node:stream";
import type { JsonObject } from "@sealpod/core";
import type { ContainerCgroup } from "./cgroups.ts";
import type { Usage } from "./proc.ts";

/** A process inside a container, as the container runtime gives it. */
export interface RuntimeProcess {
  readonly stdin: Writable;
  /** With a terminal, everything the process writes. */
  readonly stdout: Readable;
  /** With a terminal, empty. */
  readonly stderr: Readable;
  /** Exit status, 128+n after signal n. Never rejects. */
  readonly exited: Promise<number>;
  /** Sends a signal; no error if the process is gone. */
  signal(signal: number): void;
  /** Sets the size of its terminal, each at most 65535; absent without one. */
  readonly resize?: (rows: number, columns: number) => void;
}

/** A container whose first process exists and waits to be released. */
export interface RuntimeContainer {
  readonly init: RuntimeProcess;
  /** Path of the container's pid namespace; good until the container is removed, whatever becomes of its processes. */
  readonly pidNamespace: string;
  /** What its processes use. */
  usage(): Usage & { readonly processes: number };
  /** Lets the first process begin; returns when others can be started beside it. @throws {AgentError} ERR_AGENT_STATE if it has begun or ended */
  start(): void | Promise<void>;
  /** Kills what still runs and removes what is left. */
  remove(): Promise<void>;
}

/** Part of a control group that a runtime needs: where to put processes, and how to kill them all. */
export type RuntimeCgroup = Pick<ContainerCgroup, "path" | "kill">;

/** Runs containers. `crun.ts` is the one implementation; tests bring their own. */
export interface Runtime {
  /**
   * Makes a container. `process.terminal` and `process.consoleSize` in its specification say whether it has a terminal.
   * @param bundle a directory of this container alone
   * @param spec `config.json`, OCI runtime specification
   * @param group its control group, where there are any
   * @throws {AgentError} ERR_AGENT_COMMAND with what the runtime said; ERR_AGENT_UNIMPLEMENTED for a terminal where there can be none
   */
  create(id: string, bundle: string, spec: JsonObject, group?: RuntimeCgroup): Promise<RuntimeContainer>;
  /** Starts another process in a running container; `process` is the `process` of a `config.json`. */
  exec(id: string, bundle: string, execId: string, process: JsonObject, group?: RuntimeCgroup): Promise<RuntimeProcess>;
}
