import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join, normalize } from "node:path";
import { isSealpodError, messageOf } from "@sealpod/core";
import {
  defaultConfig,
  defaultConfigText,
  DEFAULT_CONFIG_PATH,
  DEFAULT_PREFIX,
  LAUNCHER_NAME,
  type LauncherPlaces,
  parseConfig,
  readRecord as readPodRecord,
  type ShimConfig,
  shimRuns,
} from "@sealpod/shim";
import {
  addRuntimes,
  findRuntimes,
  type FoundRuntime,
  hasRuntimes,
  IMPORT_HINT,
  MAX_CONTAINERD_CONFIG,
  readImports,
  removeRuntimes,
  verifyDump,
} from "./containerd-config.ts";
import { InstallError } from "./errors.ts";
import { type FileContent, hashContent, NodeFiles } from "./node-files.ts";
import { encodeRecord, type InstallRecord, MAX_RECORD, parseRecord, type RecordedFile } from "./record.ts";
import { memoryNote, PROCESSOR_UNIT, processorUnitText, runtimeClassText } from "./texts.ts";

/** Where containerd finds its configuration unless it is told another place. */
export const CONTAINERD_CONFIG = "/etc/containerd/config.toml";

/** Where programs go that containerd is to find: AKS has its shim there, and it is in the PATH of every distribution's unit. */
const LAUNCHER = `/usr/local/bin/${LAUNCHER_NAME}`;

const UNIT = `/etc/systemd/system/${PROCESSOR_UNIT}`;
/** What `systemctl enable` makes. */
const UNIT_LINK = `/etc/systemd/system/multi-user.target.wants/${PROCESSOR_UNIT}`;

/** Keys of the emulated processor, and the directories that its guests see. */
const PROCESSOR_KEYS = "/var/lib/sealpod/processor";
const PROCESSOR_SOCKET = "/run/sealpod/psp.sock";
const PROCESSOR_GUESTS = "/run/sealpod/guests";

/** Files of a utility VM's image: five today. More than this, and the wrong directory was named. */
const MAX_UVM_FILES = 64;

/** Where the files come from. Absolute paths of this process, not of the node. */
export interface InstallSources {
  /** Node.js 24 for the node's processor. */
  readonly node: string;
  /** Bundles: `build/shim.mjs`, `build/agent.mjs`, `build/processor.mjs`. */
  readonly shim: string;
  readonly agent: string;
  readonly processor: string;
  /** Directory of the utility VM's image. */
  readonly uvm: string;
  /** Text of the launcher (`launcherText` of @sealpod/shim). */
  readonly launcher: (places: LauncherPlaces) => string;
}

/** Which node, and where on it. */
export interface InstallTarget {
  /** Directory that stands for the node's root: `/`, or where an image of a node is being made. */
  readonly root: string;
  /** Directory of our files, as the node will see it. Default {@link DEFAULT_PREFIX}. */
  readonly prefix?: string;
  /** containerd's configuration, as the node sees it. Default {@link CONTAINERD_CONFIG}. */
  readonly containerdConfig?: string;
}

/** What the installation asks of the world. */
export interface InstallPorts {
  /**
   * What containerd makes of a configuration (`containerd config dump`); undefined where there is no containerd. Rejects when containerd
   * does not take the file.
   * @param place path for this process
   */
  readonly dump: (place: string) => Promise<string | undefined>;
}

/** One change. `path` is the node's. */
export interface InstallChange {
  readonly path: string;
  readonly kind: "write" | "replace" | "keep" | "edit" | "remove" | "same";
  /** For people; why, where that is not plain. */
  readonly note?: string;
}

/** What an installation, or its removal, would do. */
export interface InstallPlan {
  readonly changes: readonly InstallChange[];
  /** What the administrator should do something about. */
  readonly warnings: readonly string[];
  /** What the administrator should know. */
  readonly notes: readonly string[];
  /** Does it. Returns when all is on the disk. */
  apply(): Promise<void>;
}

