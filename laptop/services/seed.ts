import { readFile } from "node:fs/promises";
import { asObject, encodeUtf8, messageOf, newUuid, parseJson, type Logger, type Random } from "@sealpod/core";
import { TOKEN_EXCHANGE_AUDIENCE, type IdentityStore } from "@sealpod/identity";
import { writeFileAtomic } from "@sealpod/io";
import { KEY_PERMISSIONS, type KeyStore } from "@sealpod/keyvault";
import { ServicesError } from "./errors.ts";

/** The service account of the AKS document, and its identity in the federated credential. */
const WORKLOAD_SUBJECT = "system:serviceaccount:default:workload-identity-sa";
const WORKLOAD_CREDENTIAL = "kubernetes";

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** Ids that are made at the first start and stay. */
export interface Seed {
  readonly tenantId: string;
  readonly ownerClientId: string;
  readonly workloadClientId: string;
}

/** What {@link seedServices} works on. */
export interface SeedPorts {
  readonly identities: IdentityStore;
  readonly keys: KeyStore;
  readonly vault: string;
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
  const { identities, keys, vault, issuer } = ports;
  const { tenantId } = seed;
  identities.registerApplication({ tenantId, name: "laptop owner", clientId: seed.ownerClientId });
  const clientSecret = await identities.createClientSecret(seed.ownerClientId);
  keys.grant(vault, { tenantId, id: seed.ownerClientId }, KEY_PERMISSIONS);

  identities.registerApplication({ tenantId, name: "workload-identity", clientId: seed.workloadClientId });
  const credential = { name: WORKLOAD_CREDENTIAL, issuer, subject: WORKLOAD_SUBJECT, audiences: [TOKEN_EXCHANGE_AUDIENCE] };
  const present = identities.federatedCredentials(seed.workloadClientId).find((other) => other.name === WORKLOAD_CREDENTIAL);
  if (present?.issuer !== issuer) {
    identities.removeFederatedCredential(seed.workloadClientId, WORKLOAD_CREDENTIAL);
    identities.addFederatedCredential(seed.workloadClientId, credential);
    ports.logger.log("info", "federated credential set", { issuer, subject: WORKLOAD_SUBJECT });
  }
  keys.grant(vault, { tenantId, id: seed.workloadClientId }, ["get", "release"]);
  return {
    owner: { clientId: seed.ownerClientId, clientSecret },
    workload: { clientId: seed.workloadClientId, subject: WORKLOAD_SUBJECT },
  };
}

function unusable(file: string, problem: string, cause: unknown): ServicesError {
  return new ServicesError("ERR_SERVICES_STATE", `${file} cannot be used: ${problem}`, {
    cause,
    hint: "Put the file back, or start with an empty state directory.",
  });
}
