import type { CliContext } from "./context.ts";

/** Longest progress line; terminals are at least this wide. */
const WIDTH = 78;

/** One line of progress on the terminal, rewritten in place. Silent if stderr is no terminal. */
export class Progress implements Disposable {
  readonly #context: CliContext;
  #shown = false;

  constructor(context: CliContext) {
    this.#context = context;
  }

  show(message: string): void {
    if (!this.#context.stderr.isTerminal) return;
    // eslint-disable-next-line no-control-regex -- a guest's output must not move the cursor or paint the terminal
    const line = message.replaceAll(/[\u0000-\u001f\u007f-\u009f]+/g, " ").slice(0, WIDTH);
    this.#context.stderr.write(`\r\u001b[2K${line}`);
    this.#shown = true;
  }

  clear(): void {
    if (this.#shown) this.#context.stderr.write("\r\u001b[2K");
    this.#shown = false;
  }

  [Symbol.dispose](): void {
    this.clear();
  }
}
