import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { SeededNumbers } from "../../../tools/testing/hostile.ts";
import { openVaultStore } from "./index.ts";
import { findPostgres, startPostgres, type TestPostgres } from "@sealpod/storage/testing";
import { storeCases } from "./testdata/store-cases.ts";
import { allLines, expectModel, replay } from "./testdata/store-model.ts";
import { MASTER, random } from "./testdata/store-world.ts";

const WRITER = join(import.meta.dirname, "testdata", "store-writer.ts");
const KILLS = 8;
/** The longest that a writer lives, in acknowledged requests. */
const MOST = 200;

/** Milliseconds: seconds for each writer, on a machine that has other things to do. */
const KILL_TIME = 600_000;

/** Lets a writer work, and kills it after so many acknowledged requests. @returns all that it was told is done */
async function killAfter(url: string, seed: number, count: number): Promise<readonly string[]> {
  const writer = spawn(process.execPath, [WRITER, url, String(seed)], { stdio: ["ignore", "pipe", "inherit"] });
  const acknowledged: string[] = [];
  for await (const text of createInterface(writer.stdout)) {
    if (text === "ready") continue;
    acknowledged.push(text);
    // It goes on while the lines that are on their way are read: what it does between two lines is hit as well.
    if (acknowledged.length === count) writer.kill("SIGKILL");
  }
  if (writer.exitCode === null && writer.signalCode === null) await once(writer, "exit");
  expect(writer.signalCode).toBe("SIGKILL");
  return acknowledged;
}

/** The audit is there with what was acknowledged, and the store is what the audit says, neither more nor less. */
async function expectWhole(url: string, acknowledged: readonly string[]): Promise<{ readonly lines: number; readonly rotations: number }> {
  await using store = await openVaultStore({ url, master: MASTER, clock: { now: Date.now }, random });
  const lines = await allLines(store);
  const counts = new Map<string, number>();
  for (const { requestId } of lines) counts.set(requestId, (counts.get(requestId) ?? 0) + 1);
  expect(acknowledged.filter((id) => counts.get(id) !== 1)).toEqual([]);
  await expectModel(store, replay(lines));
  return { lines: lines.length, rotations: lines.filter(({ operation }) => operation === "wrapping-keys/rotate").length };
}

async function killLoop(url: string): Promise<void> {
  const numbers = new SeededNumbers(6);
  const acknowledged: string[] = [];
  let rotations = 0;
  for (let seed = 1; seed <= KILLS; seed++) {
    acknowledged.push(...(await killAfter(url, seed, 1 + numbers.below(MOST))));
    ({ rotations } = await expectWhole(url, acknowledged));
  }
  expect(acknowledged.length).toBeGreaterThan(KILLS * 20);
  expect(rotations).toBeGreaterThan(0);
  await using store = await openVaultStore({ url, master: MASTER, clock: { now: Date.now }, random });
  await store.upkeep();
  await expectModel(store, replay(await allLines(store)));
}

describe("SQLite, killed", () => {
  let directory: string;
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), "sealpod-vault-"));
  });
  afterAll(() => rmSync(directory, { recursive: true }));

  it(
    `has every acknowledged change with its line, and nothing by halves, after each of ${KILLS} kills`,
    async () => {
      await killLoop(join(directory, "killed.sqlite"));
    },
    KILL_TIME,
  );

  it("has what two writers were acknowledged that were killed together", async () => {
    const url = join(directory, "two.sqlite");
    await (await openVaultStore({ url, master: MASTER, clock: { now: Date.now }, random })).close();
    const [a, b] = await Promise.all([killAfter(url, 101, 150), killAfter(url, 102, 120)]);
    const store = await openVaultStore({ url, master: MASTER, clock: { now: Date.now }, random });
    const ids = new Set((await allLines(store)).map(({ requestId }) => requestId));
    expect([...a, ...b].filter((id) => !ids.has(id))).toEqual([]);
    await store.close();
  });
});

describe.skipIf(findPostgres() === undefined)("PostgreSQL (skipped without its server: apt-get install postgresql)", () => {
  let postgres: TestPostgres;
  beforeAll(async () => {
    // It is the clients that are killed: what the server has taken, the system has.
    postgres = await startPostgres({ fsync: "off" });
  });
  afterAll(async () => postgres.stop());

  storeCases("PostgreSQL", { shared: true, place: async () => ({ url: await postgres.createDatabase(), remove: async () => undefined }) });

  it(
    `has every acknowledged change with its line, and nothing by halves, after each of ${KILLS} kills of its client`,
    async () => {
      await killLoop(await postgres.createDatabase());
    },
    KILL_TIME,
  );
});
