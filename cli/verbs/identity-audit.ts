import { encodeJson } from "@sealpod/core";
import { EXIT } from "../context.ts";
import { managedVerb } from "../identity/application.ts";
import { itemsOf, valueText, writeResult } from "../identity/output.ts";
import { manage, type TargetOptions } from "../identity/service.ts";
import type { Verb } from "../program.ts";

interface Options extends TargetOptions {
  readonly limit: string;
  readonly before?: string;
}

/** `sealpod identity audit`. */
export const run: Verb<Options> = managedVerb(async (target, options, _operands, context) => {
  const query = new URLSearchParams({ limit: options.limit, ...(options.before === undefined ? {} : { before: options.before }) });
  const page = await manage(target, "GET", `/sealpod/audit?${query.toString()}`);
  const lines = itemsOf(page).map((line) => {
    const { id, time, actor, action, target: what, detail } = line;
    return `${[id, time, action, what, actor].map(valueText).join("  ")}  ${encodeJson(detail ?? {})}\n`;
  });
  writeResult(context, options, page, () => lines.join(""));
  return EXIT.ok;
});
