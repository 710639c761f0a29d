import { randomBytes } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { Agent } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodePem, parseCertificatesPem } from "@sealpod/pki";
import { SecurityProcessor, type LaunchedGuest } from "@sealpod/psp";
import { ask, freePort, makeLocalCertificate, ServiceProcess, type Answer } from "@sealpod/service/testing";

const MAIN = join(import.meta.dirname, "..", "main.ts");
const clock = { now: (): number => Date.now() };
const random = { bytes: (length: number): Uint8Array => new Uint8Array(randomBytes(length)) };

/** The service in a process of its own. */
export class ServerProcess extends ServiceProcess {
  constructor(args: readonly string[], env: Readonly<Record<string, string>> = {}) {
    super(MAIN, args, { PATH: process.env["PATH"], ...env });
  }
}

/** A directory with all that a service needs, and evidence that it takes. */
export class ServerWorld {
  readonly directory: string;
  readonly port: number;
  readonly token: string = randomBytes(32).toString("hex");
  readonly masterKey: Uint8Array = random.bytes(32);
  readonly #guest: LaunchedGuest;
  readonly #chain: string;
  readonly #processes: ServerProcess[] = [];
  #agent = new Agent({ keepAlive: true });

  private constructor(directory: string, port: number, guest: LaunchedGuest, chain: string) {
    this.directory = directory;
    this.port = port;
    this.#guest = guest;
    this.#chain = chain;
  }

  static async make(): Promise<ServerWorld> {
    const directory = await mkdtemp(join(tmpdir(), "sealpod-attestation-"));
    const processor = await SecurityProcessor.open(join(directory, "psp"), { clock, random });
    const guest = await processor.launch({ pages: [], hostData: new Uint8Array(32) });
    const world = new ServerWorld(directory, await freePort(), guest, processor.chainPem);
    const root = parseCertificatesPem(processor.chainPem).at(-1);
    world.write("emulator.pem", encodePem("CERTIFICATE", root?.der ?? new Uint8Array()));
    world.write("master.key", Buffer.from(world.masterKey).toString("hex"));
    world.write("token", world.token);
    world.makeCertificate("tls", "localhost");
    return world;
  }

  get origin(): string {
    return `https://localhost:${this.port}`;
  }

  file(name: string): string {
    return join(this.directory, name);
  }

  write(name: string, text: string, mode = 0o600): void {
    writeFileSync(this.file(name), text, { mode });
  }

  makeCertificate(name: string, commonName: string): void {
    makeLocalCertificate(this.file(name), commonName);
    this.#agent = new Agent({ keepAlive: true, ca: readFileSync(this.file(`${name}.crt`)) });
  }

  /** A configuration with everything in it; `change` replaces keys. */
  config(change: Readonly<Record<string, unknown>> = {}): string {
    const config = {
      issuer: this.origin,
      listen: `127.0.0.1:${this.port}`,
      operations: "main",
      tls: { cert: "tls.crt", key: "tls.key" },
      database: "attestation.sqlite",
      masterKey: { file: "master.key" },
      roots: ["amd", { name: "emulator", product: "Milan", certificate: "emulator.pem" }],
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

  /** One request; rejects if the connection breaks. @param fresh on a connection of its own */
  async ask(method: string, path: string, options: { readonly body?: string; readonly headers?: Readonly<Record<string, string>>; readonly fresh?: boolean } = {}): Promise<Answer> {
    const agent = options.fresh === true ? new Agent({ ...this.#agent.options, keepAlive: false }) : this.#agent;
    return ask({ host: "localhost", port: this.port, method, path, agent, headers: options.headers ?? {} }, options.body);
  }

  /** The same with the operator's token. */
  async manage(method: string, path: string, body?: string): Promise<Answer> {
    return this.ask(method, `${path}?api-version=2022-08-01`, { headers: { authorization: `Bearer ${this.token}` }, ...(body === undefined ? {} : { body }) });
  }

  /** The body of a request with evidence of the emulator. */
  evidence(): string {
    const part = (bytes: Uint8Array | string): string => Buffer.from(bytes).toString("base64url");
    const report = { SnpReport: part(this.#guest.report(new Uint8Array(64))), VcekCertChain: part(this.#chain) };
    return JSON.stringify({ report: part(JSON.stringify(report)) });
  }

  async close(): Promise<void> {
    this.#agent.destroy();
    for (const started of this.#processes.splice(0)) await started.kill();
    await rm(this.directory, { recursive: true, force: true });
  }
}

/** Claims of a token, not verified. */
export function claimsOf(token: string): Readonly<Record<string, unknown>> {
  return JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString()) as Readonly<Record<string, unknown>>;
}

/** The token in an answer. */
export function tokenOf({ text }: Answer): string {
  return (JSON.parse(text) as { readonly token: string }).token;
}
