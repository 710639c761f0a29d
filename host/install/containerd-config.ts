import { isDeepStrictEqual } from "node:util";
import { messageOf } from "@sealpod/core";
import { parseToml } from "@sealpod/shim";
import { InstallError } from "./errors.ts";

/** Names of the runtime in containerd's configuration, and so of the RuntimeClasses' handlers: AKS's documents have the first, its clusters the second. */
export const HANDLERS: readonly string[] = ["kata-cc", "kata-cc-isolation"];

/** What containerd makes the name of the shim's program of (specs/runtime.md 5.1). */
export const RUNTIME_TYPE = "io.containerd.kata-cc.v2";

/** Largest configuration of containerd that is read: `containerd config default` has 10 KiB. */
export const MAX_CONTAINERD_CONFIG: number = 1024 * 1024;

const BEGIN = "# BEGIN sealpod";
const END = "# END sealpod";
const BEGIN_REST = ": written by `sealpod host install`; `sealpod host install --uninstall` removes these lines";
/** In the first line of our part: what removing it has to put right. */
const NO_NEWLINE = " (the file ended without a line break)";
const NO_FILE = " (there was no file)";

const RUNC_NOTE = "# containerd's own default: it has it no longer where another runtime is named.";

/** Name of CRI's part, by the version of the file. Version 1 has other names for everything, and containerd 2 does not take it. */
const CRI: Readonly<Record<number, string>> = { 2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime" };

type Table = Readonly<Record<string, unknown>>;

/**
 * Adds the runtimes to the text of containerd's configuration, or renews what was added before. All else stays as it is, byte for byte.
 *
 * They stand in the file itself. In a file that it imports they would take the place of CRI's whole part: containerd 1.6.20 and 1.7.24 merge
 * imported files by plugin, not by key, so that the pause image, the CNI directories and all other runtimes would be at their defaults.
 * @param text undefined if there is no file
 * @param path of the file, for messages
 * @param shimConfig path for the runtime's `ConfigPath`
 * @throws {InstallError} ERR_INSTALL_CONTAINERD
 */
export function addRuntimes(text: string | undefined, path: string, shimConfig: string): string {
  const { head, tail, ...old } = splitText(text ?? "", path);
  const isMade = text === undefined || old.isMade;
  const without = parse(`${isMade ? VERSION_LINE : ""}${joinParts(head, old.isOpen, tail)}`, path);
  const version = without["version"];
  const cri = typeof version === "number" ? CRI[version] : undefined;
  if (cri === undefined) {
    throw refusal(
      path,
      `has version ${JSON.stringify(version) ?? "1 (none is named)"}, expected 2 or 3`,
      'Let containerd rewrite it (containerd config migrate), or put "version = 2" at the top of a file without plugins.',
    );
  }
  const disabled = without["disabled_plugins"];
  if (Array.isArray(disabled) && disabled.some((name) => name === "cri" || name === cri))
    throw refusal(path, "disables CRI, without which there is no Kubernetes on this node", 'Remove "cri" from disabled_plugins.');
  const runtimes = runtimesOf(without, cri, path);
  for (const name of HANDLERS) {
    if (runtimes !== undefined && Object.hasOwn(runtimes, name))
      throw refusal(
        path,
        `has a runtime ${name} that sealpod did not write`,
        "Remove it, if it is of an older installation; kubectl get runtimeclass shows who uses it.",
      );
  }
  // What names a single runtime replaces all that containerd has by itself: without this, pods without a RuntimeClass would not start any more.
  // Whoever has added one since then had it, too.
  const keepRunc = runtimes === undefined || (old.runc !== "" && !Object.hasOwn(runtimes, "runc"));
  const isOpen = old.hasBlock ? old.isOpen : head !== "" && !head.endsWith("\n");
  const block = blockText({ cri, shimConfig, keepRunc, mark: isMade ? NO_FILE : isOpen ? NO_NEWLINE : "" });
  const result = `${head}${isOpen ? "\n" : ""}${block}${tail}`;
  verify(without, parse(result, path), cri, keepRunc, path);
  return result;
}

/**
 * The text as it was before {@link addRuntimes}: what others have changed since then stays.
 * @returns undefined if there was no file, and nothing was added to ours
 * @throws {InstallError} ERR_INSTALL_CONTAINERD if our part has lost its first or last line
 */
export function removeRuntimes(text: string, path: string): string | undefined {
  const { head, tail, isOpen, isMade, runc } = splitText(text, path);
  const rest = joinParts(head, isOpen, tail);
  // Whoever added to a file of ours had its version in mind.
  const whole = isMade && rest !== "" ? `${VERSION_LINE}${rest}` : rest;
  if (isMade && rest === "") return undefined;
  if (runc === "") return whole;
  // Whoever has added a runtime since then has containerd's own from us alone.
  const file = parse(whole, path);
  const runtimes = Object.values(CRI)
    .map((cri) => runtimesOf(file, cri, path))
    .find((found) => found !== undefined);
  return runtimes === undefined || Object.hasOwn(runtimes, "runc") ? whole : `${whole}${whole.endsWith("\n") ? "" : "\n"}${runc}`;
}

/** True if the text has our part. */
export function hasRuntimes(text: string): boolean {
  return text.split("\n").some((line) => line.startsWith(BEGIN));
}

interface Parts {
  /** What stands before our part, without the line break that is ours. */
  readonly head: string;
  readonly hasBlock: boolean;
  /** What stands behind it. */
  readonly tail: string;
  /** The line break between both is ours. */
  readonly isOpen: boolean;
  /** There was no file. */
  readonly isMade: boolean;
  /** The lines of our part that keep containerd's own runtime, if it has them. */
  readonly runc: string;
}

/** What a file says that was not there. */
const VERSION_LINE = "version = 2\n";

/** The text without our part. */
function joinParts(head: string, isOpen: boolean, tail: string): string {
  return `${head}${isOpen && tail !== "" ? "\n" : ""}${tail}`;
}

function splitText(text: string, path: string): Parts {
  if (text.length > MAX_CONTAINERD_CONFIG) throw refusal(path, `has ${text.length} characters, more than ${MAX_CONTAINERD_CONFIG}`);
  const begins = indexesOf(text, BEGIN);
  const ends = indexesOf(text, END);
  const [begin, end] = [begins[0], ends[0]];
  if (begin === undefined && end === undefined) return { head: text, hasBlock: false, tail: "", isOpen: false, isMade: false, runc: "" };
  if (begin === undefined || end === undefined || begins.length > 1 || ends.length > 1 || end < begin) {
    throw refusal(
      path,
      `has ${begins.length} lines "${BEGIN}" and ${ends.length} lines "${END}", expected one of each, in this order`,
      "Remove those lines and what is between them.",
    );
  }
  const lineEnd = text.indexOf("\n", end);
  const after = lineEnd === -1 ? text.length : lineEnd + 1;
  const first = text.slice(begin, text.indexOf("\n", begin)).trimEnd();
  const isOpen = first.endsWith(NO_NEWLINE);
  return {
    head: text.slice(0, isOpen ? Math.max(0, begin - 1) : begin),
    hasBlock: true,
    tail: text.slice(after),
    isOpen,
    isMade: first.endsWith(NO_FILE),
    runc: runcOf(text.slice(begin, end)),
  };
}

/** The lines of {@link RUNC_NOTE} and the table below it. */
function runcOf(block: string): string {
  const lines = block.split("\n");
  const at = lines.indexOf(RUNC_NOTE);
  return at === -1 ? "" : `${lines.slice(at, at + 3).join("\n")}\n`;
}

/** Where lines begin that begin with the marker. */
function indexesOf(text: string, marker: string): readonly number[] {
  const found: number[] = [];
  for (let at = 0; at < text.length;) {
    if (text.startsWith(marker, at)) found.push(at);
    const next = text.indexOf("\n", at);
    if (next === -1) break;
    at = next + 1;
  }
  return found;
}

function blockText(options: { readonly cri: string; readonly shimConfig: string; readonly keepRunc: boolean; readonly mark: string }): string {
  const { cri, shimConfig, keepRunc, mark } = options;
  const table = (name: string): string => `plugins.${JSON.stringify(cri)}.containerd.runtimes.${name}`;
  const lines = [`${BEGIN}${BEGIN_REST}${mark}`];
  if (mark === NO_FILE) lines.push(VERSION_LINE.trimEnd());
  if (keepRunc) {
    lines.push(RUNC_NOTE, `[${table("runc")}]`, '  runtime_type = "io.containerd.runc.v2"');
  }
  for (const name of HANDLERS) {
    lines.push(
      `[${table(name)}]`,
      `  runtime_type = ${JSON.stringify(RUNTIME_TYPE)}`,
      "  privileged_without_host_devices = true",
      '  pod_annotations = ["io.katacontainers.*"]',
      '  container_annotations = ["io.katacontainers.*"]',
      `  [${table(name)}.options]`,
      `    ConfigPath = ${JSON.stringify(shimConfig)}`,
    );
  }
  return `${[...lines, END].join("\n")}\n`;
}

/** That nothing was changed but what was to be added. */
function verify(before: Table, after: Table, cri: string, keepRunc: boolean, path: string): void {
  const added = new Set([...HANDLERS, ...(keepRunc ? ["runc"] : [])]);
  const strip = (table: Table, runtimes: boolean): unknown => {
    const plugins = isTable(table["plugins"]) ? table["plugins"] : {};
    const section = isTable(plugins[cri]) ? plugins[cri] : {};
    const containerd = isTable(section["containerd"]) ? section["containerd"] : {};
    const all = isTable(containerd["runtimes"]) ? containerd["runtimes"] : {};
    const kept = Object.fromEntries(Object.entries(all).filter(([name]) => !runtimes || !added.has(name)));
    return { ...table, version: 0, plugins: { ...plugins, [cri]: { ...section, containerd: { ...containerd, runtimes: kept } } } };
  };
  // The prototypes of parsed tables differ from those of ours.
  const plain = (value: unknown): unknown =>
    JSON.parse(JSON.stringify(value, (_key, item: unknown) => (typeof item === "bigint" ? `${item}n` : item))) as unknown;
  const runtimes = runtimesOf(after, cri, path);
  const isThere = [...added].every((name) => runtimes !== undefined && Object.hasOwn(runtimes, name));
  if (!isThere || !isDeepStrictEqual(plain(strip(before, false)), plain(strip(after, true))))
    throw refusal(path, "would say something else for other runtimes or plugins with ours added", HAND_HINT);
}

/**
 * That what containerd makes of the file with the runtimes has all that it makes of it without them.
 * @param before output of `containerd config dump` without, `after` with them
 * @throws {InstallError} ERR_INSTALL_CONTAINERD
 */
export function verifyDump(before: string, after: string, path: string): void {
  const [left, right] = [parse(before, path), parse(after, path)];
  const dumped = Object.values(CRI).map((cri) => runtimesOf(right, cri, path));
  if (!HANDLERS.every((name) => dumped.some((runtimes) => runtimes !== undefined && Object.hasOwn(runtimes, name)))) {
    throw refusal(path, "does not count: containerd does not have the runtimes with them in it", IMPORT_HINT);
  }
  const lost = firstLost(left, right, []);
  if (lost !== undefined) throw refusal(path, `containerd would lose or change ${lost} by what is added`, HAND_HINT);
}

/** Path of the first value of one tree that the other does not have. What is empty counts as not there: so does containerd. */
function firstLost(left: unknown, right: unknown, at: readonly string[]): string | undefined {
  if (isTable(left)) {
    for (const [name, value] of Object.entries(left)) {
      // The list of the files that were read; and what 1.7 fills in for its own default alone, and later for every runtime.
      if (at.length === 0 && name === "imports") continue;
      if (name === "sandbox_mode" || name === "sandboxer") continue;
      const lost = firstLost(value, isTable(right) && Object.hasOwn(right, name) ? right[name] : undefined, [...at, name]);
      if (lost !== undefined) return lost;
    }
    return undefined;
  }
  const isEmpty = left === "" || left === 0 || left === false || left === null || (Array.isArray(left) && left.length === 0);
  if (isEmpty && right === undefined) return undefined;
  return JSON.stringify(left) === JSON.stringify(right) ? undefined : at.join(".");
}

/** What is read of a configuration of containerd beside its runtimes. */
export interface ContainerdFacts {
  /** Patterns of the files that it imports. */
  readonly imports: readonly string[];
  /** It has a part for CRI, which counts instead of that of whoever imports it. */
  readonly hasCri: boolean;
  /** It throws layers away that pods of ours need. */
  readonly discards: boolean;
  /** Directory of what runs, if it names one. */
  readonly state: string | undefined;
}

/**
 * Reads a configuration of containerd, or a file that one imports.
 * @throws {InstallError} ERR_INSTALL_CONTAINERD
 */
export function readImports(text: string, path: string): ContainerdFacts {
  const file = parse(text, path);
  const imports = Array.isArray(file["imports"]) ? file["imports"].filter((item): item is string => typeof item === "string") : [];
  const plugins = isTable(file["plugins"]) ? file["plugins"] : {};
  const parts = Object.values(CRI).map((cri) => plugins[cri]);
  const discards = parts.some((part) => isTable(part) && isTable(part["containerd"]) && part["containerd"]["discard_unpacked_layers"] === true);
  const state = typeof file["state"] === "string" && file["state"] !== "" ? file["state"] : undefined;
  return { imports, hasCri: parts.some((part) => part !== undefined), discards, state };
}

/** A runtime of ours in a configuration, whoever wrote it there. */
export interface FoundRuntime {
  readonly name: string;
  /** Of its table, as the file has it. */
  readonly table: string;
  /** The shim's configuration, if the runtime names one. */
  readonly configPath: string | undefined;
}

/**
 * The runtimes that start our shim, or have its configuration: of every version's part for CRI, with our lines around them or without.
 * @param shimConfig path of the configuration that ours have
 * @throws {InstallError} ERR_INSTALL_CONTAINERD if the file cannot be read
 */
export function findRuntimes(text: string, path: string, shimConfig: string): readonly FoundRuntime[] {
  const table = (value: unknown, name: string): Table => {
    const found = isTable(value) && Object.hasOwn(value, name) ? value[name] : undefined;
    return isTable(found) ? found : {};
  };
  return Object.entries(table(parse(text, path), "plugins")).flatMap(([plugin, part]) =>
    Object.entries(table(table(part, "containerd"), "runtimes")).flatMap(([name, runtime]) => {
      if (!isTable(runtime)) return [];
      const named = table(runtime, "options")["ConfigPath"];
      const configPath = typeof named === "string" && named !== "" ? named : undefined;
      const isOurs = runtime["runtime_type"] === RUNTIME_TYPE || configPath === shimConfig;
      return isOurs ? [{ name, table: `[plugins.${JSON.stringify(plugin)}.containerd.runtimes.${name}]`, configPath }] : [];
    }),
  );
}

/** What to do about a file that would replace ours. */
export const IMPORT_HINT = "If it imports other files: the last one with a part for CRI counts alone. Name that one with --containerd-config.";

const HAND_HINT = "Write the runtimes by hand; docs/host.md has them. Please report this, with the file.";

function runtimesOf(file: Table, cri: string, path: string): Table | undefined {
  let at: unknown = file;
  for (const name of ["plugins", cri, "containerd", "runtimes"]) {
    if (at === undefined) return undefined;
    if (!isTable(at)) throw refusal(path, `has something other than tables above ${name}`);
    at = Object.hasOwn(at, name) ? at[name] : undefined;
  }
  if (at !== undefined && !isTable(at)) throw refusal(path, "has runtimes that are no table");
  return at;
}

function parse(text: string, path: string): Table {
  try {
    return parseToml(text, path);
  } catch (cause) {
    throw new InstallError("ERR_INSTALL_CONTAINERD", `containerd's configuration: ${messageOf(cause)}`, {
      cause,
      details: { file: path },
      hint: "Mend it first, or name another with --containerd-config. It was not changed.",
    });
  }
}

function isTable(value: unknown): value is Table {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Date);
}

function refusal(path: string, problem: string, hint = "It was not changed."): InstallError {
  return new InstallError("ERR_INSTALL_CONTAINERD", `containerd's configuration ${path} ${problem}`, { hint, details: { file: path } });
}
