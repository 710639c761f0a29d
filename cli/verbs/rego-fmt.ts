import { realpath, stat } from "node:fs/promises";
import { decodeUtf8, encodeUtf8, isSealpodError } from "@sealpod/core";
import { writeFileAtomic } from "@sealpod/io";
import { formatModule, type RegoVersion } from "@sealpod/rego";
import { EXIT, type CliContext } from "../context.ts";
import { formatError } from "../diagnostic.ts";
import { CliError } from "../errors.ts";
import type { Verb } from "../program.ts";
import { findModules } from "../rego/load.ts";
import { versionOf, withVersionHint, type VersionOptions } from "../rego/session.ts";
import { unifiedDiff } from "../rego/unified-diff.ts";
import { pathOf, readStdin, readText } from "../workspace.ts";

interface Options extends VersionOptions {
  readonly write?: boolean;
  readonly diff?: boolean;
  readonly list?: boolean;
  readonly fail?: boolean;
  readonly checkResult: boolean;
  readonly regoV1?: boolean;
}

/** `sealpod rego fmt`. */
export const run: Verb<Options> = async (options, paths, context) => {
  // What is to be rewritten in v1 is v0.
  const version = versionOf(options.regoV1 === true ? { ...options, v0Compatible: true } : options);
  if (paths.length === 0) {
    if (options.write === true || options.list === true) {
      throw new CliError("ERR_CLI_USAGE", `--${options.write === true ? "write" : "list"} needs files`, {
        hint: "Without files the module is read from standard input.",
      });
    }
    const text = decodeUtf8(await readStdin(context), "stdin");
    const changed = show("stdin", text, format(text, "stdin", version, options), options, context);
    return changed && options.fail === true ? EXIT.failed : EXIT.ok;
  }
  let changes = 0;
  let errors = 0;
  for (const path of await findModules(paths, context)) {
    try {
      const { text } = await readText(path, context);
      const formatted = format(text, path, version, options);
      if (show(path, text, formatted, options, context)) changes++;
      if (options.write === true && formatted !== text) await rewrite(path, formatted, context);
    } catch (error) {
      // One file that is no Rego does not keep the others from being formatted.
      if (!isSealpodError(error)) throw error;
      errors++;
      context.stderr.write(formatError(error, { json: false, debug: options.debug === true }).text);
    }
  }
  return errors > 0 || (changes > 0 && options.fail === true) ? EXIT.failed : EXIT.ok;
};

/** Prints what the options ask for. Returns whether the text was not formatted. */
function show(name: string, text: string, formatted: string, options: Options, context: CliContext): boolean {
  const changed = formatted !== text;
  if (options.list === true && changed) context.stdout.write(`${name}\n`);
  if (options.diff === true) context.stdout.write(unifiedDiff(name, text, formatted));
  if (options.list !== true && options.diff !== true && options.write !== true) context.stdout.write(formatted);
  return changed;
}

function format(text: string, name: string, version: RegoVersion, options: Options): string {
  const formatted = withVersionHint([{ name, text }], version, () => formatModule(text, { name, version, toV1: options.regoV1 ?? false }));
  if (!options.checkResult) return formatted;
  // The file is the user's work: text that does not read back as itself is not given out.
  const again = formatModule(formatted, { name: `${name} (formatted)`, version });
  if (again !== formatted) throw new Error(`formatting ${name} a second time changes it again`);
  return formatted;
}

async function rewrite(path: string, text: string, context: CliContext): Promise<void> {
  // Through a link to the file itself: the new file is put in place by a rename.
  const target = await realpath(pathOf(path, context));
  const { mode } = await stat(target);
  await writeFileAtomic(target, encodeUtf8(text), mode & 0o777);
}
