import { describe, expect, it } from "vitest";
import { encodeUtf8 } from "@sealpod/core";
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
    },
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

  it("wait longer each time, half of it at random", async () => {
    expect((await run([response(500), response(500), response(200)], 0xff)).waits).toEqual([1000, 2000]);
    expect((await run([response(500), response(500), response(200)], 0)).waits).toEqual([500, 1000]);
  });

  it.each([
    ["7", 7000],
    ["3600", 30_000], // bounded: the caller waits too
    ["0", 1000],
    ["-5", 1000],
    ["Wed, 21 Oct 2026 07:28:00 GMT", 1000],
  ])("honour Retry-After %j", async (retryAfter, wait) => {
    expect((await run([response(429, "", { retryAfter }), response(200)])).waits).toEqual([wait]);
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
    ['{"error":{"code":"X","message":"why"}}', "why"],
    ['{"error":"invalid","error_description":"because"}', "because"],
    ['{"error":"plain"}', "plain"],
    ['{"message":"hm"}', "hm"],
    ["<h1>Bad Gateway</h1>", "<h1>Bad Gateway</h1>"],
    ["", "no reason given"],
    ["{}", "{}"],
    ["a\u0007\nb\u009bc", "a b c"],
  ])("of %j", (body, text) => {
    expect(reason(body)).toBe(`service answered 400: ${text}`);
  });

  it("are cut, and may be no text at all", () => {
    expect(reason("x".repeat(5000))).toHaveLength("service answered 400: ".length + 1001);
    expect(reason(Uint8Array.of(0xff, 0xfe))).toBe("service answered 400: no reason given");
  });

  it("come with the request id, if it is one", () => {
    expect(reason("{}", { requestId: "a-1" })).toMatch(/ \(request a-1\)$/);
    expect(reason("{}", { requestId: "a\nb" })).toBe("service answered 400: {}");
  });

  it.each(["", "[]", "1", '{"a":1,"a":2}', "\u{feff}{}"])("a good answer must be a JSON object: %j is none", (body) => {
    expect(() => expectObject(response(200, body), "service", "ERR_SKR_RELEASE")).toThrow(expect.objectContaining({ code: "ERR_SKR_NETWORK" }));
  });
});
