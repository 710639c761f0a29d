import { messageOf, type Logger } from "@sealpod/core";
import type { Timer } from "@sealpod/ttrpc";
import { ShimError } from "./errors.ts";
import type { ContainerRequest, Pod, PodOpener } from "./pod.ts";
import { endsWithin } from "./time-limit.ts";

/** Milliseconds for the end of a pod. A machine dies with the shim, so that a shim that goes after them leaves nothing running. */
const STOP_LIMIT = 30_000;

/** Options of {@link PodKeeper}. */
export interface PodKeeperOptions {
  readonly opener: PodOpener;
  readonly timer: Timer;
  readonly logger: Logger;
}

/** The one pod of a shim: opened once, ended once. */
export class PodKeeper {
  readonly #options: PodKeeperOptions;
  /** Not a promise: what waits for other things, too, must not be kept for as long as the pod lives. */
  readonly #over = new AbortController();
  #opening: Promise<Pod> | undefined;
  #stopping: Promise<void> | undefined;
  #pod: Pod | undefined;
  #end: string | undefined;

  constructor(options: PodKeeperOptions) {
    this.#options = options;
  }

  /** Aborts when the machine has ended, or was given up; the reason is a {@link ShimError} ERR_SHIM_POD. Never if there was none. */
  get over(): AbortSignal {
    return this.#over.signal;
  }

  /** Whether no pod is there, or about to be. */
  get empty(): boolean {
    return this.#opening === undefined;
  }

  /** Why there is no machine any more, once there is none. */
  get end(): string | undefined {
    return this.#end;
  }

  /** The machine's process id, also after its end; 0 before there is one. */
  get pid(): number {
    return this.#pod?.pid ?? 0;
  }

  /**
   * The pod. The first call opens it; if that fails, the next one tries again.
   * @throws {ShimError} ERR_SHIM_POD once it has ended or is about to
   */
  async open(request: ContainerRequest, configPath: string | undefined): Promise<Pod> {
    this.#assertLives();
    this.#opening ??= this.#open(request, configPath);
    const pod = await this.#opening;
    this.#assertLives();
    return pod;
  }

  /** Ends the pod; resolves when nothing of it is left, or it does not end in time. Never rejects. All calls wait for the same end. */
  async stop(): Promise<void> {
    if (this.#opening === undefined) return;
    this.#stopping ??= this.#stop(this.#opening);
    await this.#stopping;
  }

  async #open(request: ContainerRequest, configPath: string | undefined): Promise<Pod> {
    try {
      const pod = await this.#options.opener.open(request, configPath);
      this.#pod = pod;
      void this.#watch(pod);
      return pod;
    } catch (error) {
      this.#opening = undefined;
      this.#stopping = undefined;
      throw error;
    }
  }

  async #watch(pod: Pod): Promise<void> {
    try {
      const { kind, exitCode, signal } = await pod.exited;
      const how = signal === null ? (exitCode === null ? "" : ` with exit code ${exitCode}`) : ` by ${signal}`;
      const reason = `the pod's machine has ended (${kind}${how})`;
      // Its end may show first in what it no longer answers, whereupon it is ended from here, too: what was killed has not done as it was asked.
      const expected = this.#stopping !== undefined && kind !== "killed" && signal === null && exitCode === 0;
      this.#options.logger.log(expected ? "info" : "error", reason, { pid: pod.pid });
      this.#finish(reason);
      // It may have left something on the host.
      await this.stop();
    } catch (error) {
      this.#options.logger.log("error", "nobody can tell whether the pod's machine still runs", { pid: pod.pid, error: messageOf(error) });
      await this.stop();
    }
  }

  async #stop(opening: Promise<Pod>): Promise<void> {
    const { timer, logger } = this.#options;
    const ended = (async () => {
      const pod = await opening.catch(() => undefined);
      await pod?.stop();
      // For what it says: the reason of the end.
      await pod?.exited;
    })();
    ended.catch((error: unknown) => logger.log("error", "the pod cannot be ended in order", { error: messageOf(error) }));
    if (!(await endsWithin(timer, STOP_LIMIT, ended))) logger.log("error", "the pod does not end", { pid: this.pid, milliseconds: STOP_LIMIT });
    this.#finish("the pod was ended");
  }

  #finish(reason: string): void {
    if (this.#end !== undefined) return;
    this.#end = reason;
    this.#over.abort(this.#gone());
  }

  #assertLives(): void {
    if (this.#end !== undefined || this.#stopping !== undefined) throw this.#gone();
  }

  #gone(): ShimError {
    return new ShimError("ERR_SHIM_POD", this.#end ?? "the pod is being ended");
  }
}
