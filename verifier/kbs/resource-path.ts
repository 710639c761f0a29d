import { encodeUtf8, sha256, toHex } from "@sealpod/core";
import { KbsError } from "./errors.ts";

/** What a resource is called: `kbs:///<repository>/<type>/<tag>`. */
export interface ResourcePath {
  readonly repository: string;
  readonly type: string;
  readonly tag: string;
}

/** Characters of a part of a path, as CoCo's key broker has them; its parts cannot climb out of a directory, and neither can ours. */
const PART = /^(?!\.{1,2}$)[A-Za-z0-9_.-]{1,256}$/;
/** A part that can stand in a secret's name as it is: no capital letters, because such names are compared without regard to case; no double hyphens, which separate. */
const PLAIN_PART = /^[a-z0-9]+(-[a-z0-9]+)*$/;
/** Longest name of a secret in Key Vault. */
const MAX_SECRET_NAME = 127;

/**
 * The path of a resource from the parts of a URL.
 * @throws {KbsError} ERR_KBS_RESOURCE
 */
export function parseResourcePath(parts: readonly string[]): ResourcePath {
  const [repository, type, tag, ...rest] = parts;
  if (repository === undefined || type === undefined || tag === undefined || rest.length > 0)
    throw new KbsError("ERR_KBS_RESOURCE", `a resource path has 3 parts (repository/type/tag), found ${parts.length}`);
  const wrong = parts.findIndex((part) => !PART.test(part));
  if (wrong !== -1)
    throw new KbsError(
      "ERR_KBS_RESOURCE",
      `part ${wrong + 1} of the resource path is ${JSON.stringify((parts[wrong] ?? "").slice(0, 60))}, expected 1 to 256 letters, digits, "_", "-" or "."`,
    );
  return { repository, type, tag };
}

/** The path as it stands in a URI after `kbs:///`. */
export function formatResourcePath({ repository, type, tag }: ResourcePath): string {
  return `${repository}/${type}/${tag}`;
}

/**
 * The name of the secret that holds a resource: `kbs--<repository>--<type>--<tag>`. Where the parts do not allow that (capital letters, `_`, `.`, doubled hyphens, too long together) it is
 * `kbsx--` and the SHA-256 of the path, 64 hex digits. No two paths have one name.
 */
export function secretNameOf(path: ResourcePath): string {
  const parts = [path.repository, path.type, path.tag];
  const name = ["kbs", ...parts].join("--");
  if (name.length <= MAX_SECRET_NAME && parts.every((part) => PLAIN_PART.test(part))) return name;
  return `kbsx--${toHex(sha256(encodeUtf8(formatResourcePath(path))))}`;
}
