import type { JsonValue } from "@sealpod/core";
import { compile, RegoError } from "@sealpod/rego";
import { describe, expect, it } from "vitest";
import { awsBuiltins } from "./aws.ts";
import { caller } from "./testdata/call.ts";

const call = caller(awsBuiltins);

/** The credentials and the time of the examples in Amazon's documentation. */
const CONFIG = {
  aws_access_key: "AKIDEXAMPLE",
  aws_secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
  aws_service: "service",
  aws_region: "us-east-1",
};
const TIME = BigInt(Date.UTC(2015, 7, 30, 12, 36)) * 1_000_000n;

function headersOf(request: Record<string, JsonValue>, config: Record<string, JsonValue> = {}, time: JsonValue = TIME): Record<string, string> {
  const result = call("providers.aws.sign_req", [{ method: "GET", ...request }, { ...CONFIG, ...config }, time], { strict: true });
  return (result as { readonly headers: Record<string, string> }).headers;
}

function errorOf(args: readonly JsonValue[]): RegoError {
  try {
    call("providers.aws.sign_req", args, { strict: true });
  } catch (error) {
    if (error instanceof RegoError) return error;
    throw error;
  }
  throw new Error("no error");
}

describe("providers.aws.sign_req", () => {
  it("signs Amazon's test request `get-vanilla`", () => {
    expect(headersOf({ url: "https://example.amazonaws.com/" })).toEqual({
      host: "example.amazonaws.com",
      "x-amz-date": "20150830T123600Z",
      Authorization:
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request,SignedHeaders=host;x-amz-date,Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
    });
  });

  it("signs the request of Amazon's guide, with a query and a header", () => {
    const headers = headersOf(
      {
        url: "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08",
        headers: { "Content-Type": "application/x-www-form-urlencoded; charset=utf-8" },
      },
      { aws_service: "iam" },
    );
    expect(headers["Authorization"]).toContain("SignedHeaders=content-type;host;x-amz-date,");
    expect(headers["Authorization"]).toContain("Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7");
    expect(headers["Content-Type"]).toBe("application/x-www-form-urlencoded; charset=utf-8");
  });

  it("every part of the request and of the configuration is signed", () => {
    const base = { url: "https://s3.example:8443/a/b?c=d", headers: { x: "1" }, raw_body: "body" };
    const s3 = { aws_service: "s3" };
    const signatures = [
      headersOf(base, s3),
      headersOf({ ...base, method: "PUT" }, s3),
      headersOf({ ...base, url: "https://s3.example:8444/a/b?c=d" }, s3),
      headersOf({ ...base, url: "https://s3.example:8443/a/c?c=d" }, s3),
      headersOf({ ...base, url: "https://s3.example:8443/a/b?c=e" }, s3),
      headersOf({ ...base, headers: { x: "2" } }, s3),
      headersOf({ ...base, raw_body: "Body" }, s3),
      headersOf(base, { ...s3, aws_region: "eu-west-1" }),
      headersOf(base, { ...s3, aws_secret_access_key: "other" }),
      headersOf(base, { ...s3, aws_session_token: "token" }),
      headersOf(base, { ...s3, disable_payload_signing: true }),
      headersOf(base, s3, TIME + 1_000_000_000n),
    ].map((headers) => headers["Authorization"]);
    expect(new Set(signatures).size).toBe(signatures.length);
  });

  it("keeps the request, and leaves headers that proxies change unsigned", () => {
    const request = { method: "get", url: "http://user:pw@example.com/x#fragment", extra: [1], headers: { "User-Agent": "u", authorization: "old" } };
    const result = call("providers.aws.sign_req", [request, { ...CONFIG, aws_session_token: "t" }, TIME]) as Record<string, Record<string, string>>;
    expect(result).toMatchObject({
      method: "get",
      url: request.url,
      extra: [1],
      headers: { "User-Agent": "u", host: "example.com", "x-amz-security-token": "t" },
    });
    expect(result["headers"]!["Authorization"]).toContain("SignedHeaders=host;x-amz-date;x-amz-security-token,");
  });

  it("hashes a body as the JSON that Go writes, and raw_body before it", () => {
    const s3 = { aws_service: "s3" };
    const url = "http://example.com";
    const digest = (request: Record<string, JsonValue>): string | undefined => headersOf({ url, ...request }, s3)["x-amz-content-sha256"];
    expect(digest({ body: { b: 1, a: "<" } })).toBe(digest({ raw_body: String.raw`{"a":"\u003c","b":1}` }));
    expect(digest({ body: 1, raw_body: "2" })).toBe(digest({ raw_body: "2" }));
    expect(digest({})).toBe(digest({ raw_body: "" }));
  });

  it.each<readonly [string, readonly JsonValue[], string]>([
    ["no method", [{ url: "http://a" }, CONFIG, TIME], 'operand 1 missing required request parameters(s): {"method"}'],
    ["no strings", [{ url: 1, method: null }, CONFIG, TIME], 'operand 1 invalid values for required request parameters(s): {"method", "url"}'],
    ["no key", [{}, {}, TIME], 'operand 2 missing required AWS config parameters(s): {"aws_access_key", "aws_region", "aws_secret_access_key", "aws_service"}'],
    ["a time before 1970", [{ method: "a", url: "http://a" }, CONFIG, -1], "operand 3 could not convert time_ns value"],
    ["a fraction of time", [{ method: "a", url: "http://a" }, CONFIG, 0.5], "operand 3 could not convert time_ns value"],
    ["a time after Go's", [{ method: "a", url: "http://a" }, CONFIG, 2n ** 63n], "operand 3 could not convert time_ns value"],
    ["headers that are a list", [{ method: "a", url: "http://a", headers: [] }, CONFIG, TIME], "operand 1 invalid value for 'headers'"],
    ["a header that is no string", [{ method: "a", url: "http://a", headers: { a: 1 } }, CONFIG, TIME], "operand 1 invalid value for 'headers'"],
    ["a line break in a header", [{ method: "a", url: "http://a", headers: { a: "b\nhost:evil" } }, CONFIG, TIME], "a line break"],
  ])("%s", (_, args, message) => {
    const error = errorOf(args);
    expect(error.code).toBe("ERR_REGO_OPERAND");
    expect(error.message).toContain(message);
  });

  it("charges a body with shared parts for each time they occur", () => {
    const doubled = Array.from({ length: 60 }, (_, at) => `v${at + 1} := [v${at}, v${at}]`).join("\n");
    const text = `package t\nv0 := 1\n${doubled}\np := providers.aws.sign_req({"method": "a", "url": "http://a", "body": v60}, input, 0)`;
    const policy = compile([{ name: "t.rego", text }], { builtins: awsBuiltins });
    expect(() => policy.evaluate("data.t.p", { input: CONFIG })).toThrow(expect.objectContaining({ code: "ERR_REGO_LIMIT_STEPS" }));
  });

  it.each(["example.com", "", "http://a/b c", "http://a/\n", "http://a/\u00e9"])("the URL %j is refused", (url) => {
    expect(errorOf([{ method: "GET", url }, CONFIG, TIME]).code).toBe("ERR_REGO_BUILTIN");
  });
});
