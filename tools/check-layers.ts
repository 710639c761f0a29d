/**
 * Keeps the trust zones of docs/architecture.md apart. `node tools/check-layers.ts` prints every violation as
 * `file:line: what` and exits with 1 if there is one. The tables below are the law; a change to them is a design change.
 */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join, relative, sep } from "node:path";
import { parseSync, type ParseResult } from "oxc-parser";

/** lib/ packages, lowest first: each may import only those before it. */
export const LIB_ORDER = [
  "core",
  "release-policy",
  "rego",
  "kube",
  "proto",
  "ttrpc",
  "mux",
  "pki",
  "rego-extended",
  "cose",
  "verity",
  "oci",
  "containerd",
  "snp",
  "luks2",
] as const;

/** The zones that never import one another. */
export const ZONES = ["author", "host", "guest", "verifier"] as const;

/** Third-party packages that a package may use at run time. What is not listed here is not allowed, declared or not. */
export const THIRD_PARTY: Readonly<Record<string, readonly string[]>> = {
  "lib/rego": ["re2js"],
  "lib/rego-extended": ["graphql", "yaml"],
  "lib/kube": ["yaml"],
  "lib/proto": ["@bufbuild/protobuf"],
  "lib/cose": ["cbor2"],
  "author/genpolicy": ["rfc6902", "smol-toml"],
  "host/shim": ["smol-toml"],
  "guest/skr": ["jose"],
  "verifier/attestation": ["hono", "jmespath", "jose"],
  "verifier/certcache": ["hono"],
  "verifier/storage": ["postgres"],
  "verifier/service": ["hono", "@hono/node-server"],
  "verifier/kbs": ["hono", "jose", "smol-toml"],
  "verifier/keyvault": ["jose", "hono"],
  "verifier/identity": ["jose", "hono"],
  "laptop/services": ["hono", "@hono/node-server"],
  cli: ["commander"],
};

/** What only tests and tools may import, wherever they stand. */
const DEV_PACKAGES = new Set([
  "@bufbuild/protobuf",
  "@cfworker/json-schema",
  "@connectrpc/connect",
  "@connectrpc/connect-node",
  "esbuild",
  "fast-check",
  "jose",
  "oxc-parser",
  "vitest",
  "yaml",
]);

/** Built-in modules that lib/ may use: pure computation only. */
const LIB_BUILTINS = new Set(["node:crypto", "node:zlib"]);

/** Ambient inputs that lib/ must take as parameters (ports) instead. */
const LIB_FORBIDDEN_GLOBALS = new Set(["process", "console", "fetch", "setTimeout", "setInterval", "setImmediate", "performance"]);

/** Files that implement a port of lib/ with the platform, each with its reason. */
const PORT_IMPLEMENTATIONS: ReadonlySet<string> = new Set([
  // The default of ttRPC's `Timer` port: call deadlines are the protocol's own, and every caller would pass this one.
  "lib/ttrpc/timer.ts",
  // gRPC's transport: an author's tool and the host's shim both speak to containerd's socket, and there is no other way to reach it.
  "lib/containerd/grpc-socket.ts",
  "lib/containerd/containerd.ts",
  "lib/containerd/grpc-status.ts",
]);

/** A TypeScript file, or the package.json, of the repository. */
export interface SourceFile {
  /** Path from the repository root, with `/`. */
  readonly path: string;
  readonly text: string;
}

/** One broken rule. */
export interface Violation {
  readonly path: string;
  readonly line: number;
  readonly message: string;
}

interface Package {
  readonly directory: string;
  readonly name: string;
  readonly zone: string;
  readonly dependencies: ReadonlySet<string>;
}

/** All violations in the given files, in the order of the files. */
export function checkLayers(files: readonly SourceFile[]): readonly Violation[] {
  const packages = readPackages(files);
  const byName = new Map(packages.map((item) => [item.name, item]));
  const violations: Violation[] = [];
  for (const item of packages) violations.push(...checkManifest(item, byName));
  const used = new Set<string>();
  for (const file of files) {
    if (!file.path.endsWith(".ts")) continue;
    const owner = packages.find((item) => file.path.startsWith(`${item.directory}/`));
    if (owner === undefined) continue;
    violations.push(...checkFile(file, owner, byName));
    for (const name of importedPackages(file)) used.add(`${owner.name} ${name}`);
  }
  for (const item of packages) {
    for (const dependency of item.dependencies) {
      // What is declared is what a reviewer of the package has to read.
      if (!used.has(`${item.name} ${dependency}`))
        violations.push({ path: `${item.directory}/package.json`, line: 1, message: `${dependency} is declared and not used` });
    }
  }
  return violations;
}

function readPackages(files: readonly SourceFile[]): readonly Package[] {
  const packages: Package[] = [];
  for (const file of files) {
    if (!file.path.endsWith("/package.json")) continue;
    const manifest = JSON.parse(file.text) as { name: string; dependencies?: Record<string, string> };
    const directory = file.path.slice(0, -"/package.json".length);
    packages.push({
      directory,
      name: manifest.name,
      zone: directory.split("/")[0] ?? directory,
      dependencies: new Set(Object.keys(manifest.dependencies ?? {})),
    });
  }
  return packages.filter((item) => item.name.startsWith("@sealpod/"));
}

