/** Loaded before a program (`node --import`): what it waits with `node:timers/promises` takes a hundredth of the time. */
import { syncBuiltinESMExports } from "node:module";
import timers from "node:timers/promises";

const wait = timers.setTimeout;
timers.setTimeout = async (milliseconds, ...rest) => wait((milliseconds ?? 0) / 100, ...rest);
syncBuiltinESMExports();
