import type { VaultKind } from "./key-request.ts";

/** A role that the genuine service has built in, and what it allows. */
export interface Role {
  /** UUID. */
  readonly id: string;
  readonly name: string;
  /** Vaults and managed HSMs have roles of their own. */
  readonly kind: VaultKind;
  readonly description: string;
  /** Data actions; `*` stands for any text. Compared without regard to letter case. */
  readonly dataActions: readonly string[];
}

const vault = (...actions: readonly string[]): readonly string[] => actions.map((action) => `Microsoft.KeyVault/vaults/${action}`);
const hsm = (...actions: readonly string[]): readonly string[] => actions.map((action) => `Microsoft.KeyVault/managedHsm/${action}`);

const CRYPTO: readonly string[] = ["encrypt", "decrypt", "wrap", "unwrap", "sign", "verify"].map((action) => `keys/${action}/action`);

/**
 * Roles of Azure RBAC for vaults and of the local RBAC of Managed HSM, with the names and ids of the genuine service. What they allow is held to operations that this
 * service has: the roles for security domains and whole-HSM backups are not here.
 */
export const ROLES: readonly Role[] = [
  {
    id: "00482a5a-887f-4fb3-b363-3b7fe8e74483",
    name: "Key Vault Administrator",
    kind: "vault",
    description: "All data operations on keys and secrets of a vault; cannot manage who may do what.",
    dataActions: vault("*"),
  },
  {
    id: "21090545-7ca7-4776-b22c-e363652d74d2",
    name: "Key Vault Reader",
    kind: "vault",
    description: "Reads what is known of keys and secrets, but no values of secrets.",
    dataActions: vault("*/read", "secrets/readMetadata/action"),
  },
  {
    id: "14b46e9e-c2b7-41b4-b07b-48a6ebf60603",
    name: "Key Vault Crypto Officer",
    kind: "vault",
    description: "All operations on keys.",
    dataActions: vault("keys/*", "keyrotationpolicies/*"),
  },
  {
    id: "12338af0-0e69-4776-bea7-57ae8d297424",
    name: "Key Vault Crypto User",
    kind: "vault",
    description: "Cryptographic operations with keys.",
    dataActions: vault("keys/read", "keys/update/action", "keys/backup/action", ...CRYPTO),
  },
  {
    id: "e147488a-f6f5-4113-8e2d-b22465e65bf6",
    name: "Key Vault Crypto Service Encryption User",
    kind: "vault",
    description: "Reads keys, wraps and unwraps with them.",
    dataActions: vault("keys/read", "keys/wrap/action", "keys/unwrap/action"),
  },
  {
    id: "08bbd89e-9f13-488c-ac41-acfcb10c90ab",
    name: "Key Vault Crypto Service Release User",
    kind: "vault",
    description: "Asks for the release of keys.",
    dataActions: vault("keys/release/action"),
  },
  {
    id: "b86a8fe4-44ce-4948-aee5-eccb2c155cd7",
    name: "Key Vault Secrets Officer",
    kind: "vault",
    description: "All operations on secrets.",
    dataActions: vault("secrets/*"),
  },
  {
    id: "4633458b-17de-408a-b874-0445c86b69e6",
    name: "Key Vault Secrets User",
    kind: "vault",
    description: "Reads secrets.",
    dataActions: vault("secrets/getSecret/action", "secrets/readMetadata/action"),
  },
  {
    id: "a290e904-7015-4bba-90c8-60543313cdb4",
    name: "Managed HSM Administrator",
    kind: "managedhsm",
    description: "Manages who may do what in the HSM; no operation on keys.",
    dataActions: hsm("roleAssignments/read/action", "roleAssignments/write/action", "roleAssignments/delete/action", "roleDefinitions/read/action"),
  },
  {
    id: "515eb02d-2335-4d2d-92f2-b1cbdf9c3778",
    name: "Managed HSM Crypto Officer",
    kind: "managedhsm",
    description: "Manages who may do what, recovers and purges deleted keys.",
    dataActions: hsm(
      "keys/deletedKeys/read/action",
      "keys/deletedKeys/recover/action",
      "keys/deletedKeys/delete",
      "roleAssignments/read/action",
      "roleAssignments/write/action",
      "roleAssignments/delete/action",
      "roleDefinitions/read/action",
    ),
  },
  {
    id: "21dbd100-6940-42c2-9190-5d6cb909625b",
    name: "Managed HSM Crypto User",
    kind: "managedhsm",
    description: "All operations on keys but release, and recovery and purge of deleted ones.",
    dataActions: hsm(
      "keys/read/action",
      "keys/write/action",
      "keys/rotate/action",
      "keys/create",
      "keys/delete",
      "keys/import/action",
      "keys/backup/action",
      "keys/restore/action",
      "rng/action",
      ...CRYPTO,
    ),
  },
  {
    id: "4bd23610-cdcf-4971-bdee-bdc562cc28e4",
    name: "Managed HSM Policy Administrator",
    kind: "managedhsm",
    description: "Makes and removes role assignments.",
    dataActions: hsm("roleAssignments/read/action", "roleAssignments/write/action", "roleAssignments/delete/action", "roleDefinitions/read/action"),
  },
  {
    id: "33413926-3206-4cdd-b39a-83574fe37a17",
    name: "Managed HSM Crypto Service Encryption User",
    kind: "managedhsm",
    description: "Reads keys, wraps and unwraps with them.",
    dataActions: hsm("keys/read/action", "keys/wrap/action", "keys/unwrap/action"),
  },
  {
    id: "21dbd100-6940-42c2-9190-5d6cb909625c",
    name: "Managed HSM Crypto Service Release User",
    kind: "managedhsm",
    description: "Asks for the release of keys.",
    dataActions: hsm("keys/release/action"),
  },
  {
    id: "2c18b078-7c48-4d3a-af88-5a3a1b3f82b3",
    name: "Managed HSM Crypto Auditor",
    kind: "managedhsm",
    description: "Reads what is known of keys, roles and role assignments.",
    dataActions: hsm("keys/read/action", "roleAssignments/read/action", "roleDefinitions/read/action"),
  },
];

/** The role of this id or name, for this kind of vault. */
export function findRole(kind: VaultKind, idOrName: string): Role | undefined {
  const wanted = idOrName.toLowerCase();
  return ROLES.find((role) => role.kind === kind && (role.id === wanted || role.name.toLowerCase() === wanted));
}

/** Whether a role allows a data action. */
export function roleAllows(role: Role, action: string): boolean {
  const wanted = action.toLowerCase();
  return role.dataActions.some((pattern) => {
    const [head = "", tail] = pattern.toLowerCase().split("*");
    if (tail === undefined) return wanted === head;
    return wanted.length >= head.length + tail.length && wanted.startsWith(head) && wanted.endsWith(tail);
  });
}
