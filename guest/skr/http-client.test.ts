import { describe, expect, it } from "vitest";
import { encodeUtf8 } from "@sealpod/core";
import { SkrError } from "./errors.ts";
import { expectObject, expectOk, send, type HttpRequest, type HttpResponse } from "./http-client.ts";

const REQUEST: HttpRequest = { method: "GET", url: "https://service.test/", headers: {}, timeoutMs: 1000 };

function response(status: number, body = "", rest: Partial<HttpResponse> = {}): HttpResponse {
  return { status, body: encodeUtf8(body), ...rest };
}

async function run(answers: readonly (HttpResponse | Error)[], random = 0xff): Promise<{ result: HttpResponse | Error; waits: number[]; calls: number }> {
  const waits: number[] = [];
  let calls = 0;
  const ports = {
    http: (): Promise<HttpResponse> => {
      const answer = answers[calls++];
      return answer instanceof Error || answer === undefined ? Promise.reject(answer ?? new Error("too many calls")) : Promise.resolve(answer);
    },
    timer: {
      wait: async (milliseconds: number): Promise<void> => {
        waits.push(milliseconds);
        return Promise.resolve();
      },
      deadline: () => new AbortController().signal,
    },
    clock: { now: () => Date.UTC(2026, 9, 21, 7, 28) },
    random: { bytes: (length: number) => new Uint8Array(length).fill(random) },
  };
  const result = await send(ports, REQUEST, "service").catch((error: unknown) => error as Error);
  return { result, waits, calls };
}

describe("retries", () => {
  it.each([200, 204, 301, 400, 401, 403, 404, 409])("do not happen after %i", async (status) => {
    expect(await run([response(status)])).toMatchObject({ result: { status }, waits: [], calls: 1 });
  });

  it.each([408, 429, 500, 502, 503, 504])("happen after %i, twice", async (status) => {
    expect(await run([response(status), response(status), response(200)])).toMatchObject({ result: { status: 200 }, calls: 3 });
    expect(await run([response(status), response(status), response(status), response(200)])).toMatchObject({ result: { status }, calls: 3 });
  });

  it("happen when there is no answer, and the last reason is told", async () => {
    expect(await run([new Error("ECONNREFUSED"), response(200)])).toMatchObject({ result: { status: 200 }, calls: 2 });
    const { result, calls } = await run([new Error("a"), new Error("b"), new Error("ECONNRESET")]);
    expect(calls).toBe(3);
    expect(result).toMatchObject({ code: "ERR_SKR_NETWORK", message: "service did not answer in 3 attempts: ECONNRESET" });
  });

  it("wait for a time at random, of which the longest doubles", async () => {
    expect((await run([response(500), response(500), response(200)], 0xff)).waits).toEqual([2000, 4000]);
    expect((await run([response(500), response(500), response(200)], 0x40)).waits).toEqual([502, 1004]);
    expect((await run([response(500), response(500), response(200)], 0)).waits).toEqual([0, 0]);
  });

  it.each([
    ["7", 7000],
    ["0", 0],
    ["-5", 0],
    ["Wed, 21 Oct 2026 07:28:09 GMT", 9000],
    ["soon", 0],
  ])("wait at least for a Retry-After of %j", async (retryAfter, wait) => {
    expect((await run([response(429, "", { retryAfter }), response(200)], 0)).waits).toEqual([wait]);
    expect((await run([response(503, "", { retryAfter }), response(200)], 0xff)).waits).toEqual([wait + 2000]);
  });

  it("do not happen when the service asks for more time than the caller has", async () => {
    const { result, waits, calls } = await run([response(429, "", { retryAfter: "31" })]);
    expect({ result, waits, calls }).toMatchObject({ result: { status: 429 }, waits: [], calls: 1 });
    expect(() => expectOk(result as HttpResponse, "service", "ERR_SKR_RELEASE")).toThrow(
      expect.objectContaining({ hint: expect.stringContaining("Retry-After: 31") }),
    );
  });

  it("end when nobody waits any more, in the pause and in the call", async () => {
    for (const reason of [new SkrError("ERR_SKR_CANCELLED", "the caller went away"), new DOMException("time", "TimeoutError")]) {
      const gone = new AbortController();
      let calls = 0;
      const ports = {
        http: async (): Promise<HttpResponse> => {
          calls++;
          if (calls === 1) return Promise.resolve(response(503, '{"error":"overloaded"}'));
          gone.abort(reason);
          return Promise.reject(new Error("aborted"));
        },
        timer: {
          wait: async (): Promise<void> => {
            if (pause) gone.abort(reason);
            gone.signal.throwIfAborted();
            return Promise.resolve();
          },
          deadline: () => gone.signal,
        },
        clock: { now: () => 0 },
        random: { bytes: (length: number) => new Uint8Array(length) },
        signal: gone.signal,
      };
      let pause = false;
      const timeout = reason instanceof DOMException;
      await expect(send(ports, REQUEST, "service")).rejects.toMatchObject(
        timeout ? { code: "ERR_SKR_TIMEOUT", message: "the time for the whole request was over before service had answered" } : { code: "ERR_SKR_CANCELLED" },
      );
      expect(calls).toBe(2);
      await expect(send(ports, REQUEST, "service")).rejects.toMatchObject({ code: timeout ? "ERR_SKR_TIMEOUT" : "ERR_SKR_CANCELLED" });
      expect(calls).toBe(2);
      // In the pause, what the service said last tells more than that the time is over.
      const second = new AbortController();
      pause = true;
      const waiting = send(
        {
          ...ports,
          http: async () => Promise.resolve(response(503, '{"error":"overloaded"}')),
          timer: {
            ...ports.timer,
            wait: async () => {
              second.abort(reason);
              return Promise.reject(reason);
            },
          },
          signal: second.signal,
        },
        REQUEST,
        "service",
      );
      if (timeout) expect(await waiting).toMatchObject({ status: 503 });
      else await expect(waiting).rejects.toBe(reason);
    }
  });

  it("fail with what the connection said, without secrets, and say what to check", async () => {
    const failing = async (message: string): Promise<Error> => (await run([new Error(message), new Error(message), new Error(message)])).result as Error;
    expect(await failing("getaddrinfo ENOTFOUND vualt.test")).toMatchObject({ hint: expect.stringContaining("spelling") });
    expect(await failing("self-signed certificate in certificate chain")).toMatchObject({ hint: expect.stringContaining("SSL_CERT_FILE") });
    expect((await failing("bad header eyJhbGciOiJSUzI1NiJ9.eyJzZWNyZXQiOjF9.c2ln")).message).toBe("service did not answer in 3 attempts: bad header ***");
  });
});

