import { join } from "node:path";
import { isSealpodError } from "@sealpod/core";
import { IDENTITY_PREFIX, IDENTITY_SETTINGS, startIdentityServer, type RunningIdentity } from "@sealpod/identity";
import { KEYVAULT_PREFIX, KEYVAULT_SETTINGS, startKeyvaultServer } from "@sealpod/keyvault";
import { readConfiguration } from "@sealpod/service";
import type { CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { makeDevelopmentFiles as makeIdentityFiles } from "../identity/development.ts";
import { manage, openManaged, parseObject, type ManagedTarget } from "../identity/service.ts";
import type { Verb } from "../program.ts";
import { healthLine, loopbackAddress, rootsText, servePorts, serveVerb, type ServedDevelopment, type ServeOptions } from "../serve.ts";
import {
  DEV_DOMAIN,
  DEV_HOST,
  makeDevelopmentFiles,
  openOwner,
  readDevelopmentIdentity,
  type DevelopmentIdentity,
  type DevelopmentIssuer,
  type DevelopmentOwner,
} from "../vault/development.ts";
import { pathOf } from "../workspace.ts";

interface Options extends ServeOptions {
  readonly identity?: string;
  readonly identityListen?: string;
  readonly issuer?: string;
  readonly tenant?: string;
  readonly authorization?: string;
  readonly administrator?: string;
  readonly attestation?: string;
  readonly trustEmulator?: string;
}

/** Beside those of `attest serve --dev` and `identity serve --dev`, so that all three can run. */
const DEV_LISTEN = "127.0.0.1:8445";
const DEV_IDENTITY_LISTEN = "127.0.0.1:8444";
/** What tokens are for: the genuine clients ask for no other. */
const RESOURCE = "https://vault.azure.net";
const DEV_FLAGS: readonly (readonly [keyof Options, string, string])[] = [
  ["listen", "--listen", "listen"],
  ["identity", "--identity", "issuers"],
  ["identityListen", "--identity-listen", "issuers"],
  ["issuer", "--issuer", "issuers"],
  ["tenant", "--tenant", "issuers"],
  ["authorization", "--authorization", "issuers"],
  ["administrator", "--administrator", "vaults"],
  ["attestation", "--attestation", "trustedCertificates"],
  ["trustEmulator", "--trust-emulator", "releases.evidenceRoots"],
];

/** `sealpod vault serve`. */
export const run: Verb<Options> = serveVerb({
  command: "vault",
  name: "keyvault",
  schema: KEYVAULT_SETTINGS,
  prefix: KEYVAULT_PREFIX,
  devFlags: DEV_FLAGS,
  problemOf,
  openDevelopment,
  start: startKeyvaultServer,
  startedText: (settings, server) => {
    const { port } = new URL(server.url);
    return [
      ...settings.vaults.map(({ name, kind, domain }) => `${kind.padEnd(15)}https://${name}.${domain ?? settings.domain}:${port}`),
      `tokens of      ${settings.issuers.map(({ issuer }) => issuer).join(", ")}`,
      `releases to    ${rootsText(settings.releases.evidenceRoots)}`,
      healthLine(server),
    ];
  },
});

/** Whose tokens count, and what was made for that. */
interface FoundIssuer {
  readonly issuer: DevelopmentIssuer;
  readonly identity: DevelopmentIdentity | undefined;
  readonly owner: DevelopmentOwner | undefined;
  /** The identity service, if it is one of this process. */
  readonly server: RunningIdentity | undefined;
}

function problemOf(options: Options): string | undefined {
  const { issuer, identity } = options;
  const ofIssuer = (["tenant", "authorization", "administrator"] as const).find((name) => options[name] !== undefined);
  return issuer !== undefined && (identity !== undefined || options.identityListen !== undefined)
    ? `--issuer and ${identity === undefined ? "--identity-listen" : "--identity"} are two ways to say whose tokens count`
    : identity !== undefined && options.identityListen !== undefined
      ? "--identity-listen is for the identity service that is started here, and --identity names another"
      : issuer === undefined && ofIssuer !== undefined
        ? `--${ofIssuer} is given without --issuer`
        : issuer !== undefined && (options.tenant === undefined || options.administrator === undefined)
          ? `--issuer is given without ${options.tenant === undefined ? "--tenant" : "--administrator"}`
          : undefined;
}

async function openDevelopment(options: Options, dev: string, context: CliContext): Promise<ServedDevelopment> {
  await using stack = new AsyncDisposableStack();
  const directory = pathOf(dev, context);
  const { listen, port } = loopback("--listen", options.listen ?? DEV_LISTEN);
  const found = await openIssuer(options, directory, stack, context);
  const config = await makeDevelopmentFiles(
    directory,
    {
      listen,
      issuer: found.issuer,
      attestation: options.attestation === undefined ? undefined : pathOf(options.attestation, context),
      emulator: options.trustEmulator === undefined ? undefined : pathOf(options.trustEmulator, context),
    },
    context,
  );
  // From here on it is the caller that stops what was started.
  stack.move();
  const { issuer, identity, owner, server } = found;
  return {
    directory,
    config,
    summary: { vault: `https://${DEV_HOST}`, issuer: issuer.issuer, authority: identity?.authority, tenant: issuer.tenantId, owner },
    lines: async () => developmentText(directory, config, found, port),
    beside: server,
  };
}

async function openIssuer(options: Options, directory: string, stack: AsyncDisposableStack, context: CliContext): Promise<FoundIssuer> {
  const { issuer, tenant = "", authorization, administrator = "" } = options;
  if (issuer !== undefined) {
    const named = { issuer, tenantId: tenant, authorization: authorization ?? issuer, administrator, certificate: undefined };
    return { issuer: named, identity: undefined, owner: undefined, server: undefined };
  }
  const server = options.identity === undefined ? await startIdentity(options, join(directory, "identity"), context) : undefined;
  if (server !== undefined) stack.defer(async () => server.stop());
  const identity = await readDevelopmentIdentity(options.identity === undefined ? join(directory, "identity") : pathOf(options.identity, context), context);
  const { authority, certificate, operatorToken } = identity;
  const target = await openManaged({ authority, tenant: identity.tenant, ca: certificate, bearerTokenFile: operatorToken }, context);
  const owner = await openOwner(
    directory,
    async ({ clientId, secret }) => letsIn(target, identity.tenant, clientId, secret),
    async () => registerOwner(target),
  );
  return {
    issuer: {
      issuer: `${authority}/${identity.tenant}/v2.0`,
      tenantId: identity.tenant,
      authorization: `${authority}/${identity.tenant}`,
      administrator: owner.clientId,
      certificate,
    },
    identity,
    owner,
    server,
  };
}

async function startIdentity(options: Options, directory: string, context: CliContext): Promise<RunningIdentity> {
  const address = loopback("--identity-listen", options.identityListen ?? DEV_IDENTITY_LISTEN);
  const { config } = await makeIdentityFiles(directory, address, context);
  const resources = [RESOURCE, "https://managedhsm.azure.net", "https://attest.azure.net", `https://${DEV_DOMAIN}`];
  // The genuine clients ask for the resource that the vault's challenge names.
  const env = { [`${IDENTITY_PREFIX}RESOURCES`]: JSON.stringify(resources) };
  const { value } = await readConfiguration({ schema: IDENTITY_SETTINGS, prefix: IDENTITY_PREFIX }, config, { env, cwd: context.cwd });
  try {
    return await startIdentityServer(value, servePorts("identity", value, {}, context));
  } catch (cause) {
    if (!isSealpodError(cause) || cause.code !== "ERR_SERVICE_LISTEN") throw cause;
    throw new CliError("ERR_CLI_USAGE", `the identity service cannot be started beside the vault: ${cause.message}`, {
      cause,
      hint: "If that is a `sealpod identity serve --dev DIR`, use it with --identity DIR; otherwise give another address with --identity-listen.",
    });
  }
}

async function letsIn(target: ManagedTarget, tenant: string, clientId: string, secret: string): Promise<boolean> {
  const form = new URLSearchParams({ client_id: clientId, client_secret: secret, grant_type: "client_credentials", scope: `${RESOURCE}/.default` });
  const { status, text } = await target.fetch(`${target.authority}/${tenant}/oauth2/v2.0/token`, {
    method: "POST",
    headers: { "content-type": "application/x-www-form-urlencoded", accept: "application/json" },
    body: form.toString(),
  });
  return status === 200 && typeof parseObject(text)?.["access_token"] === "string";
}

async function registerOwner(target: ManagedTarget): Promise<{ readonly clientId: string; readonly secret: string }> {
  const { appId } = await manage(target, "POST", "/v1.0/applications", { displayName: "vault-owner" });
  const { secretText } = typeof appId === "string" ? await manage(target, "POST", `/v1.0/applications(appId='${appId}')/addPassword`, {}) : {};
  if (typeof appId !== "string" || typeof secretText !== "string") throw new CliError("ERR_CLI_FILE", `${target.authority} gave no application for the owner`);
  return { clientId: appId, secret: secretText };
}

function loopback(flag: string, text: string): ReturnType<typeof loopbackAddress> {
  return loopbackAddress(flag, text, { example: DEV_LISTEN, beside: "its secrets lie" });
}

async function developmentText(directory: string, config: string, { issuer, identity, owner }: FoundIssuer, port: number): Promise<readonly string[]> {
  const vault = `https://${DEV_HOST}:${port}`;
  const ca = quoted(join(directory, "tls.crt"));
  const token = quoted(join(directory, "token"));
  const curl = `curl --cacert ${ca} --resolve ${DEV_HOST}:${port}:127.0.0.1 -H "Authorization: Bearer $(cat ${token})"`;
  return [
    `configuration  ${config}`,
    `administrator  ${owner === undefined ? issuer.administrator : `${owner.clientId}, whose client secret is in ${owner.secretFile}`}`,
    "",
    ...(owner === undefined || identity === undefined
      ? [`# an access token of ${issuer.administrator} for ${RESOURCE}, in the file ${token}; then`]
      : [
          "# an access token, for an hour",
          `(umask 077; sealpod identity token --authority ${identity.authority} --ca ${quoted(identity.certificate)} --tenant ${identity.tenant} --client-id ${owner.clientId} --client-secret-file ${quoted(owner.secretFile)} --resource ${RESOURCE} > ${token})`,
        ]),
    "# a secret, and a key",
    `${curl} -H "Content-Type: application/json" -X PUT -d '{"value":"s3cret"}' "${vault}/secrets/first?api-version=7.4"`,
    `sealpod key create first --kty EC --vault ${vault} --ca ${ca} --bearer-token-file ${token}`,
    "",
  ];
}

/** For the shell that the line is pasted into. */
function quoted(path: string): string {
  return /^[\w./~+@%:,-]+$/.test(path) ? path : `'${path.replaceAll("'", `'\\''`)}'`;
}
