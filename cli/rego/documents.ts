import { DEFAULT_JSON_LIMITS, encodeJson, isSealpodError, messageOf, parseJson, type JsonValue } from "@sealpod/core";
import { compile } from "@sealpod/rego";
import { EXTENDED_BUILTINS } from "@sealpod/rego-extended";
import { CliError } from "../errors.ts";

/** True for the names of files that hold YAML. */
export function isYaml(path: string): boolean {
  return /\.ya?ml$/i.test(path);
}

/** Longest number, in characters: what the engine itself takes (an integer of its largest size). */
const MAX_NUMBER_TEXT = 1230;

/**
 * The document of a file that was named on the command line: YAML by its name, else JSON.
 * @throws {CliError} ERR_CLI_FILE with line and column
 */
export function parseDocument(path: string, text: string): JsonValue {
  if (isYaml(path)) return parseYaml(path, text);
  try {
    return parseJson(text, path, { ...DEFAULT_JSON_LIMITS, maxNumberLength: MAX_NUMBER_TEXT });
  } catch (cause) {
    if (!isSealpodError(cause)) throw cause;
    if (cause.code === "ERR_CORE_LIMIT") throw new CliError("ERR_CLI_FILE", cause.message, { cause, details: { file: path } });
    throw new CliError("ERR_CLI_FILE", `not JSON: ${cause.message}`, {
      cause,
      details: { file: path, ...cause.details },
      hint: text.trim() === "" ? "It is empty; an empty document is {}." : "Correct it there; YAML is read from files named .yaml or .yml.",
    });
  }
}

/** The engine reads YAML itself, so a file means here what `yaml.unmarshal` makes of it in a policy. */
function parseYaml(path: string, text: string): JsonValue {
  try {
    return ask("yaml.unmarshal(input)", text);
  } catch (cause) {
    throw new CliError("ERR_CLI_FILE", `${path} is not YAML: ${reason(cause, "yaml.unmarshal: yaml: ")}`, { cause, details: { file: path } });
  }
}

/**
 * Which of `names` a regular expression matches. It is RE2, as `regex.match` has it, so it takes linear time whatever it is.
 * @throws {CliError} ERR_CLI_USAGE
 */
export function matching(pattern: string, names: readonly string[]): ReadonlySet<string> {
  try {
    return new Set(ask("[name | some name in input.names; regex.match(input.pattern, name)]", { pattern, names }) as readonly string[]);
  } catch (cause) {
    throw new CliError("ERR_CLI_USAGE", `--run ${encodeJson(pattern)} is not a regular expression: ${reason(cause, "regex.match: ")}`, {
      cause,
      hint: "RE2 syntax: https://github.com/google/re2/wiki/Syntax",
    });
  }
}

/** What a builtin function says, without the place in a query that the user did not write. */
function reason(cause: unknown, prefix: string): string {
  const message = messageOf(cause);
  const start = message.indexOf(prefix);
  return start === -1 ? message : message.slice(start + prefix.length);
}

/** Without the limits on work: what is asked about are the user's own files and expressions. */
function ask(query: string, input: JsonValue): JsonValue {
  const policy = compile([], { builtins: EXTENDED_BUILTINS, strictBuiltinErrors: true });
  const limits = { maxSteps: Number.MAX_SAFE_INTEGER, maxMemory: Number.MAX_SAFE_INTEGER };
  return policy.evaluate(query, { input, limits }).results[0]!.expressions[0]!;
}
