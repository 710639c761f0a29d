import { readFile } from "node:fs/promises";
import { asObject, encodeUtf8, messageOf, newUuid, parseJson, sha256, toHex, type Clock, type Logger, type Random } from "@sealpod/core";
import { TOKEN_EXCHANGE_AUDIENCE, type IdentityStore } from "@sealpod/identity";
import { writeFileAtomic } from "@sealpod/io";
import { findRole, KEY_PERMISSIONS, SECRET_PERMISSIONS, type AuditLine, type Principal, type VaultStore } from "@sealpod/keyvault";
import { ServicesError } from "./errors.ts";

/** The service account of the AKS document, and its identity in the federated credential. */
const WORKLOAD_SUBJECT = "system:serviceaccount:default:workload-identity-sa";
const WORKLOAD_CREDENTIAL = "kubernetes";

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** Everything in the managed HSM: no role alone has all of it. */
const OWNER_ROLES = ["Managed HSM Administrator", "Managed HSM Crypto User", "Managed HSM Crypto Officer", "Managed HSM Crypto Service Release User"];
const WORKLOAD_ROLES = ["Managed HSM Crypto Service Release User"];

/** Ids that are made at the first start and stay. */
export interface Seed {
  readonly tenantId: string;
  readonly ownerClientId: string;
  readonly workloadClientId: string;
}

/** What {@link seedServices} works on. */
export interface SeedPorts {
  readonly identities: IdentityStore;
  readonly keys: VaultStore;
  /** Name of the managed HSM, and of the vault. */
  readonly hsm: string;
  readonly vault: string;
  readonly clock: Clock;
  /** Issuer of the cluster's tokens; its port may differ from the last start's. */
  readonly issuer: string;
  readonly logger: Logger;
}

/** Who came of it. */
export interface Seeded {
  readonly owner: { readonly clientId: string; readonly clientSecret: string };
  readonly workload: { readonly clientId: string; readonly subject: string };
}

/**
 * Reads the ids of this laptop, or makes them.
 * @throws {ServicesError} ERR_SERVICES_STATE
 */
export async function openSeed(file: string, random: Random): Promise<Seed> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "ENOENT") throw unusable(file, messageOf(cause), cause);
    const seed: Seed = { tenantId: newUuid(random), ownerClientId: newUuid(random), workloadClientId: newUuid(random) };
    await writeFileAtomic(file, encodeUtf8(`${JSON.stringify(seed, undefined, 2)}\n`), 0o600);
    return seed;
  }
  try {
    const object = asObject(parseJson(text, file, { maxLength: 4096, maxDepth: 1 }));
    const id = (name: string): string => {
      const value = object?.[name];
      if (typeof value !== "string" || !UUID.test(value)) throw new Error(`${name} is not a UUID`);
      return value;
    };
    return { tenantId: id("tenantId"), ownerClientId: id("ownerClientId"), workloadClientId: id("workloadClientId") };
  } catch (cause) {
    throw unusable(file, messageOf(cause), cause);
  }
}

/**
 * Makes sure that the laptop's owner, the example's identity and their rights in the vault exist. The owner gets a new
 * client secret at each start: it is kept nowhere but in `up.json`, which goes when the services stop.
 */
export async function seedServices(seed: Seed, ports: SeedPorts): Promise<Seeded> {
  const { identities, issuer } = ports;
  const { tenantId } = seed;
  await identities.registerApplication({ tenantId, name: "laptop owner", clientId: seed.ownerClientId });
  const { secret: clientSecret } = await identities.createClientSecret(seed.ownerClientId, { replace: true });
  const owner = { tenantId, id: seed.ownerClientId };
  await giveRoles(ports, owner, OWNER_ROLES);
  await allow(ports, owner, { keys: KEY_PERMISSIONS, secrets: SECRET_PERMISSIONS });

  await identities.registerApplication({ tenantId, name: "workload-identity", clientId: seed.workloadClientId });
  const credential = { name: WORKLOAD_CREDENTIAL, issuer, subject: WORKLOAD_SUBJECT, audiences: [TOKEN_EXCHANGE_AUDIENCE] };
  const present = (await identities.federatedCredentials(seed.workloadClientId)).find((other) => other.name === WORKLOAD_CREDENTIAL);
  if (present?.issuer !== issuer) {
    await identities.addFederatedCredential(seed.workloadClientId, credential, "service", true);
    ports.logger.log("info", "federated credential set", { issuer, subject: WORKLOAD_SUBJECT });
  }
  const workload = { tenantId, id: seed.workloadClientId };
  await giveRoles(ports, workload, WORKLOAD_ROLES);
  await allow(ports, workload, { keys: ["get", "release"], secrets: ["get"] });
  return {
    owner: { clientId: seed.ownerClientId, clientSecret },
    workload: { clientId: seed.workloadClientId, subject: WORKLOAD_SUBJECT },
  };
}

/** Roles in the managed HSM; those that are there stay. */
async function giveRoles({ keys, hsm, clock }: SeedPorts, principal: Principal, names: readonly string[]): Promise<void> {
  const { roles } = await keys.accessOf(hsm, { tenantId: principal.tenantId, appid: principal.id, oid: "" });
  for (const name of names) {
    const role = findRole("managedhsm", name);
    if (role === undefined) throw new ServicesError("ERR_SERVICES_STATE", `there is no role ${name}`);
    if (roles.some((given) => given.role === role.id && given.scope === "/")) continue;
    const assignment = { ...principal, name: nameOf(principal, role.id), role: role.id, scope: "/" };
    await keys.addRoleAssignment(hsm, assignment, seedLine(clock, hsm, "access/role-assignment-create", `${principal.id} ${name}`));
  }
}

/** Permissions in the vault; nothing is written if they are there. */
async function allow({ keys, vault, clock }: SeedPorts, principal: Principal, permissions: Parameters<VaultStore["setAccessPolicy"]>[2]): Promise<void> {
  const { policies } = await keys.accessOf(vault, { tenantId: principal.tenantId, appid: principal.id, oid: "" });
  const has = (category: "keys" | "secrets"): boolean =>
    (permissions[category] ?? []).every((permission) => policies.some((policy) => (policy[category] as readonly string[]).includes(permission)));
  if (has("keys") && has("secrets")) return;
  await keys.setAccessPolicy(vault, principal, permissions, seedLine(clock, vault, "access/set-policy", principal.id));
}

/** The name of an assignment is made of what it is, so that it is the same at each start. */
function nameOf(principal: Principal, role: string): string {
  const hex = toHex(sha256(encodeUtf8(`${principal.tenantId}/${principal.id}/${role}`)));
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

function seedLine(clock: Clock, vault: string, operation: string, name: string): AuditLine {
  const who = { tenantId: "", appid: "", oid: "" };
  return {
    requestId: "sealpod up",
    at: clock.now(),
    vault,
    operation,
    name,
    version: "",
    ...who,
    outcome: "allowed",
    failed: undefined,
    reason: "what the laptop's owner and the example's pods need",
    authority: "",
    findings: [],
  };
}

function unusable(file: string, problem: string, cause: unknown): ServicesError {
  return new ServicesError("ERR_SERVICES_STATE", `${file} cannot be used: ${problem}`, {
    cause,
    hint: "Put the file back, or start with an empty state directory.",
  });
}
