import { generateKeyPairSync } from "node:crypto";
import { connect, constants, type ClientHttp2Session, type ClientHttp2Stream, type IncomingHttpHeaders, type OutgoingHttpHeaders } from "node:http2";
import { connect as connectSocket, type AddressInfo } from "node:net";
import { once } from "node:events";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { decodeUtf8, encodeUtf8, fromHex, sha256, toBase64 } from "@sealpod/core";
import { keyProviderApi } from "@sealpod/proto";
import { wrapKey } from "../key-packet.ts";
import { azureBackend } from "../key-release.ts";
import { requestGate } from "../request-gate.ts";
import { json, MAA, VAULT, World } from "../testdata/world.ts";
import { createGrpcServer, keyProviderMethods } from "./index.ts";
import { MAX_MESSAGE_BYTES, MAX_UNFINISHED } from "./server.ts";
import { encodeField, parseFields } from "./wire.ts";

const { privateKey, publicKey } = generateKeyPairSync("rsa", { modulusLength: 3072 });
const OPTIONS = encodeUtf8('{"symkeyopts":{}}');

/** What came back on one call. */
interface Answer {
  readonly headers: IncomingHttpHeaders;
  readonly trailers: IncomingHttpHeaders;
  readonly body: Uint8Array;
  readonly code: number;
}

