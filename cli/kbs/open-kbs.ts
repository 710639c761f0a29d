import { isSealpodError } from "@sealpod/core";
import type { Up } from "@sealpod/services";
import type { CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import type { GlobalOptions, Verb } from "../program.ts";
import { keepsTokens, laptopNetworkFetch, networkFetch, readCertificatePem, readTokenFile, type NetworkFetch } from "../service-fetch.ts";
import { readText, stateOf } from "../workspace.ts";
import { adminToken } from "./admin-token.ts";
import { kbsClient, type KbsAdmin } from "./kbs-client.ts";

/** Flags that say which key broker is meant, and who speaks. */
export interface KbsOptions {
  /** The laptop's key broker if it is left out. */
  readonly url?: string;
  readonly authPrivateKey?: string;
  readonly bearerTokenFile?: string;
  readonly certFile?: string;
}

/** What a verb does with its key broker; returns the exit code. */
export type KbsOperation<O> = (kbs: KbsAdmin, options: O & GlobalOptions, operands: readonly string[], context: CliContext) => Promise<number>;

/** Bytes of an answer: 500 reference values, or a policy. */
const MAX_ANSWER: number = 4 * 1024 * 1024;
/** What the laptop's key broker takes its owner's tokens for: the secrets of the vault are its resources. */
const VAULT_RESOURCE = "https://vault.azure.net";

/** A verb that speaks with the key broker of its command line. */
export function kbsVerb<O extends KbsOptions>(operation: KbsOperation<O>): Verb<O> {
  return async (options, operands, context) => operation(await openKbs(options, context), options, operands, context);
}

/**
 * The key broker of a command line: that of `--url`, or the laptop's. Nothing is sent yet but for the owner's token.
 * @throws {CliError} ERR_CLI_USAGE, ERR_CLI_FILE, ERR_CLI_NOT_UP
 */
export async function openKbs(options: KbsOptions & GlobalOptions, context: CliContext): Promise<KbsAdmin> {
  if (options.authPrivateKey !== undefined && options.bearerTokenFile !== undefined)
    throw new CliError("ERR_CLI_USAGE", "--auth-private-key and --bearer-token-file are two administrators", { hint: "Give one." });
  const base = options.url === undefined ? undefined : parseUrl(options.url);
  const up = await findLaptop(base, options, context);
  if (up !== undefined && options.certFile !== undefined)
    throw new CliError("ERR_CLI_USAGE", "--cert-file is given for the laptop's key broker, whose authority is known", { hint: "Leave --cert-file out." });
  const url = base ?? `https://${up?.endpoints.kbs ?? ""}`;
  const given = await givenToken(options, context);
  if (given === undefined && up === undefined) {
    throw new CliError("ERR_CLI_USAGE", `${url} is not the laptop's key broker, and no administrator's token is given`, {
      hint: "Pass --auth-private-key FILE (Ed25519, PEM), as kbs-client takes it, or --bearer-token-file FILE.",
    });
  }
  return kbsClient({
    base: url,
    fetch: await fetchOf(up, options, context),
    token: async () => given ?? ownerToken(up),
  });
}

async function givenToken({ authPrivateKey, bearerTokenFile }: KbsOptions, context: CliContext): Promise<string | undefined> {
  if (authPrivateKey !== undefined) return adminToken((await readText(authPrivateKey, context)).text, authPrivateKey, context.clock);
  if (bearerTokenFile === undefined) return undefined;
  return readTokenFile(bearerTokenFile, "bearer token", context);
}

async function ownerToken(up: Up | undefined): Promise<string> {
  const { requestOwnerToken } = await import("@sealpod/services");
  if (up === undefined) throw new CliError("ERR_CLI_NOT_UP", "the laptop services are not running");
  return requestOwnerToken(up, VAULT_RESOURCE);
}

async function fetchOf(up: Up | undefined, { certFile }: KbsOptions, context: CliContext): Promise<NetworkFetch> {
  const { signal } = context;
  if (up !== undefined) return laptopNetworkFetch((await import("@sealpod/services")).laptopFetch(up), signal);
  const ca = certFile === undefined ? undefined : await readCertificatePem(certFile, context);
  // CoCo's own examples use http on the machine itself.
  return networkFetch({ ca, signal, maxAnswer: MAX_ANSWER, plain: true });
}

/** The laptop, if its key broker is meant. Its names lead nowhere else. */
async function findLaptop(base: string | undefined, options: GlobalOptions, context: CliContext): Promise<Up | undefined> {
  const hostname = base === undefined ? undefined : new URL(base).hostname;
  const state = stateOf(options, context);
  // The laptop's services are a lot of code: who names a key broker of the network does not wait for it.
  if (hostname !== undefined && !hostname.endsWith(".sealpod.internal")) return undefined;
  const { readUp } = await import("@sealpod/services");
  try {
    return await readUp(state);
  } catch (cause) {
    if (!isSealpodError(cause) || cause.code !== "ERR_SERVICES_NOT_RUNNING") throw cause;
    throw new CliError(
      "ERR_CLI_NOT_UP",
      `${base === undefined ? "no --url is given" : `${base} is the laptop's`}, and no laptop services run on the state directory ${state}`,
      {
        cause,
        hint: "Name a key broker with --url URL, or start the laptop's: sealpod up -d",
      },
    );
  }
}

function parseUrl(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !keepsTokens(url) || url.pathname !== "/" || url.search !== "" || url.hash !== "" || url.username !== "") {
    throw new CliError("ERR_CLI_USAGE", `--url ${text.slice(0, 200)} is not the https URL of a key broker without path`, {
      hint: "e.g. https://kbs.example:8080; http on loopback alone.",
    });
  }
  return url.origin;
}
