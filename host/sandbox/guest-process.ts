import { messageOf, type ByteSink, type Logger } from "@sealpod/core";
import { AgentService } from "@sealpod/proto";
import { systemTimer, type Timer } from "@sealpod/ttrpc";
import type { AgentClient } from "./agent-client.ts";
import { SandboxError } from "./errors.ts";

/** Bytes asked for by one read: a pipe, and the most that our agent gives. Other shims ask for half of it. */
const READ_LENGTH: number = 64 * 1024;

/** Bytes of one write: far below the largest message. */
const WRITE_LENGTH: number = 1024 * 1024;

/** Milliseconds after which a sink that takes nothing no longer holds up the news of the end: a containerd that is started again is back by then. */
const STALL_LIMIT = 10_000;

/** Milliseconds for the sinks of a process that a SIGKILL has reached: what it wrote before is at most what pipes hold. */
const KILLED_LIMIT = 2000;

/** Where the output of a process goes. What has no sink is read and dropped: a process whose output nobody reads would stop. */
export interface ProcessOutput {
  readonly stdout?: ByteSink;
  readonly stderr?: ByteSink;
}

/** Which process of the guest. */
export interface ProcessIdentity {
  readonly containerId: string;
  readonly execId: string;
  /** A terminal has one stream. */
  readonly terminal: boolean;
}

/** A process that runs in the guest. */
export class GuestProcess {
  readonly containerId: string;
  readonly execId: string;
  /**
   * Exit status, 128 + number for a signal. All output has come before it, unless a sink has taken nothing for ten seconds, or not all within two of
   * {@link killed}: then what it takes comes later, until {@link copied}.
   * Rejects with {@link SandboxError} ERR_SANDBOX_CLOSED if the machine ends first, ERR_SANDBOX_DENIED if the policy hides it.
   */
  readonly exited: Promise<number>;
  /** Resolves when no more output comes: the sinks have taken all of it, or refuse it. Never rejects; it waits for as long as a sink does. */
  readonly copied: Promise<void>;
  readonly #client: AgentClient;
  readonly #logger: Logger;
  readonly #timer: Timer;
  /** Writes that have taken too long and go on. */
  #stalled = 0;
  #hurried = false;
  #stall: PromiseWithResolvers<void> = Promise.withResolvers();
  #cancelHurry: (() => void) | undefined;

  constructor(client: AgentClient, identity: ProcessIdentity, output: ProcessOutput, logger: Logger, timer: Timer = systemTimer) {
    this.containerId = identity.containerId;
    this.execId = identity.execId;
    this.#client = client;
    this.#logger = logger;
    this.#timer = timer;
    const { readStdout, readStderr } = AgentService.method;
    const pumps = [this.#pump(readStdout, output.stdout), ...(identity.terminal ? [] : [this.#pump(readStderr, output.stderr)])];
    this.copied = Promise.allSettled(pumps).then(() => undefined);
    this.exited = this.#run(Promise.all(pumps)).finally(() => this.#cancelHurry?.());
    this.exited.catch(() => undefined);
  }

  /** @throws {SandboxError} as {@link AgentClient.call} */
  async writeStdin(bytes: Uint8Array): Promise<void> {
    // An empty write would close the stream.
    for (let at = 0; at < bytes.length; at += WRITE_LENGTH) {
      await this.#client.poll(AgentService.method.writeStdin, { ...this.#id, data: bytes.slice(at, at + WRITE_LENGTH) });
    }
  }

  async closeStdin(): Promise<void> {
    await this.#client.call(AgentService.method.closeStdin, this.#id);
  }

  async resize(rows: number, columns: number): Promise<void> {
    await this.#client.call(AgentService.method.ttyWinResize, { ...this.#id, row: rows, column: columns });
  }

  /** Sends a signal to this process alone. */
  async signal(signal: number): Promise<void> {
    await this.#client.call(AgentService.method.signalProcess, { ...this.#id, signal });
  }

  /** A SIGKILL has reached it, whoever sent it: sinks that do not take the rest do not hold up {@link exited} for long. */
  killed(): void {
    this.#cancelHurry ??= this.#timer.after(KILLED_LIMIT, () => {
      this.#hurried = true;
      this.#stall.resolve();
    });
  }

  get #id(): { readonly containerId: string; readonly execId: string } {
    return { containerId: this.containerId, execId: this.execId };
  }

  /**
   * The order matters: WaitProcess throws away output that was not read (specs/runtime.md 2.6). But whether a process has ended shows in its output or by
   * WaitProcess alone, and while a sink takes nothing no output is read: then it is asked all the same. What an agent throws away if the process ends meanwhile
   * is at most what its pipes hold (the agent of this project keeps it), and its reader may never have come for it.
   */
  async #run(copying: Promise<unknown>): Promise<number> {
    await Promise.race([copying, this.#stalling()]);
    const { status } = await this.#client.poll(AgentService.method.waitProcess, this.#id);
    // The sink may have got on meanwhile, and the machine may have ended: the status is known.
    await Promise.race([this.copied, this.#stalling()]);
    return status;
  }

  /** Resolves when a sink holds up the news of the end for too long. */
  async #stalling(): Promise<void> {
    while (this.#stalled === 0 && !this.#hurried) await this.#stall.promise;
  }

  async #write(sink: ByteSink, data: Uint8Array): Promise<void> {
    let late = false;
    const cancel = this.#timer.after(STALL_LIMIT, () => {
      late = true;
      this.#stalled++;
      this.#stall.resolve();
      this.#stall = Promise.withResolvers();
    });
    try {
      await sink.write(data);
    } finally {
      cancel();
      if (late) this.#stalled--;
    }
  }

  async #pump(method: typeof AgentService.method.readStdout | typeof AgentService.method.readStderr, sink: ByteSink | undefined): Promise<void> {
    let open = sink;
    for (;;) {
      const data = await this.#read(method);
      if (data.length === 0) return;
      try {
        if (open !== undefined) await this.#write(open, data);
      } catch (error) {
        this.#logger.log("warn", "output is dropped from here on", { container: this.containerId, stream: method.name, error: messageOf(error) });
        open = undefined;
      }
    }
  }

  /** The next bytes; none at the end, and none if the agent no longer knows the stream. */
  async #read(method: typeof AgentService.method.readStdout | typeof AgentService.method.readStderr): Promise<Uint8Array> {
    try {
      return (await this.#client.poll(method, { ...this.#id, len: READ_LENGTH })).data;
    } catch (error) {
      if (!(error instanceof SandboxError) || error.code === "ERR_SANDBOX_CLOSED") throw error;
      this.#logger.log("warn", "a stream cannot be read", { container: this.containerId, stream: method.name, error: error.message });
      return new Uint8Array();
    }
  }
}
