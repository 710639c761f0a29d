import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { asArray, asObject, decodeUtf8, encodeUtf8, isSealpodError, newUuid, parseJson, type JsonObject } from "@sealpod/core";
import { makeDirectory, writeFileAtomic } from "@sealpod/io";
import { KEY_PERMISSIONS, openVaultMasterKey, openVaultStore, SECRET_PERMISSIONS, type TokenIssuer } from "@sealpod/keyvault";
import type { CliContext } from "../context.ts";
import { exists, inDevelopment, makeCertificate, makeSecrets, openEmulator, writeConfiguration } from "../development.ts";
import { CliError } from "../errors.ts";
import { readBytes } from "../workspace.ts";

/** Names below `.localhost` are this machine's (RFC 6761 section 6.3). */
export const DEV_DOMAIN = "vault.localhost";
/** The vault, and its host name. */
export const DEV_VAULT = "dev";
export const DEV_HOST: string = `${DEV_VAULT}.${DEV_DOMAIN}`;

/** Whose tokens count, and who may do everything. */
export interface DevelopmentIssuer extends TokenIssuer {
  readonly administrator: string;
  /** File with the certificate of its TLS, if it has one of its own. */
  readonly certificate: string | undefined;
}

/** What {@link makeDevelopmentFiles} is told. */
export interface DevelopmentOptions {
  readonly listen: string;
  readonly issuer: DevelopmentIssuer;
  /** Directory of an `attest serve --dev`. */
  readonly attestation: string | undefined;
  /** State directory of an emulator. */
  readonly emulator: string | undefined;
}

/** What `identity serve --dev` has left in its directory. */
export interface DevelopmentIdentity {
  /** `https://localhost:port`. */
  readonly authority: string;
  readonly tenant: string;
  readonly certificate: string;
  readonly operatorToken: string;
}

/**
 * Makes what the key vaults need in a directory, and keeps what is there: TLS certificate, master key, configuration, and in the database all permissions for the administrator.
 * @returns path of the configuration
 * @throws {CliError} ERR_CLI_FILE
 */
export async function makeDevelopmentFiles(directory: string, options: DevelopmentOptions, context: CliContext): Promise<string> {
  return inDevelopment(directory, async (file) => {
    await makeSecrets(directory, { database: "keyvault.sqlite", secrets: ["master.key"] }, context);
    const names = [
      { kind: "dns", value: `*.${DEV_DOMAIN}` },
      // Health and metrics.
      { kind: "dns", value: "localhost" },
      { kind: "ip", bytes: Uint8Array.of(127, 0, 0, 1) },
    ] as const;
    // RSA, because releases are signed with it, and their format knows RS256 alone.
    await makeCertificate(file("tls.crt"), file("tls.key"), { commonName: DEV_HOST, names, key: "rsa-2048" }, context);
    const { issuer, attestation, emulator } = options;
    const { tenantId, administrator, certificate } = issuer;
    const evidenceRoots = ["amd", ...(emulator === undefined ? [] : [(await openEmulator(emulator, context)).trustRoot.name])];
    const trusted = [certificate, attestation === undefined ? undefined : await attestationCertificate(attestation, context)].filter(
      (path) => path !== undefined,
    );
    const config = await writeConfiguration(file("config.json"), {
      domain: DEV_DOMAIN,
      listen: options.listen,
      tls: { cert: "tls.crt", key: "tls.key" },
      vaults: [{ name: DEV_VAULT, kind: "vault", administrators: [{ tenantId, id: administrator }] }],
      issuers: [{ issuer: issuer.issuer, tenantId, authorization: issuer.authorization }],
      trustedCertificates: trusted,
      database: "keyvault.sqlite",
      masterKey: { file: "master.key" },
      releases: { evidenceRoots },
    });
    await grantAll(file("keyvault.sqlite"), file("master.key"), { tenantId, id: administrator }, context);
    return config;
  });
}

/**
 * Where the identity service of a directory is.
 * @throws {CliError} ERR_CLI_FILE
 */
