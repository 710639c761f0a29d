import { RegoError } from "./errors.ts";
import type { PrintRecord, Query } from "./eval/query.ts";
import type { TraceRecorder } from "./eval/trace-recorder.ts";
import type { Evaluation, EvaluationCost, QueryStatement, RegoResult } from "./policy.ts";
import type { Trace } from "./trace.ts";
import { formatValue } from "./values/index.ts";

/** An evaluation that is over: prints and trace are formatted when somebody asks. */
export class CompletedEvaluation implements Evaluation {
  readonly results: readonly RegoResult[];
  readonly statements: readonly QueryStatement[];
  readonly cost: EvaluationCost;
  readonly #query: Query;
  readonly #recorder: TraceRecorder | undefined;
  #prints: readonly string[] | undefined;

  constructor(results: readonly RegoResult[], statements: readonly QueryStatement[], query: Query, recorder: TraceRecorder | undefined) {
    this.results = results;
    this.statements = statements;
    this.cost = { steps: query.steps, memory: query.memory, calls: query.calls };
    this.#query = query;
    this.#recorder = recorder;
  }

  get prints(): readonly string[] {
    this.#prints ??= guardStack(() => formatPrints(this.#query.prints, this.#query.droppedPrints, this.#query.limits.maxPrintLength));
    return this.#prints;
  }

  get trace(): Trace {
    return guardStack(() => ({ entries: this.#recorder?.entries() ?? [], dropped: this.#recorder?.dropped ?? 0 }));
  }
}

/** Formats prints up to a length; what is left out is said. */
function formatPrints(records: readonly PrintRecord[], dropped: number, maxLength: number): readonly string[] {
  const lines: string[] = [];
  let length = 0;
  for (const { source, at, values } of records) {
    const texts = values.map((value) => (value === undefined ? "<undefined>" : typeof value === "string" ? value : formatValue(value, maxLength)));
    const line = `${source.name}:${source.lineOf(at)}: ${texts.join(" ")}`;
    length += line.length;
    if (length > maxLength) {
      lines.push(`${records.length - lines.length + dropped} more prints left out: the limit is ${maxLength} characters`);
      return lines;
    }
    lines.push(line);
  }
  if (dropped > 0) lines.push(`${dropped} more prints left out: the limit is ${records.length} prints`);
  return lines;
}

/** Running out of stack is a limit like the others: it must abort the query, not look like a verdict. */
export function guardStack<T>(run: () => T): T {
  try {
    return run();
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    if (error.message.includes("call stack")) throw new RegoError("ERR_REGO_LIMIT_CALLS", "evaluation needs more stack than there is", { cause: error });
    throw new RegoError("ERR_REGO_LIMIT_MEMORY", `evaluation builds a value that is too large: ${error.message}`, { cause: error });
  }
}
