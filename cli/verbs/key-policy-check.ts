import { decodeUtf8 } from "@sealpod/core";
import { cautionsOf, releasePolicyText } from "@sealpod/importkey";
import { anyoneCanSatisfy, findTrailingCommas } from "@sealpod/release-policy";
import { EXIT } from "../context.ts";
import { parsePolicyFile } from "../key/policy-input.ts";
import type { Verb } from "../program.ts";
import { writeJson } from "../rego/output.ts";
import { readBytes } from "../workspace.ts";

interface Options {
  readonly print?: boolean;
}

/** `sealpod key policy check`: 1 for what is no policy, and for one that gives the key to others. */
export const run: Verb<Options> = async (options, [file = ""], context) => {
  const bytes = await readBytes(file, context);
  const policy = parsePolicyFile(bytes, file);
  const canonical = releasePolicyText(policy);
  const weaknesses = anyoneCanSatisfy(policy);
  const commas = findTrailingCommas(decodeUtf8(bytes, file));
  const warnings = [
    ...commas.map(({ line, column }) => `${file}:${line}:${column}: a comma before a closing bracket: Azure takes it, strict JSON does not`),
    ...cautionsOf(policy),
  ];
  const exit = weaknesses.length === 0 ? EXIT.ok : EXIT.failed;
  if (options.json === true) {
    const json = {
      valid: true,
      strong: weaknesses.length === 0,
      weaknesses: weaknesses.map(({ kind, path, authority, reason }) => ({ kind, path, authority, reason })),
      warnings,
      canonical,
    };
    writeJson(context.stdout, json);
    return exit;
  }
  for (const warning of warnings) context.stderr.write(`warning: ${warning}\n`);
  for (const { reason } of weaknesses) context.stderr.write(`weak: ${reason}\n`);
  const count = policy.anyOf.length;
  if (options.print === true) context.stdout.write(`${canonical}\n`);
  else
    context.stdout.write(
      `${file} is a release policy with ${count} branch${count === 1 ? "" : "es"}${weaknesses.length === 0 ? "" : ", and others than your pods satisfy it"}\n`,
    );
  return exit;
};
