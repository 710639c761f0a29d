import { asObject, encodeJson, parseJson, type JsonObject } from "@sealpod/core";
import type { Queries, Row } from "@sealpod/storage";

/** One line of the audit: what was changed, by whom. Lines are never changed or removed (the database refuses both). */
export interface AuditLine {
  readonly id: number;
  /** Milliseconds since 1970. */
  readonly time: number;
  /** Who: an application, `operator`, `service` (of its own) or `schedule`. */
  readonly actor: string;
  /** E.g. `application.create`, `credential.delete`, `key.rotate`, `token.issue`. */
  readonly action: string;
  /** Empty where no tenant is concerned. */
  readonly tenant: string;
  /** What it was done to: a client id, with the name of the credential, or a key. */
  readonly target: string;
  readonly detail: JsonObject;
}

/** Lines that one question gives at most. */
export const MAX_AUDIT_PAGE = 1000;

/** Writes a line, in the transaction of the change. */
export async function writeAudit(queries: Queries, { time, actor, action, tenant, target, detail }: Omit<AuditLine, "id">): Promise<void> {
  await queries.run("INSERT INTO audit (time, actor, action, tenant, target, detail) VALUES (?, ?, ?, ?, ?, ?)", [
    time,
    actor,
    action,
    tenant,
    target,
    encodeJson(detail),
  ]);
}

/** A line as the database has it. */
export function auditLine(row: Row): AuditLine {
  const text = (name: string): string => String(row[name] ?? "");
  return {
    id: Number(row["id"]),
    time: Number(row["time"]),
    actor: text("actor"),
    action: text("action"),
    tenant: text("tenant"),
    target: text("target"),
    detail: asObject(parseJson(text("detail"), "an audit line")) ?? {},
  };
}
