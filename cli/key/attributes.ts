import type { JsonObject } from "@sealpod/core";
import { CliError } from "../errors.ts";

/** Flags about the attributes of a key or secret, in the words of `az keyvault`. */
export interface AttributeOptions {
  readonly disabled?: boolean;
  /** `true` or `false`. */
  readonly enabled?: string;
  readonly expires?: string;
  readonly notBefore?: string;
  readonly tags?: readonly string[];
}

/** Operations of keys as the wire spells them; `az` is used in lower case too. */
const KEY_OPERATIONS = ["encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"] as const;

/**
 * `attributes` of a request, without members that no flag gives.
 * @throws {CliError} ERR_CLI_USAGE
 */
export function attributesOf({ disabled, enabled, expires, notBefore }: AttributeOptions): JsonObject {
  const state = disabled === true ? false : flagOf("--enabled", enabled);
  return {
    ...(state === undefined ? {} : { enabled: state }),
    ...(notBefore === undefined ? {} : { nbf: secondsOf("--not-before", notBefore) }),
    ...(expires === undefined ? {} : { exp: secondsOf("--expires", expires) }),
  };
}

/**
 * `tags` of a request; an empty text takes all tags away.
 * @throws {CliError} ERR_CLI_USAGE
 */
export function tagsOf(tags: readonly string[] | undefined): { readonly tags?: JsonObject } {
  if (tags === undefined) return {};
  const entries = tags
    .filter((tag) => tag !== "")
    .map((tag): readonly [string, string] => {
      const at = tag.indexOf("=");
      return at === -1 ? [tag, ""] : [tag.slice(0, at), tag.slice(at + 1)];
    });
  return { tags: Object.fromEntries(entries) };
}

/**
 * `key_ops` of a request.
 * @throws {CliError} ERR_CLI_USAGE
 */
export function operationsOf(ops: readonly string[] | undefined): { readonly key_ops?: readonly string[] } {
  if (ops === undefined) return {};
  // `az` takes words, people write commas.
  const words = ops.flatMap((item) => item.split(",")).filter((word) => word !== "");
  return {
    key_ops: words.map((word) => {
      const known = KEY_OPERATIONS.find((name) => name.toLowerCase() === word.toLowerCase());
      if (known !== undefined) return known;
      throw new CliError("ERR_CLI_USAGE", `--ops ${word.slice(0, 40)} is not an operation of keys`, { hint: `Expected some of ${KEY_OPERATIONS.join(", ")}.` });
    }),
  };
}

/**
 * A whole number of a flag.
 * @throws {CliError} ERR_CLI_USAGE
 */
export function integerOf(flag: string, text: string, least: number, most: number): number {
  const value = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
  if (value >= least && value <= most) return value;
  throw new CliError("ERR_CLI_USAGE", `${flag} ${text.slice(0, 40)} is not a number from ${least} to ${most}`);
}

function flagOf(flag: string, text: string | undefined): boolean | undefined {
  if (text === undefined || text === "true") return text === undefined ? undefined : true;
  if (text === "false") return false;
  throw new CliError("ERR_CLI_USAGE", `${flag} ${text.slice(0, 40)} is neither true nor false`);
}

/** Whole seconds since 1970 of a UTC time as `az` takes it. */
function secondsOf(flag: string, text: string): number {
  const [, date, time = "00:00:00"] = /^(\d{4}-\d{2}-\d{2})(?:T(\d{2}:\d{2}(?::\d{2})?))?Z?$/.exec(text) ?? [];
  const seconds = date === undefined ? Number.NaN : Date.parse(`${date}T${time}Z`) / 1000;
  if (Number.isSafeInteger(seconds) && seconds >= 0) return seconds;
  throw new CliError("ERR_CLI_USAGE", `${flag} ${text.slice(0, 40)} is not a time`, { hint: "Expected UTC, e.g. 2027-01-31T12:00:00Z" });
}
