import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { encodeUtf8, fromHex, toHex } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import {
  explainLaunch,
  hashKernel,
  kernelHashesPage,
  LaunchFold,
  launchDigest,
  LaunchMeasurement,
  MAX_VCPUS,
  parseOvmf,
  type QemuLaunch,
  qemuLaunchPages,
  vmsaPage,
  type VmmType,
} from "../index.ts";
import { SECTIONS, Straight, testOvmf, u16, uefiGuid } from "./testdata/images.ts";

const VECTORS = "../shared/vectors/attestation/sev-snp-measure";
const MILAN = 0xa00f11;
const VMSA = 0xffff_ffff_f000n;
const IMAGE = testOvmf({ size: 3 * 4096, sections: SECTIONS, hashTable: 0x81_0c00, resetVector: 0x80_b004 });
const IMAGE_GPA = 0x1_0000_0000n - 3n * 4096n;

const sha256 = (bytes: Uint8Array | string): Buffer => createHash("sha256").update(bytes).digest();

function digest(launch: Partial<QemuLaunch> = {}): string {
  return toHex(launchDigest(qemuLaunchPages({ ovmf: parseOvmf(IMAGE), vcpus: 1, cpuSignature: MILAN, ...launch })));
}

const vmsa = (vmm: VmmType, boot: boolean, guestFeatures = 1n): Uint8Array =>
  vmsaPage({ vmm, boot, instructionPointer: boot ? 0xffff_fff0 : 0x80_b004, cpuSignature: MILAN, guestFeatures });