interface PlannedFile {
  readonly path: string;
  readonly mode: number;
  readonly content: FileContent;
  /** Its reader may change it: it is written again only as long as nobody has. */
  readonly isEditable?: boolean;
}

interface Paths {
  readonly prefix: string;
  readonly record: string;
  readonly containerdConfig: string;
  readonly backup: string;
}

/**
 * Plans the installation on a node, or the renewal of one. Nothing is changed before {@link InstallPlan.apply}.
 * @param emulated whether the node needs the emulated security processor: it has no SEV-SNP
 * @throws {InstallError} ERR_INSTALL_SOURCE, ERR_INSTALL_FOREIGN, ERR_INSTALL_CONTAINERD, ERR_INSTALL_RECORD, ERR_INSTALL_IO
 */
export async function planInstall(target: InstallTarget, sources: InstallSources, emulated: boolean, ports: InstallPorts): Promise<InstallPlan> {
  const files = new NodeFiles(target.root);
  const paths = pathsOf(target);
  const old = await readRecord(files, paths);
  if (old !== undefined && old.containerdConfig !== paths.containerdConfig) {
    throw new InstallError("ERR_INSTALL_FOREIGN", `${paths.record} says that ${old.containerdConfig} has the runtimes, not ${paths.containerdConfig}`, {
      hint: "Remove the older installation first: sealpod host install --uninstall.",
    });
  }
  const planned = await plannedFiles(paths, sources, emulated);
  const changes: InstallChange[] = [];
  const writes: PlannedFile[] = [];
  const recorded: RecordedFile[] = [];
  for (const file of planned) {
    const before = old?.files.find(({ path }) => path === file.path);
    const [found, wanted] = [await files.hash(file.path), await hashContent(file.content)];
    // What is in a directory that others made, such as /usr/local, is ours only if it is what we wrote. In one that we made we mend our own files.
    const isOurs = found === undefined || (before !== undefined && (before.hashes.includes(found) || isMadeByUs(file.path, paths, old)));
    if (found === wanted && (await files.mode(file.path)) === file.mode) {
      changes.push({ path: file.path, kind: "same" });
      if (isOurs) recorded.push({ path: file.path, hashes: [wanted] });
    } else if (file.isEditable === true && found !== undefined && !(before?.hashes.includes(found) ?? false)) {
      changes.push({ path: file.path, kind: "keep", note: before === undefined ? "it was there before" : "it was edited" });
      if (before !== undefined) recorded.push(before);
    } else if (!isOurs) {
      throw new InstallError("ERR_INSTALL_FOREIGN", `${file.path} is there, and sealpod did not write it`, {
        details: { file: file.path },
        hint: file.path.startsWith(`${paths.prefix}/`)
          ? `Name another --prefix, a directory for sealpod alone. If it is of an older installation, whose record ${paths.record} is lost: remove it.`
          : "It may be of another shim of that name. Remove or rename it, if nothing needs it.",
      });
    } else {
      changes.push({ path: file.path, kind: found === undefined ? "write" : "replace" });
      writes.push(file);
      recorded.push({ path: file.path, hashes: [wanted] });
    }
  }
  const gone = (old?.files ?? []).filter(({ path }) => !planned.some((file) => file.path === path));
  for (const { path } of gone) changes.push({ path, kind: "remove", note: "no longer needed" });

  const edit = await planEdit(files, paths, ports);
  changes.push(edit.change);
  const shim = await installedConfig(files, changes, paths);
  return {
    changes,
    warnings: [...edit.warnings, ...shimWarnings(shim, emulated)],
    notes: shim.config === undefined ? [] : [memoryNote(shim.config.sizing)],
    async apply() {
      // First of all, while nothing has been changed.
      await edit.rehearse();
      const wanted = [paths.prefix, ...writes.map(({ path }) => dirname(path)), dirname(paths.containerdConfig)];
      const missing = await files.missingDirectories(wanted);
      const directories = [...new Set([...(old?.directories ?? []), ...missing])];
      const save = async (list: readonly RecordedFile[]): Promise<void> => {
        const record: InstallRecord = { files: list, directories, containerdConfig: paths.containerdConfig, data: DATA };
        await files.write(paths.record, 0o644, { kind: "text", text: encodeRecord(record) });
      };
      await files.makeDirectory(paths.prefix);
      // What is there now is ours as well, until it has been replaced.
      const before = (path: string): readonly string[] => old?.files.find((file) => file.path === path)?.hashes ?? [];
      await save([...recorded.map(({ path, hashes }) => ({ path, hashes: [...new Set([...hashes, ...before(path)])] })), ...gone]);
      for (const directory of missing) await files.makeDirectory(directory);
      for (const file of writes) await files.write(file.path, file.mode, file.content);
      for (const { path } of gone) await files.remove(path);
      // Last: whenever containerd is started again, it finds a shim that is whole.
      await edit.apply();
      await save(recorded);
    },
  };
}

