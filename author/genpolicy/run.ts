import { posix } from "node:path";
import { decodeUtf8, encodeUtf8, isSealpodError, type JsonValue, type Logger, messageOf, silentLogger } from "@sealpod/core";
import { DEFAULT_MANIFEST_LIMITS, formatProblem, type SourceFile } from "@sealpod/kube";
import type { ImageSource } from "@sealpod/oci";
import { applyDropIn } from "./drop-ins.ts";
import { GenpolicyError } from "./errors.ts";
import { type GeneratedPolicy, generatePolicy } from "./generate.ts";
import { MemoryLayerCache } from "./layer-cache.ts";
import { parseSettingsJson, readSettings, type Settings } from "./settings.ts";

/** The flags of the known tool by their long names (specs/genpolicy.md 1.1, 1.2), and `ociLayout`. */
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
  /** `-d`: pull through containerd; not supported. */
  readonly containerdSocketPath?: string | boolean;
  /** Registries spoken to over HTTP; not supported. */
  readonly insecureRegistry?: readonly string[];
  readonly runtimeClassNames?: readonly string[];
  readonly profile?: string;
  /** OCI image layouts that images are taken from, in this order. */
  readonly ociLayout?: readonly string[];
  /** `-v` */
  readonly printVersion?: boolean;
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
  /** A file that comes with this package (`data/`). */
  readDefault(name: "rules.rego" | "genpolicy-settings.json"): Promise<Uint8Array>;
  openLayout(directory: string): Promise<ImageSource>;
  /** Steps that take time, at level info. */
  readonly logger?: Logger;
  /** For `-v`. */
  readonly version: string;
}

/** Where the files of {@link GenpolicyPorts.readDefault} are in the source tree. */
export const DATA_DIRECTORY: URL = new URL("data/", import.meta.url);

/** Rules and settings are written by hand: 4 MiB is a hundred times the largest known. */
const MAX_INPUT_FILE = 4 * 1024 * 1024;
const MAX_CACHE_FILE = 16 * 1024 * 1024;
const DEFAULT_CACHE_FILE = "./layers-cache.json";

/**
 * Runs the tool: reads the files that the options name, makes the policies, writes the YAML back or to stdout.
 *
 * Standard output as the known tool has it: with `-y` nothing but what `-r` and `-b` ask for; from stdin the annotated YAML,
 * unless `-r` or `-b` is given. `-r` and `-b` print per workload, raw before base64, without a separator.
 * @throws {GenpolicyError} all of its codes
 * @throws {KubeError} for the YAML
 */
export async function runGenpolicy(options: GenpolicyOptions, ports: GenpolicyPorts): Promise<readonly GeneratedPolicy[]> {
  if (options.printVersion === true) {
    ports.writeStdout(`Sealpod policy tool: id: genpolicy, version: ${ports.version}\n`);
    return [];
  }
  refuseUnsupported(options);
  const settings = await loadSettings(options, ports);
  const rules = await loadRules(options, ports);
  const manifest = await loadManifest(options, ports);
  const configFiles: SourceFile[] = [];
  for (const path of [...(options.configFile ?? []), ...(options.configMapFile ?? [])]) configFiles.push(await loadYaml(path, ports));
  const cachePath = options.layersCacheFilePath ?? (options.useCachedFiles === true ? DEFAULT_CACHE_FILE : undefined);
  const layerCache = cachePath === undefined ? new MemoryLayerCache() : await loadCache(cachePath, ports);
  const logger = ports.logger ?? silentLogger;

  const result = await generatePolicy({
    manifest,
    configFiles,
    settings,
    rules,
    images: layoutImages(options.ociLayout ?? [], ports),
    layerCache,
    silent: options.silentUnsupportedFields === true,
    runtimeClassNames: options.runtimeClassNames ?? [],
    progress: (message) => logger.log("info", message),
  });
  for (const warning of result.warnings) ports.writeStderr(`warning: ${formatProblem(warning)}`);

  if (options.yamlFile === undefined) {
    if (options.rawOut !== true && options.base64Out !== true) ports.writeStdout(result.yaml);
  } else if (result.yaml !== manifest.text) await orFail(options.yamlFile, "write", () => ports.writeFile(options.yamlFile ?? "", encodeUtf8(result.yaml)));
  for (const { policy, annotation } of result.policies) {
    if (options.rawOut === true) ports.writeStdout(policy);
    if (options.base64Out === true) ports.writeStdout(annotation);
  }
  // A cache that cannot be written costs time, not truth.
  if (cachePath !== undefined && layerCache.changed) {
    try {
      await ports.writeFile(cachePath, encodeUtf8(layerCache.encode()));
    } catch (error) {
      ports.writeStderr(`warning: ${cachePath}: the layer cache was not written: ${messageOf(error)}`);
    }
  }
  return result.policies;
}

function refuseUnsupported(options: GenpolicyOptions): void {
  const refuse = (flag: string, what: string): never => {
    throw new GenpolicyError("ERR_GENPOLICY_UNSUPPORTED", `${flag}: ${what} is not supported yet`, {
      details: { flag },
      hint: "Put the images into an OCI image layout (for example with `skopeo copy docker://IMAGE oci:DIR`) and pass --oci-layout DIR.",
    });
  };
  if (options.containerdSocketPath !== undefined && options.containerdSocketPath !== false) refuse("-d", "pulling images through containerd");
  if ((options.insecureRegistry ?? []).length > 0) refuse("--insecure-registry", "pulling images from a registry");
  if (options.profile !== undefined && options.profile !== "aks") {
    const known = options.profile === "coco";
    throw new GenpolicyError(
      known ? "ERR_GENPOLICY_UNSUPPORTED" : "ERR_GENPOLICY_OPTION",
      known ? "--profile coco is not supported yet" : `--profile ${JSON.stringify(options.profile)}: no such profile`,
      { hint: "Use --profile aks." },
    );
  }
}

