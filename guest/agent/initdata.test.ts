import { mkdirSync, writeFileSync } from "node:fs";
import { createHash } from "node:crypto";
import { gzipSync } from "node:zlib";
import { encodeUtf8, toHex } from "@sealpod/core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { directoryDevices } from "./block-devices.ts";
import { parseInitdataToml } from "./initdata-toml.ts";
import { openInitdata, readInitdata } from "./initdata.ts";
import { AgentError } from "./errors.ts";
import { errorOf, inTemporaryDirectory } from "./test-support.ts";

const DOCUMENT = `version = "0.1.0"
algorithm = "sha384"

[data]
"aa.toml" = '''
[kbs]
url = "https://kbs.example"
'''
"policy.rego" = '''package agent_policy
default CreateContainerRequest := false
'''
`;

/** The disk that a shim makes of a document. */
function disk(toml: string | Uint8Array, change: { readonly length?: bigint; readonly magic?: string } = {}): Uint8Array {
  const packed = gzipSync(toml);
  const bytes = new Uint8Array(Math.ceil((16 + packed.length) / 512) * 512);
  bytes.set(encodeUtf8(change.magic ?? "initdata"));
  new DataView(bytes.buffer).setBigUint64(8, change.length ?? BigInt(packed.length), true);
  bytes.set(packed, 16);
  return bytes;
}

async function reading(disks: Readonly<Record<string, Uint8Array>>): Promise<Awaited<ReturnType<typeof readInitdata>>> {
  let found: Awaited<ReturnType<typeof readInitdata>>;
  await inTemporaryDirectory(async (path) => {
    mkdirSync(`${path}/devices`);
    for (const [slot, bytes] of Object.entries(disks)) writeFileSync(`${path}/devices/${slot}`, bytes);
    found = await readInitdata(directoryDevices(`${path}/devices`));
  });
  return found;
}

describe("initdata", () => {
  it("is found among the disks by its magic, and its digest is that of the document", async () => {
    const found = await reading({ "01": new Uint8Array(8), "02": new Uint8Array(4096), "03": disk(DOCUMENT), "04": new Uint8Array(0) });
    expect(found).toEqual({
      toml: encodeUtf8(DOCUMENT),
      algorithm: "sha384",
      digest: new Uint8Array(createHash("sha384").update(DOCUMENT).digest()),
      entries: new Map([
        ["aa.toml", '[kbs]\nurl = "https://kbs.example"\n'],
        ["policy.rego", "package agent_policy\ndefault CreateContainerRequest := false\n"],
      ]),
    });
  });

  it.each(["sha256", "sha384", "sha512"])("has its digest by %s", (algorithm) => {
    const toml = encodeUtf8(`version = '0.1.0'\nalgorithm = '${algorithm}'\n[data]\n`);
    expect(toHex(openInitdata(toml).digest)).toBe(createHash(algorithm).update(toml).digest("hex"));
  });

  it("is not there without a disk that has it", async () => {
    expect(await reading({})).toBeUndefined();
    expect(await reading({ "02": disk(DOCUMENT, { magic: "Initdata" }) })).toBeUndefined();
  });

  it.each<[string, Readonly<Record<string, Uint8Array>>, RegExp]>([
    ["twice", { "02": disk(DOCUMENT), "03": disk(DOCUMENT) }, /two disks/],
    ["with a length beyond the disk", { "02": disk(DOCUMENT, { length: 1_000_000n }) }, /1000000 bytes packed on a disk of/],
    ["with a length of 2^63", { "02": disk(DOCUMENT, { length: 2n ** 63n }) }, /limit/],
    ["with half of its gzip", { "02": disk(DOCUMENT, { length: 60n }) }, /gzip/],
    ["with no gzip at all", { "02": disk(DOCUMENT, { length: 0n }) }, /gzip/],
    ["that unpacks to too much", { "02": disk(new Uint8Array(17 * 1024 * 1024)) }, /gzip does not unpack to 16777216/],
    ["that is not UTF-8", { "02": disk(Uint8Array.of(0x23, 0xff)) }, /UTF-8/],
    ["of another version", { "02": disk(DOCUMENT.replace("0.1.0", "0.2.0")) }, /version is "0.2.0"/],
    ["without a version", { "02": disk(DOCUMENT.replace("version", "# version")) }, /version is ""/],
    ["with another algorithm", { "02": disk(DOCUMENT.replace("sha384", "sha1")) }, /algorithm is "sha1"/],
    ["with an unknown field", { "02": disk(`x = "1"\n${DOCUMENT}`) }, /unknown field "x"/],
    ["without data", { "02": disk(DOCUMENT.slice(0, DOCUMENT.indexOf("[data]"))) }, /no table \[data\]/],
  ])("is refused %s", async (_what, disks, message) => {
    const error = await errorOf(() => reading(disks));
    expect([error.code, error.message]).toEqual(["ERR_AGENT_INITDATA", expect.stringMatching(message)]);
  });
});

