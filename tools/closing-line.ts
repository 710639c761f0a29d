import type { Reporter, TestCase, TestModule } from "vitest/node";

/** Counts of one run; `tools/test.ts` reads them from `SEALPOD_COUNTS` to print the closing line of all steps together. */
export interface Counts {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

/** The line that closes a test run: `N passed, N failed, N skipped`. */
export function closingLine(counts: Counts): string {
  return `${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`;
}

/** Counts the tests of the modules; a module that could not be loaded counts as one failure. */
export function countTests(modules: readonly TestModule[], unhandled: number): Counts {
  let passed = 0;
  let failed = unhandled;
  let skipped = 0;
  for (const module of modules) {
    failed += module.errors().length;
    for (const test of module.children.allTests()) {
      const state = test.result().state;
      if (state === "passed") passed++;
      else if (state === "failed") failed++;
      else skipped++;
    }
  }
  return { passed, failed, skipped };
}

/** What was skipped, a line for each test or suite: their names say why. */
export function skippedLines(modules: readonly TestModule[]): readonly string[] {
  const counts = new Map<string, number>();
  for (const module of modules) {
    for (const test of module.children.allTests()) {
      if (test.result().state !== "skipped") continue;
      const name = `${module.relativeModuleId}: ${outermostSkipped(test)}`;
      counts.set(name, (counts.get(name) ?? 0) + 1);
    }
  }
  return [...counts].map(([name, count]) => `skipped: ${name}${count === 1 ? "" : ` (${count} tests)`}`);
}

/** The test, or the outermost suite that was skipped with it. */
function outermostSkipped(test: TestCase): string {
  let name = test.name;
  for (let item = test.parent; item.type === "suite"; item = item.parent) if (item.options.mode === "skip") name = item.name;
  return name;
}

/** Vitest reporter that prints {@link skippedLines} and {@link closingLine} as its last line. */
export default class ClosingLineReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandled: readonly unknown[]): void {
    for (const line of skippedLines(modules)) process.stdout.write(`${line}\n`);
    process.stdout.write(`${closingLine(countTests(modules, unhandled.length))}\n`);
  }
}
