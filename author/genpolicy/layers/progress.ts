import type { Clock } from "@sealpod/core";

/** What happens to layers, for whoever shows it. Layers go by their diff ids (`sha256:…`). */
export interface LayerProgress {
  /** The cache knows the layer; nothing is read. */
  cached(layer: string): void;
  /** The layer will be read. */
  queued(layer: string): void;
  /** Reading has begun. @param size bytes as stored */
  start(layer: string, size: number): void;
  /** @param bytes all that were read so far */
  advance(layer: string, bytes: number): void;
  done(layer: string): void;
}

/** Shows nothing. */
export const silentProgress: LayerProgress = {
  cached: () => undefined,
  queued: () => undefined,
  start: () => undefined,
  advance: () => undefined,
  done: () => undefined,
};

/** Where progress is drawn. */
export interface ProgressTerminal {
  write(text: string): void;
  /** Width now; users resize their windows. */
  columns(): number;
}

/** Milliseconds between two drawings. */
const REDRAW = 100;

/** Milliseconds over which the rate is taken: long enough to be calm, short enough to show that a download stalls. */
const RATE_WINDOW = 4000;

/** Layers drawn at a time; more cores than lines are no help to the reader. */
const MAX_LINES = 8;

const BAR = 20;

interface Row {
  readonly size: number;
  bytes: number;
  /** Where the rate is counted from: time and bytes, then the same of half a window later. */
  from: Sample;
  next: Sample;
}

interface Sample {
  readonly time: number;
  readonly bytes: number;
}

/** Draws a line for each layer that is being read and one for all, in place. For terminals only: others take {@link silentProgress}. */
export class TerminalProgress implements LayerProgress, Disposable {
  readonly #terminal: ProgressTerminal;
  readonly #clock: Clock;
  readonly #rows = new Map<string, Row>();
  #drawn = 0;
  #lastDraw = Number.NEGATIVE_INFINITY;
  #total = 0;
  #done = 0;
  #cached = 0;

  constructor(terminal: ProgressTerminal, clock: Clock) {
    this.#terminal = terminal;
    this.#clock = clock;
  }

  cached(_layer: string): void {
    this.#cached++;
  }

  queued(_layer: string): void {
    this.#total++;
  }

  start(layer: string, size: number): void {
    const sample = { time: this.#clock.now(), bytes: 0 };
    this.#rows.set(layer, { size, bytes: 0, from: sample, next: sample });
    this.#draw();
  }

  advance(layer: string, bytes: number): void {
    const row = this.#rows.get(layer);
    if (row === undefined) return;
    row.bytes = bytes;
    const time = this.#clock.now();
    if (time - row.next.time >= RATE_WINDOW / 2) {
      row.from = row.next;
      row.next = { time, bytes };
    }
    this.#draw();
  }

  done(layer: string): void {
    this.#rows.delete(layer);
    this.#done++;
    this.#draw();
  }

  /** Takes the lines away. */
  clear(): void {
    if (this.#drawn > 0) this.#terminal.write(this.#home());
    this.#drawn = 0;
  }

  [Symbol.dispose](): void {
    this.clear();
  }

  #draw(): void {
    const now = this.#clock.now();
    if (now - this.#lastDraw < REDRAW) return;
    this.#lastDraw = now;
    // The last column stays free: a full line would wrap on some terminals and upset the count of lines.
    const width = Math.max(0, this.#terminal.columns() - 1);
    const lines = [...this.#rows].slice(0, MAX_LINES).map(([layer, row]) => lineOf(layer, row, now, width));
    lines.push(`layers: ${this.#done} of ${this.#total} read${this.#cached === 0 ? "" : `, ${this.#cached} known`}`.slice(0, width));
    this.#terminal.write(`${this.#home()}${lines.join("\n")}\n`);
    this.#drawn = lines.length;
  }

  /** Back to the first line that was drawn, and everything below away. */
  #home(): string {
    return this.#drawn === 0 ? "" : `\u001b[${this.#drawn}A\r\u001b[J`;
  }
}

function lineOf(layer: string, row: Row, now: number, width: number): string {
  const share = row.size === 0 ? 1 : Math.min(1, row.bytes / row.size);
  const seconds = (now - row.from.time) / 1000;
  const rate = seconds > 0 ? (row.bytes - row.from.bytes) / seconds : 0;
  const left = rate > 0 ? Math.ceil(Math.max(0, row.size - row.bytes) / rate) : undefined;
  const parts = [
    layer.replace(/^sha256:/, "").slice(0, 12),
    `${Math.floor(share * 100)}%`.padStart(4),
    `${megabytes(row.bytes)}/${megabytes(row.size)} MB`,
    `${megabytes(rate)} MB/s`,
    left === undefined ? "" : `${duration(left)} left`,
  ];
  const filled = Math.round(share * BAR);
  const withBar = [parts[0], `[${"=".repeat(filled)}${" ".repeat(BAR - filled)}]`, ...parts.slice(1)].join("  ").trimEnd();
  if (withBar.length <= width) return withBar;
  // What is cut off first is what matters least.
  let line = parts[0] ?? "";
  for (const part of parts.slice(1)) {
    if (line.length + 2 + part.length > width) break;
    line += `  ${part}`;
  }
  return line.trimEnd().slice(0, width);
}

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(1);
}

function duration(seconds: number): string {
  if (seconds < 100) return `${seconds} s`;
  return seconds < 6000 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}
