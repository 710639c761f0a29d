import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { createHash, generateKeyPairSync, type JsonWebKey, type KeyObject, randomBytes, randomUUID, sign } from "node:crypto";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer as createHttpsServer, request, type Server } from "node:https";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { issueServiceAccountToken, openIdentityStore } from "@sealpod/identity";
import { basicConstraints, type Certificate, encodeCertificatesPem, generateKey, issueCertificate, keyUsage, OID, subjectAltName } from "@sealpod/pki";
import { SecurityProcessor } from "@sealpod/psp";
import { MOUNT_NAMESPACE, onOwnRoot } from "@sealpod/vmm";
import type { AssertionName, ClientSecretOf, KeyvaultOutcome, KeyvaultRun, ReleaseRun } from "./keyvault-run.ts";

const VERIFIER = join(import.meta.dirname, "../../../verifier");
const CLIENT = join(import.meta.dirname, "keyvault-client.ts");

const DOMAIN = "vault.sealpod.internal";
const RESOURCE = `https://${DOMAIN}`;
const HOST = {
  login: "login.sealpod.internal",
  attest: "attest.sealpod.internal",
  cluster: "cluster.sealpod.internal",
  nowhere: "nowhere.sealpod.internal",
  hsm: `demo.${DOMAIN}`,
  vault: `kv.${DOMAIN}`,
} as const;
const EXCHANGE = "api://AzureADTokenExchange";
const SUBJECT = "system:serviceaccount:default:web";
const ARM = "/subscriptions/00000000-0000-4000-8000-000000000001/resourceGroups/pods/providers/Microsoft.ManagedIdentity/userAssignedIdentities/web";

/** Roles of Managed HSM by their genuine ids. */
const ROLE = {
  cryptoUser: "21dbd100-6940-42c2-9190-5d6cb909625b",
  cryptoOfficer: "515eb02d-2335-4d2d-92f2-b1cbdf9c3778",
  releaseUser: "21dbd100-6940-42c2-9190-5d6cb909625c",
} as const;

const HOUR = 3_600_000;
const clock = { now: (): number => Date.now() };
const random = { bytes: (length: number): Uint8Array => new Uint8Array(randomBytes(length)) };

/** Binds a file over /etc/hosts, then becomes the rest of its parameters: what was started is node in the end, so that signals reach it. */
const BIND = 'mount --bind "$0" /etc/hosts && exec "$@"';

/** A command in a mount namespace of its own, where the names of a file have addresses. */
function withHosts(hosts: string, command: readonly string[]): readonly [string, readonly string[]] {
  const asRoot = process.getuid?.() === 0 ? [] : ["--map-root-user"];
  return ["unshare", [...asRoot, ...MOUNT_NAMESPACE, ...onOwnRoot(["/bin/sh", "-c", BIND, hosts, ...command])]];
}

/** Whether this machine lets the test have mount namespaces. */
export function canBindHosts(): boolean {
  return spawnSync(...withHosts("/etc/hosts", ["true"])).status === 0;
}

/** A program of the project in a process of its own. */
class Program {
  readonly #child: ChildProcess;
  readonly #ended: Promise<unknown>;
  stdout = "";
  stderr = "";

  constructor(hosts: string, args: readonly string[], cwd: string, ca: string) {
    const [command, parameters] = withHosts(hosts, [process.execPath, ...args]);
    this.#child = spawn(command, parameters, { cwd, env: { PATH: process.env["PATH"], NODE_EXTRA_CA_CERTS: ca }, stdio: ["ignore", "pipe", "pipe"] });
    this.#child.stdout?.setEncoding("utf8").on("data", (text: string) => void (this.stdout += text));
    this.#child.stderr?.setEncoding("utf8").on("data", (text: string) => void (this.stderr += text));
    this.#ended = once(this.#child, "close");
  }

