import { STATUS, statusError, type Timer } from "@sealpod/ttrpc";

/**
 * What the work gives, if it does in time. The work itself goes on; what becomes of it then is nobody's concern.
 * @param what for the error's text: "… within 5000 ms"
 * @throws {TtrpcError} ERR_TTRPC_STATUS with DEADLINE_EXCEEDED
 */
export async function within<T>(timer: Timer, milliseconds: number, what: string, work: Promise<T>): Promise<T> {
  const late = Promise.withResolvers<never>();
  const cancel = timer.after(milliseconds, () => late.reject(statusError(STATUS.deadlineExceeded, `${what} within ${milliseconds} ms`)));
  try {
    return await Promise.race([work, late.promise]);
  } finally {
    cancel();
  }
}

/** True once the work has ended, whether well or not; false if it has not in time. Never rejects. */
export async function endsWithin(timer: Timer, milliseconds: number, work: Promise<unknown>): Promise<boolean> {
  const late = Promise.withResolvers<boolean>();
  const cancel = timer.after(milliseconds, () => late.resolve(false));
  const ended = work.then(
    () => true,
    () => true,
  );
  const result = await Promise.race([ended, late.promise]);
  cancel();
  return result;
}

/** Resolves when the time has passed, or at once when the signal aborts. */
export async function pause(timer: Timer, milliseconds: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) => {
    const end = (): void => {
      cancel();
      signal.removeEventListener("abort", end);
      resolve();
    };
    const cancel = timer.after(milliseconds, end);
    signal.addEventListener("abort", end, { once: true });
  });
}
