import { createHash, createPublicKey, generateKeyPairSync, verify, X509Certificate } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { encodeUtf8, silentLogger } from "@sealpod/core";
import { issueCertificate, OID } from "@sealpod/pki";
import { MasterKey } from "@sealpod/sealing";
import { TOKEN_LIFETIME } from "./claims.ts";
import { startKeyRotation } from "./rotation.ts";
import { SCHEMA_VERSION } from "./schema.ts";
import {
  DEFAULT_ROTATION,
  KEYS_CACHE_TIME,
  openAttestationStore,
  type AttestationStore,
  type AttestationStoreOptions,
  type PublishedKey,
  type StoredPolicy,
} from "./store.ts";
import { completeClaims, signToken } from "./token.ts";
import { random, START } from "./testdata/evidence.ts";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const ANY = { subject: "test", authority: "any" } as const;

let directory: string;
let time: number;
const clock = { now: () => time };
const opened: AttestationStore[] = [];
const file = (): string => join(directory, "attestation.sqlite");
async function open(change: Partial<AttestationStoreOptions> = {}): Promise<AttestationStore> {
  const store = await openAttestationStore({ file: file(), masterKey: new Uint8Array(32).fill(3), clock, random, ...change });
  opened.push(store);
  return store;
}
function raw<T>(read: (database: DatabaseSync) => T): T {
  const database = new DatabaseSync(file());
  try {
    return read(database);
  } finally {
    database.close();
  }
}
const policy = (text: string, type: StoredPolicy["type"] = "SevSnpVm"): StoredPolicy => ({ type, token: `token of ${text}`, text, signer: undefined });
const onDisk = (bytes: Uint8Array): boolean => readdirSync(directory).some((name) => readFileSync(join(directory, name)).includes(Buffer.from(bytes)));

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "sealpod-attestation-"));
  time = START;
});
afterEach(() => {
  for (const store of opened.splice(0)) {
    try {
      store.close();
    } catch {
      // The test has closed it.
    }
  }
  rmSync(directory, { recursive: true });
});

describe("the database", () => {
  it("keeps key, policies and certificates over a restart, the key sealed", async () => {
    const first = await open();
    const { kid } = first.signer();
    first.setPolicy(policy("a"), ANY);
    first.seedPolicyCertificates([Uint8Array.of(1)]);
    first.close();
    for (const name of readdirSync(directory)) expect(readFileSync(join(directory, name)).includes("PRIVATE KEY")).toBe(false);
    const second = await open();
    expect(second.signer().kid).toBe(kid);
    expect(second.policy("SevSnpVm")).toEqual(policy("a"));
    expect(second.policyCertificates()).toHaveLength(1);
  });

  it("does not open with another master key", async () => {
    (await open()).close();
    await expect(open({ masterKey: new Uint8Array(32).fill(4) })).rejects.toMatchObject({
      code: "ERR_ATTESTATION_STORE",
      message: expect.stringContaining("does not open with this master key"),
    });
  });

  it("is written ahead, so that readers do not wait for writers", async () => {
    await open();
    // The journal mode belongs to the file; a connection of another program sees it.
    expect(raw((database) => database.prepare("PRAGMA journal_mode").get()?.["journal_mode"])).toBe("wal");
  });

  it("of a newer schema is refused with what to do, and left alone", async () => {
    (await open()).close();
    raw((database) => database.exec(`PRAGMA user_version = ${SCHEMA_VERSION + 1}`));
    const before = createHash("sha256").update(readFileSync(file())).digest("hex");
    await expect(open()).rejects.toMatchObject({
      code: "ERR_ATTESTATION_STORE",
      message: `${file()} has schema ${SCHEMA_VERSION + 1}, this program knows ${SCHEMA_VERSION}`,
      hint: expect.stringContaining("newer Sealpod"),
    });
    expect(createHash("sha256").update(readFileSync(file())).digest("hex")).toBe(before);
  });

  it("that is none is refused", async () => {
    await expect(open({ file: directory })).rejects.toMatchObject({ code: "ERR_ATTESTATION_STORE" });
  });

  it.each([
    { period: 2 * HOUR, overlap: KEYS_CACHE_TIME },
    { period: 2 * HOUR, overlap: 3 * HOUR },
    { period: Number.NaN, overlap: 2 * HOUR },
    { period: Number.POSITIVE_INFINITY, overlap: 2 * HOUR },
  ])("is not opened with the rotation %j, under which clients would meet unknown keys", async (rotation) => {
    await expect(open({ rotation })).rejects.toMatchObject({ code: "ERR_ATTESTATION_ARGUMENT" });
  });
});

