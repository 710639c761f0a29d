import { isSealpodError, messageOf, type Clock, type Logger } from "@sealpod/core";
import type { GuestProcess, ProcessOutput } from "@sealpod/sandbox";
import { STATUS, statusError, type Timer } from "@sealpod/ttrpc";
import { ShimError } from "./errors.ts";
import type { StreamNames, TaskStreams } from "./pod.ts";
import { endsWithin } from "./time-limit.ts";

/** Exit status of a process that a SIGKILL ended, or the end of its machine. */
export const KILLED = 137;

/** Exit status that nobody knows, as containerd writes it. */
export const UNKNOWN_EXIT = 255;

/** Milliseconds that the end of streams which were not used may take: a logger that is told of the end may not end. */
const STREAMS_LIMIT = 2000;

/** Milliseconds for readers to take what a process has written that is deleted: runc's shim waits as long. */
const COPY_LIMIT = 2000;

/** How a process ended. */
export interface ProcessExit {
  /** 0 to 255. */
  readonly status: number;
  /** Milliseconds since 1970-01-01T00:00:00Z. */
  readonly at: number;
}

/** Whose end is reported when, and what of it. */
export interface ProcessListener {
  /** It runs. Called once at most, before {@link exited}. */
  started(): void;
  /** It has ended. Called once. */
  exited(exit: ProcessExit, wasStarted: boolean): void;
}

/** Options of {@link TaskProcess}. */
export interface TaskProcessOptions {
  /** For messages, e.g. `task abc`, `process x of task abc`. */
  readonly label: string;
  /** Whether it is the container's own: while nobody can tell that such a one has ended, it counts as running. */
  readonly init: boolean;
  readonly names: StreamNames;
  readonly openStreams: () => Promise<TaskStreams>;
  readonly listener: ProcessListener;
  readonly clock: Clock;
  readonly timer: Timer;
  readonly logger: Logger;
}

/**
 * A process as containerd sees it: created, running, stopped. Each change is reported once and in this order, whatever the guest does;
 * whoever waits for its end is answered when it ends, or at once if it has.
 */
export class TaskProcess {
  readonly names: StreamNames;
  readonly label: string;
  /** Resolves when it has stopped. */
  readonly over: Promise<ProcessExit>;
  readonly #options: TaskProcessOptions;
  readonly #end = Promise.withResolvers<ProcessExit>();
  /** Not reactions of one promise: a caller that has gone must not stay in memory for as long as the process runs. */
  readonly #waiters = new Set<(exit: ProcessExit) => void>();
  #phase: "created" | "starting" | "running" | "stopped" = "created";
  #exit: ProcessExit | undefined;
  #starting: Promise<void> = Promise.resolve();
  #streams: TaskStreams | undefined;
  #streamsClosed: Promise<void> = Promise.resolve();
  /** Resolves when no more is written to the streams. */
  #written: Promise<void> = Promise.resolve();
  #stdinClosed = false;
  #copied: Promise<void> = Promise.resolve();
  #guest: GuestProcess | undefined;
  #size: { readonly rows: number; readonly columns: number } | undefined;
  #killed = false;
  #hidden = false;

  constructor(options: TaskProcessOptions) {
    this.#options = options;
    this.names = options.names;
    this.label = options.label;
    this.over = this.#end.promise;
  }

  get phase(): "created" | "starting" | "running" | "stopped" {
    return this.#phase;
  }

  /** How it ended, if it has. */
  get exit(): ProcessExit | undefined {
    return this.#exit;
  }

  /** Processes that run in the guest. */
  get guest(): GuestProcess | undefined {
    return this.#phase === "running" ? this.#guest : undefined;
  }

  /** Callers of {@link wait} that have no answer yet. */
  get waiting(): number {
    return this.#waiters.size;
  }

