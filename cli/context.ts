import type { Clock, Random } from "@sealpod/core";

/** What a verb may touch of the world; `main.ts` fills it from the process, tests from memory. */
export interface CliContext {
  /** Environment variables. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Directory that relative paths start from. */
  readonly cwd: string;
  readonly stdin: AsyncIterable<Uint8Array>;
  /** Results: what another program may read. */
  readonly stdout: CliOutput;
  /** Progress and messages. */
  readonly stderr: CliOutput;
  readonly clock: Clock;
  /** Milliseconds, with fractions, on a clock that never goes back: for durations, not for dates. */
  elapsed(): number;
  readonly random: Random;
  /** Aborted by SIGINT or SIGTERM: a verb that stays ends what it started and returns. */
  readonly signal: AbortSignal;
}

/** A stream of text to the user. */
export interface CliOutput {
  readonly isTerminal: boolean;
  /** Width of the terminal now; undefined if it is none. */
  readonly columns?: number | undefined;
  write(text: string): void;
}

/** Exit codes of every verb (README, "Exit codes"). */
export const EXIT = { ok: 0, failed: 1, usage: 2, refused: 3 } as const;

/** Version of this CLI; one version for the whole repository. */
export const VERSION = "0.1.0";
