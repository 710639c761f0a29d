import { contentApi, eventsApi } from "@sealpod/proto";
import { describe, expect, it } from "vitest";
import type { Containerd } from "./client.ts";
import { connectContainerd } from "./containerd.ts";
import { announce, buildImage, emptyNamespace, FakeContainerd, METHODS, nodeHandlers, noise, putImage, tarHolds, text } from "./test-support.ts";
import type { Call, Handler, NodeState } from "./test-support.ts";

const FILES = [noise(20_000), text("the second layer\n")];
const image = await buildImage(FILES);
const ABSENT = `sha256:${"0".repeat(64)}`;

/** Runs a test against a containerd with one image in namespace `default`. */
async function withNode<T>(
  use: (containerd: Containerd, state: NodeState, fake: FakeContainerd) => Promise<T>,
  changes: Record<string, Handler> = {},
): Promise<T> {
  const state: NodeState = { namespaces: new Map([["default", emptyNamespace()]]), subscribers: new Set() };
  for (const namespace of state.namespaces.values()) putImage(namespace, "team/app:1", image);
  const fake = await FakeContainerd.start(new Map([...nodeHandlers(state), ...Object.entries(changes)]));
  try {
    return await use(connectContainerd({ socketPath: fake.path, timeouts: { answer: 2000 } }, { delay: () => Promise.resolve() }), state, fake);
  } finally {
    await fake.close();
  }
}

/** Waits until somebody has subscribed. */
async function subscribed(state: NodeState): Promise<void> {
  while (state.subscribers.size === 0) await new Promise((resolve) => setImmediate(resolve));
}

describe("what a node's programs ask of containerd", () => {
  it("tells its version, its namespaces and its plugins", async () => {
    await withNode(async (containerd, state) => {
      state.namespaces.set("k8s.io", emptyNamespace());
      expect(await containerd.version()).toEqual({ version: "1.6.20~ds1", revision: "1.6.20~ds1-1" });
      expect(await containerd.namespaces()).toEqual(["default", "k8s.io"]);
      const type = "io.containerd.snapshotter.v1";
      expect(await containerd.plugins()).toEqual([
        { type, id: "overlayfs", exports: { root: "/r" }, capabilities: ["c"], problem: undefined },
        { type, id: "zfs", exports: {}, capabilities: [], problem: "path must be a zfs filesystem" },
      ]);
    });
  });

  it("tells of containers and what their snapshots rest on", async () => {
    await withNode(async (containerd, state) => {
      const record = { image: "team/app:1", snapshotter: "overlayfs", snapshotKey: "c1" };
      state.namespaces.get("default")?.containers.set("c1", record);
      state.namespaces.get("default")?.snapshots.set("overlayfs/c1", ABSENT).set("overlayfs/lowest", "");
      const namespace = containerd.namespace("default");
      expect(await namespace.container("c1")).toEqual({ id: "c1", ...record, runtime: "io.containerd.kata-cc.v2", labels: { "a.label": "its value" } });
      expect(await namespace.container("c2")).toBeUndefined();
      expect(await containerd.namespace("other").container("c1")).toBeUndefined();
      expect(await namespace.snapshotParent("overlayfs", "c1")).toBe(ABSENT);
      expect(await namespace.snapshotParent("overlayfs", "lowest")).toBe("");
      expect(await namespace.snapshotParent("native", "c1")).toBeUndefined();
    });
  });

  it("tells of blobs, one by one and all", async () => {
    await withNode(async (containerd, state) => {
      const namespace = containerd.namespace("default");
      expect(await namespace.content(image.manifest)).toEqual({ digest: image.manifest, size: image.manifestSize, labels: {} });
      expect(await namespace.content(ABSENT)).toBeUndefined();
      const listed: string[] = [];
      for await (const { digest } of namespace.contents()) listed.push(digest);
      expect(listed).toEqual([...(state.namespaces.get("default")?.blobs.keys() ?? [])]);
      expect(listed).toHaveLength(4);
      const [name] = await namespace.images();
      expect(name).toMatchObject({ name: "team/app:1", target: { digest: image.manifest, size: image.manifestSize } });
    });
  });

  it.each(["team/app:1", "Whatever Somebody Imported", `sha256:${"a".repeat(64)}`])("gives the image that it names %j, and its layers", async (name) => {
    await withNode(async (containerd, state) => {
      const namespace = emptyNamespace();
      putImage(namespace, name, image);
      state.namespaces.set("k8s.io", namespace);
      const found = await containerd.namespace("k8s.io").image(name);
      expect(found?.image).toMatchObject({ manifestDigest: image.manifest, configDigest: image.config, layers: image.layers });
      for (const [i, layer] of image.layers.entries())
        expect(found !== undefined && (await tarHolds(found.source.layerTar(layer), FILES[i] ?? noise(1)))).toBe(true);
      expect(await containerd.namespace("k8s.io").image("another")).toBeUndefined();
    });
  });

  it("advises what a node's owner can do, and nothing of genpolicy's options", async () => {
    await withNode(async (containerd, state) => {
      const [layer] = image.layers;
      const found = await containerd.namespace("default").image("team/app:1");
      if (layer === undefined || found === undefined) throw new Error("no image");
      state.namespaces.get("default")?.blobs.delete(layer.digest);
      const error: unknown = await tarHolds(found.source.layerTar(layer), text("")).catch((thrown: unknown) => thrown);
      expect(error).toMatchObject({ code: "ERR_CONTAINERD_CONTENT", hint: expect.stringMatching(/discard_unpacked_layers = false/) as string });
      expect((error as { hint: string }).hint).not.toContain("-d");
    });
    const error: unknown = await connectContainerd({ socketPath: "/nonexistent/c.sock" })
      .version()
      .catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: "ERR_CONTAINERD_SOCKET", hint: expect.not.stringContaining("-d") as string });
  });

  it("says which service is missing", async () => {
    const missing: Handler = (call) => call.end(12, "unknown service");
    const all = Object.fromEntries(Object.values(METHODS).map((method) => [method, missing]));
    await withNode(async (containerd) => {
      const namespace = containerd.namespace("default");
      const calls: readonly (readonly [string, () => Promise<unknown>])[] = [
        ["version", () => containerd.version()],
        ["plugins", () => containerd.plugins()],
        ["namespaces", () => containerd.namespaces()],
        ["container store", () => namespace.container("c")],
        ["snapshots", () => namespace.snapshotParent("s", "k")],
        ["image store", () => namespace.image("i")],
        ["image store", () => namespace.images()],
        ["content store", () => namespace.content(ABSENT)],
        ["content store", () => namespace.contents().next()],
        ["events", () => containerd.events(["/t"], AbortSignal.timeout(60_000)).next()],
      ];
      for (const [words, call] of calls)
        await expect(call()).rejects.toMatchObject({ code: "ERR_CONTAINERD_SERVICE", message: expect.stringContaining(words) as string });
    }, all);
  });

  it.each<[string, Handler]>([
    ["an empty part", (call) => call.send(contentApi.ListContentResponseSchema, {})],
    ["a size that no number holds", (call) => call.send(contentApi.ListContentResponseSchema, { info: [{ digest: ABSENT, size: 2n ** 62n }] })],
  ])("refuses a list of blobs with %s", async (_, list) => {
    await withNode(
      async (containerd) => {
        await expect(containerd.namespace("default").contents().next()).rejects.toMatchObject({ code: "ERR_CONTAINERD_PROTOCOL" });
      },
      { [METHODS.list]: list },
    );
  });

  it("does not go through blobs without end", async () => {
    const info = Array.from({ length: 20_000 }, () => ({ digest: "x", size: 1n }));
    const endless = (call: Call): void => {
      const more = (): void => {
        if (call.stream.destroyed) return;
        call.send(contentApi.ListContentResponseSchema, { info });
        setImmediate(more);
      };
      more();
    };
    await withNode(
      async (containerd) => {
        const count = async (): Promise<void> => {
          for await (const _ of containerd.namespace("default").contents());
        };
        await expect(count()).rejects.toMatchObject({ code: "ERR_CONTAINERD_LIMIT" });
      },
      { [METHODS.list]: endless },
    );
  });
});

