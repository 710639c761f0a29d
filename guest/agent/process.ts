import { Output } from "./output.ts";
import type { RuntimeProcess } from "./runtime.ts";
import { AgentError } from "./errors.ts";

/** SIGRTMAX. */
const MAX_SIGNAL = 64;

/** A process of a container: its streams, its signals, its end. */
export class ContainerProcess {
  readonly stdout: Output;
  readonly stderr: Output;
  readonly #runtime: RuntimeProcess;
  readonly #status: Promise<number>;
  #waited = false;
  #ended = false;

  /** @param onEnd called when it has ended, before anyone who waits is told */
  constructor(runtime: RuntimeProcess, onEnd: () => void = () => undefined) {
    this.#runtime = runtime;
    this.#status = runtime.exited.then((status) => {
      this.#ended = true;
      onEnd();
      return status;
    });
    this.stdout = new Output(runtime.stdout, runtime.exited);
    this.stderr = new Output(runtime.stderr, runtime.exited);
    // A process that closes its input, or dies, breaks the pipe: the pending write is told, nobody else has to know.
    runtime.stdin.on("error", () => undefined);
  }

  /** True once it has exited, waited for or not. */
  get ended(): boolean {
    return this.#ended;
  }

  /** True after its status was given to a waiter: it can be read to its end, but not be found otherwise. */
  get waited(): boolean {
    return this.#waited;
  }

  /** True when nothing is left of it: waited for, and read to the end. */
  get spent(): boolean {
    return this.#waited && this.stdout.ended && this.stderr.ended;
  }

  /** Exit status, 128+n after signal n. All waiters that came before the end get it. */
  async wait(): Promise<number> {
    const status = await this.#status;
    this.#waited = true;
    return status;
  }

  /**
   * Sends a signal; a process that is gone already is no error.
   * @throws {AgentError} ERR_AGENT_REQUEST if there is no such signal
   */
  signal(signal: number): void {
    if (signal < 1 || signal > MAX_SIGNAL) throw new AgentError("ERR_AGENT_REQUEST", `there is no signal ${signal}`);
    this.#runtime.signal(signal);
  }

  /**
   * Sets the size of its terminal.
   * @throws {AgentError} ERR_AGENT_NO_TTY without one, ERR_AGENT_REQUEST for a size no terminal has
   */
  resize(rows: number, columns: number): void {
    const { resize } = this.#runtime;
    if (resize === undefined) throw new AgentError("ERR_AGENT_NO_TTY", "no tty");
    resize(rows, columns);
  }

  /**
   * Writes all bytes, waiting for the process to take them; no bytes close the stream, as the API has it.
   * @throws {AgentError} ERR_AGENT_STATE if the process closed its input
   */
  async write(data: Uint8Array): Promise<void> {
    if (data.length === 0) return this.closeStdin();
    const { promise, resolve } = Promise.withResolvers<Error | null | undefined>();
    this.#runtime.stdin.write(data, resolve);
    const cause = await promise;
    if (cause) throw new AgentError("ERR_AGENT_STATE", "the process has closed its standard input", { cause });
  }

  closeStdin(): void {
    this.#runtime.stdin.end();
  }

  /** Closes the streams of a process that has ended. */
  close(): void {
    this.stdout.close();
    this.stderr.close();
    this.#runtime.stdin.destroy();
  }
}
