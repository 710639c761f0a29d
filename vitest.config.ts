import { defineConfig, type ViteUserConfig } from "vitest/config";

/** Tests that measure how work grows with size: each file has a process of its own, because the heap of ten thousand other tests takes its share of what is measured. */
const GROWTH = [
  "lib/{cose,pki,snp}/malformed.test.ts",
  "lib/release-policy/malformed.test.ts",
  "lib/snp/measurement/malformed.test.ts",
  "lib/rego/hostile.test.ts",
  "tools/testing/growth.test.ts",
  "lib/rego/format/format.test.ts",
  "verifier/attestation/policy/malformed.test.ts",
];

// Unit tests share one process (isolate: false is twelve times faster here), so they leave no state behind.
// Tests named *.e2e.ts start processes, namespaces and servers: one file at a time, each in its own worker.
const config: ViteUserConfig = defineConfig({
  test: {
    reporters: [process.env["SEALPOD_VERBOSE"] === undefined ? "dot" : "default", "./tools/closing-line.ts"],
    projects: [
      {
        test: {
          name: "unit",
          include: ["{lib,author,host,guest,verifier,laptop,cli,tools,conformance}/**/*.test.ts"],
          exclude: ["**/node_modules/**", ...GROWTH],
          isolate: false,
          // The default leaves one processor to a watcher that nobody has here.
          maxWorkers: "100%",
          testTimeout: 30_000,
        },
      },
      {
        test: {
          name: "growth",
          include: GROWTH,
          fileParallelism: false,
          testTimeout: 60_000,
        },
      },
      {
        test: {
          name: "e2e",
          include: ["{lib,author,host,guest,verifier,laptop,cli,tools,conformance}/**/*.e2e.ts"],
          fileParallelism: false,
          testTimeout: 180_000,
          hookTimeout: 300_000,
        },
      },
    ],
  },
});
export default config;