describe("launch with OVMF", () => {
  it("measures the image, the sections and the vCPUs of QEMU", () => {
    const expected = new Straight()
      .image(IMAGE, IMAGE_GPA)
      .page(3, 0x80_0000n)
      .page(3, 0x80_1000n)
      .page(5, 0x80_a000n)
      .page(6, 0x80_b000n)
      .page(3, 0x80_c000n)
      .page(3, 0x81_0000n)
      .page(3, 0x81_1000n)
      .page(2, VMSA, vmsa("qemu", true))
      .page(2, VMSA, vmsa("qemu", false))
      .page(2, VMSA, vmsa("qemu", false));
    expect(digest({ vcpus: 3 })).toBe(expected.hex);
    expect(digest({ vcpus: 3, vmm: "qemu", guestFeatures: 1n })).toBe(expected.hex);
  });

  it("measures the hashes of a kernel", () => {
    const kernelHashes = hashKernel({ kernel: encodeUtf8("kernel"), initrd: encodeUtf8("disk"), commandLine: "root=/dev/vda" });
    const table = Buffer.concat([
      uefiGuid("9438d606-4f22-4cc9-b479-a793d411fd21"),
      u16(168),
      ...(
        [
          ["97d02dd8-bd20-4c94-aa78-e7714d36ab2a", sha256("root=/dev/vda\0")],
          ["44baf731-3a2f-4bd7-9af1-41e29169781d", sha256("disk")],
          ["4de79437-abd2-427f-b835-d5b172d2045b", sha256("kernel")],
        ] as const
      ).flatMap(([guid, hash]) => [uefiGuid(guid), u16(50), hash]),
    ]);
    expect(table).toHaveLength(168);
    const page = Buffer.alloc(4096);
    table.copy(page, 0xc00);
    const expected = new Straight()
      .image(IMAGE, IMAGE_GPA)
      .page(3, 0x80_0000n)
      .page(3, 0x80_1000n)
      .page(5, 0x80_a000n)
      .page(6, 0x80_b000n)
      .page(3, 0x80_c000n)
      .page(1, 0x81_0000n, page)
      .page(3, 0x81_1000n)
      .page(2, VMSA, vmsa("qemu", true, 0x21n));
    expect(digest({ kernelHashes, guestFeatures: 0x21n })).toBe(expected.hex);
  });

  it("on EC2 has the CPUID page after the sections", () => {
    const expected = new Straight()
      .image(IMAGE, IMAGE_GPA)
      .page(3, 0x80_0000n)
      .page(3, 0x80_1000n)
      .page(5, 0x80_a000n)
      .page(3, 0x80_c000n)
      .page(3, 0x81_0000n)
      .page(3, 0x81_1000n)
      .page(6, 0x80_b000n)
      .page(2, VMSA, vmsa("ec2", true))
      .page(2, VMSA, vmsa("ec2", false));
    expect(digest({ vmm: "ec2", vcpus: 2 })).toBe(expected.hex);
  });

  it("on GCE has the memory of the first phase unmeasured", () => {
    const expected = new Straight()
      .image(IMAGE, IMAGE_GPA)
      .page(4, 0x80_0000n)
      .page(4, 0x80_1000n)
      .page(5, 0x80_a000n)
      .page(6, 0x80_b000n)
      .page(3, 0x80_c000n)
      .page(3, 0x81_0000n)
      .page(4, 0x81_1000n)
      .page(2, VMSA, vmsa("gce", true));
    expect(digest({ vmm: "gce" })).toBe(expected.hex);
  });

  it("can start from the digest of the image", () => {
    const image = new Straight().image(IMAGE, IMAGE_GPA).hex;
    const rest = new LaunchMeasurement(fromHex(image));
    for (const page of qemuLaunchPages({ ovmf: parseOvmf(IMAGE), vcpus: 1, cpuSignature: MILAN, withoutImage: true })) rest.add(page);
    expect(toHex(rest.digest())).toBe(digest());
  });

  it("depends on each parameter", () => {
    const kernelHashes = (commandLine?: string, initrd?: Uint8Array) => hashKernel({ kernel: encodeUtf8("kernel"), initrd, commandLine });
    const digests = [
      digest(),
      digest({ vcpus: 2 }),
      digest({ vcpus: 3 }),
      digest({ cpuSignature: 0x800f12 }),
      digest({ guestFeatures: 0x21n }),
      digest({ vmm: "ec2" }),
      digest({ vmm: "gce" }),
      digest({ kernelHashes: kernelHashes() }),
      digest({ kernelHashes: kernelHashes("x") }),
      digest({ kernelHashes: kernelHashes(undefined, encodeUtf8("disk")) }),
    ];
    expect(new Set(digests).size).toBe(digests.length);
    // No command line is an empty one, and no disk an empty one.
    expect(digest({ kernelHashes: kernelHashes("", new Uint8Array()) })).toBe(digest({ kernelHashes: kernelHashes() }));
  });

  it("is explained page by page, and in runs", () => {
    const pages = [...explainLaunch(qemuLaunchPages({ ovmf: parseOvmf(IMAGE), vcpus: 4, cpuSignature: MILAN }))];
    expect(pages).toHaveLength(3 + 7 + 4);
    const straight = new Straight();
    for (const [index, page] of pages.slice(0, 3).entries()) {
      const contents = IMAGE.subarray(index * 4096, (index + 1) * 4096);
      straight.page(1, IMAGE_GPA + BigInt(index * 4096), contents);
      expect(page).toMatchObject({ kind: "normal", gpa: IMAGE_GPA + BigInt(index * 4096), source: { name: "OVMF image", file: "ovmf", offset: index * 4096 } });
      expect([toHex(page.digestAfter), toHex(page.contentsDigest ?? new Uint8Array())]).toEqual([
        straight.hex,
        createHash("sha384").update(contents).digest("hex"),
      ]);
    }
    expect(pages[3]).toMatchObject({ kind: "zero", contentsDigest: undefined, source: { name: "section SNP_SEC_MEM" } });
    expect(toHex(pages.at(-1)?.digestAfter ?? new Uint8Array())).toBe(digest({ vcpus: 4 }));
    const fold = new LaunchFold();
    for (const page of pages) fold.add(page);
    expect(fold.runs.map(({ kind, gpa, count, source }) => [kind, gpa.toString(16), count, source?.name])).toEqual([
      ["normal", "ffffd000", 3, "OVMF image"],
      ["zero", "800000", 2, "section SNP_SEC_MEM"],
      ["secrets", "80a000", 1, "section SNP_SECRETS"],
      ["cpuid", "80b000", 1, "section SNP_CPUID"],
      ["zero", "80c000", 1, "section SVSM_CAA"],
      ["zero", "810000", 1, "section SNP_KERNEL_HASHES"],
      ["zero", "811000", 1, "section SNP_SEC_MEM"],
      ["vmsa", "fffffffff000", 1, "VMSA of the first vCPU"],
      ["vmsa", "fffffffff000", 3, "VMSA of the other vCPUs"],
    ]);
    expect(fold.runs.map(({ contentsDigest }) => contentsDigest !== undefined)).toEqual([false, false, false, false, false, false, false, true, false]);
    expect(toHex(fold.runs[0]?.digestAfter ?? new Uint8Array())).toBe(straight.hex);
  });

  const hashes = hashKernel({ kernel: new Uint8Array() });
  const without = (type: number): readonly (readonly [number, number, number])[] => SECTIONS.filter((section) => section[2] !== type);
  it.each<[string, Parameters<typeof testOvmf>[0], Partial<QemuLaunch>, string, RegExp]>([
    [
      "a kernel and no section for it",
      { sections: without(0x10), hashTable: 0x81_0c00 },
      { kernelHashes: hashes },
      "ERR_SNP_LAUNCH",
      /no section SNP_KERNEL_HASHES/,
    ],
    ["a kernel and no place for the table", { sections: SECTIONS }, { kernelHashes: hashes }, "ERR_SNP_LAUNCH", /no place for the table/],
    [
      "a table outside of the section",
      { sections: SECTIONS, hashTable: 0x81_1000 },
      { kernelHashes: hashes },
      "ERR_SNP_OVMF",
      /0x811000 is not in its section/,
    ],
    ["a table below the section", { sections: SECTIONS, hashTable: 0x80_ffff }, { kernelHashes: hashes }, "ERR_SNP_OVMF", /is not in its section/],
    ["a table that leaves its page", { sections: SECTIONS, hashTable: 0x81_0f51 }, { kernelHashes: hashes }, "ERR_SNP_LAUNCH", /does not fit/],
    ["two pages for hashes", { sections: [[0, 0x2000, 0x10]], hashTable: 0xc00 }, { kernelHashes: hashes }, "ERR_SNP_OVMF", /more than one page/],
    [
      "two sections for hashes",
      {
        sections: [
          [0, 0x1000, 0x10],
          [0x1000, 0x1000, 0x10],
        ],
        hashTable: 0xc00,
      },
      { kernelHashes: hashes },
      "ERR_SNP_OVMF",
      /more than one page/,
    ],
    ["an image without metadata", {}, {}, "ERR_SNP_OVMF", /no SEV metadata/],
    ["two vCPUs and no reset block", { sections: SECTIONS }, { vcpus: 2 }, "ERR_SNP_OVMF", /no SEV-ES reset block/],
    ["no vCPU", { sections: SECTIONS }, { vcpus: 0 }, "ERR_SNP_LAUNCH", /0 vCPUs/],
    ["half a vCPU", { sections: SECTIONS }, { vcpus: 1.5 }, "ERR_SNP_LAUNCH", /1.5 vCPUs/],
    ["too many vCPUs", { sections: SECTIONS, resetVector: 1 }, { vcpus: MAX_VCPUS + 1 }, "ERR_SNP_LAUNCH", /4097 vCPUs/],
    ["no SNP in its features", { sections: SECTIONS }, { guestFeatures: 0n }, "ERR_SNP_LAUNCH", /bit 0/],
  ])("is refused with %s, before the first page", (_name, image, launch, code, message) => {
    const ovmf = parseOvmf(testOvmf(image));
    expect(() => qemuLaunchPages({ ovmf, vcpus: 1, cpuSignature: MILAN, ...launch })).toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(message) as unknown }),
    );
  });
});

