import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { findPostgres, startPostgres, type TestPostgres } from "@sealpod/storage/testing";
import { backupVaultDatabase, checkVaultDatabase, rotateVaultWrappingKey, type MaintenanceSettings } from "./index.ts";
import { TEE, VaultWorld, type ServerProcess } from "./testdata/server-process.ts";
import { openRelease } from "./testdata/world.ts";

const PASSWORD = "hush-hush";
const SEEDED = 300;

describe.skipIf(findPostgres() === undefined)("two replicas of the key vaults (skipped without PostgreSQL's server: apt-get install postgresql)", () => {
  let world: VaultWorld;
  let postgres: TestPostgres;
  let url: string;
  let a: ServerProcess;
  let b: ServerProcess;
  let portA: number;
  let portB: number;
  let settings: MaintenanceSettings;
  const ports = {
    clock: { now: () => Date.now() },
    random: { bytes: (length: number) => new Uint8Array(randomBytes(length)) },
    env: {},
    uid: process.getuid?.(),
    cwd: "/",
  };
  beforeAll(async () => {
    [world, postgres] = await Promise.all([VaultWorld.make(), startPostgres({ fsync: "off" })]);
    // The server lets everybody in who reaches its socket; a password is there to be looked for.
    url = (await postgres.createDatabase()).replace("sealpod@", `sealpod:${PASSWORD}@`);
    settings = {
      database: url.replace(`:${PASSWORD}`, ""),
      masterKey: { file: world.file("master.key"), environment: undefined, allowGroup: false, pkcs11: undefined },
    };
    [a, b] = [start(), start()];
    [portA, portB] = await Promise.all([a.listening(), b.listening()]);
    await world.grant(portA);
  });
  afterAll(async () => {
    await world.close();
    await postgres.stop();
  });
  const start = (): ServerProcess => world.start(["--config", world.config({ operations: "main" })], { DATABASE_URL: url });

  it("make their tables together, and each reads at once what the other has written", async () => {
    const bytes = randomBytes(32);
    await world.must(portA, 200, "PUT", "/keys/app", { body: world.importBody(bytes) });
    const { value } = await world.must(portB, 200, "POST", "/keys/app/release", { body: { target: world.evidence() } });
    expect((await openRelease(value, TEE)).plaintext.equals(bytes)).toBe(true);
    await world.must(portB, 200, "PUT", "/secrets/db", { body: { value: "one" } });
    expect(await world.must(portA, 200, "GET", "/secrets/db")).toMatchObject({ value: "one" });
    await world.must(portA, 200, "PUT", "/secrets/db", { body: { value: "two" } });
    expect(await world.must(portB, 200, "GET", "/secrets/db")).toMatchObject({ value: "two" });
    await world.must(portA, 200, "DELETE", "/secrets/db");
    expect((await world.ask(portB, "GET", "/secrets/db")).status).toBe(404);
    const audit = await world.must(portA, 200, "GET", "/sealpod/audit?operation=keys/release");
    expect(audit["value"]).toMatchObject([{ outcome: "allowed", name: "app" }]);
  });

  it("go on without an error while the wrapping key is replaced under load", async () => {
    for (let at = 0; at < SEEDED; at += 20) {
      await Promise.all(
        Array.from({ length: 20 }, async (_, more) => world.must(portA, 200, "PUT", `/secrets/seeded-${at + more}`, { body: { value: String(at + more) } })),
      );
    }
    const over = new AbortController();
    const written: string[] = [];
    const load = [portA, portB, portA, portB].map(async (port, worker) => {
      for (let at = 0; !over.signal.aborted; at++) {
        const name = `during-${worker}-${at}`;
        await world.must(port, 200, "PUT", `/secrets/${name}`, { body: { value: name } });
        written.push(name);
        const number = (at * 7 + worker) % SEEDED;
        expect(await world.must(port, 200, "GET", `/secrets/seeded-${number}`)).toMatchObject({ value: String(number) });
        const { value } = await world.must(port, 200, "POST", "/keys/app/release", { body: { target: world.evidence() } });
        expect((await openRelease(value, TEE)).plaintext).toHaveLength(32);
      }
    });
    const rotations = [];
    for (let at = 0; at < 2; at++) rotations.push(await rotateVaultWrappingKey(settings, ports));
    over.abort();
    await Promise.all(load);
    expect(rotations.map(({ wrappingKey }) => wrappingKey)).toEqual([2, 3]);
    for (const { records } of rotations) expect(records).toBeGreaterThanOrEqual(SEEDED);
    expect(written.length).toBeGreaterThan(0);
    const check = await checkVaultDatabase(settings, ports);
    // Nothing is left under the old ones, whichever replica wrote it, before or while it was replaced.
    expect(check.wrappingKeys.map(({ id, state, records }) => [id, state, records > 0])).toEqual([
      [1, "retired", false],
      [2, "retired", false],
      [3, "active", true],
    ]);
    expect(check).toMatchObject({ unreadable: [], damage: [] });
    for (const name of written) expect(await world.must(portB, 200, "GET", `/secrets/${name}`)).toMatchObject({ value: name });
  });

  it("lose nothing acknowledged when one is killed, and the other does not notice", async () => {
    const stored: string[] = [];
    const killed = Promise.withResolvers<void>();
    const writer = async (port: number, who: string, until: () => boolean): Promise<void> => {
      for (let at = 0; !until(); at++) {
        const name = `${who}-${at}`;
        const answer = await world.ask(port, "PUT", `/secrets/${name}`, { body: { value: name } }).catch((error: unknown) => {
          if (port === portA) return undefined;
          throw error;
        });
        if (answer === undefined) return;
        expect(answer.status).toBe(200);
        stored.push(name);
        if (who === "a0" && at === 25) {
          a.child.kill("SIGKILL");
          void a.exited.then(() => killed.resolve());
        }
      }
    };
    let isOver = false;
    const ofB = [writer(portB, "b0", () => isOver), writer(portB, "b1", () => isOver)];
    await Promise.all([writer(portA, "a0", () => false), writer(portA, "a1", () => false)]);
    await killed.promise;
    const before = stored.length;
    // B has gone on alone.
    while (stored.length < before + 20) await world.must(portB, 200, "GET", "/secrets/seeded-1");
    isOver = true;
    await Promise.all(ofB);
    for (const name of stored) expect(await world.must(portB, 200, "GET", `/secrets/${name}`)).toMatchObject({ value: name });
    a = start();
    portA = await a.listening();
    expect(await world.must(portA, 200, "GET", `/secrets/${stored.at(-1) ?? ""}`)).toMatchObject({ value: stored.at(-1) });
  });

  it("are not ready while the database is away, say nothing of its address, and are back with it", async () => {
    const ready = async (port: number): Promise<number> => (await world.ask(port, "GET", "/readyz", { token: null })).status;
    expect([await ready(portA), await ready(portB)]).toEqual([200, 200]);
    await postgres.kill();
    expect([await ready(portA), await ready(portB)]).toEqual([503, 503]);
    const failed = await world.ask(portA, "GET", "/secrets/seeded-1");
    expect(failed.status).toBeGreaterThanOrEqual(500);
    expect(failed.text).not.toMatch(/postgres|sealpod@/i);
    expect((await world.ask(portA, "GET", "/healthz", { token: null })).status).toBe(200);
    await postgres.start();
    for (const port of [portA, portB]) while ((await ready(port)) !== 200);
    expect(await world.must(portA, 200, "GET", "/secrets/seeded-1")).toMatchObject({ value: "1" });
    await world.must(portB, 200, "PUT", "/secrets/after", { body: { value: "after" } });
    expect(await world.must(portA, 200, "GET", "/secrets/after")).toMatchObject({ value: "after" });
  });

  it("leave copies of the database to its server, and the password out of everything", async () => {
    await expect(backupVaultDatabase(settings, world.file("copy"), { ...ports, env: { DATABASE_URL: url } })).rejects.toMatchObject({
      code: "ERR_STORAGE_ARGUMENT",
      hint: expect.stringContaining("pg_dump"),
      message: expect.not.stringContaining(PASSWORD),
    });
    await Promise.all([a.end(), b.end()]);
    for (const { stdout, stderr } of [a, b]) {
      expect(stdout).toContain('"msg":"stopped"');
      expect(stdout + stderr).not.toContain(PASSWORD);
      expect(stderr).toBe("");
    }
  });
});
