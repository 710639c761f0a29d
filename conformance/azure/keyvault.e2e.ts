import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { KeyvaultOutcome } from "./testdata/keyvault-run.ts";
import { canBindHosts, KeyvaultWorld } from "./testdata/keyvault-world.ts";

/**
 * The genuine clients `@azure/keyvault-keys` 4.10.2, `@azure/keyvault-secrets` 4.12.0 and `@azure/identity` 4.14.1 against the programs `verifier/keyvault/main.ts`,
 * `verifier/identity/main.ts` and `verifier/attestation/main.ts`, over TLS and under the names that clients insist on. Scenarios are in testdata/; here is what must come of them.
 */

/** What a client says of an answer of the vault. */
const answer = (code: string, status: number, message: RegExp = /./): object => ({
  name: "RestError",
  code,
  status,
  message: expect.stringMatching(message) as unknown,
});
const badParameter = (message: RegExp): object => answer("BadParameter", 400, message);
const forbidden = (message: RegExp): object => answer("Forbidden", 403, message);
const keyNotFound = answer("KeyNotFound", 404, /was not found in this key vault/);
const secretNotFound = answer("SecretNotFound", 404, /was not found in this key vault/);
/** What a client says by itself. */
const ownError = (message: RegExp): object => ({ name: "Error", message: expect.stringMatching(message) as unknown });
const entra = (number: number): object => ({ name: "AuthenticationRequiredError", numbers: [`AADSTS${number}`] });
const CHANGED = /does not satisfy the release policy/;

/** Operations of the service that no genuine client of these packages has a method for. */
const MANAGEMENT = /^(access|audit)\/|^keys\/why$/;

const isPossible = canBindHosts();

