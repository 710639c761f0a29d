import type { BackendPorts } from "./backend.ts";
import { SkrError } from "./errors.ts";
import type { EvidencePorts } from "./evidence.ts";

/** Requests that are worked on at once. Each makes an RSA key, so without a bound one container could starve the pod. */
const MAX_CONCURRENT = 16;

/** Milliseconds for a whole request, with all attempts and pauses: longer than a busy service needs, shorter than people wait. */
const REQUEST_TIME = 120_000;

/**
 * Does the work of one request: not more than so many at once, not longer than the time for one, and no longer than the caller
 * is there.
 * @throws {SkrError} ERR_SKR_BUSY, ERR_SKR_TIMEOUT, ERR_SKR_CANCELLED, and what the work throws
 */
export type RequestGate = <T>(caller: AbortSignal | undefined, work: (ports: BackendPorts) => Promise<T>) => Promise<T>;

/** Makes a gate before what the ports reach. */
export function requestGate(ports: EvidencePorts): RequestGate {
  let working = 0;
  return async (caller, work) => {
    if (working >= MAX_CONCURRENT) throw new SkrError("ERR_SKR_BUSY", `already ${MAX_CONCURRENT} requests at work`);
    working++;
    const deadline = ports.timer.deadline(REQUEST_TIME);
    const gone = new AbortController();
    // A caller that set a time of its own is told so.
    const leave = (): void => gone.abort(isTimeout(caller?.reason) ? caller?.reason : new SkrError("ERR_SKR_CANCELLED", "the caller went away"));
    if (caller?.aborted === true) leave();
    caller?.addEventListener("abort", leave, { once: true });
    try {
      return await work({ ...ports, signal: AbortSignal.any([deadline, gone.signal]) });
    } finally {
      working--;
      caller?.removeEventListener("abort", leave);
    }
  };
}

function isTimeout(reason: unknown): boolean {
  return reason instanceof Error && reason.name === "TimeoutError";
}
