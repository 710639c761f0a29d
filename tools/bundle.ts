/**
 * `npm run bundle`: one file per program that runs inside the guest, from the sources, with no dependency left outside.
 *
 * The bytes depend on the sources and on esbuild's version alone, so two machines get the same file: it is measured.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { build, type Metafile } from "esbuild";

const ROOT = join(import.meta.dirname, "..");

/** The bundles: name of the file in build/ and entry point. */
export const BUNDLES: Readonly<Record<string, string>> = {
  agent: "guest/agent/main.ts",
  skr: "guest/skr/main.ts",
  webapp: "examples/key-release/webapp/webapp.ts",
};

/** Bundles one entry point; returns the bytes and what went into them. */
export async function bundle(entry: string): Promise<{ readonly bytes: Uint8Array; readonly metafile: Metafile }> {
  const result = await build({
    absWorkingDir: ROOT,
    entryPoints: [entry],
    bundle: true,
    write: false,
    platform: "node",
    format: "esm",
    target: "node24",
    metafile: true,
    legalComments: "none",
    charset: "utf8",
    logLevel: "silent",
    // Readable on purpose: who reviews the measured file reads this text.
    minify: false,
    banner: { js: "// Bundled by tools/bundle.ts of Sealpod. Apache-2.0." },
  });
  const file = result.outputFiles[0];
  if (file === undefined) throw new Error(`esbuild wrote nothing for ${entry}`);
  return { bytes: file.contents, metafile: result.metafile };
}

/** Names of the packages whose files went into a bundle: `@sealpod/x`, `re2js`, … */
export function packagesOf(metafile: Metafile): readonly string[] {
  const names = new Set<string>();
  for (const path of Object.keys(metafile.inputs)) {
    const third = /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path);
    names.add(third?.[1] ?? path.split("/").slice(0, 2).join("/"));
  }
  return [...names].sort();
}

if (import.meta.main) {
  mkdirSync(join(ROOT, "build"), { recursive: true });
  for (const [name, entry] of Object.entries(BUNDLES)) {
    const { bytes } = await bundle(entry);
    writeFileSync(join(ROOT, "build", `${name}.mjs`), bytes);
    if (!process.argv.includes("--quiet")) console.log(`build/${name}.mjs ${bytes.length} bytes`);
  }
}
