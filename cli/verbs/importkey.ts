import { setTimeout as delay } from "node:timers/promises";
import { runImportKey, type ImportKeyOptions, type ImportKeyPorts } from "@sealpod/importkey";
import { writeFileAtomic } from "@sealpod/io";
import { readUp, requestOwnerToken } from "@sealpod/services";
import { EXIT, type CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { fetchFor, isLaptops } from "../key/open-vault.ts";
import { requireUp } from "../laptop.ts";
import type { GlobalOptions, Verb } from "../program.ts";
import { pathOf, readIfPresent, readText, stateOf } from "../workspace.ts";

interface Options extends ImportKeyOptions {
  readonly bearerTokenFile?: string;
}

/** `sealpod importkey`. */
export const run: Verb<Options> = async (options, _operands, context) => {
  if (options.azureIdentity === true && options.bearerTokenFile !== undefined)
    throw new CliError("ERR_CLI_USAGE", "-a and --bearer-token-file are two sources of a token", { hint: "Give one." });
  const written: string[] = [];
  const result = await runImportKey(options, { ...portsOf(options, context), writeStdout: (text) => void written.push(text) });
  if (options.json === true) context.stdout.write(`${JSON.stringify(jsonOf(result, options), undefined, 2)}\n`);
  else context.stdout.write(written.join(""));
  return EXIT.ok;
};

function jsonOf(result: Awaited<ReturnType<typeof runImportKey>>, { quietKey }: Options): object {
  const releasePolicy = JSON.parse(result.releasePolicy) as unknown;
  if (result.kind === "dry-run") return { request: result.request, releasePolicy };
  return { ...(quietKey === true ? {} : { key: result.keyText }), kid: result.kid, releasePolicy };
}

/** The laptop's vault is reached through its own authority and owner; any other through the system's, with a token that the caller has. */
function portsOf(options: Options & GlobalOptions, context: CliContext): Omit<ImportKeyPorts, "writeStdout"> {
  const state = stateOf(options, context);
  return {
    random: context.random,
    readFile: async (path, limit) => readIfPresent(path, limit, context),
    writeSecret: async (path, bytes) => writeFileAtomic(pathOf(path, context), bytes, 0o600),
    warn: (text) => context.stderr.write(`warning: ${text}\n`),
    env: (name) => context.env[name],
    wait: async (milliseconds) => delay(milliseconds, undefined, { signal: context.signal }),
    fetch: async (url, request) => {
      // The metadata service of Azure; every other address is https.
      if (url.startsWith("http:")) return fetch(url, { ...request, signal: context.signal });
      const up = await readUp(state).catch(() => undefined);
      const { status, text } = await fetchFor(url, up, context)(url, request);
      return { status, body: new Response(text).body };
    },
    prefersPort: options.bearerTokenFile !== undefined,
    token: async (resource, vault) => {
      if (options.bearerTokenFile !== undefined) return (await readText(options.bearerTokenFile, context)).text.trim();
      if (!vault.replace(/:\d+$/, "").endsWith(".sealpod.internal")) {
        throw new CliError("ERR_CLI_USAGE", `${vault} is not the laptop's vault, and no access token is given`, {
          hint: `Pass --bearer-token-file FILE, or -a on a machine with an identity; for Azure: az account get-access-token --resource ${resource} --query accessToken -o tsv > FILE`,
        });
      }
      const up = await requireUp(state);
      if (!isLaptops(`https://${vault}`, up))
        throw new CliError("ERR_CLI_USAGE", `${vault} is not the vault of the laptop services that run (${up.domain})`, {
          hint: "Pass --bearer-token-file FILE.",
        });
      return requestOwnerToken(up, "https://vault.azure.net");
    },
  };
}
