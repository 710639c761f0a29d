import { StorageError } from "./errors.ts";

/** Longest statement, in characters: those of the services have a few hundred. */
const MAX_STATEMENT = 65_536;

/** A statement in the common subset of SQLite and PostgreSQL. */
export interface Statement {
  /** As it was given, with `?`. */
  readonly sql: string;
  /** The same with `$1`, `$2`, …. */
  readonly numbered: string;
  /** How many parameters it takes. */
  readonly parameters: number;
  /** First word, in lower case. */
  readonly verb: string;
  /** False only if it cannot change anything. */
  readonly writes: boolean;
  /** True if SQLite takes back all of it, and nothing else, when it fails: not so with a conflict clause of its own (FAIL, ROLLBACK). */
  readonly whole: boolean;
}

/** They would end the transaction that {@link Database.transaction} keeps, or that others share. */
const CONTROL: ReadonlySet<string> = new Set(["begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release", "prepare"]);

/** Statements that change rows and nothing else. */
const CHANGES: ReadonlySet<string> = new Set(["insert", "update", "delete"]);

/** Skips what a `?` or `;` has no meaning in: text, quoted names, comments, and PostgreSQL's texts in dollars. */
const TOKEN = /'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|\/\*[^]*?\*\/|\$([A-Za-z_]*)\$[^]*?\$\1\$|[?;]|['"]|\/\*/g;

/**
 * Reads a statement: one, without transaction control, with each parameter written `?`.
 * @throws {StorageError} ERR_STORAGE_STATEMENT
 */
export function parseStatement(sql: string): Statement {
  if (sql.length > MAX_STATEMENT)
    throw new StorageError("ERR_STORAGE_STATEMENT", `a statement has ${sql.length} characters, the longest may have ${MAX_STATEMENT}`);
  let parameters = 0;
  let ended = -1;
  const numbered = sql.replaceAll(TOKEN, (token, _tag: unknown, at: number) => {
    if (token === "?") return `$${++parameters}`;
    if (token === ";" && ended < 0) ended = at;
    // What is opened and never closed is left to the database, which says so.
    return token;
  });
  // SQLite prepares the first statement and is silent about the others.
  if (ended >= 0 && sql.slice(ended + 1).trim() !== "")
    throw new StorageError("ERR_STORAGE_STATEMENT", `expected one statement, found text behind the ; at ${ended}: ${shortened(sql)}`);
  const verb = /^\s*([A-Za-z]+)/.exec(sql.replace(/^(?:\s+|--[^\n]*\n|\/\*[^]*?\*\/)+/, ""))?.[1]?.toLowerCase() ?? "";
  if (CONTROL.has(verb)) {
    throw new StorageError("ERR_STORAGE_STATEMENT", `${verb.toUpperCase()} is not for statements: ${shortened(sql)}`, { hint: "Use transaction()." });
  }
  return {
    sql,
    numbered,
    parameters,
    verb,
    writes: verb !== "select" && verb !== "values" && verb !== "explain",
    whole: CHANGES.has(verb) && !/\bor\s+(?:fail|rollback)\b/i.test(sql),
  };
}

/** The beginning of a statement, for messages. Statements hold no values: those are parameters. */
export function shortened(sql: string): string {
  const line = sql.replaceAll(/\s+/g, " ").trim();
  return line.length <= 120 ? line : `${line.slice(0, 117)}...`;
}

/** Remembers what was read last, up to a number: the least recently used one goes. */
export class StatementCache<T> {
  readonly #limit: number;
  readonly #make: (sql: string) => T;
  readonly #entries = new Map<string, T>();

  constructor(limit: number, make: (sql: string) => T) {
    this.#limit = limit;
    this.#make = make;
  }

  get(sql: string): T {
    const found = this.#entries.get(sql);
    if (found !== undefined) {
      // Only a full cache has to know who comes last.
      if (this.#entries.size >= this.#limit) {
        this.#entries.delete(sql);
        this.#entries.set(sql, found);
      }
      return found;
    }
    const made = this.#make(sql);
    if (this.#entries.size >= this.#limit) {
      const oldest = this.#entries.keys().next();
      if (oldest.done !== true) this.#entries.delete(oldest.value);
    }
    this.#entries.set(sql, made);
    return made;
  }

  get size(): number {
    return this.#entries.size;
  }
}