  /** Opens the streams ahead of {@link start}, so that a bad name is found early. @throws {ShimError} ERR_SHIM_STREAM */
  async open(): Promise<void> {
    if (this.#streams !== undefined) return;
    const streams = await this.#options.openStreams();
    this.#streams = streams;
    // It may have been given up meanwhile.
    if (this.#phase === "stopped") this.#closeStreams();
    else if (this.#stdinClosed) streams.closeStdin();
  }

  /**
   * Lets it run. If it cannot, it has stopped.
   * @throws {ShimError} ERR_SHIM_STATE unless it is created
   * @throws whatever `launch` throws
   */
  async start(launch: (output: ProcessOutput) => Promise<GuestProcess>): Promise<void> {
    if (this.#phase !== "created") throw new ShimError("ERR_SHIM_STATE", `${this.label} cannot be started: it is ${this.#phase}, expected created`);
    this.#phase = "starting";
    const starting = this.#start(launch);
    this.#starting = starting.catch(() => undefined);
    await starting;
  }

  /** Resolves when it is not just being started. */
  async settled(): Promise<void> {
    await this.#starting;
  }

  /** Resolves when it has ended. @throws the signal's reason once it aborts */
  async wait(signal: AbortSignal): Promise<ProcessExit> {
    if (this.#exit !== undefined) return this.#exit;
    signal.throwIfAborted();
    const { promise, resolve, reject } = Promise.withResolvers<ProcessExit>();
    const abort = (): void => reject(statusError(STATUS.cancelled, "the caller has gone"));
    this.#waiters.add(resolve);
    signal.addEventListener("abort", abort, { once: true });
    try {
      return await promise;
    } finally {
      this.#waiters.delete(resolve);
      signal.removeEventListener("abort", abort);
    }
  }

  /** Sets the size of its terminal, now or as soon as there is one. Without a terminal nothing is done. */
  async resize(rows: number, columns: number): Promise<void> {
    // A client without a terminal of its own sends zeros.
    if (!this.names.terminal || (rows === 0 && columns === 0)) return;
    this.#size = { rows, columns };
    await this.guest?.resize(rows, columns);
  }

  /** Ends its input once what has been written before is read; resolves when the guest has it, or the process has ended. */
  async closeStdin(): Promise<void> {
    this.#stdinClosed = true;
    if (this.#phase === "stopped") return;
    this.#streams?.closeStdin();
    await Promise.race([this.#copied, this.over]);
  }

  /** A SIGKILL has reached it. */
  killed(): void {
    this.#killed = true;
    this.#guest?.killed();
    if (this.#hidden) this.finish(KILLED);
  }

  /** It has stopped; only the first such news counts. */
  finish(status: number): void {
    if (this.#phase === "stopped") return;
    const wasStarted = this.#phase === "running";
    this.#phase = "stopped";
    // The number is the guest's word; on the wire it is unsigned, and containerd's clients expect what waitpid gives.
    const exit = { status: Number.isInteger(status) && status >= 0 && status <= 255 ? status : UNKNOWN_EXIT, at: this.#options.clock.now() };
    this.#exit = exit;
    this.#options.listener.exited(exit, wasStarted);
    for (const resolve of this.#waiters) resolve(exit);
    this.#waiters.clear();
    this.#end.resolve(exit);
    void this.#endStreams();
  }

  /** Closes the streams of a process that nobody will hear of: its task was not made. */
  async discard(): Promise<void> {
    this.#phase = "stopped";
    this.#closeStreams();
    await this.#streamsEnd();
  }

  /** Ends what is left of it; resolves when its output has been taken, or has had its time. Its streams are closed from then on. */
  async dispose(): Promise<void> {
    const ended = this.#phase === "stopped";
    this.finish(KILLED);
    // Of one that has not ended there is no last output to wait for.
    if (ended && !(await endsWithin(this.#options.timer, COPY_LIMIT, this.#written))) this.#log("warn", "output is dropped that nobody reads");
    this.#closeStreams();
  }

  /** Resolves when the streams are closed, once that has begun. */
  async closed(): Promise<void> {
    await this.#streamsClosed;
  }

  async #streamsEnd(): Promise<void> {
    if (await endsWithin(this.#options.timer, STREAMS_LIMIT, this.#streamsClosed)) return;
    this.#log("warn", "its streams do not close");
  }

  /** The end of a process is told whether its output is read or not; the rest is there for its readers until it is deleted, as runc's shim has it. */
  async #endStreams(): Promise<void> {
    this.#streams?.closeStdin();
    await this.#written;
    this.#closeStreams();
  }

  async #start(launch: (output: ProcessOutput) => Promise<GuestProcess>): Promise<void> {
    const ended = this.over.then(() => {
      throw new ShimError("ERR_SHIM_STATE", `${this.label} has ended before it was started`);
    });
    ended.catch(() => undefined);
    try {
      await Promise.race([this.open(), ended]);
      const { stdout, stderr } = this.#streams ?? {};
      const launching = launch({ ...(stdout === undefined ? {} : { stdout }), ...(stderr === undefined ? {} : { stderr }) });
      this.#run(await Promise.race([launching, ended]));
    } catch (error) {
      this.finish(UNKNOWN_EXIT);
      throw error;
    }
  }

  #run(guest: GuestProcess): void {
    this.#guest = guest;
    this.#written = guest.copied;
    this.#phase = "running";
    this.#options.listener.started();
    guest.exited.then(
      (status) => this.finish(status),
      (error: unknown) => this.#lost(error),
    );
    if (this.#size !== undefined) {
      guest.resize(this.#size.rows, this.#size.columns).catch((error: unknown) => this.#log("warn", "its terminal keeps its size", error));
    }
    this.#copied = this.#copyStdin(guest);
  }

  /** Its end will not be heard of. */
  #lost(error: unknown): void {
    const code = isSealpodError(error) ? error.code : undefined;
    if (this.#phase === "stopped") return;
    this.#log("warn", "its exit status is not known", error);
    if (code === "ERR_SANDBOX_CLOSED") {
      this.finish(KILLED);
    } else if (code === "ERR_SANDBOX_DENIED" && this.#options.init) {
      // It runs, as far as anyone knows; to report its end would make containerd start another.
      this.#hidden = true;
      if (this.#killed) this.finish(KILLED);
    } else {
      this.finish(UNKNOWN_EXIT);
    }
  }

  async #copyStdin(guest: GuestProcess): Promise<void> {
    const stdin = this.#streams?.stdin;
    // A terminal's input is its output, too: without a reader it is left as it is.
    if (stdin === undefined && this.names.terminal) return;
    try {
      // Leaving the loop closes this end of the pipe: its writer must not wait for a process that no longer reads.
      for await (const chunk of stdin ?? []) if (chunk.length > 0) await guest.writeStdin(chunk);
      if (this.#phase === "running") await guest.closeStdin();
    } catch (error) {
      // Without a stream there was nothing to lose: policies forbid to close what was never open, unless they were told otherwise.
      if (this.#phase === "running") this.#log(stdin === undefined ? "debug" : "warn", "its input ends here", error);
    }
  }

  #closeStreams(): void {
    const streams = this.#streams;
    if (streams === undefined) return;
    this.#streams = undefined;
    this.#streamsClosed = streams.close().catch((error: unknown) => this.#log("warn", "its streams cannot be closed", error));
  }

  #log(level: "debug" | "warn", message: string, error?: unknown): void {
    this.#options.logger.log(level, `${this.label}: ${message}`, error === undefined ? {} : { error: messageOf(error) });
  }
}
