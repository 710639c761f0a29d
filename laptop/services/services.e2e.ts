import { createServer, type Server } from "node:net";
import { connect, type TLSSocket } from "node:tls";
import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { silentLogger } from "@sealpod/core";
import { systemClock, systemRandom } from "@sealpod/io";
import { PspClient } from "@sealpod/psp";
import { laptopFetch, readUp, requestServiceAccountToken, startServices, type RunningServices, type ServicesOptions } from "./index.ts";

const DOMAIN = "sealpod.internal";

function options(state: string, changes: Partial<ServicesOptions> = {}): ServicesOptions {
  return {
    state,
    host: "127.0.0.1",
    port: 0,
    domain: DOMAIN,
    pid: process.pid,
    clock: systemClock,
    random: systemRandom,
    logger: silentLogger,
    ...changes,
  };
}

async function form(services: RunningServices, fields: Record<string, string>): Promise<Response> {
  const { up } = services;
  return laptopFetch(up)(`${up.endpoints.authority}/${up.tenantId}/oauth2/v2.0/token`, { method: "POST", body: new URLSearchParams(fields) });
}

async function ownerToken(services: RunningServices, resource = "https://vault.azure.net"): Promise<string> {
  const { owner } = services.up;
  const answer = await form(services, {
    grant_type: "client_credentials",
    scope: `${resource}/.default`,
    client_id: owner.clientId,
    client_secret: owner.clientSecret,
  });
  expect(answer.status).toBe(200);
  return ((await answer.json()) as { access_token: string }).access_token;
}

const b64 = (text: string): string => Buffer.from(text).toString("base64url");