describe("reasons", () => {
  const reason = (body: string | Uint8Array, rest: Partial<HttpResponse> = {}): string => {
    try {
      expectOk({ status: 400, body: typeof body === "string" ? encodeUtf8(body) : body, ...rest }, "service", "ERR_SKR_RELEASE");
      return "";
    } catch (error) {
      return (error as Error).message;
    }
  };

  it.each([
    ['{"error":{"code":"X","message":"why"}}', "X: why"],
    ['{"error":{"code":"Forbidden","message":"why","innererror":{"code":"ForbiddenByPolicy"}}}', "Forbidden/ForbiddenByPolicy: why"],
    ['{"error":{"code":"Forbidden","message":"why","innererror":{"code":"A","innererror":{"code":"B"}}}}', "Forbidden/B: why"],
    ['{"error":{"code":"X","message":"X","innererror":{"code":"X"}}}', "X"],
    ['{"error":{"code":"<b>","message":"why","innererror":{"code":1}}}', "why"],
    ['{"error":"invalid","error_description":"because"}', "invalid: because"],
    ['{"type":"https://github.com/confidential-containers/kbs/errors/PolicyDeny","detail":"no"}', "PolicyDeny: no"],
    ['{"error":"plain"}', "plain"],
    ['{"message":"hm"}', "hm"],
    ["<h1>Bad Gateway</h1>", "<h1>Bad Gateway</h1>"],
    ["", "no reason given"],
    ["{}", "{}"],
    ["a\u0007\nb\u009bc", "a b c"],
    ["a\u202eb", "a b"],
  ])("of %j", (body, text) => {
    expect(reason(body)).toBe(`service answered 400: ${text}`);
  });

  it("are cut, and may be no text at all", () => {
    expect(reason("x".repeat(5000))).toHaveLength("service answered 400: ".length + 1001);
    expect(reason(Uint8Array.of(0xff, 0xfe))).toBe("service answered 400: no reason given");
  });

  it("never repeat a secret: not one that was sent, and nothing that looks like a token", () => {
    const options = { secrets: ["hush-hush", "abc"] };
    const told = (body: string): string => {
      try {
        expectOk(response(400, body), "service", "ERR_SKR_RELEASE", options);
        return "";
      } catch (error) {
        return (error as Error).message;
      }
    };
    expect(told('{"error":{"code":"hush-hush","message":"token hush-hush of abc is bad"}}')).toBe("service answered 400: token *** of abc is bad");
    expect(told('{"error":"Bearer eyJhbGciOiJSUzI1NiJ9.eyJzZWNyZXQiOjF9.c2ln is bad"}')).toBe("service answered 400: Bearer *** is bad");
    expect(told("cut eyJhbGciOiJSUzI1NiJ9.eyJzZWNy")).toBe("service answered 400: cut ***");
    // Before it is cut, or half of a secret would remain.
    expect(told(`${"x".repeat(995)}hush-hush`)).toBe(`service answered 400: ${"x".repeat(995)}***`);
  });

  it("come with the request id, if it is one", () => {
    expect(reason("{}", { requestId: "a-1" })).toMatch(/ \(request a-1\)$/);
    expect(reason("{}", { requestId: "a\nb" })).toBe("service answered 400: {}");
  });

  it.each(["", "[]", "1", '{"a":1,"a":2}', "\u{feff}{}"])("a good answer must be a JSON object: %j is none", (body) => {
    expect(() => expectObject(response(200, body), "service", "ERR_SKR_RELEASE")).toThrow(expect.objectContaining({ code: "ERR_SKR_NETWORK" }));
  });
});
