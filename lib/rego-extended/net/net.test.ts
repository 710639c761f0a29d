import { compile } from "@sealpod/rego";
import { describe, expect, it } from "vitest";
import { answers, failures, table } from "../testdata/tables.ts";
import { netBuiltins } from "./net.ts";

const answer = answers(netBuiltins);

table("net.cidr_contains", answer, [
  ['net.cidr_contains("10.0.0.0/8", "10.255.255.255")', true],
  ['net.cidr_contains("10.0.0.0/8", "11.0.0.0")', false],
  ['net.cidr_contains("10.0.0.0/8", "10.0.0.0/8")', true],
  ['net.cidr_contains("10.0.0.0/8", "10.0.0.0/7")', false],
  ['net.cidr_contains("10.1.2.3/16", "10.1.9.9")', true],
  ['net.cidr_contains("0.0.0.0/0", "255.255.255.255")', true],
  ['net.cidr_contains("10.0.0.1/32", "10.0.0.1")', true],
  ['net.cidr_contains("fe80::/10", "febf::1")', true],
  ['net.cidr_contains("fe80::/10", "fec0::1")', false],
  ['net.cidr_contains("::/0", "10.0.0.1")', false],
  ['net.cidr_contains("0.0.0.0/0", "::1")', false],
  // IPv4-mapped addresses are IPv4 addresses, or a deny list of IPv4 networks would be passed by writing them longer.
  ['net.cidr_contains("10.0.0.0/8", "::ffff:10.1.2.3")', true],
  ['net.cidr_contains("10.0.0.0/8", "::ffff:0a01:0203")', true],
  ['net.cidr_contains("::ffff:10.0.0.0/104", "10.9.9.9")', true],
  ['net.cidr_contains("10.0.0.0/008", "10.9.9.9")', true],
]);

describe("net.cidr_overlap", () => {
  it("is the old name of cidr_contains: there in v0, refused in v1", () => {
    const text = 'package t\np = net.cidr_overlap("10.0.0.0/8", "10.1.2.3")';
    const policy = compile([{ name: "t.rego", text, version: "v0" }], { builtins: netBuiltins });
    expect(policy.evaluate("data.t.p").results[0]?.expressions[0]).toBe(true);
    expect(answer('net.cidr_overlap("10.0.0.0/8", "10.1.2.3")')).toContain("deprecated");
  });
});

failures("addresses that Go does not read", answer, [
  ...[
    "010.0.0.1",
    "10.0.0",
    "10.0.0.0.1",
    "10.0.0.256",
    "10.0.0.1 ",
    "0x0a.0.0.1",
    "10.0.0.-1",
    "10..0.1",
    "",
    "1::2::3",
    "12345::",
    ":::",
    "::1%eth0",
    ":1",
    "1:",
    "g::",
    "1:2:3:4:5:6:7:8:9",
    "1:2:3:4:5:6:7::8",
    "1.2.3.4::",
    "::1.2.3",
    "::ffff:1.2.3.04",
  ].map((text) => [`net.cidr_contains("0.0.0.0/0", ${JSON.stringify(text)})`, `invalid CIDR address: ${text}`] as const),
  ...["10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0.0/", "10.0.0.0/8/8", "::/129", "10.0.0.0/8 ", "10.0.0.0/99999999", "/8"].map(
    (text) => [`net.cidr_contains(${JSON.stringify(text)}, "10.0.0.1")`, `invalid CIDR address: ${text}`] as const,
  ),
  ['net.cidr_contains(1, "10.0.0.1")', "operand 1 must be string but got number"],
]);

table("other relations", answer, [
  ['net.cidr_intersects("10.0.0.0/9", "10.0.0.0/8")', true],
  ['net.cidr_intersects("10.0.0.0/9", "10.128.0.0/9")', false],
  ['net.cidr_intersects("::/0", "0.0.0.0/0")', false],
  ['net.cidr_is_valid("fe80::/64")', true],
  ['net.cidr_is_valid("::ffff:1.2.3.4/96")', true],
  ['net.cidr_is_valid("10.0.0.0")', false],
  ["net.cidr_is_valid([1])", false],
  [
    'net.cidr_contains_matches("10.0.0.0/8", ["10.0.0.1", "11.0.0.1", "10.2.0.0/16"])',
    [
      ["10.0.0.0/8", 0],
      ["10.0.0.0/8", 2],
    ],
  ],
  ['net.cidr_contains_matches({"a": "10.0.0.0/8", "b": ["11.0.0.0/8", "x"]}, {"11.1.1.1"})', [["b", "11.1.1.1"]]],
  ['net.cidr_contains_matches([], "10.0.0.1")', []],
]);

failures("matches", answer, [
  ['net.cidr_contains_matches("10.0.0.0/8", [[]])', "operand 2: element must be string or non-empty array"],
  ['net.cidr_contains_matches(true, "10.0.0.1")', "operand 1 must be one of {string, array, set, object} but got boolean"],
  ['net.cidr_contains_matches("10.0.0.0/8", ["x"])', "invalid CIDR address: x"],
]);

