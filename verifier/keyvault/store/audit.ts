import { asArray, parseJson } from "@sealpod/core";
import type { ClaimFinding } from "@sealpod/release-policy";
import type { Queries, Row, SqlValue } from "@sealpod/storage";
import { badParameter } from "../errors.ts";
import { DEFAULT_AUDIT_LINES, MAX_AUDIT_AUTHORITY, MAX_AUDIT_FINDINGS, MAX_AUDIT_LINES, MAX_AUDIT_REASON, MAX_AUDIT_TEXT } from "./limits.ts";
import { nameKey } from "./names.ts";
import { integer, optionalText, text } from "./row.ts";
import type { AuditCheck, AuditFilter, AuditLine, StoredAuditLine } from "./types.ts";

const INSERT = `INSERT INTO vault_audit
  (request_id, at, vault, operation, name, name_key, version, tenant_id, appid, oid, outcome, failed, reason, authority, findings)
  VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`;

/** Appends a line. In the transaction of a change, it is there if and only if the change is. */
export async function appendAudit(queries: Queries, line: AuditLine): Promise<void> {
  const name = cut(line.name, MAX_AUDIT_TEXT);
  const kept = keepFindings(line.findings);
  const leftOut = line.findings.length - kept.length;
  const note = ` (${leftOut} of ${line.findings.length} conditions are not shown)`;
  await queries.run(INSERT, [
    cut(line.requestId, MAX_AUDIT_TEXT),
    line.at,
    line.vault,
    cut(line.operation, MAX_AUDIT_TEXT),
    name,
    nameKey(name),
    cut(line.version, MAX_AUDIT_TEXT),
    cut(line.tenantId, MAX_AUDIT_TEXT),
    cut(line.appid, MAX_AUDIT_TEXT),
    cut(line.oid, MAX_AUDIT_TEXT),
    line.outcome,
    line.outcome === "allowed" ? null : (line.failed ?? "request"),
    leftOut === 0 ? cut(line.reason, MAX_AUDIT_REASON) : `${cut(line.reason, MAX_AUDIT_REASON - note.length)}${note}`,
    cut(line.authority, MAX_AUDIT_AUTHORITY),
    `[${kept.join(",")}]`,
  ]);
}

/** The conditions as JSON, as many as there is room for: those that failed before the others, and all in their order. */
function keepFindings(findings: readonly ClaimFinding[]): readonly string[] {
  const byNeed = [...findings.keys()].toSorted((a, b) => Number(findings[a]?.matched) - Number(findings[b]?.matched));
  const kept = new Map<number, string>();
  let room = MAX_AUDIT_FINDINGS;
  for (const index of byNeed) {
    const finding = findings[index];
    if (finding === undefined) continue;
    const json = JSON.stringify(cutFinding(finding));
    room -= Buffer.byteLength(json) + 1;
    if (room < 0) break;
    kept.set(index, json);
  }
  return [...kept].toSorted(([a], [b]) => a - b).map(([, json]) => json);
}

/**
 * Lines of the audit, the latest first.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER for a limit that is none
 */
export async function readAudit(queries: Queries, filter: AuditFilter): Promise<readonly StoredAuditLine[]> {
  const limit = filter.limit ?? DEFAULT_AUDIT_LINES;
  if (!Number.isInteger(limit) || limit < 1 || limit > MAX_AUDIT_LINES) throw badParameter(`limit is ${limit}, expected 1 to ${MAX_AUDIT_LINES}.`);
  const conditions: string[] = [];
  const parameters: SqlValue[] = [];
  const add = (condition: string, value: SqlValue | undefined): void => {
    if (value === undefined) return;
    conditions.push(condition);
    parameters.push(value);
  };
  // The same cuts as on the way in: a filter finds what was cut.
  add("request_id = ?", filter.requestId === undefined ? undefined : cut(filter.requestId, MAX_AUDIT_TEXT));
  add("vault = ?", filter.vault === undefined ? undefined : wellFormed(filter.vault));
  add("operation = ?", filter.operation === undefined ? undefined : cut(filter.operation, MAX_AUDIT_TEXT));
  add("name_key = ?", filter.name === undefined ? undefined : nameKey(cut(filter.name, MAX_AUDIT_TEXT)));
  add("id < ?", filter.before);
  const where = conditions.length === 0 ? "" : `WHERE ${conditions.join(" AND ")}`;
  return (await queries.query(`SELECT * FROM vault_audit ${where} ORDER BY id DESC LIMIT ?`, [...parameters, limit])).map(auditLine);
}

function auditLine(row: Row): StoredAuditLine {
  return {
    id: integer(row, "id"),
    requestId: text(row, "request_id"),
    at: integer(row, "at"),
    vault: text(row, "vault"),
    operation: text(row, "operation"),
    name: text(row, "name"),
    version: text(row, "version"),
    tenantId: text(row, "tenant_id"),
    appid: text(row, "appid"),
    oid: text(row, "oid"),
    outcome: text(row, "outcome") as StoredAuditLine["outcome"],
    failed: optionalText(row, "failed") as AuditCheck | undefined,
    reason: text(row, "reason"),
    authority: text(row, "authority"),
    findings: (asArray(parseJson(text(row, "findings"))) ?? []) as unknown as readonly ClaimFinding[],
  };
}

function cutFinding(finding: ClaimFinding): ClaimFinding {
  return {
    authority: cut(finding.authority, MAX_AUDIT_TEXT),
    claim: cut(finding.claim, MAX_AUDIT_TEXT),
    expected: cut(finding.expected, MAX_AUDIT_TEXT),
    found: finding.found === undefined ? undefined : cut(finding.found, MAX_AUDIT_TEXT),
    matched: finding.matched,
  };
}

function cut(value: string, limit: number): string {
  return wellFormed(value.length <= limit ? value : `${value.slice(0, limit - 1)}…`);
}

/** PostgreSQL takes no U+0000 and neither engine half a surrogate pair: a caller who sends them must not get around the audit. */
function wellFormed(value: string): string {
  return value.toWellFormed().replaceAll("\0", "\uFFFD");
}
