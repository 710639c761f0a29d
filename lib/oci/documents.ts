import { asArray, asObject, decodeUtf8, parseJson } from "@sealpod/core";
import type { JsonObject, JsonValue } from "@sealpod/core";
import { parseDigest } from "./digest.ts";
import { OciError } from "./errors.ts";
import type { ImageConfig, Platform } from "./image.ts";
import { MAX_CONFIG_STRINGS } from "./limits.ts";
import type { OciLimits } from "./limits.ts";
import { mediaKind, refuseSchema1 } from "./media-types.ts";

/** Reference to a blob (OCI image-spec, "Content Descriptors"). */
export interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  /** Bytes. */
  readonly size: number;
  readonly annotations: ReadonlyMap<string, string>;
  readonly platform: Platform | undefined;
}

/** An image index or Docker manifest list. */
export interface ImageIndex {
  readonly manifests: readonly Descriptor[];
}

/** An image manifest, OCI or Docker schema 2. */
export interface ImageManifest {
  readonly config: Descriptor;
  readonly layers: readonly Descriptor[];
}

/** Nesting of a configuration is shallow; deep nesting is an attack on the parser. */
const JSON_DEPTH = 32;

/**
 * Parses an image index.
 * @param expectedType media type of the descriptor that led here; undefined for a layout's `index.json`
 * @throws {OciError} ERR_OCI_DOCUMENT, ERR_OCI_SCHEMA1, ERR_OCI_LIMIT, ERR_OCI_DIGEST
 */
export function parseIndex(bytes: Uint8Array, what: string, limits: OciLimits, expectedType?: string): ImageIndex {
  const document = versioned(bytes, what, limits, expectedType, "index");
  const manifests = list(document["manifests"], `${what}: manifests`, limits.maxManifests);
  return { manifests: manifests.map((item, i) => descriptor(item, `${what}: manifests[${i}]`)) };
}

/**
 * Parses an image manifest.
 * @throws {OciError} ERR_OCI_DOCUMENT, ERR_OCI_SCHEMA1, ERR_OCI_UNSUPPORTED, ERR_OCI_LIMIT, ERR_OCI_DIGEST
 */
export function parseManifest(bytes: Uint8Array, what: string, limits: OciLimits, expectedType?: string): ImageManifest {
  const document = versioned(bytes, what, limits, expectedType, "manifest");
  const config = descriptor(document["config"], `${what}: config`);
  if (mediaKind(config.mediaType)?.kind !== "config") {
    throw new OciError(
      "ERR_OCI_UNSUPPORTED",
      `${what}: config has media type ${JSON.stringify(config.mediaType)}: this is an artifact, not an image that runs`,
    );
  }
  const layers = list(document["layers"], `${what}: layers`, limits.maxLayers).map((item, i) => descriptor(item, `${what}: layers[${i}]`));
  for (const [i, layer] of layers.entries()) {
    if (mediaKind(layer.mediaType)?.kind !== "layer") {
      throw new OciError(
        "ERR_OCI_UNSUPPORTED",
        `${what}: layers[${i}] has media type ${JSON.stringify(layer.mediaType)}; tar, tar+gzip and tar+zstd are supported`,
      );
    }
  }
  return { config, layers };
}

/**
 * Parses an image configuration. What does not run (history, labels, health checks) is not looked at.
 * @throws {OciError} ERR_OCI_DOCUMENT, ERR_OCI_LIMIT, ERR_OCI_DIGEST
 */
export function parseConfig(bytes: Uint8Array, what: string, limits: OciLimits): ImageConfig {
  const document = object(parse(bytes, what, limits), what);
  const run = document["config"] === undefined || document["config"] === null ? {} : object(document["config"], `${what}: config`);
  const rootfs = object(document["rootfs"], `${what}: rootfs`);
  if (rootfs["type"] !== "layers") throw malformed(`${what}: rootfs.type`, "layers", rootfs["type"]);
  const diffIds = list(rootfs["diff_ids"], `${what}: rootfs.diff_ids`, limits.maxLayers).map((item, i) => {
    const where = `${what}: rootfs.diff_ids[${i}]`;
    return parseDigest(string(item, where), where);
  });
  const volumes = run["Volumes"] === undefined || run["Volumes"] === null ? {} : object(run["Volumes"], `${what}: config.Volumes`);
  const tty = run["Tty"] ?? false;
  if (typeof tty !== "boolean") throw malformed(`${what}: config.Tty`, "true or false", tty);
  return {
    user: optionalString(run["User"], `${what}: config.User`),
    env: strings(run["Env"], `${what}: config.Env`),
    entrypoint: strings(run["Entrypoint"], `${what}: config.Entrypoint`),
    cmd: strings(run["Cmd"], `${what}: config.Cmd`),
    workingDir: optionalString(run["WorkingDir"], `${what}: config.WorkingDir`),
    tty,
    volumes: strings(Object.keys(volumes), `${what}: config.Volumes`).toSorted(),
    diffIds,
    architecture: string(document["architecture"], `${what}: architecture`),
    os: string(document["os"] ?? "linux", `${what}: os`),
  };
}

