import { mkdtemp, readdir, rename, rm, writeFile } from "node:fs/promises";
import { once } from "node:events";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { lockNameOf, withLock } from "./images-lock.ts";

/** Milliseconds that no test takes. */
const LONG = 60_000;

let directory = "";
let path = "";

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "sealpod-lock-"));
  path = join(directory, ".lock-x");
});

afterEach(async () => {
  await rm(directory, { recursive: true });
});

/** A task that ends when it is told to. */
function held(patience = LONG): { readonly entered: Promise<void>; readonly leave: () => void; readonly ended: Promise<boolean> } {
  const entered = Promise.withResolvers<void>();
  const left = Promise.withResolvers<void>();
  const ended = withLock(path, patience, async (isHeld) => {
    entered.resolve();
    await left.promise;
    return isHeld;
  });
  return { entered: entered.promise, leave: left.resolve, ended };
}

/** The socket of an owner that was killed. */
async function leaveDeadSocket(): Promise<void> {
  const server = createServer();
  server.listen(join(directory, "other"));
  await once(server, "listening");
  await rename(join(directory, "other"), path);
  server.close();
  await once(server, "close");
}

describe("the lock of a path", () => {
  it("lets one in at a time, everybody in the end, and leaves nothing", async () => {
    let inside = 0;
    let most = 0;
    const results = await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        withLock(path, LONG, async (isHeld) => {
          inside++;
          most = Math.max(most, inside);
          await new Promise((resolve) => setImmediate(resolve));
          inside--;
          return isHeld ? i : -1;
        }),
      ),
    );
    expect(results).toEqual(Array.from({ length: 20 }, (_, i) => i));
    expect(most).toBe(1);
    expect(await readdir(directory)).toEqual([]);
  });

  it("goes on with the next one as soon as its owner leaves, also by an error", async () => {
    const owner = held();
    await owner.entered;
    const next = held();
    owner.leave();
    await next.entered;
    const failing = withLock(path, LONG, () => Promise.reject(new Error("went wrong")));
    next.leave();
    await expect(failing).rejects.toThrow("went wrong");
    expect(await Promise.all([owner.ended, next.ended])).toEqual([true, true]);
    expect(await readdir(directory)).toEqual([]);
  });

  it("waits no longer than it has patience, and says that it is not held", async () => {
    const owner = held();
    await owner.entered;
    expect(await withLock(path, 0, (isHeld) => Promise.resolve(isHeld))).toBe(false);
    expect(await withLock(path, 20, (isHeld) => Promise.resolve(isHeld))).toBe(false);
    // Who went without it took nothing from its owner.
    expect(await readdir(directory)).toEqual([".lock-x"]);
    owner.leave();
    expect(await owner.ended).toBe(true);
  });

  it.each([LONG, 0])("is taken from an owner that was killed, with a patience of %d ms", async (patience) => {
    await leaveDeadSocket();
    expect(await readdir(directory)).toEqual([".lock-x"]);
    expect(await withLock(path, patience, (isHeld) => Promise.resolve(isHeld))).toBe(true);
    expect(await readdir(directory)).toEqual([]);
  });

  it("is taken by one of many that find a killed owner's at once", async () => {
    for (let round = 0; round < 40; round++) {
      await leaveDeadSocket();
      let inside = 0;
      let most = 0;
      const results = await Promise.all(
        Array.from({ length: 6 }, () =>
          withLock(path, LONG, async (isHeld) => {
            most = Math.max(most, ++inside);
            for (let turn = 0; turn < 3; turn++) await new Promise((resolve) => setImmediate(resolve));
            inside--;
            return isHeld;
          }),
        ),
      );
      expect([round, most, results.every(Boolean), await readdir(directory)]).toEqual([round, 1, true, []]);
    }
  });

  it("is taken from an owner that was killed, also if whoever began to remove it was killed, too", async () => {
    await leaveDeadSocket();
    await writeFile(`${path}~`, "");
    expect(await withLock(path, LONG, (isHeld) => Promise.resolve(isHeld))).toBe(true);
    expect(await readdir(directory)).toEqual([]);
  });

  it("has names that a look at the directory knows", () => {
    for (const name of [".lock-0a", ".lock-0a~", ".lock-0a+01234f", ".lock-0a~+01234f"]) expect(lockNameOf(name)).toBe(".lock-0a");
    for (const name of [".lock-", ".lock-0a+", ".lock-0a~~", "x.lock-0a", ".lock-0a.erofs"]) expect(lockNameOf(name)).toBeUndefined();
  });

  it("is done without where there can be none", async () => {
    const long = join(directory, "x".repeat(120));
    expect(await withLock(long, LONG, (isHeld) => Promise.resolve(isHeld))).toBe(false);
    expect(await withLock(join(directory, "absent", "x"), LONG, (isHeld) => Promise.resolve(isHeld))).toBe(false);
  });

  it("takes a file in its place for a dead owner's", async () => {
    await writeFile(path, "");
    expect(await withLock(path, LONG, (isHeld) => Promise.resolve(isHeld))).toBe(true);
  });
});
