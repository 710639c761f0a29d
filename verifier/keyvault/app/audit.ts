import { badParameter } from "../errors.ts";
import type { JsonBody } from "../key-bundle.ts";
import type { AuditFilter, StoredAuditLine } from "../store/types.ts";
import type { Exchange } from "./exchange.ts";
import type { Operation } from "./operation.ts";

/** Largest and default page of the audit; a line has some hundred bytes, one of a release some thousand. */
const MAX_LINES = 1000;
const DEFAULT_LINES = 100;

/** The audit, for administrators. Who reads it is in it. */
export const AUDIT_OPERATIONS: readonly Operation[] = [
  { name: "audit/list", method: "GET", paths: ["/sealpod/audit"], need: "administrator", scope: () => "/", own: true, run: listAudit },
];

async function listAudit(exchange: Exchange): Promise<Response> {
  const limit = integer(exchange, "limit", MAX_LINES) ?? DEFAULT_LINES;
  const before = integer(exchange, "before", Number.MAX_SAFE_INTEGER);
  const filter: AuditFilter = {
    vault: exchange.vault.name,
    limit,
    ...text(exchange, "name"),
    ...text(exchange, "operation"),
    ...text(exchange, "requestId"),
    ...(before === undefined ? {} : { before }),
  };
  const lines = await exchange.store.audit(filter);
  // A full page may be the last one: then the next is empty.
  return exchange.json({ value: lines.map(lineJson), nextBefore: lines.length < limit ? null : (lines.at(-1)?.id ?? null) });
}

function lineJson(line: StoredAuditLine): JsonBody {
  return { ...line, findings: line.findings.map((finding) => ({ ...finding })) };
}

function text(exchange: Exchange, name: "name" | "operation" | "requestId"): AuditFilter {
  const value = exchange.query(name);
  return value === null ? {} : { [name]: value };
}

function integer(exchange: Exchange, name: string, most: number): number | undefined {
  const value = exchange.query(name);
  if (value === null) return undefined;
  const number = /^\d{1,16}$/.test(value) ? Number(value) : 0;
  if (number < 1 || number > most) throw badParameter(`Query parameter ${name} must be an integer of 1 to ${most}.`);
  return number;
}
