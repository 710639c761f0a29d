/**
 * `npm test`: everything that must hold, one step after the other, and one closing line for all of it.
 *
 * `--only a,b` runs the named steps alone. A check (format, lint, types, layers, errors) counts as one test.
 */
import { spawnSync } from "node:child_process";
import { join } from "node:path";

interface Step {
  readonly name: string;
  readonly command: readonly string[];
}

const NODE = process.execPath;
const ROOT = join(import.meta.dirname, "..");

const STEPS: readonly Step[] = [
  { name: "setup", command: [NODE, "tools/setup.ts", "--quiet", "--test"] },
  { name: "bundle", command: [NODE, "tools/bundle.ts"] },
  { name: "format", command: ["oxfmt", "--check"] },
  { name: "lint", command: ["oxlint", "--type-aware"] },
  { name: "types", command: ["tsc", "-p", "."] },
  { name: "layers", command: [NODE, "tools/check-layers.ts"] },
  { name: "errors", command: [NODE, "tools/errors-doc.ts", "--check"] },
  { name: "unit", command: ["vitest", "run", "--project", "unit"] },
  { name: "growth", command: ["vitest", "run", "--project", "growth"] },
  { name: "e2e", command: ["vitest", "run", "--project", "e2e"] },
];

/** Counts of a vitest run, from its closing line; undefined if it never got there. */
function counts(output: string): readonly [number, number, number] | undefined {
  const match = /(\d+) passed, (\d+) failed, (\d+) skipped\s*$/.exec(output.trimEnd());
  return match === null ? undefined : [Number(match[1]), Number(match[2]), Number(match[3])];
}

function main(): number {
  const only = process.argv.indexOf("--only");
  const names = only === -1 ? undefined : (process.argv[only + 1] ?? "").split(",");
  const unknown = names?.filter((name) => !STEPS.some((step) => step.name === name)) ?? [];
  if (unknown.length > 0) {
    console.error(`test: no step named ${unknown.join(", ")}; there are ${STEPS.map((step) => step.name).join(", ")}`);
    return 2;
  }
  let passed = 0;
  let failed = 0;
  let skipped = 0;
  // NODE_EXTRA_CA_CERTS slows every start of Node 20 and belongs to the machine, not to the tests.
  const { NODE_EXTRA_CA_CERTS: _ca, PATH: path = "", ...rest } = process.env;
  // What setup unpacked for the tests; what the machine has itself comes first.
  const tools = ["usr/bin", "usr/sbin"].map((directory) => join(ROOT, "build/tools", directory));
  const env = { ...rest, PATH: [path, ...tools].join(":") };
  for (const step of STEPS) {
    if (names !== undefined && !names.includes(step.name)) continue;
    const started = process.hrtime.bigint();
    const tests = step.command[0] === "vitest";
    const [command = "", ...args] = step.command;
    const result = spawnSync(command, args, { cwd: ROOT, env, encoding: "utf8", maxBuffer: 256 * 1024 * 1024, stdio: ["ignore", "pipe", "pipe"] });
    const output = `${result.stdout ?? ""}${result.stderr ?? ""}`;
    const seconds = (Number(process.hrtime.bigint() - started) / 1e9).toFixed(1);
    const found = tests ? counts(result.stdout ?? "") : undefined;
    if (found !== undefined) {
      passed += found[0];
      failed += found[1];
      skipped += found[2];
    }
    const good = result.status === 0;
    // A vitest run that failed without a failed test (it could not start, a worker died) must not look green.
    if (good && !tests) passed++;
    if (!good && (!tests || found === undefined || found[1] === 0)) failed++;
    const detail = found === undefined ? "" : ` (${found[0]} passed, ${found[1]} failed, ${found[2]} skipped)`;
    console.log(`${good ? "ok  " : "FAIL"} ${step.name.padEnd(7)} ${seconds.padStart(6)} s${detail}`);
    if (!good) console.log(output.trimEnd());
    else for (const line of output.split("\n")) if (line.startsWith("skipped: ")) console.log(`     ${line}`);
    if (!good && (step.name === "setup" || step.name === "bundle")) break;
  }
  console.log(`${passed} passed, ${failed} failed, ${skipped} skipped`);
  return failed === 0 ? 0 : 1;
}

process.exitCode = main();
