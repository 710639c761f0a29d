import fc from "fast-check";
import { encodeUtf8, isSealpodError, toHex } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { collect, inPieces, plain, rawHeader, rawMember, rawTar, tarOf } from "./testdata/archives.ts";
import { encodePaxRecord } from "./tar-pax.ts";
import { readTar } from "./tar-reader.ts";
import type { TarEntry } from "./tar-reader.ts";
import type { TarLimits } from "./limits.ts";
import type { TarItem } from "./tar-writer.ts";

async function readAll(tar: Uint8Array, chunk = 4096, limits: Partial<TarLimits> = {}): Promise<readonly (Omit<TarEntry, "data"> & { text: string })[]> {
  const found = [];
  for await (const { data, ...entry } of readTar(inPieces(tar, chunk), limits)) {
    found.push({ ...entry, text: Buffer.from(await collect(data)).toString("latin1") });
  }
  return found;
}

async function codeOf(tar: Uint8Array, limits: Partial<TarLimits> = {}): Promise<string> {
  try {
    await readAll(tar, 4096, limits);
  } catch (error) {
    if (isSealpodError(error)) return error.code;
    throw error;
  }
  return "accepted";
}

const pax = (...records: readonly (readonly [string, string])[]): Uint8Array =>
  rawMember({ name: "PaxHeaders/x", type: "x" }, Buffer.concat(records.map(([key, value]) => encodePaxRecord(key, encodeUtf8(value)))));

const items: readonly TarItem[] = [
  { ...plain, kind: "directory", path: "etc", mode: 0o1755, uid: 5, gid: 6 },
  { ...plain, kind: "file", path: "etc/passwd", data: encodeUtf8("root:x:0:0::/:\n") },
  { ...plain, kind: "hardlink", path: "etc/passwd-", target: "etc/passwd" },
  { ...plain, kind: "symlink", path: "bin", target: "usr/bin" },
  { ...plain, kind: "character", path: "dev/null", major: 1, minor: 3 },
  { ...plain, kind: "block", path: "dev/sda", major: 8, minor: 0 },
  { ...plain, kind: "fifo", path: "pipe" },
  { ...plain, kind: "file", path: `${"d".repeat(120)}/${"e".repeat(90)}`, data: encodeUtf8("prefix") },
  { ...plain, kind: "file", path: `${"long/".repeat(60)}name`, data: encodeUtf8("pax path") },
  { ...plain, kind: "symlink", path: "far", target: `/${"z".repeat(150)}` },
  { ...plain, kind: "file", path: "grüße.txt", data: new Uint8Array(), uid: 3_000_000, gid: 4_000_000_000, mtime: 9_000_000_000 },
  { ...plain, kind: "file", path: "old", data: new Uint8Array(513), mtime: -5, xattrs: new Map([["security.capability", Uint8Array.of(1, 0, 0, 2, 10)]]) },
];

