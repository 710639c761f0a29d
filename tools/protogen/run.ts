import { spawnSync } from "node:child_process";
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";

// Writes lib/proto/gen from lib/proto/proto. With --check it writes nothing and fails if the committed code is not what
// the .proto files give.

const here = import.meta.dirname;
const source = join(here, "../../lib/proto/proto");
const target = join(here, "../../lib/proto/gen");
const bin = join(here, "node_modules/.bin");

const template = {
  version: "v2",
  plugins: [{ local: join(bin, "protoc-gen-es"), out: ".", opt: ["target=ts", "import_extension=ts", "erasable_syntax=true"] }],
};

function generate(output: string): void {
  const run = spawnSync(join(bin, "buf"), ["generate", source, "--template", JSON.stringify(template), "--output", output], { stdio: "inherit" });
  if (run.error !== undefined) throw run.error;
  if (run.status !== 0) throw new Error(`buf generate failed with status ${String(run.status)}`);
}

function contents(directory: string): ReadonlyMap<string, string> {
  if (!existsSync(directory)) return new Map();
  return new Map(
    readdirSync(directory)
      .sort()
      .map((name) => [name, readFileSync(join(directory, name), "utf8")]),
  );
}

function main(): number {
  if (!existsSync(join(bin, "buf"))) {
    process.stderr.write("protogen: buf is not installed. Run: npm ci --prefix tools/protogen\n");
    return 2;
  }
  // Beside the target, so that the rename stays on one file system.
  const fresh = mkdtempSync(`${target}-`);
  try {
    chmodSync(fresh, 0o755); // mkdtemp makes it private
    generate(fresh);
    const before = contents(target);
    const after = contents(fresh);
    const changed = [...new Set([...before.keys(), ...after.keys()])].filter((name) => before.get(name) !== after.get(name));
    if (process.argv.includes("--check")) {
      for (const name of changed) process.stderr.write(`protogen: lib/proto/gen/${name} is not what lib/proto/proto gives. Run: npm run gen\n`);
      return changed.length === 0 ? 0 : 1;
    }
    rmSync(target, { recursive: true, force: true });
    renameSync(fresh, target);
    process.stdout.write(`protogen: ${after.size} files, ${changed.length} changed\n`);
    return 0;
  } finally {
    rmSync(fresh, { recursive: true, force: true });
  }
}

process.exitCode = main();
