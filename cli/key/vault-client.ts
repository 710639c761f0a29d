import { asArray, asObject, encodeJson, isSealpodError, messageOf, parseJson, type JsonObject, type JsonValue } from "@sealpod/core";
import type { VaultProblem } from "@sealpod/importkey";
import { CliError, type CliErrorCode } from "../errors.ts";
import { printable } from "./output.ts";
import type { VaultFetch } from "./vault-fetch.ts";

/** One vault, spoken to in the words of Key Vault's REST API (specs/attestation.md 7.1). */
export interface Vault {
  /** `https://host[:port]`. */
  readonly base: string;
  /** Tenant whose principals get access where none is named. */
  readonly tenantId: string | undefined;
  /** Names of applications, by client id in lower case, as far as they are known here. */
  readonly applications: ReadonlyMap<string, string>;
  /**
   * Sends a request and reads its JSON; an answer without a body is `{}`.
   * @param path from the slash, its parts percent-encoded
   * @throws {CliError} ERR_CLI_VAULT…
   */
  call(method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE", path: string, body?: JsonObject, query?: Readonly<Record<string, string>>): Promise<JsonObject>;
  /**
   * All items of a list, page by page.
   * @throws {CliError} ERR_CLI_VAULT…
   */
  list(path: string, query?: Readonly<Record<string, string>>): AsyncGenerator<JsonObject, void, undefined>;
}

/** What {@link vaultClient} needs. */
export interface VaultClientOptions {
  readonly base: string;
  readonly tenantId?: string | undefined;
  readonly applications?: ReadonlyMap<string, string> | undefined;
  readonly fetch: VaultFetch;
  /** Access token; asked once, before the first request. */
  readonly token: () => Promise<string>;
}

/** The version of the interface: the first with everything that is asked for here, in all vaults and HSMs of today. */
export const API_VERSION = "7.4";

/** A vault with more than this many pages of 25 keys does not list them; one whose links go in circles does not hold us. */
const MAX_PAGES = 10_000;

/** A client for one vault. */
export function vaultClient({ base, tenantId, applications = new Map(), fetch, token }: VaultClientOptions): Vault {
  let authorization: Promise<string> | undefined;
  const send = async (method: string, url: string, body?: JsonObject): Promise<JsonObject> => {
    authorization ??= token().then((text) => `Bearer ${text}`);
    const headers = { accept: "application/json", authorization: await authorization, ...(body === undefined ? {} : { "content-type": "application/json" }) };
    const { host, pathname } = new URL(url);
    const what = `${method} ${host}${pathname}`;
    const answer = await fetch(url, { method, headers, ...(body === undefined ? {} : { body: encodeJson(body) }) }).catch((cause: unknown) => {
      throw new CliError("ERR_CLI_VAULT", `${what}: no answer: ${messageOf(cause)}`, {
        cause,
        hint: (isSealpodError(cause) ? cause.hint : undefined) ?? "Check the vault's name, and for a vault with an authority of its own --ca.",
      });
    });
    const json = parseAnswer(answer.text);
    if (answer.status < 200 || answer.status > 299) throw await refusal(what, pathname, answer.status, json, answer.requestId);
    const object = asObject(json);
    if (object === undefined) throw new CliError("ERR_CLI_VAULT", `${what}: the answer is no JSON object`, { hint: "Is this the URL of a key vault?" });
    return object;
  };
  const urlOf = (path: string, query: Readonly<Record<string, string>> = {}): string =>
    `${base}${path}?${new URLSearchParams({ "api-version": API_VERSION, ...query }).toString()}`;

  return {
    base,
    tenantId,
    applications,
    call: async (method, path, body, query) => send(method, urlOf(path, query), body),
    async *list(path, query) {
      let url = urlOf(path, query);
      for (let page = 0; page < MAX_PAGES; page++) {
        const { value, nextLink } = await send("GET", url);
        const items = asArray(value);
        if (items === undefined) throw new CliError("ERR_CLI_VAULT", `GET ${path}: the answer has no list`);
        for (const item of items) yield asObject(item) ?? {};
        if (typeof nextLink !== "string" || nextLink === "") return;
        // The token goes with the next request: to this vault alone. The genuine service writes :443 out.
        if (!URL.canParse(nextLink) || new URL(nextLink).origin !== new URL(base).origin)
          throw new CliError("ERR_CLI_VAULT", `GET ${path}: the next page is not of this vault: ${printable(nextLink)}`);
        const next = new URL(nextLink);
        if (![...next.searchParams.keys()].includes("api-version")) next.searchParams.set("api-version", API_VERSION);
        url = next.href;
      }
      throw new CliError("ERR_CLI_VAULT", `GET ${path}: more than ${MAX_PAGES} pages`);
    },
  };
}

function parseAnswer(text: string): JsonValue | undefined {
  if (text === "") return {};
  try {
    return parseJson(text, "answer");
  } catch (error) {
    if (isSealpodError(error)) return undefined;
    throw error;
  }
}

async function refusal(what: string, path: string, status: number, json: JsonValue | undefined, requestId: string | undefined): Promise<CliError> {
  // Only now: most commands are not refused, and start without it.
  const { problemOf, refusalHint } = await import("@sealpod/importkey");
  const problem = problemOf(status, json);
  const hint = refusalHint(problem) ?? hintOf(path, problem, requestId);
  return new CliError(codeOf(status), `${what}: the vault answered ${status}${problem.said === "" ? "" : `, ${problem.said}`}`, {
    details: { status, ...(problem.inner === "" ? {} : { inner: problem.inner }), ...(requestId === undefined ? {} : { requestId: printable(requestId) }) },
    ...(hint === undefined ? {} : { hint }),
  });
}

function codeOf(status: number): CliErrorCode {
  switch (status) {
    case 401:
      return "ERR_CLI_VAULT_UNAUTHORIZED";
    case 403:
      return "ERR_CLI_VAULT_FORBIDDEN";
    case 404:
      return "ERR_CLI_VAULT_NOT_FOUND";
    case 409:
      return "ERR_CLI_VAULT_CONFLICT";
    default:
      return status >= 400 && status <= 499 && status !== 429 ? "ERR_CLI_VAULT_REFUSED" : "ERR_CLI_VAULT";
  }
}

function hintOf(path: string, { status, said, inner }: VaultProblem, requestId: string | undefined): string | undefined {
  if (status === 404 && said.startsWith("AccessPolicyNotFound")) return "This principal has none. Who has one: sealpod key list-policies";
  if (status === 404 && path.startsWith("/sealpod/keys/") && said.startsWith("KeyNotFound"))
    return "Is it the right vault? Its keys: sealpod key list; the deleted ones: sealpod key list-deleted; another vault: --vault URL";
  if (status === 404 && path.startsWith("/sealpod/"))
    return "Only Sealpod's own vaults have this. For Azure: az keyvault set-policy, az keyvault role, and the vault's diagnostic logs.";
  if (status === 409 && path.includes("/roleAssignments"))
    return "The principal has this role in this scope already, or the id is taken: sealpod key role-assignment list";
  if (status === 409) return "If it was deleted: recover or purge it first, or take another name.";
  if (status !== 403) return undefined;
  if (path.endsWith("/release") && inner !== "AccessDenied" && inner !== "ForbiddenByRbac") {
    return `The owner of a Sealpod vault sees the reason: sealpod key why ${requestId === undefined ? "KEY --token FILE" : `--request-id ${printable(requestId)}`}`;
  }
  return "Give the identity the permission: sealpod key set-policy or role-assignment create; for Azure: az keyvault set-policy, or az role assignment create.";
}
