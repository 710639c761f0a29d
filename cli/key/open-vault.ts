import { existsSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { isSealpodError } from "@sealpod/core";
import type { Up } from "@sealpod/services";
import type { CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import type { GlobalOptions, Verb } from "../program.ts";
import { readCertificatePem, readTokenFile } from "../service-fetch.ts";
import { readText, stateOf } from "../workspace.ts";
import { parseName, type NameOptions } from "./name.ts";
import { vaultClient, type Vault } from "./vault-client.ts";
import { laptopVaultFetch, systemVaultFetch, type VaultFetch } from "./vault-fetch.ts";

/** Flags of the verbs that speak with a vault. */
export interface VaultOptions {
  /** URL or host name; the laptop's vault if neither this nor `hsm` is given. */
  readonly vault?: string;
  readonly hsm?: string;
  readonly bearerTokenFile?: string;
  readonly ca?: string;
}

/** What a verb does with its vault; returns the exit code. */
export type VaultOperation<O> = (vault: Vault, options: O & GlobalOptions, operands: readonly string[], context: CliContext) => Promise<number>;

/** Resources that access tokens are for. */
const VAULT_RESOURCE = "https://vault.azure.net";
const HSM_RESOURCE = "https://managedhsm.azure.net";
/** What `sealpod up` calls its services; no other network has such names. */
const LAPTOP_NAMES = ".sealpod.internal";

/** Which of the laptop's vaults is meant if none is named: the managed HSM for keys and roles, the key vault for secrets and access policies. */
export type LaptopVault = "vault" | "keyvault";

/** A verb that speaks with the vault of its command line. */
export function vaultVerb<O extends VaultOptions & NameOptions>(operation: VaultOperation<O>, preset: LaptopVault = "vault"): Verb<O> {
  return async (options, operands, context) => operation(await openVault(options, operands, context, preset), options, operands, context);
}

/**
 * Both vaults of the laptop if the command line names none, and the one that it names otherwise.
 * @throws {CliError} ERR_CLI_USAGE, ERR_CLI_FILE, ERR_CLI_NOT_UP
 */
export async function openVaults(options: VaultOptions & GlobalOptions, context: CliContext): Promise<readonly Vault[]> {
  if (baseOf(options, []) !== undefined) return [await openVault(options, [], context)];
  return [await openVault(options, [], context), await openVault(options, [], context, "keyvault")];
}

/**
 * The vault of a command line: that of `--vault` or `--hsm`, that of a key's URL, or the laptop's. Nothing is sent yet.
 * @throws {CliError} ERR_CLI_USAGE, ERR_CLI_FILE, ERR_CLI_NOT_UP
 */
export async function openVault(
  options: VaultOptions & NameOptions & GlobalOptions,
  operands: readonly string[],
  context: CliContext,
  preset: LaptopVault = "vault",
): Promise<Vault> {
  const base = baseOf(options, operands);
  const up = await findLaptop(base, options, context);
  if (up === undefined && base === undefined) {
    throw new CliError("ERR_CLI_NOT_UP", `no --vault or --hsm is given, and no laptop services run on the state directory ${stateOf(options, context)}`, {
      hint: "Name a vault with --vault URL, or start the laptop's: sealpod up -d",
    });
  }
  if (up !== undefined && options.ca !== undefined) {
    throw new CliError("ERR_CLI_USAGE", "--ca is given for the laptop's vault, whose authority is known", { hint: "Leave --ca out." });
  }
  if (up === undefined && base !== undefined && options.ca === undefined && new URL(base).hostname.endsWith(LAPTOP_NAMES)) {
    throw new CliError("ERR_CLI_NOT_UP", `${base} is the laptop's, and no laptop services run on the state directory ${stateOf(options, context)}`, {
      hint: "Start them: sealpod up -d. If they run on another state directory, name it with --state DIR.",
    });
  }
  const ca = options.ca === undefined ? undefined : await readCertificatePem(options.ca, context);
  const fetch = up === undefined ? systemVaultFetch(ca, context.signal) : laptopVaultFetch(up, context.signal);
  const url = base ?? `https://${up?.endpoints[preset] ?? ""}`;
  const resource = options.hsm !== undefined || new URL(url).hostname.includes("managedhsm") ? HSM_RESOURCE : VAULT_RESOURCE;
  return vaultClient({
    base: url,
    tenantId: up?.tenantId ?? context.env["AZURE_TENANT_ID"],
    applications: up === undefined ? undefined : applicationsOf(up),
    fetch,
    token: async () => tokenFor(resource, url, options, up, context),
  });
}

/** The names that `sealpod identity app list` shows of the two applications that the laptop always has. */
function applicationsOf({ owner, workload }: Up): ReadonlyMap<string, string> {
  return new Map([
    [owner.clientId.toLowerCase(), "laptop owner"],
    [workload.clientId.toLowerCase(), "workload-identity"],
  ]);
}

async function tokenFor(resource: string, url: string, options: VaultOptions, up: Up | undefined, context: CliContext): Promise<string> {
  if (options.bearerTokenFile !== undefined) return readTokenFile(options.bearerTokenFile, "access token", context);
  if (up !== undefined) return (await import("@sealpod/services")).requestOwnerToken(up, VAULT_RESOURCE);
  const { hasWorkloadIdentity } = await import("@sealpod/importkey");
  if (hasWorkloadIdentity((name) => context.env[name])) return identityToken(resource, undefined, undefined, context);
  throw new CliError("ERR_CLI_USAGE", `${url} is not the laptop's vault, and no access token is given`, {
    hint: `Pass --bearer-token-file FILE; for Azure: az account get-access-token --resource ${resource} --query accessToken -o tsv > FILE`,
  });
}

/**
 * An access token of this machine's identity: workload identity, or the metadata service.
 * @param up the laptop, whose identity service has names that only it knows
 * @throws {ImportKeyError} ERR_IMPORTKEY_TOKEN
 */
export async function identityToken(resource: string, clientId: string | undefined, up: Up | undefined, context: CliContext): Promise<string> {
  const { azureAccessToken } = await import("@sealpod/importkey");
  const send: VaultFetch = async (url, request) => fetchFor(url, up, context)(url, request);
  return azureAccessToken(resource, clientId, {
    env: (name) => context.env[name],
    readText: async (path) => (await readText(path, context)).text,
    fetch: async (url, request) => {
      if (url.startsWith("http:")) return fetch(url, { ...request, signal: context.signal });
      const { status, text } = await send(url, request);
      return { status, body: new Response(text).body };
    },
    wait: async (milliseconds) => delay(milliseconds, undefined, { signal: context.signal }),
  });
}

/** How a URL is reached: the laptop's names through the laptop, all others through the system. */
export function fetchFor(url: string, up: Up | undefined, context: CliContext): VaultFetch {
  return up !== undefined && isLaptops(url, up) ? laptopVaultFetch(up, context.signal) : systemVaultFetch(undefined, context.signal);
}

/** Whether a URL is one of the laptop's: no other name leads to them, and their names lead nowhere else. */
export function isLaptops(url: string, up: Pick<Up, "domain">): boolean {
  return new URL(url).hostname.endsWith(`.${up.domain}`);
}

async function findLaptop(base: string | undefined, options: GlobalOptions, context: CliContext): Promise<Up | undefined> {
  const state = stateOf(options, context);
  // The code of the services takes a second to load: not where none run.
  if (!existsSync(join(state, "up.json"))) return undefined;
  let up: Up;
  try {
    const { readUp } = await import("@sealpod/services");
    up = await readUp(state);
  } catch (error) {
    // Other vaults can be reached whatever is the matter with the laptop's.
    if (base !== undefined || (isSealpodError(error) && error.code === "ERR_SERVICES_NOT_RUNNING")) return undefined;
    throw error;
  }
  return base === undefined || isLaptops(base, up) ? up : undefined;
}

/** `https://host[:port]` of the command line; undefined for the laptop's. */
export function baseOf(options: VaultOptions & NameOptions, operands: readonly string[]): string | undefined {
  const named = options.name ?? operands[0];
  const ofKey = named === undefined ? undefined : parseName(named)?.base;
  const given = [
    ...(options.vault === undefined ? [] : [{ from: "--vault", base: parseVault("--vault", options.vault) }]),
    ...(options.hsm === undefined ? [] : [{ from: "--hsm", base: parseVault("--hsm", options.hsm) }]),
    ...(ofKey === undefined ? [] : [{ from: "the URL of the key", base: ofKey }]),
  ];
  const [first, second] = given;
  if (first !== undefined && second !== undefined && (second.base !== first.base || second.from === "--hsm")) {
    throw new CliError("ERR_CLI_USAGE", `${first.from} and ${second.from} name two vaults`, { hint: "Name one." });
  }
  return first?.base;
}

function parseVault(flag: string, text: string): string {
  const full = /^[a-z]+:\/\//i.test(text) ? text : `https://${text}`;
  const url = URL.canParse(full) ? new URL(full) : undefined;
  const isVault = url !== undefined && url.protocol === "https:" && /^\/?$/.test(url.pathname) && url.search === "" && url.hash === "" && url.username === "";
  if (isVault && (text.includes(".") || text.includes(":"))) return url.origin;
  const suffix = flag === "--hsm" ? "managedhsm.azure.net" : "vault.azure.net";
  throw new CliError("ERR_CLI_USAGE", `${flag} ${text.slice(0, 200)} is not the https URL of a vault`, {
    hint: `e.g. https://${/^[\w-]{1,64}$/.test(text) ? text : "myvault"}.${suffix}`,
  });
}
