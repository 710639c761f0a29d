import { asObject, decodeUtf8, fromBase64url, isSealpodError, parseJson, type JsonObject } from "@sealpod/core";
import { IdentityError, TOKEN_EXCHANGE_AUDIENCE } from "@sealpod/identity";
import { EXIT, type CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { valueText, writeResult } from "../identity/output.ts";
import { openTarget, parseObject, readSecret, type IdentityTarget, type TargetOptions } from "../identity/service.ts";
import type { GlobalOptions, Verb } from "../program.ts";

interface Options extends TargetOptions {
  readonly resource: string;
  readonly clientId?: string;
  readonly federatedTokenFile?: string;
  readonly clientSecretFile?: string;
  readonly serviceAccount?: string;
}

const ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/** `sealpod identity token`. The token alone goes to stdout, so that it can go into a file. */
export const run: Verb<Options> = async (options, _operands, context) => {
  const given = [options.federatedTokenFile, options.clientSecretFile, options.serviceAccount].filter((item) => item !== undefined);
  if (given.length > 1) throw new CliError("ERR_CLI_USAGE", "more than one of --federated-token-file, --client-secret-file and --service-account is given");
  const { env } = context;
  // What the webhook of workload identity has put around a pod is for the service that it names, not for the laptop's.
  const isPod =
    given.length === 0 && options.authority === undefined && env["AZURE_FEDERATED_TOKEN_FILE"] !== undefined && env["AZURE_AUTHORITY_HOST"] !== undefined;
  const target = await openTarget(isPod ? { ...options, authority: env["AZURE_AUTHORITY_HOST"] ?? "" } : options, context);
  const tenant = target.tenant ?? env["AZURE_TENANT_ID"];
  if (tenant === undefined) throw new CliError("ERR_CLI_USAGE", "no --tenant is given", { hint: "Name it with --tenant ID, or AZURE_TENANT_ID." });
  const form = new URLSearchParams({
    ...(await credentialOf(options, target, isPod, context)),
    grant_type: "client_credentials",
    scope: `${options.resource}/.default`,
  });
  const headers = { "content-type": "application/x-www-form-urlencoded", accept: "application/json" };
  const { status, text } = await target.fetch(`${target.authority}/${encodeURIComponent(tenant)}/oauth2/v2.0/token`, {
    method: "POST",
    headers,
    body: form.toString(),
  });
  const answer = parseObject(text) ?? {};
  const token = answer["access_token"];
  if (status !== 200 || typeof token !== "string") {
    const [first = ""] = valueText(answer["error_description"]).split("\r\n");
    throw new IdentityError("ERR_IDENTITY_SERVICE", `the token was refused with status ${status}: ${first}`, {
      hint: "The number after AADSTS says what to look for.",
    });
  }
  writeResult(context, options, { ...answer, claims: claimsOf(token) }, () => `${token}\n`);
  return EXIT.ok;
};

async function credentialOf(
  options: Options & GlobalOptions,
  target: IdentityTarget,
  isPod: boolean,
  context: CliContext,
): Promise<Readonly<Record<string, string>>> {
  const { up } = target;
  const assertion = (client: string, token: string): Readonly<Record<string, string>> => ({
    client_id: client,
    client_assertion_type: ASSERTION_TYPE,
    client_assertion: token,
  });
  if (options.serviceAccount !== undefined) {
    if (up === undefined) throw new CliError("ERR_CLI_USAGE", "--service-account is for the laptop's cluster, and --authority names another service");
    const [namespace = "", name = "", ...rest] = options.serviceAccount.split("/");
    if (name === "" || rest.length > 0) throw new CliError("ERR_CLI_USAGE", `--service-account ${options.serviceAccount} is not NAMESPACE/NAME`);
    const pod = { name: "sealpod-identity-token", uid: "00000000-0000-4000-8000-000000000000" };
    const { requestServiceAccountToken } = await import("@sealpod/services");
    const token = await requestServiceAccountToken(up.sockets.kube, { namespace, serviceAccount: name, audiences: [TOKEN_EXCHANGE_AUDIENCE], pod });
    return assertion(options.clientId ?? up.workload.clientId, token);
  }
  const clientId = options.clientId ?? context.env["AZURE_CLIENT_ID"];
  const file = options.federatedTokenFile ?? (isPod ? context.env["AZURE_FEDERATED_TOKEN_FILE"] : undefined);
  if (file !== undefined) return assertion(requireClient(clientId), await readSecret(file, context));
  if (options.clientSecretFile !== undefined) return { client_id: requireClient(clientId), client_secret: await readSecret(options.clientSecretFile, context) };
  if (up !== undefined && options.clientId === undefined) return { client_id: up.owner.clientId, client_secret: up.owner.clientSecret };
  throw new CliError("ERR_CLI_USAGE", "nothing proves who asks", {
    hint: "Pass --federated-token-file, --client-secret-file, or on the laptop --service-account.",
  });
}

function requireClient(clientId: string | undefined): string {
  if (clientId === undefined) throw new CliError("ERR_CLI_USAGE", "no --client-id is given", { hint: "Name the application, here or with AZURE_CLIENT_ID." });
  return clientId;
}

function claimsOf(token: string): JsonObject {
  try {
    return asObject(parseJson(decodeUtf8(fromBase64url(token.split(".")[1] ?? "")), "the token")) ?? {};
  } catch (error) {
    if (isSealpodError(error)) return {};
    throw error;
  }
}
