import { runImportKey, type ImportKeyOptions, type VaultPorts } from "@sealpod/importkey";
import { ownerToken } from "@sealpod/demo";
import { writeFileAtomic } from "@sealpod/io";
import { laptopFetch, readUp } from "@sealpod/services";
import { EXIT, type CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import type { GlobalOptions, Verb } from "../program.ts";
import { requireUp } from "../laptop.ts";
import { pathOf, readIfPresent, readText, stateOf } from "../workspace.ts";

interface Options extends ImportKeyOptions {
  readonly bearerTokenFile?: string;
}

/** `sealpod importkey`. */
export const run: Verb<Options> = async (options, _operands, context) => {
  const written: string[] = [];
  const result = await runImportKey(options, {
    ...vaultPorts(options, context),
    readFile: async (path, limit) => readIfPresent(path, limit, context),
    writeSecret: async (path, bytes) => writeFileAtomic(pathOf(path, context), bytes, 0o600),
    writeStdout: (text) => void written.push(text),
  });
  if (options.json === true) {
    const key = options.quietKey === true ? {} : { key: result.keyText };
    context.stdout.write(`${JSON.stringify({ ...key, kid: result.kid, releasePolicy: JSON.parse(result.releasePolicy) as unknown }, undefined, 2)}\n`);
  } else context.stdout.write(written.join(""));
  return EXIT.ok;
};

/** The laptop's vault is reached through its own authority and owner; any other through the system's, with a token that the caller has. */
function vaultPorts(options: Options & GlobalOptions, context: CliContext): VaultPorts {
  const state = stateOf(options, context);
  return {
    random: context.random,
    fetch: async (url, request) => {
      const up = await readUp(state).catch(() => undefined);
      return up !== undefined && new URL(url).hostname.endsWith(`.${up.domain}`) ? laptopFetch(up)(url, request) : fetch(url, request);
    },
    token: async (_resource, vault) => {
      if (options.bearerTokenFile !== undefined) return (await readText(options.bearerTokenFile, context)).text.trim();
      const host = vault.replace(/:\d+$/, "");
      const isLaptop = host.endsWith(".sealpod.internal");
      if (!isLaptop) {
        throw new CliError("ERR_CLI_USAGE", `${vault} is not the laptop's vault, and no access token is given`, {
          hint: "Pass --bearer-token-file FILE; for Azure: az account get-access-token --resource https://vault.azure.net --query accessToken -o tsv > FILE",
        });
      }
      const up = await requireUp(state);
      return ownerToken(up, laptopFetch(up));
    },
  };
}
