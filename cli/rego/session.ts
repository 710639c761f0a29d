import { decodeUtf8, type JsonValue } from "@sealpod/core";
import {
  compile,
  formatModule,
  RegoError,
  TYPE_CHECKER,
  type CompileOptions,
  type EvaluateOptions,
  type Negation,
  type Policy,
  type RegoLimits,
  type RegoModule,
  type RegoVersion,
} from "@sealpod/rego";
import { EXTENDED_BUILTINS } from "@sealpod/rego-extended";
import type { CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { readStdin, readText } from "../workspace.ts";
import { parseDocument } from "./documents.ts";
import { load } from "./load.ts";

/** Which dialect modules are read in. */
export interface VersionOptions {
  readonly v0Compatible?: boolean;
  readonly v1Compatible?: boolean;
}

/** How modules are to be understood. */
export interface DialectOptions extends VersionOptions {
  readonly allowRecursiveFunctions?: boolean;
  readonly negation?: Negation;
}

/** What `eval` and `bench` have in common. */
export interface SessionOptions extends DialectOptions {
  readonly package?: string;
  readonly import?: readonly string[];
  readonly data?: readonly string[];
  readonly input?: string;
  readonly stdinInput?: boolean;
  readonly strictBuiltinErrors?: boolean;
  readonly timeout?: string;
}

/** A policy with its data, and what every evaluation of it takes. */
export interface Session {
  readonly policy: Policy;
  readonly evaluation: EvaluateOptions;
  /** Milliseconds. */
  readonly timers: { readonly load: number; readonly compile: number };
}

/** Loads and compiles what the options name. */
export async function openSession(options: SessionOptions, context: CliContext): Promise<Session> {
  if (options.input !== undefined && options.stdinInput === true) throw new CliError("ERR_CLI_USAGE", "--input and --stdin-input both give the input document");
  const limits = limitsOf(options.timeout);
  const start = context.elapsed();
  const { modules, data } = await load(options.data ?? [], context);
  const input = await readInput(options, context);
  const loaded = context.elapsed();
  const policy = compileModules(modules, options, { strictBuiltinErrors: options.strictBuiltinErrors ?? false });
  policy.setData(data);
  const compiled = context.elapsed();
  return {
    policy,
    evaluation: {
      clock: context.clock,
      random: context.random,
      ...(input === undefined ? {} : { input }),
      ...(limits === undefined ? {} : { limits }),
      ...(options.package === undefined ? {} : { package: options.package }),
      ...(options.import === undefined ? {} : { imports: options.import }),
    },
    timers: { load: loaded - start, compile: compiled - loaded },
  };
}

/**
 * Compiles modules with all of OPA's builtin functions, and checks types: who works on a policy wants to see what can never hold.
 * @throws {RegoError} with all diagnostics
 */
export function compileModules(modules: readonly RegoModule[], dialect: DialectOptions, options: CompileOptions = {}): Policy {
  const version = versionOf(dialect);
  const { allowRecursiveFunctions = false, negation = "opa" } = dialect;
  return withVersionHint(modules, version, () =>
    compile(modules, { ...options, version, allowRecursiveFunctions, negation, builtins: EXTENDED_BUILTINS, typeChecker: TYPE_CHECKER }),
  );
}

/** Runs what parses modules; if they turn out to be of the other dialect, the error says so. */
export function withVersionHint<T>(modules: readonly RegoModule[], version: RegoVersion, run: () => T): T {
  try {
    return run();
  } catch (error) {
    if (!(error instanceof RegoError) || error.code !== "ERR_REGO_PARSE" || version === "v0") throw error;
    const files = new Set(error.diagnostics.map(({ file }) => file));
    const failed = modules.filter(({ name }) => files.has(name));
    if (failed.length === 0 || !failed.every((module) => isV0(module))) throw error;
    const { code, message, diagnostics, details } = error;
    throw new RegoError(code, message, {
      diagnostics,
      details,
      cause: error,
      hint: "Read as Rego v0 it has no such errors: if it is an old policy, add --v0-compatible.",
    });
  }
}

function isV0({ name, text }: RegoModule): boolean {
  try {
    formatModule(text, { name, version: "v0" });
    return true;
  } catch {
    return false;
  }
}

/**
 * The dialect that was asked for.
 * @throws {CliError} ERR_CLI_USAGE
 */
export function versionOf({ v0Compatible, v1Compatible }: VersionOptions): RegoVersion {
  if (v0Compatible === true && v1Compatible === true) throw new CliError("ERR_CLI_USAGE", "--v0-compatible and --v1-compatible exclude each other");
  return v0Compatible === true ? "v0" : "v1";
}

/**
 * Limits for a timeout such as `30s`. Whoever gives one has a policy that takes long, so it stands in place of the limit on steps,
 * too; without one the limits are those of the agent.
 * @throws {CliError} ERR_CLI_USAGE
 */
export function limitsOf(timeout: string | undefined): Partial<RegoLimits> | undefined {
  if (timeout === undefined) return undefined;
  return { maxMilliseconds: parseDuration(timeout), maxSteps: Number.MAX_SAFE_INTEGER };
}

const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

/** Milliseconds of a duration in Go's notation: `500ms`, `1.5s`, `1m30s`. */
function parseDuration(text: string): number {
  let sum = 0;
  let end = 0;
  for (const match of text.matchAll(/(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)/gy)) {
    sum += Number(match[1]) * UNITS[match[2]!]!;
    end = match.index + match[0].length;
  }
  if (end !== text.length || sum <= 0) throw new CliError("ERR_CLI_USAGE", `--timeout ${text} is no duration`, { hint: "Examples: 500ms, 5s, 1m30s." });
  return sum;
}

/**
 * A number of the command line.
 * @throws {CliError} ERR_CLI_USAGE
 */
export function parseNumber(flag: string, text: string, minimum: number, maximum: number, whole = true): number {
  const value = /^\d{1,9}(\.\d{1,9})?$/.test(text) ? Number(text) : Number.NaN;
  if (value >= minimum && value <= maximum && (!whole || Number.isInteger(value))) return value;
  throw new CliError("ERR_CLI_USAGE", `${flag} ${text} is not a ${whole ? "whole " : ""}number from ${minimum} to ${maximum}`);
}

async function readInput(options: SessionOptions, context: CliContext): Promise<JsonValue | undefined> {
  if (options.stdinInput === true) return parseDocument("stdin", decodeUtf8(await readStdin(context), "stdin"));
  if (options.input === undefined) return undefined;
  return parseDocument(options.input, (await readText(options.input, context)).text);
}
