import { Hono } from "hono";
import { describe, expect, it } from "vitest";
import { silentLogger, type LogFields, type Logger, type LogLevel } from "@sealpod/core";
import { requestBody, requestContext } from "./context.ts";
import { createService, type Service, type ServiceOptions } from "./service.ts";

interface Line {
  readonly level: LogLevel;
  readonly message: string;
  readonly fields: LogFields;
}

function setup(app: Hono, options: Partial<ServiceOptions> = {}): { readonly service: Service; readonly lines: Line[] } {
  const lines: Line[] = [];
  const logger: Logger = { log: (level, message, fields = {}) => void lines.push({ level, message, fields }) };
  let seed = 0;
  const service = createService({
    name: "test",
    version: "1.2.3",
    app,
    logger,
    clock: { now: () => 0 },
    random: { bytes: (length) => Uint8Array.from({ length }, () => (seed = (seed * 167 + 13) & 0xff)) },
    ...options,
  });
  return { service, lines };
}

const get = (path: string, headers: Record<string, string> = {}): Request => new Request(`http://service.test${path}`, { headers });
const post = (path: string, body: string | Uint8Array<ArrayBuffer>): Request => new Request(`http://service.test${path}`, { method: "POST", body });

function hello(): Hono {
  const app = new Hono();
  app.get("/keys/:name/:version{[0-9a-f]{32}}", (c) => c.text(c.req.param("name")));
  app.post("/echo", async (c) => c.body((await requestBody(c, 1000)) as Uint8Array<ArrayBuffer>));
  return app;
}

