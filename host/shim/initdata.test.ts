import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { gunzipSync, gzipSync } from "node:zlib";
import { encodeUtf8, toBase64, toHex } from "@sealpod/core";
import { hostDataOf } from "@sealpod/genpolicy";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { encodeInitdataImage, parseInitdata, writeInitdataImage } from "./initdata.ts";
import { CapturedNode } from "./testdata/captured.ts";

let node: CapturedNode;

beforeEach(async () => {
  node = await CapturedNode.create();
});

afterEach(async () => {
  await node[Symbol.asyncDispose]();
});

function annotation(document: string | Uint8Array): string {
  return toBase64(new Uint8Array(gzipSync(document)));
}

const document = (algorithm: string): string => `version = "0.1.0"\nalgorithm = "${algorithm}"\n\n[data]\n"policy.rego" = '''\npackage agent_policy\n'''\n`;

describe("initdata of a pod, specs/runtime.md 3.6", () => {
  it.each(["sha256", "sha384", "sha512"] as const)("has its %s digest as HOST_DATA, as the author's tool says", (algorithm) => {
    const text = document(algorithm);
    const { hostData, policy } = parseInitdata(annotation(text));
    expect(toHex(hostData)).toBe(createHash(algorithm).update(text).digest("hex").slice(0, 64));
    expect(toHex(hostData)).toBe(hostDataOf(encodeUtf8(text), algorithm));
    expect(policy).toBe("package agent_policy\n");
  });

  it("may be without a policy, and folded into lines", () => {
    const text = 'version = "0.1.0"\nalgorithm = "sha256"\n[data]\n';
    const folded = annotation(text).replaceAll(/(.{16})/g, "$1\r\n");
    expect(parseInitdata(folded)).toMatchObject({ policy: undefined });
  });

  it("becomes a disk with its length, of whole sectors", async () => {
    const initdata = parseInitdata(annotation(document("sha256")));
    const path = node.path("initdata.img");
    await writeInitdataImage(path, initdata);
    const image = await readFile(path);
    expect(image.length % 512).toBe(0);
    expect(image.subarray(0, 8).toString("latin1")).toBe("initdata");
    const length = Number(image.readBigUInt64LE(8));
    expect(gunzipSync(image.subarray(16, 16 + length)).toString()).toBe(document("sha256"));
    expect(image.subarray(16 + length).every((byte) => byte === 0)).toBe(true);
    // What is there already may be another's.
    await expect(writeInitdataImage(path, initdata)).rejects.toMatchObject({ code: "EEXIST" });
  });

  it.each([495, 496, 497])("of %d bytes takes as many sectors as it needs", (length) => {
    expect(encodeInitdataImage(new Uint8Array(length)).length).toBe(length <= 496 ? 512 : 1024);
  });

  it.each([
    ["no base64", "%%%", /base64/],
    ["no gzip", toBase64(encodeUtf8("text")), /gzip/],
    ["no TOML", annotation("version = "), /TOML/],
    ["no UTF-8", annotation(new Uint8Array([0xff])), /UTF-8/],
    ["nesting", annotation(`version = ${"[".repeat(20_000)}`), /TOML/],
    ["another version", annotation(document("sha256").replace("0.1.0", "0.2.0")), /version "0\.2\.0"/],
    ["no algorithm", annotation('version = "0.1.0"\n[data]\n'), /algorithm nothing/],
    ["another algorithm", annotation(document("md5")), /algorithm "md5"/],
    ["no data", annotation('version = "0.1.0"\nalgorithm = "sha256"\n'), /no table/],
    ["more than is unpacked", annotation(new Uint8Array(5 * 1024 * 1024)), /4194304 bytes or less/],
    ["more than a guest reads", "A".repeat(3 * 1024 * 1024), /characters/],
  ])("is refused: %s", (_what, text, message) => {
    expect(() => parseInitdata(text)).toThrow(message);
    expect(() => parseInitdata(text)).toThrow(expect.objectContaining({ code: "ERR_SHIM_POD" }) as Error);
  });
});
