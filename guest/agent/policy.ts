import { asObject, type JsonValue, messageOf } from "@sealpod/core";
import { compile, type CompileOptions, type PatchOperation, type Policy, type RegoModule } from "@sealpod/rego";
import { AgentError } from "./errors.ts";

/** Name of a policy that came by SetPolicy: what print lines begin with (specs/runtime.md 3.2). */
export const POLICY_NAME = "agent_policy";

/** What the policy says to one request. */
export interface Decision {
  readonly allowed: boolean;
  /** Output of `print`, joined by one space: asks the policy once more, so only before anything changes its state. */
  prints(): string;
  /**
   * Makes the changes of state that the policy asked for, all or none.
   * @throws {AgentError} ERR_AGENT_POLICY_ENGINE if they do not apply: the request is then denied
   */
  commit(): void;
}

/**
 * A policy and what it remembers (specs/runtime.md 3.2). Evaluation is synchronous, so that from a decision to its commit no other request comes in between.
 * There is no clock: what a policy says depends on the request and the state alone.
 */
export class PolicyEngine {
  readonly #policy: Policy;
  readonly #allowsFailing: boolean;

  /**
   * @param options dialect of Rego
   * @throws {AgentError} ERR_AGENT_POLICY if the text does not compile
   */
  constructor(module: RegoModule, options: CompileOptions) {
    try {
      this.#policy = compile([module], options);
      this.#policy.setData({ pstate: {} });
      // Only the policy itself can turn enforcement off, for trying rules out; its digest says so to every verifier.
      this.#allowsFailing = this.#policy.evaluate(queryOf("AllowRequestsFailingPolicy"), { input: {} }).results[0]?.expressions[0] === true;
    } catch (cause) {
      throw new AgentError("ERR_AGENT_POLICY", `policy ${module.name} does not compile: ${messageOf(cause)}`, { cause });
    }
  }

  /**
   * Asks the policy.
   * @param rule name of the request's message
   * @throws {AgentError} ERR_AGENT_POLICY_ENGINE if it gives no answer
   */
  decide(rule: string, input: JsonValue): Decision {
    // What a policy prints is wanted for denials only, and collecting it takes as long as deciding. It has no say in the decision.
    const { results } = this.#evaluate(rule, input, false);
    const answer = { prints: () => this.#evaluate(rule, input, true).prints.join(" "), commit: () => undefined };
    const [result] = results;
    if (result === undefined || results.length !== 1) {
      if (this.#allowsFailing) return { ...answer, allowed: true };
      throw noAnswer(rule, `unexpected eval_query result len ${results.length}: the rule is undefined`);
    }
    if (result.expressions.length !== 1) throw noAnswer(rule, `expected one expression, found ${result.expressions.length}`);
    const value = result.expressions[0];
    const object = asObject(value);
    const allowed = object === undefined ? value : object["allowed"];
    const ops = object?.["ops"] ?? [];
    if (typeof allowed !== "boolean" || !Array.isArray(ops)) throw noAnswer(rule, "its value is neither a boolean nor {allowed, ops}");
    if (!allowed) return { ...answer, allowed: this.#allowsFailing };
    return { ...answer, allowed, commit: () => this.#patch(rule, ops as readonly JsonValue[]) };
  }

  #evaluate(rule: string, input: JsonValue, prints: boolean): ReturnType<Policy["evaluate"]> {
    try {
      return this.#policy.evaluate(queryOf(rule), { input, prints });
    } catch (cause) {
      throw noAnswer(rule, messageOf(cause), cause);
    }
  }

  #patch(rule: string, ops: readonly JsonValue[]): void {
    try {
      // The engine checks the shape of each operation.
      if (ops.length > 0) this.#policy.patchData(ops as unknown as readonly PatchOperation[]);
    } catch (cause) {
      throw noAnswer(rule, `its changes of state do not apply: ${messageOf(cause)}`, cause);
    }
  }
}

function queryOf(rule: string): string {
  return `data.agent_policy.${rule}`;
}

function noAnswer(rule: string, problem: string, cause?: unknown): AgentError {
  return new AgentError("ERR_AGENT_POLICY_ENGINE", `${rule}: internal error policy check: ${problem}`, { cause, details: { rule } });
}
