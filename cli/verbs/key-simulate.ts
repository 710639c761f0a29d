import { asObject, encodeUtf8 } from "@sealpod/core";
import { parsePlannedPolicy } from "@sealpod/importkey";
import { parseReleasePolicy } from "@sealpod/release-policy";
import { EXIT, type CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { readEvidence, type EvidenceOptions } from "../key/claims-input.ts";
import { keyPath, requireName, type NameOptions } from "../key/name.ts";
import { openVault, type VaultOptions } from "../key/open-vault.ts";
import { policyTextOf } from "../key/output.ts";
import { readPolicy } from "../key/policy-input.ts";
import { simulate, simulationJson, simulationText, type SimulatedPolicy } from "../key/simulation.ts";
import type { Vault } from "../key/vault-client.ts";
import type { GlobalOptions, Verb } from "../program.ts";
import { writeJson } from "../rego/output.ts";
import { readText } from "../workspace.ts";

interface Options extends VaultOptions, NameOptions, EvidenceOptions {
  readonly policy?: string;
  readonly config?: string;
  readonly maaEndpoint?: string;
}

/** `sealpod key simulate`; the vault is asked only for the policy of a key. */
export async function operation(
  vault: () => Promise<Vault>,
  options: Options & GlobalOptions,
  operands: readonly string[],
  context: CliContext,
): Promise<number> {
  const policy = await policyOf(vault, options, operands, context);
  // What importkey is given is the pod, unless another is named.
  const yamlFile = options.yamlFile ?? (options.token === undefined && options.claims === undefined ? policy.config : undefined);
  const evidence = await readEvidence(
    yamlFile === undefined ? options : { ...options, yamlFile },
    policy.policy.anyOf.map(({ authority }) => authority),
    context,
  );
  const simulation = simulate(policy, evidence);
  if (options.json === true) writeJson(context.stdout, simulationJson(policy, evidence, simulation));
  else context.stdout.write(simulationText(policy, evidence, simulation));
  return simulation.released ? EXIT.ok : EXIT.refused;
}

async function policyOf(vault: () => Promise<Vault>, options: Options, operands: readonly string[], context: CliContext): Promise<SimulatedPolicy> {
  const key = options.name ?? operands[0];
  const { policy, config, maaEndpoint, complianceStatus, pod } = options;
  const given = [key, policy, config].filter((item) => item !== undefined).length;
  if (given !== 1) {
    throw new CliError("ERR_CLI_USAGE", given === 0 ? "no release policy is given" : "KEY, --policy and -c are several release policies", {
      hint: "Give one: the KEY of a vault, --policy FILE, or -c app.yaml for what `sealpod importkey` would write.",
    });
  }
  if (policy !== undefined) return { form: policy, policy: await readPolicy(policy, context), key: undefined, problems: [], config: undefined };
  if (config !== undefined) {
    const { releasePolicy, pod: annotated } = parsePlannedPolicy(await readText(config, context), { maaEndpoint, complianceStatus, pod });
    return {
      form: `what \`sealpod importkey -c ${config}\` would write${annotated === undefined ? "" : ` for ${annotated.place}`}`,
      policy: releasePolicy,
      key: undefined,
      problems: [],
      config: annotated === undefined ? undefined : config,
    };
  }
  const item = requireName(options, operands);
  const opened = await vault();
  const bundle = await opened.call("GET", keyPath(item));
  const text = policyTextOf(bundle);
  if (text === undefined) {
    throw new CliError("ERR_CLI_VAULT_REFUSED", `key ${item.name} of ${opened.base} has no release policy: it is released to nobody`, {
      hint: `Keys get theirs when they are made: sealpod importkey, or sealpod key create --exportable --policy FILE.`,
    });
  }
  const { enabled, exportable } = asObject(bundle["attributes"]) ?? {};
  const problems = [...(enabled === false ? ["the key is disabled"] : []), ...(exportable === true ? [] : ["the key is not exportable"])];
  return { form: `of key ${item.name} at ${opened.base}`, policy: parseReleasePolicy(encodeUtf8(text)), key: key ?? item.name, problems, config: undefined };
}

/** `sealpod key simulate`. */
export const run: Verb<Options> = async (options, operands, context) =>
  operation(async () => openVault(options, operands, context), options, operands, context);
