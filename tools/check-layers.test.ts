import { describe, expect, it } from "vitest";
import { checkLayers, type SourceFile } from "./check-layers.ts";

function manifest(directory: string, name: string, ...dependencies: readonly string[]): SourceFile {
  return {
    path: `${directory}/package.json`,
    text: JSON.stringify({ name: `@sealpod/${name}`, dependencies: Object.fromEntries(dependencies.map((item) => [item, "1"])) }),
  };
}

const CORE = manifest("lib/core", "core");
const SNP = manifest("lib/snp", "snp", "@sealpod/core");
const AGENT = manifest("guest/agent", "agent", "@sealpod/core");
const SHIM = manifest("host/sandbox", "sandbox", "@sealpod/core");

const UNUSED = /is declared and not used$/;

/** All messages but those about unused dependencies, which the small trees below are full of. */
function problems(...files: readonly SourceFile[]): readonly string[] {
  return messages(...files).filter((message) => !UNUSED.test(message));
}

function messages(...files: readonly SourceFile[]): readonly string[] {
  return checkLayers(files).map((violation) => `${violation.path}:${violation.line}: ${violation.message}`);
}

function source(path: string, text: string): SourceFile {
  return { path, text };
}

describe("checkLayers", () => {
  it("accepts a package that imports what is below it and declared", () => {
    expect(
      problems(CORE, SNP, source("lib/snp/a.ts", 'import { x } from "@sealpod/core";\nimport { y } from "./abi/b.ts";\nexport const z: number = x + y;\n')),
    ).toEqual([]);
  });

  it("refuses lib/ that imports upward", () => {
    expect(problems(manifest("lib/core", "core", "@sealpod/snp"), SNP)).toEqual([
      "lib/core/package.json:1: @sealpod/core imports @sealpod/snp, which is not below it",
    ]);
  });

  it("refuses a zone that imports another zone", () => {
    expect(problems(CORE, SHIM, manifest("guest/agent", "agent", "@sealpod/sandbox"))[0]).toContain("zone guest imports zone host");
  });

  it("refuses an import that is not declared, and a deep one", () => {
    const file = source("guest/agent/a.ts", 'import "@sealpod/snp";\nimport "@sealpod/core/bytes.ts";\n');
    expect(problems(CORE, SNP, AGENT, file)).toEqual([
      "guest/agent/a.ts:1: undeclared import @sealpod/snp: add it to guest/agent/package.json",
      "guest/agent/a.ts:2: deep import @sealpod/core/bytes.ts: a package has one face",
    ]);
  });

  it("refuses a third-party package that is declared but not on the allow-list", () => {
    expect(problems(manifest("guest/agent", "agent", "left-pad"))).toEqual([
      "guest/agent/package.json:1: third-party package left-pad is not on the allow-list of guest/agent",
    ]);
  });

  it("refuses relative imports that leave the package or lack .ts", () => {
    const file = source("lib/core/a.ts", 'export * from "../snp/index.ts";\nexport * from "./b";\n');
    expect(problems(CORE, file)).toEqual([
      "lib/core/a.ts:1: relative import leaves the package: ../snp/index.ts",
      "lib/core/a.ts:2: relative import without .ts: ./b",
    ]);
  });

  it("refuses node modules, clocks, randomness and globals in lib/, but not in its tests", () => {
    const text =
      'import fs from "node:fs";\nexport const a = Date.now();\nexport const b = Math.random();\nexport const c = new Date();\nexport const d = (): unknown => fetch("x");\n';
    expect(problems(CORE, source("lib/core/a.ts", text))).toHaveLength(5);
    expect(problems(CORE, source("lib/core/a.test.ts", text))).toEqual([]);
  });

  it("does not mistake a property or a parameter for the global of the same name", () => {
    expect(
      problems(
        CORE,
        source(
          "lib/core/a.ts",
          "export function f(options: { fetch: string }, process: number): unknown {\n  return [options.fetch, { console: process }];\n}\n",
        ),
      ).filter((m) => !m.includes("process")),
    ).toEqual([]);
  });

  it("refuses env, argv and exit outside main.ts", () => {
    expect(problems(CORE, AGENT, source("guest/agent/a.ts", "export const a = process.env;\n"))).toEqual([
      "guest/agent/a.ts:1: process.env outside an entry point (main.ts)",
    ]);
    expect(problems(CORE, AGENT, source("guest/agent/main.ts", "export const a = process.env;\n"))).toEqual([]);
  });

  it("refuses module-level mutable state and computed imports", () => {
    const file = source("guest/agent/a.ts", "export let counter = 0;\nexport const load = (name: string): Promise<unknown> => import(name);\n");
    expect(problems(CORE, AGENT, file).map((m) => m.split(": ")[1])).toEqual(["import() of a computed name cannot be checked", "module-level mutable state"]);
  });

  it("refuses an import of the CLI", () => {
    expect(problems(manifest("cli", "cli"), manifest("laptop/demo", "demo", "@sealpod/cli"))[0]).toContain("imports the CLI");
  });

  it("refuses a dependency that nothing imports, and counts lazy imports and tests as use", () => {
    const lazy = source("guest/agent/a.ts", 'export const load = async (): Promise<unknown> => import("@sealpod/core");\n');
    const test = source("guest/agent/a.test.ts", 'import "@sealpod/core";\n');
    expect(messages(CORE, AGENT)).toEqual(["guest/agent/package.json:1: @sealpod/core is declared and not used"]);
    expect(messages(CORE, AGENT, lazy)).toEqual([]);
    expect(messages(CORE, AGENT, test)).toEqual([]);
  });
});
