import { parseDigest } from "./digest.ts";
import { OciError } from "./errors.ts";

/** An image reference with Docker's defaults filled in. If it has a digest, that decides; the tag is a comment then. */
export interface Reference {
  /** Host name with optional port, e.g. `docker.io`. */
  readonly registry: string;
  /** E.g. `library/nginx`. */
  readonly repository: string;
  /** Undefined only if there is a digest. */
  readonly tag: string | undefined;
  readonly digest: string | undefined;
}

/** Longest name that registries take, registry included. */
const MAX_NAME = 255;
/** Name, tag of up to 128, digest of 71, separators. */
const MAX_REFERENCE = MAX_NAME + 128 + 71 + 2;

const REGISTRY = /^(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?$/;
const COMPONENT = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/;
const TAG = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;

/**
 * Parses `[registry/]repository[:tag][@digest]`. No registry means docker.io, a repository of one component there is under
 * `library/`, no tag and no digest means `latest`.
 * @throws {OciError} ERR_OCI_REFERENCE, ERR_OCI_DIGEST
 */
export function parseReference(text: string): Reference {
  // The bound comes first: the patterns below are linear, but an error message should not carry a megabyte either.
  if (text.length > MAX_REFERENCE)
    throw new OciError("ERR_OCI_REFERENCE", `image reference has ${text.length} characters, at most ${MAX_REFERENCE} are allowed`);
  const at = text.indexOf("@");
  const digest = at === -1 ? undefined : parseDigest(text.slice(at + 1), `digest of image reference ${JSON.stringify(text)}`);
  const named = at === -1 ? text : text.slice(0, at);
  const colon = named.indexOf(":", named.lastIndexOf("/") + 1);
  const tag = colon === -1 ? undefined : named.slice(colon + 1);
  const name = colon === -1 ? named : named.slice(0, colon);
  if (tag !== undefined && !TAG.test(tag)) throw invalid(text, `tag ${JSON.stringify(tag)} is not a letter, digit or _ and up to 127 of those, . and -`);
  if (name.length > MAX_NAME) throw invalid(text, `its name has ${name.length} characters, at most ${MAX_NAME} are allowed`);

  const slash = name.indexOf("/");
  const first = slash === -1 ? "" : name.slice(0, slash);
  // A first component is a host only if it cannot be part of a repository's path, or is "localhost" (distribution/reference).
  const hasRegistry = first === "localhost" || /[.:A-Z[]/.test(first);
  const registry = !hasRegistry || first === "index.docker.io" ? "docker.io" : first;
  const path = hasRegistry ? name.slice(slash + 1) : name;
  if (!REGISTRY.test(registry)) throw invalid(text, `registry ${JSON.stringify(registry)} is not a host name with optional port`);
  const bad = path.split("/").find((component) => !COMPONENT.test(component));
  if (bad !== undefined) throw invalid(text, `${JSON.stringify(bad)} is not a repository name: lower-case letters and digits, separated by . _ __ or -`);
  const repository = registry === "docker.io" && !path.includes("/") ? `library/${path}` : path;
  return { registry, repository, tag: tag ?? (digest === undefined ? "latest" : undefined), digest };
}

/** True for a host name, IPv4 address or bracketed IPv6 address, with optional port. */
export function isRegistryHost(text: string): boolean {
  return text.length <= MAX_NAME && REGISTRY.test(text) && URL.canParse(`https://${text}/`);
}

/** The full text of a reference: `registry/repository[:tag][@digest]`. */
export function encodeReference(reference: Reference): string {
  const tag = reference.tag === undefined ? "" : `:${reference.tag}`;
  const digest = reference.digest === undefined ? "" : `@${reference.digest}`;
  return `${reference.registry}/${reference.repository}${tag}${digest}`;
}

function invalid(text: string, problem: string): OciError {
  return new OciError("ERR_OCI_REFERENCE", `image reference ${JSON.stringify(text)}: ${problem}`);
}