async function loadSettings(options: GenpolicyOptions, ports: GenpolicyPorts): Promise<Settings> {
  const { inputFilesPath: directory, jsonSettingsPath: given } = options;
  if (directory === undefined && given === undefined) {
    const name = "genpolicy-settings.json";
    return readSettings(parseSettingsJson(decodeUtf8(await ports.readDefault(name), name), name), name);
  }
  const path = directory === undefined ? (given ?? "") : posix.join(directory, given ?? "genpolicy-settings.json");
  const names = await orFail(path, "read", () => ports.listDirectory(path));
  if (names === undefined) return readSettings(await loadJson(path, ports), path);
  const base = posix.join(path, "genpolicy-settings.json");
  let json = await loadJson(base, ports);
  const dropInDirectory = posix.join(path, "genpolicy-settings.d");
  const dropIns = (await orFail(dropInDirectory, "read", () => ports.listDirectory(dropInDirectory))) ?? [];
  for (const name of dropIns.filter((item) => item.endsWith(".json")).sort()) {
    const dropIn = posix.join(dropInDirectory, name);
    json = applyDropIn(json, await loadJson(dropIn, ports), dropIn);
  }
  return readSettings(json, path);
}

async function loadJson(path: string, ports: GenpolicyPorts): Promise<JsonValue> {
  return parseSettingsJson(await loadText(path, ports, MAX_INPUT_FILE, "Pass the settings with -j, or leave -j and -i out to use those of sealpod."), path);
}

async function loadRules(options: GenpolicyOptions, ports: GenpolicyPorts): Promise<string> {
  const path = options.regoRulesPath ?? (options.inputFilesPath === undefined ? undefined : posix.join(options.inputFilesPath, "rules.rego"));
  if (path === undefined) return decodeUtf8(await ports.readDefault("rules.rego"), "rules.rego");
  return loadText(path, ports, MAX_INPUT_FILE, "Pass the rules with -p, or leave -p and -i out to use those of sealpod.");
}

async function loadManifest(options: GenpolicyOptions, ports: GenpolicyPorts): Promise<SourceFile> {
  if (options.yamlFile !== undefined) return loadYaml(options.yamlFile, ports);
  const bytes = await orFail("stdin", "read", () => ports.readStdin(DEFAULT_MANIFEST_LIMITS.maxLength));
  return { name: "stdin", text: textOf(bytes, "stdin") };
}

async function loadYaml(path: string, ports: GenpolicyPorts): Promise<SourceFile> {
  return {
    name: path,
    text: await loadText(path, ports, DEFAULT_MANIFEST_LIMITS.maxLength, "Check the path; relative paths start from the current directory."),
  };
}

async function loadText(path: string, ports: GenpolicyPorts, limit: number, hint: string): Promise<string> {
  const bytes = await orFail(path, "read", () => ports.readFile(path, limit));
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

async function loadCache(path: string, ports: GenpolicyPorts): Promise<MemoryLayerCache> {
  const bytes = await orFail(path, "read", () => ports.readFile(path, MAX_CACHE_FILE));
  if (bytes === undefined) return new MemoryLayerCache();
  const cache = MemoryLayerCache.parse(textOf(bytes, path));
  if (cache === undefined) ports.writeStderr(`warning: ${path}: not a layer cache, it is built anew`);
  return cache ?? new MemoryLayerCache();
}

/** Images of several layouts; a layout is opened when the first image is asked for. */
function layoutImages(directories: readonly string[], ports: GenpolicyPorts): ImageSource {
  let opened: Promise<readonly ImageSource[]> | undefined;
  const owners = new Map<string, ImageSource>();
  return {
    async resolve(reference) {
      if (directories.length === 0) {
        throw new GenpolicyError("ERR_GENPOLICY_UNSUPPORTED", `image ${JSON.stringify(reference)}: pulling images from a registry is not supported yet`, {
          hint: "Put the images into an OCI image layout (for example with `skopeo copy docker://IMAGE oci:DIR`) and pass --oci-layout DIR.",
        });
      }
      opened ??= Promise.all(directories.map((directory) => openOrFail(directory, ports)));
      const sources = await opened;
      let missing: unknown;
      for (const source of sources) {
        try {
          const image = await source.resolve(reference);
          for (const layer of image.layers) owners.set(layer.digest, source);
          return image;
        } catch (error) {
          if (!isSealpodError(error) || error.code !== "ERR_OCI_NOT_FOUND") throw error;
          missing ??= error;
        }
      }
      throw missing;
    },
    layerTar(layer) {
      const owner = owners.get(layer.digest);
      if (owner === undefined) throw new RangeError(`layer ${layer.digest} of an image that was not resolved`);
      return owner.layerTar(layer);
    },
  };
}

async function openOrFail(directory: string, ports: GenpolicyPorts): Promise<ImageSource> {
  try {
    return await ports.openLayout(directory);
  } catch (error) {
    throw new GenpolicyError("ERR_GENPOLICY_IMAGE", `image layout ${directory}: ${messageOf(error)}`, {
      cause: error,
      details: { directory },
      hint: "Pass the directory of an OCI image layout with --oci-layout DIR.",
    });
  }
}

async function orFail<T>(path: string, verb: "read" | "write", action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    throw new GenpolicyError("ERR_GENPOLICY_FILE", `${path}: cannot ${verb}: ${messageOf(error)}`, { cause: error, details: { path } });
  }
}
