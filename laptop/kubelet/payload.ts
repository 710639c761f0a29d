import { encodeUtf8 } from "@sealpod/core";
import type { HostFile, PodContext } from "./context.ts";
import { downwardFile } from "./downward.ts";
import { KubeletError } from "./errors.ts";
import type { DownwardSource, FileMode, KeyToPath, PodTemplate, ProjectedSource } from "./pod.ts";

/** Files of a volume by their path in it. */
export type Payload = ReadonlyMap<string, PayloadFile>;

/** A file of a volume. */
export interface PayloadFile {
  readonly content: Uint8Array;
  readonly mode: number;
}

/** Mode of files that the manifest gives none. */
const DEFAULT_MODE = 0o644;

/** Mode of a token in a pod with an fsGroup, which then may read it too. */
const TOKEN_MODE = 0o600;

/** Seconds that a token is good for if the manifest does not say. */
const TOKEN_SECONDS = 3600;

/** ConfigMap with the cluster's certificate that every namespace has. */
const ROOT_CA = "kube-root-ca.crt";

/** What the files of a volume are made of. */
export interface PayloadContext {
  readonly volume: string;
  readonly template: PodTemplate;
  readonly pod: PodContext;
}

/** Reference to a ConfigMap or Secret whose keys become files. */
interface KeyedReference {
  readonly name: string;
  readonly items?: readonly KeyToPath[];
  readonly optional?: boolean;
}

/**
 * Files of a ConfigMap or Secret.
 * @throws {KubeletError} ERR_KUBELET_UNRESOLVED, ERR_KUBELET_INVALID_POD
 */
export function keyedPayload(kind: "ConfigMap" | "Secret", reference: KeyedReference, defaultMode: FileMode | undefined, context: PayloadContext): Payload {
  const { name, items = [], optional = false } = reference;
  const object = kind === "ConfigMap" ? configMapOf(name, context.pod) : context.pod.secrets?.get(name);
  if (object === undefined && !optional)
    throw new KubeletError("ERR_KUBELET_UNRESOLVED", `volume ${context.volume}: ${kind} ${name} does not exist`, { hint: "Add it to the manifest." });
  const files = new Map<string, PayloadFile>();
  const wanted = items.length > 0 ? items : [...(object?.keys() ?? [])].map((key): KeyToPath => ({ key, path: key }));
  for (const { key, path, mode } of wanted) {
    const content = object?.get(key);
    if (content !== undefined) files.set(filePath(path, context.volume), { content, mode: fileMode(mode ?? defaultMode, context.volume) });
    else if (!optional) throw new KubeletError("ERR_KUBELET_UNRESOLVED", `volume ${context.volume}: ${kind} ${name} has no key ${key}`);
  }
  return files;
}

/**
 * Files of a downward API volume.
 * @throws {KubeletError} ERR_KUBELET_UNRESOLVED, ERR_KUBELET_UNSUPPORTED, ERR_KUBELET_INVALID_POD, ERR_KUBELET_QUANTITY
 */
export function downwardPayload(source: DownwardSource, defaultMode: FileMode | undefined, context: PayloadContext): Payload {
  const { volume, template, pod } = context;
  return new Map(
    (source.items ?? []).map((item) => {
      const content = encodeUtf8(downwardFile(item, `volume ${volume}`, template, pod));
      return [filePath(item.path, volume), { content, mode: fileMode(item.mode ?? defaultMode, volume) }] as const;
    }),
  );
}

/**
 * Files of a projected volume; a later source stands over an earlier one.
 * @throws {KubeletError} as the others, and ERR_KUBELET_UNSUPPORTED for sources that the laptop does not have
 */
export async function projectedPayload(sources: readonly ProjectedSource[], defaultMode: FileMode | undefined, context: PayloadContext): Promise<Payload> {
  const files = new Map<string, PayloadFile>();
  for (const source of sources) for (const [path, file] of await sourcePayload(source, defaultMode, context)) files.set(path, file);
  return files;
}

