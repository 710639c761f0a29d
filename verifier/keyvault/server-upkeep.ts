import { messageOf, type Clock, type Logger } from "@sealpod/core";
import type { VaultStore } from "./store/types.ts";

/** How often the upkeep looks for work, in milliseconds. */
export const UPKEEP_INTERVAL: number = 10 * 60 * 1000;

/** What {@link startUpkeep} works with. */
export interface UpkeepOptions {
  readonly store: Pick<VaultStore, "upkeep" | "purgeExpired" | "rotateWrappingKey" | "wrappingKeyCreated">;
  /** Rotates the keys whose rotation policy says so; returns how many. */
  readonly rotateKeys: () => Promise<number>;
  /** Milliseconds after which a wrapping key is replaced. */
  readonly every: number;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly timer: { every(milliseconds: number, action: () => void): () => void };
}

/** The upkeep while it runs. */
export interface Upkeep {
  /** Ends it, and waits for what is under way: the database can be closed then. */
  stop(): Promise<void>;
}

/**
 * Does, at once and then every {@link UPKEEP_INTERVAL}, what nobody asks for: rotates keys by their policies, purges what was deleted long ago, replaces an old wrapping
 * key and takes up a replacement that was cut off. What fails is logged and tried again.
 */
export function startUpkeep(options: UpkeepOptions): Upkeep {
  const { store, logger, clock } = options;
  const steps: readonly { readonly what: string; readonly work: () => Promise<number> }[] = [
    { what: "keys rotated", work: options.rotateKeys },
    { what: "deleted keys and secrets purged", work: async () => store.purgeExpired() },
    {
      what: "records sealed with a new wrapping key",
      work: async () => (clock.now() - (await store.wrappingKeyCreated()) < options.every ? 0 : store.rotateWrappingKey()),
    },
    {
      what: "upkeep",
      work: async () => {
        await store.upkeep();
        return 0;
      },
    },
  ];
  let stopped = false;
  const run = async (): Promise<void> => {
    for (const { what, work } of steps) {
      if (stopped) return;
      try {
        const count = await work();
        if (count > 0) logger.log("info", what, { count });
      } catch (error) {
        logger.log("error", "the upkeep failed", { step: what, problem: messageOf(error) });
      }
    }
  };
  let running: Promise<void> | undefined;
  const tick = (): void => {
    running ??= run().finally(() => {
      running = undefined;
    });
  };
  tick();
  const end = options.timer.every(UPKEEP_INTERVAL, tick);
  return {
    async stop() {
      stopped = true;
      end();
      await running;
    },
  };
}
