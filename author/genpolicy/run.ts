import { posix } from "node:path";
import { decodeUtf8, encodeUtf8, isSealpodError, type JsonValue, type Logger, messageOf, silentLogger } from "@sealpod/core";
import { DEFAULT_MANIFEST_LIMITS, formatProblem, type SourceFile } from "@sealpod/kube";
import type { ImageSource } from "@sealpod/oci";
import { applyDropIn } from "./drop-ins.ts";
import { GenpolicyError } from "./errors.ts";
import { type GeneratedPolicy, type GenerateResult, generatePolicy } from "./generate.ts";
import { firstOfSources, parseSource, sourceName, type SourceSpec } from "./image-sources.ts";
import { ImageMeasurer } from "./images.ts";
import { DEFAULT_INITDATA, type InitdataTemplate, parseInitdataTemplate } from "./initdata.ts";
import { type CacheStore, LayerCacheFile, MemoryLayerCache } from "./layer-cache.ts";
import { LayerPool } from "./layers/pool.ts";
import type { LayerProgress } from "./layers/progress.ts";
import { readOwnRules, readOwnSettings } from "./own-files.ts";
import { behaviourOf, type Profile, profileOf } from "./profile.ts";
import { parseSettingsJson, readSettings, type Settings } from "./settings.ts";
import { slimPolicy } from "./slim/index.ts";
import { type WebhookVersion, withWebhook } from "./webhook.ts";

/** The flags of the known tool by their long names (specs/genpolicy.md 1.1, 1.2), and our own. */
export interface GenpolicyOptions {
  /** `-y`: YAML, rewritten in place; without it, stdin to stdout. */
  readonly yamlFile?: string;
  /** `-c`: YAML files with ConfigMaps and Secrets. */
  readonly configMapFile?: readonly string[];
  readonly configFile?: readonly string[];
  /** `-p`: rules. */
  readonly regoRulesPath?: string;
  /** `-j`: settings file, or a directory with `genpolicy-settings.json` and `genpolicy-settings.d/`; a name below `-i` if that is given. */
  readonly jsonSettingsPath?: string;
  /** The same, as the tool of 2023 calls it. */
  readonly settingsFileName?: string;
  /** `-i`: directory with `rules.rego` and the settings. */
  readonly inputFilesPath?: string;
  /** `-u`: use `./layers-cache.json`. */
  readonly useCachedFiles?: boolean;
  readonly layersCacheFilePath?: string;
  /** `-r`: also print the policy text. */
  readonly rawOut?: boolean;
  /** `-b`: also print the annotation's value. */
  readonly base64Out?: boolean;
  /** `-s`: warn about unknown fields. */
  readonly silentUnsupportedFields?: boolean;
  /** `-d`: pull through containerd, by this socket; true for the usual one. */
  readonly containerdSocketPath?: string | boolean;
  readonly runtimeClassNames?: readonly string[];
  /** TOML that the policy is put into. */
  readonly initdataPath?: string;
  /** `aks` or `coco`; default `aks`. */
  readonly profile?: string;
  /** Sources of images as {@link parseSource} takes them, in the order in which they are asked. */
  readonly images?: readonly string[];
  /** Layouts: the same as `oci:DIR` behind {@link images}. */
  readonly ociLayout?: readonly string[];
  /** File system of the layers; default: as the settings say. */
  readonly layerFormat?: "tarfs" | "erofs";
  /** The image of the pause container, instead of the settings'. */
  readonly pauseImage?: string;
  /** Where the cluster's workload-identity webhook puts the token; default: as the settings say, ours as `1.5`. */
  readonly webhookVersion?: WebhookVersion;
  /** Our own rules in full, with comments, and all of the data. */
  readonly full?: boolean;
  /** List ephemeral containers too. */
  readonly ephemeralContainers?: boolean;
}

