import type { PolicyPosition } from "./source.ts";

/** Versions of the language. 1.1 adds `configurationrules`, 1.2 adds functions. */
export const POLICY_VERSIONS = ["1.0", "1.1", "1.2"] as const;

/** One of {@link POLICY_VERSIONS}. */
export type PolicyVersion = (typeof POLICY_VERSIONS)[number];

/** Sections of a policy, in the order in which they stand and run. */
export const SECTIONS = ["configurationrules", "authorizationrules", "issuancerules"] as const;

/** One of {@link SECTIONS}. */
export type SectionKind = (typeof SECTIONS)[number];

/** Properties of a claim. */
export const CLAIM_PROPERTIES = ["type", "value", "issuer", "valueType"] as const;

/** One of {@link CLAIM_PROPERTIES}. */
export type ClaimProperty = (typeof CLAIM_PROPERTIES)[number];

/** Comparisons; the last four are for integers. */
export const OPERATORS = ["==", "!=", "<", "<=", ">", ">="] as const;

/** One of {@link OPERATORS}. */
export type PolicyOperator = (typeof OPERATORS)[number];

/** Functions of version 1.2. */
export const FUNCTIONS = ["JmesPath", "JsonToClaimValue", "AppendString", "NegateBool", "ContainsOnlyValue", "IsSubsetOf"] as const;

/** One of {@link FUNCTIONS}. */
export type FunctionName = (typeof FUNCTIONS)[number];

/** Actions that make or hand on a claim. */
export const CLAIM_ACTIONS = ["add", "issue", "issueproperty"] as const;

/** One of {@link CLAIM_ACTIONS}. */
export type ClaimActionName = (typeof CLAIM_ACTIONS)[number];

/** All actions. */
export const ACTIONS = ["permit", "deny", "add", "issue", "issueproperty"] as const;

/** Something that has a value. Integers are `bigint` where a `number` would not be exact. */
export type Expression =
  | { readonly kind: "string"; readonly value: string; readonly at: PolicyPosition }
  | { readonly kind: "integer"; readonly value: number | bigint; readonly at: PolicyPosition }
  | { readonly kind: "boolean"; readonly value: boolean; readonly at: PolicyPosition }
  | Reference
  | Call;

/** `c.value`. */
export interface Reference {
  readonly kind: "reference";
  readonly identifier: string;
  readonly property: ClaimProperty;
  readonly at: PolicyPosition;
}

/** `NegateBool(c.value)`. */
export interface Call {
  readonly kind: "call";
  readonly name: FunctionName;
  readonly arguments: readonly Expression[];
  readonly at: PolicyPosition;
}

/** `value == 5`. */
export interface PropertyTest {
  readonly property: ClaimProperty;
  readonly operator: PolicyOperator;
  readonly operand: Expression;
  readonly at: PolicyPosition;
}

/** The name that a condition gives to the claims that meet it, and that an action takes. */
export interface Identifier {
  readonly name: string;
  readonly at: PolicyPosition;
}

/** `c:[type=="x", value==true]`, `![type=="x"]`. */
export interface Condition {
  readonly negated: boolean;
  readonly identifier: Identifier | undefined;
  readonly tests: readonly PropertyTest[];
  readonly at: PolicyPosition;
}

/** What a rule does once its conditions are met. */
export type Action =
  | { readonly kind: "decide"; readonly name: "permit" | "deny"; readonly at: PolicyPosition }
  | { readonly kind: "hand-on"; readonly name: ClaimActionName; readonly claim: Identifier; readonly at: PolicyPosition }
  | MakeAction;

/** `issue(type="x", value=true)`. */
export interface MakeAction {
  readonly kind: "make";
  readonly name: ClaimActionName;
  readonly type: Expression;
  readonly value: Expression;
  readonly issuer: Expression | undefined;
  readonly valueType: Expression | undefined;
  readonly at: PolicyPosition;
}

/** Conditions and what they lead to. */
export interface Rule {
  readonly conditions: readonly Condition[];
  readonly action: Action;
  readonly at: PolicyPosition;
}

/** A section and its rules. */
export interface Section {
  readonly kind: SectionKind;
  readonly rules: readonly Rule[];
  readonly at: PolicyPosition;
}

/** A policy as it is written; whether it makes sense is for `check.ts` to say. */
export interface PolicyTree {
  readonly version: PolicyVersion;
  readonly versionAt: PolicyPosition;
  readonly sections: readonly Section[];
}