export async function readDevelopmentIdentity(directory: string, context: CliContext): Promise<DevelopmentIdentity> {
  const config = await readConfig(directory, "sealpod identity serve --dev", context);
  const { authority } = config;
  const [tenant] = asArray(config["tenants"]) ?? [];
  if (typeof authority !== "string" || typeof tenant !== "string") {
    throw new CliError("ERR_CLI_FILE", `${join(directory, "config.json")} names no authority and tenant`, {
      hint: "Name a directory of: sealpod identity serve --dev DIR",
    });
  }
  return { authority, tenant, certificate: join(directory, "tls.crt"), operatorToken: join(directory, "operator.token") };
}

/** The application that owns the vault of a directory. */
export interface DevelopmentOwner {
  readonly clientId: string;
  /** File with its client secret. */
  readonly secretFile: string;
}

/**
 * The owner that was made earlier, or a new one.
 * @param isKnown whether the identity service lets it in
 * @param register makes one: its client id and secret
 * @throws {CliError} ERR_CLI_FILE
 */
export async function openOwner(
  directory: string,
  isKnown: (owner: { readonly clientId: string; readonly secret: string }) => Promise<boolean>,
  register: () => Promise<{ readonly clientId: string; readonly secret: string }>,
): Promise<DevelopmentOwner> {
  return inDevelopment(directory, async (file) => {
    await makeDirectory(directory, 0o700);
    const [idFile, secretFile] = [file("owner.id"), file("owner.secret")];
    if ((await exists(idFile)) && (await exists(secretFile))) {
      const [clientId, secret] = (await Promise.all([readFile(idFile, "utf8"), readFile(secretFile, "utf8")])).map((text) => text.trim());
      if (clientId !== undefined && secret !== undefined && (await isKnown({ clientId, secret }))) return { clientId, secretFile };
    }
    const { clientId, secret } = await register();
    await writeFileAtomic(secretFile, encodeUtf8(`${secret}\n`), 0o600);
    await writeFileAtomic(idFile, encodeUtf8(`${clientId}\n`), 0o644);
    return { clientId, secretFile };
  });
}

/** An access policy is set over the service by an administrator's token; nobody has one yet. */
async function grantAll(
  url: string,
  keyFile: string,
  principal: { readonly tenantId: string; readonly id: string },
  { clock, random, env, cwd }: CliContext,
): Promise<void> {
  const source = { file: keyFile, environment: undefined, allowGroup: false, pkcs11: undefined };
  const master = await openVaultMasterKey(source, { clock, random, env, cwd, uid: process.getuid?.() });
  await using store = await openVaultStore({ url, master, clock, random });
  if ((await store.accessPolicies(DEV_VAULT)).some(({ tenantId, id }) => tenantId === principal.tenantId && id === principal.id)) return;
  await store.setAccessPolicy(
    DEV_VAULT,
    principal,
    { keys: KEY_PERMISSIONS, secrets: SECRET_PERMISSIONS },
    {
      requestId: `development ${newUuid(random)}`,
      at: clock.now(),
      vault: DEV_VAULT,
      operation: "access/set-policy",
      name: principal.id,
      version: "",
      tenantId: "",
      appid: "",
      oid: "",
      outcome: "allowed",
      failed: undefined,
      reason: "vault serve --dev gives its administrator every permission",
      authority: "",
      findings: [],
    },
  );
}

async function attestationCertificate(directory: string, context: CliContext): Promise<string> {
  await readConfig(directory, "sealpod attest serve --dev", context);
  return join(directory, "tls.crt");
}

async function readConfig(directory: string, program: string, context: CliContext): Promise<JsonObject> {
  const path = join(directory, "config.json");
  try {
    const config = asObject(parseJson(decodeUtf8(await readBytes(path, context), path), path));
    if (config !== undefined) return config;
  } catch (cause) {
    if (!isSealpodError(cause)) throw cause;
    throw new CliError("ERR_CLI_FILE", `${directory} is no directory of \`${program}\`: ${cause.message}`, {
      cause,
      hint: `Start it first: ${program} ${directory}`,
    });
  }
  throw new CliError("ERR_CLI_FILE", `${path} is no JSON object`);
}
