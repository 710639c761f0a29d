import { EXIT } from "../context.ts";
import { managedVerb } from "../identity/application.ts";
import { itemsOf, tableText, valueText, writeResult } from "../identity/output.ts";
import { manage, type TargetOptions } from "../identity/service.ts";
import type { Verb } from "../program.ts";

/** `sealpod identity key list`. */
export const run: Verb<TargetOptions> = managedVerb(async (target, options, _operands, context) => {
  const items = itemsOf(await manage(target, "GET", "/sealpod/keys"));
  const rows = items.map(({ purpose, scope, state, signsFrom, kid }) => [purpose, scope, state, signsFrom, kid].map(valueText));
  writeResult(context, options, items, () => tableText([["PURPOSE", "SCOPE", "STATE", "SIGNS FROM", "KID"], ...rows]));
  return EXIT.ok;
});
