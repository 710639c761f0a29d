/**
 * `npm run bundle`: one file per program that runs inside the guest, and for the node's shim, from the sources, with no dependency left outside; and
 * the command line, in pieces that are loaded when a verb needs them.
 *
 * The bytes depend on the sources and on esbuild's version alone, so two machines get the same file: it is measured.
 */
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { build, type BuildOptions, type Metafile, type Plugin } from "esbuild";

const ROOT = join(import.meta.dirname, "..");

/** The bundles: name of the file in build/ and entry point. */
export const BUNDLES: Readonly<Record<string, string>> = {
  agent: "guest/agent/main.ts",
  encfs: "guest/encfs/main.ts",
  processor: "laptop/psp/main.ts",
  shim: "host/shim/main.ts",
  skr: "guest/skr/main.ts",
  webapp: "examples/key-release/webapp/webapp.ts",
};

const COMMON_OPTIONS = {
  absWorkingDir: ROOT,
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node24",
  metafile: true,
  legalComments: "none",
  charset: "utf8",
  logLevel: "silent",
} as const satisfies BuildOptions;

/**
 * Node's own modules by a call instead of an import. What has neither imports nor exports is a script as well as a module: the builder of the
 * utility VM's image loads the agent as a script, the only thing that Node can save a program from. And an import of a built-in module asks it
 * for every one of its exports, some of which load others.
 */
const PLAIN_SCRIPT: Plugin = {
  name: "plain-script",
  setup(build) {
    build.onResolve({ filter: /^node:/ }, ({ path }) => ({ path, namespace: "builtin" }));
    build.onLoad({ filter: /.*/, namespace: "builtin" }, ({ path }) => ({ contents: `module.exports = process.getBuiltinModule(${JSON.stringify(path)});` }));
  },
};

/** A DataView that is there when the agent is saved has an address of the builder's memory in what is saved: the bytes would differ each time. */
const NO_EARLY_VIEW: Plugin = {
  name: "no-early-view",
  setup(build) {
    build.onLoad({ filter: /@bufbuild\/protobuf\/.*\/proto-int64\.js$/ }, ({ path }) => {
      const text = readFileSync(path, "utf8");
      const early = "const dv = new DataView(new ArrayBuffer(8));";
      if (!text.includes(early)) throw new Error(`${path} is not the text that tools/bundle.ts knows`);
      const contents = text
        .replaceAll("typeof dv.", "typeof DataView.prototype.")
        .replaceAll(/\bdv\./g, "view().")
        .replace(early, "let made;\n    const view = () => (made ??= new DataView(new ArrayBuffer(8)));");
      return { contents, loader: "js" };
    });
  },
};

/** Bundles one entry point; returns the bytes and what went into them. */
export async function bundle(entry: string): Promise<{ readonly bytes: Uint8Array; readonly metafile: Metafile }> {
  const result = await build({
    ...COMMON_OPTIONS,
    entryPoints: [entry],
    write: false,
    // A text with one character beyond Latin-1 takes V8 two bytes for each of them.
    charset: "ascii",
    // Readable on purpose: who reviews the measured file reads this text.
    minify: false,
    banner: { js: '// Bundled by tools/bundle.ts of Sealpod. Apache-2.0.\n"use strict";' },
    plugins: [PLAIN_SCRIPT, NO_EARLY_VIEW],
  });
  const file = result.outputFiles[0];
  if (file === undefined) throw new Error(`esbuild wrote nothing for ${entry}`);
  return { bytes: file.contents, metafile: result.metafile };
}

/** Where the command line's bundle is; cli/bin/start.cjs looks for it there. */
const CLI_DIRECTORY = join(ROOT, "build", "cli");

/** Milliseconds for which the pieces of an older bundle are kept. */
const KEEP_OLD = 7 * 24 * 3_600_000;

/** Sources find the files beside them by `import.meta`: in a bundle it must say where the source is, not where the bundle is. */
const SOURCE_PLACES: Plugin = {
  name: "source-places",
  setup(build) {
    build.onLoad({ filter: /\.ts$/ }, ({ path }) => {
      const text = readFileSync(path, "utf8");
      if (path.includes("node_modules") || !/import\.meta\.(?:url|dirname)/.test(text)) return undefined;
      // All output files stand in one directory (chunks) or one below it (entry points in folders import, and never ask).
      const place = JSON.stringify(relative(CLI_DIRECTORY, path));
      const contents = text
        .replaceAll("import.meta.url", `new URL(${place}, import.meta.url).href`)
        .replaceAll("import.meta.dirname", `(import.meta.dirname + ${JSON.stringify(`/${relative(CLI_DIRECTORY, dirname(path))}`)})`);
      return { contents, loader: "ts" };
    });
  },
};

/** Commander imports these for what we never use of it (commands in files of their own), and `node:process` opens every stream: half the time of a start. */
const LAZY_BUILTINS: Plugin = {
  name: "lazy-builtins",
  setup(build) {
    build.onResolve({ filter: /^node:(?:child_process|fs|process)$/ }, ({ path, importer }) =>
      importer.includes("/node_modules/commander/") ? { path, namespace: "lazy-builtin" } : undefined,
    );
    build.onLoad({ filter: /.*/, namespace: "lazy-builtin" }, ({ path }) => ({
      contents: `export default new Proxy({}, { get: (_, name) => process.getBuiltinModule(${JSON.stringify(path)})[name] });`,
    }));
  },
};

/** Bundles the command line into build/cli: entry points, chunks, and the list of the sources that went in. */
export async function bundleCommandLine(): Promise<Metafile> {
  const started = Date.now();
  const { metafile } = await build({
    ...COMMON_OPTIONS,
    entryPoints: { main: "cli/main.ts", "genpolicy/main": "cli/genpolicy/main.ts" },
    outdir: CLI_DIRECTORY,
    outExtension: { ".js": ".mjs" },
    chunkNames: "[name]-[hash]",
    splitting: true,
    minify: true,
    keepNames: true,
    plugins: [SOURCE_PLACES, LAZY_BUILTINS],
    // For packages in CommonJS (yaml); found when it is first called.
    banner: { js: 'const require = (id) => process.getBuiltinModule("node:module").createRequire(import.meta.url)(id);' },
  });
  const inputs = ["package-lock.json", ...Object.keys(metafile.inputs).filter((path) => !/^node_modules\/|:/.test(path))].map((path) => {
    const { size, mtimeMs } = statSync(join(ROOT, path));
    return [path, size, mtimeMs].join("\t");
  });
  // Written last: without it the bundle counts as out of date.
  writeFileSync(join(CLI_DIRECTORY, "inputs.txt"), inputs.join("\n"));
  // A `sealpod up` that runs may yet load pieces of the bundle that it was started from.
  for (const name of readdirSync(CLI_DIRECTORY)) {
    const path = join(CLI_DIRECTORY, name);
    if (name.endsWith(".mjs") && started - statSync(path).mtimeMs > KEEP_OLD) rmSync(path);
  }
  return metafile;
}

/** Names of the packages whose files went into a bundle: `@sealpod/x`, `re2js`, … */
export function packagesOf(metafile: Metafile): readonly string[] {
  const names = new Set<string>();
  for (const path of Object.keys(metafile.inputs)) {
    if (path.startsWith("builtin:")) continue; // Node's own.
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
  const { outputs } = await bundleCommandLine();
  const size = Object.values(outputs).reduce((sum, output) => sum + output.bytes, 0);
  if (!process.argv.includes("--quiet")) console.log(`build/cli ${Object.keys(outputs).length} files, ${size} bytes`);
}
