import { createServer } from "node:net";
import type { AddressInfo } from "node:net";
import { rmSync, writeFileSync } from "node:fs";
import { once } from "node:events";
import { contentApi, criApi } from "@sealpod/proto";
import { describe, expect, it } from "vitest";
import { openContainerd } from "./containerd.ts";
import type { ContainerdOptions, ContainerdPorts } from "./containerd.ts";
import { ContainerdError } from "./errors.ts";
import {
  answerRead,
  answerStatus,
  answerTarget,
  buildImage,
  FakeContainerd,
  METHODS,
  NAME,
  noise,
  sendBlob,
  tarHolds,
  text,
  workingContainerd,
} from "./test-support.ts";
import type { Call, Handler } from "./test-support.ts";

const FILES = [noise(20_000), text("the second layer\n")];
const image = await buildImage(FILES);
const [first] = image.layers;
if (first === undefined) throw new Error("the image has no layer");

/** Runs a test against a server that differs from a working one in the given methods. */
async function withFake<T>(changes: Readonly<Record<string, Handler>>, use: (fake: FakeContainerd) => Promise<T>, image_ = image): Promise<T> {
  const fake = await FakeContainerd.start(new Map([...workingContainerd(image_), ...Object.entries(changes)]));
  try {
    return await use(fake);
  } finally {
    await fake.close();
  }
}

const open = (fake: { readonly path: string }, options: Partial<ContainerdOptions> = {}, ports: ContainerdPorts = {}): ReturnType<typeof openContainerd> =>
  openContainerd({ socketPath: fake.path, ...options }, { delay: () => Promise.resolve(), ...ports });

/** The error of resolving NAME, everything in it as text. */
async function failure(fake: { readonly path: string }, options: Partial<ContainerdOptions> = {}, ports: ContainerdPorts = {}): Promise<ContainerdError> {
  const error: unknown = await open(fake, options, ports)
    .resolve(NAME)
    .then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
  if (!(error instanceof ContainerdError)) throw new Error(`expected a ContainerdError, found ${String(error)}`);
  return error;
}

/** The error of reading the first layer. */
async function readFailure(read: Handler, options: Partial<ContainerdOptions> = {}): Promise<unknown> {
  return withFake({ [METHODS.read]: read }, (fake) =>
    tarHolds(open(fake, options).layerTar(first as NonNullable<typeof first>), text("")).then(
      () => undefined,
      (thrown: unknown) => thrown,
    ),
  );
}

const isLayer = (call: Call): boolean => call.request(contentApi.ReadContentRequestSchema).digest === first.digest;