/**
 * Plans the removal of an installation. Nothing is changed before {@link InstallPlan.apply}.
 * @throws {InstallError} ERR_INSTALL_BUSY, ERR_INSTALL_CONTAINERD, ERR_INSTALL_RECORD, ERR_INSTALL_IO
 */
export async function planUninstall(target: InstallTarget): Promise<InstallPlan> {
  const files = new NodeFiles(target.root);
  const named = pathsOf(target);
  const record = await readRecord(files, named);
  const paths = record === undefined ? named : pathsOf({ ...target, containerdConfig: target.containerdConfig ?? record.containerdConfig });
  const changes: InstallChange[] = [];
  const warnings: string[] = [];
  const texts = await containerdTexts(files, [paths.containerdConfig, ...(record === undefined ? [] : [record.containerdConfig])]);
  const runtimes = texts.flatMap(({ path, text }) => findRuntimes(text, path, DEFAULT_CONFIG_PATH).map((runtime) => ({ ...runtime, path })));
  const shims = await shimConfigs(files, [DEFAULT_CONFIG_PATH, ...runtimes.flatMap(({ configPath }) => configPath ?? [])]);
  const busy = await busyReason(files, shims, texts);
  if (busy !== undefined) throw busy;

  const text = await files.read(paths.containerdConfig, MAX_CONTAINERD_CONFIG);
  const edited = text !== undefined && hasRuntimes(text) ? { text: removeRuntimes(text, paths.containerdConfig) } : undefined;
  if (edited !== undefined) changes.push({ path: paths.containerdConfig, kind: edited.text === undefined ? "remove" : "edit" });
  refuseLeft([
    ...(edited === undefined ? [] : findRuntimes(edited.text ?? "", paths.containerdConfig, DEFAULT_CONFIG_PATH)).map((runtime) => ({
      ...runtime,
      path: paths.containerdConfig,
    })),
    ...runtimes.filter(({ path }) => edited === undefined || path !== paths.containerdConfig),
  ]);
  if (record === undefined && edited !== undefined) {
    warnings.push(`there is no ${paths.record}, so only the runtimes are removed: name the --prefix of the installation, if it had one`);
  }

  const removals: string[] = [];
  for (const { path, hashes } of record?.files ?? []) {
    const found = await files.hash(path);
    if (found === undefined) continue;
    const isEdited = !hashes.includes(found);
    if (isEdited && !isMadeByUs(path, paths, record) && path !== DEFAULT_CONFIG_PATH) {
      changes.push({ path, kind: "keep", note: "it is not what sealpod wrote" });
      continue;
    }
    removals.push(path);
    changes.push({ path, kind: "remove", ...(isEdited ? { note: "it was edited" } : {}) });
  }
  if (removals.includes(UNIT) && (await files.exists(UNIT_LINK))) removals.push(UNIT_LINK);
  for (const path of record === undefined ? [] : [paths.backup, ...record.data]) {
    if (!(await files.exists(path))) continue;
    removals.push(path);
    changes.push({ path, kind: "remove" });
  }
  // Whose else they are, nobody here knows.
  for (const { path, config } of shims) {
    const others = [config.runDirectory, config.layerDirectory].filter((item) => !DATA.includes(item));
    warnings.push(...others.map((item) => `${item} is named in ${path} and stays: remove it if nothing else uses it`));
  }
  return {
    changes,
    warnings,
    notes: [],
    async apply() {
      // First: if all else stays undone, containerd has the runtimes no more when it is started again. Until then it has them, and cannot start them.
      if (edited?.text !== undefined) {
        await files.write(paths.containerdConfig, (await files.mode(paths.containerdConfig)) ?? 0o644, { kind: "text", text: edited.text });
      } else if (edited !== undefined) await files.remove(paths.containerdConfig);
      for (const path of removals) await files.remove(path);
      if (record === undefined) return;
      for (const path of ["/run/sealpod", "/var/lib/sealpod"]) await files.removeIfEmpty(path);
      await files.remove(paths.record);
      for (const path of record.directories.toReversed()) await files.removeIfEmpty(path);
    },
  };
}

