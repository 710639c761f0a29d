import { asObject, decodeUtf8, encodeUtf8, fromAnyBase64, messageOf, parseJson } from "@sealpod/core";
import type { JsonObject, JsonValue } from "@sealpod/core";
import { OciError } from "../errors.ts";

/** What Docker's `config.json` says about one registry, without the secrets of others. */
export interface RegistryLogin {
  /** A helper to ask before the file itself, and the name of the server to ask it for. */
  readonly helper: { readonly name: string; readonly server: string } | undefined;
  readonly stored: Credentials | undefined;
}

/** How to log in to a registry. */
export type Credentials =
  | { readonly kind: "basic"; readonly username: string; readonly password: string }
  /** A refresh token for the registry's token service. `basic`: the same as it was stored, for services that take nothing else. */
  | { readonly kind: "identity"; readonly token: string; readonly basic?: { readonly username: string; readonly password: string } }
  /** A token for the registry itself. */
  | { readonly kind: "bearer"; readonly token: string };

/** Larger than any that people have; the file is read by programs alone. */
export const MAX_DOCKER_CONFIG: number = 1024 * 1024;
const CONFIG_DEPTH = 16;

/** Without a prototype, as parsed objects are: a registry named `constructor` has no helper. */
const EMPTY = Object.create(null) as JsonObject;

/** The names under which Docker files the login for Docker Hub, the usual one first. */
const HUB_KEYS = ["https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io"];

/** The user name with which `az acr login` says that the password is a refresh token (learn.microsoft.com, "acr authentication"). */
const NO_USER = "00000000-0000-0000-0000-000000000000";
/** The same, as credential helpers say it (docker-credential-helpers, "get"). */
const TOKEN_USER = "<token>";

/**
 * Where Docker keeps its configuration.
 * @param variable value of `DOCKER_CONFIG`: a directory
 * @param home the user's home directory
 */
export function dockerConfigPath(variable: string | undefined, home: string): string {
  return `${variable === undefined || variable === "" ? `${home}/.docker` : variable}/config.json`;
}

/** Docker's `config.json`. Messages name the file and the place in it, never what stands there. */
export class DockerConfig {
  readonly #path: string;
  readonly #document: JsonObject;

  /** @throws {OciError} ERR_OCI_CREDENTIALS */
  constructor(bytes: Uint8Array, path: string) {
    this.#path = path;
    try {
      this.#document = this.#object(parseJson(decodeUtf8(bytes, path), path, { maxLength: MAX_DOCKER_CONFIG, maxDepth: CONFIG_DEPTH }), "the document");
    } catch (error) {
      if (error instanceof OciError) throw error;
      throw malformed(messageOf(error));
    }
  }

  /**
   * The login for a registry, as Docker looks it up: `credHelpers`, `credsStore`, `auths`; and Podman's entries for a part
   * of a registry (`host/namespace`), the longest that fits.
   * @throws {OciError} ERR_OCI_CREDENTIALS
   */
  loginFor(host: string, repository: string): RegistryLogin {
    const keys = host === "docker.io" ? HUB_KEYS : [host];
    const helpers = this.#optionalObject(this.#document["credHelpers"], "credHelpers");
    const key = keys.find((candidate) => helpers[candidate] !== undefined);
    const own = key === undefined ? "" : this.#text(helpers[key], `credHelpers[${JSON.stringify(key)}]`);
    const name = own === "" ? this.#text(this.#document["credsStore"], "credsStore") : own;
    // The name becomes part of a program's name: it must not become a path.
    if (name !== "" && !/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(name)) {
      throw this.#malformed(own === "" ? "credsStore" : `credHelpers[${JSON.stringify(key)}]`, "the name of a credential helper");
    }
    const server = own === "" ? keys[0] : key;
    return { helper: name === "" || server === undefined ? undefined : { name, server }, stored: this.#stored(keys, repository) };
  }

  #stored(keys: readonly string[], repository: string): Credentials | undefined {
    const hosts = new Set(keys.map((key) => splitKey(key).host));
    let best: { readonly rank: number; readonly credentials: Credentials } | undefined;
    for (const [key, value] of Object.entries(this.#optionalObject(this.#document["auths"], "auths"))) {
      const { host, path, isUrl } = splitKey(key);
      if (!hosts.has(host)) continue;
      if (path !== "" && repository !== path && !repository.startsWith(`${path}/`)) continue;
      const rank = path.length * 2 + (isUrl ? 0 : 1);
      if (best !== undefined && best.rank > rank) continue;
      const where = `auths[${JSON.stringify(key)}]`;
      const credentials = this.#entry(this.#optionalObject(value, where), where);
      if (credentials !== undefined) best = { rank, credentials };
    }
    return best?.credentials;
  }

  #entry(entry: JsonObject, where: string): Credentials | undefined {
    const text = (name: string): string => this.#text(entry[name], `${where}.${name}`);
    const registryToken = text("registrytoken");
    if (registryToken !== "") return { kind: "bearer", token: registryToken };
    const identityToken = text("identitytoken");
    if (identityToken !== "") return { kind: "identity", token: identityToken };
    const auth = text("auth");
    if (auth === "") return credentialsOf(text("username"), text("password"));
    let decoded: string;
    try {
      decoded = decodeUtf8(fromAnyBase64(auth));
    } catch {
      throw this.#malformed(`${where}.auth`, "base64");
    }
    const colon = decoded.indexOf(":");
    if (colon < 1) throw this.#malformed(`${where}.auth`, "base64 of user:password");
    // Docker pads passwords with NULs in old files, and cuts them off again.
    return credentialsOf(decoded.slice(0, colon), decoded.slice(colon + 1).replaceAll("\0", ""));
  }

