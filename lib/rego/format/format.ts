import { RegoError } from "../errors.ts";
import type { RegoLimits } from "../limits.ts";
import { withLimits } from "../limits.ts";
import type { Module, RegoVersion } from "../syntax/ast.ts";
import { isDiagnostics, parseModule } from "../syntax/parser.ts";
import { diagnosticsError, Source } from "../syntax/source.ts";
import { TokenLog } from "../syntax/token-log.ts";
import { lexemesOf } from "./lexemes.ts";
import { Printer } from "./printer.ts";
import { sameRules } from "./same-rules.ts";

/** Options of {@link formatModule}. */
export interface FormatOptions {
  /** Stands in positions of errors; `module.rego` if left out. */
  readonly name?: string;
  /** Dialect of the text; `v1` if left out. `import rego.v1` makes it v1 in any case. */
  readonly version?: RegoVersion;
  /**
   * Rewrites a v0 module in the words of v1: `import rego.v1` in place of `future.keywords`, `if`, `contains`, `:=` in heads.
   * A module that is v1 already stays as it is.
   */
  readonly toV1?: boolean;
  readonly limits?: Partial<RegoLimits>;
}

/**
 * Lays a module out as `opa fmt` does. The result means the same, keeps all comments, and comes out of a second pass
 * unchanged. Time and memory are linear in the length of the text.
 * @throws {RegoError} ERR_REGO_PARSE, ERR_REGO_LIMIT_SOURCE, ERR_REGO_LIMIT_NESTING with all diagnostics; ERR_REGO_COMPILE if
 * `toV1` is asked for and the module says something that has another meaning in v1
 */
export function formatModule(text: string, options: FormatOptions = {}): string {
  const { name = "module.rego", version = "v1", toV1 = false } = options;
  const limits = withLimits(options.limits);
  const log = new TokenLog();
  const module = parsed(new Source(name, text), version, limits, log);
  const formatted = new Printer(module, lexemesOf(text, log), toV1).print();
  if (toV1 && module.version === "v0") {
    const rewritten = parsed(new Source(`${name} (rewritten in v1)`, formatted), "v1", limits, new TokenLog());
    if (!sameRules(module.rules, rewritten.rules)) {
      throw new RegoError(
        "ERR_REGO_COMPILE",
        `${name}: a rule would say something else in v1: rename variables that are keywords there, and put "x | y" at the start of a body in parentheses`,
      );
    }
  }
  return formatted;
}

function parsed(source: Source, version: RegoVersion, limits: RegoLimits, log: TokenLog): Module {
  const result = parseModule(source, version, limits, log);
  if (isDiagnostics(result)) throw diagnosticsError(result);
  return result as Module;
}