function pathsOf({ prefix = DEFAULT_PREFIX, containerdConfig = CONTAINERD_CONFIG }: InstallTarget): Paths {
  for (const [name, path] of Object.entries({ prefix, containerdConfig })) {
    // The launcher, units and tables have them in them; each can quote, but nobody needs it.
    if (!/^(?:\/[A-Za-z0-9][A-Za-z0-9._+-]*)+$/.test(path))
      throw new InstallError("ERR_INSTALL_SOURCE", `${name} is ${JSON.stringify(path)}, expected an absolute path of letters, digits and . _ + -`);
  }
  return { prefix, record: `${prefix}/install.json`, containerdConfig, backup: `${containerdConfig}.before-sealpod` };
}

/** Where pods and the processor leave something, if no configuration says otherwise. */
const DATA: readonly string[] = ["/run/sealpod/pods", PROCESSOR_GUESTS, PROCESSOR_SOCKET, "/var/lib/sealpod/layers", PROCESSOR_KEYS];

/** True for a path in the prefix, if that was made by the installation: what is there under a name of ours is ours to mend and to remove. */
function isMadeByUs(path: string, { prefix }: Paths, record: InstallRecord | undefined): boolean {
  return path.startsWith(`${prefix}/`) && record?.directories.includes(prefix) === true;
}

/** A configuration of the shim. */
interface NamedConfig {
  readonly path: string;
  readonly config: ShimConfig;
}

/** The configurations at these paths; that at the default place is there even if its file is not. */
async function shimConfigs(files: NodeFiles, paths: readonly string[]): Promise<readonly NamedConfig[]> {
  const found: NamedConfig[] = [];
  for (const path of new Set(paths)) {
    try {
      const text = await files.read(path, MAX_CONTAINERD_CONFIG);
      if (text !== undefined || path === DEFAULT_CONFIG_PATH) found.push({ path, config: parseConfig(text ?? "", path) });
    } catch {
      // Who removes an installation whose configuration is broken wants it gone. No pod starts with such a one; bundles tell of those that run.
      found.push({ path, config: defaultConfig() });
    }
  }
  return found;
}

/** What the node's pods will have, once the installation is done; an error if that cannot be read. */
async function installedConfig(
  files: NodeFiles,
  changes: readonly InstallChange[],
  { prefix }: Paths,
): Promise<{ readonly config?: ShimConfig; readonly problem?: string }> {
  const isKept = changes.some(({ path, kind }) => path === DEFAULT_CONFIG_PATH && kind === "keep");
  if (!isKept) return { config: parseConfig(defaultConfigText({ uvm: `${prefix}/uvm`, agent: `${prefix}/agent.mjs` }), DEFAULT_CONFIG_PATH) };
  try {
    return { config: parseConfig((await files.read(DEFAULT_CONFIG_PATH, MAX_CONTAINERD_CONFIG)) ?? "", DEFAULT_CONFIG_PATH) };
  } catch (error) {
    const hint = isSealpodError(error) && error.hint !== undefined ? ` ${error.hint}` : "";
    return { problem: `${messageOf(error)}: every pod is refused until that is mended.${hint}` };
  }
}

