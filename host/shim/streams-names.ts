import { ShimError } from "./errors.ts";

/** Bytes of a name of a stream: a path (PATH_MAX) four times over, for the arguments of a logger. */
const MAX_NAME_LENGTH = 16_384;

/** Scheme, authority, path, query and fragment of a URI (RFC 3986, appendix B). */
const URI = /^([A-Za-z][A-Za-z0-9+.-]*):\/\/([^/?#]*)([^?#]*)(?:\?([^#]*))?(#.*)?$/s;

/** What a name in a Create or Exec request stands for. */
export type StreamTarget =
  /** A FIFO, or a file that exists. */
  | { readonly kind: "path"; readonly path: string }
  /** A file that is made if it is missing; output is added to its end. */
  | { readonly kind: "file"; readonly path: string }
  /** A program that takes output. */
  | { readonly kind: "binary"; readonly path: string; readonly args: readonly string[] };

/**
 * Parses the name of a stream: an absolute path, `file://` or `binary://` URI (specs/runtime.md 5.6).
 * Arguments of a program are the names and first values of the URI's query, in their order there.
 * @returns undefined for the empty name, which is no stream
 * @throws {ShimError} ERR_SHIM_STREAM
 */
export function parseStreamName(stream: string, name: string): StreamTarget | undefined {
  if (name === "") return undefined;
  if (Buffer.byteLength(name) > MAX_NAME_LENGTH) throw unusable(stream, name, `is longer than ${MAX_NAME_LENGTH} bytes`);
  if (name.includes("\0")) throw unusable(stream, name, "has a NUL");
  if (name.startsWith("/")) return { kind: "path", path: name };
  const [, scheme = "", authority = "", encodedPath = "", query = "", fragment] = URI.exec(name) ?? [];
  const kind = scheme.toLowerCase();
  if (kind !== "file" && kind !== "binary") throw unusable(stream, name, "is neither an absolute path nor a file:// or binary:// URI");
  // binary://usr/bin/x names the host `usr`, and would run /bin/x.
  if (authority !== "") throw unusable(stream, name, `names the host ${JSON.stringify(authority.slice(0, 64))}: there are three slashes before a path`);
  if (fragment !== undefined) throw unusable(stream, name, "has a fragment: a # in a path is written %23");
  const path = decoded(stream, name, encodedPath);
  if (!path.startsWith("/")) throw unusable(stream, name, "has no path");
  if (kind === "file") return { kind, path };
  return { kind, path, args: programArguments(stream, name, query) };
}

/** The error of a stream that cannot be opened. */
export function unusable(stream: string, name: string, problem: string, cause?: unknown): ShimError {
  const text = JSON.stringify(name.length <= 256 ? name : `${name.slice(0, 256)}…`);
  return new ShimError("ERR_SHIM_STREAM", `${stream} ${text} ${problem}`, {
    ...(cause === undefined ? {} : { cause }),
    details: { stream },
    hint: "Streams are paths of FIFOs (containerd's io_type fifo, the default), file:// or binary:// URIs.",
  });
}

function decoded(stream: string, name: string, text: string): string {
  let plain: string;
  try {
    plain = decodeURIComponent(text);
  } catch (cause) {
    throw unusable(stream, name, "has a % that is no byte of UTF-8", cause);
  }
  if (plain.includes("\0")) throw unusable(stream, name, "has a NUL");
  return plain;
}

/** As other shims hand them over: a name without a value is followed by an empty argument, and of a name that comes twice the first counts. */
function programArguments(stream: string, name: string, query: string): readonly string[] {
  const values = new Map<string, string>();
  for (const part of query.split("&")) {
    if (part === "") continue;
    const [key = "", ...rest] = part.replaceAll("+", " ").split("=");
    const argument = decoded(stream, name, key);
    if (!values.has(argument)) values.set(argument, decoded(stream, name, rest.join("=")));
  }
  return [...values].flat();
}
