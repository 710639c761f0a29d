import type { Workload } from "@sealpod/kube";
import { compile, RegoError } from "@sealpod/rego";
import type { Report } from "./context.ts";
import { GenpolicyError } from "./errors.ts";

/** Warns of tags that move. */
export function lintImages({ template: { spec } }: Workload, warn: Report): void {
  for (const { image, imageAt } of [...spec.initContainers, ...spec.containers]) {
    const name = image.slice(image.lastIndexOf("/") + 1);
    if (!image.includes("@") && (!name.includes(":") || name.endsWith(":latest"))) {
      warn(imageAt, `image ${JSON.stringify(image)} has the tag latest: the pod is refused as soon as the tag moves to other layers`);
    }
  }
}

/**
 * The rules with an empty policy_data must compile, or no agent would take the policy. Only a warning: other engines know
 * functions that ours does not.
 * @returns what is wrong
 */
export function lintRules(rules: string): string | undefined {
  const modules = [{ name: "rules.rego", text: `${rules}\npolicy_data := {}` }];
  const failures = (["v1", "v0"] as const).map((version) => {
    try {
      compile(modules, { version });
      return undefined;
    } catch (error) {
      if (error instanceof RegoError) return error.message;
      throw error;
    }
  });
  return failures.includes(undefined) ? undefined : failures[0];
}

/** @throws {GenpolicyError} ERR_GENPOLICY_RULES */
export function checkRules(rules: string): void {
  if (/^[ \t]*package[ \t]+agent_policy[ \t]*(?:#.*)?\r?$/m.test(rules)) return;
  throw new GenpolicyError("ERR_GENPOLICY_RULES", "the rules have no line `package agent_policy`, which the agent asks for", {
    hint: "Pass a rules.rego with -p, or leave -p out to use the rules of sealpod.",
  });
}
