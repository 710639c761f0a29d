import { bundleBytes, exportBundle } from "@sealpod/certcache";
import { sha256, toHex } from "@sealpod/core";
import { writeFileAtomic } from "@sealpod/io";
import { loggerOf, openStore, type StoreFlags, trustOf } from "../certcache/session.ts";
import { EXIT } from "../context.ts";
import { CliError } from "../errors.ts";
import type { Verb } from "../program.ts";
import { pathOf } from "../workspace.ts";

interface Options extends StoreFlags {
  readonly output: string;
}

/** `sealpod certcache export`. */
export const run: Verb<Options> = async (options, _operands, context) => {
  const store = await openStore(options, context, loggerOf(options, context), "refuse");
  const bundle = await exportBundle(store, await trustOf(options, context));
  if (bundle.vceks.length === 0 && bundle.authorities.length === 0) {
    throw new CliError("ERR_CLI_FILE", `${store.directory} has no certificate that verifies`, {
      hint: "Fill the cache with `sealpod certcache fetch`, or name another --dir.",
    });
  }
  const bytes = bundleBytes(bundle);
  await writeFileAtomic(pathOf(options.output, context), bytes, 0o644);
  const result = {
    file: options.output,
    vceks: bundle.vceks.length,
    authorities: bundle.authorities.length,
    crls: bundle.crls.length,
    leftOut: store.count - bundle.vceks.length,
    sha256: toHex(sha256(bytes)),
  };
  if (options.json === true) context.stdout.write(`${JSON.stringify(result, undefined, 2)}\n`);
  else {
    context.stdout.write(
      `${result.file}: ${result.vceks} certificates, ${result.authorities} chains, ${result.crls} revocation lists\nsha256 ${result.sha256}\n`,
    );
    if (result.leftOut > 0)
      context.stderr.write(`${result.leftOut} files that are damaged, not trusted or over were left out; \`sealpod certcache list\` shows them\n`);
  }
  return EXIT.ok;
};
