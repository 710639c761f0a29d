import { RegoError } from "@sealpod/rego";
import { EXIT } from "../context.ts";
import { CliError } from "../errors.ts";
import type { Verb } from "../program.ts";
import { loadModules } from "../rego/load.ts";
import { at, distinct, errorList, printable, withErrors, writeJson } from "../rego/output.ts";
import { compileModules, type DialectOptions } from "../rego/session.ts";

interface Options extends DialectOptions {
  readonly format: "json" | "pretty";
}

/** `sealpod rego check`. */
export const run: Verb<Options> = async (options, paths, context) => {
  const json = options.format === "json" || options.json === true;
  return withErrors(json, options, context, async () => {
    const modules = await loadModules(paths, context);
    if (modules.length === 0) throw new CliError("ERR_CLI_FILE", `there is no .rego file in ${paths.join(", ")}`);
    try {
      compileModules(modules, options);
    } catch (error) {
      if (!(error instanceof RegoError) || error.diagnostics.length === 0 || options.debug === true) throw error;
      if (json) writeJson(context.stdout, { errors: errorList(error) });
      else {
        const diagnostics = distinct(error.diagnostics);
        for (const item of diagnostics) {
          context.stderr.write(printable(`${at(item)}: ${item.message}\n  ${item.excerpt}\n  ${item.caret}\n`));
        }
        if (error.hint !== undefined) context.stderr.write(`to do: ${error.hint}\n`);
        const files = new Set(diagnostics.map(({ file }) => file)).size;
        context.stderr.write(`${plural(diagnostics.length, "error")} in ${files} of ${plural(modules.length, "file")}\n`);
      }
      return EXIT.failed;
    }
    if (json) writeJson(context.stdout, {});
    return EXIT.ok;
  });
};

function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}
