import type { Random } from "@sealpod/core";
import type { ByteStream, Timer } from "@sealpod/ttrpc";

/** Which end of the carrier this is: stream numbers of the two ends must not meet, and the host begins each session. */
export type MuxSide = "host" | "guest";

/** Bounds that one end keeps, whatever the other does. */
export interface MuxLimits {
  /** Streams of the peer that are open at once. Those that are opened here are bounded by the peer's number. */
  readonly maxStreams: number;
  /** Bytes of one stream that wait for a slow reader; the peer may send no more. At most 1 GiB. */
  readonly streamWindow: number;
}

/** What {@link createMux} needs. */
export interface MuxOptions {
  readonly side: MuxSide;
  /**
   * Told of a stream that the peer opened. Without it, or when it throws, the stream is refused.
   * @param service name that the peer asked for: 1 to 64 letters, digits, `.` and `-`
   */
  readonly accept?: (service: string, stream: ByteStream) => void;
  readonly limits?: Partial<MuxLimits>;
  /** Makes the nonces of sessions. Default: the platform's. */
  readonly random?: Random;
  /** Times the host's hellos. Default: the platform's. */
  readonly timer?: Timer;
}

/** Many byte streams over one carrier. */
export interface Mux {
  /** Resolves when both ends have met. Rejects if the carrier ends before. */
  readonly ready: Promise<void>;
  /** Resolves when the carrier has ended, or broke the protocol; all streams have ended then. Never rejects. */
  readonly closed: Promise<{ readonly reason: string }>;
  /**
   * Opens a stream to a service of the peer; waits for {@link ready} first. Bytes that come after the peer's last are an end if the peer closed the
   * stream, and an ERR_MUX_CLOSED if the session ended under it.
   * @throws {MuxError} ERR_MUX_CLOSED, ERR_MUX_REFUSED, ERR_MUX_LIMIT, ERR_MUX_SERVICE
   */
  open(service: string): Promise<ByteStream>;
  /** Ends all streams and the carrier. */
  close(): void;
}
