import { encodeUtf8, toBase64url } from "@sealpod/core";
import type { CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { readText } from "../workspace.ts";

/**
 * Text of a policy.
 * @throws {CliError} ERR_CLI_FILE also if there is nothing in it: key brokers take an empty policy, and then give nothing
 */
export async function readPolicy(path: string, context: CliContext): Promise<string> {
  const { text } = await readText(path, context);
  if (text.trim() === "") throw new CliError("ERR_CLI_FILE", `${path} is empty`, { hint: "Expected Rego that begins with: package policy" });
  return text;
}

/** A policy as requests carry it: base64url without padding. */
export function policyText(text: string): string {
  return toBase64url(encodeUtf8(text));
}
