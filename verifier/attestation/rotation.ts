import { messageOf, type Logger } from "@sealpod/core";
import type { AttestationStore } from "./store.ts";

/** Calls an action again and again. */
export interface RotationTimer {
  /** @returns what ends it */
  every(milliseconds: number, action: () => void): () => void;
}

/** What {@link startKeyRotation} works with. */
export interface KeyRotationOptions {
  readonly store: AttestationStore;
  readonly timer: RotationTimer;
  readonly logger: Logger;
}

/** How often the schedule is looked at. A step that is late by as much harms nobody: a key signs a little longer. */
export const ROTATION_INTERVAL: number = 60 * 1000;

/** A rotation that runs. */
export interface KeyRotation {
  /** Ends it, and waits for a step that is under way: the database can be closed then. */
  stop(): Promise<void>;
}

/** Follows the schedule of the signing keys, at once and then every {@link ROTATION_INTERVAL}. A step that fails is logged and tried again at the next. */
export function startKeyRotation({ store, timer, logger }: KeyRotationOptions): KeyRotation {
  let running: Promise<void> | undefined;
  let owed = false;
  const step = async (): Promise<void> => {
    try {
      const done = await store.rotate();
      if (done.includes("drop-key")) logger.log("error", "the next signing key did not open with the master key, and was taken back");
      if (done.length > 0) logger.log("info", "signing keys changed", { done: done.join(", ") });
      if (store.erasureOwed && !owed) logger.log("warn", "the private half of a retired key may still be in the database's files: another program reads them");
      if (!store.erasureOwed && owed) logger.log("info", "no private half of a retired key is in the database's files any more");
      owed = store.erasureOwed;
    } catch (error) {
      logger.log("error", "the rotation of the signing keys failed", { problem: messageOf(error) });
    }
  };
  const tick = (): void => {
    running ??= step().finally(() => {
      running = undefined;
    });
  };
  tick();
  const end = timer.every(ROTATION_INTERVAL, tick);
  return {
    async stop() {
      end();
      await running;
    },
  };
}
