import { messageOf, type ByteSink, type Logger } from "@sealpod/core";
import { AgentService } from "@sealpod/proto";
import type { AgentClient } from "./agent-client.ts";
import { SandboxError } from "./errors.ts";

/** Bytes asked for by one read: a pipe, and the most that our agent gives. Other shims ask for half of it. */
const READ_LENGTH: number = 64 * 1024;

/** Bytes of one write: far below the largest message. */
const WRITE_LENGTH: number = 1024 * 1024;

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
   * Exit status, 128 + number for a signal, once all output has come.
   * Rejects with {@link SandboxError} ERR_SANDBOX_CLOSED if the machine ends first, ERR_SANDBOX_DENIED if the policy hides it.
   */
  readonly exited: Promise<number>;
  readonly #client: AgentClient;
  readonly #logger: Logger;

  constructor(client: AgentClient, identity: ProcessIdentity, output: ProcessOutput, logger: Logger) {
    this.containerId = identity.containerId;
    this.execId = identity.execId;
    this.#client = client;
    this.#logger = logger;
    this.exited = this.#run(identity.terminal, output);
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

  get #id(): { readonly containerId: string; readonly execId: string } {
    return { containerId: this.containerId, execId: this.execId };
  }

  // The order matters: WaitProcess throws away output that was not read (specs/runtime.md 2.6).
  async #run(terminal: boolean, output: ProcessOutput): Promise<number> {
    const { readStdout, readStderr, waitProcess } = AgentService.method;
    await Promise.all([this.#pump(readStdout, output.stdout), ...(terminal ? [] : [this.#pump(readStderr, output.stderr)])]);
    return (await this.#client.poll(waitProcess, this.#id)).status;
  }

  async #pump(method: typeof AgentService.method.readStdout | typeof AgentService.method.readStderr, sink: ByteSink | undefined): Promise<void> {
    let open = sink;
    for (;;) {
      const data = await this.#read(method);
      if (data.length === 0) return;
      try {
        await open?.write(data);
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
