import { asObject, decodeUtf8, encodeJson, messageOf, parseJson, type JsonObject, type JsonValue } from "@sealpod/core";
import type { ByteStream } from "@sealpod/ttrpc";
import { VmmError } from "../errors.ts";

/** Something that QEMU tells without being asked. */
export interface QmpEvent {
  /** For example `SHUTDOWN`. */
  readonly name: string;
  readonly data: JsonObject;
}

/** What {@link QmpClient} needs. */
export interface QmpOptions {
  readonly onEvent?: (event: QmpEvent) => void;
  /** Milliseconds until an answer that does not come ends the connection. Default {@link ANSWER_LIMIT}. */
  readonly answerLimitMs?: number;
}

/** Milliseconds. QEMU answers in less than ten; on a host that is out of memory or processors it takes seconds. */
export const ANSWER_LIMIT = 30_000;

/** Longest line, in bytes: the greeting has about 200, a list of 64 disks about 60 KiB. */
export const MAX_LINE_LENGTH: number = 1024 * 1024;

/** Nesting of an answer; those that are used here have at most five levels. */
const MAX_DEPTH = 32;

/** Characters of QEMU's own reasons that are passed on. */
const MAX_REASON_LENGTH = 400;

interface Waiting {
  readonly command: string;
  readonly resolve: (value: JsonValue) => void;
  readonly reject: (error: VmmError) => void;
  readonly timer: NodeJS.Timeout;
}

/**
 * A client of the QEMU machine protocol (QEMU, "QEMU Machine Protocol Specification") over one connection. A QEMU that its guest has taken
 * over is hostile: what breaks the protocol ends the connection, and with it all that wait.
 */
export class QmpClient {
  /** Resolves with the reason when the connection has ended. Never rejects. */
  readonly closed: Promise<string>;
  readonly #stream: ByteStream;
  readonly #options: QmpOptions;
  readonly #waiting = new Map<number, Waiting>();
  readonly #greeted: PromiseWithResolvers<void> = Promise.withResolvers<void>();
  #isGreeted = false;
  #nextId = 1;
  #end: string | undefined;
  #written: Promise<void> = Promise.resolve();

  private constructor(stream: ByteStream, options: QmpOptions) {
    this.#stream = stream;
    this.#options = options;
    this.#greeted.promise.catch(() => undefined);
    this.closed = this.#read();
  }

