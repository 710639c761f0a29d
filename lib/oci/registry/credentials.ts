import { messageOf } from "@sealpod/core";
import { OciError } from "../errors.ts";
import { DockerConfig, MAX_DOCKER_CONFIG, parseHelperAnswer } from "./docker-config.ts";
import type { Credentials } from "./docker-config.ts";
import { SecretMask } from "./mask.ts";
import type { RegistryPorts } from "./ports.ts";

/** What helpers print when they know no login, which is no failure (docker-credential-helpers, "errors"). */
const NOT_FOUND = /credentials not found/i;

/** Looks logins up: helpers and Docker's file, read when the first registry asks for a login. */
export class CredentialLookup {
  readonly #path: string | undefined;
  readonly #ports: RegistryPorts;
  readonly #mask: SecretMask;
  #config: Promise<DockerConfig | undefined> | undefined;
  /** Answers of helpers, which may take a second each. */
  readonly #helped = new Map<string, Promise<Credentials | undefined>>();

  constructor(path: string | undefined, ports: RegistryPorts, mask: SecretMask) {
    this.#path = path;
    this.#ports = ports;
    this.#mask = mask;
  }

  /**
   * The login for a repository, or undefined for none. A helper that fails is passed over with a warning.
   * @param again true if the last one was refused: helpers are asked once more, theirs may have expired
   * @throws {OciError} ERR_OCI_CREDENTIALS
   */
  async find(host: string, repository: string, again: boolean): Promise<Credentials | undefined> {
    const config = await (this.#config ??= this.#read());
    if (config === undefined) return undefined;
    const { helper, stored } = config.loginFor(host, repository);
    const found = (helper === undefined ? undefined : await this.#ask(helper.name, helper.server, again)) ?? stored;
    if (found !== undefined) this.#keepSecret(found);
    return found;
  }

  #ask(name: string, server: string, again: boolean): Promise<Credentials | undefined> {
    const key = `${name} ${server}`;
    const known = again ? undefined : this.#helped.get(key);
    if (known !== undefined) return known;
    const answer = this.#run(name, server);
    this.#helped.set(key, answer);
    return answer;
  }

  async #run(name: string, server: string): Promise<Credentials | undefined> {
    const warn = (problem: string): undefined => {
      this.#ports.logger.log("warn", `docker-credential-${name} gave no login for ${server}: ${problem}; going on without it`, { registry: server });
    };
    try {
      const { exitCode, stdout } = await this.#ports.runCredentialHelper(name, server);
      if (exitCode !== 0) return NOT_FOUND.test(stdout.slice(0, 1000)) ? undefined : warn(`exit code ${exitCode}`);
      const credentials = parseHelperAnswer(stdout);
      return credentials ?? warn("its answer is not one");
    } catch (error) {
      return warn(this.#mask.clean(messageOf(error)));
    }
  }

  async #read(): Promise<DockerConfig | undefined> {
    const path = this.#path;
    if (path === undefined) return undefined;
    let bytes: Uint8Array | undefined;
    try {
      bytes = await this.#ports.readFile(path, MAX_DOCKER_CONFIG);
    } catch (cause) {
      throw new OciError("ERR_OCI_CREDENTIALS", `Docker's configuration: ${path} cannot be read: ${messageOf(cause)}`, {
        cause,
        hint: "Make the file readable, or set DOCKER_CONFIG to a directory without one to go on anonymously.",
      });
    }
    return bytes === undefined ? undefined : new DockerConfig(bytes, path);
  }

  #keepSecret(credentials: Credentials): void {
    if (credentials.kind === "basic") this.#mask.add(credentials.password);
    else this.#mask.add(credentials.token);
  }
}

/**
 * Looks up logins for other clients of registries, such as containerd, as the registry client does for itself.
 * @param dockerConfig path of Docker's `config.json`
 * @returns rejects with ERR_OCI_CREDENTIALS
 */
export function openCredentials(dockerConfig: string, ports: RegistryPorts): (registry: string, repository: string) => Promise<Credentials | undefined> {
  const lookup = new CredentialLookup(dockerConfig, ports, new SecretMask());
  return async (registry, repository) => lookup.find(registry, repository, false);
}