async function sourcePayload(source: ProjectedSource, defaultMode: FileMode | undefined, context: PayloadContext): Promise<Payload> {
  if (source.configMap !== undefined) return keyedPayload("ConfigMap", source.configMap, defaultMode, context);
  if (source.secret !== undefined) return keyedPayload("Secret", source.secret, defaultMode, context);
  if (source.downwardAPI !== undefined) return downwardPayload(source.downwardAPI, defaultMode, context);
  const token = source.serviceAccountToken;
  if (token === undefined) {
    throw new KubeletError("ERR_KUBELET_UNSUPPORTED", `volume ${context.volume}: projected source ${Object.keys(source).join(", ") || "{}"} is not supported`, {
      hint: "Supported: configMap, secret, downwardAPI, serviceAccountToken.",
    });
  }
  const content = await context.pod.requestToken({ audience: token.audience ?? "", expirationSeconds: token.expirationSeconds ?? TOKEN_SECONDS });
  const mode = context.template.spec.securityContext?.fsGroup === undefined ? fileMode(defaultMode, context.volume) : TOKEN_MODE;
  return new Map([[filePath(token.path, context.volume), { content: encodeUtf8(content), mode }]]);
}

function configMapOf(name: string, context: PodContext): ReadonlyMap<string, Uint8Array> | undefined {
  const object = context.configMaps?.get(name);
  if (object !== undefined) return new Map([...object.data, ...(object.binaryData ?? [])]);
  return name === ROOT_CA ? new Map([["ca.crt", encodeUtf8(context.caCertificate)]]) : undefined;
}

/**
 * A directory as kubelet's atomic writer leaves it: the files in a time-stamped directory, `..data` pointing there, and each name at the
 * top pointing into `..data`, so that an update is one rename.
 */
export function atomicDirectory(directory: string, payload: Payload, now: number): readonly HostFile[] {
  const stamp = `..${new Date(now).toISOString().replace("Z", "000000").replaceAll(/[-:T]/g, "_")}`;
  const files: HostFile[] = [
    { kind: "directory", path: directory, mode: 0o777 },
    { kind: "directory", path: `${directory}/${stamp}`, mode: 0o755 },
  ];
  for (const parent of parentsOf(payload)) files.push({ kind: "directory", path: `${directory}/${stamp}/${parent}`, mode: 0o755 });
  for (const [path, { content, mode }] of payload) files.push({ kind: "file", path: `${directory}/${stamp}/${path}`, mode, content });
  files.push({ kind: "symlink", path: `${directory}/..data`, target: stamp });
  const tops = new Set([...payload.keys()].map((path) => path.split("/", 1)[0] ?? ""));
  for (const top of tops) files.push({ kind: "symlink", path: `${directory}/${top}`, target: `..data/${top}` });
  return files;
}

/** Directories that the files lie in, outer before inner. */
export function parentsOf(payload: Payload): readonly string[] {
  const parents = new Set<string>();
  for (const path of payload.keys()) {
    const parts = path.split("/");
    for (let depth = 1; depth < parts.length; depth++) parents.add(parts.slice(0, depth).join("/"));
  }
  return [...parents].sort();
}

/** A path of the manifest, normalised. One that is absolute or has `..` would leave the volume's directory on the host. */
function filePath(path: string, volume: string): string {
  const parts = path.split("/").filter((part) => part !== "" && part !== ".");
  if (path.startsWith("/") || path.includes("\0") || parts.length === 0 || parts.includes("..") || path.startsWith("..")) {
    throw new KubeletError("ERR_KUBELET_INVALID_POD", `volume ${volume}: ${JSON.stringify(path)} cannot name a file of a volume`, {
      hint: "Use a relative path without '..'.",
    });
  }
  return parts.join("/");
}

function fileMode(mode: FileMode | undefined, volume: string): number {
  if (mode === undefined) return DEFAULT_MODE;
  // Readers of YAML 1.1, the API server's among them, take a leading zero for octal.
  const value = typeof mode === "string" && /^0[0-7]{1,4}$/.test(mode) ? Number.parseInt(mode, 8) : mode;
  if (typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= 0o777) return value;
  throw new KubeletError("ERR_KUBELET_INVALID_POD", `volume ${volume}: ${JSON.stringify(mode)} is not a file mode from 0 to 0777`);
}
