import { CliError } from "../errors.ts";

const PART = /^(?!\.{1,2}$)[A-Za-z0-9_.-]{1,256}$/;

/**
 * `repository/type/tag` of a resource, also from its URI `kbs:///repository/type/tag`.
 * @throws {CliError} ERR_CLI_USAGE
 */
export function parseResourcePath(text: string): string {
  const path = text.replace(/^kbs:\/\/[^/]*\//, "");
  const parts = path.split("/");
  if (parts.length === 3 && parts.every((part) => PART.test(part))) return path;
  throw new CliError("ERR_CLI_USAGE", `--path ${JSON.stringify(text.slice(0, 200))} names no resource`, {
    hint: "Expected REPOSITORY/TYPE/TAG, e.g. default/key/disk: three parts of letters, digits, _, - and .",
  });
}
