import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll } from "vitest";
import { databaseCases } from "./testdata/database-cases.ts";

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "sealpod-storage-"));
});
afterAll(() => rmSync(directory, { recursive: true }));
const newFile = (): string => join(directory, `${randomBytes(8).toString("hex")}.sqlite`);

databaseCases("a SQLite file", { fresh: async () => newFile(), isPersistent: true });
databaseCases("SQLite in memory", { fresh: async () => ":memory:", isPersistent: false });
