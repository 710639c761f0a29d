import { encodeJson, type JsonObject } from "@sealpod/core";
import { printable } from "../rego/output.ts";

/** What a service says of a change, one claim on a line. Ends in a newline. */
export function resultText(claims: JsonObject): string {
  const entries = Object.entries(claims).filter(([name]) => name.startsWith("x-ms-policy"));
  return printable(entries.map(([name, value]) => `${name}: ${typeof value === "string" ? value : encodeJson(value)}\n`).join(""));
}
