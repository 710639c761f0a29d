/** Largest policy, in UTF-16 units: the longest published one has some 10 KiB, and a policy travels inside a token, in three layers of base64. */
export const MAX_POLICY_TEXT: number = 64 * 1024;

/** Most rules of a policy, over all sections. */
export const MAX_RULES = 2048;

/** Most conditions of a rule: each one that is bound multiplies the combinations. */
export const MAX_CONDITIONS = 32;

/** Most property tests of a condition: there are four properties, and a value may have a range and exceptions. */
export const MAX_PROPERTIES = 32;

/** Deepest nesting of function calls: keeps the recursive parser and evaluator off the end of the stack. */
export const MAX_NESTING = 32;

/** Longest name, in characters. */
export const MAX_NAME = 128;

/** Longest string of a policy, in UTF-16 units. */
export const MAX_STRING: number = 16 * 1024;

/** Longest type of a claim, in UTF-16 units; those of the service have some 30. */
export const MAX_CLAIM_TYPE = 1024;

/** Problems that one check reports; who wrote more of them has another kind of file. */
export const MAX_PROBLEMS = 50;

/** Longest JMESPath expression, in UTF-16 units: published ones have some 300. */
export const MAX_JMESPATH = 4096;

/** Deepest JMESPath expression. `a.b.c` is two deep, and so is `a[*].b`. */
export const MAX_JMESPATH_DEPTH = 100;

/** Largest JSON document that JMESPath searches, in UTF-16 units: a token with larger runtime data would be refused by its readers, and is not issued. */
export const MAX_DOCUMENT: number = 256 * 1024;

/**
 * Longest number in such a document, in characters: an integer of 128 bits and its sign. Longer ones are refused as they are read, because work on an integer, above all
 * making it of digits and digits of it, grows faster than their count, and a policy can make digits by doubling strings.
 */
export const MAX_DOCUMENT_NUMBER = 40;

/** Deepest JSON document that JMESPath searches. */
export const MAX_DOCUMENT_DEPTH = 64;

/** What one evaluation may use. Whatever exceeds it is an error, which permits nothing. */
export interface PolicyLimits {
  /** Claims that come in, and claims in all. A report makes some 20. */
  readonly claims: number;
  /** Ways to meet the conditions of one rule. `k` bound conditions over `n` claims have up to n^k. */
  readonly combinations: number;
  /**
   * Tests of a claim, and nodes that JMESPath visits or makes; text, digits and the reading of documents by their length. The charges are such that a step costs some
   * 100 nanoseconds at most: who writes a policy chooses the dearest.
   */
  readonly steps: number;
  /** Characters of all values that the policy makes: a rule may double a string, and a policy has many rules. */
  readonly characters: number;
}

/**
 * The limits of {@link PolicyLimits} that hold when a caller names none. With these steps an evaluation takes 25 milliseconds at most, 50 on a slow core: a caller who brings a
 * draft policy holds up everybody else's requests for as long. Published policies take some hundred steps.
 */
export const DEFAULT_POLICY_LIMITS: PolicyLimits = { claims: 4096, combinations: 4096, steps: 250_000, characters: 512 * 1024 };
