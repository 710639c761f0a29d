/**
 * Where a report was got from. It is what the reader says about its own source, for people and logs; it proves nothing, and no check rests on it.
 * - `configfs-tsm`: the kernel's report interface (Linux 6.7 and later).
 * - `sev-guest`: the device /dev/sev-guest of older kernels.
 * - `emulator`: the emulated security processor of a laptop.
 * - `file`: bytes that somebody stored.
 * - `request`: bytes that a client sent to a service.
 */
export type EvidenceOriginKind = "configfs-tsm" | "sev-guest" | "emulator" | "file" | "request";

/** The source of one report. */
export interface EvidenceOrigin {
  readonly kind: EvidenceOriginKind;
  /** Which one of its kind, such as a path. */
  readonly detail?: string;
}

const LABELS: Readonly<Record<EvidenceOriginKind, string>> = {
  "configfs-tsm": "configfs-tsm",
  "sev-guest": "/dev/sev-guest",
  emulator: "the EMULATED security processor (proves nothing about hardware)",
  file: "a file",
  request: "a request",
};

/** Text for people, such as `configfs-tsm, /sys/kernel/config/tsm/report`. */
export function formatEvidenceOrigin({ kind, detail }: EvidenceOrigin): string {
  return detail === undefined ? LABELS[kind] : `${LABELS[kind]}, ${detail}`;
}
