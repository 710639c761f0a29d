import { TimestampSchema, type MessageInitShape } from "@sealpod/proto";

/** A time as protocol buffers have it. */
export type TimestampInit = MessageInitShape<typeof TimestampSchema>;

/** Go's zero time, which containerd understands as "never". */
export const ZERO_TIME: TimestampInit = { seconds: -62_135_596_800n, nanos: 0 };

/** @param milliseconds since 1970-01-01T00:00:00Z */
export function timestamp(milliseconds: number): TimestampInit {
  const seconds = Math.floor(milliseconds / 1000);
  return { seconds: BigInt(seconds), nanos: Math.floor((milliseconds - seconds * 1000) * 1e6) };
}
