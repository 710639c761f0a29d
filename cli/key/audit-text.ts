import { asArray, asObject, type JsonObject, type JsonValue } from "@sealpod/core";
import { shown, timeText } from "./output.ts";

/** Longest of the usual operations. */
const OPERATION_WIDTH = 12;
/** Digits of ids and versions that tell them apart by eye. */
const SHORT = 8;

/**
 * A line of the audit: when (UTC), what came of it, what, who.
 * @param applications names by client id in lower case
 * @param isLong with the request id, the whole version, and ids of the caller
 */
export function auditText(line: JsonObject, applications: ReadonlyMap<string, string>, isLong: boolean): string {
  const { at, vault, operation, name, version, outcome, failed, reason, requestId } = line;
  const what = [vault, name, isLong ? version : typeof version === "string" ? version.slice(0, SHORT) : ""]
    .filter((part): part is string => typeof part === "string" && part !== "")
    .map(shown);
  const time = typeof at === "number" ? timeText(Math.floor(at / 1000)) : shown(at);
  const why = outcome === "refused" ? `; ${failed === undefined || failed === null ? "" : `${shown(failed)}: `}${shown(reason)}` : "";
  const who = isLong ? `${callerText(line)} (request ${shown(requestId)})` : shortCallerText(line, applications);
  return `${time}  ${shown(outcome).padEnd(7)}  ${shown(operation).padEnd(OPERATION_WIDTH)}  ${what.join("/")}  ${who}${why}\n`;
}

function shortCallerText({ appid, oid }: JsonObject, applications: ReadonlyMap<string, string>): string {
  if (typeof appid === "string" && appid !== "") return shown(applications.get(appid.toLowerCase()) ?? appid.slice(0, SHORT));
  return typeof oid === "string" && oid !== "" ? `object ${shown(oid.slice(0, SHORT))}` : "nobody known";
}

/** Who asked. */
function callerText({ appid, oid, tenantId }: JsonObject): string {
  const who =
    typeof appid === "string" && appid !== "" ? `application ${shown(appid)}` : typeof oid === "string" && oid !== "" ? `object ${shown(oid)}` : "nobody known";
  return typeof tenantId === "string" && tenantId !== "" ? `${who} of tenant ${shown(tenantId)}` : who;
}

/** Findings about conditions, one a line: what holds, and what does not. */
export function findingsText(findings: JsonValue | undefined, indent: string): string {
  return (asArray(findings) ?? [])
    .map((item) => {
      const { claim, expected, found, matched } = asObject(item) ?? {};
      return `${indent}${matched === true ? "ok    " : "FAILED"} ${shown(claim)}: expected ${shown(expected)}, found ${found === undefined || found === null ? "nothing" : shown(found)}\n`;
    })
    .join("");
}