describe("a database of schema 1", () => {
  /** What Sealpod wrote before there were policies: one table, the newest key signs, the older ones are published. */
  function writeVersion1(keys: number, extra = ""): readonly { readonly kid: string; readonly sealed: Uint8Array }[] {
    const errors = { name: "", argumentError: (message: string) => new Error(message), storeError: (message: string) => new Error(message) };
    const masterKey = new MasterKey(new Uint8Array(32).fill(3), random, errors);
    return raw((database) => {
      database.exec("CREATE TABLE signing_keys (kid TEXT PRIMARY KEY, certificate BLOB NOT NULL, sealed BLOB NOT NULL) STRICT; PRAGMA user_version = 1");
      database.exec(extra);
      return Array.from({ length: keys }, (_, index) => {
        const { privateKey, publicKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
        const { der } = issueCertificate({
          subject: [{ type: OID.commonName, value: "Sealpod attestation token signing" }],
          subjectKey: publicKey,
          issuer: { key: privateKey },
          signatureAlgorithm: "rsa-sha256",
          serial: BigInt(index + 1),
          notBefore: START,
          notAfter: START + 86_400_000,
          extensions: [],
        });
        const kid = createHash("sha256").update(der).digest("base64");
        const sealed = masterKey.seal(encodeUtf8(privateKey.export({ type: "pkcs8", format: "pem" }) as string), `signing key ${kid}`);
        database.prepare("INSERT INTO signing_keys (kid, certificate, sealed) VALUES (?, ?, ?)").run(kid, der, sealed);
        return { kid, sealed };
      });
    });
  }

  it("is migrated: the newest key goes on signing, the older ones stay published for as long as their tokens live, without their private halves", async () => {
    const [old, newest] = writeVersion1(2);
    const store = await open();
    expect(store.signer().kid).toBe(newest?.kid);
    expect(store.publishedKeys().map(({ kid, state }) => [kid, state])).toEqual([
      [newest?.kid, "active"],
      [old?.kid, "retired"],
    ]);
    const token = signToken({ issuer: "https://a.test", store, clock, random }, completeClaims({ issuer: "https://a.test", store, clock, random }, {}));
    expect(verifies(token, store.publishedKeys())).toBe(true);
    expect(raw((database) => database.prepare("SELECT count(*) AS count FROM signing_keys WHERE sealed IS NOT NULL").get()?.["count"])).toBe(1);
    expect(raw((database) => database.prepare("PRAGMA user_version").get()?.["user_version"])).toBe(SCHEMA_VERSION);
    time += TOKEN_LIFETIME * 1000 + HOUR;
    await store.rotate();
    expect(store.publishedKeys()).toHaveLength(1);
  });

  it("leaves no private half of an old key in the file", async () => {
    const [old, newest] = writeVersion1(2);
    const store = await open();
    store.close();
    expect(onDisk(newest?.sealed ?? new Uint8Array(1))).toBe(true);
    expect(onDisk(old?.sealed ?? new Uint8Array(1))).toBe(false);
  });

  it("stays as it was when a step of the migration fails", async () => {
    // A table in the way: the steps before it have been done by then.
    const [key] = writeVersion1(1, "CREATE TABLE audit (x INTEGER)");
    await expect(open()).rejects.toMatchObject({ code: "ERR_ATTESTATION_STORE" });
    expect(raw((database) => database.prepare("PRAGMA user_version").get()?.["user_version"])).toBe(1);
    expect(raw((database) => database.prepare("SELECT kid FROM signing_keys").all())).toEqual([{ kid: key?.kid }]);
    expect(
      raw((database) =>
        database
          .prepare("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
          .all()
          .map(({ name }) => name),
      ),
    ).toEqual(["audit", "signing_keys"]);
    raw((database) => database.exec("DROP TABLE audit"));
    expect((await open()).signer().kid).toBe(key?.kid);
  });
});

/** True if one of the keys verifies the token, as a client does it: by kid, with the certificate. */
function verifies(token: string, keys: readonly PublishedKey[]): boolean {
  const [header = "", payload = "", signature = ""] = token.split(".");
  const { kid } = JSON.parse(Buffer.from(header, "base64url").toString()) as { kid: string };
  const key = keys.find((candidate) => candidate.kid === kid);
  if (key === undefined) return false;
  return verify("sha256", encodeUtf8(`${header}.${payload}`), new X509Certificate(key.certificate).publicKey, Buffer.from(signature, "base64url"));
}

describe("signing keys", () => {
  const rotation = { period: 12 * HOUR, overlap: 2 * HOUR };

  it.each([
    ["every quarter of an hour", (): number => 15 * MINUTE],
    ["at odd times", (step: number): number => (1 + ((step * 7919) % 97)) * MINUTE],
    ["seldom", (step: number): number => (step % 2 === 0 ? 5 * HOUR : 20 * MINUTE)],
  ])("rotate twice without a token that keys fetched up to an hour before do not verify; the schedule is looked at %s", async (_when, pause) => {
    const store = await open({ rotation });
    const service = { issuer: "https://a.test", store, clock, random };
    const published: { readonly at: number; readonly keys: readonly PublishedKey[] }[] = [];
    const tokens: { readonly from: number; readonly to: number; readonly token: string; readonly kid: string }[] = [];
    const signers = new Set<string>();
    for (let step = 0; signers.size < 3 || time < (tokens.findLast(({ kid }) => kid !== store.signer().kid)?.to ?? 0) + 2 * HOUR; step++) {
      await store.rotate();
      published.push({ at: time, keys: store.publishedKeys() });
      const claims = completeClaims(service, {});
      tokens.push({ from: time, to: Number(claims["exp"]) * 1000, token: signToken(service, claims), kid: store.signer().kid });
      signers.add(store.signer().kid);
      time += pause(step);
    }
    expect(signers.size).toBe(3);
    for (const { from, to, token, kid } of tokens) {
      // Somebody who verifies at `from` may have fetched an hour before; who verifies at the last moment may have fetched then.
      for (const { keys, at } of published.filter((fetched) => fetched.at >= from - KEYS_CACHE_TIME && fetched.at <= to)) {
        expect(
          keys.some((key) => key.kid === kid),
          `token of ${from - START}, keys of ${at - START}`,
        ).toBe(true);
      }
      expect(verifies(token, published.find(({ at }) => at >= from - KEYS_CACHE_TIME)?.keys ?? [])).toBe(true);
    }
    expect(store.publishedKeys().filter(({ state }) => state === "retired").length).toBeLessThanOrEqual(1);
    expect(new Set(store.history(1000).map(({ operation }) => operation))).toEqual(new Set(["publish-key", "activate-key", "retire-key", "remove-key"]));
  });

  it("lose their private half in the step that retires them, from the file too", async () => {
    const store = await open({ rotation });
    const sealed = raw((database) => database.prepare("SELECT sealed FROM signing_keys").get()?.["sealed"]) as Uint8Array;
    expect(onDisk(sealed)).toBe(true);
    const { kid } = store.signer();
    time += rotation.period - rotation.overlap;
    expect(await store.rotate()).toEqual(["publish-key"]);
    expect(onDisk(sealed)).toBe(true);
    time += rotation.overlap - 1;
    expect(await store.rotate()).toEqual([]);
    expect(store.signer().kid).toBe(kid);
    time += 1;
    expect(await store.rotate()).toEqual(["retire-key", "activate-key"]);
    expect(store.signer().kid).not.toBe(kid);
    expect(store.publishedKeys().map(({ state }) => state)).toEqual(["active", "retired"]);
    expect(onDisk(sealed)).toBe(false);
    expect(raw((database) => database.prepare("SELECT kid FROM signing_keys WHERE sealed IS NULL").all())).toEqual([{ kid }]);
  });

  it("are published by call, and sign only after the overlap", async () => {
    const store = await open({ rotation });
    const { kid } = store.signer();
    const next = await store.publishNextKey("operator");
    expect(next).toMatchObject({ state: "next", activates: START + rotation.overlap });
    expect((await store.publishNextKey("operator")).kid).toBe(next.kid);
    expect(store.publishedKeys().map((key) => key.kid)).toEqual([kid, next.kid]);
    expect(store.signer().kid).toBe(kid);
    time += rotation.overlap;
    await store.rotate();
    expect(store.signer().kid).toBe(next.kid);
    expect(store.history()[2]).toMatchObject({ subject: "operator", operation: "publish-key", target: next.kid });
  });

  it("of a service that slept over its schedule are published before they sign", async () => {
    const store = await open({ rotation });
    const { kid } = store.signer();
    time += 100 * rotation.period;
    expect(await store.rotate()).toEqual(["publish-key"]);
    expect(store.signer().kid).toBe(kid);
  });

  it.each<[string, (next: PublishedKey) => void]>([
    ["is damaged", () => raw((database) => database.exec("UPDATE signing_keys SET sealed = x'00' WHERE state = 'next'"))],
    [
      "seals something else",
      ({ kid }) => {
        const errors = { name: "", argumentError: (message: string) => new Error(message), storeError: (message: string) => new Error(message) };
        const sealed = new MasterKey(new Uint8Array(32).fill(3), random, errors).seal(encodeUtf8("no key"), `signing key ${kid}`);
        raw((database) => database.prepare("UPDATE signing_keys SET sealed = ? WHERE state = 'next'").run(sealed));
      },
    ],
  ])("are not retired for a successor that does not open: it is taken back, replaced, and the rotation goes on; its private half %s", async (_what, damage) => {
    const store = await open({ rotation });
    const { kid } = store.signer();
    const broken = await store.publishNextKey("operator");
    // Looked at once before: what is remembered of it must not hide the damage.
    expect(await store.rotate()).toEqual([]);
    damage(broken);
    time += rotation.overlap;
    expect(await store.rotate()).toEqual(["drop-key", "publish-key"]);
    expect(store.signer().kid).toBe(kid);
    const [, next, ...rest] = store.publishedKeys();
    expect(rest).toEqual([]);
    expect(next).toMatchObject({ state: "next", activates: time + rotation.overlap });
    expect(next?.kid).not.toBe(broken.kid);
    expect(store.history(2)).toMatchObject([
      { subject: "schedule", operation: "publish-key", target: next?.kid },
      { subject: "schedule", operation: "drop-key", target: broken.kid },
    ]);
    time += rotation.overlap;
    expect(await store.rotate()).toEqual(["retire-key", "activate-key"]);
    expect(store.signer().kid).toBe(next?.kid);
  });

  it("of two processes that find the same successor broken are replaced once", async () => {
    const [a, b] = [await open({ rotation }), await open({ rotation })];
    await a.publishNextKey("operator");
    raw((database) => database.exec("UPDATE signing_keys SET sealed = x'00' WHERE state = 'next'"));
    const steps = await Promise.all([a.rotate(), b.rotate()]);
    expect(steps.flat()).toEqual(["drop-key", "publish-key"]);
    expect(a.publishedKeys()).toEqual(b.publishedKeys());
    expect(a.publishedKeys()).toHaveLength(2);
  });

  it("are erased from the file later if another program reads it at the time, and nobody waits for that", { timeout: 8000 }, async () => {
    const logs: string[] = [];
    const store = await open({ rotation });
    const other = new DatabaseSync(file());
    const sealed = other.prepare("SELECT sealed FROM signing_keys").get()?.["sealed"] as Uint8Array;
    await store.publishNextKey("operator");
    time += rotation.overlap;
    const step = async (): Promise<void> => {
      const logger = { log: (level: string, message: string): void => void logs.push(`${level} ${message}`) };
      await startKeyRotation({ store, timer: { every: () => () => undefined }, logger }).stop();
    };
    try {
      other.exec("BEGIN; SELECT count(*) FROM signing_keys");
      await step();
      expect([store.erasureOwed, onDisk(sealed)]).toEqual([true, true]);
      expect(await store.rotate()).toEqual([]);
      expect(store.erasureOwed).toBe(true);
      other.exec("ROLLBACK");
      await step();
      expect([store.erasureOwed, onDisk(sealed)]).toEqual([false, false]);
    } finally {
      other.close();
    }
    expect(logs).toEqual([
      "info signing keys changed",
      "warn the private half of a retired key may still be in the database's files: another program reads them",
    ]);
  });

  it("are erased by the next process if that which retired them could not", async () => {
    const first = await open({ rotation });
    const other = new DatabaseSync(file());
    const sealed = other.prepare("SELECT sealed FROM signing_keys").get()?.["sealed"] as Uint8Array;
    await first.publishNextKey("operator");
    time += rotation.overlap;
    other.exec("BEGIN; SELECT count(*) FROM signing_keys");
    try {
      await first.rotate();
      first.close();
      const second = await open({ rotation });
      expect([second.erasureOwed, onDisk(sealed)]).toEqual([true, true]);
      other.exec("ROLLBACK");
      expect(await second.rotate()).toEqual([]);
      expect([second.erasureOwed, onDisk(sealed)]).toEqual([false, false]);
    } finally {
      other.close();
    }
  });

  it("that do not follow their schedule are told by the check, until they do", async () => {
    const store = await open({ rotation });
    const overdue = expect.objectContaining({ code: "ERR_ATTESTATION_STORE", message: expect.stringMatching(/overdue: .* 16 minutes ago/) as string }) as Error;
    time += rotation.period - rotation.overlap + 15 * MINUTE;
    expect(() => store.checkRotation()).not.toThrow();
    time += MINUTE;
    expect(() => store.checkRotation()).toThrow(overdue);
    await store.rotate();
    expect(() => store.checkRotation()).not.toThrow();
    time = (store.publishedKeys()[1]?.activates ?? 0) + 16 * MINUTE;
    expect(() => store.checkRotation()).toThrow(overdue);
    await store.rotate();
    expect(() => store.checkRotation()).not.toThrow();
    // After a long sleep the first step mends it, though the change itself takes the overlap.
    time += 100 * rotation.period;
    expect(() => store.checkRotation()).toThrow(/overdue/);
    await store.rotate();
    expect(() => store.checkRotation()).not.toThrow();
  });

  it("have certificates with their public keys", async () => {
    const { privateKey, certificate, kid } = (await open()).signer();
    const publicKey = createPublicKey(privateKey).export({ type: "spki", format: "der" });
    expect(new X509Certificate(certificate).publicKey.export({ type: "spki", format: "der" })).toEqual(publicKey);
    expect(createHash("sha256").update(certificate).digest("base64")).toBe(kid);
    expect(DEFAULT_ROTATION.overlap).toBeGreaterThan(KEYS_CACHE_TIME);
  });

  it("follow the schedule when a timer says so, one step at a time, and no more after the stop", async () => {
    const store = await open({ rotation });
    let action: (() => void) | undefined;
    let ended = 0;
    const logs: string[] = [];
    const running = startKeyRotation({
      store,
      timer: { every: (_milliseconds, call) => ((action = call), () => void ended++) },
      logger: { log: (level, message) => void logs.push(`${level} ${message}`) },
    });
    time += rotation.period - rotation.overlap;
    action?.();
    action?.();
    await running.stop();
    action?.();
    const again = startKeyRotation({ store, timer: { every: () => () => undefined }, logger: silentLogger });
    await again.stop();
    expect(ended).toBe(1);
    expect(store.publishedKeys()).toHaveLength(2);
    store.close();
    const failing = startKeyRotation({
      store,
      timer: { every: () => () => undefined },
      logger: { log: (level, message) => void logs.push(`${level} ${message}`) },
    });
    await failing.stop();
    expect(logs.at(-1)).toBe("error the rotation of the signing keys failed");
  });
});

describe("several processes on one file", () => {
  it("see each other's keys and policies at the next call", async () => {
    const rotation = { period: 12 * HOUR, overlap: 2 * HOUR };
    const [a, b] = [await open({ rotation }), await open({ rotation })];
    expect(a.signer().kid).toBe(b.signer().kid);
    a.setPolicy(policy("one"), ANY);
    expect(b.policy("SevSnpVm")?.text).toBe("one");
    const next = await b.publishNextKey("operator");
    expect(a.publishedKeys().map(({ kid }) => kid)).toContain(next.kid);
    time += rotation.overlap;
    const steps = await Promise.all([a.rotate(), b.rotate()]);
    expect(steps.flat()).toEqual(["retire-key", "activate-key"]);
    expect([a.signer().kid, b.signer().kid]).toEqual([next.kid, next.kid]);
  });

  it("make one first key, and one successor", async () => {
    const stores = await Promise.all([open(), open(), open()]);
    expect(new Set(stores.map((store) => store.signer().kid)).size).toBe(1);
    const keys = await Promise.all(stores.map((store) => store.publishNextKey("operator")));
    expect(new Set(keys.map(({ kid }) => kid)).size).toBe(1);
    expect(stores.map((store) => store.publishedKeys().length)).toEqual([2, 2, 2]);
  });

  it("agree after any sequence of SET, RESET and GET, also with one that opens the file anew", async () => {
    const stores = [await open(), await open()];
    const model = new Map<string, string>();
    let audited = 0;
    let seed = 20_260_115;
    const draw = (below: number): number => {
      seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
      return (seed >>> 8) % below;
    };
    const types = ["SevSnpVm", "Tpm", "SgxEnclave"] as const;
    for (let step = 0; step < 300; step++) {
      const store = stores[draw(stores.length)];
      const type = types[draw(types.length)] ?? "Tpm";
      switch (draw(4)) {
        case 0:
          store?.setPolicy(policy(`policy ${step}`, type), ANY);
          model.set(type, `policy ${step}`);
          audited++;
          break;
        case 1:
          store?.resetPolicy(type, `reset ${step}`, ANY);
          model.delete(type);
          audited++;
          break;
        case 2:
          if (step % 37 === 0) stores[0] = await open();
          break;
        default:
      }
      for (const each of stores) for (const name of types) expect(each.policy(name)?.text).toBe(model.get(name));
    }
    const history = stores[0]?.history(1000).filter(({ operation }) => operation.endsWith("-policy")) ?? [];
    expect(history).toHaveLength(audited);
    for (const name of types) {
      const last = history.find(({ target }) => target === name);
      expect(last?.operation === "set-policy" ? last.content : undefined).toBe(model.has(name) ? `token of ${model.get(name)}` : undefined);
    }
  });
});

describe("policies and certificates", () => {
  it("give the same object until they change, so that what was made of one stays usable", async () => {
    const store = await open();
    store.setPolicy(policy("a"), ANY);
    store.setPolicy(policy("b", "Tpm"), ANY);
    const before = store.policy("SevSnpVm");
    expect(before).toBe(store.policy("SevSnpVm"));
    store.setPolicy(policy("c", "Tpm"), ANY);
    expect(store.policy("SevSnpVm")).toBe(before);
    store.setPolicy(policy("d"), ANY);
    expect(store.policy("SevSnpVm")).toEqual(policy("d"));
  });

  it("are in the audit, which takes no change", async () => {
    const store = await open();
    store.setPolicy(policy("a"), { subject: "alice", authority: "any" });
    time += 1000;
    store.resetPolicy("SevSnpVm", "reset", { subject: "bob", authority: "any" });
    expect(store.history(2)).toMatchObject([
      { at: START + 1000, subject: "bob", operation: "reset-policy", target: "SevSnpVm", content: "reset" },
      {
        at: START,
        subject: "alice",
        operation: "set-policy",
        target: "SevSnpVm",
        content: "token of a",
        hash: createHash("sha256").update("token of a").digest("base64url"),
      },
    ]);
    for (const sql of ["UPDATE audit SET subject = 'x'", "DELETE FROM audit"]) expect(() => raw((database) => database.exec(sql))).toThrow(/append-only/);
  });

  it("are changed only on the authority of a certificate that is there", async () => {
    const store = await open();
    const [one, two, three] = [Uint8Array.of(1), Uint8Array.of(2), Uint8Array.of(3)];
    const by = (authority: Uint8Array): { readonly subject: string; readonly authority: Uint8Array } => ({ subject: "test", authority });
    expect(store.seedPolicyCertificates([one])).toBe(true);
    expect(() => store.setPolicy(policy("a"), by(two))).toThrow(expect.objectContaining({ code: "ERR_ATTESTATION_SIGNER" }));
    expect(() => store.resetPolicy("SevSnpVm", "", by(two))).toThrow(expect.objectContaining({ code: "ERR_ATTESTATION_SIGNER" }));
    expect(() => store.addPolicyCertificate(two, by(two))).toThrow(expect.objectContaining({ code: "ERR_ATTESTATION_SIGNER" }));
    expect(() => store.removePolicyCertificate(one, by(two))).toThrow(expect.objectContaining({ code: "ERR_ATTESTATION_SIGNER" }));
    expect(store.history().filter(({ operation }) => !operation.endsWith("-key"))).toHaveLength(1);

    expect(store.addPolicyCertificate(two, by(one))).toBe(true);
    expect(store.addPolicyCertificate(two, by(one))).toBe(false);
    store.setPolicy(policy("a"), by(two));
    expect(store.removePolicyCertificate(three, by(two))).toBe(false);
    expect(store.removePolicyCertificate(one, by(two))).toBe(true);
    expect(() => store.setPolicy(policy("b"), by(one))).toThrow(expect.objectContaining({ code: "ERR_ATTESTATION_SIGNER" }));
    expect(() => store.removePolicyCertificate(two, by(two))).toThrow(expect.objectContaining({ code: "ERR_ATTESTATION_OPERATION" }));
    expect(store.policyCertificates().map(({ certificate }) => certificate)).toEqual([two]);
    // The configuration still names the first one; it was removed on purpose.
    expect(store.seedPolicyCertificates([one])).toBe(false);
    expect(store.policyCertificates()).toHaveLength(1);
  });

  it("of isolated mode are vouched for by a certificate that is a policy certificate, or was one", async () => {
    const store = await open();
    const [one, two, stranger] = [Uint8Array.of(1), Uint8Array.of(2), Uint8Array.of(3)];
    store.setPolicy(policy("a", "Tpm"), ANY);
    store.setPolicy({ ...policy("b", "TdxVm"), signer: stranger }, ANY);
    store.setPolicy({ ...policy("c"), signer: one }, ANY);
    expect(store.unvouchedPolicies().toSorted()).toEqual(["SevSnpVm", "TdxVm", "Tpm"]);
    store.seedPolicyCertificates([one, two]);
    expect(store.unvouchedPolicies().toSorted()).toEqual(["TdxVm", "Tpm"]);
    store.resetPolicy("TdxVm", "", ANY);
    store.setPolicy({ ...policy("d", "Tpm"), signer: two }, ANY);
    expect(store.unvouchedPolicies()).toEqual([]);
    store.removePolicyCertificate(one, { subject: "test", authority: two });
    expect(store.unvouchedPolicies()).toEqual([]);
  });

  it("are unchanged after a refused change", async () => {
    const store = await open();
    store.setPolicy(policy("a"), ANY);
    raw((database) => database.exec("CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'disk full'); END"));
    // The policy is written first and the audit after it: both or neither.
    expect(() => store.setPolicy(policy("b"), ANY)).toThrow(/disk full/);
    expect(store.policy("SevSnpVm")?.text).toBe("a");
    expect((await open()).policy("SevSnpVm")?.text).toBe("a");
  });
});
