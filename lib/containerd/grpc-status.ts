import type { IncomingHttpHeaders } from "node:http2";
import { ContainerdError } from "./errors.ts";
import { redact } from "./redact.ts";

/** The gRPC status codes that this package tells apart. */
export const STATUS = { ok: 0, notFound: 5, permissionDenied: 7, unimplemented: 12, unavailable: 14, unauthenticated: 16 } as const;

/** Characters of a server's message that are shown. */
const MAX_MESSAGE = 1000;

/**
 * The outcome of a call, from its trailers.
 * @param secrets what the call carried and its error must not show
 * @returns undefined if the call succeeded
 * @throws {ContainerdError} ERR_CONTAINERD_CLOSED if there is no status: the answer was cut off. ERR_CONTAINERD_PROTOCOL if it is none
 */
export function statusOf(trailers: IncomingHttpHeaders, what: string, secrets: readonly string[] = []): ContainerdError | undefined {
  const text = trailers["grpc-status"];
  if (text === undefined) throw new ContainerdError("ERR_CONTAINERD_CLOSED", `${what}: the answer ended without a status`);
  if (typeof text !== "string" || !/^[0-9]{1,3}$/.test(text))
    throw new ContainerdError("ERR_CONTAINERD_PROTOCOL", `${what}: the answer's grpc-status is not a number`);
  const status = Number(text);
  if (status === STATUS.ok) return undefined;
  const sent = trailers["grpc-message"];
  const message = printable(redact(typeof sent === "string" ? percentDecode(sent) : "", secrets));
  return new ContainerdError("ERR_CONTAINERD_STATUS", `${what}: ${message === "" ? `status ${status}` : message}`, { status, details: { status } });
}

/** A server's text that can be shown: one line, no terminal controls, not endless. */
function printable(text: string): string {
  const clean = text.replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+/gu, " ").trim();
  return clean.length > MAX_MESSAGE ? `${clean.slice(0, MAX_MESSAGE)}…` : clean;
}

/** `grpc-message` is percent-encoded UTF-8; what is malformed stays as it came. */
function percentDecode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
