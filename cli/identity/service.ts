import { asObject, encodeJson, isSealpodError, messageOf, parseJson, type JsonObject } from "@sealpod/core";
import { IdentityError, MANAGEMENT_RESOURCES } from "@sealpod/identity";
import type { Up } from "@sealpod/services";
import type { CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import type { GlobalOptions } from "../program.ts";
import { keepsTokens, laptopNetworkFetch, networkFetch, readCertificatePem, readTokenFile } from "../service-fetch.ts";
import { stateOf } from "../workspace.ts";

/** Flags that say which service is meant. */
export interface TargetOptions {
  /** The laptop's service if it is left out. */
  readonly authority?: string;
  readonly tenant?: string;
  readonly bearerTokenFile?: string;
  readonly ca?: string;
}

/** Flags that name an application. */
export interface ApplicationOptions {
  readonly clientId?: string;
  readonly identityName?: string;
  readonly resourceGroup: string;
  readonly subscription: string;
}

/** One request. */
export interface ServiceRequest {
  readonly method: "GET" | "PUT" | "POST" | "DELETE";
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
}

/** Sends a request to the service. */
export type ServiceFetch = (url: string, request: ServiceRequest) => Promise<{ readonly status: number; readonly text: string }>;

/** The identity service of a command line. */
export interface IdentityTarget {
  /** `https://host:port`. */
  readonly authority: string;
  readonly tenant: string | undefined;
  /** Set if it is the laptop's. */
  readonly up: Up | undefined;
  readonly fetch: ServiceFetch;
}

/** A service, and the right to manage it. */
export interface ManagedTarget extends IdentityTarget {
  readonly bearer: string;
}

/** Bytes of an answer. */
const MAX_ANSWER: number = 4 * 1024 * 1024;
const API_VERSION = "2023-01-31";

/**
 * The service of a command line.
 * @throws {CliError} ERR_CLI_USAGE, ERR_CLI_FILE, ERR_CLI_NOT_UP
 */
export async function openTarget(options: TargetOptions & GlobalOptions, context: CliContext): Promise<IdentityTarget> {
  if (options.authority !== undefined) {
    const authority = parseAuthority(options.authority);
    const ca = options.ca === undefined ? undefined : await readCertificatePem(options.ca, context);
    return {
      authority,
      tenant: options.tenant,
      up: undefined,
      fetch: networkFetch({ ca, signal: context.signal, maxAnswer: MAX_ANSWER, plain: true, failure: unreachable }),
    };
  }
  const state = stateOf(options, context);
  // The laptop's services are a lot of code: who names another service does not wait for it.
  const { laptopFetch, readUp } = await import("@sealpod/services");
  let up: Up;
  try {
    up = await readUp(state);
  } catch (cause) {
    if (!isSealpodError(cause) || cause.code !== "ERR_SERVICES_NOT_RUNNING") throw cause;
    throw new CliError("ERR_CLI_NOT_UP", `no --authority is given, and no laptop services run on the state directory ${state}`, {
      cause,
      hint: "Name a service with --authority URL, or start the laptop's: sealpod up -d",
    });
  }
  return {
    authority: up.endpoints.authority,
    tenant: options.tenant ?? up.tenantId,
    up,
    fetch: laptopNetworkFetch(laptopFetch(up), context.signal),
  };
}

/**
 * The same with a token to manage it: the one that is given, or the laptop owner's.
 * @throws {CliError} ERR_CLI_USAGE, ERR_CLI_FILE, ERR_CLI_NOT_UP
 */
export async function openManaged(options: TargetOptions & GlobalOptions, context: CliContext): Promise<ManagedTarget> {
  const target = await openTarget(options, context);
  if (options.bearerTokenFile !== undefined) return { ...target, bearer: await readSecret(options.bearerTokenFile, context) };
  if (target.up === undefined) {
    throw new CliError("ERR_CLI_USAGE", "--authority is given without --bearer-token-file", {
      hint: "For a service of `identity serve --dev DIR`: --bearer-token-file DIR/operator.token --ca DIR/tls.crt",
    });
  }
  const { requestOwnerToken } = await import("@sealpod/services");
  return { ...target, bearer: await requestOwnerToken(target.up, MANAGEMENT_RESOURCES[0] ?? "") };
}

/**
 * A request of management.
 * @throws {IdentityError} ERR_IDENTITY_SERVICE, ERR_IDENTITY_NOT_FOUND, ERR_IDENTITY_CONFLICT, ERR_IDENTITY_ARGUMENT
 */
export async function manage(target: ManagedTarget, method: ServiceRequest["method"], path: string, body?: JsonObject): Promise<JsonObject> {
  const url = new URL(`${target.authority}${path}`);
  if (path.startsWith("/subscriptions/")) url.searchParams.set("api-version", API_VERSION);
  if (target.tenant !== undefined) url.searchParams.set("tenant", target.tenant);
  const answer = await target.fetch(url.href, {
    method,
    headers: {
      accept: "application/json",
      authorization: `Bearer ${target.bearer}`,
      ...(body === undefined ? {} : { "content-type": "application/json" }),
    },
    ...(body === undefined ? {} : { body: encodeJson(body) }),
  });
  const document = parseObject(answer.text);
  if (answer.status >= 200 && answer.status <= 299) return document ?? {};
  const { code, message } = asObject(document?.["error"]) ?? {};
  const said = typeof message === "string" ? message : `status ${answer.status}`;
  if (answer.status === 404) throw new IdentityError("ERR_IDENTITY_NOT_FOUND", said, { hint: "List what is there: sealpod identity app list" });
  if (code === "ERR_IDENTITY_CONFLICT" || code === "ERR_IDENTITY_ARGUMENT") throw new IdentityError(code, said);
  const hint = answer.status === 401 || answer.status === 403 ? { hint: "Pass --bearer-token-file with the token of an operator or administrator." } : {};
  throw new IdentityError("ERR_IDENTITY_SERVICE", `${method} ${path} was refused with status ${answer.status}: ${said}`, hint);
}

/**
 * Path of an application below the management.
 * @throws {CliError} ERR_CLI_USAGE unless exactly one is named
 */
export async function applicationPath(target: ManagedTarget, options: ApplicationOptions): Promise<string> {
  const { clientId, identityName } = options;
  if ((clientId === undefined) === (identityName === undefined)) {
    throw new CliError(
      "ERR_CLI_USAGE",
      `${clientId === undefined ? "neither" : "both"} --client-id ${clientId === undefined ? "nor" : "and"} --identity-name given`,
      {
        hint: "Name the application with --client-id ID, or a managed identity with --identity-name NAME.",
      },
    );
  }
  const id = clientId ?? asObject((await manage(target, "GET", identityPath(identityName ?? "", options)))["properties"])?.["clientId"];
  if (typeof id !== "string" || !/^[0-9a-f-]{36}$/i.test(id))
    throw new CliError("ERR_CLI_USAGE", `--client-id ${JSON.stringify(id ?? "").slice(0, 100)} is not a UUID`);
  return `/v1.0/applications(appId='${id.toLowerCase()}')`;
}

/** Path of a managed identity. */
export function identityPath(name: string, { resourceGroup, subscription }: Pick<ApplicationOptions, "resourceGroup" | "subscription">): string {
  const [group, own] = [encodeURIComponent(resourceGroup), encodeURIComponent(name)];
  return `/subscriptions/${encodeURIComponent(subscription)}/resourceGroups/${group}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/${own}`;
}

/**
 * One line of a file that holds a token or secret. It is in no message: that would be in the terminal's history.
 * @throws {CliError} ERR_CLI_FILE
 */
export async function readSecret(path: string, context: CliContext): Promise<string> {
  return readTokenFile(path, "token or secret", context);
}

/** The object in a JSON text; undefined if it is something else. */
export function parseObject(text: string): JsonObject | undefined {
  try {
    return asObject(parseJson(text));
  } catch (error) {
    if (isSealpodError(error)) return undefined;
    throw error;
  }
}

function parseAuthority(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !keepsTokens(url) || url.pathname !== "/" || url.search !== "" || url.hash !== "" || url.username !== "") {
    throw new CliError("ERR_CLI_USAGE", `--authority ${text.slice(0, 200)} is not the https URL of a service without path`, {
      hint: "e.g. https://login.example:8444; http on loopback alone.",
    });
  }
  return url.origin;
}

function unreachable(url: string, cause: Error): IdentityError {
  const hint = "Check the URL, and for a service with an authority of its own --ca.";
  return new IdentityError("ERR_IDENTITY_SERVICE", `${new URL(url).host}: ${messageOf(cause)}`, { cause, hint });
}
