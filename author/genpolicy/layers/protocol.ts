import { type ErrorDetails, isSealpodError, messageOf } from "@sealpod/core";
import type { Layer } from "@sealpod/oci";
import type { LayerFacts, LayerWish } from "./facts.ts";

/** Messages between the pool and a worker thread, which reads one layer at a time. The thread loads this file: it imports little. */

/** To the worker: a layer, its bytes (the first `length` of a buffer), and their end. `stop` instead of the rest: the layer is not wanted any more. */
export type ToWorker =
  | { readonly kind: "layer"; readonly layer: Layer; readonly wish: LayerWish }
  | { readonly kind: "bytes"; readonly buffer: ArrayBuffer; readonly length: number }
  | { readonly kind: "end" | "stop" };

/** From the worker: a buffer whose bytes have been worked through; then the outcome, exactly one for each layer. */
export type FromWorker =
  | { readonly kind: "used"; readonly buffer: ArrayBuffer }
  | { readonly kind: "facts"; readonly facts: LayerFacts }
  | { readonly kind: "failed"; readonly failure: Failure };

/** An error as plain data: classes do not cross threads. */
export interface Failure {
  readonly code: string | undefined;
  readonly message: string;
  readonly hint: string | undefined;
  readonly details: ErrorDetails;
}

/** Takes an error apart for the way between threads; `errorOf` puts it together. */
export function failureOf(error: unknown): Failure {
  if (!isSealpodError(error)) return { code: undefined, message: messageOf(error), hint: undefined, details: {} };
  return { code: error.code, message: error.message, hint: error.hint, details: error.details };
}
