import { setTimeout as delay } from "node:timers/promises";

/** Milliseconds that something in a world may take on a busy machine before the test says that it never came. */
const PATIENCE = 120_000;

/** Asks until the answer comes without an error, which is that of the last attempt if none does. For programs that are not started by vitest as well. */
export async function until<T>(ask: () => T | Promise<T>, patience: number = PATIENCE): Promise<T> {
  const end = Date.now() + patience;
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (Date.now() > end) throw error;
    }
    await delay(20);
  }
}
