import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { expect } from "vitest";
import type { Database } from "../index.ts";
import { OPENING } from "./row-writer.ts";

const WRITER = join(import.meta.dirname, "row-writer.ts");

/** A process that writes rows, seen from outside. */
export class Writer {
  readonly acknowledged: number[] = [];
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  constructor(url: string, first: number, width: number) {
    const child = spawn(process.execPath, [WRITER, url, String(first), String(width)], { stdio: ["ignore", "pipe", "inherit"] });
    this.#child = child;
    this.#lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  }

  /** Waits until it has begun to open its database, and then until it has acknowledged so many rows more. */
  async until(rows: number): Promise<void> {
    const wanted = this.acknowledged.length + rows;
    while (this.acknowledged.length < wanted) if (!(await this.#line())) expect.fail("the writer ended by itself");
  }

  async opening(): Promise<void> {
    expect((await this.#lines.next()).value).toBe(OPENING);
  }

  /** SIGKILL; what was printed before is read to its end. */
  async kill(): Promise<void> {
    const exited = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    while (await this.#line());
    await exited;
    expect(this.#child.signalCode).toBe("SIGKILL");
  }

  async #line(): Promise<boolean> {
    const { done, value } = await this.#lines.next();
    if (done === true) return false;
    // The last line may be cut off by the kill only if it has no end, and then it is none.
    if (value !== OPENING) this.acknowledged.push(Number(value));
    return true;
  }
}

/** A moment that chance gives: rows to wait for before the kill. */
export function moment(): number {
  return Math.floor(Math.random() ** 3 * 300);
}

/** Every acknowledged row is there, in both tables or in none. */
export async function checkRows(database: Database, acknowledged: ReadonlySet<number>): Promise<void> {
  const ids = async (table: "rows_a" | "rows_b"): Promise<readonly number[]> => (await database.query(`SELECT id FROM ${table} ORDER BY id`)).map((row) => row["id"] as number);
  const [a, b] = await Promise.all([ids("rows_a"), ids("rows_b")]);
  expect(b).toEqual(a);
  const there = new Set(a);
  expect([...acknowledged].filter((id) => !there.has(id))).toEqual([]);
}