describe("the gRPC server over TCP", () => {
  let made: World;
  let world: World;
  let server: ReturnType<typeof createGrpcServer>;
  let port: number;
  const sessions: ClientHttp2Session[] = [];
  beforeAll(async () => {
    made = await World.make();
  });
  beforeEach(async () => {
    world = new World(made.chain, made.root, made.store);
    const ports = world.ports();
    const methods = keyProviderMethods({
      backends: [azureBackend(ports)],
      gate: requestGate(ports),
      readText: async () => Promise.reject(new Error("ENOENT")),
    });
    server = createGrpcServer({ methods, logger: ports.logger, deadline: (milliseconds) => ports.timer.deadline(milliseconds) });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    ({ port } = server.address() as AddressInfo);
  });
  afterEach(async () => {
    for (const session of sessions.splice(0)) session.destroy();
    await new Promise<void>((resolve) => {
      server.close(() => resolve());
    });
  });

  describe("serves another implementation's client", () => {
    const client = (): ReturnType<typeof createClient<typeof keyProviderApi.KeyProviderService>> =>
      createClient(keyProviderApi.KeyProviderService, createGrpcTransport({ baseUrl: `http://127.0.0.1:${port}`, idleConnectionTimeoutMs: 1 }));

    it("with greetings and reports", async () => {
      const provider = client();
      expect((await provider.sayHello({ name: "Wörld" })).message).toBe("Hello Wörld");
      const report = fromHex((await provider.getReport({ reportDataHexString: "00" })).reportHexString);
      expect(report.subarray(0x50, 0x70)).toEqual(sha256(encodeUtf8("00")));
      expect(JSON.parse((await provider.getAttestationData({ b64RuntimeDataString: "e30=" })).attestationData)).toHaveProperty(
        "endorsed_tcb",
        "db18000000000004",
      );
    });

    it("with the key of an image", async () => {
      world.release = { kty: "RSA-HSM", plaintext: new Uint8Array(privateKey.export({ format: "der", type: "pkcs8" })) };
      const pem = publicKey.export({ format: "pem", type: "spki" }).toString();
      const annotation = wrapKey(OPTIONS, "image", { publicKeyPath: "k", kmsEndpoint: VAULT, attesterEndpoint: MAA }, pem);
      const input = encodeUtf8(JSON.stringify({ op: "keyunwrap", keyunwrapparams: { annotation } }));
      const output = (await client().unWrapKey({ keyProviderKeyWrapProtocolInput: input })).keyProviderKeyWrapProtocolOutput;
      expect(JSON.parse(decodeUtf8(output))).toEqual({ keywrapresults: { annotation: null }, keyunwrapresults: { optsdata: toBase64(OPTIONS) } });
      world.scripted.push(json(400, { error: { message: "it is “not” genuine" } }));
      const refused = await client()
        .unWrapKey({ keyProviderKeyWrapProtocolInput: input })
        .catch((error: unknown) => ConnectError.from(error));
      expect(refused).toMatchObject({ code: Code.PermissionDenied, rawMessage: expect.stringContaining("it is “not” genuine") });
    });

    it("with statuses", async () => {
      const provider = client();
      await expect(provider.unWrapKey({ keyProviderKeyWrapProtocolInput: encodeUtf8("{}") })).rejects.toMatchObject({ code: Code.InvalidArgument });
      await expect(provider.wrapKey({})).rejects.toMatchObject({ code: Code.InvalidArgument });
      await expect(provider.sayHello({ name: "x".repeat(MAX_MESSAGE_BYTES) })).rejects.toMatchObject({ code: Code.ResourceExhausted });
    });

    it("and stops the work that it does not wait for any more", async () => {
      const gone = new AbortController();
      world.makeReport = () => {
        gone.abort();
        throw new Error("no report");
      };
      const input = wrapKey(
        OPTIONS,
        "image",
        { publicKeyPath: "k", kmsEndpoint: VAULT, attesterEndpoint: MAA },
        publicKey.export({ format: "pem", type: "spki" }).toString(),
      );
      const call = client().unWrapKey(
        { keyProviderKeyWrapProtocolInput: encodeUtf8(JSON.stringify({ keyunwrapparams: { annotation: input } })) },
        { signal: gone.signal },
      );
      await expect(call).rejects.toMatchObject({ code: Code.Canceled });
      expect(world.requests).toEqual([]);
    });
  });

  const open = async (): Promise<ClientHttp2Session> => {
    const session = connect(`http://127.0.0.1:${port}`);
    session.on("error", () => undefined);
    sessions.push(session);
    await once(session, "connect");
    return session;
  };
  const HEADERS = { [constants.HTTP2_HEADER_METHOD]: "POST", "content-type": "application/grpc", te: "trailers" };
  const HELLO = "/key_provider.KeyProviderService/SayHello";
  const call = async (headers: OutgoingHttpHeaders, ...chunks: readonly Uint8Array[]): Promise<Answer> => {
    const stream = (await open()).request({ ...HEADERS, ...headers });
    const answer = { headers: {} as IncomingHttpHeaders, trailers: {} as IncomingHttpHeaders };
    const parts: Uint8Array[] = [];
    stream.on("error", () => undefined);
    stream.on("response", (value) => (answer.headers = value));
    stream.on("trailers", (value: IncomingHttpHeaders) => (answer.trailers = value));
    stream.on("data", (chunk: Uint8Array) => parts.push(chunk));
    const closed = once(stream, "close");
    for (const chunk of chunks) await new Promise((resolve) => stream.write(chunk, resolve));
    stream.end();
    await closed;
    return { ...answer, body: new Uint8Array(Buffer.concat(parts)), code: stream.rstCode ?? 0 };
  };
  const frame = (message: Uint8Array, flag = 0): Uint8Array => {
    const bytes = new Uint8Array(5 + message.length);
    bytes[0] = flag;
    new DataView(bytes.buffer).setUint32(1, message.length);
    bytes.set(message, 5);
    return bytes;
  };
  const NAME = encodeField(1, encodeUtf8("X"));

  it("answers with headers, one message and trailers", async () => {
    const answer = await call({ ":path": HELLO }, frame(NAME));
    expect(answer.headers).toMatchObject({ ":status": 200, "content-type": "application/grpc" });
    expect(answer.trailers).toMatchObject({ "grpc-status": "0" });
    expect(answer.body).toEqual(frame(encodeField(1, encodeUtf8("Hello X"))));
  });

  it("takes a message in pieces of any size", async () => {
    const bytes = frame(NAME);
    for (const size of [1, 3, 5, 6]) {
      const pieces = Array.from({ length: Math.ceil(bytes.length / size) }, (_, index) => bytes.slice(index * size, (index + 1) * size));
      expect((await call({ ":path": HELLO }, ...pieces)).trailers["grpc-status"], String(size)).toBe("0");
    }
  });

  it.each<[string, OutgoingHttpHeaders, Uint8Array[], string, RegExp]>([
    ["an unknown method", { ":path": "/key_provider.KeyProviderService/Shell" }, [frame(NAME)], "12", /there is no method/],
    ["a compressed message", {}, [frame(NAME, 1)], "12", /compressed/],
    ["compression by name", { "grpc-encoding": "gzip" }, [frame(NAME)], "12", /compressed/],
    ["another flag", {}, [frame(NAME, 2)], "3", /flag 2/],
    ["no message", {}, [], "3", /no message/],
    ["two messages", {}, [frame(NAME), frame(NAME)], "3", /more than one message/],
    ["half a message", {}, [frame(NAME).slice(0, 7)], "3", /ends inside a message/],
    ["half a prefix", {}, [frame(NAME).slice(0, 3)], "3", /ends inside a message/],
    ["a message that claims to be huge", {}, [Uint8Array.of(0, 0xff, 0xff, 0xff, 0xff)], "8", /4294967295 bytes/],
    ["no protocol buffer", {}, [frame(Uint8Array.of(0x0b))], "3", /wire type 3/],
  ])("refuses %s with its status", async (_what, headers, chunks, status, message) => {
    const answer = await call({ ":path": HELLO, ...headers }, ...chunks);
    // Without a message the status is among the headers.
    expect(answer.headers).toMatchObject({ ":status": 200, "content-type": "application/grpc", "grpc-status": status });
    expect(decodeURIComponent(String(answer.headers["grpc-message"]))).toMatch(message);
    expect(answer.body).toHaveLength(0);
  });

  it.each<[string, OutgoingHttpHeaders]>([
    ["another content type", { "content-type": "application/json" }],
    ["GET", { ":method": "GET" }],
  ])("answers %s with 415", async (_what, headers) => {
    expect((await call({ ":path": HELLO, ...headers })).headers[":status"]).toBe(415);
  });

  it("ends a request that does not come to its end in time", async () => {
    const stream = (await open()).request({ ...HEADERS, ":path": HELLO });
    stream.on("error", () => undefined);
    stream.write(frame(NAME).slice(0, 4));
    await expect.poll(() => world.deadlines.length).toBe(1);
    const closed = once(stream, "close");
    world.deadlines[0]?.over.abort();
    await closed;
    expect(world.deadlines[0]?.milliseconds).toBe(30_000);
    expect(stream.rstCode).toBe(constants.NGHTTP2_CANCEL);
  });

  it("bounds what unfinished messages take over all connections, and takes messages again when they are gone", async () => {
    const unfinished = frame(new Uint8Array(MAX_MESSAGE_BYTES)).slice(0, -1);
    const sent = MAX_UNFINISHED / MAX_MESSAGE_BYTES + 32;
    const statuses: unknown[] = [];
    const calls: ClientHttp2Stream[] = [];
    for (let index = 0; index < sent; index++) {
      const session = index % 24 === 0 ? await open() : (sessions.at(-1) ?? (await open()));
      const stream = session.request({ ...HEADERS, ":path": HELLO });
      stream.on("error", () => undefined);
      stream.on("response", (headers) => statuses.push(headers["grpc-status"]));
      stream.resume();
      stream.write(unfinished);
      calls.push(stream);
    }
    await expect.poll(() => statuses.length, { timeout: 20_000 }).toBeGreaterThanOrEqual(32);
    expect(new Set(statuses)).toEqual(new Set(["8"]));
    for (const stream of calls) stream.close(constants.NGHTTP2_CANCEL);
    await expect.poll(async () => (await call({ ":path": HELLO }, frame(NAME))).trailers["grpc-status"], { timeout: 20_000 }).toBe("0");
    // Whatever becomes of a message, what it took is given back.
    for (let index = 0; index < 80; index++) {
      expect((await call({ ":path": "/key_provider.KeyProviderService/UnWrapKey" }, frame(new Uint8Array(MAX_MESSAGE_BYTES)))).headers["grpc-status"]).toBe(
        "3",
      );
    }
  });

  it.each<[string, OutgoingHttpHeaders]>([
    ["another host's name", { ":authority": "rebind.evil.example:8080" }],
    ["a web page", { origin: "https://evil.example" }],
  ])("refuses a call of %s", async (_what, headers) => {
    const answer = await call({ ":path": HELLO, ...headers }, frame(NAME));
    expect(answer.headers["grpc-status"]).toBe("7");
    expect(String(answer.headers["grpc-message"])).toMatch(/the request (is for host|comes from a web page)/);
    expect((await call({ ":path": HELLO, ":authority": "localhost:50000" }, frame(NAME))).trailers["grpc-status"]).toBe("0");
  });

  it("stops when the time that the caller gave is over", async () => {
    world.makeReport = () => {
      world.deadlines.find(({ milliseconds }) => milliseconds === 5000)?.over.abort(new DOMException("time", "TimeoutError"));
      throw new Error("no report");
    };
    const answer = await call({ ":path": "/key_provider.KeyProviderService/GetReport", "grpc-timeout": "5S" }, frame(NAME));
    expect(answer.headers["grpc-status"]).toBe("4");
  });

  it.each(["v1", "v1alpha"])("describes itself to tools (%s), message by message", async (version) => {
    const list = encodeField(7, new Uint8Array());
    const file = encodeField(4, encodeUtf8("key_provider.KeyProviderService"));
    const answer = await call({ ":path": `/grpc.reflection.${version}.ServerReflection/ServerReflectionInfo` }, frame(list), frame(file));
    expect(answer.trailers["grpc-status"]).toBe("0");
    const length = new DataView(answer.body.buffer).getUint32(1);
    expect(parseFields(answer.body.subarray(5, 5 + length)).has(6)).toBe(true);
    expect(parseFields(answer.body.subarray(10 + length)).has(4)).toBe(true);
  });

  it("outlives bytes that are not HTTP/2", async () => {
    for (const bytes of ["GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x0f\x0f\0\0\0\0"]) {
      const socket = connectSocket(port, "127.0.0.1");
      socket.on("error", () => undefined);
      const closed = once(socket, "close");
      socket.resume();
      socket.end(bytes);
      await closed;
    }
    expect((await call({ ":path": HELLO }, frame(NAME))).trailers["grpc-status"]).toBe("0");
  });
});
