import type { Position } from "./syntax/source.ts";

/** A rule body, or a statement in one; the same object for the same place in every evaluation of a policy. */
export interface Place {
  readonly kind: "body" | "statement";
  /** Path of the rule, e.g. `data.agent_policy.allow_mount`. */
  readonly rule: string;
  readonly position: Position;
  readonly end: Position;
  /** The source text; of a body, its first line. */
  readonly text: string;
}

/** Sees an evaluation as it goes: what coverage and profiles are made from. Its calls must not throw. */
export interface EvaluationObserver {
  /** A rule body starts. */
  enter(body: Place): void;
  /** The body is done: `held` if it had a solution. Not called for bodies that an error ends. */
  leave(body: Place, held: boolean): void;
  /** A statement is about to run, once per solution of those before it. */
  statement(statement: Place): void;
}