table("net.cidr_expand", answer, [
  ['net.cidr_expand("10.0.0.254/31")', ["10.0.0.254", "10.0.0.255"]],
  ['net.cidr_expand("255.255.255.255/32")', ["255.255.255.255"]],
  ['net.cidr_expand("2001:db8::fffe/127")', ["2001:db8::fffe", "2001:db8::ffff"]],
  ['net.cidr_expand("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128")', ["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]],
  ['count(net.cidr_expand("10.0.0.0/16"))', 65536],
]);

describe("what is too large", () => {
  it.each(["0.0.0.0/0", "::/0", "2001:db8::/64", "10.0.0.0/9"])("%s is not expanded, and the query ends", (cidr) => {
    expect(answer(`net.cidr_expand("${cidr}")`)).toContain("ERR_REGO_LIMIT_MEMORY");
  });

  it("a product of many networks and addresses meets the limit on steps", () => {
    const many = Array.from({ length: 20_000 }, (_, at) => `10.${at >> 8}.${at & 255}.0/24`);
    expect(answer("net.cidr_contains_matches(input, input)", { input: many })).toContain("ERR_REGO_LIMIT_STEPS");
  });

  it("thousands of networks that touch become one", () => {
    const halves = Array.from({ length: 8192 }, (_, at) => `10.${at >> 9}.${(at >> 1) & 255}.${(at & 1) * 128}/25`);
    expect(answer("net.cidr_merge(input)", { input: halves.toReversed() })).toEqual(["10.0.0.0/12"]);
    expect(answer("count(net.cidr_merge(input))", { input: halves.filter((_, at) => at % 2 === 0) })).toBe(4096);
  });
});

table("texts of addresses", answer, [
  ['net.cidr_expand("0:0:0:0:0:0:0:0/128")', ["::"]],
  ['net.cidr_expand("1:0:0:2:0:0:0:3/128")', ["1:0:0:2::3"]],
  ['net.cidr_expand("1:0:0:2:3:0:0:4/128")', ["1::2:3:0:0:4"]],
  ['net.cidr_expand("1:0:2:3:4:5:6:7/128")', ["1:0:2:3:4:5:6:7"]],
  ['net.cidr_expand("1:2:3:4:5:6:0:0/128")', ["1:2:3:4:5:6::"]],
  ['net.cidr_expand("ABCD::1.2.3.4/128")', ["abcd::102:304"]],
  ['net.cidr_expand("::ffff:1.2.3.4/128")', ["1.2.3.4"]],
]);

table("net.cidr_merge", answer, [
  ['net.cidr_merge(["10.0.0.0/9", "10.128.0.0/9", "11.0.0.0/8"])', ["10.0.0.0/7"]],
  ['net.cidr_merge(["10.0.0.0/8", "10.1.0.0/16"])', ["10.0.0.0/8"]],
  ['net.cidr_merge(["0.0.0.0/1", "128.0.0.0/1"])', ["0.0.0.0/0"]],
  ['net.cidr_merge(["10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/32"])', ["10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/32"]],
  // Without a prefix: the networks of classes A, B and C.
  ['net.cidr_merge(["10.1.2.3", "172.16.5.5", "192.168.7.7"])', ["10.0.0.0/8", "172.16.0.0/16", "192.168.7.0/24"]],
  ['net.cidr_merge(["::/0", "0.0.0.0/0"])', ["0.0.0.0/0", "::/0"]],
  ['net.cidr_merge(["2001:db8::/33", "2001:db8:8000::/33"])', ["2001:db8::/32"]],
  ["net.cidr_merge(set())", []],
]);

failures("what cannot be merged", answer, [
  ['net.cidr_merge(["::1"])', "IPv6 invalid: needs prefix length"],
  ["net.cidr_merge([1])", "operand 1 must be array or set of strings"],
  ['net.cidr_merge("10.0.0.0/8")', "operand 1 must be one of {array, set} but got string"],
]);

describe("what would reach out", () => {
  const calls = [
    ['http.send({"method": "get", "url": "http://127.0.0.1"})', "ERR_REGO_BUILTIN", "http.send: this engine reaches no network"],
    ['net.lookup_ip_addr("example.org")', "ERR_REGO_BUILTIN", "net.lookup_ip_addr: this engine reaches no network"],
    ['http.send({"method": "get"})', "ERR_REGO_OPERAND", 'missing required request parameters(s): {"url"}'],
    ['http.send({"method": "get", "url": "x", "__proto__": 1, "a": 1})', "ERR_REGO_OPERAND", 'invalid request parameters(s): {"__proto__", "a"}'],
  ] as const;

  it.each(calls)("%s aborts the query", (call, code, message) => {
    for (const strict of [false, true]) {
      expect(answer(call, { strict })).toContain(code);
      expect(answer(call, { strict })).toContain(message);
    }
  });

  it.each(calls)("not %s aborts it too: undefined would make a veto pass", (call) => {
    expect(answer(`true if { not ${call} }`)).toContain("ERR_REGO_");
  });

  it("can be replaced", () => {
    expect(answer('x if { x := http.send({"any": 1}).status with http.send as {"status": 200} }')).toBe(200);
  });

  it("answers for addresses and localhost, which need no server", () => {
    expect(answer('net.lookup_ip_addr("2001:DB8::0:1")')).toEqual(["2001:db8::1"]);
    expect(answer('net.lookup_ip_addr("LocalHost")')).toEqual(["127.0.0.1", "::1"]);
  });
});