describe("events", () => {
  it("come as containerd tells of them, of the topics that were asked for, however long it takes", async () => {
    let asked: readonly string[] = [];
    await withNode(async (_, state, fake) => {
      const subscribe: Handler = (call) => {
        asked = call.request(eventsApi.SubscribeRequestSchema).filters;
        nodeHandlers(state).get(METHODS.subscribe)?.(call);
      };
      const noted = await FakeContainerd.start(new Map([[METHODS.subscribe, subscribe]]));
      try {
        // A time for answers that has passed before the first event comes.
        const containerd = connectContainerd({ socketPath: noted.path, timeouts: { answer: 1 } });
        const controller = new AbortController();
        const events = containerd.events(["/images/delete", '/odd"topic'], controller.signal);
        const first = events.next();
        await subscribed(state);
        // Time for that timer, if there were one: a whole other call, over the same loop.
        await connectContainerd({ socketPath: fake.path }).version();
        announce(state, "k8s.io", "/images/delete");
        expect((await first).value).toEqual({ namespace: "k8s.io", topic: "/images/delete", value: new Uint8Array([1]) });
        announce(state, "default", "/images/delete");
        expect((await events.next()).value).toMatchObject({ namespace: "default" });
        expect(asked).toEqual(['topic=="/images/delete"', 'topic=="/odd\\"topic"']);
        const last = events.next();
        controller.abort(new Error("enough"));
        await expect(last).rejects.toThrow("enough");
      } finally {
        await noted.close();
      }
    });
  });

  it("end at once when the signal says so: before, and while none comes", async () => {
    await withNode(async (containerd, state, fake) => {
      await expect(containerd.events([], AbortSignal.abort(new Error("never"))).next()).rejects.toThrow("never");
      expect(fake.calls).toEqual([]);
      const controller = new AbortController();
      const waiting = containerd.events([], controller.signal).next();
      await subscribed(state);
      controller.abort(new Error("enough"));
      await expect(waiting).rejects.toThrow("enough");
      // The server sees it go, or this waits for ever.
      while (state.subscribers.size > 0) await new Promise((resolve) => setImmediate(resolve));
    });
  });

  it("end with an error when containerd goes", async () => {
    await withNode(async (containerd, state) => {
      for (const go of [(call: Call) => call.cut(), (call: Call) => call.end()]) {
        const events = containerd.events([], new AbortController().signal);
        const waiting = events.next();
        await subscribed(state);
        for (const call of state.subscribers) go(call);
        await expect(waiting).rejects.toMatchObject({ code: "ERR_CONTAINERD_CLOSED" });
        while (state.subscribers.size > 0) await new Promise((resolve) => setImmediate(resolve));
      }
    });
  });
});
