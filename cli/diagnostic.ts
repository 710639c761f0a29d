import { isSealpodError, messageOf } from "@sealpod/core";
import type { CommanderError } from "commander";
import { EXIT } from "./context.ts";
import { CliError } from "./errors.ts";

/** How an error is shown. */
export interface DiagnosticOptions {
  /** One JSON object instead of text. */
  readonly json: boolean;
  /** With the stack and the causes underneath. */
  readonly debug: boolean;
  /** In JSON the member `errors`, a list, in place of `error`. */
  readonly list?: boolean;
}

/** Text for the user and the exit code of an error: one block that says what, where and what to do; never a stack unless asked. */
export function formatError(error: unknown, options: DiagnosticOptions): { readonly text: string; readonly exit: number } {
  const known = isSealpodError(error);
  const exit = known ? error.row.exit : EXIT.failed;
  if (options.json) {
    const body = known
      ? { code: error.code, message: error.message, ...(error.hint === undefined ? {} : { hint: error.hint }), details: error.details }
      : { code: "ERR_UNEXPECTED", message: messageOf(error) };
    return { text: `${JSON.stringify(options.list === true ? { errors: [body] } : { error: body })}\n`, exit };
  }
  const lines = [`error: ${messageOf(error)}`];
  if (known && error.hint !== undefined) lines.push(`  to do: ${error.hint}`);
  if (known) lines.push(`  code:  ${error.code} (docs/errors.md)`);
  else lines.push("  This is a fault of sealpod: run the command again with --debug and report what it prints.");
  if (options.debug) {
    for (let item: unknown = error; item instanceof Error; item = item.cause) lines.push(item.stack ?? item.message);
  }
  return { text: `${lines.join("\n")}\n`, exit };
}

/**
 * What the parser of arguments refuses, as an error of ours.
 * @param said all that it wrote about it: the message, then where help is
 * @returns ERR_CLI_USAGE
 */
export function usageError({ code, message }: CommanderError, said: string): CliError {
  // Every command takes --json: who does not know it is what stands above the commands.
  if (code === "commander.help" || message === "error: unknown option '--json'") {
    return new CliError("ERR_CLI_USAGE", "no command is named before --json", { hint: "sealpod --help lists the commands." });
  }
  const [suggestion = ""] = /\n\(Did you mean [^\n]*$/.exec(message) ?? [];
  const problem = message.slice("error: ".length, message.length - suggestion.length);
  const hint = `${suggestion}${said.slice(message.length)}`.trim().replaceAll(/^\(|\)$/gm, "");
  return new CliError("ERR_CLI_USAGE", problem, hint === "" ? {} : { hint: hint.replaceAll("\n", " ") });
}
