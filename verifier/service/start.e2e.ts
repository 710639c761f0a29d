import { randomBytes } from "node:crypto";
import { Hono } from "hono";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import type { LogLevel } from "@sealpod/core";
import { commonSettings, type CommonValues } from "./common-settings.ts";
import { ServiceError } from "./errors.ts";
import { readSettings } from "./settings.ts";
import { startService, type StartedService } from "./start.ts";

/** What a service of these tests works with, and what became of it. */
class World {
  readonly calls: string[] = [];
  readonly lines: { readonly level: LogLevel; readonly message: string }[] = [];
  readonly #asked = Promise.withResolvers<void>();
  readonly #released = Promise.withResolvers<void>();

  /** A request for `/slow` is in work. */
  async asked(): Promise<void> {
    return this.#asked.promise;
  }

  /** It is answered. */
  release(): void {
    this.#released.resolve();
  }

  async start(settings: Readonly<Record<string, unknown>> = {}): Promise<StartedService> {
    const owned = new AsyncDisposableStack();
    owned.defer(() => void this.calls.push("closed"));
    const app = new Hono();
    app.get("/slow", async (c) => {
      this.#asked.resolve();
      await this.#released.promise;
      this.calls.push("answered");
      return c.text("slow but whole");
    });
    return startService({
      name: "test",
      version: "1",
      app,
      settings: read(settings),
      ports: {
        clock: { now: () => Date.now() },
        random: { bytes: (length) => new Uint8Array(randomBytes(length)) },
        logger: { log: (level, message) => void this.lines.push({ level, message }) },
        ownsProcess: false,
      },
      ready: {
        store: () => {
          if (this.calls.includes("closed")) throw new Error("closed");
        },
      },
      owned,
      summary: ({ url, operations }) => ({ url, of: "test", operations }),
      reload: async () => void this.calls.push("reload"),
    });
  }

  warnings(): readonly string[] {
    return this.lines.filter(({ level }) => level === "warn").map(({ message }) => message);
  }
}

function read(settings: Readonly<Record<string, unknown>>): CommonValues {
  const text = JSON.stringify({ listen: "127.0.0.1:0", ...settings });
  return readSettings(commonSettings("127.0.0.1:0"), { text, name: "test.json", directory: "/", env: {}, prefix: "TEST_" }).value;
}

describe("a service that is started", () => {
  it("answers, is ready, tells where, and reloads", async () => {
    const world = new World();
    const service = await world.start();
    try {
      expect(service.url).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);
      expect(service.operationsUrl).toBeUndefined();
      expect(service.summary).toEqual({ url: service.url, of: "test", operations: "main" });
      expect((await fetch(`${service.url}/readyz`)).status).toBe(200);
      expect(world.warnings()).toEqual([]);
      await service.reload();
      expect(world.calls).toEqual(["reload"]);
    } finally {
      await service.stop();
    }
  });

  it("stops once, and closes what it works with when the last request is answered", async () => {
    const world = new World();
    const service = await world.start();
    const answer = fetch(`${service.url}/slow`);
    await world.asked();
    const stopped = Promise.all([service.stop(), service.stop()]);
    world.release();
    expect(await (await answer).text()).toBe("slow but whole");
    await stopped;
    expect(world.calls).toEqual(["answered", "closed"]);
    await expect(fetch(`${service.url}/readyz`)).rejects.toThrow("fetch failed");
  });

  it("takes requests for the delay, while it is not ready", async () => {
    const world = new World();
    const service = await world.start({ stop: { delay: "1h" } });
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    onTestFinished(() => void vi.useRealTimers());
    const stopped = service.stop();
    vi.advanceTimersByTime(3_599_999);
    expect((await fetch(`${service.url}/readyz`)).status).toBe(503);
    expect(world.calls).toEqual([]);
    vi.advanceTimersByTime(1);
    await stopped;
    expect(world.calls).toEqual(["closed"]);
  });

  it("does not wait longer than the grace", async () => {
    const world = new World();
    const service = await world.start({ stop: { grace: "0s" } });
    const answer = fetch(`${service.url}/slow`).catch(() => "broken");
    await world.asked();
    await service.stop();
    expect(await answer).toBe("broken");
    expect(world.calls).toEqual(["closed"]);
    world.release();
  });

  it("closes what it works with if it cannot listen", async () => {
    const first = new World();
    const service = await first.start();
    try {
      const second = new World();
      await expect(second.start({ listen: new URL(service.url).host })).rejects.toThrow(ServiceError);
      expect(second.calls).toEqual(["closed"]);
      expect(first.calls).toEqual([]);
    } finally {
      await service.stop();
    }
  });

  it("warns of plain HTTP where others reach it, and tells its operations' address", async () => {
    const world = new World();
    const service = await world.start({ listen: "0.0.0.0:0", operations: "127.0.0.1:0" });
    try {
      expect(world.warnings()).toEqual([expect.stringContaining("plain HTTP")]);
      expect(service.summary["operations"]).toBe(service.operationsUrl);
      expect((await fetch(`${service.operationsUrl}/readyz`)).status).toBe(200);
    } finally {
      await service.stop();
    }
    const silent = await new World().start({ listen: "0.0.0.0:0" });
    expect(silent.summary["operations"]).toBe("off");
    await silent.stop();
  });
});
