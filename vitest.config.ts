import { defineConfig, type ViteUserConfig } from "vitest/config";

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
          isolate: false,
          testTimeout: 30_000,
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
