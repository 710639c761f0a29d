import type { RegoLimits } from "../limits.ts";
import { withLimits } from "../limits.ts";
import type { Module, RegoVersion } from "./ast.ts";
import { isDiagnostics, parseModule } from "./parser.ts";
import { diagnosticsError, Source } from "./source.ts";

/** Options of {@link parseRego}. */
export interface ParseOptions {
  /** Stands in positions of errors; `module.rego` if left out. */
  readonly name?: string;
  /** Dialect of the text; `v1` if left out. `import rego.v1` makes it v1 in any case. */
  readonly version?: RegoVersion;
  readonly limits?: Partial<RegoLimits>;
}

/**
 * Parses a module to its syntax tree, for tools that rewrite rules. Nothing but the syntax is checked.
 * @throws {RegoError} ERR_REGO_PARSE, ERR_REGO_LIMIT_SOURCE, ERR_REGO_LIMIT_NESTING with all diagnostics
 */
export function parseRego(text: string, options: ParseOptions = {}): Module {
  const { name = "module.rego", version = "v1", limits } = options;
  const result = parseModule(new Source(name, text), version, withLimits(limits));
  if (isDiagnostics(result)) throw diagnosticsError(result);
  return result as Module;
}
