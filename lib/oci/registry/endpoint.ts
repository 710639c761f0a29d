import { OciError } from "../errors.ts";
import { isRegistryHost, parseReference } from "../reference.ts";
import type { Reference } from "../reference.ts";
import type { RegistryOptions } from "./ports.ts";

/** A host that may have the images of a repository: the registry or one of its mirrors. */
export interface Endpoint {
  /** `host[:port]` as users write it and as credentials are filed: `docker.io`, not the host behind it. */
  readonly host: string;
  /** URL of the repository, without a slash at its end. */
  readonly base: string;
  readonly repository: string;
  readonly isInsecure: boolean;
  readonly isMirror: boolean;
}

/** Docker Hub's API is not at the name that references use. */
const DOCKER_HUB = "docker.io";
const DOCKER_HUB_API = "registry-1.docker.io";

/** Where a reference's image is looked for. */
export class Endpoints {
  readonly #insecure: ReadonlySet<string>;
  readonly #mirrors: ReadonlyMap<string, readonly MirrorAddress[]>;

  /** @throws {OciError} ERR_OCI_ARGUMENT */
  constructor(options: RegistryOptions) {
    this.#insecure = new Set((options.insecureRegistries ?? []).map((text) => parseHost(text, "insecure registry")));
    this.#mirrors = new Map(
      [...(options.mirrors ?? [])].map(([registry, mirrors]) => [parseHost(registry, "registry with mirrors"), mirrors.map((mirror) => parseMirror(mirror))]),
    );
  }

  /** The registry's mirrors, in order. */
  mirrorsOf({ registry, repository }: Reference): readonly Endpoint[] {
    const mirrors = this.#mirrors.get(registry.toLowerCase()) ?? [];
    return mirrors.map(({ host, prefix }) => this.#endpoint(host, `${prefix}${repository}`, true));
  }

  /** The registry itself. @throws {OciError} ERR_OCI_REFERENCE */
  registryOf({ registry, repository }: Reference): Endpoint {
    return this.#endpoint(registry.toLowerCase(), repository, false);
  }

  #endpoint(host: string, repository: string, isMirror: boolean): Endpoint {
    const isInsecure = this.#insecure.has(host);
    // A reference's grammar lets ports through that no URL has.
    if (!isRegistryHost(host)) throw new OciError("ERR_OCI_REFERENCE", `registry ${JSON.stringify(host)} is not a host name with optional port`);
    const base = `${isInsecure ? "http" : "https"}://${host === DOCKER_HUB ? DOCKER_HUB_API : host}/v2/${repository}`;
    return { host, base, repository, isInsecure, isMirror };
  }
}

/** Repetitions that a request to an endpoint gets: a mirror has the registry behind it, so it is not waited for. */
export function retriesFor({ isMirror }: Endpoint, retries: number): number {
  return isMirror ? Math.min(1, retries) : retries;
}

/** True for URLs that do not leave this machine. */
export function isLoopback(url: URL): boolean {
  return url.hostname === "localhost" || url.hostname === "[::1]" || /^127\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}$/.test(url.hostname);
}

interface MirrorAddress {
  readonly host: string;
  /** "" or a path with a slash at its end. */
  readonly prefix: string;
}

function parseMirror(text: string): MirrorAddress {
  const slash = text.indexOf("/");
  if (slash === -1) return { host: parseHost(text, "mirror"), prefix: "" };
  const host = parseHost(text.slice(0, slash), "mirror");
  const path = text.slice(slash + 1).replace(/\/$/, "");
  return { host, prefix: path === "" ? "" : `${parseRepository(path, text)}/` };
}

function parseRepository(path: string, text: string): string {
  try {
    // Under a host of its own, so that no path of the mirror is taken for one.
    const { repository, tag, digest } = parseReference(`mirror.invalid/${path}`);
    if (tag === "latest" && digest === undefined && repository === path) return repository;
  } catch (error) {
    if (!(error instanceof OciError)) throw error;
  }
  throw new OciError("ERR_OCI_ARGUMENT", `mirror ${JSON.stringify(text.slice(0, 300))}: the part after the host is not the path of a repository`, {
    hint: "Write a mirror as HOST[:PORT][/PATH], without https://.",
  });
}

/** The host in lower case; Docker Hub by the name that references use. */
function parseHost(text: string, what: string): string {
  if (isRegistryHost(text)) return text === "index.docker.io" ? DOCKER_HUB : text.toLowerCase();
  throw new OciError("ERR_OCI_ARGUMENT", `${what} ${JSON.stringify(text.slice(0, 300))} is not a host name with optional port`, {
    hint: "Write HOST or HOST:PORT, without https:// and without a path.",
  });
}