describe("kernel hashes", () => {
  it("refuse a NUL in the command line, digests of another length, and a place off the page", () => {
    const code = "ERR_SNP_LAUNCH";
    expect(() => hashKernel({ kernel: new Uint8Array(), commandLine: "a\0b" })).toThrow(expect.objectContaining({ code }));
    const hashes = hashKernel({ kernel: new Uint8Array() });
    expect(() => kernelHashesPage({ ...hashes, initrd: new Uint8Array(31) }, 0)).toThrow(expect.objectContaining({ code }));
    for (const offset of [-1, 0.5, 4096 - 175]) expect(() => kernelHashesPage(hashes, offset)).toThrow(expect.objectContaining({ code }));
    expect(kernelHashesPage(hashes, 4096 - 176)).toHaveLength(4096);
  });
});

interface Case {
  readonly name: string;
  readonly ovmf: string;
  readonly vcpus: number;
  readonly vcpu_sig: number;
  readonly kernel: string | null;
  readonly append: string | null;
  readonly guest_features: number;
  readonly vmm: VmmType;
  readonly ovmf_hash: string | null;
  readonly expected: string;
}

const present = existsSync(`${VECTORS}/cases.json`);

describe.skipIf(!present)("digests of sev-snp-measure (skipped without ../shared/vectors/attestation)", () => {
  const cases = present ? (JSON.parse(readFileSync(`${VECTORS}/cases.json`, "utf8")) as readonly Case[]) : [];

  it("are 14", () => {
    expect(cases).toHaveLength(14);
  });

  it.each(cases)("$name", (item) => {
    const measurement = new LaunchMeasurement(item.ovmf_hash === null ? undefined : fromHex(item.ovmf_hash));
    // Kernel and disk of the cases are empty files.
    const kernelHashes = item.kernel === null ? undefined : hashKernel({ kernel: new Uint8Array(), commandLine: item.append ?? "" });
    const pages = qemuLaunchPages({
      ovmf: parseOvmf(readFileSync(`${VECTORS}/${item.ovmf}`)),
      vmm: item.vmm,
      vcpus: item.vcpus,
      cpuSignature: item.vcpu_sig,
      guestFeatures: BigInt(item.guest_features),
      kernelHashes,
      withoutImage: item.ovmf_hash !== null,
    });
    for (const page of pages) measurement.add(page);
    expect(toHex(measurement.digest())).toBe(item.expected);
  });

  it("the standard build of OVMF takes no kernel", () => {
    const ovmf = parseOvmf(readFileSync(`${VECTORS}/ovmf_OvmfX64_suffix.bin`));
    expect(() => qemuLaunchPages({ ovmf, vcpus: 1, cpuSignature: MILAN, kernelHashes: hashKernel({ kernel: new Uint8Array() }) })).toThrow("SNP_KERNEL_HASHES");
  });
});
