import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import type { Duplex, Readable } from "node:stream";
import { VmmError } from "./errors.ts";

/** How a child process ended. */
export interface ChildExit {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** Bytes of output that are kept for an error message. */
const TAIL_LENGTH = 4096;

/** What a child process is. */
export interface ChildOptions {
  readonly program: string;
  readonly args: readonly string[];
  /** Its PATH. There is nothing else in its environment: the host's may hold secrets. */
  readonly directories: readonly string[];
  /** Pipes that it has as descriptors, from 3 on. */
  readonly pipes?: 0 | 1 | 2;
  readonly output?: ((bytes: Uint8Array) => void) | undefined;
  /** Takes the standard output, which is then no part of `output` and of the tail: where it is the guest's, and only errors are the program's. */
  readonly standardOutput?: ((bytes: Uint8Array) => void) | undefined;
}

/** A child process without input whose output is taken. */
export class Child {
  readonly process: ChildProcess;
  /** Never rejects; a program that cannot be started counts as ended. */
  readonly exited: Promise<ChildExit>;
  #tail: Uint8Array = new Uint8Array();

  constructor({ program, args, directories, pipes = 0, output, standardOutput }: ChildOptions) {
    const child = spawn(program, args, {
      stdio: ["ignore", "pipe", "pipe", ...(["pipe", "pipe"] as const).slice(0, pipes)],
      env: { PATH: directories.join(":") },
      // In a session of its own: Ctrl-C at a terminal goes to the program that drives the machine, which then ends it in order.
      detached: true,
    });
    this.process = child;
    const take = (bytes: Buffer): void => {
      this.#tail = Buffer.concat([this.#tail, bytes]).subarray(-TAIL_LENGTH);
      output?.(bytes);
    };
    child.stdout?.on("data", standardOutput ?? take);
    child.stderr?.on("data", take);
    for (const pipe of child.stdio.slice(3)) pipe?.on("error", () => undefined);
    this.exited = new Promise((resolve) => {
      child.once("exit", (exitCode, signal) => resolve({ exitCode, signal }));
      child.once("error", (error) => {
        take(Buffer.from(`${error.message}\n`));
        if (child.pid === undefined) resolve({ exitCode: null, signal: null });
      });
    });
  }

  /** Our end of the pipe that the child has as descriptor `number`. */
  descriptor(number: 3 | 4): Duplex {
    return this.process.stdio[number] as Duplex;
  }

  /** The end of what the child printed, for messages. */
  get tail(): string {
    return new TextDecoder().decode(this.#tail).trim();
  }

  /** Its process id. That of a program that could not be started is 0, which is nobody's. */
  get pid(): number {
    return this.process.pid ?? 0;
  }

  get running(): boolean {
    return this.process.pid !== undefined && this.process.exitCode === null && this.process.signalCode === null;
  }

  /** Runs `ask`, and `force` if the process has not ended `limitMs` later. Resolves when it has ended. */
  async end(ask: () => void, limitMs: number, force: () => void = () => this.process.kill("SIGKILL")): Promise<ChildExit> {
    if (this.running) ask();
    const timer = setTimeout(() => this.running && force(), limitMs);
    try {
      return await this.exited;
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Longest line of a readiness pipe. */
const MAX_LINE_LENGTH = 64;

/** Waits for the lines that a child writes to a readiness pipe. */
export class ReadyPipe {
  readonly #stream: Readable;
  #text = "";

  constructor(stream: Readable) {
    this.#stream = stream;
  }

  /**
   * Resolves when the next line has come. At the end of the pipe it stays pending: what became of the process says more.
   * @throws {VmmError} ERR_VMM_BOOT on another line
   */
  async expect(line: string): Promise<void> {
    for (;;) {
      const end = this.#text.indexOf("\n");
      if (end >= 0) {
        const found = this.#text.slice(0, end);
        this.#text = this.#text.slice(end + 1);
        if (found === line) return;
        throw new VmmError("ERR_VMM_BOOT", `readiness pipe: found ${JSON.stringify(found)}, expected ${JSON.stringify(line)}`);
      }
      if (this.#text.length > MAX_LINE_LENGTH) throw new VmmError("ERR_VMM_BOOT", `readiness pipe: a line is longer than ${MAX_LINE_LENGTH} characters`);
      const chunk = await nextChunk(this.#stream);
      if (chunk === undefined) return new Promise(() => undefined);
      this.#text += chunk;
    }
  }
}

/** The next bytes of a stream as text, or undefined at its end. */
export async function nextChunk(stream: Readable): Promise<string | undefined> {
  for (;;) {
    const chunk = stream.read() as Buffer | null;
    if (chunk !== null) return chunk.toString("latin1");
    if (stream.readableEnded || stream.destroyed) return undefined;
    await Promise.race([once(stream, "readable"), once(stream, "end"), once(stream, "close")]);
  }
}
