import { createHash } from "node:crypto";
import { gunzipSync } from "node:zlib";
import { decodeUtf8, toHex } from "@sealpod/core";
import fc from "fast-check";
import { parse } from "smol-toml";
import { describe, expect, it } from "vitest";
import { DEFAULT_INITDATA, encodeInitdata, hostDataOf, initdataAnnotation, parseInitdataTemplate, policyOfInitdata } from "./initdata.ts";
import { COCO_TOOL, KNOWN_RULES, knownPolicies, podYaml } from "./known-tools/test-support.ts";

const text = (policy: string, template = DEFAULT_INITDATA): string => decodeUtf8(encodeInitdata(policy, template), "initdata");

describe("initdata", () => {
  it("is written as the known tool writes it", () => {
    expect(text("package agent_policy\n# 'x' \"y\" \\ ü\n")).toBe(
      `version = "0.1.0"\nalgorithm = "sha256"\n\n[data]\n"policy.rego" = '''\npackage agent_policy\n# 'x' "y" \\ ü\n'''\n`,
    );
  });

  it("has its keys sorted, and the policy in the place of a template's", () => {
    const template = parseInitdataTemplate(
      'algorithm = "sha384"\nversion = "0.1.0"\n[data]\n"policy.rego" = "old"\n"cdh.toml" = """a\n"""\n"aa.toml" = \'b\'\nplain = "c\\u0001"\n',
      "i.toml",
    );
    expect(text("new\nline", template)).toBe(
      `version = "0.1.0"\nalgorithm = "sha384"\n\n[data]\n"aa.toml" = "b"\n"cdh.toml" = '''\na\n'''\nplain = "c\\u0001"\n"policy.rego" = '''\nnew\nline'''\n`,
    );
  });

  it("brings any text back, also what a literal string cannot hold", () => {
    const special = fc.array(fc.constantFrom("'", "''", "'''", '"', '"""', "\\", "\n", "\r\n", "\r", "\t", "\u0000", "\u007f", "\u0085", "a", "😀", "\\u0041"));
    fc.assert(
      fc.property(
        fc.oneof(
          special.map((parts) => parts.join("")),
          fc.string({ unit: "grapheme" }),
        ),
        (policy) => {
          const document = encodeInitdata(policy, DEFAULT_INITDATA);
          expect(policyOfInitdata(document, "i")).toBe(policy);
          expect(parse(decodeUtf8(document, "i"))).toEqual({ version: "0.1.0", algorithm: "sha256", data: { "policy.rego": policy } });
        },
      ),
    );
  });

  it("travels as base64 of gzip without time or system", () => {
    const document = encodeInitdata("p\n".repeat(1000), DEFAULT_INITDATA);
    const annotation = initdataAnnotation(document);
    const bytes = Buffer.from(annotation, "base64");
    expect(gunzipSync(bytes)).toEqual(Buffer.from(document));
    // RFC 1952 2.3: magic, deflate, no flags, no time, …, unknown system.
    expect([...bytes.subarray(0, 8), bytes[9]]).toEqual([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 255]);
    expect(initdataAnnotation(document)).toBe(annotation);
  });

  it.each(["sha256", "sha384", "sha512"] as const)("gives 32 bytes of its %s digest as HOST_DATA", (algorithm) => {
    const document = encodeInitdata("p", { algorithm, data: new Map() });
    expect(hostDataOf(document, algorithm)).toBe(createHash(algorithm).update(document).digest("hex").slice(0, 64));
  });

  it("is what a coco policy is measured by", async () => {
    const template = { algorithm: "sha512", data: new Map([["aa.toml", "x"]]) } as const;
    const { policies, yaml } = await knownPolicies(COCO_TOOL, podYaml(""), undefined, { initdata: template });
    const [made] = policies;
    expect(made?.policy.startsWith(KNOWN_RULES)).toBe(true);
    expect(policyOfInitdata(made?.document ?? new Uint8Array(), "i")).toBe(made?.policy);
    expect(gunzipSync(Buffer.from(made?.annotation ?? "", "base64"))).toEqual(Buffer.from(made?.document ?? []));
    expect(made?.hostData).toBe(
      createHash("sha512")
        .update(made?.document ?? "")
        .digest("hex")
        .slice(0, 64),
    );
    expect(yaml).toContain("io.katacontainers.config.hypervisor.cc_init_data");
    expect(toHex(made?.document.subarray(0, 7) ?? new Uint8Array())).toBe(Buffer.from("version").toString("hex"));
  });

  it("is idempotent: a file that has initdata gives the same again", async () => {
    const first = await knownPolicies(COCO_TOOL, podYaml(""));
    const second = await knownPolicies(COCO_TOOL, first.yaml);
    expect(second.yaml).toBe(first.yaml);
  });
});

describe("a template", () => {
  it.each([
    ["nothing", "", 'i.toml has version nothing, expected "0.1.0"'],
    ["another version", 'version = "0.2.0"\nalgorithm = "sha256"\n', 'i.toml has version "0.2.0"'],
    ["a version that is a number", "version = 0.1\n", "i.toml has version a number"],
    ["no algorithm", 'version = "0.1.0"\n', "i.toml has algorithm nothing, expected one of sha256, sha384, sha512"],
    ["another algorithm", 'version = "0.1.0"\nalgorithm = "md5"\n', 'i.toml has algorithm "md5"'],
    ["a name that initdata does not have", 'version = "0.1.0"\nalgorithm = "sha256"\nextra = 1\n', 'i.toml has "extra", which initdata does not have'],
    ["data that is a list", 'version = "0.1.0"\nalgorithm = "sha256"\ndata = []\n', "i.toml has data that is no table"],
    ["data that is no text", 'version = "0.1.0"\nalgorithm = "sha256"\n[data]\n"a.b" = 1\n', 'i.toml data."a.b" is a number, expected text'],
    ["a name twice", 'version = "0.1.0"\nversion = "0.1.0"\n', "i.toml:2:"],
    ["no TOML", "a =\n", "i.toml:1:"],
    ["too much", "#".repeat(1024 * 1024 + 1), "i.toml has 1048577 characters, more than 1048576"],
  ])("with %s is refused", (_name, toml, message) => {
    expect(() => parseInitdataTemplate(toml, "i.toml")).toThrow(message);
  });

  it("may have keys that are names of JavaScript", () => {
    const { data } = parseInitdataTemplate('version = "0.1.0"\nalgorithm = "sha256"\n[data]\n__proto__ = "a"\nconstructor = "b"\n', "i.toml");
    expect([...data]).toEqual([
      ["__proto__", "a"],
      ["constructor", "b"],
    ]);
  });
});
