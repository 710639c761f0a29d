import { CliError } from "../errors.ts";

/** The flag for who is used to `az`: the same as the first operand. */
export interface NameOptions {
  readonly name?: string;
}

/** A key or secret as the command line names it: `NAME`, `NAME/VERSION`, or its URL. */
export interface VaultItemName {
  readonly name: string;
  readonly version: string | undefined;
  /** `https://host[:port]` of a URL. */
  readonly base: string | undefined;
}

/** Reads the name of a key or secret; undefined if it is none. */
export function parseName(text: string): VaultItemName | undefined {
  let [base, path]: readonly [string | undefined, string] = [undefined, text];
  if (/^https:\/\//i.test(text)) {
    const url = URL.canParse(text) ? new URL(text) : undefined;
    const item = /^\/(?:keys|secrets|deletedkeys|deletedsecrets)\/(.+?)\/?$/.exec(url?.pathname ?? "")?.[1];
    if (url === undefined || item === undefined || url.search !== "" || url.hash !== "" || url.username !== "") return undefined;
    [base, path] = [url.origin, item];
  }
  const [, name, version] = /^([0-9A-Za-z-]{1,127})(?:\/([0-9A-Za-z]{1,64}))?$/.exec(path) ?? [];
  return name === undefined ? undefined : { name, version, base };
}

/**
 * The key or secret of a command line, by its first operand or `--name`.
 * @throws {CliError} ERR_CLI_USAGE
 */
export function requireName(options: NameOptions, operands: readonly string[]): VaultItemName {
  const [operand] = operands;
  if (operand !== undefined && options.name !== undefined)
    throw new CliError("ERR_CLI_USAGE", `${operand} and --name ${options.name} are two names`, { hint: "Give one." });
  const text = options.name ?? operand;
  if (text === undefined) throw new CliError("ERR_CLI_USAGE", "no name is given", { hint: "Give NAME, NAME/VERSION, or the URL of the key or secret." });
  const parsed = parseName(text);
  if (parsed !== undefined) return parsed;
  throw new CliError("ERR_CLI_USAGE", `${JSON.stringify(text.slice(0, 200))} is not the name of a key or secret`, {
    hint: "Expected 1 to 127 letters, digits and hyphens, perhaps with /VERSION; or https://VAULT/keys/NAME[/VERSION].",
  });
}

/**
 * As {@link requireName}, for what is done to all versions.
 * @throws {CliError} ERR_CLI_USAGE
 */
export function requireVersionless(options: NameOptions, operands: readonly string[]): string {
  const { name, version } = requireName(options, operands);
  if (version === undefined) return name;
  throw new CliError("ERR_CLI_USAGE", `${name}/${version} names a version, and this is done to all versions of ${name}`, { hint: `Give ${name}.` });
}

/** Path of a key or a version of it. */
export function keyPath({ name, version }: Pick<VaultItemName, "name" | "version">): string {
  return version === undefined ? `/keys/${name}` : `/keys/${name}/${version}`;
}

/** Path of a secret or a version of it. */
export function secretPath({ name, version }: Pick<VaultItemName, "name" | "version">): string {
  return version === undefined ? `/secrets/${name}` : `/secrets/${name}/${version}`;
}
