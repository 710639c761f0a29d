/**
 * Writes docs/errors.md from the error tables of all packages; `--check` only compares.
 *
 * A package that declares a table `*_ERRORS` in its face is found by itself.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import type { ErrorTable } from "@sealpod/core";

const ROOT = join(import.meta.dirname, "..");
const TARGET = join(ROOT, "docs", "errors.md");

async function tables(): Promise<ReadonlyMap<string, ErrorTable<string>>> {
  const found = new Map<string, ErrorTable<string>>();
  const zones = ["lib", "author", "host", "guest", "verifier", "laptop"];
  const packages = zones.flatMap((zone) =>
    readdirSync(join(ROOT, zone))
      .sort()
      .map((name) => `${zone}/${name}`),
  );
  for (const directory of [...packages, "cli"]) {
    const face = join(ROOT, directory, "errors.ts");
    if (!existsSync(face)) continue;
    const module = (await import(pathToFileURL(face).href)) as Record<string, unknown>;
    for (const [key, value] of Object.entries(module)) if (key.endsWith("_ERRORS")) found.set(directory, value as ErrorTable<string>);
  }
  return found;
}

function page(all: ReadonlyMap<string, ErrorTable<string>>): string {
  const lines = [
    "# Errors",
    "",
    "Written by `tools/errors-doc.ts` from the error tables of the packages; do not edit. *Action* says what to do: `caller` mend the call or the input,",
    "`transient` try again, `refused` the input was understood and refused. *Exit* is the exit code of the command, *HTTP* the status when a service answers with it.",
    "",
  ];
  for (const [name, table] of all) {
    lines.push(`## ${name}`, "", "| code | action | exit | HTTP | meaning |", "|---|---|---|---|---|");
    for (const [code, row] of Object.entries(table)) lines.push(`| \`${code}\` | ${row.action} | ${row.exit} | ${row.http} | ${row.summary} |`);
    lines.push("");
  }
  return lines.join("\n");
}

const text = page(await tables());
if (process.argv.includes("--check")) {
  if (!existsSync(TARGET) || readFileSync(TARGET, "utf8") !== text) {
    console.error("docs/errors.md is not what the error tables say; run: node tools/errors-doc.ts");
    process.exitCode = 1;
  }
} else {
  writeFileSync(TARGET, text);
}
