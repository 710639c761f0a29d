/**
 * The edges of the pure core. Nothing in `lib/` reads a clock, randomness or the network by itself: the entry points
 * pass these in, and tests pass their own.
 */

/** Wall clock. */
export interface Clock {
  /** Milliseconds since 1970-01-01T00:00:00Z. */
  now(): number;
}

/** Source of randomness fit for keys. */
export interface Random {
  /** `length` unpredictable bytes. */
  bytes(length: number): Uint8Array;
}

/** Severity of a log line, lowest first. */
export type LogLevel = "debug" | "info" | "warn" | "error";

/** Fields of a log line; keys, tokens and other secrets never go in. */
export type LogFields = Readonly<Record<string, string | number | boolean | bigint | null | undefined>>;

/** Structured log. */
export interface Logger {
  log(level: LogLevel, message: string, fields?: LogFields): void;
}

/** A logger that drops everything. */
export const silentLogger: Logger = { log: () => undefined };

const LEVELS: Readonly<Record<LogLevel, number>> = { debug: 20, info: 30, warn: 40, error: 50 };

/**
 * A logger that writes one JSON object per line with pino's field names (`level`, `time`, `msg`).
 * @param write receives each line, newline included
 * @param minimum lines below this level are dropped
 */
export function jsonLogger(clock: Clock, write: (line: string) => void, minimum: LogLevel, name?: string): Logger {
  return {
    log(level, message, fields = {}) {
      if (LEVELS[level] < LEVELS[minimum]) return;
      const line: Record<string, unknown> = { level: LEVELS[level], time: clock.now() };
      if (name !== undefined) line["name"] = name;
      for (const [key, value] of Object.entries(fields)) if (value !== undefined) line[key] = typeof value === "bigint" ? value.toString() : value;
      line["msg"] = message;
      write(`${JSON.stringify(line)}\n`);
    },
  };
}

/** Random access to bytes of a known size: a file, a block device. */
export interface ByteSource {
  /** Size in bytes. */
  readonly size: number;
  /** Exactly `length` bytes from `offset`; rejects if the range is not inside the source. */
  read(offset: number, length: number): Promise<Uint8Array>;
}

/** Takes bytes in order. */
export interface ByteSink {
  /** Resolves when the sink has taken the bytes (back-pressure). */
  write(bytes: Uint8Array): Promise<void>;
}

/** Read access to a tree of files by relative path with `/`. Implementations refuse paths that leave the tree. */
export interface FileTree {
  /** The whole file; rejects if it has more than `limit` bytes. */
  read(path: string, limit: number): Promise<Uint8Array>;
  /** The file in chunks. */
  stream(path: string): AsyncIterable<Uint8Array>;
  /** Size in bytes, or undefined if there is no such file. */
  size(path: string): Promise<number | undefined>;
}