describe("initdata: its TOML", () => {
  const value = (text: string): string | undefined => parseInitdataToml(`a = ${text}\n`).fields.get("a");

  it.each<[string, string]>([
    ['""', ""],
    ["''", ""],
    ['"a\\b\\t\\n\\f\\r\\"\\\\b"', 'a\b\t\n\f\r"\\b'],
    ['"\\u00e9\\U0001F600 ü"', "é😀 ü"],
    ["'C:\\n \"x\"'", 'C:\\n "x"'],
    ['""""""', ""],
    ['"""\n\na\n"""', "\na\n"],
    ['"""a\\\n   \n\t b"""', "ab"],
    ['"""a ""b"" c"""', 'a ""b"" c'],
    ['"""a"""""', 'a""'],
    ["'''a''''", "a'"],
    ["'''\n'a' ''b''\n'''", "'a' ''b''\n"],
    ["'''\\n'''", "\\n"],
    ['"a\\"" # comment', 'a"'],
  ])("reads %s", (text, expected) => expect(value(text)).toBe(expected));

  it("reads names bare and quoted, comments, white space and either end of a line", () => {
    const { fields, entries } = parseInitdataToml('# c\r\n\r\n  version\t=\t"1" # x\r\n[ "data" ] # y\n"a b" = "1"\n\'c"d\' = "2"\na-b_9 = "3"');
    expect([...fields]).toEqual([["version", "1"]]);
    expect([...(entries ?? [])]).toEqual([
      ["a b", "1"],
      ['c"d', "2"],
      ["a-b_9", "3"],
    ]);
    expect(parseInitdataToml("").entries).toBeUndefined();
  });

  it.each<[string, number]>([
    ["a = 1", 1],
    ["a = true", 1],
    ['a = ["x"]', 1],
    ['a = { b = "x" }', 1],
    ['a.b = "x"', 1],
    ['\na = "x" b = "y"', 2],
    ['a = "x"\na = "y"', 2],
    ['a = "x"\n"a" = "y"', 2],
    ["[data]\n[data]", 2],
    ["[other]", 1],
    ["[[data]]", 1],
    ["[data.x]", 1],
    ["a", 1],
    ["a =", 1],
    ['= "x"', 1],
    ['a = "x', 1],
    ['a = "x\ny"', 1],
    ["a = 'x\ny'", 1],
    ['a = """x', 1],
    ["a = '''x''", 1],
    ['a = "\\x41"', 1],
    ['a = "\\ud800"', 1],
    ['a = "\\U00110000"', 1],
    ["a = '''''''''", 1],
    ['a = """""""""', 1],
    ["a = '''x\r\ny'''", 1],
    ['a = "\0"', 1],
    ["a = '\u007f'", 1],
    ["# \u0001", 1],
    ['a = "x"\r', 1],
    ['\ufeffa = "x"', 1],
    ["a = '''\n\n\n1'''''' ", 4],
  ])("refuses %j", (text, line) => {
    try {
      parseInitdataToml(text);
    } catch (error) {
      expect(error).toBeInstanceOf(AgentError);
      expect(error).toMatchObject({ code: "ERR_AGENT_INITDATA", details: { line } });
      return;
    }
    expect.fail("accepted");
  });

  it("reads back every text that is written in any of its ways", () => {
    const basic = (text: string): string => `"${text.replaceAll(/[\p{Cc}"\\]/gu, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`)}"`;
    fc.assert(
      fc.property(fc.dictionary(fc.string({ unit: "grapheme" }), fc.string({ unit: "grapheme" }), { maxKeys: 5 }), (table) => {
        const lines = Object.entries(table).map(([name, text], i) => `${basic(name)} = ${i % 2 === 0 ? basic(text) : `""${basic(text)}""`}`);
        expect(Object.fromEntries(parseInitdataToml(["[data]", ...lines].join("\n")).entries ?? [])).toEqual(table);
      }),
    );
  });

  it("fails with its own errors alone, and reads long values in one go", () => {
    fc.assert(
      fc.property(
        fc.array(fc.constantFrom("a", "=", '"', "'", "\\", "\n", "[", "]", "data", "#", " ", "'''", '"""', "\\u0041", "\r\n", "é"), { maxLength: 40 }),
        (parts) => {
          try {
            parseInitdataToml(parts.join(""));
          } catch (error) {
            if (!(error instanceof AgentError)) throw error;
          }
        },
      ),
      { numRuns: 2000 },
    );
    const long = "x".repeat(8_000_000);
    expect(value(`'''${long}'''`)).toBe(long);
    expect(value(`"${long}" #${long}`)).toBe(long);
    expect(value(`"""\\${"\n \t".repeat(1_000_000)}x\\\n${" ".repeat(1_000_000)}"""`)).toBe("x");
    expect(value(`"""${'y"\\t'.repeat(200_000)}z"""`)).toBe(`${'y"\t'.repeat(200_000)}z`);
    expect(() => value(`"""${'"y'.repeat(200_000)}`)).toThrow(/without end/);
  });
});
