import { encodeUtf8, toBase64url, type JsonObject } from "@sealpod/core";
import { cautionsOf, overriddenWeaknesses, releasePolicyText } from "@sealpod/importkey";
import { anyoneCanSatisfy, parseReleasePolicy, ReleasePolicyError, type ReleasePolicy } from "@sealpod/release-policy";
import type { CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { readBytes } from "../workspace.ts";

/** Flags of verbs that set a release policy. */
export interface PolicyOptions {
  readonly policy?: string;
  readonly immutable?: boolean;
  readonly allowAny?: boolean;
}

/**
 * A release policy of a file.
 * @throws {CliError} ERR_CLI_FILE
 * @throws {ReleasePolicyError} ERR_RELEASE_POLICY
 */
export async function readPolicy(path: string, context: CliContext): Promise<ReleasePolicy> {
  return parsePolicyFile(await readBytes(path, context), path);
}

/** Members of the grammar. */
const MEMBERS = ["version", "anyOf", "allOf", "authority", "claim", "equals", "condition", "value"] as const;

/**
 * A release policy of a file's bytes; messages name the file, and what a misspelled member was probably meant to be.
 * @throws {ReleasePolicyError} ERR_RELEASE_POLICY
 */
export function parsePolicyFile(bytes: Uint8Array, path: string): ReleasePolicy {
  try {
    return parseReleasePolicy(bytes);
  } catch (cause) {
    if (!(cause instanceof ReleasePolicyError)) throw cause;
    const { code, message, details } = cause;
    const found = /unexpected member "([^"]*)"/.exec(message)?.[1];
    const meant = found === undefined ? undefined : MEMBERS.find((name) => isNear(found.toLowerCase(), name.toLowerCase()));
    throw new ReleasePolicyError(code, `${path}: ${message}`, {
      cause,
      details,
      hint:
        meant === undefined
          ? 'Expected {"version": "1.0.0", "anyOf": [{"authority": "https://…", "allOf": [{"claim": "…", "equals": "…"}]}]}.'
          : `Did you mean ${JSON.stringify(meant)}?`,
    });
  }
}

/** Whether two words are the same but for one letter that is missing, added or another, or for two that changed places. */
function isNear(a: string, b: string): boolean {
  let start = 0;
  while (start < a.length && a[start] === b[start]) start++;
  let end = 0;
  while (end < Math.min(a.length, b.length) - start && a.at(-1 - end) === b.at(-1 - end)) end++;
  const [left, right] = [a.slice(start, a.length - end), b.slice(start, b.length - end)];
  return (left.length <= 1 && right.length <= 1) || (left.length === 2 && right.length === 2 && left[0] === right[1] && left[1] === right[0]);
}

/**
 * `release_policy` of a request; nothing if no policy is given. A policy that gives the key to others than its owner's pods is refused here: a vault takes it.
 * @throws {CliError} ERR_CLI_USAGE, ERR_CLI_FILE
 * @throws {ReleasePolicyError} ERR_RELEASE_POLICY
 */
export async function policyMember(
  { policy: path, immutable, allowAny }: PolicyOptions,
  context: CliContext,
): Promise<{ readonly release_policy?: JsonObject }> {
  if (path === undefined) {
    if (immutable !== true) return {};
    throw new CliError("ERR_CLI_USAGE", "--immutable is given without --policy FILE");
  }
  const policy = await readPolicy(path, context);
  const weaknesses = allowAny === true ? [] : anyoneCanSatisfy(policy);
  if (weaknesses.length > 0) {
    throw new CliError(
      "ERR_CLI_FILE",
      `${path}: the release policy would give the key to others than your pods:\n${weaknesses.map(({ reason }) => `  - ${reason}`).join("\n")}`,
      {
        hint: "Add the conditions, or pass --allow-any if that is what you want.",
      },
    );
  }
  for (const caution of [...overriddenWeaknesses(policy), ...cautionsOf(policy)]) context.stderr.write(`warning: ${caution}\n`);
  return {
    release_policy: {
      contentType: "application/json; charset=utf-8",
      data: toBase64url(encodeUtf8(releasePolicyText(policy))),
      ...(immutable === true ? { immutable: true } : {}),
    },
  };
}
