import { glob, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { messageOf } from "@sealpod/core";
import {
  defaultConfig,
  defaultConfigText,
  DEFAULT_CONFIG_PATH,
  DEFAULT_PREFIX,
  LAUNCHER_NAME,
  type LauncherPlaces,
  parseConfig,
  type ShimConfig,
} from "@sealpod/shim";
import { addRuntimes, hasRuntimes, IMPORT_HINT, MAX_CONTAINERD_CONFIG, readImports, removeRuntimes, verifyDump } from "./containerd-config.ts";
import { InstallError } from "./errors.ts";
import { type FileContent, hashContent, NodeFiles } from "./node-files.ts";
import { encodeRecord, type InstallRecord, MAX_RECORD, parseRecord, type RecordedFile } from "./record.ts";
import { PROCESSOR_UNIT, processorUnitText, runtimeClassText } from "./texts.ts";

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
  /** What the administrator should know. */
  readonly warnings: readonly string[];
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
    const isOurs = before !== undefined || found === undefined || file.path.startsWith(`${paths.prefix}/`);
    if (found === wanted && (await files.mode(file.path)) === file.mode) {
      changes.push({ path: file.path, kind: "same" });
      if (isOurs) recorded.push({ path: file.path, hashes: [wanted] });
    } else if (file.isEditable === true && found !== undefined && !(before?.hashes.includes(found) ?? false)) {
      changes.push({ path: file.path, kind: "keep", note: before === undefined ? "it was there before" : "it was edited" });
      if (before !== undefined) recorded.push(before);
    } else if (!isOurs) {
      throw new InstallError("ERR_INSTALL_FOREIGN", `${file.path} is there, and sealpod did not write it`, {
        details: { file: file.path },
        hint: "It may be of another shim of that name. Remove or rename it, if nothing needs it.",
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
  return {
    changes,
    warnings: edit.warnings,
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
      // Last: from here on containerd finds a shim that is whole.
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
  const { runDirectory, layerDirectory } = await shimDirectories(files);
  const busy = await busyReason(files, runDirectory);
  if (busy !== undefined) throw busy;

  const text = await files.read(paths.containerdConfig, MAX_CONTAINERD_CONFIG);
  const edited = text !== undefined && hasRuntimes(text) ? { text: removeRuntimes(text, paths.containerdConfig) } : undefined;
  if (edited !== undefined) changes.push({ path: paths.containerdConfig, kind: edited.text === undefined ? "remove" : "edit" });

  const removals: string[] = [];
  for (const { path, hashes } of record?.files ?? []) {
    const found = await files.hash(path);
    if (found === undefined) continue;
    const isInside = path.startsWith(`${paths.prefix}/`);
    const isEdited = !hashes.includes(found);
    if (isEdited && !isInside && path !== DEFAULT_CONFIG_PATH) {
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
  for (const path of [runDirectory, layerDirectory].filter((item) => !DATA.includes(item)))
    warnings.push(`${path} is named in ${DEFAULT_CONFIG_PATH} and stays: remove it if nothing else uses it`);
  return {
    changes,
    warnings,
    async apply() {
      // First: from here on containerd starts no pod that would miss what goes next.
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

/** Directories of the shim's configuration. */
async function shimDirectories(files: NodeFiles): Promise<Pick<ShimConfig, "runDirectory" | "layerDirectory">> {
  try {
    return parseConfig((await files.read(DEFAULT_CONFIG_PATH, MAX_CONTAINERD_CONFIG)) ?? "", DEFAULT_CONFIG_PATH);
  } catch {
    // Who removes an installation whose configuration is broken wants it gone.
    return defaultConfig();
  }
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
  for (const pattern of imports) {
    const absolute = pattern.startsWith("/") ? pattern : join(dirname(path), pattern);
    for await (const found of glob(files.place(absolute))) {
      const name = join(dirname(absolute), basename(found));
      const text = await files.read(name, MAX_CONTAINERD_CONFIG);
      if (text === undefined || name === path || !readImports(text, name).hasCri) continue;
      throw new InstallError("ERR_INSTALL_CONTAINERD", `${path} imports ${name}, whose part for CRI counts instead of its own`, {
        details: { file: path, imported: name },
        hint: IMPORT_HINT,
      });
    }
  }
}

/** Why an installation cannot be removed now, or undefined. */
async function busyReason(files: NodeFiles, runDirectory: string): Promise<InstallError | undefined> {
  const pods = await readdir(files.place(runDirectory)).catch(() => []);
  if (pods.length > 0) {
    return new InstallError("ERR_INSTALL_BUSY", `${pods.length} pods run: ${runDirectory} has ${pods[0] ?? ""}${pods.length > 1 ? " and others" : ""}`, {
      hint: "Drain the node first (kubectl drain). What a pod left that is no more, containerd cleans up when it starts.",
    });
  }
  if (await isServed(files.place(PROCESSOR_SOCKET))) {
    return new InstallError("ERR_INSTALL_BUSY", "the emulated security processor runs", { hint: `systemctl disable --now ${PROCESSOR_UNIT}` });
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
