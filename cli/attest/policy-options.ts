import { createPrivateKey, createPublicKey, type KeyObject } from "node:crypto";
import { isSealpodError } from "@sealpod/core";
import { parseCertificatesPem } from "@sealpod/pki";
import { ATTESTATION_RESOURCE, laptopFetch, readUp, requestOwnerToken, type Up } from "@sealpod/services";
import type { CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import type { GlobalOptions } from "../program.ts";
import { keepsTokens, laptopNetworkFetch, networkFetch, readCertificatePem, readTokenFile } from "../service-fetch.ts";
import { readText, stateOf } from "../workspace.ts";
import { unreachable, type PolicyService, type PolicySigner } from "./policy-service.ts";

/** Flags of the verbs that speak with a service. */
export interface ServiceOptions {
  /** The laptop's service if it is left out. */
  readonly endpoint?: string;
  readonly type: string;
  readonly apiVersion: string;
  readonly bearerTokenFile?: string;
  readonly ca?: string;
}

/** Flags of the verbs that change something. */
export interface SignerOptions {
  readonly key?: string;
  readonly cert?: string;
}

/** Largest answer that is read: a policy in a token, or keys with their certificates. */
const MAX_ANSWER = 2 * 1024 * 1024;
/** What `sealpod up` calls its services; no other network has such names (RFC 6762 keeps none, ICANN keeps .internal free). */
const LAPTOP_NAMES = ".sealpod.internal";

/**
 * The service of a command line.
 * @throws {CliError} ERR_CLI_USAGE, ERR_CLI_FILE
 */
export async function openService(options: ServiceOptions & GlobalOptions, context: CliContext): Promise<PolicyService> {
  const { type, apiVersion } = options;
  const endpoint = options.endpoint === undefined ? undefined : parseEndpoint(options.endpoint);
  const given = options.bearerTokenFile === undefined ? undefined : await readTokenFile(options.bearerTokenFile, "access token", context);
  const common = { type, apiVersion, clock: context.clock };
  const up = await findLaptop(endpoint, options, context);
  if (up === undefined && endpoint !== undefined) {
    if (options.ca === undefined && new URL(endpoint).hostname.endsWith(LAPTOP_NAMES)) {
      throw new CliError("ERR_CLI_NOT_UP", `${endpoint} is the laptop's, and no laptop services run on the state directory ${stateOf(options, context)}`, {
        hint: "Start them: sealpod up -d. If they run on another state directory, name it with --state DIR.",
      });
    }
    const ca = options.ca === undefined ? undefined : await readCertificatePem(options.ca, context);
    return {
      ...common,
      endpoint,
      bearerToken: given,
      fetch: networkFetch({ ca, signal: context.signal, maxAnswer: MAX_ANSWER, plain: true, failure: unreachable }),
    };
  }
  if (up === undefined) {
    throw new CliError("ERR_CLI_USAGE", `no --endpoint is given, and no laptop services run on the state directory ${stateOf(options, context)}`, {
      hint: "Name a service with --endpoint URL, or start the laptop's: sealpod up -d",
    });
  }
  if (options.ca !== undefined) {
    throw new CliError("ERR_CLI_USAGE", "--ca is given for the laptop's service, whose authority is known", {
      hint: "Leave --ca out, or name another service with --endpoint.",
    });
  }
  const bearerToken = given ?? (await requestOwnerToken(up, ATTESTATION_RESOURCE));
  return { ...common, endpoint: endpoint ?? `https://${up.endpoints.attestation}`, bearerToken, fetch: laptopNetworkFetch(laptopFetch(up), context.signal) };
}

/** The laptop's services if the endpoint is theirs, or none is named: no other name leads to them, and their names lead nowhere else. */
async function findLaptop(endpoint: string | undefined, options: GlobalOptions, context: CliContext): Promise<Up | undefined> {
  let up: Up;
  try {
    up = await readUp(stateOf(options, context));
  } catch (error) {
    // Other services can be reached whatever is the matter with the laptop's.
    if (endpoint !== undefined || (isSealpodError(error) && error.code === "ERR_SERVICES_NOT_RUNNING")) return undefined;
    throw error;
  }
  return endpoint === undefined || new URL(endpoint).hostname.endsWith(`.${up.domain}`) ? up : undefined;
}

/**
 * The signer of a command line; undefined if none is named.
 * @throws {CliError} ERR_CLI_USAGE, ERR_CLI_FILE
 */
export async function openSigner({ key, cert }: SignerOptions, context: CliContext): Promise<PolicySigner | undefined> {
  if (key === undefined && cert === undefined) return undefined;
  if (key === undefined || cert === undefined)
    throw new CliError("ERR_CLI_USAGE", `--${key === undefined ? "cert" : "key"} is given without --${key === undefined ? "key" : "cert"}`);
  const privateKey = parseKey((await readText(key, context)).text, key);
  const certificates = parseCertificatesPem(await readCertificatePem(cert, context), cert);
  const [first] = certificates;
  const isItsKey = first !== undefined && privateKey.asymmetricKeyType === "rsa" && first.publicKey.key.equals(createPublicKey(privateKey));
  if (!isItsKey) throw new CliError("ERR_CLI_USAGE", `${key} is not the RSA key of the first certificate in ${cert}`);
  return { key: privateKey, certificates: certificates.map(({ der }) => der) };
}

function parseEndpoint(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !keepsTokens(url) || url.search !== "" || url.hash !== "" || url.username !== "") {
    throw new CliError("ERR_CLI_USAGE", `--endpoint ${text.slice(0, 200)} is not the https URL of a service`, {
      hint: "e.g. https://myprovider.eus.attest.azure.net; http on loopback alone.",
    });
  }
  return `${url.origin}${url.pathname.replace(/\/+$/, "")}`;
}

function parseKey(text: string, path: string): KeyObject {
  try {
    return createPrivateKey(text);
  } catch {
    // Not the cause: it may quote the file.
    throw new CliError("ERR_CLI_FILE", `${path} holds no private key in PEM that can be read without a password`);
  }
}
