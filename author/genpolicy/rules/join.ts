import { GenpolicyError } from "../errors.ts";

/** A file of rules: a complete module of package agent_policy. */
export interface RuleFile {
  readonly name: string;
  readonly text: string;
}

/** The files of our own rules, beside this one, in the order in which they stand in a policy: from what is asked to how it is checked. */
export const RULE_FILES: readonly string[] = [
  "by-name.rego",
  "settings.rego",
  "create-sandbox.rego",
  "create-container.rego",
  "annotations.rego",
  "process.rego",
  "storages.rego",
  "guest-pull.rego",
  "mounts.rego",
  "block-volumes.rego",
  "linux.rego",
  "devices.rego",
  "life-cycle.rego",
  "exec-process.rego",
  "copy-file.rego",
  "network.rego",
  "pod.rego",
  "placeholders.rego",
  "checks.rego",
  "runtimes.rego",
  "known-tools.rego",
];

/** What each file has once, and a policy too: an agent takes one text. */
const HEAD = "package agent_policy\n\nimport rego.v1\n";

/**
 * Joins files of rules to the one text that goes into a policy, before `policy_data := …`.
 * @throws {GenpolicyError} ERR_GENPOLICY_RULES if a file does not have exactly one head of package and import
 */
export function joinRules(files: readonly RuleFile[]): string {
  const bodies = files.map(({ name, text }) => {
    const [comment, body, more] = text.split(HEAD);
    if (comment === undefined || body === undefined || more !== undefined || !/^(?:#[^\n]*\n)*$/.test(comment)) {
      throw new GenpolicyError("ERR_GENPOLICY_RULES", `${name}: expected comments, then once ${JSON.stringify(HEAD)}, then rules`);
    }
    return `${comment}${body}`;
  });
  return [HEAD, ...bodies].join("\n");
}
