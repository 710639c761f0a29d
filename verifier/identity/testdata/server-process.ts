import { randomBytes } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { Agent } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ask, freePort, makeLocalCertificate, ServiceProcess, type Answer } from "@sealpod/service/testing";

const MAIN = join(import.meta.dirname, "..", "main.ts");

/** The tenant of a {@link ServerWorld}. */
export const TENANT = "11111111-2222-4333-8444-555555555555";

/** The service in a process of its own. */
export class ServerProcess extends ServiceProcess {
  constructor(args: readonly string[], env: Readonly<Record<string, string>>) {
    super(MAIN, args, { PATH: process.env["PATH"], ...env });
  }
}

/** What {@link ServerWorld.ask} sends. */
export interface Asked {
  readonly body?: string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** A directory with all that a service needs. */
export class ServerWorld {
  readonly directory: string;
  readonly port: number;
  readonly token: string = randomBytes(32).toString("hex");
  readonly masterKey: Uint8Array = new Uint8Array(randomBytes(32));
  readonly #processes: ServerProcess[] = [];
  #agent = new Agent({ keepAlive: true });

  private constructor(directory: string, port: number) {
    this.directory = directory;
    this.port = port;
  }

  static async make(): Promise<ServerWorld> {
    const world = new ServerWorld(await mkdtemp(join(tmpdir(), "sealpod-identity-")), await freePort());
    world.write("master.key", Buffer.from(world.masterKey).toString("hex"));
    world.write("token", world.token);
    world.makeCertificate("tls", "localhost");
    return world;
  }

  get origin(): string {
    return `https://localhost:${this.port}`;
  }

  /** Issuer of the cluster `main`, with its slash. */
  get issuer(): string {
    return `${this.origin}/oidc/main/`;
  }

  file(name: string): string {
    return join(this.directory, name);
  }

  write(name: string, text: string): void {
    writeFileSync(this.file(name), text, { mode: 0o600 });
  }

  makeCertificate(name: string, commonName: string): void {
    makeLocalCertificate(this.file(name), commonName);
    this.#agent = new Agent({ keepAlive: true, ca: readFileSync(this.file(`${name}.crt`)) });
  }

  /** A configuration with everything in it; `change` replaces keys. */
  config(change: Readonly<Record<string, unknown>> = {}): string {
    const config = {
      authority: this.origin,
      tenants: [TENANT],
      listen: `127.0.0.1:${this.port}`,
      operations: "main",
      tls: { cert: "tls.crt", key: "tls.key" },
      database: "identity.sqlite",
      masterKey: { file: "master.key" },
      clusters: [{ name: "main", issuer: this.issuer }],
      management: { tokenFile: "token" },
      limits: { ratePerSecond: 0 },
      ...change,
    };
    this.write("config.json", JSON.stringify(config));
    return this.file("config.json");
  }

  /** Starts a process; {@link close} ends it. */
  start(args: readonly string[] = ["--config", this.config()], env: Readonly<Record<string, string>> = {}): ServerProcess {
    // A connection that was kept to a process that has ended would break the first request to the next one.
    this.#agent = new Agent(this.#agent.options);
    const started = new ServerProcess(args, env);
    this.#processes.push(started);
    return started;
  }

  /** One request; rejects if the connection breaks. */
  async ask(method: string, path: string, { body, headers = {} }: Asked = {}): Promise<Answer> {
    return ask({ host: "localhost", port: this.port, method, path, agent: this.#agent, headers }, body);
  }

  /** The same with the operator's token. */
  async manage(method: string, path: string, body?: object): Promise<Answer> {
    return this.ask(method, path, { headers: { authorization: `Bearer ${this.token}` }, ...(body === undefined ? {} : { body: JSON.stringify(body) }) });
  }

  /** Asks for an access token with a client secret. */
  async login(clientId: string, secret: string, resource = "https://vault.azure.net"): Promise<Answer> {
    const form = new URLSearchParams({ client_id: clientId, client_secret: secret, grant_type: "client_credentials", scope: `${resource}/.default` });
    return this.ask("POST", `/${TENANT}/oauth2/v2.0/token`, { body: form.toString(), headers: { "content-type": "application/x-www-form-urlencoded" } });
  }

  async close(): Promise<void> {
    this.#agent.destroy();
    for (const started of this.#processes.splice(0)) await started.kill();
    await rm(this.directory, { recursive: true, force: true });
  }
}
