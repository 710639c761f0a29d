import { readdir, stat } from "node:fs/promises";
import { basename, extname, join } from "node:path";
import { asObject, messageOf, type JsonObject, type JsonValue } from "@sealpod/core";
import type { RegoModule } from "@sealpod/rego";
import type { CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { pathOf, readText } from "../workspace.ts";
import { parseDocument } from "./documents.ts";

/** What files and directories hold. */
export interface Loaded {
  readonly modules: readonly RegoModule[];
  /** All data documents in one. */
  readonly data: JsonObject;
}

interface Found {
  /** As the user would name it. */
  readonly path: string;
  /** Names of the directories between the one that was named and the file: where its data goes. */
  readonly prefix: readonly string[];
}

/** Deepest directory that is searched. */
const MAX_DEPTH = 64;

/**
 * Loads modules and data as `opa` does: a named data file is merged at the root, one in a directory under the path of its
 * directory there; the name of the file says nothing. Names that start with a dot are left out in directories.
 * @throws {CliError} ERR_CLI_FILE
 */
export async function load(paths: readonly string[], context: CliContext): Promise<Loaded> {
  const modules: RegoModule[] = [];
  const data = new DataMerge();
  for (const { path, prefix } of await find(paths, [".rego", ".json", ".yaml", ".yml"], context)) {
    const { text } = await readText(path, context);
    if (extname(path) === ".rego") modules.push({ name: path, text });
    else data.add(path, prefix, parseDocument(path, text));
  }
  return { modules, data: data.document };
}

/**
 * Paths of the modules among files and in directories, in a stable order.
 * @throws {CliError} ERR_CLI_FILE
 */
export async function findModules(paths: readonly string[], context: CliContext): Promise<readonly string[]> {
  return (await find(paths, [".rego"], context)).map(({ path }) => path);
}

/**
 * The modules among files and in directories.
 * @throws {CliError} ERR_CLI_FILE
 */
export async function loadModules(paths: readonly string[], context: CliContext): Promise<readonly RegoModule[]> {
  const modules: RegoModule[] = [];
  for (const path of await findModules(paths, context)) modules.push({ name: path, text: (await readText(path, context)).text });
  return modules;
}

async function find(paths: readonly string[], extensions: readonly string[], context: CliContext): Promise<readonly Found[]> {
  const found = new Map<string, Found>();
  const add = (item: Found): void => {
    const full = pathOf(item.path, context);
    // A file that is named and lies in a named directory too is one file.
    if (!found.has(full)) found.set(full, item);
  };
  const search = async (path: string, prefix: readonly string[]): Promise<void> => {
    if (prefix.length > MAX_DEPTH) throw new CliError("ERR_CLI_FILE", `${path} is nested deeper than ${MAX_DEPTH} directories`);
    const entries = await readdir(pathOf(path, context), { withFileTypes: true }).catch((cause: unknown) => {
      throw new CliError("ERR_CLI_FILE", `${path} cannot be read: ${messageOf(cause)}`, { cause });
    });
    for (const entry of entries.toSorted((a, b) => (a.name < b.name ? -1 : 1))) {
      if (entry.name.startsWith(".")) continue;
      const inner = join(path, entry.name);
      // A link to a directory is not followed: it may lead back.
      if (entry.isDirectory()) await search(inner, [...prefix, entry.name]);
      else if (extensions.includes(extname(entry.name)) && (await isFile(inner, context))) add({ path: inner, prefix });
    }
  };
  for (const path of paths) {
    const status = await stat(pathOf(path, context)).catch((cause: unknown) => {
      const missing = (cause as NodeJS.ErrnoException).code === "ENOENT";
      throw new CliError("ERR_CLI_FILE", missing ? `${path} does not exist` : `${path} cannot be read: ${messageOf(cause)}`, {
        cause,
        hint: missing ? `Check the name; relative paths start from ${context.cwd}.` : "Check that you may read it.",
      });
    });
    if (status.isDirectory()) await search(path, []);
    else if (extensions.includes(extname(path))) add({ path, prefix: [] });
    else {
      throw new CliError("ERR_CLI_FILE", `${path} is none of ${extensions.join(", ")}`, {
        hint: `What a file holds is told by the end of its name: ${basename(path)} needs another one.`,
      });
    }
  }
  return [...found.values()];
}

async function isFile(path: string, context: CliContext): Promise<boolean> {
  return (await stat(pathOf(path, context)).catch(() => undefined))?.isFile() ?? false;
}

interface MutableObject {
  [name: string]: JsonValue;
}

/** Puts documents into one; two values for one name are refused, whichever file comes first. */
class DataMerge {
  readonly #document: MutableObject = emptyObject();

  get document(): JsonObject {
    return this.#document;
  }

  add(path: string, prefix: readonly string[], value: JsonValue): void {
    const wrapped = prefix.reduceRight<JsonValue>((inner, name) => Object.assign(emptyObject(), { [name]: inner }), value);
    const object = asObject(wrapped);
    if (object === undefined) {
      throw new CliError("ERR_CLI_FILE", `${path}: the document is ${kindOf(value)}, and data at the root must be an object`, {
        hint: 'Put it into an object under a name, e.g. {"name": …}.',
      });
    }
    this.#merge(path, [], this.#document, object);
  }

  #merge(path: string, at: readonly string[], into: MutableObject, from: JsonObject): void {
    for (const [name, value] of Object.entries(from)) {
      const there = [...at, name];
      const present = into[name];
      const [left, right] = [asObject(present), asObject(value)];
      if (present === undefined && right === undefined) define(into, name, value);
      else if (right !== undefined && (present === undefined || left !== undefined)) {
        // A copy, since a later document may be merged into it.
        if (present === undefined) define(into, name, emptyObject());
        this.#merge(path, there, into[name] as MutableObject, right);
      } else {
        throw new CliError("ERR_CLI_FILE", `${path}: ${there.join(".")} has a value already, from a file before it`, {
          hint: "Data files are merged; each value may come from one of them only.",
        });
      }
    }
  }
}

function emptyObject(): MutableObject {
  return Object.create(null) as MutableObject;
}

/** `__proto__` is a name like any other in an object without a prototype. */
function define(object: MutableObject, name: string, value: JsonValue): void {
  object[name] = value;
}

function kindOf(value: JsonValue): string {
  if (value === null) return "null";
  return Array.isArray(value) ? "an array" : `a ${typeof value === "bigint" ? "number" : typeof value}`;
}