describe("running services", () => {
  let state: string;
  let services: RunningServices;
  beforeAll(async () => {
    state = await mkdtemp(join(tmpdir(), "sealpod-up-"));
    services = await startServices(options(state));
  });
  afterAll(async () => {
    await services.stop();
    await rm(state, { recursive: true, force: true });
  });

  it("describe themselves in up.json, which only its owner can read", async () => {
    expect(await readUp(state)).toEqual(services.up);
    expect((await stat(join(state, "up.json"))).mode & 0o777).toBe(0o600);
    expect((await stat(services.up.sockets.kube)).mode & 0o777).toBe(0o600);
    expect((await stat(join(state, "ca", "root.pem"))).mode & 0o777).toBe(0o600);
    expect((await stat(join(state, "services", "master.key"))).mode & 0o777).toBe(0o600);
  });

  it("answer under their names, each with its own certificate", async () => {
    const fetch = laptopFetch(services.up);
    const attestation = await fetch(`https://${services.up.endpoints.attestation}/.well-known/openid-configuration`);
    expect(await attestation.json()).toMatchObject({ issuer: `https://${services.up.endpoints.attestation}` });
    const cluster = await fetch(`${services.up.endpoints.issuer}.well-known/openid-configuration`);
    expect(await cluster.json()).toMatchObject({ issuer: services.up.endpoints.issuer });
    const vault = await fetch(`https://${services.up.endpoints.vault}/keys?api-version=7.4`);
    expect(vault.status).toBe(401);
    expect(vault.headers.get("www-authenticate")).toContain(`authorization="${services.up.endpoints.authority}/${services.up.tenantId}"`);
    expect(certificateNames(await handshake(services, `attest.${DOMAIN}`))).toBe(`DNS:attest.${DOMAIN}`);
    expect(certificateNames(await handshake(services, `other.vault.${DOMAIN}`))).toBe(`DNS:*.vault.${DOMAIN}`);
  });

  it("refuse a request whose host is not the one that TLS was made for", async () => {
    const socket = await handshake(services, `attest.${DOMAIN}`, false);
    socket.write(`GET /certs HTTP/1.1\r\nHost: login.${DOMAIN}\r\nConnection: close\r\n\r\n`);
    let text = "";
    for await (const chunk of socket) text += String(chunk);
    expect(text).toMatch(/^HTTP\/1\.1 421 /);
  });

  it("are found nowhere else: laptopFetch refuses other names and other authorities", async () => {
    await expect(laptopFetch(services.up)("https://example.org/")).rejects.toMatchObject({ code: "ERR_SERVICES_FETCH" });
    await expect(laptopFetch(services.up)(`http://attest.${DOMAIN}:${services.up.port}/`)).rejects.toMatchObject({ code: "ERR_SERVICES_FETCH" });
    await expect(laptopFetch(services.up)(`https://elsewhere.${DOMAIN}:${services.up.port}/`)).rejects.toMatchObject({ code: "ERR_SERVICES_FETCH" });
    const other = await mkdtemp(join(tmpdir(), "sealpod-other-"));
    await using stranger = await startServices(options(other));
    const route = { ...services.up, caCertificate: stranger.up.caCertificate };
    await expect(laptopFetch(route)(`https://${services.up.endpoints.attestation}/certs`)).rejects.toMatchObject({ code: "ERR_SERVICES_FETCH" });
    await stranger.stop();
    await rm(other, { recursive: true, force: true });
  });

  it("give the owner every right in the vault", async () => {
    const fetch = laptopFetch(services.up);
    const headers = { authorization: `Bearer ${await ownerToken(services)}`, "content-type": "application/json" };
    const created = await fetch(`https://${services.up.endpoints.vault}/keys/first/create?api-version=7.4`, {
      method: "POST",
      headers,
      body: JSON.stringify({ kty: "RSA-HSM", key_size: 2048 }),
    });
    expect(created.status).toBe(200);
    expect(((await created.json()) as { key: { kid: string } }).key.kid).toMatch(
      new RegExp(`^https://${services.up.endpoints.vault}/keys/first/[0-9a-f]{32}$`),
    );
    expect((await fetch(`https://${services.up.endpoints.vault}/keys?api-version=7.4`, { headers })).status).toBe(200);
  });

  it("let the owner manage attestation policies, and nobody else", async () => {
    const fetch = laptopFetch(services.up);
    const url = `https://${services.up.endpoints.attestation}/policies/SevSnpVm`;
    const version = "?api-version=2020-10-01";
    const bearer = { authorization: `Bearer ${await ownerToken(services, "https://attest.azure.net")}` };
    const stranger = await fetch(`${url}${version}`);
    expect(stranger.status).toBe(401);
    expect(stranger.headers.get("www-authenticate")).toContain(`authorization_uri="${services.up.endpoints.authority}/${services.up.tenantId}"`);
    expect((await fetch(`${url}${version}`, { headers: { authorization: `Bearer ${await ownerToken(services)}` } })).status).toBe(401);

    const policy = "version= 1.0;\nauthorizationrules\n{\n=> deny();\n};\nissuancerules\n{\n};\n";
    const token = `eyJhbGciOiJub25lIn0.${b64(JSON.stringify({ AttestationPolicy: b64(policy) }))}.`;
    const set = await fetch(`${url}${version}`, { method: "PUT", headers: { ...bearer, "content-type": "text/plain" }, body: token });
    expect(set.status).toBe(200);
    expect(set.headers.get("x-ms-request-id")).toMatch(/^[0-9a-f-]{36}$/);
    const { token: answer } = (await (await fetch(`${url}${version}`, { headers: bearer })).json()) as { token: string };
    expect(JSON.parse(Buffer.from(answer.split(".")[1] ?? "", "base64url").toString())).toMatchObject({
      iss: `https://${services.up.endpoints.attestation}`,
      "x-ms-policy": token,
    });
    const reset = await fetch(`${url}:reset${version}`, {
      method: "POST",
      headers: { ...bearer, "content-type": "text/plain" },
      body: "eyJhbGciOiJub25lIn0..",
    });
    expect(reset.status).toBe(200);
  });

  it("let a pod's service-account token stand for the workload identity, and that identity only get and release", async () => {
    const assertion = await requestServiceAccountToken(services.up.sockets.kube, {
      namespace: "default",
      serviceAccount: "workload-identity-sa",
      audiences: ["api://AzureADTokenExchange"],
      pod: { name: "nginx-1", uid: "5f0c8f7e-2f51-4a7c-9d37-0d9c2a1b3c4d" },
    });
    const fields = (token: string): Record<string, string> => ({
      grant_type: "client_credentials",
      scope: "https://vault.azure.net/.default",
      client_id: services.up.workload.clientId,
      client_assertion_type: "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
      client_assertion: token,
    });
    const answer = await form(services, fields(assertion));
    expect(answer.status).toBe(200);
    const { access_token: token } = (await answer.json()) as { access_token: string };
    const listed = await laptopFetch(services.up)(`https://${services.up.endpoints.vault}/keys?api-version=7.4`, {
      headers: { authorization: `Bearer ${token}` },
    });
    expect(listed.status).toBe(403);

    const other = await requestServiceAccountToken(services.up.sockets.kube, {
      namespace: "default",
      serviceAccount: "default",
      audiences: ["api://AzureADTokenExchange"],
      pod: { name: "nginx-1", uid: "5f0c8f7e-2f51-4a7c-9d37-0d9c2a1b3c4d" },
    });
    const refused = await form(services, fields(other));
    expect(refused.status).toBeGreaterThanOrEqual(400);
    expect(await refused.json()).toMatchObject({ error: expect.stringMatching(/^invalid_/) });
  });

  it("refuse a token request that is none", async () => {
    const request = { namespace: "default", serviceAccount: "x", pod: { name: "p", uid: "u" } };
    await expect(requestServiceAccountToken(services.up.sockets.kube, { ...request, audiences: [] })).rejects.toMatchObject({ code: "ERR_SERVICES_FETCH" });
    await expect(requestServiceAccountToken(services.up.sockets.kube, { ...request, audiences: ["a"], expirationSeconds: 5 })).rejects.toMatchObject({
      code: "ERR_SERVICES_FETCH",
    });
  });

  it("launch guests on the emulated processor, whose root the attestation service names", async () => {
    const trust = await new PspClient(services.up.sockets.psp).fetchTrust();
    expect(trust.root.name).toBe("emulator");
  });

  it("cannot be started twice on one state directory, also not on another port", async () => {
    await expect(startServices(options(state))).rejects.toMatchObject({
      code: "ERR_SERVICES_RUNNING",
      message: expect.stringContaining(`process ${process.pid}`),
      details: { pid: String(process.pid) },
      hint: expect.stringContaining('stop them with "sealpod down"'),
    });
    expect(await readUp(state)).toEqual(services.up);
  });
});

