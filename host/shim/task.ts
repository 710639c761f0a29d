import { taskApi, taskEventsApi } from "@sealpod/proto";
import type { Timer } from "@sealpod/ttrpc";
import { messageOf, type Logger } from "@sealpod/core";
import { ShimError } from "./errors.ts";
import type { PodContainer } from "./pod.ts";
import type { EventPublisher } from "./publisher.ts";
import type { ProcessExit, TaskProcess } from "./task-process.ts";
import { endsWithin } from "./time-limit.ts";
import { timestamp } from "./timestamp.ts";

const SIGKILL = 9;
const SIGTERM = 15;
/** Number of the last real-time signal. */
const MAX_SIGNAL = 64;

/** Milliseconds that readers and a guest together may hold up a deletion: after five seconds containerd runs `delete` for it. */
const DELETE_LIMIT = 4000;

const STATUS_NAMES: Readonly<Record<taskApi.Status, string>> = ["unknown", "created", "running", "stopped", "paused", "pausing"] as const;

/** Options of {@link Task}. */
export interface TaskOptions {
  readonly id: string;
  readonly bundle: string;
  readonly init: TaskProcess;
  readonly container: PodContainer;
  readonly pid: number;
  readonly events: EventPublisher;
  readonly timer: Timer;
  readonly logger: Logger;
}

/** A container as containerd sees it: its own process, and others that were put into it. */
export class Task {
  readonly id: string;
  readonly bundle: string;
  readonly init: TaskProcess;
  readonly pid: number;
  readonly #options: TaskOptions;
  readonly #execs = new Map<string, TaskProcess>();
  #frozen: "no" | "pausing" | "paused" | "resuming" = "no";

  constructor(options: TaskOptions) {
    this.id = options.id;
    this.bundle = options.bundle;
    this.init = options.init;
    this.pid = options.pid;
    this.#options = options;
  }

  get container(): PodContainer {
    return this.#options.container;
  }

  /** Its own process for an empty id. @throws {ShimError} ERR_SHIM_NOT_FOUND */
  process(execId: string): TaskProcess {
    const process = execId === "" ? this.init : this.#execs.get(execId);
    if (process === undefined) throw new ShimError("ERR_SHIM_NOT_FOUND", `task ${this.id} has no process ${execId}`);
    return process;
  }