describe.skipIf(!isPossible)(`Key Vault's genuine clients${isPossible ? "" : " (skipped: needs unshare and mount namespaces)"}`, () => {
  let world: KeyvaultWorld;
  let calls = 0;
  beforeAll(async () => {
    world = await KeyvaultWorld.start();
  });
  afterAll(async () => {
    const ends = await world.stop();
    expect(ends).toEqual(Array.from({ length: 3 }, () => ({ code: 0, signal: null })));
  });

  /** What a scenario finds; no client of it was given a secret part of a key. */
  async function play(scenario: string): Promise<unknown> {
    const outcome: KeyvaultOutcome = await world.play(scenario);
    calls += outcome.calls;
    expect(outcome.leaks).toEqual([]);
    return outcome.found;
  }

  it("create, read, update, page, delete, recover and purge keys", async () => {
    const found = (await play("lifecycle")) as { readonly versions: readonly string[]; readonly expectedVersions: readonly string[] };
    const { vault } = world.run;
    expect(found).toMatchObject({
      created: {
        name: "life",
        kty: "RSA",
        ops: ["sign", "verify"],
        tags: { team: "a" },
        enabled: true,
        vaultUrl: vault,
        exportable: false,
        recovery: ["Recoverable+Purgeable", 90],
        bits: 2048,
        isNow: true,
      },
      second: { kty: "EC", crv: "P-384", enabled: false },
      isRead: true,
      isLatest: true,
      updated: { tags: { team: "b" }, ops: ["sign"], expires: 2_000_000_000_000, notBefore: 1_500_000_000_000 },
      updatedLatest: { isSecond: true, tags: { latest: "yes" }, enabled: false },
      names: ["life", "page-a", "page-b", "page-c", "page-d"],
      sizes: [2, 2, 1],
      versionSizes: [1, 1],
      // Of an answer to a list the client keeps code and status alone.
      tooLarge: answer("BadParameter", 400),
      deleted: { name: "life", recoveryId: `${vault}/deletedkeys/life`, days: 90 },
      conflict: answer("Conflict", 409, /deleted but recoverable/),
      gone: keyNotFound,
      goneVersion: keyNotFound,
      allDeleted: ["life"],
      recovered: "life",
      isBack: true,
      purged: keyNotFound,
      purgedTwice: keyNotFound,
      deletedTwice: keyNotFound,
      isNew: "EC",
    });
    // In which order is chance.
    expect(new Set(found.versions)).toEqual(new Set(found.expectedVersions));
    expect(found.versions).toHaveLength(2);
  });

  it("sign with ten algorithms, and vault, client and node agree on the signatures", async () => {
    const signed = { vault: true, data: true, node: true, signData: true, spoilt: false };
    const algorithms = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "ES256K"];
    expect(await play("signatures")).toEqual({
      found: Object.fromEntries(algorithms.map((algorithm) => [algorithm, signed])),
      local: [true, false],
      hsm: ["EC-HSM", signed],
    });
  });

  it("encrypt and wrap here and there with RSA, and with AES in the HSM, which gives random bytes", async () => {
    const refused = badParameter(/cannot be decrypted/);
    const aes = {
      type: "oct-HSM",
      sizes: [12, 16, 32, 16, 32, 40],
      gcm: true,
      otherAad: refused,
      otherTag: refused,
      padded: "odd length",
      whole: true,
      wrapped: true,
    };
    const all = [true, true, true, true, true];
    expect(await play("encryption")).toEqual({
      rsa: { RSA1_5: all, "RSA-OAEP": all, "RSA-OAEP-256": all },
      aes: { 128: aes, 192: aes, 256: aes },
      kwp: "of any length",
      random: [32, 32, false],
      tooMuch: badParameter(/count must be 1 to 128/),
      noRandom: answer("NotFound", 404),
    });
  });

  it("are refused what key, time, permission or algorithm do not allow", async () => {
    const { user, certified, workload } = world.run;
    const denied = (clientId: string, permission: string): object =>
      forbidden(new RegExp(`appid=${clientId};.* does not have ${permission} permission on key vault 'kv;`));
    expect(await play("misuse")).toEqual({
      // What the client does by itself, it does with a disabled key as well.
      disabledHere: "no error",
      disabled: forbidden(/^Operation encrypt is not allowed on a disabled key/),
      disabledSign: forbidden(/^Operation sign is not allowed on a disabled key/),
      disabledDecrypt: forbidden(/^Operation decrypt is not allowed on a disabled key/),
      disabledRotate: forbidden(/^Operation rotate is not allowed on a disabled key/),
      expiredHere: ownError(/\/keys\/expired\/[0-9a-f]{32} expired at/),
      expired: forbidden(/^Operation encrypt is not allowed on an expired key/),
      expiredSign: forbidden(/^Operation sign is not allowed on an expired key/),
      // What was encrypted in time stays readable.
      expiredDecrypt: "x",
      earlyHere: ownError(/can't be used before/),
      early: forbidden(/^Operation encrypt is not allowed on a key that is not yet valid/),
      otherOperationHere: ownError(/^Operation encrypt is not supported on key/),
      otherOperation: forbidden(/^Operation encrypt is not allowed on this key: its key_ops/),
      otherType: badParameter(/^Key and algorithm are incompatible: .*'EC'.*'RS256'/),
      otherCurve: badParameter(/^Key and algorithm are incompatible: .*'P-256'.*'ES384'/),
      shortDigest: badParameter(/expected|must have the 32 bytes/),
      notAnAlgorithm: badParameter(/"RSNULL" is not supported/),
      ciphertext: badParameter(/cannot be decrypted/),
      noRead: denied(user.clientId, "keys get"),
      // Whoever may not read keys does not learn which there are.
      noReadOfNothing: denied(user.clientId, "keys get"),
      podUse: denied(workload.clientId, "keys sign"),
      certifiedUse: denied(certified.clientId, "keys sign"),
      hsmUse: forbidden(/Action: 'Microsoft\.KeyVault\/managedHsm\/keys\/create'\r\nResource: '\/keys\/not-mine'/),
      missing: keyNotFound,
      missingVersion: keyNotFound,
      missingUse: keyNotFound,
      badName: badParameter(/"no_underscores" is not valid/),
      badSize: badParameter(/key_size 1024 is not supported/),
      softOct: badParameter(/^Symmetric keys are HSM keys/),
      attestation: answer("NotImplemented", 501, /attestation is not implemented by this key vault/),
      attestationOfVersion: answer("NotImplemented", 501, /attestation is not implemented by this key vault/),
    });
  });

  it("import keys, back them up and restore them", async () => {
    expect(await play("imports")).toEqual({
      openedHere: "for the imported key",
      openedThere: "for the imported key",
      types: ["RSA", "RSA-HSM", "EC", "oct-HSM"],
      restored: { isSame: true, tags: { from: "elsewhere" }, ops: ["decrypt", "encrypt"] },
      hasSecretInBackup: false,
      mixed: badParameter(/not a consistent RSA key/),
      publicOnly: badParameter(/property d is missing/),
      softOct: badParameter(/^Symmetric keys are HSM keys/),
      whilePresent: answer("Conflict", 409, /exists in this vault/),
      whileDeleted: answer("Conflict", 409, /deleted but recoverable/),
      spoilt: badParameter(/^The backup does not open/),
      // A managed HSM has HSM keys alone.
      elsewhere: badParameter(/software key/),
    });
  });

  it("rotate keys, by hand and by policy", async () => {
    expect(await play("rotation")).toEqual({
      preset: [{ action: "Notify", timeBeforeExpiry: "P30D" }],
      policy: { expiresIn: "P90D", id: `${world.run.vault}/keys/rotating/rotationpolicy`, isDated: true },
      actions: [
        { action: "Rotate", timeBeforeExpiry: "P30D" },
        { action: "Notify", timeBeforeExpiry: "P7D" },
      ],
      rotated: { isNew: true, type: "RSA", ops: ["sign", "verify"], tags: { a: "b" }, days: 90 },
      versions: 2,
      tooShort: badParameter(/the minimum is P28D/),
      missing: keyNotFound,
    });
  });

  it("of five ages are served alike", async () => {
    const served = (version: string): readonly unknown[] => ["of-ages", true, `of ${version}`, [1, 1]];
    expect(await play("versions")).toEqual({
      found: { ...Object.fromEntries(["7.0", "7.4", "7.5", "7.6"].map((version) => [version, served(version)])), preset: served("undefined") },
      unknown: badParameter(/api-version "1\.0" is not supported/),
    });
  });

  it("get keys released to attested evidence, wrapped for it and signed, and to nothing else", async () => {
    const { authority, hostData, token } = world.run.release;
    const released = (enc: string, more: object): object => ({
      version: "2025-07-01",
      enc: [enc, enc],
      nonce: `nonce of ${enc}`,
      kty: "oct",
      wrappingKey: "wrapping",
      hasPlainKey: false,
      isSecret: true,
      isOfKey: true,
      ...more,
    });
    const { isOfKey: _none, nonce: _neither, ...ofPod } = released("CKM_RSA_AES_KEY_WRAP", { version: "7.4" }) as Readonly<Record<string, unknown>>;
    const denied = (action: string, resource: string): object =>
      forbidden(new RegExp(`Action: 'Microsoft\\.KeyVault/managedHsm/${action}'\r\nResource: '${resource}'`));
    expect(await play("release")).toEqual({
      found: Object.fromEntries(["CKM_RSA_AES_KEY_WRAP", "RSA_AES_KEY_WRAP_256", "RSA_AES_KEY_WRAP_384"].map((enc) => [enc, released(enc, {})])),
      pod: ofPod,
      pairs: [true, true],
      vault: released("CKM_RSA_AES_KEY_WRAP", { kty: "oct-HSM", nonce: "n" }),
      refused: {
        withheld: forbidden(CHANGED),
        elsewhere: forbidden(CHANGED),
        spoilt: forbidden(CHANGED),
        noToken: forbidden(CHANGED),
        ownToken: forbidden(CHANGED),
        kept: forbidden(/the key is not exportable/),
        missing: keyNotFound,
        algorithm: badParameter(/enc is not supported/),
        podOther: denied("keys/release/action", "/keys/released-rsa"),
        podRead: denied("keys/read/action", "/keys/released"),
        podCreate: denied("keys/create", "/keys/mine"),
        podVault: forbidden(/does not have keys release permission/),
        user: denied("keys/release/action", "/keys/released"),
        noPolicy: badParameter(/^Exportable keys must have release policy/),
        notExportable: badParameter(/^Non-exportable keys must not have release policy/),
        badPolicy: badParameter(/^The release policy is not valid/),
      },
      changed: { immutable: true, isReleased: true, frozen: badParameter(/^Immutable Key Release Policy/) },
      disabled: forbidden(/the key is disabled/),
      stored: {
        exportable: true,
        type: "oct-HSM",
        contentType: "application/json; charset=utf-8",
        policy: {
          version: "1.0.0",
          anyOf: [
            {
              authority,
              allOf: [
                { claim: "x-ms-sevsnpvm-hostdata", equals: hostData },
                { claim: "x-ms-attestation-type", equals: "sevsnpvm" },
              ],
            },
          ],
        },
      },
    });
    // What the refused were not told, the owner of the HSM may know.
    expect(await world.why("hsm", "elsewhere", token)).toMatchObject({ wouldRelease: false, failed: "authority", authority });
    expect(await world.why("hsm", "released-ec", token)).toMatchObject({ wouldRelease: true });
  });

  it("set, read, disable, delete, recover, purge and restore secrets", async () => {
    const { vault } = world.run;
    const found = (await play("secrets")) as { readonly versions: readonly (readonly [boolean, boolean])[] };
    expect(found).toMatchObject({
      first: { name: "password", type: "text/plain", tags: { a: "b" }, vaultUrl: vault },
      read: { value: "first value", type: "text/plain", tags: { a: "b" }, expires: 2_000_000_000_000 },
      latest: { value: "second välue 🔑", isSecond: true },
      updated: { enabled: false, tags: { c: "d" }, type: "text/html", hasValue: false },
      disabled: forbidden(/^Operation get is not allowed on a disabled secret/),
      versionSizes: [1, 1],
      missing: secretNotFound,
      missingVersion: secretNotFound,
      large: 25_000,
      largeName: "large",
      tooLarge: badParameter(/more than the limit of 25600/),
      badName: badParameter(/"no_underscores" is not valid/),
      deleted: { name: "password", recoveryId: `${vault}/deletedsecrets/password`, hasValue: false },
      gone: secretNotFound,
      conflict: answer("Conflict", 409, /deleted but recoverable/),
      shown: { name: "password", isScheduled: true, hasValue: false },
      allDeleted: ["password"],
      back: "second välue 🔑",
      taken: answer("Conflict", 409, /exists in this vault/),
      purged: secretNotFound,
      restored: "password",
      restoredValue: "second välue 🔑",
      restoredOld: forbidden(/disabled secret/),
      hasValueInBackup: false,
    });
    // Of two versions the first was disabled; in which order they are listed is chance.
    expect(found.versions).toHaveLength(2);
    expect(found.versions).toEqual(
      expect.arrayContaining([
        [true, false],
        [false, true],
      ]),
    );
  });

  it("page through more secrets than a page holds", async () => {
    expect(await play("secretPages")).toEqual({
      sizes: [25, 3],
      small: 28,
      smallest: [7, 7, 7, 7],
      names: [28, 28, 28],
      hasValues: false,
      tooLarge: answer("BadParameter", 400),
    });
  });

  it("prove who they are in four ways, and every other way is refused with Entra's number for it", async () => {
    const { workload, owner, certified, tenantId, authorityHost, resource } = world.run;
    const token = (appid: string, appidacr: "1" | "2"): object => ({
      aud: resource,
      iss: `${authorityHost}/${tenantId}/v2.0`,
      appid,
      appidacr,
      tid: tenantId,
      ver: "1.0",
      isInTime: true,
    });
    expect(await play("credentials")).toEqual({
      accepted: {
        own: token(workload.clientId, "2"),
        federated: token(workload.clientId, "2"),
        secret: token(owner.clientId, "1"),
        certificate: token(certified.clientId, "2"),
      },
      problems: {
        otherSubject: entra(700213),
        otherAudience: entra(700212),
        otherIssuer: entra(700211),
        expired: entra(700024),
        forged: entra(50013),
        unreachable: entra(90061),
      },
      wrongSecret: entra(7000215),
      unknownApp: entra(700016),
      unknownResource: entra(500011),
      wrongSecretOfClient: entra(7000215),
      noFile: { name: "AuthenticationRequiredError", message: expect.stringMatching(/No content on the file .*changing\.token/) as unknown },
      read: "what the pod may read",
      federatedRead: "what the pod may read",
      missing: secretNotFound,
      refused: forbidden(/does not have secrets set permission/),
      refusedList: answer("Forbidden", 403),
      refusedOther: forbidden(/does not have secrets get permission/),
      // The file as it was; another, which is not read yet; that one, five minutes later; the first again, after five more.
      changes: ["no error", "no error", entra(700213), "no error"],
    });
    // One look at the cluster's documents was enough for all of its tokens.
    expect(world.cluster.asked).toEqual(["/.well-known/openid-configuration", "/openid/v1/jwks"]);
  });

  it("of another tenant stay outside", async () => {
    const { stranger, otherTenantId, tenantId } = world.run;
    expect(await play("tenants")).toEqual({
      stranger: { tid: otherTenantId, appid: stranger.clientId },
      notAllowed: {
        name: "CredentialUnavailableError",
        message: expect.stringContaining(`not configured to acquire tokens for tenant ${tenantId}.`) as unknown,
      },
      allowed: entra(700016),
      allowedOwner: "set by way of the challenge's tenant",
      unknownTenant: { name: "CredentialUnavailableError", message: expect.stringMatching(/endpoints_resolution_error/) as unknown },
    });
  });

  it("have used every operation of the service with success, and left a line for each in the audit", async () => {
    const lines = [...(await world.audit("vault")), ...(await world.audit("hsm"))];
    const used = new Set(lines.filter(({ outcome, operation }) => outcome === "allowed" && !MANAGEMENT.test(operation)).map(({ operation }) => operation));
    expect([...used].toSorted()).toEqual([
      "keys/backup",
      "keys/create",
      "keys/decrypt",
      "keys/delete",
      "keys/encrypt",
      "keys/get",
      "keys/get-deleted",
      "keys/get-rotation-policy",
      "keys/import",
      "keys/list",
      "keys/list-deleted",
      "keys/list-versions",
      "keys/purge",
      "keys/recover",
      "keys/release",
      "keys/restore",
      "keys/rotate",
      "keys/set-rotation-policy",
      "keys/sign",
      "keys/unwrapkey",
      "keys/update",
      "keys/verify",
      "keys/wrapkey",
      "rng",
      "secrets/backup",
      "secrets/delete",
      "secrets/get",
      "secrets/get-deleted",
      "secrets/list",
      "secrets/list-deleted",
      "secrets/list-versions",
      "secrets/purge",
      "secrets/recover",
      "secrets/restore",
      "secrets/set",
      "secrets/update",
    ]);
    expect(
      lines.filter(({ operation, outcome, appid }) => operation === "keys/release" && outcome === "allowed" && appid === world.run.workload.clientId),
    ).toHaveLength(1);
    expect(calls).toBeGreaterThanOrEqual(60);
  });

  it("have told the services' logs no secret", () => {
    const { owner, user, release } = world.run;
    for (const text of [owner.secret, user.secret, release.token, "second välue", "what the pod may read"]) expect(world.logs).not.toContain(text);
    expect(world.logs).toContain('"msg":"listening"');
  });
});
