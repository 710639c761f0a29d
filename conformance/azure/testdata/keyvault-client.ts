/**
 * Drives the vaults with the genuine clients: `node keyvault-client.ts '{"scenario", …}'` (keyvault-run.ts). A program of its own, because the clients take trusted certificates
 * from NODE_EXTRA_CA_CERTS, and names from /etc/hosts. Prints one JSON line: what the scenario found, and how many calls of the clients it made.
 */
import { Clients, type Scenario } from "./keyvault-clients.ts";
import { encryption, misuse, signatures } from "./keyvault-crypto.ts";
import { credentials, tenants } from "./keyvault-identities.ts";
import { imports, lifecycle, rotation, versions } from "./keyvault-keys.ts";
import { release } from "./keyvault-release.ts";
import type { KeyvaultOutcome, KeyvaultRun } from "./keyvault-run.ts";
import { secretPages, secrets } from "./keyvault-secrets.ts";

const SCENARIOS: Readonly<Record<string, Scenario>> = {
  lifecycle,
  signatures,
  encryption,
  misuse,
  imports,
  rotation,
  versions,
  release,
  secrets,
  secretPages,
  credentials,
  tenants,
};

const run = JSON.parse(process.argv[2] ?? "{}") as KeyvaultRun;
const scenario = SCENARIOS[run.scenario];
if (scenario === undefined) throw new Error(`no scenario ${run.scenario}`);
const clients = new Clients(run);
const found = await scenario(clients);
const outcome: KeyvaultOutcome = { calls: clients.calls, leaks: clients.leaks, found };
process.stdout.write(`${JSON.stringify(outcome)}\n`);