describe("openContainerd", () => {
  it("pulls, resolves and reads the layers", async () => {
    await withFake({}, async (fake) => {
      const source = open(fake);
      const found = await source.resolve(NAME);
      expect(found).toMatchObject({ reference: NAME, manifestDigest: image.manifest, configDigest: image.config, layers: image.layers });
      expect(found.config).toMatchObject({ user: "1000", env: ["A=b"], entrypoint: ["/app"] });
      for (const [i, layer] of found.layers.entries()) expect(await tarHolds(source.layerTar(layer), FILES[i] ?? noise(1))).toBe(true);
      expect(fake.calls).toEqual([METHODS.pull, METHODS.get, METHODS.read, METHODS.read, METHODS.status, METHODS.read, METHODS.read]);
    });
  });

  it("contacts nothing before an image is asked for", () => {
    expect(openContainerd({ socketPath: "/nonexistent/containerd.sock" })).toHaveProperty("resolve");
  });

  it.each([
    [NAME, NAME],
    ["nginx", "docker.io/library/nginx:latest"],
    [`registry.example.com/team/app:1@${image.manifest}`, `registry.example.com/team/app@${image.manifest}`],
  ])("asks for %s by containerd's name", async (asked, name) => {
    const names: string[] = [];
    const note = (call: Call): void => {
      names.push(call.request(criApi.PullImageRequestSchema).image?.image ?? "");
      call.send(criApi.PullImageResponseSchema, { imageRef: "" });
      call.end();
    };
    await withFake({ [METHODS.pull]: note }, (fake) => open(fake).resolve(asked));
    expect(names).toEqual([name]);
  });

  it("uses the namespace of CRI for content and images, none for CRI itself", async () => {
    const seen = new Map<string, unknown>();
    const noted: [string, Handler][] = [...workingContainerd(image)].map(([name, handler]) => [
      name,
      (call) => {
        seen.set(name, call.headers["containerd-namespace"]);
        handler(call);
      },
    ]);
    await withFake(Object.fromEntries(noted), (fake) => open(fake).resolve(NAME));
    expect(Object.fromEntries(seen)).toEqual({ [METHODS.pull]: undefined, [METHODS.status]: undefined, [METHODS.get]: "k8s.io", [METHODS.read]: "k8s.io" });
  });

  it.each([
    [
      { username: "u", password: "p" },
      { username: "u", password: "p", identityToken: "" },
    ],
    [{ identityToken: "t" }, { username: "", password: "", identityToken: "t" }],
    [undefined, undefined],
  ])("hands credentials %j to the pull", async (credentials, expected) => {
    const asked: string[] = [];
    let auth: unknown = "never called";
    const pull = (call: Call): void => {
      auth = call.request(criApi.PullImageRequestSchema).auth;
      call.send(criApi.PullImageResponseSchema, { imageRef: "" });
      call.end();
    };
    const port = (registry: string, repository: string): Promise<typeof credentials> => {
      asked.push(registry, repository);
      return Promise.resolve(credentials);
    };
    await withFake({ [METHODS.pull]: pull }, (fake) => open(fake, {}, { credentials: port }).resolve(NAME));
    if (expected === undefined) expect(auth).toBeUndefined();
    else expect(auth).toMatchObject(expected);
    expect(asked).toEqual(["registry.example.com", "team/app"]);
  });

  it("with pull: missing leaves the registry alone if containerd has the image, and pulls otherwise", async () => {
    await withFake({}, async (fake) => {
      await open(fake, { pull: "missing" }).resolve(NAME);
      expect(fake.calls).not.toContain(METHODS.pull);
    });
    let isThere = false;
    const changes: Record<string, Handler> = {
      [METHODS.status]: (call) => {
        if (isThere) answerStatus(call, image.config, "amd64");
        else {
          call.send(criApi.ImageStatusResponseSchema, {});
          call.end();
        }
      },
      [METHODS.pull]: (call) => {
        isThere = true;
        call.send(criApi.PullImageResponseSchema, { imageRef: "" });
        call.end();
      },
    };
    await withFake(changes, async (fake) => {
      await open(fake, { pull: "missing" }).resolve(NAME);
      expect(fake.calls).toContain(METHODS.pull);
    });
  });

  it("refuses an image of which containerd runs another variant, but only of the same platform", async () => {
    const other = `sha256:${"0".repeat(64)}`;
    const error = await withFake({ [METHODS.status]: (call) => answerStatus(call, other, "amd64") }, failure);
    expect(error).toMatchObject({ code: "ERR_CONTAINERD_MISMATCH", details: { found: other, expected: image.config } });
    await withFake({ [METHODS.status]: (call) => answerStatus(call, other, "arm64") }, (fake) => open(fake).resolve(NAME));
  });

  it.each(["{", "[]", '{"imageSpec":{"os":1}}', "x".repeat(100)])("takes image info %j as no information", async (info) => {
    const status = (call: Call): void => {
      call.send(criApi.ImageStatusResponseSchema, { image: { id: "anything" }, info: { info } });
      call.end();
    };
    await withFake({ [METHODS.status]: status }, (fake) => open(fake).resolve(NAME));
  });

  it("says that an image is gone after the pull", async () => {
    expect(await withFake({ [METHODS.get]: (call) => call.end(5, "not found") }, failure)).toMatchObject({ code: "ERR_CONTAINERD_NOT_FOUND" });
    const empty = (call: Call): void => {
      call.send(criApi.ImageStatusResponseSchema, {});
      call.end();
    };
    expect(await withFake({ [METHODS.status]: empty }, failure)).toMatchObject({ code: "ERR_CONTAINERD_NOT_FOUND" });
  });

  it("names the blob that containerd dropped, and what to do", async () => {
    const error = await readFailure((call) => call.end(5, "not found"));
    expect(error).toMatchObject({ code: "ERR_CONTAINERD_CONTENT", details: { digest: first.digest } });
    expect((error as ContainerdError).hint).toMatch(/discard_unpacked_layers.*content fetch/);
  });
});