  #object(value: JsonValue | undefined, where: string): JsonObject {
    const found = asObject(value);
    if (found === undefined) throw this.#malformed(where, "an object");
    return found;
  }

  #optionalObject(value: JsonValue | undefined, where: string): JsonObject {
    return value === undefined || value === null ? EMPTY : this.#object(value, where);
  }

  #text(value: JsonValue | undefined, where: string): string {
    if (value === undefined || value === null) return "";
    if (typeof value !== "string") throw this.#malformed(where, "text");
    return value;
  }

  #malformed(where: string, expected: string): OciError {
    return malformed(`${this.#path}: ${where} is not ${expected}`);
  }
}

/**
 * The answer of a credential helper; undefined if it is none (docker-credential-helpers, "get").
 * @param stdout never shown: it may hold a secret even where it is malformed
 */
export function parseHelperAnswer(stdout: string): Credentials | undefined {
  try {
    const answer = asObject(parseJson(stdout, "answer", { maxLength: MAX_DOCKER_CONFIG, maxDepth: 4 }));
    const [username, secret] = [answer?.["Username"] ?? "", answer?.["Secret"]];
    if (typeof username !== "string" || typeof secret !== "string") return undefined;
    return credentialsOf(username, secret);
  } catch {
    return undefined;
  }
}

/** The value of an Authorization header for user and password (RFC 7617). */
export function basicAuthorization({ username, password }: { readonly username: string; readonly password: string }): string {
  return `Basic ${Buffer.from(encodeUtf8(`${username}:${password}`)).toString("base64")}`;
}

function credentialsOf(username: string, password: string): Credentials | undefined {
  if (password === "") return undefined;
  if (username === TOKEN_USER) return { kind: "identity", token: password };
  if (username === NO_USER) return { kind: "identity", token: password, basic: { username, password } };
  return username === "" ? undefined : { kind: "basic", username, password };
}

/** Host and path of a key of `auths`: a host, a URL (whose path says nothing), or `host/namespace`. */
function splitKey(key: string): { readonly host: string; readonly path: string; readonly isUrl: boolean } {
  const bare = key.replace(/^https?:\/\//, "");
  const slash = bare.indexOf("/");
  const host = (slash === -1 ? bare : bare.slice(0, slash)).toLowerCase();
  const path = slash === -1 ? "" : bare.slice(slash + 1).replace(/\/$/, "");
  const isUrl = bare.length !== key.length || path === "v1" || path === "v2";
  return { host, path: isUrl ? "" : path, isUrl };
}

function malformed(problem: string): OciError {
  return new OciError("ERR_OCI_CREDENTIALS", `Docker's configuration: ${problem}`, {
    hint: "Mend the file, or set DOCKER_CONFIG to a directory without one to go on anonymously.",
  });
}
