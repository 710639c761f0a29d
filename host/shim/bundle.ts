import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { isAbsolute, join } from "node:path";
import { asArray, asObject, decodeUtf8, type JsonObject, type JsonValue, messageOf, parseJson } from "@sealpod/core";
import { ShimError } from "./errors.ts";

/** Which place a container has in its pod. */
export type ContainerRole =
  /** The pod's first container, which holds its namespaces (CRI). */
  | { readonly kind: "sandbox" }
  /** Another container of the pod `sandboxId`. */
  | { readonly kind: "container"; readonly sandboxId: string }
  /** A container that is a pod of its own, as `ctr run` makes it. */
  | { readonly kind: "single" };

/** Network namespace that a specification names. */
export type BundleNetwork =
  | { readonly kind: "path"; readonly path: string }
  /** One that nobody has put anything into. */
  | { readonly kind: "new" }
  /** The node's own. */
  | { readonly kind: "host" };

/** A bundle of containerd: what it wants of one container. */
export interface Bundle {
  readonly id: string;
  /** Absolute path. */
  readonly directory: string;
  /** `config.json`, an OCI runtime specification; integers beyond 2^53 are bigint. */
  readonly spec: JsonObject;
  readonly annotations: ReadonlyMap<string, string>;
  readonly role: ContainerRole;
  readonly network: BundleNetwork;
}

/** Largest `config.json`: annotations of Kubernetes have 256 KiB in all, those of `ctr` are bounded by a message of 16 MiB; the rest is far smaller. */
const MAX_SPEC = 16 * 1024 * 1024;

/** Deepest nesting; a real specification has six levels. */
const MAX_DEPTH = 32;

/** Linux's PATH_MAX. */
const MAX_PATH = 4096;

/** containerd's grammar of ids, and the machine's, whose name it becomes: no separators, so that it is a component of paths. */
const ID = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/;

const ANNOTATION = {
  type: "io.kubernetes.cri.container-type",
  sandbox: "io.kubernetes.cri.sandbox-id",
} as const;

/**
 * Reads the bundle of a container. All of it is text of others: the image's author, the pod's, and whoever may talk to containerd.
 * @throws {ShimError} ERR_SHIM_BUNDLE
 */
export async function readBundle(id: string, directory: string): Promise<Bundle> {
  if (!ID.test(id)) throw malformed(`container id ${shown(id)} is not 1 to 128 letters, digits, '_', '.' or '-'`);
  if (!isAbsolute(directory) || directory.includes("\0")) throw malformed(`bundle ${shown(directory)} is no absolute path`);
  return parseBundle(id, directory, await readText(join(directory, "config.json"), MAX_SPEC));
}

/**
 * The meaning of a `config.json`.
 * @throws {ShimError} ERR_SHIM_BUNDLE
 */
export function parseBundle(id: string, directory: string, text: string): Bundle {
  const where = join(directory, "config.json");
  let spec: JsonObject | undefined;
  try {
    spec = asObject(parseJson(text, "config.json", { maxLength: MAX_SPEC, maxDepth: MAX_DEPTH }));
  } catch (cause) {
    throw malformed(`${where}: ${messageOf(cause)}`, cause);
  }
  if (spec === undefined) throw malformed(`${where} is no JSON object`);
  const linux = asObject(spec["linux"]);
  if (linux === undefined) throw malformed(`${where}: linux is missing: only Linux containers can be run`);
  const annotations = annotationsOf(where, spec["annotations"]);
  return { id, directory, spec, annotations, role: roleOf(where, id, annotations), network: networkOf(where, linux["namespaces"]) };
}

/**
 * Lines of the file that the container has as `/etc/resolv.conf`; none if it has none.
 * @throws {ShimError} ERR_SHIM_BUNDLE if it cannot be read
 */
export async function readDns({ spec }: Bundle): Promise<readonly string[]> {
  const mount = (asArray(spec["mounts"]) ?? []).map((item) => asObject(item)).findLast((item) => item?.["destination"] === "/etc/resolv.conf");
  const source = mount?.["source"];
  if (typeof source !== "string" || !isAbsolute(source)) return [];
  return (await readText(source, MAX_RESOLV_CONF)).split("\n").filter((line) => line.trim() !== "");
}