describe("a service around an application", () => {
  it("gives each request an id of its own, in the answer and in the log", async () => {
    const { service, lines } = setup(hello());
    const answers = await Promise.all([1, 2, 3].map(async () => service.fetch(get("/keys/a/00000000000000000000000000000000"))));
    const ids = answers.map((answer) => answer.headers.get("x-ms-request-id"));
    expect(new Set(ids).size).toBe(3);
    for (const id of ids) expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(new Set(lines.map(({ fields }) => fields["id"]))).toEqual(new Set(ids));
  });

  it("logs one line per request with the route's pattern, and nothing of path, query, headers or body", async () => {
    const { service, lines } = setup(hello());
    await service.fetch(
      get("/keys/secret-name/00000000000000000000000000000000?sig=secret-query", { authorization: "Bearer secret-token", cookie: "secret-cookie" }),
      "192.0.2.1",
    );
    await service.fetch(post("/echo?x=secret-query", "secret-body"));
    expect(lines.map(({ level, message }) => [level, message])).toEqual([
      ["info", "request"],
      ["info", "request"],
    ]);
    expect(lines[0]?.fields).toMatchObject({ method: "GET", route: "/keys/:name/:version", status: 200, client: "192.0.2.1", bytesIn: 0 });
    expect(lines[1]?.fields).toMatchObject({ method: "POST", route: "/echo", status: 200, bytesIn: 11 });
    expect(lines[0]?.fields["ms"]).toEqual(expect.any(Number));
    expect(JSON.stringify(lines)).not.toContain("secret");
  });

  it.each([
    ["3f1b9c2e-1111-4222-8333-444455556666", true],
    ["my.app:42_x", true],
    ["x".repeat(64), true],
    ["x".repeat(65), false],
    ["two words", false],
    ['{"json":1}', false],
    ["", false],
  ])("echoes and logs the client's id %j: %s", async (id, isIt) => {
    const { service, lines } = setup(hello());
    const answer = await service.fetch(get("/x", { "x-ms-client-request-id": id }));
    expect(answer.headers.get("x-ms-client-request-id")).toBe(isIt ? id : null);
    expect(lines.at(-1)?.fields["clientId"]).toBe(isIt ? id : undefined);
  });

  it("names what no route takes the same, whatever the path", async () => {
    const app = hello();
    app.use("*", async (_c, next) => next());
    app.all("*", (c) => c.text("no", 404));
    const { service } = setup(app);
    for (let at = 0; at < 50; at++) await service.fetch(get(`/made/up/${at}`));
    expect(service.metrics.text()).toContain('http_requests_total{route="(none)",method="GET",status="404"} 50\n');
  });

  it("remembers routes of a bounded number of paths", async () => {
    const { service } = setup(hello(), { limits: { rate: "off" } });
    for (let at = 0; at < 5000; at++) await service.fetch(get(`/keys/name-${at}/00000000000000000000000000000000`));
    expect(service.metrics.text()).toContain('http_requests_total{route="/keys/:name/:version",method="GET",status="200"} 5000\n');
  });

  it("counts methods that it does not know as OTHER", async () => {
    const { service } = setup(hello());
    await service.fetch(new Request("http://service.test/x", { method: "BREW" }));
    expect(service.metrics.text()).toContain('{route="(none)",method="OTHER",status="404"} 1');
  });

  it("gives applications the id, a logger that carries it, and notes on the access line", async () => {
    const app = new Hono();
    app.get("/", (c) => {
      const context = requestContext(c);
      context.logger.log("info", "hello", { a: 1 });
      context.note({ root: "amd" });
      context.note({ kind: "x", status: "forged" });
      return c.text(context.id);
    });
    const { service, lines } = setup(app);
    const id = await (await service.fetch(get("/"))).text();
    expect(lines[0]).toEqual({ level: "info", message: "hello", fields: { id, a: 1 } });
    expect(lines[1]?.fields).toMatchObject({ id, root: "amd", kind: "x", status: 200 });
  });

  it("has a context for applications that stand alone", async () => {
    const app = new Hono();
    const own: string[] = [];
    app.post("/", async (c) => {
      requestContext(c, { log: (_level, message) => void own.push(message) }).logger.log("info", "mine");
      const { id, client, signal, body } = requestContext(c);
      return c.json({ id, client, aborted: signal.aborted, body: body === undefined, length: (await requestBody(c, 10)).length });
    });
    const answer = await app.fetch(post("/", "12345"));
    expect(await answer.json()).toEqual({ id: "none", client: "unknown", aborted: false, body: true, length: 5 });
    expect(own).toEqual(["mine"]);
  });

  it("answers what escapes with 500 and the id, and keeps the stack to the log", async () => {
    const app = new Hono();
    app.onError((error) => {
      throw error;
    });
    app.get("/sync", () => {
      throw new Error("database password is hunter2");
    });
    app.get("/async", async () => Promise.reject(new Error("database password is hunter2")));
    app.get("/odd", () => {
      // eslint-disable-next-line typescript/only-throw-error -- what other people's code may do
      throw "hunter2";
    });
    const { service, lines } = setup(app);
    for (const path of ["/sync", "/async", "/odd"]) {
      const answer = await service.fetch(get(path));
      const text = await answer.text();
      expect(answer.status).toBe(500);
      expect(text).toContain(answer.headers.get("x-ms-request-id") ?? "missing");
      expect(text).not.toMatch(/hunter2|service\.test\.ts|at /);
    }
    const failures = lines.filter(({ message }) => message === "request failed");
    expect(failures).toHaveLength(3);
    expect(failures[0]?.fields["stack"]).toContain("service.test.ts");
  });

  it("refuses bodies over the limit, told or not, before the application hears of them", async () => {
    let heard = 0;
    const app = new Hono();
    app.post("/", (c) => {
      heard++;
      return c.text("ok");
    });
    const { service } = setup(app, { limits: { maxBody: 100 } });
    const streamed = new Request("http://service.test/", {
      method: "POST",
      body: new ReadableStream({
        pull(controller) {
          controller.enqueue(new Uint8Array(60));
        },
      }),
      duplex: "half",
    } as RequestInit);
    for (const request of [post("/", "x".repeat(101)), streamed]) {
      const answer = await service.fetch(request);
      expect(answer.status).toBe(413);
      expect(await answer.json()).toEqual({ error: { code: "RequestEntityTooLarge", message: "The request body is larger than 100 bytes." } });
    }
    expect(heard).toBe(0);
    expect((await service.fetch(post("/", "x".repeat(100)))).status).toBe(200);
    expect(service.metrics.text()).toContain('http_requests_rejected_total{reason="body-size"} 2');
  });

  it("limits the rate of each client, but not health and metrics", async () => {
    const { service } = setup(hello(), { limits: { rate: { perSecond: 0.001, burst: 2, maxClients: 10 } }, operations: "main" });
    const ask = async (client: string): Promise<number> => (await service.fetch(get("/keys/a/00000000000000000000000000000000"), client)).status;
    expect([await ask("192.0.2.1"), await ask("192.0.2.1"), await ask("192.0.2.1")]).toEqual([200, 200, 429]);
    expect(await ask("192.0.2.2")).toBe(200);
    expect([await ask("2001:db8::1"), await ask("2001:db8::2"), await ask("2001:db8::3"), await ask("2001:db8:0:1::1")]).toEqual([200, 200, 429, 200]);
    const refused = await service.fetch(get("/x"), "192.0.2.1");
    expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(900);
    expect(await refused.json()).toMatchObject({ error: { code: "TooManyRequests" } });
    for (const path of ["/healthz", "/readyz", "/metrics"]) expect((await service.fetch(get(path), "192.0.2.1")).status).toBe(200);
    expect(service.metrics.text()).toContain('http_requests_rejected_total{reason="rate"} 3');
  });

  it("limits the requests at work, and lets one in when one is done", async () => {
    const app = new Hono();
    const waiting: (() => void)[] = [];
    app.get("/", async (c) => {
      await new Promise<void>((resolve) => void waiting.push(resolve));
      return c.text("ok");
    });
    const { service } = setup(app, { limits: { maxConcurrent: 2 } });
    const first = [service.fetch(get("/")), service.fetch(get("/"))];
    const refused = await service.fetch(get("/"));
    expect([refused.status, refused.headers.get("retry-after")]).toEqual([503, "1"]);
    for (const end of waiting.splice(0)) end();
    expect((await Promise.all(first)).map(({ status }) => status)).toEqual([200, 200]);
    const next = service.fetch(get("/"));
    await new Promise((resolve) => void setImmediate(resolve));
    waiting[0]?.();
    expect((await next).status).toBe(200);
    expect(service.metrics.text()).toContain("http_requests_in_flight 0\n");
  });

  it("answers for a handler whose time is over, aborts its signal, and counts it as at work until it ends", async () => {
    const app = new Hono();
    let end: () => void = () => undefined;
    let aborted = false;
    app.get("/slow", async (c) => {
      requestContext(c).signal.addEventListener("abort", () => {
        aborted = true;
      });
      await new Promise<void>((resolve) => {
        end = resolve;
      });
      return c.text("late");
    });
    app.get("/fast", (c) => c.text("ok"));
    const { service } = setup(app, { limits: { requestTime: 5, maxConcurrent: 1 } });
    const answer = await service.fetch(get("/slow"));
    expect([answer.status, answer.headers.get("retry-after"), aborted]).toEqual([503, "1", true]);
    expect((await service.fetch(get("/fast"))).status).toBe(503);
    end();
    await new Promise((resolve) => void setImmediate(resolve));
    expect((await service.fetch(get("/fast"))).status).toBe(200);
    expect(service.metrics.text()).toContain('http_requests_rejected_total{reason="time"} 1');
  });

  it("speaks the application's language when it refuses", async () => {
    const { service } = setup(hello(), {
      limits: { maxBody: 1 },
      refusal: ({ code, message, requestId }) => ({ error: code, error_description: message, trace_id: requestId }),
    });
    const answer = await service.fetch(post("/echo", "12"));
    expect(await answer.json()).toEqual({
      error: "RequestEntityTooLarge",
      error_description: expect.any(String),
      trace_id: answer.headers.get("x-ms-request-id"),
    });
  });

  it("adds its headers to an answer whose own cannot be changed", async () => {
    const app = new Hono();
    app.get("/", () => Response.redirect("http://service.test/there", 302));
    const { service } = setup(app);
    const answer = await service.fetch(get("/"));
    expect([answer.status, answer.headers.get("location")]).toEqual([302, "http://service.test/there"]);
    expect(answer.headers.get("x-ms-request-id")).toBeTruthy();
  });

  it.each<[string, Partial<NonNullable<ServiceOptions["limits"]>>]>([
    ["a body limit of 0", { maxBody: 0 }],
    ["no time", { requestTime: Number.NaN }],
    ["half a request at once", { maxConcurrent: 0.5 }],
    ["no time to stall", { stallTime: 0 }],
    ["a rate of 0", { rate: { perSecond: 0, burst: 1, maxClients: 1 } }],
    ["a burst of 0", { rate: { perSecond: 1, burst: 0, maxClients: 1 } }],
    ["a proxy that is no address", { trustedProxies: ["proxy"] }],
  ])("refuses %s", (_what, limits) => {
    expect(() => setup(hello(), { limits })).toThrow(expect.objectContaining({ code: "ERR_SERVICE_ARGUMENT" }));
  });
});

