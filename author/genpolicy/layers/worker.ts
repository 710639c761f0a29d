/** Entry of a worker thread that reads layers for {@link "./pool.ts"}. Started by the pool alone. */
import { parentPort } from "node:worker_threads";
import { measureLayer } from "./measure-layer.ts";
import { failureOf, type FromWorker, type ToWorker } from "./protocol.ts";

/** The bytes of one layer as they come in by message. */
class Inbox implements AsyncIterable<Uint8Array> {
  readonly #used: (buffer: ArrayBuffer) => void;
  readonly #waiting: { readonly buffer: ArrayBuffer; readonly length: number }[] = [];
  #state: "open" | "ended" | "stopped" = "open";
  #wake: () => void = () => undefined;

  constructor(used: (buffer: ArrayBuffer) => void) {
    this.#used = used;
  }

  put(buffer: ArrayBuffer, length: number): void {
    this.#waiting.push({ buffer, length });
    this.#wake();
  }

  close(state: "ended" | "stopped"): void {
    this.#state = state;
    this.#wake();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    for (;;) {
      if (this.#state === "stopped") throw new Error("stopped");
      const next = this.#waiting.shift();
      if (next !== undefined) {
        yield new Uint8Array(next.buffer, 0, next.length);
        // Asked for more: these bytes are done with. Whoever kept a view of them finds it empty, and the hashes wrong.
        this.#used(next.buffer);
      } else if (this.#state === "ended") {
        return;
      } else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
  }
}

/** Serves layers that come in through a port, one after the other. */
function serve(port: NonNullable<typeof parentPort>): void {
  const send = (message: FromWorker, transfer: readonly ArrayBuffer[] = []): void => port.postMessage(message, transfer);
  let inbox: Inbox | undefined;
  port.on("message", (message: ToWorker) => {
    switch (message.kind) {
      case "layer": {
        inbox = new Inbox((buffer) => send({ kind: "used", buffer }, [buffer]));
        measureLayer(message.layer, inbox, message.wish).then(
          (facts) => {
            inbox = undefined;
            send({ kind: "facts", facts });
          },
          (error: unknown) => {
            // Bytes that are still on their way here fall through below.
            inbox = undefined;
            send({ kind: "failed", failure: failureOf(error) });
          },
        );
        break;
      }
      case "bytes":
        inbox?.put(message.buffer, message.length);
        break;
      case "end":
        inbox?.close("ended");
        break;
      case "stop":
        inbox?.close("stopped");
        break;
    }
  });
}

if (parentPort !== null) serve(parentPort);
