import { EXIT } from "../context.ts";
import { CliError } from "../errors.ts";
import { GENPOLICY_VERSION } from "../genpolicy/commands.ts";
import type { Verb } from "../program.ts";
import { run as genpolicy } from "./genpolicy.ts";

/** The flags of `az confcom katapolicygen` (specs/genpolicy.md 1.3). */
export interface KatapolicygenOptions {
  readonly yaml?: string;
  readonly configMapFile?: string;
  readonly outraw?: boolean;
  readonly printPolicy?: boolean;
  readonly useCachedFiles?: boolean;
  readonly settingsFileName?: string;
  readonly rulesFileName?: string;
  readonly printVersion?: boolean;
  readonly containerdPull?: boolean;
  readonly containerdSocketPath?: string;
}

/** `sealpod confcom katapolicygen`: `genpolicy` under the names of the Azure CLI's extension. */
export const run: Verb<KatapolicygenOptions> = async (options, operands, context) => {
  const { yaml, configMapFile, settingsFileName, rulesFileName, containerdSocketPath, json, debug, state } = options;
  if (yaml === undefined && options.printVersion !== true) {
    throw new CliError("ERR_CLI_USAGE", "either --yaml (-y) or --print-version (-v) is needed", {
      hint: "For example: sealpod confcom katapolicygen -y pod.yaml --print-policy",
    });
  }
  if (options.printVersion === true) {
    context.stdout.write(`${GENPOLICY_VERSION}\n`);
    return EXIT.ok;
  }
  const containerd = options.containerdPull === true ? (containerdSocketPath ?? true) : undefined;
  if (containerd === undefined && containerdSocketPath !== undefined) {
    throw new CliError("ERR_CLI_USAGE", "--containerd-socket-path goes with --containerd-pull (-d)");
  }
  return genpolicy(
    {
      profile: "aks",
      rawOut: options.outraw === true,
      base64Out: options.printPolicy === true,
      useCachedFiles: options.useCachedFiles === true,
      ...(yaml === undefined ? {} : { yamlFile: yaml }),
      ...(configMapFile === undefined ? {} : { configMapFile: [configMapFile] }),
      ...(settingsFileName === undefined ? {} : { jsonSettingsPath: settingsFileName }),
      ...(rulesFileName === undefined ? {} : { regoRulesPath: rulesFileName }),
      ...(containerd === undefined ? {} : { containerdSocketPath: containerd }),
      ...(json === undefined ? {} : { json }),
      ...(debug === undefined ? {} : { debug }),
      ...(state === undefined ? {} : { state }),
    },
    operands,
    context,
  );
};