/** The world of {@link runGenpolicy}. Paths are passed on as the options give them. */
export interface GenpolicyPorts {
  /** The whole file, or undefined if there is none; rejects if it has more than `limit` bytes. */
  readFile(path: string, limit: number): Promise<Uint8Array | undefined>;
  /** Names in a directory, or undefined if there is no directory of this path. */
  listDirectory(path: string): Promise<readonly string[] | undefined>;
  /** Replaces a file at once: written beside, then renamed. */
  writeFile(path: string, bytes: Uint8Array): Promise<void>;
  readStdin(limit: number): Promise<Uint8Array>;
  writeStdout(text: string): void;
  /** A line for the user, without line break: warnings. */
  writeStderr(line: string): void;
  /** Where images come from if the options do not say. */
  readonly defaultSources: readonly SourceSpec[];
  openSource(spec: SourceSpec): Promise<ImageSource>;
  /** The layer cache in a file. */
  cacheStore(path: string): CacheStore;
  /** Layers to read at a time. */
  readonly threads: number;
  /** Shows what happens to layers. */
  readonly progress?: LayerProgress;
  /** Steps that take time, at level info. */
  readonly logger?: Logger;
}

/** Rules and settings are written by hand: 4 MiB is a hundred times the largest known. */
const MAX_INPUT_FILE = 4 * 1024 * 1024;
const DEFAULT_CACHE_FILE = "./layers-cache.json";

/**
 * Runs the tool: reads the files that the options name, makes the policies, writes the YAML back or to stdout.
 *
 * What goes to standard output is what the known tool of the profile's generation prints there (specs/genpolicy.md 1.1, 1.2):
 * with `-y` nothing but what `-r` and `-b` ask for; from stdin the annotated YAML, for coco only without `-r` and `-b`.
 * `-r` and `-b` print per object, raw before base64, without a separator; for aks base64 ends with a line break.
 * @throws {GenpolicyError} all of its codes
 * @throws {KubeError} for the YAML
 */
export async function runGenpolicy(options: GenpolicyOptions, ports: GenpolicyPorts): Promise<readonly GeneratedPolicy[]> {
  const profile = profileOf(options.profile ?? "aks");
  const settings = await loadSettings(options, profile, ports);
  const rules = await loadRules(options, ports);
  const initdata = await loadInitdata(options, profile, ports);
  const manifest = await loadManifest(options, ports);
  const configFiles: SourceFile[] = [];
  for (const path of [...(options.configFile ?? []), ...(options.configMapFile ?? [])]) configFiles.push(await loadYaml(path, ports));
  const cachePath = options.layersCacheFilePath ?? (options.useCachedFiles === true ? DEFAULT_CACHE_FILE : undefined);
  const cache = cachePath === undefined ? undefined : await LayerCacheFile.open(ports.cacheStore(cachePath), warner(cachePath, ports));

  await using pool = new LayerPool({ threads: ports.threads });
  const measurer = new ImageMeasurer({
    source: imagesOf(options, ports),
    cache: cache ?? new MemoryLayerCache(),
    reader: pool,
    format: settings.layerFormat,
    users: behaviourOf(profile, settings).userRules,
    ...(ports.progress === undefined ? {} : { progress: ports.progress }),
  });
  let result: GenerateResult;
  try {
    result = await generatePolicy({
      manifest,
      configFiles,
      profile,
      settings,
      rules: rules.text,
      // Somebody's own rules are theirs to the byte; our own are made small.
      ...(rules.isOurs && options.full !== true ? { shrink: slimPolicy } : {}),
      measurer,
      initdata,
      silent: options.silentUnsupportedFields === true,
      includeEphemeralContainers: options.ephemeralContainers === true,
      runtimeClassNames: options.runtimeClassNames ?? [],
    });
  } finally {
    // What was read of the layers is kept, whatever happened to the rest.
    if (cache !== undefined && cachePath !== undefined) await saveCache(cache, cachePath, ports);
  }
  for (const warning of result.warnings) ports.writeStderr(`warning: ${formatProblem(warning)}`);
  await writeResult(result, manifest, profile, options, ports);
  return result.policies;
}

