import { messageOf } from "@sealpod/core";
import { StorageError, type ConstraintKind } from "./errors.ts";

/** SQLSTATEs of constraints; 23001 is what PostgreSQL 18 says of ON DELETE RESTRICT. */
const KINDS: Readonly<Record<string, ConstraintKind>> = {
  "23001": "foreign-key",
  "23502": "not-null",
  "23503": "foreign-key",
  "23505": "unique",
  "23514": "check",
  "23P01": "unique",
  // RAISE EXCEPTION of a trigger.
  P0001: "trigger",
};

/** What the server, or the client, says of an error. */
interface Facts {
  readonly sqlstate: string | undefined;
  readonly severity: string | undefined;
  readonly routine: string | undefined;
  readonly constraint: string | undefined;
  readonly table: string | undefined;
}

function factsOf(error: unknown): Facts {
  const fields = (typeof error === "object" && error !== null ? error : {}) as Readonly<Record<string, unknown>>;
  const text = (name: string): string | undefined => (typeof fields[name] === "string" ? fields[name] : undefined);
  const severity = text("severity");
  // Errors of the client and of the platform have codes too, and no severity.
  return {
    sqlstate: severity === undefined ? undefined : text("code"),
    severity,
    routine: text("routine"),
    constraint: text("constraint_name"),
    table: text("table_name"),
  };
}

/** Other transactions were in the way: the whole transaction can succeed when it is tried again. */
function isConflict(error: unknown): boolean {
  const { sqlstate, routine } = factsOf(error);
  // 0A000 there: another replica has changed the schema under a prepared statement, which is prepared anew.
  return sqlstate === "40001" || sqlstate === "40P01" || (sqlstate === "0A000" && routine === "RevalidateCachedQuery");
}

/** The session is over, whatever its connection looks like. */
export function endsSession(error: unknown): boolean {
  const { severity } = factsOf(error);
  return severity === undefined || severity === "FATAL" || severity === "PANIC";
}

/**
 * What the server, or the client, threw, in the words of this package. The error itself is no cause: it holds parameters, and its details hold values.
 * @param statement the statement, shortened; undefined outside of statements
 */
export function postgresError(error: unknown, database: string, statement?: string): StorageError {
  if (error instanceof StorageError) return error;
  const { sqlstate, constraint, table } = factsOf(error);
  const where = statement === undefined ? "" : `: ${statement}`;
  if (sqlstate === undefined) return unavailable(`${database} cannot be reached: ${clientMessage(error)}`, {});
  const details = { sqlstate };
  const kind = KINDS[sqlstate];
  if (kind !== undefined) {
    const what = constraint === undefined ? (kind === "trigger" ? messageOf(error) : kind) : `${kind} constraint ${constraint}`;
    return new StorageError("ERR_STORAGE_CONSTRAINT", `${database}: violates ${what}${where}`, {
      details: { ...details, kind, ...(table === undefined ? {} : { table }), ...(constraint === undefined ? {} : { name: constraint }) },
    });
  }
  if (isConflict(error))
    return new StorageError("ERR_STORAGE_CONFLICT", `${database}: others changed what the transaction read`, { details, hint: "Try again." });
  if (sqlstate === "53100")
    return new StorageError("ERR_STORAGE_FULL", `${database}: there is no space left`, { details, hint: "Make space; nothing has to be restarted." });
  const state = sqlstate.slice(0, 2);
  if (state === "22" || state === "21") {
    // Its message quotes the value.
    return new StorageError("ERR_STORAGE_VALUE", `${database}: a value does not fit (SQLSTATE ${sqlstate})${where}`, { details });
  }
  if (["08", "25", "28", "3D", "53", "55", "57", "58", "XX"].includes(state))
    return unavailable(`${database}: ${messageOf(error)} (SQLSTATE ${sqlstate})`, details);
  return new StorageError("ERR_STORAGE_STATEMENT", `${database}: ${messageOf(error)} (SQLSTATE ${sqlstate})${where}`, { details });
}

function unavailable(message: string, details: { readonly sqlstate?: string }): StorageError {
  return new StorageError("ERR_STORAGE_UNAVAILABLE", message, {
    details,
    hint: "Look after the server and the network between; the service goes on by itself when it answers again.",
  });
}

/** Several addresses of one name fail together, and the error for that has no message. */
function clientMessage(error: unknown): string {
  if (error instanceof AggregateError && error.message === "") return error.errors.map(messageOf).join("; ");
  return messageOf(error);
}
