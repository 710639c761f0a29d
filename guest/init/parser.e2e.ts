import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { compileInit } from "./index.ts";
import { debianPackage, run } from "./test-support.ts";

const tcc = debianPackage("tcc");

/** Room for the table in init.c, with its NUL. */
const TABLE_MAX = 1024;

/** What read_table() takes of a command line, in another language and by another way: sectors and the table's text, or undefined if it refuses. */
function tableOf(line: string): string | undefined {
  if ((line.match(/"/g) ?? []).length % 2 !== 0) return undefined;
  // Words are what stands between blanks outside of quotes.
  const words = line.match(/(?:[^ "]|"[^"]*")+/g) ?? [];
  const values = words.filter((word) => word.startsWith('dm-mod.create="')).map((word) => word.slice('dm-mod.create="'.length).split('"')[0] ?? "");
  const [value] = values;
  if (values.length !== 1 || value === undefined) return undefined;
  const match = /^sealpod-root,,,ro,0 (\d{1,18}) verity (.* panic_on_corruption)$/.exec(value);
  if (match?.[1] === undefined || match[2] === undefined || /[,;]/.test(match[2]) || match[2].length >= TABLE_MAX) return undefined;
  return `${BigInt(match[1])} ${match[2]}`;
}

describe.skipIf(tcc === undefined)("the first process's parsers (skipped without Debian's tcc)", () => {
  let directory: string;
  let peer: string;

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), "sealpod-parser-"));
    peer = join(directory, "peer");
    await compileInit({ tcc: tcc ?? "", output: peer, run, source: join(import.meta.dirname, "testdata", "peer.c") });
  });
  afterAll(() => rmSync(directory, { recursive: true }));

  /** What the program makes of a text; undefined if it refuses it in order: with 1 and one line. Anything else, as a crash, fails. */
  async function ask(mode: "table" | "number", text: string): Promise<string | undefined> {
    return new Promise((resolve, reject) => {
      execFile(peer, [mode, text], (error, stdout, stderr) => {
        if (error === null && stderr === "") resolve(stdout);
        else if (error?.code === 1 && stdout === "" && /^sealpod-init: [^\n]*: error \d+\n$/.test(stderr)) resolve(undefined);
        else reject(new Error(`${mode} ${JSON.stringify(text)}: ${error?.code ?? error?.signal} ${stdout}${stderr}`));
      });
    });
  }

  const good = "sealpod-root,,,ro,0 8 verity 1 /dev/vda /dev/vda 4096 4096 1 1 sha256 aa 00 1 panic_on_corruption";

  it.each([
    { title: "alone", line: `dm-mod.create="${good}"` },
    { title: "between others", line: `quiet dm-mod.create="${good}" ro x="a b"` },
    { title: "behind a quoted copy", line: `x="dm-mod.create=" dm-mod.create="${good}"` },
    { title: "twice", line: `dm-mod.create="${good}" dm-mod.create="${good}"` },
    { title: "inside of another word", line: `xdm-mod.create="${good}"` },
    { title: "inside of quotes", line: `x="y dm-mod.create=z"` },
    { title: "without an end", line: `dm-mod.create="${good}` },
    { title: "without quotes", line: `dm-mod.create=${good}` },
    { title: "empty", line: `dm-mod.create=""` },
    { title: "writable", line: `dm-mod.create="${good.replace(",ro,", ",rw,")}"` },
    { title: "of another kind", line: `dm-mod.create="${good.replace("verity", "linear")}"` },
    { title: "of a kind that begins so", line: `dm-mod.create="${good.replace("verity", "verity2")}"` },
    { title: "from another sector on", line: `dm-mod.create="${good.replace("ro,0", "ro,1")}"` },
    { title: "of two targets", line: `dm-mod.create="${good},8 8 ${good.slice(22)}"` },
    { title: "of two devices", line: `dm-mod.create="${good};x,,,ro,${good.slice(20)}"` },
    { title: "that goes on after errors", line: `dm-mod.create="${good.replace("1 panic_on_corruption", "1 ignore_corruption")}"` },
    { title: "that says more behind its end", line: `dm-mod.create="${good} ignore_corruption"` },
    { title: "of more sectors than there are", line: `dm-mod.create="${good.replace(" 8 ", " 1234567890123456789 ")}"` },
    { title: "that fits just so", line: `dm-mod.create="${good.replace("aa", "a".repeat(TABLE_MAX - 1 - (good.length - 29)))}"` },
    { title: "that is one byte too long", line: `dm-mod.create="${good.replace("aa", "a".repeat(TABLE_MAX - (good.length - 29)))}"` },
    { title: "of a hundred thousand bytes", line: `dm-mod.create="${good.replace("aa", "a".repeat(100_000))}"` },
  ])("read or refuse a table $title", async ({ line }) => {
    expect(await ask("table", line)).toBe(tableOf(line));
  });

  it("read the one table of the line that the image's builder makes", async () => {
    expect(await ask("table", `dm-mod.create="${good}"`)).toBe(`8 ${good.slice(29)}`);
  });

  it("agree with a second parser on any line", async () => {
    const piece = fc.constantFrom(
      " ",
      '"',
      "dm-mod.create=",
      'dm-mod.create="',
      good,
      `"${good}"`,
      "sealpod-root,,,ro,0 ",
      "8 verity ",
      " panic_on_corruption",
      ",",
      ";",
      "x=",
      "\t",
      "ü",
    );
    const line = fc
      .array(fc.oneof({ weight: 5, arbitrary: piece }, { weight: 1, arbitrary: fc.string({ maxLength: 20 }) }), { maxLength: 12 })
      .map((parts) => parts.join("").replaceAll("\0", ""));
    await fc.assert(
      fc.asyncProperty(line, async (text) => {
        expect(await ask("table", text)).toBe(tableOf(text));
      }),
      { numRuns: 400 },
    );
  });

  it.each(["", "0", "00", "7", "123456789012345678", "1234567890123456789", "99999999999999999999999", "-1", "+1", " 1", "1 ", "1x", "0x10", "١"])(
    "take as a number what is one: %j",
    async (text) => {
      expect(await ask("number", text)).toBe(/^[0-9]{1,18}$/.test(text) ? `${BigInt(text)} ` : undefined);
    },
  );
});
