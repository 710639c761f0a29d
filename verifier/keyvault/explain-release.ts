import type { AuditLine, StoredAuditLine, VaultStore } from "./store/types.ts";

/** What {@link explainRelease} gives. */
export interface ReleaseExplanation {
  readonly record: StoredAuditLine;
  /** A few lines for the owner of the vault. */
  readonly text: string;
}

/**
 * Explains the latest release, or attempt at one, that fits: for the owner of the vault, never for the caller.
 * @returns undefined if the audit has none
 */
export async function explainRelease(
  store: Pick<VaultStore, "audit">,
  filter: { readonly requestId?: string; readonly vault?: string; readonly name?: string },
): Promise<ReleaseExplanation | undefined> {
  const [record] = await store.audit({ ...filter, operation: "keys/release", limit: 1 });
  return record === undefined ? undefined : { record, text: formatAuditLine(record) };
}

/** A line of the audit as people read it: who, what, when; why; and every condition of a release policy that was looked at. */
export function formatAuditLine(line: AuditLine): string {
  const who = line.appid === "" ? `object ${line.oid}` : `application ${line.appid}`;
  const what = [line.vault, line.name, line.version].filter((part) => part !== "").join("/");
  const lines = [
    `${new Date(line.at).toISOString()} request ${line.requestId}: ${line.operation} ${what} ${line.outcome} to ${who} of tenant ${line.tenantId}`,
    ...(line.failed === undefined ? (line.reason === "" ? [] : [`  ${line.reason}`]) : [`  failed check: ${line.failed}: ${line.reason}`]),
    ...(line.authority === "" ? [] : [`  token of ${line.authority}`]),
    ...line.findings.map(
      ({ claim, expected, found, matched }) => `  ${matched ? "ok    " : "FAILED"} ${claim}: expected ${expected}, found ${found ?? "nothing"}`,
    ),
  ];
  // What came from outside must not make lines of its own in the owner's terminal, nor turn the order of what stands in one.
  return lines.map((text) => text.replaceAll(/[\p{Cc}\p{Bidi_Control}\u2028\u2029]/gu, "\uFFFD")).join("\n");
}
