import { posix } from "node:path";
import { asArray, asObject, decodeUtf8, fromBase64, fromHex, messageOf, parseJson, type JsonObject, type JsonValue } from "@sealpod/core";
import { EncfsError } from "./errors.ts";

/** A filesystem to mount. */
export interface RemoteFilesystem {
  /** Absolute path that the pod's containers see it under. */
  readonly mountPoint: string;
  /** https URL of the blob with the LUKS2 image; its query, if there is one, is a secret (a shared access signature). */
  readonly url: string;
  /** The blob is read with the pod's identity. */
  readonly isPrivate: boolean;
  readonly isWritable: boolean;
  readonly key: KeySource;
  readonly derivation: KeyDerivation;
}

/** Where the key comes from: released, or as it stands in the arguments, for tests of images. */
export type KeySource =
  | { readonly kind: "released"; readonly kid: string; readonly kty: string; readonly attestation: string; readonly vault: string }
  | { readonly kind: "raw"; readonly bytes: Uint8Array };

/** How the key of a volume is made of an RSA key (specs/attestation.md 5.7). */
export interface KeyDerivation {
  readonly salt: Uint8Array;
  readonly label: string;
}

/** Decoded `EncfsSideCarArgs`. */
export interface EncfsArguments {
  /** `azure_info` in the form of `SkrSideCarArgs`, base64 again: the sidecar's own decoder reads it. */
  readonly sidecar: string;
  readonly filesystems: readonly RemoteFilesystem[];
}

/** Room for dozens of filesystems. */
const MAX_ARGUMENTS = 256 * 1024;
const MAX_FILESYSTEMS = 32;
const DEFAULT_LABEL = "Symmetric Encryption Key";

/**
 * Decodes `EncfsSideCarArgs`: base64 of JSON.
 * @throws {EncfsError} ERR_ENCFS_CONFIGURATION, which says which member
 */
export function parseEncfsArguments(text: string | undefined): EncfsArguments {
  if (text === undefined || text.trim() === "") throw wrong("is not set: it names the filesystems to mount, as base64 of JSON");
  if (text.length > MAX_ARGUMENTS) throw wrong(`has ${text.length} characters, more than ${MAX_ARGUMENTS}`);
  let object: JsonObject | undefined;
  try {
    object = asObject(
      parseJson(decodeUtf8(fromBase64(text.replaceAll(/\s/g, ""), "EncfsSideCarArgs"), "EncfsSideCarArgs"), "EncfsSideCarArgs", {
        maxLength: MAX_ARGUMENTS,
        maxDepth: 8,
      }),
    );
  } catch (cause) {
    throw wrong(`is not base64 of JSON: ${messageOf(cause)}`, cause);
  }
  if (object === undefined) throw wrong("is not base64 of a JSON object");
  const info = object["azure_info"];
  if (info !== undefined && asObject(info) === undefined) throw wrong("azure_info is no object");
  const list = asArray(object["azure_filesystems"]);
  if (list === undefined || list.length === 0 || list.length > MAX_FILESYSTEMS)
    throw wrong(`azure_filesystems is no list of 1 to ${MAX_FILESYSTEMS} filesystems`);
  const filesystems = list.map((item, at) => parseFilesystem(item, `azure_filesystems[${at}]`));
  const points = filesystems.map(({ mountPoint }) => mountPoint);
  const twice = points.find((point, at) => points.some((other, index) => index !== at && (other === point || other.startsWith(`${point}/`))));
  if (twice !== undefined) throw wrong(`two filesystems are at ${JSON.stringify(twice)}, or one in the other`);
  return { sidecar: Buffer.from(JSON.stringify(info ?? {})).toString("base64"), filesystems };
}

function parseFilesystem(value: JsonValue, path: string): RemoteFilesystem {
  const object = asObject(value);
  if (object === undefined) throw wrong(`${path} is no object`);
  const mountPoint = textOf(object, "mount_point", path);
  // It becomes a link that a privileged process makes.
  if (
    !posix.isAbsolute(mountPoint) ||
    posix.normalize(mountPoint) !== mountPoint ||
    mountPoint === "/" ||
    mountPoint.endsWith("/") ||
    mountPoint.length > 4000 ||
    /\p{Cc}/u.test(mountPoint)
  ) {
    throw wrong(`${path}.mount_point is ${JSON.stringify(mountPoint.slice(0, 100))}, expected an absolute path without . and ..`);
  }
  const url = textOf(object, "azure_url", path);
  const parsed = URL.canParse(url) ? new URL(url) : undefined;
  if (parsed?.protocol !== "https:" || parsed.username !== "" || parsed.password !== "" || parsed.hash !== "")
    throw wrong(`${path}.azure_url is no https URL without user and fragment`);
  const raw = object["raw_key"];
  if (raw !== undefined && raw !== "" && object["key"] !== undefined) throw wrong(`${path} has both key and raw_key`);
  return {
    mountPoint,
    url,
    isPrivate: flagOf(object, "azure_url_private", path),
    isWritable: flagOf(object, "read_write", path),
    key: typeof raw === "string" && raw !== "" ? { kind: "raw", bytes: hexOf(raw, `${path}.raw_key`) } : parseKey(object["key"], `${path}.key`),
    derivation: parseDerivation(object["key_derivation"], `${path}.key_derivation`),
  };
}

function parseKey(value: JsonValue | undefined, path: string): KeySource {
  const key = asObject(value);
  if (key === undefined) throw wrong(`${path} is missing`);
  const kty = key["kty"] ?? "";
  if (typeof kty !== "string" || !/^((RSA|oct)(-HSM)?)?$/.test(kty)) throw wrong(`${path}.kty is not RSA, RSA-HSM, oct or oct-HSM`);
  const endpoint = (name: string): string => {
    const part = asObject(key[name]);
    if (part === undefined) throw wrong(`${path}.${name} is missing`);
    return textOf(part, "endpoint", `${path}.${name}`);
  };
  return { kind: "released", kid: textOf(key, "kid", path), kty, attestation: endpoint("authority"), vault: endpoint("akv") };
}

function parseDerivation(value: JsonValue | undefined, path: string): KeyDerivation {
  if (value === undefined || value === null) return { salt: new Uint8Array(), label: DEFAULT_LABEL };
  const object = asObject(value);
  const { salt, label } = object ?? {};
  if (object === undefined || (salt !== undefined && typeof salt !== "string") || (label !== undefined && typeof label !== "string"))
    throw wrong(`${path} is no object with salt and label`);
  return { salt: salt === undefined ? new Uint8Array() : hexOf(salt, `${path}.salt`), label: label === undefined || label === "" ? DEFAULT_LABEL : label };
}

function textOf(object: JsonObject, name: string, path: string): string {
  const value = object[name];
  if (typeof value !== "string" || value === "") throw wrong(`${path}.${name} is missing or no text`);
  return value;
}

function flagOf(object: JsonObject, name: string, path: string): boolean {
  const value = object[name] ?? false;
  if (typeof value !== "boolean") throw wrong(`${path}.${name} is not true or false`);
  return value;
}

function hexOf(text: string, path: string): Uint8Array {
  try {
    return fromHex(text.toLowerCase());
  } catch {
    throw wrong(`${path} is not hexadecimal`);
  }
}

function wrong(problem: string, cause?: unknown): EncfsError {
  return new EncfsError("ERR_ENCFS_CONFIGURATION", `EncfsSideCarArgs ${problem}`, { cause });
}
