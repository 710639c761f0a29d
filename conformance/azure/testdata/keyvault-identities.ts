import { readFile, writeFile } from "node:fs/promises";
import { errorOf, type ClientError, type Credential, type Scenario } from "./keyvault-clients.ts";
import type { AssertionName } from "./keyvault-run.ts";

/** Milliseconds for which a credential does not read its token file again. */
const FILE_CACHE = 5 * 60 * 1000;

type Claims = Readonly<Record<string, unknown>>;

function claimsOf(token: string): Claims {
  return JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString()) as Claims;
}

/** The numbers of Entra ID's errors in a text. */
function numbersIn(error: ClientError | "no error"): unknown {
  if (error === "no error") return error;
  return { name: error.name, numbers: [...new Set(error.message.match(/AADSTS\d+/g) ?? [])] };
}

/** Every way to prove who one is, and what becomes of every way that does not. */
export const credentials: Scenario = async (clients) => {
  const { run } = clients;
  const scope = `${run.resource}/.default`;
  const shown = async (credential: Credential): Promise<object> => {
    const { token, expiresOnTimestamp } = await credential.getToken(scope);
    const { aud, iss, appid, appidacr, tid, ver, exp } = claimsOf(token);
    return { aud, iss, appid, appidacr, tid, ver, isInTime: Math.abs(Number(exp) * 1000 - expiresOnTimestamp) < 10_000 && expiresOnTimestamp > Date.now() };
  };
  const problems: Record<string, unknown> = {};
  for (const name of ["otherSubject", "otherAudience", "otherIssuer", "expired", "forged", "unreachable"] satisfies AssertionName[]) {
    problems[name] = numbersIn(await errorOf(clients.workload(name).getToken(scope)));
  }
  const wrongSecret = clients.secretCredential({ ...run.owner, secret: "wrong" });
  const unknownApp = clients.secretCredential({ clientId: "00000000-0000-4000-8000-000000000000", secret: "wrong" });
  const podSecrets = clients.secrets(clients.pod);
  await clients.secrets().setSecret("for-the-pod", "what the pod may read");
  return {
    accepted: {
      own: await shown(clients.pod),
      federated: await shown(clients.workload("federated")),
      secret: await shown(clients.owner),
      certificate: await shown(clients.certificateCredential()),
    },
    problems,
    wrongSecret: numbersIn(await errorOf(wrongSecret.getToken(scope))),
    unknownApp: numbersIn(await errorOf(unknownApp.getToken(scope))),
    unknownResource: numbersIn(await errorOf(clients.owner.getToken("https://storage.azure.com/.default"))),
    // The error of the credential is what the client of the vault fails with.
    wrongSecretOfClient: numbersIn(await errorOf(clients.secrets(wrongSecret).getSecret("for-the-pod"))),
    noFile: await errorOf(clients.workload("changing").getToken(scope)),
    read: (await podSecrets.getSecret("for-the-pod")).value,
    federatedRead: (await clients.secrets(clients.workload("federated")).getSecret("for-the-pod")).value,
    missing: await errorOf(podSecrets.getSecret("not-there")),
    refused: await errorOf(podSecrets.setSecret("from-the-pod", "x")),
    refusedList: await errorOf(podSecrets.listPropertiesOfSecrets().next()),
    refusedOther: await errorOf(clients.secrets(clients.certificateCredential()).getSecret("for-the-pod")),
    changes: await tokenFileChanges(clients),
  };
};

/** A credential reads its file again when five minutes have passed, not before. Of the clock nothing but `Date.now` is moved, and in this process alone. */
const tokenFileChanges = async (clients: Parameters<Scenario>[0]): Promise<unknown> => {
  const { files } = clients.run.workload;
  const good = await readFile(files.federated, "utf8");
  const bad = await readFile(files.otherSubject, "utf8");
  const { now } = Date;
  const found: unknown[] = [];
  try {
    await writeFile(files.changing, good);
    const credential = clients.workload("changing");
    // Each for another resource: for one it has asked for, the credential keeps the access token.
    const resources = ["https://vault.azure.net", "https://managedhsm.azure.net", clients.run.resource, "https://management.azure.com"];
    const ask = async (): Promise<unknown> => numbersIn(await errorOf(credential.getToken(`${resources.shift() ?? ""}/.default`)));
    found.push(await ask());
    await writeFile(files.changing, bad);
    found.push(await ask());
    Date.now = () => now() + FILE_CACHE + 1000;
    found.push(await ask());
    await writeFile(files.changing, good);
    Date.now = () => now() + 2 * (FILE_CACHE + 1000);
    found.push(await ask());
  } finally {
    Date.now = now;
  }
  return found;
};

/** Credentials of another tenant than the vault's. */
export const tenants: Scenario = async (clients) => {
  const { run } = clients;
  const scope = `${run.resource}/.default`;
  const stranger = clients.secretCredential(run.stranger, run.otherTenantId);
  const { token } = await stranger.getToken(scope);
  const { tid, appid } = claimsOf(token);
  // The vault's challenge names its tenant: a credential goes there if it is told that it may, and there nobody knows the application.
  const anywhere = clients.secretCredential(run.stranger, run.otherTenantId, ["*"]);
  const ownerFromThere = clients.secretCredential(run.owner, run.otherTenantId, [run.tenantId]);
  const nobody = clients.secretCredential(run.owner, "00000000-0000-4000-8000-000000000000");
  return {
    stranger: { tid, appid },
    notAllowed: await errorOf(clients.secrets(stranger).getSecret("x")),
    allowed: numbersIn(await errorOf(clients.secrets(anywhere).getSecret("x"))),
    allowedOwner: (await clients.secrets(ownerFromThere).setSecret("from-there", "set by way of the challenge's tenant")).value,
    unknownTenant: await errorOf(nobody.getToken(scope)),
  };
};
