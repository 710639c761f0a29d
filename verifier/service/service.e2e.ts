import { execFileSync } from "node:child_process";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { X509Certificate } from "node:crypto";
import { once } from "node:events";
import { copyFile, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { connect, type AddressInfo, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect as connectTls, type SecureVersion, type TLSSocket } from "node:tls";
import { randomBytes } from "node:crypto";
import { getRequestListener } from "@hono/node-server";
import { Hono } from "hono";
import { afterAll, afterEach, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import type { LogFields, LogLevel } from "@sealpod/core";
import { requestBody, requestContext } from "./context.ts";
import { serve, type RunningServer, type ServeOptions } from "./serve.ts";
import { createService, type Service, type ServiceOptions } from "./service.ts";

/** More than sockets hold for a client that does not read. */
const LARGE = "x".repeat(64 * 1024 * 1024);

/** What the application of these tests has heard, and how to let its slow page go on. */
class World {
  readonly lines: { readonly level: LogLevel; readonly message: string; readonly fields: LogFields }[] = [];
  readonly heard: string[] = [];
  readonly aborted: string[] = [];
  #release = Promise.withResolvers<void>();
  readonly #listeners: (() => void)[] = [];

  app(): Hono {
    const app = new Hono();
    app.get("/hello", (c) => this.#hear("hello", c.text(`hello ${c.req.query("n") ?? ""}`)));
    app.post("/length", async (c) => c.json({ length: (await requestBody(c, 4 * 1024 * 1024)).length }));
    app.post("/text", async (c) => c.text((await c.req.text()).slice(0, 10)));
    app.get("/slow", async (c) => {
      this.#hear("slow", undefined);
      requestContext(c).signal.addEventListener("abort", (event) => {
        this.aborted.push(((event.target as AbortSignal).reason as Error).message);
        this.#wake();
      });
      await this.#release.promise;
      return c.text("slow but whole");
    });
    app.get("/large", (c) => c.body(LARGE));
    app.get("/large/later", async (c) => {
      this.#hear("large", undefined);
      await this.#release.promise;
      return c.body(LARGE);
    });
    app.get("/stream", (c) => c.body(this.#stream()));
    app.get("/bad", () => new Response("never", { headers: { "x-bad": "a\nb" } }));
    app.get("/client", (c) => c.text(requestContext(c).client));
    return app;
  }

  log(level: LogLevel, message: string, fields: LogFields = {}): void {
    this.lines.push({ level, message, fields });
    this.#wake();
  }

  release(): void {
    this.#release.resolve();
    this.#release = Promise.withResolvers();
  }

  /** Until it is so; asked again whenever something was logged or heard. */
  async until(isSo: () => boolean): Promise<void> {
    while (!isSo()) await new Promise<void>((resolve) => void this.#listeners.push(resolve));
  }

  access(): readonly LogFields[] {
    return this.lines.filter(({ message }) => message === "request").map(({ fields }) => fields);
  }

  /** 64 MiB as fast as they are read, and a last byte when it is released. */
  #stream(): ReadableStream<Uint8Array> {
    let count = 0;
    const released = this.#release.promise;
    return new ReadableStream({
      async pull(controller) {
        if (count++ < 64) return controller.enqueue(new Uint8Array(1024 * 1024));
        await released;
        controller.enqueue(new Uint8Array(1));
        controller.close();
      },
    });
  }

  #hear<T>(what: string, result: T): T {
    this.heard.push(what);
    this.#wake();
    return result;
  }

  #wake(): void {
    for (const listener of this.#listeners.splice(0)) listener();
  }
}

interface Running {
  readonly world: World;
  readonly service: Service;
  readonly server: RunningServer;
}

const running: Running[] = [];
const sockets: Socket[] = [];

async function start(serviceOptions: Partial<ServiceOptions> = {}, serveOptions: Partial<ServeOptions> = {}): Promise<Running> {
  const world = new World();
  const service = createService({
    name: "test",
    version: "1",
    app: world.app(),
    logger: { log: (level, message, fields) => world.log(level, message, fields) },
    clock: { now: () => Date.now() },
    random: { bytes: (length) => new Uint8Array(randomBytes(length)) },
    ...serviceOptions,
  });
  const server = await serve(service, { host: "127.0.0.1", port: 0, checkEvery: 50, ...serveOptions });
  const started = { world, service, server };
  running.push(started);
  return started;
}

afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  for (const { world, server } of running.splice(0)) {
    world.release();
    await server.stop(0);
  }
});

/** A connection that keeps what it gets. */
class Client {
  readonly socket: Socket;
  text = "";
  readonly closed: Promise<void>;
  #wake: () => void = () => undefined;

  constructor(socket: Socket) {
    this.socket = socket;
    sockets.push(socket);
    socket.setEncoding("latin1");
    socket.on("data", (chunk: string) => {
      this.text += chunk;
      this.#wake();
    });
    socket.on("error", () => undefined);
    this.closed = new Promise((resolve) => {
      socket.on("close", () => {
        resolve();
        this.#wake();
      });
    });
  }

  /** @param localAddress who the client is: the whole of 127.0.0.0/8 is ours */
  static async open(server: RunningServer, localAddress = "127.0.0.1"): Promise<Client> {
    const socket = connect({ port: server.port, host: "127.0.0.1", localAddress });
    await once(socket, "connect");
    return new Client(socket);
  }

  write(text: string): this {
    this.socket.write(text, "latin1");
    return this;
  }

  /** Until so much is there. Looking into the text whenever a part of a large answer comes would take minutes. */
  async untilLength(length: number): Promise<void> {
    while (this.text.length < length) {
      if (this.socket.closed) throw new Error(`the connection ended after ${this.text.length} bytes`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** Until the text is there; throws if the connection ends before. */
  async until(pattern: RegExp | string): Promise<string> {
    while (!(typeof pattern === "string" ? this.text.includes(pattern) : pattern.test(this.text))) {
      if (this.socket.closed) throw new Error(`the connection ended after ${JSON.stringify(this.text.slice(0, 500))}`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.text;
  }
}

const GET = (path: string, headers = ""): string => `GET ${path} HTTP/1.1\r\nhost: service.test\r\n${headers}\r\n`;

describe("a service over HTTP", () => {
  it("answers, with ids, and counts what goes in and out", async () => {
    const { server, world, service } = await start();
    const response = await fetch(`${server.url}/length?secret=1`, {
      method: "POST",
      body: "x".repeat(1_500_000),
      headers: { "x-ms-client-request-id": "mine" },
    });
    expect(await response.json()).toEqual({ length: 1_500_000 });
    expect(response.headers.get("x-ms-client-request-id")).toBe("mine");
    await world.until(() => world.access().length === 1);
    expect(world.access()[0]).toMatchObject({
      id: response.headers.get("x-ms-request-id"),
      clientId: "mine",
      client: "127.0.0.1",
      method: "POST",
      route: "/length",
      status: 200,
      bytesIn: 1_500_000,
      bytesOut: '{"length":1500000}'.length,
    });
    expect(service.metrics.text()).toContain('http_requests_total{route="/length",method="POST",status="200"} 1\n');
    expect(await (await fetch(`${server.url}/text`, { method: "POST", body: "gr\u00fc\u00df dich" })).text()).toBe("gr\u00fc\u00df dich");
  });

  it("answers with the light Request and Response in place of the global ones as well", async () => {
    const { Request: request, Response: response } = globalThis;
    try {
      const { server } = await start({ replaceGlobals: true });
      expect(await (await fetch(`${server.url}/hello?n=1`)).text()).toBe("hello 1");
      expect(await (await fetch(`${server.url}/length`, { method: "POST", body: "123" })).json()).toEqual({ length: 3 });
      expect((await fetch(`${server.url}/hello`, { method: "HEAD" })).status).toBe(200);
    } finally {
      Object.assign(globalThis, { Request: request, Response: response });
    }
  });

  it("reads a chunked body, and one that comes byte by byte", async () => {
    const { server } = await start();
    const client = await Client.open(server);
    client.write("POST /length HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    for (const piece of ["3\r\nab", "c\r", "\n5\r\nhello\r\n", "0\r\n\r\n"]) client.write(piece);
    await client.until('{"length":8}');
    client.text = "";
    client.write("POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n");
    for (const byte of "abcd") client.write(byte);
    await client.until('{"length":4}');
  });

  it("answers pipelined requests in their order, each with its own", async () => {
    const { server, world } = await start();
    const client = await Client.open(server);
    client.write(
      GET("/slow") + GET("/hello?n=1") + `POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc${GET("/hello?n=2", "connection: close\r\n")}`,
    );
    await world.until(() => world.heard.length === 3);
    world.release();
    await client.closed;
    const order = ["slow but whole", "hello 1", '{"length":3}', "hello 2"].map((text) => client.text.indexOf(text));
    expect(order.every((at) => at > 0)).toBe(true);
    expect(order.toSorted((a, b) => a - b)).toEqual(order);
    expect(new Set(client.text.match(/x-ms-request-id: \S+/g)).size).toBe(4);
  });

  it("forgets pipelined requests of a connection that ends before their turn", async () => {
    const { server, world, service } = await start();
    const client = await Client.open(server);
    client.write(GET("/slow") + GET("/hello?n=1").repeat(20));
    await world.until(() => world.heard.length === 21);
    client.socket.destroy();
    await world.until(() => world.access().length === 21);
    expect(world.access().every(({ status }) => status === 499)).toBe(true);
    expect(world.aborted).toEqual(["the client has gone"]);
    expect(service.metrics.text()).toContain("http_requests_in_flight 0\n");
  });

  it("refuses a body that says it is too large, and one that turns out so, with an answer that arrives", async () => {
    const { server, world } = await start({ limits: { maxBody: 100_000 } });
    const told = await Client.open(server);
    told.write(`POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 500000\r\n\r\n${"x".repeat(500_000)}`);
    await told.closed;
    expect(told.text).toMatch(/^HTTP\/1\.1 413 [^]*connection: close[^]*RequestEntityTooLarge/i);
    const untold = await Client.open(server);
    untold.write(`POST /length HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n${`c350\r\n${"x".repeat(50_000)}\r\n`.repeat(10)}0\r\n\r\n`);
    await untold.closed;
    expect(untold.text).toMatch(/^HTTP\/1\.1 413 /);
    expect(world.heard).toEqual([]);
  });

  it("says no to 100-continue before the body is sent, and yes otherwise", async () => {
    const { server } = await start({ limits: { maxBody: 1000 } });
    const refused = await Client.open(server);
    refused.write("POST /length HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5000\r\n\r\n");
    await refused.closed;
    expect(refused.text).toMatch(/^HTTP\/1\.1 413 /);
    const taken = await Client.open(server);
    taken.write("POST /length HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n");
    await taken.until("HTTP/1.1 100 Continue\r\n\r\n");
    taken.write("abc");
    await taken.until('{"length":3}');
  });

  it("answers 408 to a body that does not come, and ends the connection", async () => {
    const { server, world, service } = await start({ limits: { requestTime: 100 } });
    const client = await Client.open(server);
    client.write("POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nonly this");
    await client.closed;
    expect(client.text).toMatch(/^HTTP\/1\.1 408 [^]*RequestTimeout/);
    await world.until(() => world.access().length === 1);
    expect(service.metrics.text()).toContain('http_requests_rejected_total{reason="body-time"} 1\n');
  });

  it("answers 503 for a handler that takes too long, and the connection goes on", async () => {
    const { server, world } = await start({ limits: { requestTime: 100 } });
    const client = await Client.open(server);
    client.write(GET("/slow"));
    await client.until(/^HTTP\/1\.1 503 [^]*retry-after: 1[^]*ServiceUnavailable/i);
    expect(world.aborted).toEqual(["the request's time is over"]);
    world.release();
    client.text = "";
    client.write(GET("/hello?n=again"));
    await client.until("hello again");
    expect(client.text).not.toContain("slow");
  });

  it("ends a client that does not read its answer", async () => {
    const { server, world } = await start({ limits: { requestTime: 200 } });
    const client = await Client.open(server);
    client.socket.pause();
    client.write(GET("/large"));
    await world.until(() => world.access().length === 1);
    expect(world.access()[0]).toMatchObject({ route: "/large", status: 499 });
  });

  it("gives up an upload that breaks off", async () => {
    const { server, world, service } = await start();
    const client = await Client.open(server);
    client.write("POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nfirst part");
    client.socket.destroy();
    await world.until(() => world.access().length === 1);
    expect(world.access()[0]).toMatchObject({ status: 499 });
    expect(service.metrics.text()).toContain("http_requests_in_flight 0\n");
    // What was held for it is given back: as many again as would not fit otherwise.
    expect(await (await fetch(`${server.url}/length`, { method: "POST", body: "abc" })).json()).toEqual({ length: 3 });
  });

  it("holds so much of bodies that are not whole and no more, and forgets what is done or given up", async () => {
    const { server, service, world } = await start({ limits: { maxBody: 1000, rate: "off" } });
    const part = `POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n${"x".repeat(999)}`;
    // Whole ones, cut ones, and ones that are too large, each of more than is held at once.
    for (let at = 0; at < 100; at++) expect((await fetch(`${server.url}/length`, { method: "POST", body: "x".repeat(1000) })).status).toBe(200);
    for (let at = 0; at < 100; at++) {
      const client = await Client.open(server);
      client.write(part);
      client.socket.end();
      await client.closed;
    }
    for (let at = 0; at < 100; at++) {
      const client = await Client.open(server);
      client.write(`POST /length HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n3e9\r\n${"x".repeat(1001)}\r\n0\r\n\r\n`);
      await client.closed;
    }
    expect(service.metrics.text()).not.toContain('reason="memory"');
    // A quarter of 64 times the largest body is what one client may have; 17 hold too much, a byte before their end.
    const before = world.access().length;
    for (let at = 0; at < 17; at++) (await Client.open(server)).write(part);
    await world.until(() => world.access().length > before);
    expect(world.access().at(-1)).toMatchObject({ status: 503, refused: "memory" });
    expect(service.metrics.text()).toContain('http_requests_rejected_total{reason="memory"} 1\n');
  });

  it("lets nobody take the room of others' bodies, nor all of it by many addresses", async () => {
    const { server, world } = await start({ limits: { maxBody: 10_000, rate: "off" } });
    const part = `POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 10000\r\n\r\n${"x".repeat(9999)}`;
    const refused = (): number => world.access().filter((line) => line["refused"] === "memory").length;
    const upload = async (from: string): Promise<void> => {
      const client = await Client.open(server, from);
      client.write("POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 5000\r\n\r\nfirst");
      client.write("x".repeat(4995));
      await client.until('{"length":5000}');
    };
    for (let at = 0; at < 64; at++) (await Client.open(server, "127.0.0.2")).write(part);
    await world.until(() => refused() === 64 - 16);
    // Others, and those who share the address with it.
    for (let at = 0; at < 20; at++) await upload(at % 2 === 0 ? "127.0.0.3" : "127.0.0.2");
    // Four and a half times what one may have.
    const taken = refused();
    for (const from of ["127.0.0.4", "127.0.0.5", "127.0.0.6"]) for (let at = 0; at < 16; at++) (await Client.open(server, from)).write(part);
    for (let at = 0; at < 8; at++) (await Client.open(server, "127.0.0.7")).write(part);
    await world.until(() => refused() >= taken + 7);
    for (let at = 0; at < 20; at++) await upload("127.0.0.8");
    expect(
      world
        .access()
        .filter(({ client }) => client === "127.0.0.8" || client === "127.0.0.3")
        .every(({ status }) => status === 200),
    ).toBe(true);
    expect(world.access().some(({ client }) => client === "127.0.0.7")).toBe(false);
  });

  it("answers 408 to a body that stops, or trickles, long before the request's time", async () => {
    const { server, world, service } = await start({ limits: { requestTime: 600_000, stallTime: 100 } });
    const stopped = await Client.open(server);
    stopped.write(`POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 20000\r\n\r\n${"x".repeat(10_000)}`);
    const slow = await Client.open(server);
    slow.write("POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 20000\r\n\r\n");
    const drip = setInterval(() => slow.socket.write("x"), 20);
    await Promise.all([stopped.closed, slow.closed]);
    clearInterval(drip);
    for (const { text } of [stopped, slow]) expect(text).toMatch(/^HTTP\/1\.1 408 [^]*RequestTimeout[^]*1024 bytes per second/);
    await world.until(() => world.access().length === 2);
    expect(service.metrics.text()).toContain('http_requests_rejected_total{reason="body-rate"} 2\n');
  });

  it("takes a body that comes steadily, however long", async () => {
    const { server } = await start({ limits: { stallTime: 500 } });
    const client = await Client.open(server);
    client.write("POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 12000\r\n\r\n");
    let left = 12;
    // Of 500 milliseconds each takes a tenth.
    const drip = setInterval(() => {
      client.write("x".repeat(1000));
      if (--left === 0) clearInterval(drip);
    }, 50);
    await client.until('{"length":12000}');
  });

  // Those are written as a whole, the others piece by piece.
  it.each([false, true])("refuses requests of a client that does not read, and nobody else's (light responses: %s)", async (replaceGlobals) => {
    const { Request: request, Response: response } = globalThis;
    onTestFinished(() => void Object.assign(globalThis, { Request: request, Response: response }));
    const { server, world, service } = await start({ replaceGlobals });
    const client = await Client.open(server, "127.0.0.2");
    client.socket.pause();
    client.write(GET("/large"));
    const ask = async (from: string): Promise<string> => {
      const other = (await Client.open(server, from)).write(GET("/hello?n=1", "connection: close\r\n"));
      await other.closed;
      return other.text;
    };
    // What was asked before is queued when this is answered.
    await ask("127.0.0.3");
    expect(await ask("127.0.0.2")).toMatch(/^HTTP\/1\.1 503 [^]*retry-after: 1[^]*ServiceUnavailable/i);
    expect(await ask("127.0.0.3")).toMatch(/^HTTP\/1\.1 200 /);
    expect(service.metrics.text()).toContain('http_requests_rejected_total{reason="unread"} 1\n');
    client.socket.resume();
    await world.until(() => world.access().some(({ route }) => route === "/large"));
    expect(await ask("127.0.0.2")).toMatch(/^HTTP\/1\.1 200 /);
  });

  it("ends the answers of who holds most when all hold too much", async () => {
    const { server, world } = await start();
    const modest = await Client.open(server, "127.0.0.2");
    modest.socket.pause();
    modest.write(GET("/large/later"));
    const greedy = await Promise.all([1, 2].map(async () => Client.open(server, "127.0.0.3")));
    for (const client of greedy) {
      client.socket.pause();
      client.write(GET("/large/later"));
    }
    await world.until(() => world.heard.length === 3);
    world.release();
    await world.until(() => world.access().length === 1);
    expect(world.access()[0]).toMatchObject({ client: "127.0.0.3", status: 499, refused: "unread" });
    modest.socket.resume();
    await modest.untilLength(LARGE.length);
  });

  it("counts of a long answer what waits, not what went out", async () => {
    const { server, world } = await start();
    const client = await Client.open(server);
    client.write(GET("/stream"));
    await client.untilLength(LARGE.length);
    expect((await fetch(`${server.url}/hello`)).status).toBe(200);
    world.release();
    client.text = "";
    await client.until("\r\n0\r\n\r\n");
  });

  it("ends a connection whose client takes nothing of its answer, long before the request's time", async () => {
    const { server, world, service } = await start({ limits: { requestTime: 600_000, stallTime: 100 } }, { headersTime: 100 });
    // A handler that takes longer is no such thing.
    const patient = (await Client.open(server)).write(GET("/slow"));
    const client = await Client.open(server);
    client.socket.pause();
    client.write(GET("/large"));
    await world.until(() => world.access().length === 1);
    expect(world.access()[0]).toMatchObject({ route: "/large", status: 499 });
    world.release();
    await patient.until("slow but whole");
    expect(service.metrics.text()).not.toContain("http_requests_rejected_total{");
  });

  it("does not say of a slow reader that the handler was late", async () => {
    const { server, world, service } = await start({ limits: { requestTime: 500 } });
    const client = await Client.open(server);
    client.socket.pause();
    client.write(GET("/large/later"));
    await world.until(() => world.heard.includes("large"));
    world.release();
    await world.until(() => world.access().length === 1);
    expect(world.access()[0]).toMatchObject({ route: "/large/later", status: 499 });
    expect(service.metrics.text()).not.toContain('reason="time"');
  });

  it("answers 500 for an answer that HTTP does not take, which light responses can be, and goes on", async () => {
    const { Request: request, Response: response } = globalThis;
    try {
      const { server, world } = await start({ replaceGlobals: true });
      const answer = await fetch(`${server.url}/bad`);
      expect(answer.status).toBe(500);
      expect(await answer.text()).toContain(answer.headers.get("x-ms-request-id"));
      expect(world.lines.filter(({ message }) => message === "request failed")).toHaveLength(1);
      expect((await fetch(`${server.url}/hello`)).status).toBe(200);
    } finally {
      Object.assign(globalThis, { Request: request, Response: response });
    }
  });

  it("goes on when a connection could not be accepted", async () => {
    const servers: Server[] = [];
    const seen = (message: unknown): void => void servers.push((message as { readonly server: Server }).server);
    subscribe("tracing:net.server.listen:asyncEnd", seen);
    const { server, world } = await start({}, { operations: { host: "127.0.0.1", port: 0 } }).finally(() =>
      unsubscribe("tracing:net.server.listen:asyncEnd", seen),
    );
    expect(servers).toHaveLength(2);
    for (const each of servers) each.emit("error", new Error("accept ENOBUFS"));
    expect(world.lines.filter(({ message }) => message === "accepting failed")).toHaveLength(2);
    expect((await fetch(`${server.url}/hello`)).status).toBe(200);
  });

  it("tells the handler when the client has gone", async () => {
    const { server, world } = await start();
    const client = await Client.open(server);
    client.write(GET("/slow"));
    await world.until(() => world.heard.includes("slow"));
    client.socket.destroy();
    await world.until(() => world.aborted.length === 1);
    expect(world.aborted).toEqual(["the client has gone"]);
    world.release();
  });

  it.each<[string, string, RegExp]>([
    ["headers that are too large", `GET /hello HTTP/1.1\r\nhost: x\r\nx-pad: ${"x".repeat(40_000)}\r\n\r\n`, /^HTTP\/1\.1 431 /],
    ["a target that is too long", `GET /hello?${"x".repeat(40_000)} HTTP/1.1\r\nhost: x\r\n\r\n`, /^HTTP\/1\.1 431 /],
    ["no host", "GET /hello HTTP/1.1\r\n\r\n", /^HTTP\/1\.1 400 /],
    ["a host that is none", "GET /hello HTTP/1.1\r\nhost: a b<>\r\nconnection: close\r\n\r\n", /^HTTP\/1\.1 400 /],
    ["both lengths", "POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", /^HTTP\/1\.1 400 /],
    ["two lengths", "POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd", /^HTTP\/1\.1 400 /],
    ["no HTTP", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", /^HTTP\/1\.1 400 /],
    ["a bare line feed in headers", "GET /hello HTTP/1.1\nhost: x\n\n", /^HTTP\/1\.1 400 /],
  ])("refuses %s", async (_what, text, answer) => {
    const { server, world } = await start();
    const client = await Client.open(server);
    client.write(text);
    await client.closed;
    expect(client.text).toMatch(answer);
    expect(world.heard).toEqual([]);
    expect(client.text).not.toMatch(/node_modules|\.ts:/);
  });

  it("ends connections that send their headers too slowly, or nothing", async () => {
    const { server } = await start({}, { headersTime: 200 });
    const silent = await Client.open(server);
    const slow = await Client.open(server);
    slow.write("GET /hello HTTP/1.1\r\nhost: x\r\nx-slow: ");
    const drip = setInterval(() => slow.socket.write("x"), 20);
    await Promise.all([silent.closed, slow.closed]);
    clearInterval(drip);
    expect(slow.text).toMatch(/^HTTP\/1\.1 408 /);
    // The others are served all the while.
    expect((await fetch(`${server.url}/hello`)).status).toBe(200);
  });

  it("ends connections that stay idle after a request", async () => {
    const { server } = await start({}, { keepAliveTime: 100 });
    const client = await Client.open(server);
    client.write(GET("/hello?n=1"));
    await client.until("hello 1");
    await client.closed;
  });

  it("answers a client that has closed its half of the connection", async () => {
    const { server } = await start();
    const socket = connect({ port: server.port, host: "127.0.0.1", allowHalfOpen: true });
    const client = new Client(socket);
    socket.end(GET("/hello?n=half"));
    await client.until("hello half");
  });

  it("takes so many connections of one client, and no more", async () => {
    const { server, service } = await start({}, { maxConnectionsPerClient: 3 });
    const clients = [];
    for (let at = 0; at < 3; at++) clients.push((await Client.open(server)).write(GET("/hello?n=in")));
    await Promise.all(clients.map(async (client) => client.until("hello in")));
    const refused = await Client.open(server);
    await refused.closed;
    expect(refused.text).toBe("");
    expect(service.metrics.text()).toContain('http_connections_rejected_total{reason="client"} 1\n');
    clients[0]?.socket.destroy();
    await clients[0]?.closed;
    // The server hears of it in its own time.
    let text = "";
    while (text === "") {
      const next = (await Client.open(server)).write(GET("/hello?n=next", "connection: close\r\n"));
      await next.closed;
      ({ text } = next);
    }
    expect(text).toContain("hello next");
  });

  it("believes a trusted proxy about the client, and nobody else", async () => {
    const trusting = await start({ limits: { trustedProxies: ["127.0.0.1"] } }, { maxConnectionsPerClient: 1 });
    const ask = async ({ server }: Running): Promise<string> => (await fetch(`${server.url}/client`, { headers: { "x-forwarded-for": "203.0.113.9" } })).text();
    expect(await Promise.all([ask(trusting), ask(trusting)])).toEqual(["203.0.113.9", "203.0.113.9"]);
    expect(await ask(await start())).toBe("127.0.0.1");
  });

  it("answers web requests of another listener's making", async () => {
    const { service, world } = await start({ limits: { maxBody: 1000 } });
    const adapter = getRequestListener(async (request) => service.fetch(request, "192.0.2.9"), { overrideGlobalObjects: false });
    const other = createServer((incoming, outgoing) => void adapter(incoming, outgoing));
    other.listen(0, "127.0.0.1");
    await once(other, "listening");
    const url = `http://127.0.0.1:${(other.address() as AddressInfo).port}`;
    try {
      expect(await (await fetch(`${url}/client`)).text()).toBe("192.0.2.9");
      const answer = await fetch(`${url}/length`, { method: "POST", body: "x".repeat(1000), headers: { "x-ms-client-request-id": "mine" } });
      expect(await answer.json()).toEqual({ length: 1000 });
      expect(answer.headers.get("x-ms-client-request-id")).toBe("mine");
      expect(await (await fetch(`${url}/text`, { method: "POST", body: "text" })).text()).toBe("text");
      expect((await fetch(`${url}/length`, { method: "POST", body: "x".repeat(1001) })).status).toBe(413);
      expect(world.access().map(({ route, status }) => [route, status])).toEqual([
        ["/client", 200],
        ["/length", 200],
        ["/text", 200],
        ["(none)", 413],
      ]);
    } finally {
      other.close();
      other.closeAllConnections();
    }
  });

  it("says what is wrong with an address that it cannot listen on", async () => {
    const { server } = await start();
    await expect(start({}, { port: server.port })).rejects.toMatchObject({ code: "ERR_SERVICE_LISTEN", message: expect.stringContaining("in use") });
    await expect(start({}, { host: "192.0.2.1" })).rejects.toMatchObject({ code: "ERR_SERVICE_LISTEN" });
    await expect(start({}, { operations: { host: "127.0.0.1", port: server.port } })).rejects.toMatchObject({ code: "ERR_SERVICE_LISTEN" });
  });
});

describe("health and metrics", () => {
  it("are served on an address of their own", async () => {
    const { server } = await start({ ready: { database: () => undefined } }, { operations: { host: "127.0.0.1", port: 0 } });
    const url = server.operationsUrl ?? "";
    expect(await (await fetch(`${url}/healthz`)).json()).toEqual({ status: "alive" });
    expect(await (await fetch(`${url}/readyz?verbose`)).json()).toEqual({ status: "ready", checks: { database: { ok: true } } });
    const metrics = await fetch(`${url}/metrics`);
    expect(metrics.headers.get("content-type")).toBe("text/plain; version=0.0.4; charset=utf-8");
    const text = await metrics.text();
    for (const name of [
      "process_start_time_seconds",
      "process_resident_memory_bytes",
      "process_cpu_seconds_total",
      "nodejs_eventloop_lag_max_seconds",
      "build_info",
    ]) {
      expect(text).toMatch(new RegExp(`^${name}(\\{[^}]*\\})? [0-9.e+-]+$`, "m"));
    }
    expect((await fetch(`${url}/healthz`, { method: "POST" })).status).toBe(405);
    expect((await fetch(`${url}/hello`)).status).toBe(404);
    expect((await fetch(`${server.url}/metrics`)).status).toBe(404);
  });

  it("answer while the service is busy with all that it takes", async () => {
    const { server, world } = await start({ limits: { maxConcurrent: 1, rate: { perSecond: 0.001, burst: 2, maxClients: 10 } }, operations: "main" });
    const slow = fetch(`${server.url}/slow`);
    await world.until(() => world.heard.includes("slow"));
    expect((await fetch(`${server.url}/hello`)).status).toBe(503);
    expect((await fetch(`${server.url}/hello`)).status).toBe(429);
    for (const path of ["/healthz", "/readyz", "/metrics"]) expect((await fetch(server.url + path)).status).toBe(200);
    world.release();
    expect((await slow).status).toBe(200);
  });
});

describe("a check that takes longer than a request may", () => {
  it("is answered 503 once, and what it says later goes nowhere", async () => {
    let end: () => void = () => undefined;
    const slow = async (): Promise<void> => new Promise((resolve) => void (end = resolve));
    const { server, world } = await start({ limits: { requestTime: 50 }, ready: { slow }, operations: "main" });
    const rejections: unknown[] = [];
    const note = (reason: unknown): void => void rejections.push(reason);
    process.on("unhandledRejection", note);
    try {
      const client = await Client.open(server);
      client.write(GET("/readyz"));
      await client.until(/^HTTP\/1\.1 503 [^]*ServiceUnavailable/);
      await world.until(() => world.access().length === 1);
      end();
      client.text = "";
      client.write(GET("/healthz"));
      await client.until('{"status":"alive"}');
      expect(client.text.match(/HTTP\/1\.1/g)).toHaveLength(1);
      expect(rejections).toEqual([]);
    } finally {
      process.off("unhandledRejection", note);
    }
  });
});

describe("stopping", () => {
  it("answers what is in work and what is half sent, ends idle connections at once, and takes no new ones", async () => {
    const { server, world } = await start({}, { operations: { host: "127.0.0.1", port: 0 } });
    const [idle, fresh, working, sending] = [await Client.open(server), await Client.open(server), await Client.open(server), await Client.open(server)];
    idle.write(GET("/hello?n=1"));
    await idle.until("hello 1");
    working.write(GET("/slow"));
    await world.until(() => world.heard.includes("slow"));
    sending.write("POST /length HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 6\r\n\r\n");
    await sending.until("100 Continue");
    const stopped = server.stop(60_000);
    await Promise.all([idle.closed, fresh.closed]);
    await expect(Client.open(server)).rejects.toMatchObject({ code: "ECONNREFUSED" });
    const ready = await fetch(`${server.operationsUrl ?? ""}/readyz`);
    expect([ready.status, await ready.json()]).toEqual([503, { status: "stopping" }]);
    sending.write("abcdef");
    await sending.closed;
    expect(sending.text).toMatch(/HTTP\/1\.1 200 [^]*connection: close[^]*\{"length":6\}$/i);
    world.release();
    await working.closed;
    expect(working.text).toMatch(/HTTP\/1\.1 200 [^]*connection: close[^]*slow but whole$/i);
    await stopped;
    await expect(fetch(`${server.operationsUrl ?? ""}/healthz`)).rejects.toThrow();
  });

  it("ends each connection with its answer once the service drains", async () => {
    const { server, service } = await start();
    service.drain();
    const client = await Client.open(server);
    client.write(GET("/hello?n=last"));
    await client.closed;
    expect(client.text).toMatch(/^HTTP\/1\.1 200 [^]*connection: close[^]*hello last$/i);
  });

  it("ends what is left when the grace is over, and tells the handlers", async () => {
    const { server, world } = await start();
    const client = await Client.open(server);
    client.write(GET("/slow"));
    await world.until(() => world.heard.includes("slow"));
    const stopped = server.stop(50);
    await client.closed;
    await stopped;
    expect(client.text).toBe("");
    expect(world.aborted).toEqual(["the service stops"]);
  });

  it("can be asked twice, and the second time to hurry", async () => {
    const { server, world } = await start();
    const client = await Client.open(server);
    client.write(GET("/slow"));
    await world.until(() => world.heard.includes("slow"));
    const patient = server.stop(600_000);
    await Promise.all([server.stop(0), patient, client.closed]);
  });
});

describe("a service over TLS", () => {
  let directory: string;
  const file = (name: string): string => join(directory, name);
  const make = (name: string): void => {
    const options = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];
    execFileSync("openssl", ["req", "-x509", ...options, "-subj", `/CN=${name}`, "-keyout", file(`${name}.key`), "-out", file(`${name}.crt`)], {
      stdio: "ignore",
    });
  };
  const use = async (name: string): Promise<void> => {
    await copyFile(file(`${name}.key`), file("tls.key"));
    await copyFile(file(`${name}.crt`), file("tls.crt"));
  };
  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), "sealpod-service-"));
    for (const name of ["first", "second", "third"]) make(name);
  });
  afterAll(async () => rm(directory, { recursive: true, force: true }));

  const startTls = async (options: Partial<ServeOptions> = {}): Promise<Running> => {
    await use("first");
    return start({}, { tls: { cert: file("tls.crt"), key: file("tls.key") }, ...options });
  };
  const open = async (
    { server }: Running,
    maxVersion: SecureVersion = "TLSv1.3",
  ): Promise<{ readonly client: Client; readonly name: string; readonly version: string }> => {
    const socket: TLSSocket = connectTls({
      port: server.port,
      host: "127.0.0.1",
      rejectUnauthorized: false,
      minVersion: "TLSv1",
      maxVersion,
      ciphers: "DEFAULT@SECLEVEL=0",
    });
    await once(socket, "secureConnect");
    return { client: new Client(socket), name: new X509Certificate(socket.getPeerCertificate().raw).subject, version: socket.getProtocol() ?? "" };
  };

  it("speaks 1.3 and 1.2, nothing older, and no plain HTTP", async () => {
    const running = await startTls();
    expect(running.server.url).toMatch(/^https:/);
    for (const version of ["TLSv1.3", "TLSv1.2"] as const) {
      const { client, version: found } = await open(running, version);
      expect(found).toBe(version);
      client.write(GET(`/hello?n=${version}`));
      await client.until(`hello ${version}`);
    }
    await expect(open(running, "TLSv1.1")).rejects.toThrow(/protocol version|alert/i);
    const plain = await Client.open(running.server);
    plain.write(GET("/hello"));
    await plain.closed;
    expect(running.world.heard).toEqual(["hello", "hello"]);
  });

  it("takes a new certificate when the files change, and when it is told, and drops no connection", async () => {
    const running = await startTls();
    const old = await open(running);
    expect(old.name).toBe("CN=first");
    await use("second");
    await running.server.reload();
    expect((await open(running)).name).toBe("CN=second");
    await use("third");
    await running.world.until(() => running.world.lines.filter(({ message }) => message === "TLS certificate loaded").length === 2);
    expect((await open(running)).name).toBe("CN=third");
    old.client.write(GET("/hello?n=still"));
    await old.client.until("hello still");
  });

  it("keeps what it has while the files do not belong together, and takes them when they do", async () => {
    const running = await startTls({ checkEvery: 20 });
    await copyFile(file("second.crt"), file("tls.crt"));
    await running.world.until(() => running.world.lines.some(({ message }) => message === "the TLS certificate stays as it was"));
    expect((await open(running)).name).toBe("CN=first");
    await copyFile(file("second.key"), file("tls.key"));
    await running.world.until(() => running.world.lines.some(({ message }) => message === "TLS certificate loaded"));
    expect((await open(running)).name).toBe("CN=second");
  });

  it("ends handshakes that do not go on", async () => {
    const running = await startTls({ headersTime: 200 });
    const client = await Client.open(running.server);
    client.socket.write(Buffer.from("16030102000100", "hex"));
    await client.closed;
  });

  it("ends a connection whose client takes nothing of its answer", async () => {
    await use("first");
    const limits = { requestTime: 600_000, stallTime: 200 };
    const running = await start({ limits }, { tls: { cert: file("tls.crt"), key: file("tls.key") }, headersTime: 200 });
    const { client } = await open(running);
    client.socket.pause();
    client.write(GET("/large"));
    await running.world.until(() => running.world.access().length === 1);
    expect(running.world.access()[0]).toMatchObject({ route: "/large", status: 499 });
  });

  it("stops with requests in work, and with a handshake that has not ended", async () => {
    const running = await startTls();
    const silent = await Client.open(running.server);
    silent.socket.write(Buffer.from("16030102000100", "hex"));
    const { client } = await open(running);
    const idle = await open(running);
    client.write(GET("/slow"));
    await running.world.until(() => running.world.heard.includes("slow"));
    const stopped = running.server.stop(60_000);
    await Promise.all([idle.client.closed, silent.closed]);
    running.world.release();
    await stopped;
    expect(client.text).toContain("slow but whole");
  });

  it.each<[string, () => Promise<void>, RegExp]>([
    ["a certificate that is missing", async () => rm(file("tls.crt")), /certificate cannot be read/],
    ["a key that is missing", async () => rm(file("tls.key")), /key cannot be read/],
    ["no certificate", async () => writeFile(file("tls.crt"), "hello"), /holds no PEM certificate/],
    ["no key", async () => copyFile(file("first.crt"), file("tls.key")), /holds no PEM private key/],
    ["the key of another certificate", async () => copyFile(file("second.key"), file("tls.key")), /is not that of the first certificate/],
  ])("refuses to start with %s", async (_what, spoil, message) => {
    await use("first");
    await spoil();
    await expect(start({}, { tls: { cert: file("tls.crt"), key: file("tls.key") } })).rejects.toMatchObject({
      code: "ERR_SERVICE_TLS",
      message: expect.stringMatching(message),
    });
  });
});
