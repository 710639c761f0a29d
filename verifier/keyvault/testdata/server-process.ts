import { randomBytes, type KeyObject } from "node:crypto";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { Agent, createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { basicConstraints, encodePem, generateKey, issueCertificate, OID, subjectAltName } from "@sealpod/pki";
import { ask, ServiceProcess, type Answer } from "@sealpod/service/testing";
import { attestationClaims, HOSTDATA, jwk, KEYS, segment, signToken, TENANT, type Json } from "./release-world.ts";

const MAIN = join(import.meta.dirname, "..", "main.ts");
const DAY = 86_400_000;

export const DOMAIN = "vault.test";
/** Who may do everything. */
export const ADMIN = "88888888-bbbb-4ccc-8ddd-eeeeeeeeeeee";
/** Who may do nothing. */
export const NOBODY = "77777777-bbbb-4ccc-8ddd-eeeeeeeeeeee";

/** The service in a process of its own. */
export class ServerProcess extends ServiceProcess {
  constructor(args: readonly string[], env: Readonly<Record<string, string>>) {
    super(MAIN, args, { PATH: process.env["PATH"], ...env });
  }

  /** Until it listens. @returns its port */
  async listening(): Promise<number> {
    const { url } = await this.started();
    return Number(new URL(String(url)).port);
  }
}

/** What {@link VaultWorld.ask} sends. */
export interface Asked {
  readonly body?: unknown;
  /** That of {@link ADMIN} when absent, none when null. */
  readonly token?: string | null;
  readonly headers?: Readonly<Record<string, string>>;
  /** A connection of its own. */
  readonly fresh?: boolean;
}

/** A certificate with its key, in PEM. */
export interface Credential {
  readonly cert: string;
  readonly key: string;
  readonly der: Uint8Array;
}

/** A self-signed certificate for names. */
export async function makeCredential(names: readonly string[], serial: bigint = BigInt(`0x${randomBytes(8).toString("hex")}`)): Promise<Credential> {
  const key = await generateKey("rsa-2048");
  const now = Date.now();
  const { der } = issueCertificate({
    subject: [{ type: OID.commonName, value: names[0] ?? "" }],
    subjectKey: key,
    issuer: { key },
    signatureAlgorithm: "rsa-sha256",
    serial,
    notBefore: now - DAY,
    notAfter: now + 30 * DAY,
    extensions: [basicConstraints({ ca: false }), subjectAltName(...names.map((value) => ({ kind: "dns", value }) as const))],
  });
  return { cert: encodePem("CERTIFICATE", der), key: key.export({ type: "pkcs8", format: "pem" }) as string, der };
}

/** A directory with all that a service needs, and an issuer of tokens beside it. */
export class VaultWorld {
  readonly directory: string;
  readonly masterKey: Uint8Array = new Uint8Array(randomBytes(32));
  /** `https://localhost:port` of the issuer of access tokens and of attestation tokens. */
  readonly origin: string;
  readonly #issuer: Server;
  readonly #processes: ServerProcess[] = [];
  #agent = new Agent({ keepAlive: true });

  private constructor(directory: string, issuer: Server) {
    this.directory = directory;
    this.#issuer = issuer;
    this.origin = `https://localhost:${(issuer.address() as AddressInfo).port}`;
  }

  static async make(): Promise<VaultWorld> {
    const directory = await mkdtemp(join(tmpdir(), "sealpod-vault-"));
    const credential = await makeCredential(["localhost"]);
    const issuer = createServer({ cert: credential.cert, key: credential.key }, (incoming, outgoing) => {
      const path = incoming.url ?? "";
      const base = `https://localhost:${(issuer.address() as AddressInfo).port}`;
      const document = path.endsWith("/.well-known/openid-configuration")
        ? { issuer: `${base}${path.slice(0, -"/.well-known/openid-configuration".length)}`, jwks_uri: `${base}/certs` }
        : {
            keys: [
              { ...jwk(KEYS.login.publicKey), kid: "login-1", use: "sig", alg: "RS256" },
              { ...jwk(KEYS.maa.publicKey), kid: "maa-1", use: "sig", alg: "RS256" },
            ],
          };
      outgoing.setHeader("content-type", "application/json").end(JSON.stringify(document));
    }).listen(0, "127.0.0.1");
    await once(issuer, "listening");
    const world = new VaultWorld(directory, issuer);
    world.write("issuer.crt", credential.cert);
    // Another of the same name, which is not that of the issuer.
    world.write("other-issuer.crt", (await makeCredential(["localhost"])).cert);
    world.write("master.key", Buffer.from(world.masterKey).toString("hex"));
    world.useCertificate(await makeCredential([`*.${DOMAIN}`]));
    return world;
  }

  file(name: string): string {
    return join(this.directory, name);
  }

  write(name: string, text: string): void {
    writeFileSync(this.file(name), text, { mode: 0o600 });
  }

  /** Puts a certificate where the service has its own, and trusts it alone. */
  useCertificate({ cert, key }: Pick<Credential, "cert" | "key">): void {
    this.write("tls.key", key);
    this.write("tls.crt", cert);
    this.#agent.destroy();
    this.#agent = new Agent({ keepAlive: true, ca: cert });
  }

  /** A configuration with everything in it; `change` replaces keys. */
  config(change: Json = {}, name = "config.json"): string {
    const config = {
      domain: DOMAIN,
      listen: "127.0.0.1:0",
      tls: { cert: "tls.crt", key: "tls.key" },
      vaults: [{ name: "demo", kind: "vault", administrators: [{ tenantId: TENANT, id: ADMIN }] }],
      issuers: [{ issuer: `${this.origin}/${TENANT}/v2.0`, tenantId: TENANT, authorization: `${this.origin}/${TENANT}` }],
      trustedCertificates: ["other-issuer.crt", "issuer.crt"],
      database: "vault.sqlite",
      masterKey: { file: "master.key" },
      releases: { evidenceRoots: ["emulator"] },
      limits: { ratePerSecond: 0 },
      ...change,
    };
    this.write(name, JSON.stringify(config));
    return this.file(name);
  }

  /** Starts a process; {@link close} ends it. */
  start(args: readonly string[] = ["--config", this.config()], env: Readonly<Record<string, string>> = {}): ServerProcess {
    // A connection that was kept to a process that has ended would break the first request to the next one.
    this.#agent = new Agent(this.#agent.options);
    const started = new ServerProcess(args, env);
    this.#processes.push(started);
    return started;
  }

  /** An access token. */
  token(object: string = ADMIN): string {
    const now = Math.floor(Date.now() / 1000);
    const claims = { aud: "https://vault.azure.net", iss: `${this.origin}/${TENANT}/v2.0`, oid: object, tid: TENANT, nbf: now - 10, exp: now + 3600 };
    return signToken({ alg: "RS256", kid: "login-1", typ: "JWT" }, claims, KEYS.login.privateKey);
  }

  /** A token of the attestation service. */
  evidence(change: Json = {}): string {
    const now = Math.floor(Date.now() / 1000);
    const claims = attestationClaims({ iss: this.origin, iat: now - 10, nbf: now - 10, exp: now + 3600, ...change });
    return signToken({ alg: "RS256", jku: `${this.origin}/certs`, kid: "maa-1", typ: "JWT" }, claims, KEYS.maa.privateKey);
  }

  /** The body that imports a key of these bytes, which {@link evidence} releases. */
  importBody(bytes: Uint8Array): Json {
    const policy = { version: "1.0.0", anyOf: [{ authority: this.origin, allOf: [{ claim: "x-ms-sevsnpvm-hostdata", equals: HOSTDATA }] }] };
    return {
      key: { kty: "oct-HSM", k: Buffer.from(bytes).toString("base64url") },
      hsm: true,
      attributes: { exportable: true },
      release_policy: { contentType: "application/json; charset=utf-8", data: segment(policy) },
    };
  }

  /** One request to a vault; rejects if the connection breaks. */
  async ask(port: number, method: string, path: string, { body, token = this.token(), headers, fresh }: Asked = {}): Promise<Answer> {
    const host = `demo.${DOMAIN}`;
    return ask(
      {
        host: "127.0.0.1",
        port,
        servername: host,
        method,
        path: path.startsWith("/sealpod/") || path.includes("api-version") || !/^\/(keys|secrets|deleted)/.test(path) ? path : `${path}?api-version=7.4`,
        agent: fresh === true ? new Agent({ ...this.#agent.options, keepAlive: false }) : this.#agent,
        headers: { host: `${host}:${port}`, ...(token === null ? {} : { authorization: `Bearer ${token}` }), ...headers },
      },
      body === undefined ? undefined : JSON.stringify(body),
    );
  }

  /** The same, and anything but this status is an error. */
  async must(port: number, status: number, method: string, path: string, asked: Asked = {}): Promise<Json> {
    const answer = await this.ask(port, method, path, asked);
    if (answer.status !== status) throw new Error(`${method} ${path}: ${answer.status} ${answer.text}`);
    return answer.text === "" ? {} : answer.json();
  }

  /** Gives {@link ADMIN} every permission. */
  async grant(port: number): Promise<void> {
    const permissions = { keys: ["all"], secrets: ["all"] };
    await this.must(port, 200, "PUT", "/sealpod/access-policies", { body: { tenantId: TENANT, objectId: ADMIN, permissions } });
  }

  /** Trusted by {@link ask}. */
  get trusted(): string {
    return readFileSync(this.file("tls.crt"), "utf8");
  }

  async close(): Promise<void> {
    this.#agent.destroy();
    for (const server of this.#processes.splice(0)) await server.kill();
    this.#issuer.close();
    this.#issuer.closeAllConnections();
    await rm(this.directory, { recursive: true, force: true });
  }
}

/** The key that a guest holds. */
export const TEE: KeyObject = KEYS.tee.privateKey;
