import { Hono } from "hono";
import { describe, expect, it } from "vitest";
import { RouteNames } from "./route-names.ts";

function names(): RouteNames {
  const app = new Hono();
  app.use("/keys/*", async (_c, next) => next());
  app.get("/keys/:name/:version{[0-9a-f]{2,4}}", (c) => c.text("key"));
  app.post("/policies/:type{[^/:]+:reset}", (c) => c.text("reset"));
  app.all("/any", (c) => c.text("any"));
  app.all("*", (c) => c.text("none", 404));
  return new RouteNames(app);
}

const ask = (routes: RouteNames, method: string, path: string): string => routes.of(new Request(`http://x${path}`, { method }), path);

describe("names of routes", () => {
  it.each([
    ["GET", "/keys/a/00ff", "/keys/:name/:version"],
    ["GET", "/keys/a/00ff?x=1", "/keys/:name/:version"],
    ["HEAD", "/keys/a/00ff", "/keys/:name/:version"],
    ["POST", "/policies/SevSnpVm:reset", "/policies/:type"],
    ["PUT", "/any", "/any"],
    ["GET", "/other", "(none)"],
    ["PUT", "/policies/SevSnpVm:reset", "(none)"],
  ])("%s %s is %s", (method, path, name) => {
    const routes = names();
    expect([ask(routes, method, path), ask(routes, method, path)]).toEqual([name, name]);
  });

  it("are remembered for a bounded number of paths, of bounded length, that have one", () => {
    const routes = names();
    for (let at = 0; at < 10_000; at++) ask(routes, "GET", `/keys/name-${at}/00ff`);
    expect(routes.size).toBeGreaterThan(0);
    expect(routes.size).toBeLessThanOrEqual(2048);
    const { size } = routes;
    ask(routes, "GET", "/other");
    ask(routes, "GET", `/keys/${"n".repeat(1000)}/00ff`);
    expect(routes.size).toBe(size);
  });
});