function shimWarnings({ config, problem }: { readonly config?: ShimConfig; readonly problem?: string }, emulated: boolean): readonly string[] {
  if (problem !== undefined) return [problem];
  if (config === undefined || emulated || config.isolation === "vm" || config.isolation === "process" || config.firmware !== undefined) return [];
  return [
    `${DEFAULT_CONFIG_PATH} names no firmware: where there is SEV-SNP, every pod is refused. Set hypervisor.firmware to an OVMF of the AmdSev kind, or ` +
      'isolation = "vm" for machines without protection from the node',
  ];
}

async function plannedFiles({ prefix }: Paths, sources: InstallSources, emulated: boolean): Promise<readonly PlannedFile[]> {
  const inPrefix = {
    node: `${prefix}/bin/node`,
    shim: `${prefix}/shim.mjs`,
    agent: `${prefix}/agent.mjs`,
    processor: `${prefix}/processor.mjs`,
    uvm: `${prefix}/uvm`,
  };
  const copy = (path: string, from: string, mode = 0o644): PlannedFile => ({ path, mode, content: { kind: "copy", from } });
  const write = (path: string, text: string, mode = 0o644): PlannedFile => ({ path, mode, content: { kind: "text", text } });
  const unit = processorUnitText({
    node: inPrefix.node,
    processor: inPrefix.processor,
    socket: PROCESSOR_SOCKET,
    state: PROCESSOR_KEYS,
    guests: PROCESSOR_GUESTS,
  });
  return [
    copy(inPrefix.node, sources.node, 0o755),
    copy(inPrefix.shim, sources.shim),
    copy(inPrefix.agent, sources.agent),
    ...(await uvmFiles(sources.uvm)).map((name) => copy(`${inPrefix.uvm}/${name}`, join(sources.uvm, name))),
    ...(emulated ? [copy(inPrefix.processor, sources.processor), write(UNIT, unit)] : []),
    write(`${prefix}/runtimeclass.yaml`, runtimeClassText()),
    { ...write(DEFAULT_CONFIG_PATH, defaultConfigText({ uvm: inPrefix.uvm, agent: inPrefix.agent })), isEditable: true },
    write(LAUNCHER, sources.launcher({ node: inPrefix.node, shim: inPrefix.shim, config: DEFAULT_CONFIG_PATH }), 0o755),
  ];
}

/** Names of the image's files, its manifest last: with it the image counts. */
async function uvmFiles(directory: string): Promise<readonly string[]> {
  const entries = await readdir(directory, { withFileTypes: true }).catch(() => []);
  const names = entries.filter((entry) => entry.isFile() && !entry.name.startsWith(".")).map(({ name }) => name);
  if (!names.includes("uvm.json") || names.length > MAX_UVM_FILES) {
    throw new InstallError("ERR_INSTALL_SOURCE", `${directory} is no image of a utility VM: expected uvm.json and at most ${MAX_UVM_FILES} files`, {
      details: { directory, found: names.length },
      hint: "Make one: sealpod uvm build.",
    });
  }
  return [...names.filter((name) => name !== "uvm.json").toSorted(), "uvm.json"];
}

async function readRecord(files: NodeFiles, { record }: Paths): Promise<InstallRecord | undefined> {
  const text = await files.read(record, MAX_RECORD);
  return text === undefined ? undefined : parseRecord(text, record);
}

interface Edit {
  readonly change: InstallChange;
  readonly warnings: readonly string[];
  /** Asks containerd what it would make of the file. */
  rehearse(): Promise<void>;
  apply(): Promise<void>;
}

