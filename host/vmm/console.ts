import type { MachineEvent } from "./driver.ts";

/** Bytes of a console that are kept: the last screens before a machine ended, which are what its operator looks at. */
export const CONSOLE_TAIL_LENGTH: number = 16 * 1024;

/** Characters of a line that are looked at, and told. */
const MAX_LINE_LENGTH = 400;

/** Events that are told of one machine: the guest could print them without end. */
const MAX_EVENTS = 100;

/** The line of a guest's first process that says how the agent ended. */
const AGENT_END = /^sealpod-init: agent ended with ([0-9]{1,3})$/;

/** What the kernel prints (drivers/md/dm-verity-target.c, kernel/panic.c), behind a time stamp or not. */
const SIGNS: readonly { readonly kind: MachineEvent["kind"]; readonly pattern: RegExp }[] = [
  { kind: "corrupt-disk", pattern: /device-mapper: verity: (?:\S+ )?(?:data|metadata) block [0-9]+ is corrupted/ },
  { kind: "panic", pattern: /Kernel panic - not syncing/ },
];

/**
 * Takes what a guest prints: keeps the end of it, and finds the lines that say that something happened. All of it is the guest's word: it
 * serves a diagnosis, and nothing is decided by it.
 */
export class MachineConsole {
  readonly #tell: (event: MachineEvent) => void;
  #tail = Buffer.alloc(0);
  #line = "";
  #told = 0;
  #agentExitCode: number | undefined;

  constructor(tell: (event: MachineEvent) => void = () => undefined) {
    this.#tell = tell;
  }

  /** Takes the next bytes; a serial console gives them one by one. */
  push(bytes: Uint8Array): void {
    this.#tail = Buffer.concat([this.#tail, bytes.subarray(-CONSOLE_TAIL_LENGTH)]).subarray(-CONSOLE_TAIL_LENGTH);
    const [first = "", ...rest] = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("latin1").split("\n");
    this.#grow(first);
    for (const part of rest) {
      this.#endLine();
      this.#grow(part);
    }
  }

  /** The end of what was printed, fit for a terminal. */
  get tail(): string {
    return printable(this.#tail).trim();
  }

  /** What the guest says of the agent's end, if it has said it. */
  get agentExitCode(): number | undefined {
    return this.#agentExitCode;
  }

  #grow(part: string): void {
    this.#line += part.slice(0, MAX_LINE_LENGTH - this.#line.length);
  }

  #endLine(): void {
    const text = printable(this.#line).trim();
    this.#line = "";
    const code = AGENT_END.exec(text)?.[1];
    if (code !== undefined) this.#agentExitCode = Number(code);
    const sign = SIGNS.find(({ pattern }) => pattern.test(text));
    if (sign === undefined || this.#told >= MAX_EVENTS) return;
    this.#told++;
    this.#tell({ kind: sign.kind, text });
  }
}

/**
 * Text of a guest without what a terminal would obey: of control characters only line feeds and tabs stay, of the rest printable ASCII; each
 * run of others becomes one question mark.
 */
export function printable(text: Uint8Array | string): string {
  const latin1 = typeof text === "string" ? text : Buffer.from(text.buffer, text.byteOffset, text.length).toString("latin1");
  return latin1
    .replaceAll("\r\n", "\n")
    .replaceAll("\r", "")
    .replaceAll(/[^\t\n\x20-\x7e]+/g, "?");
}