  /** Until a service listens. @throws {Error} if it ends before */
  async listening(): Promise<void> {
    const { stdout } = this.#child;
    if (stdout === null) throw new Error("no pipe");
    const listens = new Promise<boolean>((resolve) => createInterface(stdout).on("line", (line) => line.includes('"msg":"listening"') && resolve(true)));
    if (!(await Promise.race([listens, this.#ended.then(() => false)]))) throw new Error(`the service ended: ${this.stdout}${this.stderr}`);
  }

  /** Until it ends by itself. */
  async end(): Promise<{ readonly code: number | null; readonly signal: string | null }> {
    await this.#ended;
    return { code: this.#child.exitCode, signal: this.#child.signalCode };
  }

  async stop(): ReturnType<Program["end"]> {
    this.#child.kill("SIGTERM");
    return this.end();
  }
}

/** The test's own certification authority. */
interface Authority {
  readonly key: KeyObject;
  readonly certificate: Certificate;
}

async function makeAuthority(): Promise<Authority> {
  const key = await generateKey("p256");
  const certificate = issueCertificate({
    subject: [{ type: OID.commonName, value: "conformance CA" }],
    subjectKey: key,
    issuer: { key },
    signatureAlgorithm: "ecdsa-sha256",
    serial: 1n,
    notBefore: Date.now() - HOUR,
    notAfter: Date.now() + 24 * HOUR,
    extensions: [basicConstraints({ ca: true }), keyUsage("keyCertSign")],
  });
  return { key, certificate };
}

/** PEM of key and chain for names. */
async function makeLeaf(
  authority: Authority,
  kind: "p256" | "rsa-2048",
  serial: bigint,
  names: readonly string[],
): Promise<{ readonly key: string; readonly cert: string }> {
  const key = await generateKey(kind);
  const certificate = issueCertificate({
    subject: [{ type: OID.commonName, value: names[0] ?? "" }],
    subjectKey: key,
    issuer: { name: authority.certificate.subject, key: authority.key },
    signatureAlgorithm: "ecdsa-sha256",
    serial,
    notBefore: Date.now() - HOUR,
    notAfter: Date.now() + 24 * HOUR,
    extensions: [keyUsage("digitalSignature"), subjectAltName(...names.map((value) => ({ kind: "dns" as const, value })))],
  });
  return { key: key.export({ type: "pkcs8", format: "pem" }) as string, cert: encodeCertificatesPem([certificate, authority.certificate]) };
}

/** An issuer of service-account tokens that is no program of this project: the test itself, as kube-apiserver elsewhere would be one. */
class ExternalCluster {
  readonly #pair: { readonly privateKey: KeyObject; readonly publicKey: KeyObject } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  readonly #forger: KeyObject = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey;
  readonly #server: Server;
  /** Paths that were asked for, in order. */
  readonly asked: string[] = [];

  private constructor(tls: { readonly key: string; readonly cert: string }) {
    this.#server = createHttpsServer(tls, (incoming, outgoing) => {
      this.asked.push(incoming.url ?? "");
      const body =
        incoming.url === "/.well-known/openid-configuration" ? { issuer: this.issuer, jwks_uri: `${this.issuer}openid/v1/jwks` } : { keys: [this.#jwk()] };
      outgoing.setHeader("content-type", "application/json").end(JSON.stringify(body));
    });
  }

  static async start(tls: { readonly key: string; readonly cert: string }): Promise<ExternalCluster> {
    const cluster = new ExternalCluster(tls);
    await once(cluster.#server.listen(0, "127.0.0.1"), "listening");
    return cluster;
  }

  /** With the slash that AKS has. */
  get issuer(): string {
    return `https://${HOST.cluster}:${(this.#server.address() as AddressInfo).port}/`;
  }

  /** A token as kube-apiserver projects it; `change` replaces claims. */
  token(change: Readonly<Record<string, unknown>> = {}, forged = false): string {
    const now = Math.floor(Date.now() / 1000);
    const { kid } = this.#jwk();
    const parts = [
      { alg: "RS256", kid },
      { iss: this.issuer, sub: SUBJECT, aud: [EXCHANGE], iat: now, nbf: now, exp: now + 3600, jti: randomUUID(), ...change },
    ];
    const input = parts.map((part) => Buffer.from(JSON.stringify(part)).toString("base64url")).join(".");
    return `${input}.${sign("sha256", Buffer.from(input), forged ? this.#forger : this.#pair.privateKey).toString("base64url")}`;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, "close");
  }

  #jwk(): JsonWebKey & { readonly kid: string } {
    const kid = createHash("sha256")
      .update(this.#pair.publicKey.export({ type: "spki", format: "der" }))
      .digest("base64url");
    return { ...this.#pair.publicKey.export({ format: "jwk" }), use: "sig", alg: "RS256", kid };
  }
}

interface Ports {
  readonly login: number;
  readonly attest: number;
  readonly vault: number;
  readonly closed: number;
}

/** An application as Microsoft Graph and Azure Resource Manager name it. */
interface Principal {
  readonly clientId: string;
  readonly objectId: string;
}

/** A line of a vault's audit. */
export interface AuditLine {
  readonly operation: string;
  readonly name: string;
  readonly outcome: string;
  readonly appid: string;
}

/**
 * The identity service, the attestation service and the key vaults, each as its program and with certificates of one CA, and a cluster elsewhere. What an owner sets up has been set
 * up, through the services' own management: applications, credentials, access policies and role assignments.
 */
export class KeyvaultWorld {
  readonly #directory: string;
  readonly #ca: string;
  readonly #hosts: string;
  readonly #ports: Ports;
  readonly #managementToken: string = randomBytes(32).toString("hex");
  readonly #tenantId: string = randomUUID();
  readonly #otherTenantId: string = randomUUID();
  readonly #programs: Program[] = [];
  #cluster: ExternalCluster | undefined;
  #run: Omit<KeyvaultRun, "scenario"> | undefined;

  private constructor(directory: string, ports: Ports) {
    this.#directory = directory;
    this.#ca = join(directory, "ca.pem");
    this.#hosts = join(directory, "hosts");
    this.#ports = ports;
  }

  static async start(): Promise<KeyvaultWorld> {
    const [login = 0, attest = 0, vault = 0, closed = 0] = await freePorts(4);
    const world = new KeyvaultWorld(mkdtempSync(join(tmpdir(), "sealpod-keyvault-")), { login, attest, vault, closed });
    try {
      await world.#start();
    } catch (error) {
      await world.stop();
      throw error;
    }
    return world;
  }

  /** Issuer of the cluster elsewhere. */
  get cluster(): ExternalCluster {
    if (this.#cluster === undefined) throw new Error("there is no cluster");
    return this.#cluster;
  }

  get run(): Omit<KeyvaultRun, "scenario"> {
    if (this.#run === undefined) throw new Error("nothing has been set up");
    return this.#run;
  }

  /** Runs one scenario of the client program. @throws {Error} if it does not end well */
  async play(scenario: string): Promise<KeyvaultOutcome> {
    const argument: KeyvaultRun = { scenario, ...this.run };
    const client = new Program(this.#hosts, [CLIENT, JSON.stringify(argument)], this.#directory, this.#ca);
    const { code } = await client.end();
    if (code !== 0) throw new Error(`the client of ${scenario} ended with ${code}: ${client.stderr}`);
    return JSON.parse(client.stdout) as KeyvaultOutcome;
  }

  /** A vault's whole audit, the newest line first. */
  async audit(host: "vault" | "hsm"): Promise<readonly AuditLine[]> {
    const token = await this.#ownerToken();
    const lines: AuditLine[] = [];
    for (let before = ""; ;) {
      const page = await this.#ask(host, "GET", `/sealpod/audit?limit=100${before}`, { token });
      lines.push(...(page["value"] as AuditLine[]));
      const { nextBefore } = page as { readonly nextBefore?: number | null };
      if (nextBefore === undefined || nextBefore === null) return lines;
      before = `&before=${nextBefore}`;
    }
  }

  /** Why a vault would release a key for an attestation token, or not. */
  async why(host: "vault" | "hsm", key: string, target: string): Promise<Readonly<Record<string, unknown>>> {
    return this.#ask(host, "POST", `/sealpod/keys/${key}/why`, { token: await this.#ownerToken(), body: { target } });
  }

  /** Everything that the programs have written. */
  get logs(): string {
    return this.#programs.map(({ stdout, stderr }) => stdout + stderr).join("");
  }

  /** Ends what runs. @returns how each program ended */
  async stop(): Promise<readonly unknown[]> {
    const ends = await Promise.all(this.#programs.map(async (program) => program.stop()));
    await this.#cluster?.stop();
    rmSync(this.#directory, { recursive: true, force: true });
    return ends;
  }

  async #start(): Promise<void> {
    const authority = await makeAuthority();
    writeFileSync(this.#ca, encodeCertificatesPem([authority.certificate]));
    writeFileSync(this.#hosts, `127.0.0.1 localhost ${Object.values(HOST).join(" ")}\n`);
    // Releases are signed with RS256, so the vaults have an RSA key.
    const [small, large, own] = await Promise.all([
      makeLeaf(authority, "p256", 2n, [HOST.login, HOST.attest, HOST.cluster]),
      makeLeaf(authority, "rsa-2048", 3n, [HOST.vault, HOST.hsm]),
      makeLeaf(authority, "rsa-2048", 4n, ["application"]),
    ]);
    this.#cluster = await ExternalCluster.start(small);
    const processor = await SecurityProcessor.open(join(this.#directory, "psp"), { clock, random });
    const ownerId = randomUUID();
    const tls = { cert: "cert.pem", key: "key.pem" };
    const limits = { ratePerSecond: 0 };
    const common = { tls, limits, operations: "off", masterKey: { file: "master.key" } };

    const issuer = `https://${HOST.login}:${this.#ports.login}/oidc/main/`;
    const masterKey = random.bytes(32);
    const identity = this.#write(
      "identity",
      {
        ...common,
        listen: `127.0.0.1:${this.#ports.login}`,
        authority: this.#url("login"),
        tenants: [this.#tenantId, this.#otherTenantId],
        clusters: [{ name: "main", issuer }],
        resources: [RESOURCE, "https://managedhsm.azure.net", "https://vault.azure.net"],
        management: { tokenFile: "token" },
      },
      small,
      masterKey,
    );
    const assertion = await ownToken(join(identity, "identity.sqlite"), issuer, masterKey);
    const roots = [{ name: "emulator", product: "Milan", certificate: "emulator.pem" }];
    const attestation = this.#write(
      "attestation",
      { ...common, listen: `127.0.0.1:${this.#ports.attest}`, issuer: this.#url("attest"), database: "attestation.sqlite", roots },
      small,
    );
    writeFileSync(join(attestation, "emulator.pem"), processor.rootPem);
    const administrators = [{ tenantId: this.#tenantId, id: ownerId }];
    const keyvault = this.#write(
      "keyvault",
      {
        ...common,
        listen: `127.0.0.1:${this.#ports.vault}`,
        domain: DOMAIN,
        vaults: [
          { name: "demo", kind: "managedhsm", administrators },
          { name: "kv", kind: "vault", administrators },
        ],
        issuers: [
          { issuer: `${this.#url("login")}/${this.#tenantId}/v2.0`, tenantId: this.#tenantId, authorization: `${this.#url("login")}/${this.#tenantId}` },
        ],
        releases: { evidenceRoots: ["emulator"], authorities: [this.#url("attest")] },
      },
      large,
    );

    for (const [name, directory] of Object.entries({ identity, attestation, keyvault })) {
      this.#programs.push(new Program(this.#hosts, [join(VERIFIER, name, "main.ts"), "--config", "config.json"], directory, this.#ca));
    }
    await Promise.all(this.#programs.map(async (program) => program.listening()));

    const owner = await this.#application("owner", ownerId);
    const [user, stranger, certified, workload, release] = await Promise.all([
      this.#application("user"),
      this.#application("stranger", randomUUID(), this.#otherTenantId),
      this.#certified(own.cert),
      this.#workload(issuer),
      this.#release(processor, encodeCertificatesPem([authority.certificate])),
    ]);
    this.#run = {
      vault: this.#url("vault"),
      hsm: this.#url("hsm"),
      resource: RESOURCE,
      authorityHost: this.#url("login"),
      tenantId: this.#tenantId,
      otherTenantId: this.#otherTenantId,
      owner,
      user,
      stranger,
      certified: { clientId: certified.clientId, pem: `${own.cert}${own.key}` },
      workload: { clientId: workload.clientId, files: this.#assertions(assertion) },
      release,
    };
    await this.#giveAccess(owner, user, workload);
  }

  /** A service's directory, with its configuration. */
  #write(name: string, config: object, tls: { readonly key: string; readonly cert: string }, masterKey: Uint8Array = random.bytes(32)): string {
    const directory = join(this.#directory, name);
    mkdirSync(directory);
    const files = {
      "config.json": JSON.stringify(config),
      "key.pem": tls.key,
      "cert.pem": tls.cert,
      "master.key": Buffer.from(masterKey).toString("hex"),
      token: this.#managementToken,
    };
    for (const [file, text] of Object.entries(files)) writeFileSync(join(directory, file), text, { mode: 0o600 });
    return directory;
  }

  /** An application with a client secret, registered as Microsoft Graph does it. */
  async #application(displayName: string, appId: string = randomUUID(), tenant = this.#tenantId): Promise<Principal & ClientSecretOf> {
    const token = this.#managementToken;
    const made = await this.#ask("login", "POST", `/v1.0/applications?tenant=${tenant}`, { token, body: { displayName, appId } });
    const { secretText } = await this.#ask("login", "POST", `/v1.0/applications(appId='${appId}')/addPassword?tenant=${tenant}`, { token, body: {} });
    return { clientId: appId, objectId: String(made["id"]), secret: String(secretText) };
  }

  /** One that proves with a certificate who it is. */
  async #certified(chain: string): Promise<Principal> {
    const token = this.#managementToken;
    const { id, appId } = await this.#ask("login", "POST", "/v1.0/applications", { token, body: { displayName: "certified" } });
    const [, key = ""] = /-----BEGIN CERTIFICATE-----([^-]+)-----END CERTIFICATE-----/.exec(chain) ?? [];
    await this.#ask("login", "POST", `/v1.0/applications(appId='${String(appId)}')/sealpod.addCertificate`, {
      token,
      body: { key: key.replaceAll(/\s/g, "") },
    });
    return { clientId: String(appId), objectId: String(id) };
  }

  /** A managed identity with federated credentials, made as Azure Resource Manager does it. */
  async #workload(ownIssuer: string): Promise<Principal> {
    const token = this.#managementToken;
    const { properties } = await this.#ask("login", "PUT", `${ARM}?api-version=2023-01-31`, { token, body: { location: "local" } });
    const { clientId, principalId } = properties as { readonly clientId: string; readonly principalId: string };
    const issuers = { own: ownIssuer, elsewhere: this.cluster.issuer, unreachable: `https://${HOST.nowhere}:${this.#ports.closed}` };
    for (const [name, issuer] of Object.entries(issuers)) {
      await this.#ask("login", "PUT", `${ARM}/federatedIdentityCredentials/${name}?api-version=2023-01-31`, {
        token,
        body: { properties: { issuer, subject: SUBJECT, audiences: [EXCHANGE] } },
      });
    }
    return { clientId, objectId: principalId };
  }

  /** The files that a pod has its service-account token in. */
  #assertions(own: string): Readonly<Record<AssertionName, string>> {
    const { cluster } = this;
    const old = Math.floor((Date.now() - HOUR) / 1000);
    const tokens: Readonly<Record<AssertionName, string>> = {
      own,
      federated: cluster.token(),
      otherSubject: cluster.token({ sub: "system:serviceaccount:default:other" }),
      otherAudience: cluster.token({ aud: ["https://kubernetes.default.svc"] }),
      otherIssuer: cluster.token({ iss: `https://${HOST.cluster}/` }),
      expired: cluster.token({ iat: old - 3600, nbf: old - 3600, exp: old }),
      forged: cluster.token({}, true),
      unreachable: cluster.token({ iss: `https://${HOST.nowhere}:${this.#ports.closed}` }),
      changing: "",
    };
    const files = Object.entries(tokens).map(([name, token]) => {
      const file = join(this.#directory, `${name}.token`);
      // With the line end that editors leave: the genuine client takes it away.
      writeFileSync(file, `${token}\n`, { mode: 0o600 });
      return [name, file] as const;
    });
    return Object.fromEntries(files) as Readonly<Record<AssertionName, string>>;
  }

  /** A token of the attestation service about a guest of the emulator whose report binds a wrapping key. */
  async #release(processor: SecurityProcessor, ca: string): Promise<ReleaseRun> {
    const { privateKey, publicKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
    const hostData = random.bytes(32);
    const guest = await processor.launch({ pages: [], hostData });
    const runtime = Buffer.from(JSON.stringify({ keys: [{ ...publicKey.export({ format: "jwk" }), kid: "wrapping", use: "enc", key_ops: ["encrypt"] }] }));
    const report = guest.report(createHash("sha256").update(runtime).digest());
    const encode = (value: Uint8Array | string): string => Buffer.from(value).toString("base64url");
    const evidence = { SnpReport: encode(report), VcekCertChain: encode(processor.chainPem) };
    const body = { report: encode(JSON.stringify(evidence)), runtimeData: { data: encode(runtime), dataType: "JSON" } };
    const { token } = await this.#ask("attest", "POST", "/attest/SevSnpVm?api-version=2022-08-01", { body });
    return {
      token: String(token),
      authority: this.#url("attest"),
      hostData: Buffer.from(hostData).toString("hex"),
      wrappingKey: privateKey.export({ type: "pkcs8", format: "pem" }) as string,
      ca,
    };
  }

  async #giveAccess(owner: Principal, user: Principal, workload: Principal): Promise<void> {
    const token = await this.#ownerToken();
    const policies: readonly (readonly [Principal, object])[] = [
      [owner, { keys: ["all"], secrets: ["all"] }],
      [user, { keys: ["encrypt", "decrypt", "wrapKey", "unwrapKey", "sign", "verify"] }],
      [workload, { secrets: ["get"] }],
    ];
    for (const [{ objectId }, permissions] of policies) {
      await this.#ask("vault", "PUT", "/sealpod/access-policies", { token, body: { tenantId: this.#tenantId, objectId, permissions } });
    }
    const assignments: readonly (readonly [string, string, Principal])[] = [
      ["/", ROLE.cryptoUser, owner],
      ["/", ROLE.cryptoOfficer, owner],
      ["/keys", ROLE.releaseUser, owner],
      ["/keys/released", ROLE.releaseUser, workload],
    ];
    for (const [scope, role, { objectId }] of assignments) {
      const path = `${scope === "/" ? "" : scope}/providers/Microsoft.Authorization/roleAssignments/${randomUUID()}?api-version=7.4`;
      const properties = { roleDefinitionId: `Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions/${role}`, principalId: objectId };
      await this.#ask("hsm", "PUT", path, { token, body: { properties } });
    }
  }

  async #ownerToken(): Promise<string> {
    const { clientId, secret } = this.run.owner;
    const form = new URLSearchParams({ client_id: clientId, client_secret: secret, grant_type: "client_credentials", scope: `${RESOURCE}/.default` });
    return String((await this.#ask("login", "POST", `/${this.#tenantId}/oauth2/v2.0/token`, { body: form }))["access_token"]);
  }

  #url(host: "login" | "attest" | "hsm" | "vault"): string {
    return `https://${HOST[host]}:${host === "hsm" ? this.#ports.vault : this.#ports[host]}`;
  }

  /** One request of the test's own. It needs no name service: TLS and the Host header have the name. @throws {Error} for any status but 200 and 201 */
  async #ask(
    host: "login" | "attest" | "hsm" | "vault",
    method: string,
    path: string,
    { token, body }: { readonly token?: string; readonly body?: object } = {},
  ): Promise<Readonly<Record<string, unknown>>> {
    const { port, hostname, host: name } = new URL(this.#url(host));
    const content = body instanceof URLSearchParams ? body.toString() : body === undefined ? "" : JSON.stringify(body);
    const headers = {
      host: name,
      "content-type": body instanceof URLSearchParams ? "application/x-www-form-urlencoded" : "application/json",
      "content-length": String(Buffer.byteLength(content)),
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
    };
    const outgoing = request({ host: "127.0.0.1", port, servername: hostname, method, path, headers, ca: readFileSync(this.#ca), agent: false });
    outgoing.end(content);
    const [incoming] = (await once(outgoing, "response")) as [AsyncIterable<Buffer> & { readonly statusCode?: number }];
    const chunks: Buffer[] = [];
    for await (const chunk of incoming) chunks.push(chunk);
    const text = Buffer.concat(chunks).toString();
    if (incoming.statusCode !== 200 && incoming.statusCode !== 201)
      throw new Error(`${method} ${name}${path} was answered with ${incoming.statusCode}: ${text}`);
    return JSON.parse(text) as Readonly<Record<string, unknown>>;
  }
}

/** A token of the identity service's own cluster, as the embedded Kubernetes API makes it: with the keys in the service's store. */
async function ownToken(url: string, issuer: string, masterKey: Uint8Array): Promise<string> {
  const store = await openIdentityStore({ url, masterKey, clusters: ["main"], clock, random });
  try {
    const request = { namespace: "default", serviceAccount: { name: "web", uid: randomUUID() }, pod: { name: "web-0", uid: randomUUID() } };
    return (await issueServiceAccountToken({ issuer, name: "main", store, clock, random }, request)).token;
  } finally {
    await store.close();
  }
}

/** Ports that nobody listens on: each is held until all are found. */
async function freePorts(count: number): Promise<readonly number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, "127.0.0.1"));
  await Promise.all(servers.map(async (server) => once(server, "listening")));
  const ports = servers.map((server) => (server.address() as AddressInfo).port);
  await Promise.all(
    servers.map(async (server) => {
      server.close();
      await once(server, "close");
    }),
  );
  return ports;
}