/** The change of containerd's configuration, tried before anything is changed. */
async function planEdit(files: NodeFiles, paths: Paths, ports: InstallPorts): Promise<Edit> {
  const path = paths.containerdConfig;
  const text = await files.read(path, MAX_CONTAINERD_CONFIG);
  if (text === undefined && (await files.exists(path))) {
    throw new InstallError("ERR_INSTALL_CONTAINERD", `containerd's configuration ${path} is a link to a file that is not there`, {
      details: { file: path },
      hint: "Make that file, or remove the link. Below --root, links mean files of that root.",
    });
  }
  const wanted = addRuntimes(text, path, DEFAULT_CONFIG_PATH);
  const warnings: string[] = [];
  if (text !== undefined) {
    const { imports, discards } = readImports(text, path);
    if (discards) warnings.push(`${path} has discard_unpacked_layers = true: pods of the runtimes need the layers that it throws away, so set it to false`);
    await refuseReplaced(files, path, imports);
  }
  const mode = (await files.mode(path)) ?? 0o644;
  if (text === wanted) return { change: { path, kind: "same" }, warnings, rehearse: async () => undefined, apply: async () => undefined };
  return {
    change: { path, kind: text === undefined ? "write" : "edit" },
    warnings,
    rehearse: async () => rehearse(files, path, { before: text, after: wanted }, ports),
    async apply() {
      // The file as it was before ours, not as an older version of ours left it.
      if (text !== undefined && !hasRuntimes(text)) await files.write(paths.backup, mode, { kind: "text", text });
      await files.write(path, mode, { kind: "text", text: wanted });
    },
  };
}

async function rehearse(
  files: NodeFiles,
  path: string,
  texts: { readonly before: string | undefined; readonly after: string },
  ports: InstallPorts,
): Promise<void> {
  const dump = async (text: string): Promise<string | undefined> => {
    if (texts.before === undefined) {
      const directory = await mkdtemp(join(tmpdir(), "sealpod-containerd-"));
      try {
        const place = join(directory, "config.toml");
        await writeFile(place, text);
        return await ports.dump(place);
      } finally {
        await rm(directory, { recursive: true, force: true });
      }
    }
    // Beside the file: what it imports may be named from where it is.
    const staged = await files.stage(path, 0o600, { kind: "text", text });
    try {
      return await ports.dump(staged.place);
    } finally {
      await staged.abort();
    }
  };
  const before = await dump(texts.before === undefined ? "version = 2\n" : texts.before).catch((cause: unknown) => {
    throw new InstallError("ERR_INSTALL_CONTAINERD", `containerd does not take ${path} as it is: ${messageOf(cause).slice(0, 500)}`, {
      cause,
      hint: "It was not changed. Mend it first.",
    });
  });
  const after = await dump(texts.after).catch((cause: unknown) => {
    throw new InstallError("ERR_INSTALL_CONTAINERD", `containerd does not take ${path} with the runtimes added: ${messageOf(cause).slice(0, 500)}`, {
      cause,
      hint: "It was not changed.",
    });
  });
  if (before !== undefined && after !== undefined) verifyDump(before, after, path);
}

/** Refuses a file whose part for CRI an imported file replaces. */
async function refuseReplaced(files: NodeFiles, path: string, imports: readonly string[]): Promise<void> {
  for (const { path: name, text } of await importedTexts(files, path, imports)) {
    if (!readImports(text, name).hasCri) continue;
    throw new InstallError("ERR_INSTALL_CONTAINERD", `${path} imports ${name}, whose part for CRI counts instead of its own`, {
      details: { file: path, imported: name },
      hint: IMPORT_HINT,
    });
  }
}

/** A configuration of containerd, or a file that one imports. */
interface ContainerdText {
  readonly path: string;
  readonly text: string;
}

async function importedTexts(files: NodeFiles, path: string, imports: readonly string[]): Promise<readonly ContainerdText[]> {
  const found: ContainerdText[] = [];
  for (const pattern of imports) {
    for (const name of await files.glob(pattern.startsWith("/") ? pattern : join(dirname(path), pattern))) {
      const text = name === path ? undefined : await files.read(name, MAX_CONTAINERD_CONFIG);
      if (text !== undefined) found.push({ path: name, text });
    }
  }
  return found;
}

