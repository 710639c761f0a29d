import { encodeUtf8 } from "@sealpod/core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type BillOfMaterials, encodeBill, parseBill, requireLocked } from "./bill-of-materials.ts";
import { uvmCommandLine } from "./command-line.ts";
import { ImageError } from "./errors.ts";
import { encodeManifest, parseManifest, type UvmManifest } from "./manifest.ts";

const PACKAGE = { name: "libstdc++6", version: "1:12.2.0-14+deb12u1", architecture: "amd64", sha256: "1".repeat(64) } as const;
const KERNEL = { name: "linux-image-6.1.0-1-cloud-amd64", version: "6.1.1-1", architecture: "amd64", sha256: "2".repeat(64) } as const;

const BILL: BillOfMaterials = {
  target: "emulated",
  packages: [PACKAGE, KERNEL],
  parts: [
    { name: "node", version: "24.21.0", sha256: "3".repeat(64) },
    { name: "sealpod-agent", version: "0.1.0", sha256: "4".repeat(64) },
  ],
};

const MANIFEST: UvmManifest = {
  version: 1,
  target: "emulated",
  architecture: "amd64",
  kernel: { file: "vmlinux", sha256: "5".repeat(64), size: 5, release: "6.1.0-1-cloud-amd64" },
  initrd: { file: "initrd.cpio", sha256: "6".repeat(64), size: 6 },
  root: { file: "root.erofs", sha256: "7".repeat(64), size: 7, rootHash: "8".repeat(64), dataBlocks: 9 },
  commandLine: "console=ttyS0 ro",
  agent: { version: "0.1.0", sha256: "4".repeat(64) },
  packages: [PACKAGE],
};

describe("uvmCommandLine", () => {
  it("is the measured text, to the last byte", () => {
    const table = `sealpod-root,,,ro,0 24 verity 1 /dev/vda /dev/vda 4096 4096 3 3 sha256 ${"ab".repeat(32)} ${"0".repeat(64)} 1 panic_on_corruption`;
    const before = "console=ttyS0 quiet panic=-1 reboot=t tsc=reliable no_timer_check random.trust_cpu=1 cryptomgr.notests cgroup_no_v1=all net.ifnames=0";
    const after = `dm-mod.create="${table}" root=/dev/dm-0 rootfstype=erofs ro`;
    expect(uvmCommandLine("snp", new Uint8Array(32).fill(0xab), 3)).toBe(`${before} ${after}`);
    expect(uvmCommandLine("emulated", new Uint8Array(32).fill(0xab), 3)).toBe(`${before} mitigations=off ${after}`);
  });
});

describe("bill of materials", () => {
  it("is a CycloneDX document that gives the bill back", () => {
    const text = encodeBill(BILL);
    expect(parseBill(text, "bom.json")).toEqual(BILL);
    expect(JSON.parse(text)).toMatchObject({
      bomFormat: "CycloneDX",
      specVersion: "1.6",
      components: [
        { type: "library", name: "libstdc++6", purl: "pkg:deb/debian/libstdc%2B%2B6@1%3A12.2.0-14%2Bdeb12u1?arch=amd64" },
        {},
        { type: "application", name: "node" },
        {},
      ],
    });
  });

  it("locks a build to its materials, each of them", () => {
    requireLocked(BILL, BILL);
    const other: readonly BillOfMaterials[] = [
      { ...BILL, target: "snp" },
      { ...BILL, packages: [PACKAGE] },
      { ...BILL, packages: [...BILL.packages, { ...PACKAGE, name: "more" }] },
      { ...BILL, packages: [{ ...PACKAGE, sha256: "9".repeat(64) }, KERNEL] },
      { ...BILL, packages: [{ ...PACKAGE, version: "2" }, KERNEL] },
      { ...BILL, parts: BILL.parts.slice(1) },
    ];
    for (const bill of other)
      for (const [have, lock] of [
        [bill, BILL],
        [BILL, bill],
      ] as const)
        expect(() => requireLocked(have, lock)).toThrow(expect.objectContaining({ code: "ERR_IMAGE_LOCK" }));
  });

  it.each<readonly [string, (text: string) => string]>([
    ["no JSON", () => "{"],
    ["another format", (text) => text.replace("CycloneDX", "SPDX")],
    ["another version", (text) => text.replace('"1.6"', '"1.5"')],
    ["another target", (text) => text.replace('"emulated"', '"sgx"')],
    ["a hash of another kind", (text) => text.replace("SHA-256", "MD5")],
    ["a hash that is none", (text) => text.replace("1".repeat(64), "1".repeat(63))],
    ["a package whose name is a flag", (text) => text.replace('"libstdc++6"', '"--foo"')],
    ["a version with a space", (text) => text.replace('"6.1.1-1"', '"6 1"')],
    ["another architecture", (text) => text.replace('"value": "amd64"', '"value": "arm64"')],
    ["an unknown part", (text) => text.replace('"node"', '"deno"')],
    ["a part twice", (text) => text.replace('"sealpod-agent"', '"node"')],
  ])("is refused with %s", (_, change) => {
    const text = encodeBill(BILL);
    expect(change(text)).not.toBe(text);
    expect(() => parseBill(change(text), "bom.json")).toThrow(expect.objectContaining({ code: "ERR_IMAGE_LOCK" }));
  });
});

describe("manifest", () => {
  const text = encodeManifest(MANIFEST);

  it("gives itself back", () => {
    expect(parseManifest(encodeUtf8(text), "uvm.json")).toEqual(MANIFEST);
    expect(encodeManifest(parseManifest(encodeUtf8(text), "uvm.json"))).toBe(text);
  });

  it.each<readonly [string, string, string]>([
    ["another version", '"version": 1', '"version": 2'],
    ["an unknown field", '"version": 1', '"version": 1, "more": 1'],
    ["an unknown field below", '"release"', '"shade": 1, "release"'],
    ["an unknown field in a file", '"size": 6', '"size": 6, "path": "x"'],
    ["an unknown field of a package", '"name": "libstdc++6"', '"name": "libstdc++6", "x": 1'],
    ["a file elsewhere", '"initrd.cpio"', '"../initrd.cpio"'],
    ["a hidden file", '"initrd.cpio"', '".initrd"'],
    ["a size that is none", '"size": 5', '"size": -5'],
    ["a size beyond 2^53", '"size": 5', '"size": 90071992547409930'],
    ["a hash in capitals", "8".repeat(64), "A".repeat(64)],
    ["a missing field", '"dataBlocks": 9', '"other": 9'],
    ["a command line with a line break", "console=ttyS0 ro", "console\\nro"],
    ["a command line that is too long", "console=ttyS0 ro", "x".repeat(2048)],
    ["another target", '"emulated"', '"none"'],
    ["a list that is none", '"packages": [', '"packages": 1, "x": ['],
    ["two fields of one name", '"version": 1', '"version": 1, "version": 1'],
  ])("is refused with %s", (_, from, to) => {
    expect(text).toContain(from);
    expect(() => parseManifest(encodeUtf8(text.replace(from, to)), "uvm.json")).toThrow(expect.objectContaining({ code: "ERR_IMAGE_UVM" }));
  });

  it("lets no other error out for damaged bytes", () => {
    const bytes = encodeUtf8(text);
    fc.assert(
      fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 0, max: 255 }), (at, byte) => {
        const changed = bytes.slice();
        changed[at] = byte;
        try {
          parseManifest(changed, "uvm.json");
        } catch (error) {
          expect(error).toBeInstanceOf(ImageError);
        }
      }),
      { numRuns: 1000, seed: 3 },
    );
  });
});
