/**
 * The shape that every error of this project has.
 *
 * A package declares one class and one closed table of codes. The table is the single source for the process exit code,
 * the HTTP status and the page in `docs/errors.md` (written by `tools/errors-doc.ts`).
 */

/** What the person or program that sees the error should do: mend the call, try again, or accept the refusal. */
export type ErrorAction = "caller" | "transient" | "refused";

/** One row of a package's error table. */
export interface ErrorRow {
  /** What to do about it. */
  readonly action: ErrorAction;
  /** Process exit code of the CLI: 1 failed, 2 usage, 3 refused by policy. */
  readonly exit: 1 | 2 | 3;
  /** HTTP status when the error leaves through one of the services. */
  readonly http: 400 | 401 | 403 | 404 | 405 | 409 | 413 | 415 | 429 | 500 | 501 | 502 | 503 | 504;
  /** One sentence for `docs/errors.md`. */
  readonly summary: string;
}

/** The error table of a package: every code of the union has exactly one row. */
export type ErrorTable<C extends string> = Readonly<Record<C, ErrorRow>>;

/** Structured facts of an error: where it happened, what was found, what was expected. Never secrets. */
export type ErrorDetails = Readonly<Record<string, string | number | boolean | readonly string[] | undefined>>;

/** Options of {@link SealpodError}. */
export interface SealpodErrorOptions {
  /** The error underneath. */
  readonly cause?: unknown;
  /** Structured facts; no secrets, no unbounded text. */
  readonly details?: ErrorDetails;
  /** What to do, in one or two sentences. */
  readonly hint?: string;
}

/**
 * Base of all errors that this project throws on purpose. Compare `code`, not the class: the same class can exist twice
 * when two bundles meet.
 */
export abstract class SealpodError<C extends string = string> extends Error {
  /** Stable name of the failure, e.g. `ERR_SNP_SIGNATURE`. */
  readonly code: C;
  /** The row of the package's table for {@link code}. */
  readonly row: ErrorRow;
  readonly details: ErrorDetails;
  readonly hint: string | undefined;

  constructor(table: ErrorTable<C>, code: C, message: string, options: SealpodErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = new.target.name;
    this.code = code;
    this.row = table[code];
    this.details = options.details ?? {};
    this.hint = options.hint;
  }
}

/** True for errors of this project, also when they come from another copy of this module. */
export function isSealpodError(error: unknown): error is SealpodError {
  return error instanceof Error && typeof (error as { code?: unknown }).code === "string" && typeof (error as { row?: unknown }).row === "object";
}

/** The message of anything that can be thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Codes of {@link CoreError}. */
export type CoreErrorCode = "ERR_CORE_ENCODING" | "ERR_CORE_JSON" | "ERR_CORE_LIMIT" | "ERR_CORE_TRUNCATED" | "ERR_CORE_TRAILING";

/** Rows of `lib/core`. */
export const CORE_ERRORS: ErrorTable<CoreErrorCode> = {
  ERR_CORE_ENCODING: { action: "caller", exit: 1, http: 400, summary: "Text is not valid hex, base64, base64url or UTF-8." },
  ERR_CORE_JSON: { action: "caller", exit: 1, http: 400, summary: "Text is not strict JSON (RFC 8259, no duplicate names, depth limited)." },
  ERR_CORE_LIMIT: { action: "refused", exit: 1, http: 413, summary: "Input is larger or deeper than a named limit." },
  ERR_CORE_TRUNCATED: { action: "caller", exit: 1, http: 400, summary: "Bytes end before the structure does." },
  ERR_CORE_TRAILING: { action: "caller", exit: 1, http: 400, summary: "Bytes go on after the structure has ended." },
};

/** Errors of `lib/core`. */
export class CoreError extends SealpodError<CoreErrorCode> {
  constructor(code: CoreErrorCode, message: string, options?: SealpodErrorOptions) {
    super(CORE_ERRORS, code, message, options);
  }
}