/** The files at these paths, and what they import. */
async function containerdTexts(files: NodeFiles, paths: readonly string[]): Promise<readonly ContainerdText[]> {
  const found: ContainerdText[] = [];
  for (const path of new Set(paths)) {
    const text = await files.read(path, MAX_CONTAINERD_CONFIG);
    if (text !== undefined) found.push({ path, text }, ...(await importedTexts(files, path, readImports(text, path).imports)));
  }
  return found;
}

/** Refuses to remove what runtimes in containerd's configuration would still name: containerd would have runtimes whose pods cannot start. */
function refuseLeft(left: readonly (FoundRuntime & ContainerdPath)[]): void {
  const [first] = left;
  if (first === undefined) return;
  const tables = left.map(({ table, path }) => `${table} in ${path}`).join(", ");
  throw new InstallError(
    "ERR_INSTALL_CONTAINERD",
    `containerd's configuration still has runtimes of sealpod, outside of the lines that sealpod wrote: ${tables}`,
    {
      details: { file: first.path, runtimes: left.map(({ name }) => name) },
      hint: "Remove these tables, and those below them (.options), by hand, and start this again. Nothing was changed.",
    },
  );
}

interface ContainerdPath {
  readonly path: string;
}

/** Where containerd keeps the bundles of what runs, unless its configuration has another `state`. */
const CONTAINERD_STATE = "/run/containerd";

/** Why an installation cannot be removed now, or undefined. */
async function busyReason(files: NodeFiles, shims: readonly NamedConfig[], texts: readonly ContainerdText[]): Promise<InstallError | undefined> {
  const hint = "Drain the node first (kubectl drain). What a pod left that is no more, containerd cleans up when it starts.";
  for (const runDirectory of new Set(shims.map(({ config }) => config.runDirectory))) {
    const [first, ...others] = await files.list(runDirectory);
    if (first !== undefined) {
      const place = `${runDirectory}/${first}`;
      const id = readPodRecord(await files.place(place))?.id;
      const message = `${others.length === 0 ? "a pod runs" : `${others.length + 1} pods run`}: ${id === undefined ? place : `${id} (${place})`}`;
      return new InstallError("ERR_INSTALL_BUSY", message, { hint });
    }
  }
  const pod = await runningPod(files, [CONTAINERD_STATE, ...texts.flatMap(({ path, text }) => readImports(text, path).state ?? [])]);
  if (pod !== undefined) return new InstallError("ERR_INSTALL_BUSY", `a pod runs: process ${pod.pid} is its shim, and ${pod.bundle} its bundle`, { hint });
  for (const socket of new Set([PROCESSOR_SOCKET, ...shims.map(({ config }) => config.processorSocket)])) {
    if (!(await isServed(await files.place(socket)))) continue;
    return new InstallError("ERR_INSTALL_BUSY", `the emulated security processor runs: somebody serves ${socket}`, {
      hint: `systemctl disable --now ${PROCESSOR_UNIT}`,
    });
  }
  return undefined;
}

/** A pod whose shim runs, whatever configuration it was started with: each has a record in its bundle. */
async function runningPod(files: NodeFiles, states: readonly string[]): Promise<{ readonly pid: number; readonly bundle: string } | undefined> {
  for (const state of new Set(states.filter((path) => path.startsWith("/")).map((path) => normalize(path)))) {
    for (const bundle of await files.glob(`${state}/io.containerd.runtime.v2.task/*/*`)) {
      const record = readPodRecord(await files.place(bundle));
      if (record !== undefined && shimRuns(record)) return { pid: record.pid, bundle };
    }
  }
  return undefined;
}

async function isServed(socket: string): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const probe = connect(socket);
  probe.once("connect", () => resolve(true));
  probe.once("error", () => resolve(false));
  const served = await promise;
  probe.destroy();
  return served;
}