describe("readTar", () => {
  it("reads what TarWriter wrote, however the bytes are cut", async () => {
    const tar = await tarOf(items);
    const whole = await readAll(tar, tar.length);
    expect(whole.map((entry) => [entry.kind, entry.path.replace(/\/$/, ""), entry.uid, entry.gid, entry.mtime, entry.mode])).toEqual(
      items.map((item) => [item.kind, item.path, item.uid, item.gid, item.mtime, item.mode]),
    );
    expect(whole[1]?.text).toBe("root:x:0:0::/:\n");
    expect(whole.slice(2, 4)).toMatchObject([{ target: "etc/passwd" }, { target: "usr/bin" }]);
    expect(whole.slice(4, 6)).toMatchObject([
      { major: 1, minor: 3 },
      { major: 8, minor: 0 },
    ]);
    expect(whole[9]).toMatchObject({ target: `/${"z".repeat(150)}` });
    expect(toHex(whole[11]?.xattrs.get("security.capability") ?? new Uint8Array())).toBe("010000020a");
    for (const size of [1, 7, 511, 512, 513, 1000]) expect(await readAll(tar, size), `chunks of ${size}`).toEqual(whole);
  });

  it("reads GNU long names, base-256 numbers and old headers", async () => {
    const name = `${"n".repeat(130)}/leaf`;
    const tar = rawTar(
      rawMember({ name: "././@LongLink", type: "L", magic: "ustar  \0" }, `${name}\0`),
      rawMember({ name: "././@LongLink", type: "K", magic: "ustar  \0" }, `${"t".repeat(140)}\0`),
      rawHeader({
        name: name.slice(0, 100),
        type: "2",
        linkName: "t".repeat(100),
        magic: "ustar  \0",
        uid: "\x80\0\0\0\0\x2d\xc6\xc0",
        mtime: `\xff${"\xff".repeat(10)}\xfe`,
      }),
      rawHeader({ name: "v7", magic: "", mode: "   644 \0" }),
    );
    expect(await readAll(tar)).toMatchObject([
      { kind: "symlink", path: name, target: "t".repeat(140), uid: 3_000_000, mtime: -2 },
      { kind: "file", path: "v7", mode: 0o644 },
    ]);
  });

  it("takes an empty archive, one without an end marker, and zeros after the marker", async () => {
    expect(await readAll(new Uint8Array())).toEqual([]);
    expect(await readAll(new Uint8Array(10240))).toEqual([]);
    expect(await readAll(rawMember({}, "x"))).toMatchObject([{ path: "file", text: "x" }]);
  });

  it("drains data that the consumer leaves unread", async () => {
    const tar = rawTar(rawMember({ name: "a" }, "a".repeat(5000)), rawMember({ name: "b" }, "b".repeat(5000)), rawMember({ name: "c" }, "c"));
    const seen: string[] = [];
    for await (const entry of readTar(inPieces(tar, 100))) {
      seen.push(entry.path);
      if (entry.path === "b") for await (const _ of entry.data) break;
    }
    expect(seen).toEqual(["a", "b", "c"]);
  });

  it("closes its source when the consumer stops", async () => {
    let closed = false;
    const tar = await tarOf(items);
    async function* source(): AsyncGenerator<Uint8Array> {
      try {
        yield* inPieces(tar, 512);
      } finally {
        closed = true;
      }
    }
    for await (const _ of readTar(source())) break;
    expect(closed).toBe(true);
  });

  it("lets PAX records override owner, time and size of the header", async () => {
    const tar = rawTar(
      pax(["uid", "70000"], ["gid", "7"], ["mtime", "12.75"], ["size", "3"], ["comment", "ignored"]),
      rawHeader({ size: "00000000000\0" }),
      new Uint8Array([97, 98, 99, ...new Uint8Array(509)]),
    );
    expect(await readAll(tar)).toMatchObject([{ uid: 70000, gid: 7, mtime: 12, size: 3, text: "abc" }]);
  });
});

