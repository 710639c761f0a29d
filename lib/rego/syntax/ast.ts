import type { Value } from "../values/index.ts";
import type { Source } from "./source.ts";

/** Every node knows the offset in its module at which it starts. */
interface Node {
  readonly at: number;
}

/** A constant: a scalar, or an array or object that is plain data. */
export interface ScalarTerm extends Node {
  readonly kind: "scalar";
  readonly value: Value;
}

/** A name. Wildcards (`_`) are variables whose name is `_`; each occurrence stands for a variable of its own. */
export interface VarTerm extends Node {
  readonly kind: "var";
  readonly name: string;
}

/** `head.a[b]`: a head and at least one step. */
export interface RefTerm extends Node {
  readonly kind: "ref";
  readonly head: Term;
  readonly path: readonly Term[];
}

/** A call of a function or of an infix operator; `name` is the dotted path or the operator's builtin name. */
export interface CallTerm extends Node {
  readonly kind: "call";
  readonly name: readonly string[];
  readonly args: readonly Term[];
  /** The operator's text when the call was written infix. */
  readonly operator?: string;
  /** True if the term stands in parentheses: nothing binds into it. */
  readonly grouped?: boolean;
}

export interface ArrayTerm extends Node {
  readonly kind: "array";
  readonly items: readonly Term[];
}

export interface SetTerm extends Node {
  readonly kind: "set";
  readonly items: readonly Term[];
}

export interface ObjectTerm extends Node {
  readonly kind: "object";
  readonly entries: readonly (readonly [Term, Term])[];
}

export interface ArrayComprehensionTerm extends Node {
  readonly kind: "array-comprehension";
  readonly head: Term;
  readonly body: Body;
}

export interface SetComprehensionTerm extends Node {
  readonly kind: "set-comprehension";
  readonly head: Term;
  readonly body: Body;
}

export interface ObjectComprehensionTerm extends Node {
  readonly kind: "object-comprehension";
  readonly key: Term;
  readonly value: Term;
  readonly body: Body;
}

/** `{term with target as value}` in a template string. */
export interface TemplateExpression extends Node {
  readonly term: Term;
  readonly modifiers: readonly WithModifier[];
}

/** `$"text {expression} text"`: text parts are strings. */
export interface TemplateTerm extends Node {
  readonly kind: "template";
  readonly parts: readonly (string | TemplateExpression)[];
}

export type Term =
  | ScalarTerm
  | VarTerm
  | RefTerm
  | CallTerm
  | ArrayTerm
  | SetTerm
  | ObjectTerm
  | ArrayComprehensionTerm
  | SetComprehensionTerm
  | ObjectComprehensionTerm
  | TemplateTerm;

/** `with target as value`. */
export interface WithModifier extends Node {
  readonly target: Term;
  readonly value: Term;
}

/** What a statement says, without negation and modifiers. */
export type Expression =
  | (Node & { readonly kind: "term"; readonly term: Term })
  | (Node & { readonly kind: "assign"; readonly target: Term; readonly value: Term })
  | (Node & { readonly kind: "unify"; readonly left: Term; readonly right: Term })
  | (Node & { readonly kind: "some"; readonly variables: readonly VarTerm[] })
  | (Node & { readonly kind: "some-in"; readonly key: Term | undefined; readonly value: Term; readonly domain: Term })
  | (Node & { readonly kind: "every"; readonly key: VarTerm | undefined; readonly value: VarTerm; readonly domain: Term; readonly body: Body });

/** One statement of a body. */
export interface Statement extends Node {
  readonly end: number;
  readonly negated: boolean;
  readonly expression: Expression;
  readonly modifiers: readonly WithModifier[];
}

export type Body = readonly Statement[];

/** One alternative of a rule: the head's value and the body that must hold; further ones are its `else` branches. */
export interface Clause extends Node {
  readonly value: Term | undefined;
  readonly body: Body;
}

/** The way a rule head names what it defines: a dotted path, then steps in brackets. */
export interface RuleHead extends Node {
  /** First name, then the steps. */
  readonly name: string;
  readonly path: readonly Term[];
  /** Parameters of a function. */
  readonly parameters: readonly Term[] | undefined;
  /** The item of a partial set. */
  readonly item: Term | undefined;
}

/** One rule as written, with its `else` branches as further clauses. */
export interface Rule extends Node {
  readonly isDefault: boolean;
  readonly head: RuleHead;
  readonly clauses: readonly Clause[];
}

export interface Import extends Node {
  readonly path: readonly string[];
  readonly alias: string | undefined;
}

/** A parsed module. */
export interface Module {
  readonly source: Source;
  readonly version: RegoVersion;
  readonly packagePath: readonly string[];
  readonly imports: readonly Import[];
  readonly rules: readonly Rule[];
}

/** The two dialects of the language. */
export type RegoVersion = "v0" | "v1";