describe("health and metrics", () => {
  it("are not among the application's paths unless told", async () => {
    const { service } = setup(hello());
    for (const path of ["/healthz", "/readyz", "/metrics"]) {
      expect((await service.fetch(get(path))).status).toBe(404);
      expect((await service.operations(path))?.status).toBe(200);
    }
    expect(await service.operations("/other")).toBe(undefined);
  });

  it("say by name what is not ready, and why on an address of their own alone", async () => {
    const ready = {
      database: () => undefined,
      lists: async () => Promise.reject(new Error("no list of Milan")),
    };
    const separate = await setup(hello(), { ready, logger: silentLogger }).service.operations("/readyz");
    expect(separate?.status).toBe(503);
    expect(JSON.parse(separate?.text ?? "")).toEqual({
      status: "not ready",
      checks: { database: { ok: true }, lists: { ok: false, problem: "no list of Milan" } },
    });
    const { service, lines } = setup(hello(), { ready, operations: "main" });
    const main = await service.fetch(get("/readyz"));
    expect(await main.json()).toEqual({ status: "not ready", checks: { database: { ok: true }, lists: { ok: false } } });
    expect(lines[0]).toMatchObject({ level: "warn", message: "not ready", fields: { problem: "lists: no list of Milan" } });
    // Probes come every few seconds: not a line for each.
    await service.fetch(get("/readyz"));
    expect(lines.filter(({ level }) => level === "warn")).toHaveLength(1);
    expect(lines.filter(({ message }) => message === "request").map(({ level }) => level)).toEqual(["debug", "debug"]);
  });

  it("run the checks once for all who ask meanwhile", async () => {
    let runs = 0;
    const { service } = setup(hello(), {
      ready: {
        slow: async () => {
          runs++;
          await new Promise((resolve) => void setImmediate(resolve));
        },
      },
    });
    await Promise.all(Array.from({ length: 100 }, async () => service.operations("/readyz")));
    expect(runs).toBe(1);
    await service.operations("/readyz");
    expect(runs).toBe(2);
  });

  it("say no when the service retires, while it still answers", async () => {
    const { service } = setup(hello());
    service.retire();
    expect((await service.operations("/readyz"))?.status).toBe(503);
    expect((await service.operations("/healthz"))?.status).toBe(200);
    expect((await service.fetch(get("/keys/a/00000000000000000000000000000000"))).status).toBe(200);
  });
});
