import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { chainIds, layerId, parseDigest } from "./digest.ts";
import { encodeReference, parseReference } from "./reference.ts";

const digest = `sha256:${"ab".repeat(32)}`;

describe("parseReference", () => {
  it.each([
    ["nginx", "docker.io/library/nginx:latest"],
    ["nginx:1.14.2", "docker.io/library/nginx:1.14.2"],
    ["index.docker.io/nginx", "docker.io/library/nginx:latest"],
    ["docker.io/library/nginx", "docker.io/library/nginx:latest"],
    ["someone/app", "docker.io/someone/app:latest"],
    ["mcr.microsoft.com/aci/skr:2.7", "mcr.microsoft.com/aci/skr:2.7"],
    ["localhost/app", "localhost/app:latest"],
    ["localhost:5000/a/b/c:x", "localhost:5000/a/b/c:x"],
    ["registry:5000/app", "registry:5000/app:latest"],
    ["[::1]:5000/app", "[::1]:5000/app:latest"],
    ["MyHost/app", "MyHost/app:latest"],
    [`quay.io/a/b@${digest}`, `quay.io/a/b@${digest}`],
    // genpolicy.md 5.1: tag and digest together.
    [`quay.io/a/gid:latest@${digest}`, `quay.io/a/gid:latest@${digest}`],
    ["b__c---d/e_f.g:T_a.g-1", "docker.io/b__c---d/e_f.g:T_a.g-1"],
  ])("reads %s", (text, full) => {
    expect(encodeReference(parseReference(text))).toBe(full);
  });

  it.each([
    "",
    ":tag",
    "a:",
    "A",
    "a//b",
    "/a",
    "a/",
    "../a",
    "a/../b",
    "a b",
    "a:b:c",
    "a@",
    "a:-x",
    `a:${"t".repeat(129)}`,
    "a___b",
    "-a",
    "a-",
    "host.io/",
    "host.io:99999999/a",
    "x".repeat(256),
    "y".repeat(10_000),
    "a\n",
    "a:b\n",
    "é",
  ])("refuses %j", (text) => {
    expect(() => parseReference(text)).toThrow(expect.objectContaining({ code: expect.stringMatching(/^ERR_OCI_(REFERENCE|DIGEST)$/) as string }) as Error);
  });

  it("reads what it wrote", () => {
    fc.assert(
      fc.property(
        fc.stringMatching(/^[a-z0-9]{1,8}(?:(?:\.|_|__|-)[a-z0-9]{1,5}){0,3}$/),
        fc.option(fc.stringMatching(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,10}$/), { nil: undefined }),
        fc.boolean(),
        fc.constantFrom("", "quay.io/", "localhost:80/", "x/"),
        (name, tag, withDigest, head) => {
          const reference = parseReference(`${head}${name}${tag === undefined ? "" : `:${tag}`}${withDigest ? `@${digest}` : ""}`);
          expect(parseReference(encodeReference(reference))).toEqual(reference);
        },
      ),
      { seed: 4 },
    );
  });
});

describe("parseDigest", () => {
  it("takes one grammar only, so that no digest is a path", () => {
    expect(parseDigest(digest)).toBe(digest);
    for (const bad of [
      "",
      "sha256:",
      `sha256:${"AB".repeat(32)}`,
      `sha256:${"ab".repeat(31)}`,
      `${digest}0`,
      `${digest}\n`,
      ` ${digest}`,
      `sha256:../../${"a".repeat(58)}`,
      `sha512:${"ab".repeat(64)}`,
      "sha256:../../../etc/passwd",
    ]) {
      expect(() => parseDigest(bad), bad).toThrow(expect.objectContaining({ code: "ERR_OCI_DIGEST" }) as Error);
    }
  });
});

describe("chainIds", () => {
  it("follows the OCI definition", () => {
    const [a, b] = [`sha256:${"0".repeat(64)}`, `sha256:${"1".repeat(64)}`] as const;
    // Computed with: printf 'sha256:00… sha256:11…' | sha256sum, and so on.
    expect(chainIds([a])).toEqual([a]);
    expect(chainIds([a, b])).toEqual([a, "sha256:f94b891e05f6e37c90d87edfd5bb98a02d618a437c35f3a94b3b00e48e894631"]);
    expect(layerId(a)).toBe("e191bc1aec7e9a1d2e95a24550e97dd2dd947b6d99ca244d85cae37f8d82c61b");
  });

  it("refuses what is no digest", () => {
    expect(() => chainIds(["x"])).toThrow(expect.objectContaining({ code: "ERR_OCI_DIGEST" }) as Error);
    expect(() => layerId("x")).toThrow(expect.objectContaining({ code: "ERR_OCI_DIGEST" }) as Error);
  });
});