/** Six search domains of 256 characters, three servers and comments have 4 KiB. */
const MAX_RESOLV_CONF = 64 * 1024;

function annotationsOf(where: string, value: JsonValue | undefined): ReadonlyMap<string, string> {
  if (value === undefined || value === null) return new Map();
  const found = asObject(value);
  if (found === undefined) throw malformed(`${where}: annotations are no object`);
  return new Map(
    Object.entries(found).map(([name, text]) => {
      if (typeof text !== "string") throw malformed(`${where}: annotation ${shown(name)} is no text`);
      return [name, text];
    }),
  );
}

function roleOf(where: string, id: string, annotations: ReadonlyMap<string, string>): ContainerRole {
  const type = annotations.get(ANNOTATION.type);
  if (type === undefined) return { kind: "single" };
  const sandboxId = annotations.get(ANNOTATION.sandbox) ?? "";
  if (type === "container") {
    if (!ID.test(sandboxId) || sandboxId === id) throw malformed(`${where}: annotation ${ANNOTATION.sandbox} is ${shown(sandboxId)}, expected the id of a pod`);
    return { kind: "container", sandboxId };
  }
  if (type !== "sandbox") throw malformed(`${where}: annotation ${ANNOTATION.type} is ${shown(type)}, expected sandbox or container`);
  if (sandboxId !== id) throw malformed(`${where}: annotation ${ANNOTATION.sandbox} is ${shown(sandboxId)}, expected the container's own id ${id}`);
  return { kind: "sandbox" };
}

function networkOf(where: string, namespaces: JsonValue | undefined): BundleNetwork {
  const network = (asArray(namespaces) ?? []).map((item) => asObject(item)).find((item) => item?.["type"] === "network");
  if (network === undefined) return { kind: "host" };
  const path = network["path"] ?? "";
  if (path === "") return { kind: "new" };
  // It becomes an argument of programs that enter it.
  if (typeof path === "string" && isAbsolute(path) && path.length <= MAX_PATH && !path.includes("\0")) return { kind: "path", path };
  throw malformed(`${where}: the path of the network namespace is ${typeof path === "string" ? shown(path) : "no text"}, expected an absolute one`);
}

/** Bytes of room for a file of unknown size: what the kernel gives of /proc at once. */
const LEAST_ROOM = 4096;

/** A regular file, opened without waiting: a pipe in its place would hold up the pod for ever. */
async function readText(path: string, limit: number): Promise<string> {
  try {
    await using file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const facts = await file.stat();
    if (!facts.isFile()) throw malformed(`${path} is no regular file`);
    // One byte more than the size and than the limit shows the end. Files of /proc say that they have none, and a file may grow: then there is more room.
    let bytes = new Uint8Array(Math.min(limit, Math.max(facts.size, LEAST_ROOM)) + 1);
    let length = 0;
    for (;;) {
      const { bytesRead } = await file.read(bytes, length, bytes.length - length, null);
      length += bytesRead;
      if (bytesRead === 0 || length > limit) break;
      if (length < bytes.length) continue;
      const larger = new Uint8Array(Math.min(limit, 2 * length) + 1);
      larger.set(bytes);
      bytes = larger;
    }
    if (length > limit) throw malformed(`${path} has more than ${limit} bytes`);
    return decodeUtf8(bytes.subarray(0, length), path);
  } catch (cause) {
    if (cause instanceof ShimError) throw cause;
    throw malformed(`cannot read ${path}: ${messageOf(cause)}`, cause);
  }
}

function shown(text: string): string {
  return JSON.stringify(text.length > 100 ? `${text.slice(0, 100)}…` : text);
}

function malformed(problem: string, cause?: unknown): ShimError {
  return new ShimError("ERR_SHIM_BUNDLE", problem, cause === undefined ? {} : { cause });
}