describe("errors of a pull", () => {
  const pullFails = (status: number, message: string): Record<string, Handler> => ({ [METHODS.pull]: (call) => call.end(status, message) });

  it.each([
    [2, "pull access denied, repository does not exist or may require authorization: server message: insufficient_scope", "ERR_CONTAINERD_AUTH"],
    [2, "failed to authorize: unexpected status: 401 Unauthorized", "ERR_CONTAINERD_AUTH"],
    [2, "unexpected status code https://r.example/v2/a/manifests/1: 403 Forbidden", "ERR_CONTAINERD_AUTH"],
    [16, "", "ERR_CONTAINERD_AUTH"],
    [5, "failed to resolve reference: not found", "ERR_CONTAINERD_NOT_FOUND"],
    [2, "failed to resolve reference: registry.example.com/team/app:1: not found", "ERR_CONTAINERD_NOT_FOUND"],
    [2, "dial tcp 192.0.2.1:443: connect: connection refused", "ERR_CONTAINERD_PULL"],
    [12, "unknown service runtime.v1.ImageService", "ERR_CONTAINERD_SERVICE"],
  ])("status %d %j is %s", async (status, message, code) => {
    const error = await withFake(pullFails(status, message), failure);
    expect(error.code).toBe(code);
    expect(error.hint).toBeDefined();
    if (code !== "ERR_CONTAINERD_SERVICE") expect(error.message).toContain(NAME);
  });

  it.each([
    [
      { username: "robot", password: 'pa ss/wörd"' },
      ['pa ss/wörd"', encodeURIComponent('pa ss/wörd"'), 'pa ss/wörd\\"', Buffer.from('robot:pa ss/wörd"').toString("base64")],
    ],
    // Its base64 differs from its base64url, and Go escapes every character of it somewhere.
    [
      { username: "u", password: "pä>?s!(<)" },
      ["p%C3%A4%3E%3Fs%21%28%3C%29", "pä\\u003e?s!(\\u003c)", ...(["base64", "base64url"] as const).map((form) => Buffer.from("u:pä>?s!(<)").toString(form))],
    ],
    [{ identityToken: "eyJhbGciOi.token" }, ["eyJhbGciOi.token"]],
  ])("never show %j, whatever the server answers", async (credentials, forms) => {
    // Long text before it: the message is cut, and no part of a secret may be left at the cut.
    for (const form of forms) {
      for (const before of ["", "x".repeat(995)]) {
        const error = await withFake(pullFails(2, `${before}${form} was refused: 401`), (fake) =>
          failure(fake, {}, { credentials: () => Promise.resolve(credentials) }),
        );
        for (let item: unknown = error; item instanceof Error; item = item.cause) {
          const shown = JSON.stringify([item.message, (item as ContainerdError).details, (item as ContainerdError).hint]);
          expect(shown).not.toContain(JSON.stringify(form.slice(0, 5)).slice(1, -1));
        }
      }
    }
  });

  it("show a server's text as one printable line that ends", async () => {
    const error = await withFake(pullFails(2, `a\u001b[2J\r\nb\u202e${"c".repeat(20_000)}`), failure);
    expect(error.message).toMatch(/: a \[2J b c{10,}…$/);
    expect(error.message.length).toBeLessThan(1200);
  });

  it("say which service is missing", async () => {
    const missing = (call: Call): void => call.end(12, "unknown service");
    expect(await withFake({ [METHODS.status]: missing }, failure)).toMatchObject({
      code: "ERR_CONTAINERD_SERVICE",
      hint: expect.stringContaining("disabled_plugins") as string,
    });
    expect(await withFake({ [METHODS.get]: missing }, failure)).toMatchObject({
      code: "ERR_CONTAINERD_SERVICE",
      message: expect.stringContaining("image store") as string,
    });
    expect(await withFake({ [METHODS.read]: missing }, failure)).toMatchObject({
      code: "ERR_CONTAINERD_SERVICE",
      message: expect.stringContaining("content store") as string,
    });
  });
});

describe("a transfer that is cut", () => {
  /** A server that ends every connection after some bytes of the layer, `cuts` times. */
  const cutting = (cuts: number, bytes: number, offsets: number[], how: (call: Call) => void): Handler => {
    let left = cuts;
    return (call) => {
      offsets.push(Number(call.request(contentApi.ReadContentRequestSchema).offset));
      if (!isLayer(call) || left-- <= 0) answerRead(call, image, 1000);
      else {
        sendBlob(call, image, 1000, bytes);
        how(call);
      }
    };
  };

  it("goes on where it stopped: at the connection", async () => {
    const offsets: number[] = [];
    await withFake({ [METHODS.read]: cutting(3, 4500, offsets, (call) => call.cut()) }, async (fake) => {
      expect(await tarHolds(open(fake).layerTar(first), FILES[0] ?? noise(1))).toBe(true);
    });
    // How much of what was sent came through before the cut is the kernel's affair.
    expect(offsets).toHaveLength(4);
    expect(offsets).toEqual(offsets.toSorted((a, b) => a - b));
  });

  it.each<[string, (call: Call) => void]>([
    ["by a stream without a status", (call) => call.stream.end()],
    ["by a status that asks to come again", (call) => call.end(14, "transport is closing")],
  ])("goes on where it stopped: %s", async (_, how) => {
    const offsets: number[] = [];
    await withFake({ [METHODS.read]: cutting(3, 4500, offsets, how) }, async (fake) => {
      expect(await tarHolds(open(fake).layerTar(first), FILES[0] ?? noise(1))).toBe(true);
    });
    expect(offsets).toEqual([0, 4500, 9000, 13_500]);
  });

  it("gives up on a server that only ever sends a little", async () => {
    const pauses: number[] = [];
    const offsets: number[] = [];
    await withFake({ [METHODS.read]: cutting(1000, 1, offsets, (call) => call.stream.end()) }, async (fake) => {
      const delay = (milliseconds: number): Promise<void> => Promise.resolve(void pauses.push(milliseconds));
      await expect(tarHolds(open(fake, {}, { delay }).layerTar(first), text(""))).rejects.toMatchObject({ code: "ERR_CONTAINERD_CLOSED" });
    });
    expect(offsets).toEqual([0, 1, 2, 3, 4, 5]);
    expect(pauses).toEqual([100, 200, 400, 800, 1600]);
  });

  it("needs no status after the last byte", async () => {
    const offsets: number[] = [];
    await withFake({ [METHODS.read]: cutting(1, Number.POSITIVE_INFINITY, offsets, (call) => call.stream.end()) }, async (fake) => {
      expect(await tarHolds(open(fake).layerTar(first), FILES[0] ?? noise(1))).toBe(true);
    });
    expect(offsets).toEqual([0]);
  });

  it("is not tried again if the call was a pull", async () => {
    await withFake({ [METHODS.pull]: (call) => call.cut() }, async (fake) => {
      expect(await failure(fake)).toMatchObject({ code: "ERR_CONTAINERD_CLOSED" });
      expect(fake.calls).toEqual([METHODS.pull]);
    });
  });
});

describe("a hostile server", () => {
  const part = contentApi.ReadContentResponseSchema;

  it("cannot send a blob without end", async () => {
    let isStopped = false;
    const error = await readFailure((call) => {
      let at = 0;
      const more = (): void => {
        // As fast as the client takes it, until the client hangs up.
        if (call.stream.destroyed) return;
        call.send(part, { data: new Uint8Array(10_000) });
        at += 10_000;
        setImmediate(more);
      };
      call.stream.once("close", () => (isStopped = true));
      more();
    });
    // The one that comes first: more bytes than the descriptor states.
    expect(error).toMatchObject({ code: "ERR_CONTAINERD_LIMIT" });
    expect(isStopped).toBe(true);
  });

  it("cannot send empty parts without end", async () => {
    expect(await readFailure((call) => call.send(part, { data: new Uint8Array() }))).toMatchObject({ code: "ERR_CONTAINERD_PROTOCOL" });
  });

  it("cannot send other bytes than those asked for, nor fewer", async () => {
    const wrong = (call: Call): void => {
      call.send(part, { data: new Uint8Array(first.size) });
      call.end();
    };
    expect(await readFailure(wrong)).toMatchObject({ code: "ERR_OCI_MISMATCH" });
    const short = (call: Call): void => answerRead(call, image, 1000, 5000);
    expect(await readFailure(short)).toMatchObject({
      code: "ERR_CONTAINERD_PROTOCOL",
      message: expect.stringMatching(/ends after 5000 of \d+ bytes/) as string,
    });
  });

  it.each<[string, string, Handler]>([
    ["a message that says it has 16 MiB and a byte", "ERR_CONTAINERD_LIMIT", (call) => call.sendFrame(text("x"), { length: 16 * 1024 * 1024 + 1 })],
    ["a message that says it has 4 GiB", "ERR_CONTAINERD_LIMIT", (call) => call.sendFrame(text("x"), { length: 0xffff_ffff })],
    ["a compressed message", "ERR_CONTAINERD_PROTOCOL", (call) => call.sendFrame(text("x"), { flag: 1 })],
    ["a message of other bytes", "ERR_CONTAINERD_PROTOCOL", (call) => call.sendFrame(new Uint8Array([0xff, 0xff]))],
    [
      "half a message",
      "ERR_CONTAINERD_PROTOCOL",
      (call) => {
        call.sendFrame(text("x"), { length: 10 });
        call.end();
      },
    ],
    ["no message", "ERR_CONTAINERD_PROTOCOL", (call) => call.end()],
    [
      "two messages",
      "ERR_CONTAINERD_PROTOCOL",
      (call) => {
        call.send(criApi.PullImageResponseSchema, {});
        call.send(criApi.PullImageResponseSchema, {});
        call.end();
      },
    ],
    [
      "a status that is no number",
      "ERR_CONTAINERD_PROTOCOL",
      (call) => {
        call.send(criApi.PullImageResponseSchema, {});
        call.end("zero");
      },
    ],
    [
      "no trailers",
      "ERR_CONTAINERD_CLOSED",
      (call) => {
        call.send(criApi.PullImageResponseSchema, {});
        call.stream.end();
      },
    ],
    ["a web page", "ERR_CONTAINERD_PROTOCOL", (call) => call.respond({ ":status": 200, "content-type": "text/html" })],
    ["an HTTP error", "ERR_CONTAINERD_PROTOCOL", (call) => call.respond({ ":status": 503, "content-type": "application/grpc" })],
    ["a reset", "ERR_CONTAINERD_CLOSED", (call) => call.stream.close(2)],
    ["silence", "ERR_CONTAINERD_TIMEOUT", () => undefined],
    ["half an answer and silence", "ERR_CONTAINERD_TIMEOUT", (call) => call.sendFrame(text("x"), { length: 10 })],
  ])("answering a pull with %s gets %s", async (_, code, pull) => {
    const error = await withFake({ [METHODS.pull]: pull }, (fake) => failure(fake, { timeouts: { pull: 300 } }));
    expect(error.code).toBe(code);
  });

  it("cannot stall in the middle of a blob", async () => {
    const error = await readFailure((call) => sendBlob(call, image, 1000, 3000), { timeouts: { answer: 100 } });
    expect(error).toMatchObject({ code: "ERR_CONTAINERD_TIMEOUT" });
  });

  it.each([
    ["a path for a digest", { digest: "sha256:../../x", size: 5n }, "ERR_OCI_DIGEST"],
    ["a negative size", { digest: image.manifest, size: -1n }, "ERR_CONTAINERD_PROTOCOL"],
    ["a size that no number holds", { digest: image.manifest, size: 2n ** 62n }, "ERR_CONTAINERD_PROTOCOL"],
    ["a manifest of a terabyte", { digest: image.manifest, size: 2n ** 40n }, "ERR_OCI_LIMIT"],
    [
      "a configuration for a manifest",
      { digest: image.config, size: BigInt(image.files.get(`blobs/sha256/${image.config.slice(7)}`)?.length ?? 0) },
      "ERR_OCI_DOCUMENT",
    ],
  ])("cannot name %s", async (_, target, code) => {
    await withFake({ [METHODS.get]: (call) => answerTarget(call, target) }, async (fake) => {
      await expect(open(fake).resolve(NAME)).rejects.toMatchObject({ code });
    });
  });
});

describe("the socket", () => {
  it("says what is wrong with a path", async () => {
    await withFake({}, async (fake) => {
      expect(await failure({ path: `${fake.path}x` })).toMatchObject({ code: "ERR_CONTAINERD_SOCKET", details: { reason: "ENOENT" } });
      writeFileSync(`${fake.path}.txt`, "");
      expect(await failure({ path: `${fake.path}.txt` })).toMatchObject({ code: "ERR_CONTAINERD_SOCKET", details: { reason: "ECONNREFUSED" } });
      expect(await failure({ path: `${fake.path}${"x".repeat(200)}` })).toMatchObject({ code: "ERR_CONTAINERD_SOCKET" });
    });
  });

  it("is refused if the path is empty", async () => {
    const error = await failure({ path: "" });
    expect(error).toMatchObject({ code: "ERR_CONTAINERD_SOCKET", message: expect.stringContaining("the path is empty") as string });
    expect(error.hint).toContain("-d=PATH");
  });

  it("is a file even if its name is that of a TCP port", async () => {
    let connections = 0;
    const server = createServer((socket) => {
      connections++;
      socket.destroy();
    });
    server.listen(0, "localhost");
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    try {
      for (const path of [`${port}`, `0x${port.toString(16)}`, `${port}.0`]) {
        expect(await failure({ path })).toMatchObject({ code: "ERR_CONTAINERD_SOCKET", details: { reason: "ENOENT" } });
      }
      expect(connections).toBe(0);
    } finally {
      server.close();
    }
  });

  it.each<[string, string | undefined, string]>([
    ["HTTP/1", "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "ERR_CONTAINERD_PROTOCOL"],
    ["nothing at all", undefined, "ERR_CONTAINERD_PROTOCOL"],
    ["", "", "ERR_CONTAINERD_CLOSED"],
  ])("tells a server that speaks %j", async (_, words, code) => {
    const server = createServer((socket) => {
      socket.on("error", () => undefined);
      if (words === "") socket.end();
      else if (words !== undefined) socket.write(words);
    });
    await withFake({}, async (fake) => {
      const path = `${fake.path}.other`;
      server.listen(path);
      await once(server, "listening");
      try {
        expect(await failure({ path }, { timeouts: { greeting: 300 } })).toMatchObject({ code });
      } finally {
        server.close();
        rmSync(path, { force: true });
      }
    });
  });
});
