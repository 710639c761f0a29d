import type { Reporter, TestModule } from "vitest/node";

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

/** Vitest reporter that prints {@link closingLine} as its last line. */
export default class ClosingLineReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandled: readonly unknown[]): void {
    process.stdout.write(`${closingLine(countTests(modules, unhandled.length))}\n`);
  }
}
