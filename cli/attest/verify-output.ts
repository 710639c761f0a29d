import { printable } from "../rego/output.ts";
import type { CheckOutcome, VerifyOutcome } from "./verify-options.ts";

const MARKS: Readonly<Record<CheckOutcome, string>> = { passed: "ok  ", failed: "FAIL", skipped: "--  " };

/** Longest value that is shown: runtime data in a token may have many KiB. `--json` has it whole. */
const MAX_VALUE = 400;

/** Text for people: each check on a line, then what the evidence says, then what it means. Ends in a newline. */
export function formatOutcome(outcome: VerifyOutcome, file: string): string {
  const lines = [`${file}: ${outcome.form}`];
  const names = outcome.groups.flatMap(({ checks }) => checks.map(({ name }) => name.length));
  const width = Math.max(...names, ...(outcome.fields ?? []).map(([name]) => name.length), 0);
  for (const { title, checks } of outcome.groups) {
    if (checks.length === 0) continue;
    lines.push("", `${title}:`, ...checks.map((check) => `  ${MARKS[check.outcome]} ${check.name.padEnd(width)}  ${oneLine(check.found)}`));
  }
  if (outcome.fields !== undefined) {
    lines.push("", outcome.fieldsVerified ? "what it says:" : "what it says (NOT VERIFIED):");
    lines.push(...outcome.fields.map(([name, value]) => `       ${name.padEnd(width)}  ${shorten(oneLine(value))}`));
  }
  lines.push("", `${outcome.verdict.toUpperCase()}${outcome.verdict === "verified" ? " " : ": "}${oneLine(outcome.meaning)}`);
  if (outcome.hint !== undefined) lines.push(`  to do: ${oneLine(outcome.hint)}`);
  if (outcome.code !== undefined) lines.push(`  code:  ${outcome.code} (docs/errors.md)`);
  return `${lines.join("\n")}\n`;
}

/**
 * What must not be missed about a guest that was let through.
 * @param debuggable the caller allowed debugging, and the guest does not forbid it
 * @param forHost the caller allowed reports of the host, and this is one
 */
export function guestSentences(debuggable: boolean, forHost: boolean): readonly string[] {
  return [
    ...(debuggable ? ["DEBUGGING is not forbidden: the host may read this guest's memory"] : []),
    ...(forHost ? ["The HOST asked for this report: it says nothing of what the guest wants"] : []),
  ];
}

/** The same as one JSON document. */
export function outcomeJson(outcome: VerifyOutcome, file: string): string {
  const { form, verdict, meaning, root, emulated, hint, code, groups, fields, fieldsVerified } = outcome;
  const document = {
    file,
    form,
    verdict,
    meaning,
    root: root ?? null,
    emulated,
    ...(code !== undefined && { code }),
    ...(hint !== undefined && { hint }),
    checks: groups.flatMap(({ title, checks }) => checks.map((check) => ({ group: title, ...check }))),
    fieldsVerified,
    fields: fields === undefined ? null : Object.fromEntries(fields),
  };
  return `${JSON.stringify(document, undefined, 2)}\n`;
}

/** Line breaks in what others wrote must not make lines of the result. */
function oneLine(text: string): string {
  return printable(text.replaceAll(/\s+/g, " "));
}

function shorten(text: string): string {
  return text.length > MAX_VALUE ? `${text.slice(0, MAX_VALUE)}… (${text.length} characters)` : text;
}