async function writeResult(
  { yaml, policies, objects }: GenerateResult,
  manifest: SourceFile,
  profile: Profile,
  options: GenpolicyOptions,
  ports: GenpolicyPorts,
): Promise<void> {
  const { yamlFile, rawOut, base64Out } = options;
  if (yamlFile !== undefined && yaml !== manifest.text) await orFail(yamlFile, "write", async () => ports.writeFile(yamlFile, encodeUtf8(yaml)));
  const byObject = new Map(policies.map((policy) => [policy.object, policy]));
  for (const object of objects) {
    const policy = byObject.get(object);
    if (policy !== undefined && rawOut === true) ports.writeStdout(policy.policy);
    if (base64Out !== true) continue;
    if (profile.output.base64Line) ports.writeStdout(`${policy?.annotation ?? ""}\n`);
    else if (policy !== undefined) ports.writeStdout(policy.annotation);
  }
  const isPrinted = rawOut === true || base64Out === true;
  if (yamlFile === undefined && (!isPrinted || profile.output.yamlBesidePrint)) ports.writeStdout(yaml);
}

function imagesOf({ images, ociLayout, containerdSocketPath }: GenpolicyOptions, ports: GenpolicyPorts): ImageSource {
  const logger = ports.logger ?? silentLogger;
  const isContainerd = containerdSocketPath !== undefined && containerdSocketPath !== false;
  const named = [...(images ?? []).map((text) => parseSource(text)), ...(ociLayout ?? []).map((path): SourceSpec => ({ kind: "oci", path }))];
  if (isContainerd && named.length > 0) {
    throw new GenpolicyError("ERR_GENPOLICY_OPTION", "-d and --images both say where images come from", { hint: "Leave one of them out." });
  }
  const ofContainerd = (): SourceSpec => parseSource(containerdSocketPath === true ? "containerd" : `containerd:${containerdSocketPath}`);
  const specs = isContainerd ? [ofContainerd()] : named.length > 0 ? named : ports.defaultSources;
  return firstOfSources(
    specs.map((spec) => ({ spec, open: async () => ports.openSource(spec) })),
    (reference, spec) => logger.log("info", `image ${reference} is taken from ${sourceName(spec)}`),
  );
}

async function saveCache(cache: LayerCacheFile, path: string, ports: GenpolicyPorts): Promise<void> {
  try {
    await cache.save();
  } catch (error) {
    // A cache that cannot be written costs time, not truth.
    ports.writeStderr(`warning: ${path}: the layer cache was not written: ${messageOf(error)}`);
  }
}

function warner(path: string, ports: GenpolicyPorts): (problem: string) => void {
  return (problem) => ports.writeStderr(`warning: ${path}: ${problem}`);
}

async function loadSettings(options: GenpolicyOptions, profile: Profile, ports: GenpolicyPorts): Promise<Settings> {
  const { json, path } = await loadSettingsJson(options, profile, ports);
  const read = readSettings(json, path, profile);
  const settings = options.webhookVersion === undefined ? read : withWebhook(read, options.webhookVersion, path);
  const { layerFormat = settings.layerFormat, pauseImage = settings.pauseImage } = options;
  const { clusterConfig } = settings;
  return { ...settings, layerFormat, pauseImage, clusterConfig: clusterConfig && { ...clusterConfig, pause_container_image: pauseImage } };
}

