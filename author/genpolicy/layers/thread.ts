import { getCompileCacheDir } from "node:module";
import { Worker } from "node:worker_threads";
import { messageOf } from "@sealpod/core";
import type { Layer } from "@sealpod/oci";
import { GenpolicyError } from "../errors.ts";
import type { LayerFacts, LayerWish } from "./facts.ts";
import { errorOf } from "./failure.ts";
import type { FromWorker, ToWorker } from "./protocol.ts";

/**
 * Buffers on their way to a thread and back: enough to keep it busy. The same ones go round and round: new ones for all bytes
 * would be garbage that the engine lets pile up, in every thread, to more than the 200 MiB that the whole tool may take.
 */
const BUFFERS = 8;
const BUFFER_SIZE = 256 * 1024;

/** MiB for new objects in a thread. Little, so that the buffers that zlib fills are let go soon: they are outside, and the engine counts late what they take. */
const YOUNG_GENERATION = 2;

/** A layer that a thread is reading. */
interface Job {
  readonly layer: Layer;
  readonly outcome: PromiseWithResolvers<LayerFacts>;
  /** Buffers that are not on their way. */
  readonly free: ArrayBuffer[];
  /** The outcome is known: nothing may be sent any more. */
  over: boolean;
  /** Continues the sender when it waits for a buffer. */
  wake: () => void;
}

/** A worker thread that reads one layer at a time (the other end is worker.ts). */
export class LayerThread {
  readonly #worker: Worker;
  readonly #on: { readonly idle: () => void; readonly gone: () => void };
  #job: Job | undefined;

  /** @param on `idle`: it has read its layer and takes another; `gone`: it has ended, for whatever reason */
  constructor(entry: URL, on: { readonly idle: () => void; readonly gone: () => void }) {
    this.#on = on;
    // The flags and the environment of this process are not for it; but with the compile cache it starts in a third of the time.
    const compileCache = getCompileCacheDir();
    this.#worker = new Worker(entry, {
      execArgv: [],
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_GENERATION },
      env: compileCache === undefined ? {} : { NODE_COMPILE_CACHE: compileCache },
      name: "layer",
    });
    this.#worker.on("message", (message: FromWorker) => this.#receive(message));
    this.#worker.on("messageerror", (error) => this.#died(messageOf(error)));
    this.#worker.on("error", (error) => this.#died(messageOf(error)));
    this.#worker.on("exit", (code) => {
      this.#died(`it ended with exit code ${code}`);
      this.#on.gone();
    });
  }

  /**
   * Reads a layer; call it again only after `idle`.
   * @throws {OciError}, {VerityError} for the layer; GenpolicyError ERR_GENPOLICY_IMAGE if the thread ends; the error of `blob`; the signal's reason
   */
  async read(layer: Layer, blob: AsyncIterable<Uint8Array>, wish: LayerWish, signal: AbortSignal): Promise<LayerFacts> {
    const job: Job = { layer, outcome: Promise.withResolvers(), free: newBuffers(), over: false, wake: () => undefined };
    this.#job = job;
    this.#worker.ref();
    this.#send({ kind: "layer", layer, wish });
    const stop = (): void => this.#stop(job);
    signal.addEventListener("abort", stop);
    const source = blob[Symbol.asyncIterator]();
    // Set if the source fails: that, and not what the thread makes of it, is what the caller must know.
    let sourceError: { readonly error: unknown } | undefined;
    void this.#pump(source, job).catch((error: unknown) => {
      sourceError = { error };
      stop();
    });
    try {
      return await job.outcome.promise;
    } catch (error) {
      signal.throwIfAborted();
      throw sourceError === undefined ? error : sourceError.error;
    } finally {
      signal.removeEventListener("abort", stop);
      // A source that is waiting for its next bytes ends when they come; nobody waits for that.
      Promise.resolve(source.return?.()).catch(() => undefined);
    }
  }

  async end(): Promise<void> {
    await this.#worker.terminate();
  }

  /** Copies the source into buffers and sends the full ones. A copy, because a chunk may be a view of memory that the source goes on using. */
  async #pump(source: AsyncIterator<Uint8Array>, job: Job): Promise<void> {
    let buffer: Uint8Array<ArrayBuffer> | undefined;
    let length = 0;
    const flush = (): void => {
      if (buffer !== undefined) this.#send({ kind: "bytes", buffer: buffer.buffer, length }, [buffer.buffer]);
      buffer = undefined;
      length = 0;
    };
    for (;;) {
      const next = await source.next();
      if (job.over) return;
      if (next.done === true) break;
      let rest = next.value;
      while (rest.length > 0) {
        if (buffer === undefined) {
          while (job.free.length === 0) {
            await new Promise<void>((resolve) => {
              job.wake = resolve;
            });
            if (job.over) return;
          }
          buffer = new Uint8Array(job.free.pop() ?? new ArrayBuffer(BUFFER_SIZE));
        }
        const piece = rest.subarray(0, BUFFER_SIZE - length);
        buffer.set(piece, length);
        length += piece.length;
        rest = rest.subarray(piece.length);
        if (length === BUFFER_SIZE) flush();
      }
    }
    flush();
    this.#send({ kind: "end" });
  }

  #stop(job: Job): void {
    if (!job.over) this.#send({ kind: "stop" });
  }

  #send(message: ToWorker, transfer: readonly ArrayBuffer[] = []): void {
    this.#worker.postMessage(message, transfer);
  }

  #receive(message: FromWorker): void {
    const job = this.#job;
    if (job === undefined) return;
    if (message.kind === "used") {
      job.free.push(message.buffer);
      job.wake();
      return;
    }
    this.#finish(job);
    this.#on.idle();
    if (message.kind === "facts") job.outcome.resolve(message.facts);
    else job.outcome.reject(errorOf(message.failure));
  }

  #died(problem: string): void {
    const job = this.#job;
    if (job === undefined) return;
    this.#finish(job);
    job.outcome.reject(
      new GenpolicyError("ERR_GENPOLICY_IMAGE", `the thread that read layer ${job.layer.digest} failed: ${problem}`, {
        details: { layer: job.layer.digest },
        hint: "Try again. If it happens again, the machine may be short of memory.",
      }),
    );
  }

  #finish(job: Job): void {
    job.over = true;
    this.#job = undefined;
    this.#worker.unref();
    job.wake();
  }
}

function newBuffers(): ArrayBuffer[] {
  return Array.from({ length: BUFFERS }, () => new ArrayBuffer(BUFFER_SIZE));
}
