import { EXIT } from "../context.ts";
import { managedVerb } from "../identity/application.ts";
import { itemsOf, tableText, valueText, writeResult } from "../identity/output.ts";
import { manage, type TargetOptions } from "../identity/service.ts";
import type { Verb } from "../program.ts";

/** `sealpod identity app list`. */
export const run: Verb<TargetOptions> = managedVerb(async (target, options, _operands, context) => {
  const items = itemsOf(await manage(target, "GET", "/v1.0/applications"));
  const rows = items.map(({ displayName, appId, kind }) => [valueText(displayName), valueText(appId), valueText(kind)]);
  writeResult(context, options, items, () => tableText([["NAME", "CLIENT ID", "KIND"], ...rows]));
  return EXIT.ok;
});