  /** What containerd is told of a process. */
  status(execId: string): taskApi.Status {
    const { phase } = this.process(execId);
    if (phase === "stopped") return taskApi.Status.STOPPED;
    if (phase !== "running") return taskApi.Status.CREATED;
    if (this.#frozen === "pausing") return taskApi.Status.PAUSING;
    return this.#frozen === "no" ? taskApi.Status.RUNNING : taskApi.Status.PAUSED;
  }

  /** Makes room for another process. @throws {ShimError} ERR_SHIM_EXISTS, ERR_SHIM_STATE */
  addExec(execId: string, process: TaskProcess): void {
    // An exec with the container's id would be taken for the container in events and by the guest.
    if (execId === this.id || this.#execs.has(execId)) throw new ShimError("ERR_SHIM_EXISTS", `task ${this.id} has a process ${execId} already`);
    if (this.init.phase === "stopped") throw this.#state("run another process", "created or running");
    this.#execs.set(execId, process);
    this.#options.events.publish("/tasks/exec-added", taskEventsApi.TaskExecAddedSchema, { containerId: this.id, execId });
  }

  /** Lets its own process run. */
  async start(): Promise<void> {
    await this.init.start((output) => this.container.start(output));
  }

  /** Lets another process run, as its specification says. @throws {ShimError} ERR_SHIM_STATE unless the task runs */
  async startExec(execId: string, specification: unknown): Promise<void> {
    const process = this.process(execId);
    await this.init.settled();
    if (this.init.phase !== "running" || this.#frozen !== "no") throw this.#state("run another process", "running");
    await process.start((output) => this.container.exec(execId, specification, output));
  }

  /**
   * Sends a signal. One that ends a process which was not started yet ends it here: the guest has none that could.
   * @throws {ShimError} ERR_SHIM_NOT_FOUND if the process has ended, which is what containerd expects to hear
   */
  async kill(execId: string, signal: number, all: boolean): Promise<void> {
    if (signal > MAX_SIGNAL) throw new ShimError("ERR_SHIM_USAGE", `signal ${signal} is not one: the last is ${MAX_SIGNAL}`);
    const process = this.process(execId);
    await process.settled();
    if (process.phase === "stopped") throw new ShimError("ERR_SHIM_NOT_FOUND", `${process.label} has ended already`);
    const { guest } = process;
    if (guest === undefined) {
      if (signal !== SIGKILL && signal !== SIGTERM) throw new ShimError("ERR_SHIM_STATE", `${process.label} is not started yet`);
      process.finish(128 + signal);
      return;
    }
    if (execId !== "") await guest.signal(signal);
    // SIGKILL for one ends all: what is left of a container without its first process is of no use.
    else await this.container.signal(signal, all || signal === SIGKILL);
    if (signal !== SIGKILL) return;
    process.killed();
    if (execId === "") for (const exec of this.#execs.values()) exec.killed();
  }

  async pause(): Promise<void> {
    if (this.init.phase !== "running" || this.#frozen !== "no") throw this.#state("be paused", "running");
    this.#frozen = "pausing";
    try {
      await this.container.pause();
    } catch (error) {
      this.#frozen = "no";
      throw error;
    }
    this.#frozen = "paused";
    if (this.#runs()) this.#options.events.publish("/tasks/paused", taskEventsApi.TaskPausedSchema, { containerId: this.id });
  }

  async resume(): Promise<void> {
    if (this.init.phase !== "running" || this.#frozen !== "paused") throw this.#state("be resumed", "paused");
    this.#frozen = "resuming";
    try {
      await this.container.resume();
    } catch (error) {
      this.#frozen = "paused";
      throw error;
    }
    this.#frozen = "no";
    if (this.#runs()) this.#options.events.publish("/tasks/resumed", taskEventsApi.TaskResumedSchema, { containerId: this.id });
  }

  /** @throws {ShimError} ERR_SHIM_STATE once it has stopped */
  async update(resources: unknown): Promise<void> {
    if (this.init.phase === "stopped") throw this.#state("be changed", "created or running");
    await this.container.update(resources);
  }

  /** Removes a process that has ended, or was never started. @throws {ShimError} ERR_SHIM_NOT_FOUND, ERR_SHIM_STATE */
  async deleteExec(execId: string): Promise<ProcessExit> {
    const process = this.process(execId);
    await process.settled();
    if (process.phase === "running") throw new ShimError("ERR_SHIM_STATE", `${process.label} cannot be deleted: it is running, expected stopped`);
    this.#execs.delete(execId);
    await this.#limited(process.label, async (left) => {
      left.add("streams");
      await process.dispose();
      await process.closed();
      left.delete("streams");
    });
    return exitOf(process);
  }

  /** @throws {ShimError} ERR_SHIM_STATE while it runs */
  async assertDeletable(): Promise<void> {
    await this.init.settled();
    if (this.init.phase === "running") throw this.#state("be deleted", "created or stopped");
  }

  /** Ends what is left, in the guest unless `guest` is false, and reports that. */
  async delete(guest: boolean): Promise<ProcessExit> {
    await this.#limited(`task ${this.id}`, (left) => this.#remove(guest, left));
    const exit = exitOf(this.init);
    this.#options.events.publish("/tasks/delete", taskEventsApi.TaskDeleteSchema, {
      containerId: this.id,
      id: this.id,
      pid: this.pid,
      exitStatus: exit.status,
      exitedAt: timestamp(exit.at),
    });
    return exit;
  }

  /** The machine has ended: so has all that ran in it. */
  end(status: number): void {
    for (const process of this.#execs.values()) process.finish(status);
    this.init.finish(status);
  }

  /** Removes it; `left` is what is not done. What is in the guest goes after the output that comes from there has been taken. */
  async #remove(guest: boolean, left: Set<string>): Promise<void> {
    const { logger } = this.#options;
    const processes = [...this.#execs.values(), this.init];
    left.add("streams");
    if (guest) left.add("the container in the guest");
    await Promise.all(processes.map((process) => process.dispose()));
    const removed = guest ? this.container.remove() : Promise.resolve();
    await Promise.all([
      removed
        .catch((error: unknown) => logger.log("warn", `task ${this.id}: the guest keeps the container`, { error: messageOf(error) }))
        .then(() => left.delete("the container in the guest")),
      Promise.all(processes.map((process) => process.closed())).then(() => left.delete("streams")),
    ]);
  }

  /** Waits for work until containerd must be answered; what goes on then is of no concern to it. */
  async #limited(label: string, work: (left: Set<string>) => Promise<void>): Promise<void> {
    const { timer, logger } = this.#options;
    const left = new Set<string>();
    if (!(await endsWithin(timer, DELETE_LIMIT, work(left)))) logger.log("warn", `${label}: not all is gone yet`, { left: [...left].join(", ") });
  }

  // A function, since the phase changes while something is waited for.
  #runs(): boolean {
    return this.init.phase === "running";
  }

  #state(what: string, expected: string): ShimError {
    const found = STATUS_NAMES[this.status("")];
    return new ShimError("ERR_SHIM_STATE", `task ${this.id} cannot ${what}: it is ${found}, expected ${expected}`);
  }
}

/** How a process ended that has ended. */
function exitOf({ exit, label }: TaskProcess): ProcessExit {
  if (exit === undefined) throw new ShimError("ERR_SHIM_STATE", `${label} has not ended`);
  return exit;
}
