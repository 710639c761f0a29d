import { isSealpodError, messageOf, type ErrorRow } from "@sealpod/core";
import { STATUS, TtrpcError, statusError } from "@sealpod/ttrpc";

/** Characters of an answer's text: a kubelet's event holds 1024 of them, and a denial may quote a whole request. */
const MAX_TEXT = 2000;
/** Characters of the beginning of a text that is too long; the rest is its end. */
const HEAD = 600;

/** Status by the error's code, where its row does not say it. */
const BY_CODE: Readonly<Record<string, number>> = {
  ERR_SHIM_NOT_FOUND: STATUS.notFound,
  ERR_SHIM_EXISTS: STATUS.alreadyExists,
  // Not NOT_FOUND: containerd takes that for "no such task" wherever it hears it.
  ERR_SHIM_IMAGE: STATUS.failedPrecondition,
  ERR_SHIM_CONFIG: STATUS.failedPrecondition,
};

/** Status by the HTTP status of the error's row. */
const BY_ROW: Readonly<Record<ErrorRow["http"], number>> = {
  400: STATUS.invalidArgument,
  401: STATUS.permissionDenied,
  403: STATUS.permissionDenied,
  404: STATUS.failedPrecondition,
  405: STATUS.unimplemented,
  409: STATUS.failedPrecondition,
  413: STATUS.resourceExhausted,
  415: STATUS.invalidArgument,
  429: STATUS.resourceExhausted,
  500: STATUS.internal,
  501: STATUS.unimplemented,
  502: STATUS.internal,
  503: STATUS.unavailable,
  504: STATUS.deadlineExceeded,
};

/**
 * What a call of containerd is answered with for an error: a status it knows, and one line of text with the reason, since that is all
 * that a user sees of it (`kubectl describe`).
 */
export function taskError(error: unknown): TtrpcError {
  if (error instanceof TtrpcError) return statusError(error.status.code, oneLine(error.status.message), { cause: error });
  if (!isSealpodError(error)) return statusError(STATUS.unknown, oneLine(messageOf(error)), { cause: error });
  const hint = error.hint === undefined ? "" : ` (${error.hint})`;
  return statusError(statusCode(error.code, error.row, error.details["status"]), oneLine(`${error.message}${hint}`), { cause: error });
}

function statusCode(code: string, row: ErrorRow, agent: unknown): number {
  // The guest knows a process no more whose end has not been heard of here yet.
  if (code === "ERR_SANDBOX_AGENT" && agent === "NOT_FOUND") return STATUS.notFound;
  if (code === "ERR_SANDBOX_AGENT" && agent === "UNIMPLEMENTED") return STATUS.unimplemented;
  return BY_CODE[code] ?? BY_ROW[row.http];
}

/**
 * The text without line breaks and other control characters, at most {@link MAX_TEXT} characters of it: its beginning says what failed, and its end why,
 * where a machine's console stands behind it.
 */
export function oneLine(text: string): string {
  // Cut first: the guest chooses the length.
  const isLong = text.length > MAX_TEXT * 4;
  const line = (isLong ? text.slice(0, MAX_TEXT * 2) + text.slice(-MAX_TEXT * 2) : text)
    .replaceAll(/\p{Cc}+|[\u2028\u2029]/gu, " ")
    .replaceAll(/ {2,}/g, " ")
    .trim();
  if (line.length <= MAX_TEXT && !isLong) return line;
  // The surrogate of a character that was cut in two would not be UTF-8.
  const head = line.slice(0, HEAD).replace(/[\ud800-\udbff]$/, "");
  const tail = line
    .slice(head.length)
    .slice(HEAD + 3 - MAX_TEXT)
    .replace(/^[\udc00-\udfff]/, "");
  return `${head} … ${tail}`;
}