function versioned(bytes: Uint8Array, what: string, limits: OciLimits, expectedType: string | undefined, kind: "index" | "manifest"): JsonObject {
  const document = object(parse(bytes, what, limits), what);
  const mediaType = document["mediaType"] === undefined ? undefined : string(document["mediaType"], `${what}: mediaType`);
  refuseSchema1(mediaType, document["schemaVersion"], what);
  if (document["schemaVersion"] !== 2) throw malformed(`${what}: schemaVersion`, "2", document["schemaVersion"]);
  // A document that is both index and manifest means different images to different clients (CVE-2021-41190).
  const [own, other] = kind === "index" ? ["manifests", "layers"] : ["layers", "manifests"];
  if (document[other] !== undefined || (kind === "index" && document["config"] !== undefined)) {
    throw new OciError("ERR_OCI_DOCUMENT", `${what} is ambiguous: it has ${own} and ${document[other] === undefined ? "config" : other}`);
  }
  if (mediaType !== undefined && (mediaKind(mediaType)?.kind !== kind || (expectedType !== undefined && mediaType !== expectedType))) {
    throw malformed(`${what}: mediaType`, expectedType ?? `that of an image ${kind}`, mediaType);
  }
  return document;
}

function descriptor(value: JsonValue | undefined, what: string): Descriptor {
  const fields = object(value, what);
  const mediaType = string(fields["mediaType"], `${what}.mediaType`);
  refuseSchema1(mediaType, undefined, what);
  const size = fields["size"];
  if (typeof size !== "number" || !Number.isSafeInteger(size) || size < 0) throw malformed(`${what}.size`, "a number of bytes", size);
  const annotations = new Map<string, string>();
  if (fields["annotations"] !== undefined && fields["annotations"] !== null) {
    for (const [name, text] of Object.entries(object(fields["annotations"], `${what}.annotations`))) {
      annotations.set(name, string(text, `${what}.annotations[${JSON.stringify(name)}]`));
    }
  }
  let platform: Platform | undefined;
  if (fields["platform"] !== undefined && fields["platform"] !== null) {
    const item = object(fields["platform"], `${what}.platform`);
    platform = { os: string(item["os"], `${what}.platform.os`), architecture: string(item["architecture"], `${what}.platform.architecture`) };
  }
  return { mediaType, digest: parseDigest(string(fields["digest"], `${what}.digest`), `${what}.digest`), size, annotations, platform };
}

function parse(bytes: Uint8Array, what: string, limits: OciLimits): JsonValue {
  if (bytes.length > limits.maxDocumentSize) {
    throw new OciError("ERR_OCI_LIMIT", `${what} has ${bytes.length} bytes, more than the limit of ${limits.maxDocumentSize}`, {
      details: { limit: limits.maxDocumentSize },
    });
  }
  try {
    return parseJson(decodeUtf8(bytes, what), what, { maxLength: limits.maxDocumentSize, maxDepth: JSON_DEPTH });
  } catch (cause) {
    throw new OciError("ERR_OCI_DOCUMENT", `${what} is not JSON: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}

function object(value: JsonValue | undefined, what: string): JsonObject {
  const found = asObject(value);
  if (found === undefined) throw malformed(what, "an object", value);
  return found;
}

function list(value: JsonValue | undefined, what: string, limit: number): readonly JsonValue[] {
  const found = asArray(value);
  if (found === undefined) throw malformed(what, "an array", value);
  if (found.length > limit) {
    throw new OciError("ERR_OCI_LIMIT", `${what} has ${found.length} entries, more than the limit of ${limit}`, { details: { limit } });
  }
  return found;
}

function string(value: JsonValue | undefined, what: string): string {
  // No text of an image may hold a NUL: it would be cut there on its way to execve(2).
  if (typeof value !== "string" || value.includes("\0")) throw malformed(what, "text without NUL", value);
  return value;
}

function optionalString(value: JsonValue | undefined, what: string): string {
  return value === undefined || value === null ? "" : string(value, what);
}

function strings(value: JsonValue | undefined, what: string): readonly string[] {
  return value === undefined || value === null ? [] : list(value, what, MAX_CONFIG_STRINGS).map((item, i) => string(item, `${what}[${i}]`));
}

function malformed(what: string, expected: string, found: JsonValue | undefined): OciError {
  const shown =
    found === undefined
      ? "nothing"
      : typeof found === "object"
        ? found === null
          ? "null"
          : Array.isArray(found)
            ? "an array"
            : "an object"
        : JSON.stringify(String(found).slice(0, 100));
  return new OciError("ERR_OCI_DOCUMENT", `${what}: expected ${expected}, found ${shown}`);
}