describe("readTar, malformed", () => {
  const cases: readonly (readonly [string, Uint8Array, string])[] = [
    ["a wrong checksum", rawTar(rawHeader({ badChecksum: true })), "ERR_VERITY_TAR"],
    ["an unknown magic", rawTar(rawHeader({ magic: "USTAR\u000000" })), "ERR_VERITY_TAR"],
    ["a size that is no number", rawTar(rawHeader({ size: "0000000000x\0" })), "ERR_VERITY_TAR"],
    ["a NUL inside a number", rawTar(rawHeader({ size: "1\0" + "2".repeat(10) })), "ERR_VERITY_TAR"],
    ["an empty size", rawTar(rawHeader({ size: "\0" })), "ERR_VERITY_TAR"],
    ["a negative size", rawTar(rawHeader({ size: "\xff".repeat(12) })), "ERR_VERITY_TAR"],
    ["a size beyond 2^53", rawTar(rawHeader({ size: `\x80\0\0\0\x7f${"\xff".repeat(7)}` })), "ERR_VERITY_TAR"],
    ["a mode that is no number", rawTar(rawHeader({ mode: "rwxr-xr-" })), "ERR_VERITY_TAR"],
    ["an end inside a header", rawHeader({}).subarray(0, 100), "ERR_VERITY_TAR_TRUNCATED"],
    ["an end inside data", rawMember({}, "x".repeat(600)).subarray(0, 700), "ERR_VERITY_TAR_TRUNCATED"],
    ["an end inside padding", rawMember({}, "x").subarray(0, 600), "ERR_VERITY_TAR_TRUNCATED"],
    ["a second archive after the end marker", Buffer.concat([rawTar(rawMember({}, "x")), rawTar(rawMember({}, "y"))]), "ERR_VERITY_TAR"],
    ["an empty path", rawTar(rawHeader({ name: "" })), "ERR_VERITY_TAR"],
    ["a path that is not UTF-8", rawTar(rawHeader({ name: "\xff\xfe" })), "ERR_VERITY_TAR_UNSUPPORTED"],
    ["a file named as a directory", rawTar(rawHeader({ name: "a/" })), "ERR_VERITY_TAR"],
    ["a directory with data", rawTar(rawMember({ type: "5", name: "a/" }, "x")), "ERR_VERITY_TAR"],
    ["a hard link with data", rawTar(rawMember({ type: "1", linkName: "b" }, "x")), "ERR_VERITY_TAR"],
    ["a symlink without target", rawTar(rawHeader({ type: "2" })), "ERR_VERITY_TAR"],
    ["a sparse file", rawTar(rawHeader({ type: "S", magic: "ustar  \0" })), "ERR_VERITY_TAR_UNSUPPORTED"],
    ["a contiguous file", rawTar(rawHeader({ type: "7" })), "ERR_VERITY_TAR_UNSUPPORTED"],
    ["a device in an old header", rawTar(rawHeader({ type: "3", magic: "" })), "ERR_VERITY_TAR_UNSUPPORTED"],
    ["a PAX record in an old header", rawTar(rawMember({ type: "x", magic: "" }, "6 a=b\n")), "ERR_VERITY_TAR"],
    ["a device number that is no number", rawTar(rawHeader({ type: "3", major: "zzz" })), "ERR_VERITY_TAR"],
    ["two long names", rawTar(rawMember({ type: "L" }, "a\0"), rawMember({ type: "L" }, "b\0"), rawHeader({})), "ERR_VERITY_TAR"],
    ["a long name with a NUL inside", rawTar(rawMember({ type: "L" }, "a\0b\0"), rawHeader({})), "ERR_VERITY_TAR"],
    ["a long name before the end marker", rawTar(rawMember({ type: "L" }, "a\0")), "ERR_VERITY_TAR"],
    ["a long name before the end of the bytes", rawMember({ type: "L" }, "a\0"), "ERR_VERITY_TAR"],
    ["an empty long name", rawTar(rawMember({ type: "L" }), rawHeader({})), "ERR_VERITY_TAR"],
    ["GNU and PAX paths that differ", rawTar(rawMember({ type: "L" }, "a\0"), pax(["path", "b"]), rawHeader({})), "ERR_VERITY_TAR"],
    ["a link target for a file", rawTar(pax(["linkpath", "b"]), rawHeader({})), "ERR_VERITY_TAR"],
    ["a PAX path with a NUL", rawTar(pax(["path", "a\0b"]), rawHeader({})), "ERR_VERITY_TAR"],
    ["an empty PAX path", rawTar(pax(["path", ""]), rawHeader({})), "ERR_VERITY_TAR"],
    ["a PAX key twice", rawTar(pax(["path", "a"], ["path", "b"]), rawHeader({})), "ERR_VERITY_TAR"],
    ["PAX records twice", rawTar(pax(["path", "a"]), pax(["path", "a"]), rawHeader({})), "ERR_VERITY_TAR"],
    ["a PAX size that contradicts the header", rawTar(pax(["size", "4"]), rawMember({}, "abc")), "ERR_VERITY_TAR"],
    ["a PAX size that is no number", rawTar(pax(["size", "-1"]), rawHeader({})), "ERR_VERITY_TAR"],
    ["a PAX record whose length lies", rawTar(rawMember({ type: "x" }, "99 path=a\n"), rawHeader({})), "ERR_VERITY_TAR"],
    ["a PAX record without newline", rawTar(rawMember({ type: "x" }, "9 path=ab"), rawHeader({})), "ERR_VERITY_TAR"],
    ["a PAX record of length 0", rawTar(rawMember({ type: "x" }, "0 path=a\n"), rawHeader({})), "ERR_VERITY_TAR"],
    ["a PAX record without key", rawTar(rawMember({ type: "x" }, "5 =a\n"), rawHeader({})), "ERR_VERITY_TAR"],
    ["a PAX sparse file", rawTar(pax(["GNU.sparse.major", "1"]), rawHeader({})), "ERR_VERITY_TAR_UNSUPPORTED"],
    ["a PAX uid beyond 32 bits", rawTar(pax(["uid", "4294967296"]), rawHeader({})), "ERR_VERITY_TAR"],
    ["a PAX mtime that is no number", rawTar(pax(["mtime", "1e3"]), rawHeader({})), "ERR_VERITY_TAR"],
    ["a PAX charset of its own", rawTar(pax(["hdrcharset", "BINARY"]), rawHeader({})), "ERR_VERITY_TAR_UNSUPPORTED"],
    [
      "a global header that sets a path",
      rawTar(rawMember({ type: "g" }, Buffer.from(encodePaxRecord("path", encodeUtf8("evil")))), rawHeader({})),
      "ERR_VERITY_TAR_UNSUPPORTED",
    ],
    [
      "a record between a long name and its member",
      rawTar(rawMember({ type: "L" }, "a\0"), rawMember({ type: "g" }, Buffer.from(encodePaxRecord("comment", encodeUtf8("c")))), rawHeader({})),
      "ERR_VERITY_TAR",
    ],
  ];
  it.each(cases)("refuses %s", async (_, tar, code) => {
    expect(await codeOf(tar)).toBe(code);
  });

  it("takes a global comment, as git archive writes", async () => {
    expect(await codeOf(rawTar(rawMember({ type: "g" }, Buffer.from(encodePaxRecord("comment", encodeUtf8("commit")))), rawHeader({})))).toBe("accepted");
  });

  it("holds every limit", async () => {
    const three = rawTar(rawHeader({}), rawHeader({}), rawHeader({}));
    expect(await codeOf(three, { maxEntries: 3 })).toBe("accepted");
    expect(await codeOf(three, { maxEntries: 2 })).toBe("ERR_VERITY_LIMIT");
    expect(await codeOf(three, { maxTotalSize: three.length - 1 })).toBe("ERR_VERITY_LIMIT");
    const huge = rawTar(rawHeader({ size: "77777777777\0" }));
    expect(await codeOf(huge, { maxTotalSize: 0o77777777777 + 512 })).toBe("ERR_VERITY_TAR_TRUNCATED");
    expect(await codeOf(huge, { maxTotalSize: 0o77777777777 + 511 })).toBe("ERR_VERITY_LIMIT");
    const long = rawTar(rawMember({ type: "L" }, `${"a".repeat(200)}\0`), rawHeader({}));
    expect(await codeOf(long, { maxPathLength: 200 })).toBe("accepted");
    expect(await codeOf(long, { maxPathLength: 199 })).toBe("ERR_VERITY_LIMIT");
    expect(await codeOf(long, { maxRecordSize: 200 })).toBe("ERR_VERITY_LIMIT");
    const comments = rawTar(...Array.from({ length: 7 }, () => rawMember({ type: "g" }, Buffer.from(encodePaxRecord("comment", encodeUtf8("c"))))));
    expect(await codeOf(comments, { maxEntries: 2 })).toBe("ERR_VERITY_LIMIT");
    const big = rawTar(pax(["SCHILY.xattr.user.x", "v".repeat(65537)]), rawHeader({}));
    expect(await codeOf(big)).toBe("ERR_VERITY_LIMIT");
  });

  it("lets nothing but its own errors out, whatever bytes are damaged", async () => {
    const tar = await tarOf(items);
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(tar.length - 1), fc.integer({ min: 0, max: 255 })), { minLength: 1, maxLength: 6 }),
        fc.nat(tar.length),
        async (edits, cut) => {
          const damaged = tar.slice(0, cut % 3 === 0 ? cut : tar.length);
          for (const [at, byte] of edits) if (at < damaged.length) damaged[at] = byte;
          const code = await codeOf(damaged);
          expect(code === "accepted" || code.startsWith("ERR_VERITY_")).toBe(true);
        },
      ),
      { numRuns: 300, seed: 1 },
    );
  });
});

