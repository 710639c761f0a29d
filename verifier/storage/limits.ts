import { StorageError } from "./errors.ts";

/** Bounds of a {@link Database}; all are positive. */
export interface StorageLimits {
  /** Most transactions that share one commit (SQLite). */
  readonly batchTransactions: number;
  /** Milliseconds after which a commit takes in no further transaction (SQLite): the event loop and other processes wait as long. */
  readonly batchTime: number;
  /** Most transactions and statements that wait for their turn; beyond it they are refused at once. */
  readonly waiting: number;
  /** Milliseconds for which a file that another process has locked is tried again, without blocking the event loop (SQLite). */
  readonly busyTime: number;
  /** Milliseconds that the work of one transaction may take: others wait for it. */
  readonly workTime: number;
  /** Milliseconds to wait for the server's answer to one statement (PostgreSQL). */
  readonly answerTime: number;
  /** Times that a transaction is tried before ERR_STORAGE_CONFLICT (PostgreSQL). */
  readonly attempts: number;
  /** Connections to the server (PostgreSQL). */
  readonly connections: number;
  /** Statements that stay prepared, for each connection. */
  readonly statements: number;
}

/** What holds where nothing else is asked for. */
export const DEFAULT_STORAGE_LIMITS: StorageLimits = {
  // A transaction of a few statements takes 50 µs: these take about as long as batchTime.
  batchTransactions: 128,
  // A sixth of the 60 ms in which the slowest release is to be answered.
  batchTime: 10,
  // Each is a request that waits; a service takes in far fewer at a time.
  waiting: 16_384,
  // A replica holds the lock for one batch; a checkpoint on a slow disk or a migration may take seconds.
  busyTime: 10_000,
  // Work awaits nothing but statements: what takes longer waits for itself, e.g. for another transaction inside of a transaction.
  workTime: 10_000,
  // Statements are short; a server that is silent for longer is gone.
  answerTime: 15_000,
  // With doubling pauses up to 100 ms: about a second of conflicts.
  attempts: 16,
  // PostgreSQL has 100 for all replicas by default.
  connections: 10,
  // The services have some eighty different ones.
  statements: 256,
};

/** @throws {StorageError} ERR_STORAGE_ARGUMENT */
export function storageLimits(given: Partial<StorageLimits> = {}): StorageLimits {
  const limits = { ...DEFAULT_STORAGE_LIMITS, ...given };
  for (const [name, value] of Object.entries(limits) as readonly [string, number][]) {
    if (!(value > 0 && Number.isFinite(value))) throw new StorageError("ERR_STORAGE_ARGUMENT", `the limit ${name} is ${value}, expected a positive number`);
  }
  return limits;
}

/** What storage needs of the world to wait: {@link WAITING} outside of tests. */
export interface WaitingPorts {
  /** Resolves after so many milliseconds. */
  pause(milliseconds: number): Promise<void>;
  /** A number from 0 up to, not including, 1: replicas that met once shall not meet again. */
  chance(): number;
}

/** The platform's timer and chance. */
export const WAITING: WaitingPorts = {
  pause: async (milliseconds) =>
    new Promise((resolve) => {
      setTimeout(resolve, milliseconds);
    }),
  chance: Math.random,
};
