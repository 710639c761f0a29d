import { asArray, asObject, decodeUtf8, isSealpodError, type JsonObject, type JsonValue, messageOf, parseJson } from "@sealpod/core";
import type { UvmTarget } from "./command-line.ts";
import { ARCHITECTURE, type DebianPackage, PACKAGE_NAME, PACKAGE_VERSION, SHA256 } from "./debian-packages.ts";
import { ImageError } from "./errors.ts";

/** A file of an image, beside its manifest. */
export interface UvmFile {
  /** Name without a directory. */
  readonly file: string;
  /** 64 hex digits. */
  readonly sha256: string;
  /** Bytes. */
  readonly size: number;
}

/** What a utility VM's image is: `uvm.json`. */
export interface UvmManifest {
  readonly version: 1;
  readonly target: UvmTarget;
  readonly architecture: typeof ARCHITECTURE;
  readonly kernel: UvmFile & { readonly release: string };
  readonly initrd: UvmFile;
  /** EROFS image, its dm-verity tree (top level first), and a trailer that only tools read. `rootHash`: 64 hex digits. `dataBlocks` of 4096 bytes. */
  readonly root: UvmFile & { readonly rootHash: string; readonly dataBlocks: number };
  readonly commandLine: string;
  readonly agent: { readonly version: string; readonly sha256: string };
  /** Sorted by name. */
  readonly packages: readonly DebianPackage[];
}

/** Name of the manifest in an image's directory. */
export const MANIFEST_FILE = "uvm.json";

/** Largest manifest that is read: one has 10 KiB. */
export const MAX_MANIFEST: number = 1024 * 1024;

/** Longest command line that Linux on x86 takes, less its NUL. */
const MAX_COMMAND_LINE = 2047;

/** The manifest's text; the same manifest gives the same bytes. */
export function encodeManifest(manifest: UvmManifest): string {
  return `${JSON.stringify(manifest, undefined, 2)}\n`;
}

/**
 * Reads a manifest strictly: every field is there and nothing else, so that two versions of this code cannot understand one file differently.
 * @throws {ImageError} ERR_IMAGE_UVM
 */
export function parseManifest(bytes: Uint8Array, what: string): UvmManifest {
  try {
    const text = decodeUtf8(bytes, what);
    const top = new Fields(parseJson(text, what, { maxLength: MAX_MANIFEST, maxDepth: 8 }), "");
    const version = top.value("version");
    if (version !== 1) throw new Error(`version ${typeof version === "number" ? version : "(none)"}, expected 1`);
    const file = (fields: Fields): UvmFile => ({
      file: fields.text("file", /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/),
      sha256: fields.text("sha256", SHA256),
      size: fields.count("size"),
    });
    const kernel = top.fields("kernel");
    const root = top.fields("root");
    const agent = top.fields("agent");
    const manifest: UvmManifest = {
      version,
      target: top.text("target", /^(?:emulated|snp)$/) as UvmTarget,
      architecture: top.text("architecture", new RegExp(`^${ARCHITECTURE}$`)) as typeof ARCHITECTURE,
      kernel: { ...file(kernel), release: kernel.text("release", /^[A-Za-z0-9][A-Za-z0-9.+~_-]{0,127}$/) },
      initrd: file(top.fields("initrd")),
      root: { ...file(root), rootHash: root.text("rootHash", SHA256), dataBlocks: root.count("dataBlocks") },
      commandLine: top.text("commandLine", new RegExp(`^[ -~]{1,${MAX_COMMAND_LINE}}$`)),
      agent: { version: agent.text("version", /^[0-9A-Za-z][0-9A-Za-z.+-]{0,63}$/), sha256: agent.text("sha256", SHA256) },
      packages: top.list("packages").map((item) => {
        const read = {
          name: item.text("name", PACKAGE_NAME),
          version: item.text("version", PACKAGE_VERSION),
          architecture: item.text("architecture", /^(?:amd64|all)$/),
          sha256: item.text("sha256", SHA256),
        };
        item.end();
        return read;
      }),
    };
    for (const fields of [top, kernel, root, agent]) fields.end();
    return manifest;
  } catch (cause) {
    const problem = isSealpodError(cause) ? cause.message : `${what}: ${messageOf(cause)}`;
    throw new ImageError("ERR_IMAGE_UVM", `${problem}: no manifest of a utility VM image`, { cause, hint: "Build one: sealpod uvm build." });
  }
}

/** An object whose fields are read by name, each once; {@link end} refuses those that nobody asked for. */
class Fields {
  readonly #object: JsonObject;
  readonly #path: string;
  readonly #left: Set<string>;
  readonly #children: Fields[] = [];

  constructor(value: JsonValue | undefined, path: string) {
    const object = asObject(value);
    if (object === undefined) throw new Error(`${path || "the document"} is no object`);
    this.#object = object;
    this.#path = path;
    this.#left = new Set(Object.keys(object));
  }

  value(name: string): JsonValue | undefined {
    this.#left.delete(name);
    return this.#object[name];
  }

  text(name: string, pattern: RegExp): string {
    const value = this.value(name);
    if (typeof value === "string" && pattern.test(value)) return value;
    throw new Error(
      `${this.#path}${name}: found ${value === undefined ? "nothing" : JSON.stringify(value, (_, item: unknown) => (typeof item === "bigint" ? String(item) : item)).slice(0, 100)}, expected text like ${pattern.source}`,
    );
  }

  count(name: string): number {
    const value = this.value(name);
    if (typeof value === "number" && Number.isSafeInteger(value) && value > 0) return value;
    throw new Error(`${this.#path}${name} is no number above 0`);
  }

  fields(name: string): Fields {
    const child = new Fields(this.value(name), `${this.#path}${name}.`);
    this.#children.push(child);
    return child;
  }

  list(name: string): readonly Fields[] {
    const values = asArray(this.value(name));
    if (values === undefined) throw new Error(`${this.#path}${name} is no list`);
    return values.map((value, index) => new Fields(value, `${this.#path}${name}[${index}].`));
  }

  end(): void {
    const [unknown] = this.#left;
    if (unknown !== undefined) throw new Error(`${this.#path}${unknown.slice(0, 60)} is no field of it`);
    for (const child of this.#children) child.end();
  }
}
