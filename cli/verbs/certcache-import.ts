import { stat } from "node:fs/promises";
import { importBundle, MAX_BUNDLE_LENGTH, parseBundle, readBundleDirectory } from "@sealpod/certcache";
import { decodeUtf8, messageOf } from "@sealpod/core";
import { loggerOf, openStore, type StoreFlags, trustOf } from "../certcache/session.ts";
import { EXIT, type CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import type { Verb } from "../program.ts";
import { pathOf, readIfPresent, readText } from "../workspace.ts";

interface Options extends StoreFlags {
  readonly chain?: readonly string[];
}

/** `sealpod certcache import`. */
export const run: Verb<Options> = async (options, [source = ""], context) => {
  const store = await openStore(options, context, loggerOf(options, context), "make");
  const isDirectory = await looksLikeDirectory(source, context);
  if (!isDirectory && options.chain !== undefined) throw new CliError("ERR_CLI_USAGE", "--chain is for directories: a bundle holds its chains");
  const chains: string[] = [];
  for (const file of options.chain ?? []) chains.push((await readText(file, context)).text);
  const directory = isDirectory ? await readBundleDirectory(pathOf(source, context), chains, store.maxEntries) : undefined;
  const bundle =
    directory ?? parseBundle(decodeUtf8((await readIfPresent(source, MAX_BUNDLE_LENGTH, context)) ?? new Uint8Array(), source), store.maxEntries, source);
  const ignored = directory?.ignored;
  const result = await importBundle(store, bundle, await trustOf(options, context));
  if (options.json === true)
    context.stdout.write(`${JSON.stringify({ source, ...result, ...(ignored && { ignored }), entries: store.count }, undefined, 2)}\n`);
  else {
    context.stdout.write(
      `${source}: ${result.vceks} new certificates, ${result.known} that were there, ${result.authorities} chains, ${result.crls} revocation lists\n`,
    );
    if (result.oldCrls > 0) context.stderr.write(`${result.oldCrls} revocation lists were left out: their time is over, or one as new is there\n`);
    if (ignored !== undefined && ignored.count > 0) {
      const more = ignored.count - ignored.names.length;
      context.stderr.write(`ignored, in no known layout: ${ignored.names.join(", ")}${more > 0 ? ` and ${more} more` : ""}\n`);
    }
  }
  return EXIT.ok;
};

async function looksLikeDirectory(source: string, context: CliContext): Promise<boolean> {
  try {
    return (await stat(pathOf(source, context))).isDirectory();
  } catch (cause) {
    throw new CliError("ERR_CLI_FILE", `${source} cannot be read: ${messageOf(cause)}`, {
      cause,
      hint: `Check the name; relative paths start from ${context.cwd}.`,
    });
  }
}