async function loadSettingsJson(
  options: GenpolicyOptions,
  profile: Profile,
  ports: GenpolicyPorts,
): Promise<{ readonly json: JsonValue; readonly path: string }> {
  const directory = options.inputFilesPath;
  const given = options.jsonSettingsPath ?? options.settingsFileName;
  if (directory === undefined && given === undefined) {
    const name = profile.ownSettings;
    return { json: parseSettingsJson(await readOwnSettings(profile), name), path: name };
  }
  const path = directory === undefined ? (given ?? "") : posix.join(directory, given ?? "genpolicy-settings.json");
  const names = await orFail(path, "read", async () => ports.listDirectory(path));
  if (names === undefined) return { json: await loadJson(path, ports), path };
  let json = await loadJson(posix.join(path, "genpolicy-settings.json"), ports);
  const dropInDirectory = posix.join(path, "genpolicy-settings.d");
  const dropIns = (await orFail(dropInDirectory, "read", async () => ports.listDirectory(dropInDirectory))) ?? [];
  for (const name of dropIns.filter((item) => item.endsWith(".json")).sort()) {
    const dropIn = posix.join(dropInDirectory, name);
    json = applyDropIn(json, await loadJson(dropIn, ports), dropIn);
  }
  return { json, path };
}

async function loadJson(path: string, ports: GenpolicyPorts): Promise<JsonValue> {
  return parseSettingsJson(await loadText(path, ports, MAX_INPUT_FILE, "Pass the settings with -j, or leave -j and -i out to use those of sealpod."), path);
}

async function loadRules(options: GenpolicyOptions, ports: GenpolicyPorts): Promise<{ readonly text: string; readonly isOurs: boolean }> {
  const path = options.regoRulesPath ?? (options.inputFilesPath === undefined ? undefined : posix.join(options.inputFilesPath, "rules.rego"));
  if (path !== undefined) {
    return { text: await loadText(path, ports, MAX_INPUT_FILE, "Pass the rules with -p, or leave -p and -i out to use those of sealpod."), isOurs: false };
  }
  return { text: await readOwnRules(), isOurs: true };
}

async function loadInitdata({ initdataPath }: GenpolicyOptions, profile: Profile, ports: GenpolicyPorts): Promise<InitdataTemplate> {
  if (initdataPath === undefined) return DEFAULT_INITDATA;
  if (!profile.usesInitdata) {
    throw new GenpolicyError("ERR_GENPOLICY_OPTION", `--initdata-path: profile ${profile.name} delivers the policy without initdata`, {
      hint: "Pass --profile coco, or leave --initdata-path out.",
    });
  }
  return parseInitdataTemplate(await loadText(initdataPath, ports, MAX_INPUT_FILE, "Check the path of the initdata template."), initdataPath);
}

async function loadManifest(options: GenpolicyOptions, ports: GenpolicyPorts): Promise<SourceFile> {
  if (options.yamlFile !== undefined) return loadYaml(options.yamlFile, ports);
  const bytes = await orFail("stdin", "read", async () => ports.readStdin(DEFAULT_MANIFEST_LIMITS.maxLength));
  return { name: "stdin", text: textOf(bytes, "stdin") };
}

async function loadYaml(path: string, ports: GenpolicyPorts): Promise<SourceFile> {
  return {
    name: path,
    text: await loadText(path, ports, DEFAULT_MANIFEST_LIMITS.maxLength, "Check the path; relative paths start from the current directory."),
  };
}

async function loadText(path: string, ports: GenpolicyPorts, limit: number, hint: string): Promise<string> {
  const bytes = await orFail(path, "read", async () => ports.readFile(path, limit));
  if (bytes === undefined) throw new GenpolicyError("ERR_GENPOLICY_FILE", `${path}: no such file`, { details: { path }, hint });
  return textOf(bytes, path);
}

function textOf(bytes: Uint8Array, path: string): string {
  try {
    return decodeUtf8(bytes, path);
  } catch (error) {
    if (!isSealpodError(error)) throw error;
    throw new GenpolicyError("ERR_GENPOLICY_FILE", error.message, { cause: error, details: { path }, hint: "Save the file as UTF-8." });
  }
}

async function orFail<T>(path: string, verb: "read" | "write", action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    throw new GenpolicyError("ERR_GENPOLICY_FILE", `${path}: cannot ${verb}: ${messageOf(error)}`, { cause: error, details: { path } });
  }
}
