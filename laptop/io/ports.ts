import { randomBytes } from "node:crypto";
import type { Clock, Random } from "@sealpod/core";

/** The machine's clock. */
export const systemClock: Clock = { now: () => Date.now() };

/** The operating system's randomness. */
export const systemRandom: Random = { bytes: (length) => new Uint8Array(randomBytes(length)) };
