import { messageOf, type Logger } from "@sealpod/core";
import type { IdentityStore } from "./store.ts";

/** Calls an action again and again. */
export interface RotationTimer {
  /** @returns what ends it */
  every(milliseconds: number, action: () => void): () => void;
}

/** How often the schedule is looked at, and the keys of other processes are read. A new key stands in the database for longer before it signs. */
export const ROTATION_INTERVAL: number = 60 * 1000;

/** A rotation that runs. */
export interface KeyRotation {
  /** Ends it, and waits for a step that is under way: the database can be closed then. */
  stop(): Promise<void>;
}

/** Follows the schedule of the signing keys, at once and then every {@link ROTATION_INTERVAL}. A step that fails is logged and tried again at the next. */
export function startKeyRotation({
  store,
  timer,
  logger,
}: {
  readonly store: IdentityStore;
  readonly timer: RotationTimer;
  readonly logger: Logger;
}): KeyRotation {
  let running: Promise<void> | undefined;
  const step = async (): Promise<void> => {
    try {
      const done = await store.rotate();
      if (done.length > 0) logger.log("info", "signing keys changed", { done: done.join(", ") });
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