function checkManifest(item: Package, byName: ReadonlyMap<string, Package>): readonly Violation[] {
  const path = `${item.directory}/package.json`;
  const violations: Violation[] = [];
  for (const dependency of item.dependencies) {
    const target = byName.get(dependency);
    const message =
      target === undefined
        ? (THIRD_PARTY[item.directory] ?? []).includes(dependency)
          ? undefined
          : `third-party package ${dependency} is not on the allow-list of ${item.directory}`
        : direction(item, target);
    if (message !== undefined) violations.push({ path, line: 1, message });
  }
  return violations;
}

/** Why `from` may not import `to`, or undefined if it may. */
function direction(from: Package, to: Package): string | undefined {
  if (from === to) return undefined;
  const isZone = (zone: string): boolean => (ZONES as readonly string[]).includes(zone);
  if (from.zone === "lib") {
    if (to.zone !== "lib") return `lib/ imports ${to.name} of zone ${to.zone}`;
    const order = LIB_ORDER as readonly string[];
    const here = order.indexOf(from.directory.slice(4));
    const there = order.indexOf(to.directory.slice(4));
    if (here === -1 || there === -1) return `${here === -1 ? from.name : to.name} is not in LIB_ORDER`;
    return there < here ? undefined : `${from.name} imports ${to.name}, which is not below it`;
  }
  if (isZone(from.zone)) {
    if (isZone(to.zone) && to.zone !== from.zone) return `zone ${from.zone} imports zone ${to.zone} (${to.name}): zones talk by wire formats only`;
    if (!isZone(to.zone) && to.zone !== "lib") return `zone ${from.zone} imports ${to.name}: only laptop/, cli/ and tests compose zones`;
  }
  if (to.zone === "cli") return `${from.name} imports the CLI: nothing may`;
  return undefined;
}