  /**
   * Waits for QEMU's greeting and leaves the mode in which it only negotiates.
   * @throws {VmmError} ERR_VMM_MONITOR
   */
  static async open(stream: ByteStream, options: QmpOptions = {}): Promise<QmpClient> {
    const client = new QmpClient(stream, options);
    const limit = options.answerLimitMs ?? ANSWER_LIMIT;
    const timer = setTimeout(() => client.#fail(`no greeting after ${limit} ms`), limit);
    try {
      await client.#greeted.promise;
    } finally {
      clearTimeout(timer);
    }
    await client.execute("qmp_capabilities");
    return client;
  }

  /**
   * Runs a command; resolves with what it returns.
   * @throws {VmmError} ERR_VMM_MONITOR with QEMU's reason, or when the connection ends before the answer
   */
  execute(command: string, parameters: JsonObject = {}): Promise<JsonValue> {
    if (this.#end !== undefined) return Promise.reject(monitorError(`${command}: the connection has ended: ${this.#end}`));
    const id = this.#nextId++;
    const { promise, resolve, reject } = Promise.withResolvers<JsonValue>();
    const limit = this.#options.answerLimitMs ?? ANSWER_LIMIT;
    const timer = setTimeout(() => this.#fail(`no answer to ${command} after ${limit} ms`), limit);
    this.#waiting.set(id, { command, resolve, reject, timer });
    const line = Buffer.from(`${encodeJson({ execute: command, arguments: parameters, id })}\n`);
    this.#written = this.#written.then(() => this.#stream.write(line)).catch((error: unknown) => this.#fail(messageOf(error)));
    return promise;
  }

  /**
   * Runs a line of the human monitor, for what has no command of its own; resolves with what it prints.
   * @throws {VmmError} ERR_VMM_MONITOR
   */
  async humanMonitor(line: string): Promise<string> {
    const answer = await this.execute("human-monitor-command", { "command-line": line });
    if (typeof answer !== "string") throw monitorError(`human-monitor-command: the answer is no text`);
    return cleanReason(answer);
  }

  /** Ends the connection. */
  close(): void {
    this.#fail("closed");
  }

  async #read(): Promise<string> {
    try {
      for await (const line of splitLines(this.#stream.readable)) {
        this.#take(line);
        if (this.#end !== undefined) break;
      }
      this.#fail("QEMU closed it");
    } catch (error) {
      this.#fail(messageOf(error));
    }
    return this.#end ?? "";
  }

  #take(line: string): void {
    const message = asObject(parseJson(line, "QMP message", { maxLength: MAX_LINE_LENGTH, maxDepth: MAX_DEPTH }));
    if (message === undefined) throw monitorError("QMP message: expected an object");
    if (!this.#isGreeted) {
      if (asObject(message["QMP"]) === undefined) throw monitorError("QMP: the first message is no greeting");
      this.#isGreeted = true;
      this.#greeted.resolve();
      return;
    }
    const event = message["event"];
    if (typeof event === "string") {
      this.#options.onEvent?.({ name: event, data: asObject(message["data"]) ?? {} });
      return;
    }
    const id = message["id"];
    const waiting = typeof id === "number" ? this.#waiting.get(id) : undefined;
    // An answer to nothing: whoever sends it has lost count, and the next answer may be to another question than it says.
    if (waiting === undefined) throw monitorError("QMP: an answer to no command");
    const failure = asObject(message["error"]);
    const hasReturn = Object.hasOwn(message, "return");
    if (hasReturn === (failure !== undefined)) throw monitorError(`QMP: the answer to ${waiting.command} is neither a return nor an error`);
    this.#waiting.delete(id as number);
    clearTimeout(waiting.timer);
    if (failure === undefined) waiting.resolve(message["return"] ?? null);
    else waiting.reject(monitorError(`${waiting.command}: ${reasonOf(failure["desc"])}`));
  }

  #fail(reason: string): void {
    if (this.#end !== undefined) return;
    this.#end = reason;
    this.#stream.close();
    this.#greeted.reject(monitorError(`the connection ended before QEMU greeted: ${reason}`));
    for (const { command, reject, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(monitorError(`${command}: the connection ended before the answer: ${reason}`));
    }
    this.#waiting.clear();
  }
}

/** Lines without their ends. What comes after the last one, at the end of the stream, is nobody's message. */
async function* splitLines(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<string, void, undefined> {
  let parts: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of chunks) {
    let from = 0;
    for (;;) {
      const end = chunk.indexOf(0x0a, from);
      const part = chunk.subarray(from, end < 0 ? undefined : end);
      length += part.length;
      if (length > MAX_LINE_LENGTH) throw monitorError(`QMP: a line is longer than ${MAX_LINE_LENGTH} bytes`);
      parts.push(part);
      if (end < 0) break;
      yield decodeUtf8(Buffer.concat(parts), "QMP message");
      parts = [];
      length = 0;
      from = end + 1;
    }
  }
}

function reasonOf(description: JsonValue | undefined): string {
  return typeof description === "string" ? cleanReason(description) : "an error without a description";
}

/** QEMU's words may repeat those of its guest. */
function cleanReason(text: string): string {
  return text
    .slice(0, MAX_REASON_LENGTH)
    .replaceAll(/[^\x20-\x7e]+/g, " ")
    .trim();
}

function monitorError(message: string): VmmError {
  return new VmmError("ERR_VMM_MONITOR", message);
}
