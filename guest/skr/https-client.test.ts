import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import type { RequestListener } from "node:http";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { decodeUtf8 } from "@sealpod/core";
import { encodePem, OID, generateKey, issueCertificate, subjectAltName, basicConstraints } from "@sealpod/pki";
import { parseAuthorities } from "./authorities.ts";
import { httpsClient } from "./https-client.ts";
import { MAX_RESPONSE_BYTES, type HttpRequest } from "./http-client.ts";

describe("the HTTPS client", () => {
  let server: Server;
  let authority: string;
  let handle: RequestListener = (_request, response) => response.end();
  const url = (path = "/"): string => `https://localhost:${(server.address() as AddressInfo).port}${path}`;
  const request = (changes: Partial<HttpRequest> = {}): HttpRequest => ({ method: "GET", url: url(), headers: {}, timeoutMs: 10_000, ...changes });

  beforeAll(async () => {
    const key = await generateKey("p256");
    const certificate = issueCertificate({
      subject: [{ type: OID.commonName, value: "localhost" }],
      subjectKey: key,
      issuer: { key },
      signatureAlgorithm: "ecdsa-sha256",
      serial: 1n,
      notBefore: Date.now() - 60_000,
      notAfter: Date.now() + 3_600_000,
      extensions: [basicConstraints({ ca: true }), subjectAltName({ kind: "dns", value: "localhost" })],
    });
    authority = encodePem("CERTIFICATE", certificate.der);
    server = createServer({ key: key.export({ type: "pkcs8", format: "pem" }), cert: authority }, (incoming, response) => handle(incoming, response));
    await new Promise<void>((resolve) => {
      server.listen(0, "localhost", resolve);
    });
  });
  afterAll(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => {
      server.close(resolve);
    });
  });

  it("sends method, headers and body, and reads the whole answer however it is cut", async () => {
    handle = (incoming, response) => {
      let body = "";
      incoming.on("data", (chunk: Buffer) => (body += chunk.toString()));
      incoming.on("end", () => {
        response.writeHead(429, { "retry-after": "3", "x-ms-request-id": "id" });
        for (const character of `${incoming.method ?? ""} ${incoming.headers["x-a"] as string} ${incoming.headers["content-length"] ?? ""} ${body}`)
          response.write(character);
        response.end();
      });
    };
    const answer = await httpsClient([authority])(request({ method: "POST", headers: { "x-a": "b" }, body: "hé" }));
    expect({ ...answer, body: decodeUtf8(answer.body) }).toEqual({ status: 429, retryAfter: "3", requestId: "id", body: "POST b 3 hé" });
  });

  it("trusts the given authorities alone", async () => {
    await expect(httpsClient([])(request())).rejects.toMatchObject({ code: "ERR_SKR_NETWORK" });
  });

  it("follows no redirect", async () => {
    handle = (_incoming, response) => response.writeHead(302, { location: url("/other") }).end();
    expect((await httpsClient([authority])(request())).status).toBe(302);
  });

  it("speaks plain HTTP to the metadata address alone", async () => {
    await expect(httpsClient([authority])(request({ url: "http://localhost:1/" }))).rejects.toMatchObject({
      message: expect.stringContaining("metadata address alone"),
    });
  });

  it("stops an answer that does not end", async () => {
    handle = (_incoming, response) => {
      const chunk = Buffer.alloc(64 * 1024);
      const more = (): void => {
        while (!response.destroyed && response.write(chunk));
      };
      response.on("drain", more);
      more();
    };
    await expect(httpsClient([authority])(request())).rejects.toMatchObject({ message: expect.stringContaining(`more than ${MAX_RESPONSE_BYTES} bytes`) });
  });

  it("gives up on a server that is silent, that trickles, or that stops in the middle", async () => {
    handle = () => undefined;
    await expect(httpsClient([authority])(request({ timeoutMs: 50 }))).rejects.toMatchObject({ message: expect.stringContaining("no answer in 50 ms") });
    handle = (_incoming, response) => {
      const trickle = setInterval(() => response.write("."), 10);
      response.on("close", () => clearInterval(trickle));
    };
    await expect(httpsClient([authority])(request({ timeoutMs: 50 }))).rejects.toMatchObject({ message: expect.stringContaining("no answer in 50 ms") });
    handle = (incoming, response) => {
      response.writeHead(200, { "content-length": "10" });
      response.write("half", () => incoming.socket.destroy());
    };
    await expect(httpsClient([authority])(request())).rejects.toMatchObject({ code: "ERR_SKR_NETWORK" });
  });

  it("reads a bundle of authorities with comments in it", () => {
    const bundle = parseAuthorities(`# one\n${authority}\n# two\n${authority}`, "bundle");
    expect(bundle.pem).toHaveLength(2);
    expect(bundle.roots).toHaveLength(2);
    const withOld = parseAuthorities(`-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n${authority}`, "bundle");
    expect(withOld.pem).toHaveLength(2);
    expect(withOld.roots).toHaveLength(1);
    expect(() => parseAuthorities("nothing", "bundle")).toThrow(expect.objectContaining({ code: "ERR_SKR_CONFIGURATION" }));
    expect(() => parseAuthorities("x".repeat(4 * 1024 * 1024 + 1), "bundle")).toThrow(expect.objectContaining({ code: "ERR_SKR_CONFIGURATION" }));
  });
});
