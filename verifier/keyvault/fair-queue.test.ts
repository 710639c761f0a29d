import { describe, expect, it } from "vitest";
import { FairQueue, type FairQueueOptions } from "./fair-queue.ts";

const LIMITS = { running: 1, waiting: 6, waitingOfVault: 4, retryAfter: 7 };
const throttled = expect.objectContaining({
  code: "ERR_KEYVAULT_THROTTLED",
  details: { retryAfter: 7 },
  row: expect.objectContaining({ http: 429 }) as object,
});

/** A queue whose works end when they are told to. */
function world(limits: Partial<typeof LIMITS> = {}) {
  const queue = new FairQueue("tests are run", { ...LIMITS, ...limits });
  const started: string[] = [];
  const ends = new Map<string, () => void>();
  const run = (name: string, options: FairQueueOptions = {}): Promise<string> => {
    const done = queue.run(
      name.slice(0, 1),
      async () => {
        started.push(name);
        await new Promise<void>((resolve) => ends.set(name, resolve));
        if (name.endsWith("!")) throw new Error(name);
        return name;
      },
      options,
    );
    // Who is refused is looked at later.
    done.catch(() => undefined);
    return done;
  };
  const settle = async (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
  const end = async (name: string): Promise<void> => {
    ends.get(name)?.();
    await settle();
  };
  return { run, started, end, settle };
}

describe("FairQueue", () => {
  it("runs as many at once as it may, the others in turns of their vaults", async () => {
    const { run, started, end, settle } = world({ running: 2 });
    const all = ["a1", "a2", "a3", "a4", "a5", "b1", "c1", "b2"].map((name) => run(name));
    await settle();
    expect(started).toEqual(["a1", "a2"]);
    for (let at = 0; at < 8; at++) await end(started[at] ?? "");
    expect(started).toEqual(["a1", "a2", "a3", "b1", "c1", "a4", "b2", "a5"]);
    expect(await Promise.all(all)).toEqual(["a1", "a2", "a3", "a4", "a5", "b1", "c1", "b2"]);
    void run("d1");
    void run("d2");
    void run("d3");
    await settle();
    // All places came back, and no more than those.
    expect(started.slice(8)).toEqual(["d1", "d2"]);
  });

  it("refuses what is too many of one vault, or of all", async () => {
    const { run, started, end } = world();
    void run("a0");
    for (const name of ["a1", "a2", "a3", "a4"]) void run(name);
    await expect(run("a5")).rejects.toThrow(throttled);
    void run("b1");
    void run("b2");
    await expect(run("c1")).rejects.toThrow(throttled);
    for (let at = 0; at < 7; at++) await end(started[at] ?? "");
    expect(started).toHaveLength(7);
    void run("c2");
    expect(started.at(-1)).toBe("c2");
  });

  it("lets the service itself wait however many do, without taking their places", async () => {
    const { run, started, end } = world({ waitingOfVault: 1 });
    void run("a0");
    void run("a1");
    const patient = run("a2", { isPatient: true });
    await expect(run("a3")).rejects.toThrow(throttled);
    for (const name of ["a0", "a1", "a2"]) await end(name);
    expect(await patient).toBe("a2");
    void run("b0");
    void run("b1", { isPatient: true });
    void run("b2");
    await end("b0");
    await end("b1");
    expect(started.slice(3)).toEqual(["b0", "b1", "b2"]);
  });

  it("goes on after one that fails", async () => {
    const { run, started, end } = world();
    const failing = run("a!");
    void run("a1");
    await end("a!");
    await expect(failing).rejects.toThrow("a!");
    expect(started).toEqual(["a!", "a1"]);
  });

  it("gives the place of who has gone to another, and does not run it", async () => {
    const { run, started, end, settle } = world({ waitingOfVault: 2 });
    const client = new AbortController();
    const running = run("a0", { signal: client.signal });
    const gone = run("a1", { signal: client.signal });
    void run("a2");
    await expect(run("a3")).rejects.toThrow(throttled);
    client.abort();
    await expect(gone).rejects.toThrow(throttled);
    void run("a4");
    await settle();
    for (const name of ["a0", "a2", "a4"]) await end(name);
    expect(started).toEqual(["a0", "a2", "a4"]);
    expect(await running).toBe("a0");
    // Nobody is there from the beginning: it takes no place in the line.
    void run("b0");
    await expect(run("b1", { signal: client.signal })).rejects.toThrow(throttled);
  });
});
