import { asArray, asObject, encodeJson, type JsonObject, type JsonValue } from "@sealpod/core";
import { EXIT, type CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { auditText, findingsText } from "../key/audit-text.ts";
import { readTokenText } from "../key/claims-input.ts";
import { requireName, type NameOptions } from "../key/name.ts";
import { openVaults, vaultVerb, type VaultOperation, type VaultOptions } from "../key/open-vault.ts";
import { printable, shown, writeResult } from "../key/output.ts";
import type { Vault } from "../key/vault-client.ts";
import type { GlobalOptions, Verb } from "../program.ts";

interface Options extends VaultOptions, NameOptions {
  readonly token?: string;
  readonly requestId?: string;
}

/** `sealpod key why` with its vault: of a token what would come of it, of a request what came of it. */
export const operation: VaultOperation<Options> = async (vault, options, operands, context) => {
  const isKey = operands.length > 0 || options.name !== undefined;
  if (options.requestId !== undefined) {
    if (isKey || options.token !== undefined)
      throw new CliError("ERR_CLI_USAGE", "--request-id is a question of its own", { hint: "Leave KEY and --token out." });
    return whyRequest([vault], options.requestId, options, context);
  }
  if (options.token === undefined) {
    throw new CliError("ERR_CLI_USAGE", "nothing is given to explain", { hint: "sealpod key why KEY --token FILE, or sealpod key why --request-id ID" });
  }
  const { name, version } = requireName(options, operands);
  const target = await readTokenText(options.token, context);
  const answer = await vault.call("POST", `/sealpod/keys/${name}${version === undefined ? "" : `/${version}`}/why`, { target });
  const { wouldRelease } = answer;
  if (typeof wouldRelease !== "boolean") throw new CliError("ERR_CLI_VAULT", "the vault's answer does not say whether it would release the key");
  writeResult(options, context, answer, explanationText(name, wouldRelease, answer));
  return wouldRelease ? EXIT.ok : EXIT.refused;
};

function explanationText(name: string, wouldRelease: boolean, answer: JsonObject): string {
  const { failed, reason, authority } = answer;
  const check = typeof failed === "string" && failed !== "" ? `${shown(failed)}: ` : "";
  return [
    wouldRelease ? `${name} would be released to this token\n` : `${name} would be REFUSED: ${check}${shown(reason)}\n`,
    ...(typeof authority === "string" && authority !== "" ? [`  token of ${shown(authority)}\n`] : []),
    ...(asArray(answer["checks"]) ?? []).map((item) => {
      const { what, problem } = asObject(item) ?? {};
      return typeof problem === "string" ? `  FAILED ${shown(what)}: ${shown(problem)}\n` : `  ok     ${shown(what)}\n`;
    }),
    findingsText(answer["findings"], "  "),
    ...editsText("the smallest change to the release policy", asObject(answer["change"])?.["toPolicy"]),
    ...editsText("the smallest change to the pod or its platform", asObject(answer["change"])?.["toClaims"]),
  ].join("");
}

/** Changes as the vault found them; of another version of it perhaps in a form that is not known here. */
function editsText(title: string, change: JsonValue | undefined): readonly string[] {
  const edits = (asArray(asObject(change)?.["edits"]) ?? []).flatMap((item) => describe(asObject(item) ?? {}));
  return edits.length === 0 ? [] : [`${title}:\n`, ...edits.map((edit) => `  ${edit}\n`)];
}

function describe({ kind, path, claim, from, to }: JsonObject): readonly string[] {
  const place = typeof path === "string" ? `${shown(path)}: ` : "";
  switch (kind) {
    case "authority":
      return [`${place}tokens of ${shown(to)} instead of ${shown(from)}`];
    case "equals":
      return [`${place}${shown(claim)} = ${value(to)} instead of ${value(from)}`];
    case "remove":
      return [`${place}no condition on ${shown(claim)}`];
    case "claim":
      return [`${shown(claim)}: ${value(to)} instead of ${from === undefined ? "nothing" : value(from)}`];
    default:
      return [];
  }
}

function value(json: JsonValue | undefined): string {
  return printable(encodeJson(json ?? null));
}

async function whyRequest(vaults: readonly Vault[], requestId: string, options: GlobalOptions, context: CliContext): Promise<number> {
  const lines: JsonObject[] = [];
  for (const vault of vaults) {
    const { value: found } = await vault.call("GET", "/sealpod/audit", undefined, { requestId });
    lines.push(...(asArray(found) ?? []).map((item) => asObject(item) ?? {}));
  }
  if (lines.length === 0) {
    throw new CliError("ERR_CLI_VAULT_NOT_FOUND", `the audit has no request ${JSON.stringify(requestId.slice(0, 100))}`, {
      hint: "The id is the header x-ms-request-id of the answer. The latest: sealpod key audit --long",
    });
  }
  const text = lines.map((line) => {
    const { authority } = line;
    return `${auditText(line, new Map(), true)}${typeof authority === "string" && authority !== "" ? `  token of ${shown(authority)}\n` : ""}${findingsText(line["findings"], "  ")}`;
  });
  writeResult(options, context, lines, text.join(""));
  return EXIT.ok;
}

/** Opens the one vault that a key is in. */
const ofOneVault: Verb<Options> = vaultVerb(operation);

/** `sealpod key why`; a request may be in the audit of either of the laptop's vaults. */
export const run: Verb<Options> = async (options, operands, context) =>
  options.requestId === undefined || operands.length > 0 || options.name !== undefined || options.token !== undefined
    ? ofOneVault(options, operands, context)
    : whyRequest(await openVaults(options, context), options.requestId, options, context);
