import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { afterAll, beforeAll, expect, it } from "vitest";
import { SeededNumbers } from "../../tools/testing/hostile.ts";
import { checkVaultDatabase, type MaintenanceSettings } from "./index.ts";
import { TEE, VaultWorld, type ServerProcess } from "./testdata/server-process.ts";
import { openRelease } from "./testdata/world.ts";

/** Kills under load. */
const KILLS = 8;
/** The most requests that are acknowledged before one. */
const MOST = 150;
const WORKERS = 6;
/** Milliseconds: seconds for each start, on a machine that has other things to do. */
const TIME = 600_000;

let world: VaultWorld;
beforeAll(async () => {
  world = await VaultWorld.make();
});
afterAll(async () => world.close());

const ports = {
  clock: { now: () => Date.now() },
  random: { bytes: (length: number) => new Uint8Array(randomBytes(length)) },
  env: {},
  uid: process.getuid?.(),
  cwd: "/",
};

/** What clients were told is done. */
interface Acknowledged {
  /** Values of secrets that were written once. */
  readonly secrets: Map<string, string>;
  /** Bytes of imported keys. */
  readonly keys: Map<string, Uint8Array>;
  /** Names of secrets that were deleted. */
  readonly deleted: Set<string>;
  /** Request ids of releases, and of refused ones. */
  readonly released: Set<string>;
  readonly refused: Set<string>;
  /** Highest number that a secret of many versions was set to, and the highest that was asked for. */
  version: number;
  asked: number;
}

/** One request of a worker; throws when the connection breaks. */
async function step(port: number, done: Acknowledged, name: string, kind: number): Promise<void> {
  switch (kind) {
    case 0: {
      const value = randomBytes(8).toString("hex");
      await world.must(port, 200, "PUT", `/secrets/${name}`, { body: { value } });
      done.secrets.set(name, value);
      return;
    }
    case 1: {
      const bytes = randomBytes(32);
      await world.must(port, 200, "PUT", `/keys/${name}`, { body: world.importBody(bytes) });
      done.keys.set(name, bytes);
      return;
    }
    case 2: {
      const known = [...done.secrets.keys()].at(-1);
      if (known === undefined) return;
      // Whether it was deleted is not known until the answer comes.
      done.secrets.delete(known);
      await world.must(port, 200, "DELETE", `/secrets/${known}`);
      done.deleted.add(known);
      return;
    }
    default: {
      const change = kind === 3 ? {} : { "x-ms-sevsnpvm-hostdata": "00".repeat(32) };
      const answer = await world.ask(port, "POST", "/keys/app/release", { body: { target: world.evidence(change) } });
      expect(answer.status).toBe(kind === 3 ? 200 : 403);
      (kind === 3 ? done.released : done.refused).add(String(answer.headers["x-ms-request-id"]));
    }
  }
}

/** Everything that was acknowledged is there. */
async function expectAll(port: number, done: Acknowledged): Promise<void> {
  for (const [name, value] of done.secrets) expect(await world.must(port, 200, "GET", `/secrets/${name}`), name).toMatchObject({ value });
  for (const [name, bytes] of [...done.keys].slice(-5)) {
    const { value } = await world.must(port, 200, "POST", `/keys/${name}/release`, { body: { target: world.evidence() } });
    expect((await openRelease(value, TEE)).plaintext.equals(bytes), name).toBe(true);
  }
  for (const name of done.keys.keys()) expect((await world.ask(port, "GET", `/keys/${name}`)).status, name).toBe(200);
  for (const name of done.deleted) {
    expect((await world.ask(port, "GET", `/secrets/${name}`)).status, name).toBe(404);
    expect((await world.ask(port, "GET", `/deletedsecrets/${name}`)).status, name).toBe(200);
  }
  for (const [ids, outcome] of [
    [done.released, "allowed"],
    [done.refused, "refused"],
  ] as const) {
    for (const id of ids) {
      const { value } = await world.must(port, 200, "GET", `/sealpod/audit?requestId=${id}`);
      expect(value, id).toMatchObject([{ requestId: id, operation: "keys/release", outcome }]);
    }
  }
  const stored = Number((await world.must(port, 200, "GET", "/secrets/counter"))["value"]);
  // One that was sent and not acknowledged may have been made all the same, and nothing else.
  expect([done.version, done.asked]).toContain(stored);
  [done.version, done.asked] = [stored, stored];
}

it(
  `has what it has acknowledged, and the line of it in the audit, after each of ${KILLS} kills under load`,
  async () => {
    const settings: MaintenanceSettings = {
      database: world.file("vault.sqlite"),
      masterKey: { file: world.file("master.key"), environment: undefined, allowGroup: false, pkcs11: undefined },
    };
    const numbers = new SeededNumbers(66);
    let total = 0;
    let server: ServerProcess = world.start();
    let port = await server.listening();
    await world.grant(port);
    await world.must(port, 200, "PUT", "/keys/app", { body: world.importBody(randomBytes(32)) });
    await world.must(port, 200, "PUT", "/secrets/counter", { body: { value: "0" } });
    let counter = { version: 0, asked: 0 };
    for (let round = 0; round < KILLS; round++) {
      const done: Acknowledged = { secrets: new Map(), keys: new Map(), deleted: new Set(), released: new Set(), refused: new Set(), ...counter };
      const target = 1 + numbers.below(MOST);
      let acknowledged = 0;
      let killed = false;
      const counted = (): void => {
        acknowledged++;
        // It goes on while answers are on their way: what it does between two of them is hit as well.
        if (acknowledged !== target) return;
        killed = true;
        server.child.kill("SIGKILL");
      };
      const until = async (work: (at: number) => Promise<void>): Promise<void> => {
        try {
          for (let at = 0; ; at++) {
            await work(at);
            counted();
          }
        } catch (error) {
          // Connections break when the process is killed; anything else is a finding.
          if (!killed || !(error instanceof Error && "code" in error)) throw error;
        }
      };
      const kinds = Array.from({ length: WORKERS }, (_, worker) => new SeededNumbers(1000 * round + worker));
      await Promise.all([
        ...kinds.map(async (own, worker) => until(async (at) => step(port, done, `r${round}-w${worker}-${at}`, own.below(5)))),
        until(async () => {
          done.asked = done.version + 1;
          await world.must(port, 200, "PUT", "/secrets/counter", { body: { value: String(done.asked) } });
          done.version = done.asked;
        }),
      ]);
      expect(await server.exited).toEqual({ code: null, signal: "SIGKILL" });
      total += acknowledged;
      if (round % 4 === 0) expect(await checkVaultDatabase(settings, ports)).toMatchObject({ unreadable: [], damage: [] });
      server = world.start();
      port = await server.listening();
      await expectAll(port, done);
      counter = { version: done.version, asked: done.asked };
    }
    await server.end();
    expect(total).toBeGreaterThan(KILLS * 20);
    expect(await checkVaultDatabase(settings, ports)).toMatchObject({ unreadable: [], damage: [] });
  },
  TIME,
);

it(
  "starts after kills while it makes its database, which is whole or not there",
  async () => {
    for (let round = 0; round < 4; round++) {
      const database = `born-${round}.sqlite`;
      const args = ["--config", world.config({ database })];
      const first = world.start(args);
      // When its file appears, and when it listens.
      if (round % 2 === 0) while (!existsSync(world.file(database))) await new Promise((resolve) => void setImmediate(resolve));
      else await first.listening();
      await first.kill();
      const second = world.start(args);
      await world.grant(await second.listening());
      await second.end();
    }
  },
  TIME,
);