describe("starting and stopping", () => {
  let state: string;
  beforeEach(async () => {
    state = await mkdtemp(join(tmpdir(), "sealpod-up-"));
  });
  afterEach(async () => rm(state, { recursive: true, force: true }));

  it("keeps authority, keys and ids from one start to the next, and makes a new owner's secret", async () => {
    const first = await startServices(options(state));
    await first.stop();
    await expect(readUp(state)).rejects.toMatchObject({ code: "ERR_SERVICES_NOT_RUNNING" });
    const second = await startServices(options(state, { port: first.up.port }));
    expect(second.up).toMatchObject({
      caCertificate: first.up.caCertificate,
      tenantId: first.up.tenantId,
      owner: { clientId: first.up.owner.clientId },
      workload: first.up.workload,
      port: first.up.port,
    });
    expect(second.up.owner.clientSecret).not.toBe(first.up.owner.clientSecret);
    await ownerToken(second);
    await second.stop();
  });

  it("follows the issuer when the port changes", async () => {
    const first = await startServices(options(state));
    await first.stop();
    const second = await startServices(options(state));
    expect(await second.identities.federatedCredentials(second.up.workload.clientId)).toMatchObject([{ issuer: second.up.endpoints.issuer }]);
    await second.stop();
  });

  it("names a port that is in use, and leaves nothing behind", async () => {
    const taken: Server = createServer();
    await new Promise<void>((resolve) => {
      taken.listen(0, "127.0.0.1", resolve);
    });
    const { port } = taken.address() as { port: number };
    await expect(startServices(options(state, { port }))).rejects.toMatchObject({
      code: "ERR_SERVICES_PORT",
      message: `port ${port} of 127.0.0.1 is in use by another program`,
      hint: expect.stringContaining("--port"),
    });
    await new Promise((resolve) => {
      taken.close(resolve);
    });
    const later = await startServices(options(state, { port }));
    await later.stop();
  });

  it("replaces what a process left behind that is gone", async () => {
    // No process has an id above the kernel's limit of 2^22.
    await writeFile(join(state, "up.lock"), "4999999 1\n", { mode: 0o600 });
    const first = await startServices(options(state));
    const text = await readFile(join(state, "up.json"), "utf8");
    await first.stop();
    await writeFile(join(state, "up.json"), text.replace(`"pid": ${process.pid}`, '"pid": 4999999'), { mode: 0o600 });
    await expect(readUp(state)).rejects.toMatchObject({ code: "ERR_SERVICES_NOT_RUNNING", message: expect.stringContaining("4999999") });
    const second = await startServices(options(state));
    expect((await readUp(state)).pid).toBe(process.pid);
    await second.stop();
  });

  it("does not invent a master key for databases that another one sealed", async () => {
    const first = await startServices(options(state));
    await first.stop();
    await rm(join(state, "services", "master.key"));
    await expect(startServices(options(state))).rejects.toMatchObject({
      code: "ERR_SERVICES_STATE",
      message: expect.stringContaining("master.key is missing"),
    });
  });

  it.each<[Partial<ServicesOptions>]>([
    [{ host: "0.0.0.0" }],
    [{ host: "192.0.2.1" }],
    [{ port: 70_000 }],
    [{ domain: "Sealpod.internal" }],
    [{ domain: "internal" }],
  ])("refuses %j", async (changes) => {
    await expect(startServices(options(state, changes))).rejects.toMatchObject({ code: "ERR_SERVICES_ARGUMENT" });
  });

  it("stops with a client connected, and stops once", async () => {
    const services = await startServices(options(state));
    const socket = await handshake(services, `attest.${DOMAIN}`, false);
    const ended = new Promise((resolve) => {
      socket.on("close", resolve);
    });
    socket.on("error", () => undefined);
    await Promise.all([services.stop(), services.stop()]);
    await ended;
  });
});

async function handshake(services: RunningServices, servername: string, end = true): Promise<TLSSocket> {
  const { host, port, caCertificate: ca } = services.up;
  return new Promise<TLSSocket>((resolve, reject) => {
    const socket = connect({ host, port, ca, servername }, () => {
      resolve(socket);
      if (end) socket.end();
    });
    socket.on("error", reject);
  });
}

function certificateNames(socket: TLSSocket): string | undefined {
  return socket.getPeerX509Certificate()?.subjectAltName;
}
