import type { Position } from "./syntax/source.ts";

/** An operand of a statement with the value it had; no value means that it was undefined. */
export interface TraceOperand {
  /** As the source has it, e.g. `i_process.Cwd`. */
  readonly text: string;
  /** In Rego syntax, cut to a readable length. */
  readonly value: string | undefined;
}

/** The statement at which a rule body stopped. */
export interface TraceFailure {
  readonly position: Position;
  readonly text: string;
  readonly operands: readonly TraceOperand[];
}

/** One rule body that was tried. */
export interface TraceEntry {
  /** Path of the rule, e.g. `data.agent_policy.allow_mount`. */
  readonly rule: string;
  readonly position: Position;
  /** How many rule bodies were open when this one started. */
  readonly depth: number;
  readonly held: boolean;
  /** The furthest statement that the body reached, if it did not hold: in a loop, that of the iteration that came furthest, the last one of several. */
  readonly failed?: TraceFailure;
}

/** The record of one evaluation, from which explanations are made. */
export interface Trace {
  /** Rule bodies in the order in which they were tried. */
  readonly entries: readonly TraceEntry[];
  /** Bodies that were tried after the record was full. */
  readonly dropped: number;
}
