// Writes rows until it is killed, and prints the number of each when it is acknowledged. Arguments: address of the database, first number, transactions at a time.
import { writeSync } from "node:fs";
import { openDatabase, type Migration } from "../index.ts";

/** Two tables that always have the same rows. */
export const WRITER_MIGRATIONS: readonly Migration[] = [
  { sql: "CREATE TABLE rows_a (id {int} PRIMARY KEY, filling TEXT NOT NULL) {strict};" },
  { sql: "CREATE TABLE rows_b (id {int} PRIMARY KEY REFERENCES rows_a (id)) {strict};" },
];

/** What the tests wait for. */
export const OPENING = "opening";

async function main([url = "", first = "0", width = "1"]: readonly string[]): Promise<void> {
  writeSync(1, `${OPENING}\n`);
  const database = await openDatabase({ url, name: "writer", migrations: WRITER_MIGRATIONS });
  let next = Number(first);
  const write = async (): Promise<never> => {
    for (;;) {
      const id = next++;
      try {
        await database.transaction(async (queries) => {
          await queries.run("INSERT INTO rows_a (id, filling) VALUES (?, ?)", [id, "x".repeat(id % 3000)]);
          await queries.run("INSERT INTO rows_b (id) VALUES (?)", [id]);
        });
        writeSync(1, `${id}\n`);
      } catch (error) {
        if ((error as { code?: string }).code !== "ERR_STORAGE_UNAVAILABLE") throw error;
        // The server is away; it is asked again in a while.
        await new Promise((resolve) => {
          setTimeout(resolve, 20);
        });
      }
    }
  };
  await Promise.all(Array.from({ length: Number(width) }, write));
}

if (process.argv[1] === import.meta.filename) await main(process.argv.slice(2));