describe("TarWriter", () => {
  it("round-trips any member", async () => {
    const name = fc
      .string({ unit: "grapheme", minLength: 1, maxLength: 150 })
      .filter((text) => text.isWellFormed() && !text.includes("\0") && !text.endsWith("/"));
    const item = fc.record({
      path: name,
      mode: fc.nat(0o7777),
      uid: fc.nat(0xffff_ffff),
      gid: fc.nat(0xffff_ffff),
      mtime: fc.integer({ min: -(2 ** 40), max: 2 ** 40 }),
      data: fc.uint8Array({ maxLength: 1500 }),
      target: name,
      isLink: fc.boolean(),
      xattrs: fc
        .dictionary(fc.stringMatching(/^user\.[a-z]{1,9}$/), fc.uint8Array({ maxLength: 40 }), { maxKeys: 3 })
        .map((object) => new Map(Object.entries(object))),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(item, { maxLength: 6 }), fc.integer({ min: 1, max: 2000 }), async (list, chunk) => {
        const written = list.map(({ isLink, data, target, ...base }): TarItem =>
          isLink ? { ...base, kind: "symlink", target } : { ...base, kind: "file", data },
        );
        const read = await readAll(await tarOf(written), chunk);
        expect(read.map((entry) => ({ path: entry.path, mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime, text: entry.text }))).toEqual(
          list.map((entry) => ({
            path: entry.path,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            text: entry.isLink ? "" : Buffer.from(entry.data).toString("latin1"),
          })),
        );
        expect(read.map((entry) => [...entry.xattrs].map(([key, value]) => `${key}=${toHex(value)}`).sort())).toEqual(
          list.map((entry) => [...entry.xattrs].map(([key, value]) => `${key}=${toHex(value)}`).sort()),
        );
      }),
      { numRuns: 150, seed: 2 },
    );
  });

  it("refuses what it cannot write", async () => {
    const bad: readonly TarItem[] = [
      { ...plain, kind: "file", path: "", data: new Uint8Array() },
      { ...plain, kind: "file", path: "a\0b", data: new Uint8Array() },
      { ...plain, kind: "file", path: "a/", data: new Uint8Array() },
      { ...plain, kind: "symlink", path: "a", target: "" },
      { ...plain, kind: "fifo", path: "a", mode: 0o10000 },
      { ...plain, kind: "fifo", path: "a", uid: -1 },
      { ...plain, kind: "fifo", path: "a", mtime: 0.5 },
      { ...plain, kind: "character", path: "a", major: -1, minor: 0 },
      { ...plain, kind: "fifo", path: "a", xattrs: new Map([["a=b", new Uint8Array()]]) },
      { ...plain, kind: "file", path: "a", size: 5, data: inPieces(new Uint8Array(4), 2) },
      { ...plain, kind: "file", path: "a", size: 3, data: inPieces(new Uint8Array(4), 2) },
    ];
    for (const item of bad) await expect(tarOf([item]), JSON.stringify(item)).rejects.toMatchObject({ code: "ERR_VERITY_ARGUMENT" });
  });
});
