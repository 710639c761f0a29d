import { isSealpodError } from "@sealpod/core";

/** The gRPC status codes that this server answers with. */
export const STATUS = {
  ok: 0,
  cancelled: 1,
  invalidArgument: 3,
  deadlineExceeded: 4,
  notFound: 5,
  permissionDenied: 7,
  resourceExhausted: 8,
  failedPrecondition: 9,
  unimplemented: 12,
  internal: 13,
  unavailable: 14,
} as const;

/** The status of an error by its code; what has none here is a refusal. */
const BY_CODE: ReadonlyMap<string, number> = new Map([
  ["ERR_SKR_REQUEST", STATUS.invalidArgument],
  ["ERR_SKR_TOO_LARGE", STATUS.resourceExhausted],
  ["ERR_SKR_BUSY", STATUS.resourceExhausted],
  ["ERR_SKR_UNIMPLEMENTED", STATUS.unimplemented],
  ["ERR_SKR_TIMEOUT", STATUS.deadlineExceeded],
  ["ERR_SKR_CANCELLED", STATUS.cancelled],
  ["ERR_SKR_REPORT", STATUS.unavailable],
  ["ERR_SKR_CERTIFICATES", STATUS.unavailable],
  ["ERR_SKR_NETWORK", STATUS.unavailable],
  ["ERR_SKR_CONFIGURATION", STATUS.failedPrecondition],
]);

/** The gRPC status of an error. */
export function statusOf(error: unknown): number {
  if (!isSealpodError(error)) return STATUS.internal;
  return BY_CODE.get(error.code) ?? STATUS.permissionDenied;
}

/** `grpc-message`: percent-encoded UTF-8, printable ASCII as it is (gRPC over HTTP/2, "Status-Message"). */
export function encodeStatusMessage(text: string): string {
  return text.toWellFormed().replaceAll(/[^\u0020-\u0024\u0026-\u007e]+/g, (part) => encodeURIComponent(part));
}

/**
 * Milliseconds of a `grpc-timeout` header: up to eight digits and a unit; undefined if it is none.
 */
export function parseTimeout(text: string | undefined): number | undefined {
  const [, digits, unit] = /^(\d{1,8})([HMSmun])$/.exec(text ?? "") ?? [];
  if (digits === undefined || unit === undefined) return undefined;
  const milliseconds: Readonly<Record<string, number>> = { H: 3_600_000, M: 60_000, S: 1000, m: 1, u: 0.001, n: 0.000_001 };
  return Number(digits) * (milliseconds[unit] ?? 0);
}
