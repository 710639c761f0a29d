/** The gRPC status codes, which ttRPC shares. */
export const STATUS = {
  ok: 0,
  cancelled: 1,
  unknown: 2,
  invalidArgument: 3,
  deadlineExceeded: 4,
  notFound: 5,
  alreadyExists: 6,
  permissionDenied: 7,
  resourceExhausted: 8,
  failedPrecondition: 9,
  aborted: 10,
  outOfRange: 11,
  unimplemented: 12,
  internal: 13,
  unavailable: 14,
  dataLoss: 15,
  unauthenticated: 16,
} as const;

/** Outcome of a call. */
export interface TtrpcStatus {
  /** One of {@link STATUS}; a peer may send other numbers. */
  readonly code: number;
  readonly message: string;
}

/** Name of a status code as gRPC writes it, e.g. `PERMISSION_DENIED`. */
export function statusName(code: number): string {
  const entry = Object.entries(STATUS).find(([, number]) => number === code);
  return entry === undefined ? `code ${code}` : entry[0].replaceAll(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase();
}