function checkFile(file: SourceFile, owner: Package, byName: ReadonlyMap<string, Package>): readonly Violation[] {
  const violations: Violation[] = [];
  const isTest = /(\.(test|e2e)|\/test-support)\.ts$/.test(file.path) || file.path.includes("/testdata/");
  const isEntry = /(^|\/)main\.ts$/.test(file.path);
  const parsed = parseSync(file.path, file.text);
  const add = (offset: number, message: string): void => {
    violations.push({ path: file.path, line: file.text.slice(0, offset).split("\n").length, message });
  };
  for (const error of parsed.errors) add(error.labels[0]?.start ?? 0, `does not parse: ${error.message}`);
  const requests = staticRequests(parsed.module);
  for (const item of parsed.module.dynamicImports) {
    const literal = file.text.slice(item.moduleRequest.start, item.moduleRequest.end);
    const name = /^["'`](.*)["'`]$/s.exec(literal)?.[1];
    if (name === undefined || name.includes("${")) add(item.start, "import() of a computed name cannot be checked");
    else requests.push({ name, at: item.start });
  }
  for (const request of requests) {
    const message = importProblem(request.name, file.path, owner, byName, isTest);
    if (message !== undefined) add(request.at, message);
  }
  if (!isTest && !PORT_IMPLEMENTATIONS.has(file.path)) {
    walk(parsed.program, (node, parent) => {
      const problem = ambientProblem(node, parent, owner, isEntry);
      if (problem !== undefined) add(node.start, problem);
    });
    for (const statement of parsed.program.body) {
      const declaration = statement.type === "ExportNamedDeclaration" ? statement.declaration : statement;
      if (declaration?.type === "VariableDeclaration" && declaration.kind !== "const" && !isEntry) add(declaration.start, "module-level mutable state");
    }
  }
  return violations;
}

/** Modules that a file names in import and export declarations. */
function staticRequests(module: ParseResult["module"]): { readonly name: string; readonly at: number }[] {
  const requests = module.staticImports.map((item) => ({ name: item.moduleRequest.value, at: item.start }));
  for (const item of module.staticExports) {
    for (const entry of item.entries) if (entry.moduleRequest !== null) requests.push({ name: entry.moduleRequest.value, at: item.start });
  }
  return requests;
}

/** Packages that a file imports, in whatever way. */
function importedPackages(file: SourceFile): readonly string[] {
  const { module } = parseSync(file.path, file.text);
  const dynamic = module.dynamicImports.map((item) => file.text.slice(item.moduleRequest.start + 1, item.moduleRequest.end - 1));
  return [...staticRequests(module).map((request) => request.name), ...dynamic].map(packageOf);
}

/** `@scope/name` of `@scope/name/sub/path`. */
function packageOf(request: string): string {
  return request
    .split("/")
    .slice(0, request.startsWith("@") ? 2 : 1)
    .join("/");
}

function importProblem(name: string, path: string, owner: Package, byName: ReadonlyMap<string, Package>, isTest: boolean): string | undefined {
  if (name.startsWith(".")) {
    const parts = path.split("/").slice(0, -1);
    for (const part of name.split("/")) {
      if (part === "..") parts.pop();
      else if (part !== ".") parts.push(part);
    }
    const target = parts.join("/");
    if (!target.startsWith(`${owner.directory}/`) && !(isTest && target.startsWith("tools/"))) return `relative import leaves the package: ${name}`;
    return name.endsWith(".ts") || name.endsWith(".json") ? undefined : `relative import without .ts: ${name}`;
  }
  if (name.startsWith("node:"))
    return owner.zone === "lib" && !LIB_BUILTINS.has(name) && !isTest && !PORT_IMPLEMENTATIONS.has(path)
      ? `lib/ imports ${name}: take it as a port`
      : undefined;
  const base = packageOf(name);
  const target = byName.get(base);
  if (isTest) return target === undefined && !DEV_PACKAGES.has(base) && !owner.dependencies.has(base) ? `undeclared import ${name}` : undefined;
  if (!owner.dependencies.has(base)) return `undeclared import ${name}: add it to ${owner.directory}/package.json`;
  if (target !== undefined && name !== base) return `deep import ${name}: a package has one face`;
  return undefined;
}

function ambientProblem(node: Node, parent: Node | undefined, owner: Package, isEntry: boolean): string | undefined {
  if (node.type === "MemberExpression" && !node["computed"]) {
    const object = node["object"] as Node;
    const property = (node["property"] as Node)["name"] as string;
    const name = object.type === "Identifier" ? (object["name"] as string) : "";
    if (name === "process" && ["env", "argv", "exit", "exitCode"].includes(property) && !isEntry) return `process.${property} outside an entry point (main.ts)`;
    if (owner.zone === "lib" && ((name === "Date" && property === "now") || (name === "Math" && property === "random")))
      return `${name}.${property} in lib/: take a port`;
  }
  if (owner.zone !== "lib") return undefined;
  if (node.type === "NewExpression" && (node["callee"] as Node)["name"] === "Date" && (node["arguments"] as readonly Node[]).length === 0)
    return "new Date() in lib/: take a Clock";
  if (node.type === "Identifier" && LIB_FORBIDDEN_GLOBALS.has(node["name"] as string) && isReference(node, parent))
    return `${node["name"] as string} in lib/: take a port`;
  return undefined;
}

/** False for names that are a property, a key or a declaration rather than a use of the global. */
function isReference(node: Node, parent: Node | undefined): boolean {
  if (parent === undefined) return true;
  if (parent.type === "MemberExpression") return parent["object"] === node || parent["computed"] === true;
  if (parent.type === "CallExpression") return true;
  if (parent.type === "Property" || parent.type === "PropertyDefinition" || parent.type === "MethodDefinition")
    return parent["value"] === node && parent["key"] !== node;
  return /Expression$|ArrowFunction|VariableDeclarator|ReturnStatement/.test(parent.type) && parent["id"] !== node && parent["params"] === undefined;
}

interface Node {
  readonly type: string;
  readonly start: number;
  readonly [key: string]: unknown;
}

function walk(root: unknown, visit: (node: Node, parent: Node | undefined) => void): void {
  const stack: { readonly value: unknown; readonly parent: Node | undefined }[] = [{ value: root, parent: undefined }];
  for (let item = stack.pop(); item !== undefined; item = stack.pop()) {
    const { value, parent } = item;
    if (Array.isArray(value)) {
      for (const child of value as readonly unknown[]) stack.push({ value: child, parent });
    } else if (typeof value === "object" && value !== null && typeof (value as { type?: unknown }).type === "string") {
      const node = value as Node;
      visit(node, parent);
      for (const [key, child] of Object.entries(node))
        if (typeof child === "object" && child !== null && key !== "parent") stack.push({ value: child, parent: node });
    }
  }
}

/** Reads the TypeScript files and package manifests of the checked folders. */
export function readSources(root: string): readonly SourceFile[] {
  const files: SourceFile[] = [];
  const visit = (directory: string): void => {
    for (const name of readdirSync(directory).sort()) {
      if (name === "node_modules" || name === "gen" || name === "build") continue;
      const path = join(directory, name);
      if (statSync(path).isDirectory()) visit(path);
      else if (name.endsWith(".ts") || name === "package.json")
        files.push({ path: relative(root, path).split(sep).join("/"), text: readFileSync(path, "utf8") });
    }
  };
  for (const folder of ["lib", ...ZONES, "laptop", "cli"]) visit(join(root, folder));
  return files;
}

if (import.meta.main) {
  const violations = checkLayers(readSources(join(import.meta.dirname, "..")));
  for (const violation of violations) console.error(`${violation.path}:${violation.line}: ${violation.message}`);
  process.exitCode = violations.length === 0 ? 0 : 1;
}
