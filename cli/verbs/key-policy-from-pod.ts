import { asObject, parseJson } from "@sealpod/core";
import { cautionsOf, parsePlannedPolicy, releasePolicyText } from "@sealpod/importkey";
import { EXIT } from "../context.ts";
import type { Verb } from "../program.ts";
import { writeJson } from "../rego/output.ts";
import { readText } from "../workspace.ts";

interface Options {
  readonly maaEndpoint?: string;
  readonly complianceStatus?: string;
  readonly pod?: string;
}

/** `sealpod key policy from-pod`: what `sealpod importkey` would write, for `az keyvault key create --policy`. */
export const run: Verb<Options> = async (options, [file = ""], context) => {
  const { releasePolicy } = parsePlannedPolicy(await readText(file, context), options);
  for (const caution of cautionsOf(releasePolicy)) context.stderr.write(`warning: ${caution}\n`);
  const text = releasePolicyText(releasePolicy);
  if (options.json === true) writeJson(context.stdout, asObject(parseJson(text)) ?? {});
  else context.stdout.write(`${text}\n`);
  return EXIT.ok;
};
