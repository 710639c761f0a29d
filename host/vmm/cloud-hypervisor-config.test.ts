import { describe, expect, it } from "vitest";
import { diskSource, planMachine } from "./cloud-hypervisor-config.ts";
import type { MachineConfig, NetworkConfig, UvmGuest } from "./driver.ts";

const GUEST: UvmGuest = { kind: "uvm", kernel: "/k", initrd: "/i", root: "/r", igvm: "/g", commandLine: "quiet" };

function config(change: Partial<MachineConfig> = {}): MachineConfig {
  return {
    id: "m",
    runDirectory: "/run/m",
    guest: GUEST,
    hostData: new Uint8Array(32).fill(1),
    launch: { launch: () => Promise.reject(new Error("not here")) },
    memoryMiB: 1024,
    vcpus: 1,
    ...change,
  };
}

const tap = (tapName: string, mac = "02:00:00:00:00:01"): NetworkConfig => ({ kind: "tap", interfaces: [{ tap: tapName, mac }] });

describe("what Cloud Hypervisor is told", () => {
  it("of a confidential machine is what specs/runtime.md 4.6 shows", () => {
    const { machine, measured } = planMachine(config({ memoryMiB: 2048 }), "/run/vc/vm/x/clh.sock", true);
    expect(machine).toEqual({
      payload: { igvm: "/g", host_data: "01".repeat(32) },
      platform: { num_pci_segments: 10, sev_snp: true },
      cpus: { boot_vcpus: 1, max_vcpus: 1, topology: { threads_per_core: 1, cores_per_die: 1, dies_per_package: 1, packages: 1 } },
      memory: { size: 2_147_483_648, shared: false, hugepages: false },
      disks: [{ path: "/r", readonly: true }],
      rng: { src: "/dev/urandom" },
      console: { mode: "Off" },
      serial: { mode: "Off" },
      vsock: { cid: 3, socket: "/run/vc/vm/x/clh.sock" },
    });
    expect(measured).toEqual({ files: ["/g"], commandLine: "" });
  });

  it("of another machine has no word of SEV-SNP, and no host data", () => {
    const { machine, measured } = planMachine(config(), "/s", false);
    expect(JSON.stringify(machine)).not.toMatch(/snp|igvm|host_data/);
    expect(measured).toEqual({ files: ["/k", "/i"], commandLine: "quiet" });
  });

  it("of a network is the namespace and one card for each tap", () => {
    const network: NetworkConfig = { kind: "tap", namespace: "/var/run/netns/p", interfaces: [{ tap: "tap0_kata", mac: "02:00:00:00:00:01" }] };
    const { cards, namespace } = planMachine(config({ network }), "/s", false);
    expect([namespace, cards]).toEqual(["/var/run/netns/p", [{ tap: "tap0_kata", mac: "02:00:00:00:00:01", num_queues: 2, queue_size: 256 }]]);
    expect(planMachine(config(), "/s", false)).toMatchObject({ cards: [], namespace: undefined });
  });

  it.each<[string, Partial<MachineConfig>, RegExp]>([
    ["a guest that is a process", { guest: { kind: "process", command: ["/a"], measuredFiles: [], commandLine: "" } }, /guest is "process"/],
    ["more CPUs than eight bits count", { vcpus: 256 }, /vcpus is 256/],
    ["more memory than numbers count", { memoryMiB: Number.MAX_SAFE_INTEGER }, /memoryMiB is/],
    ["a kernel somewhere", { guest: { ...GUEST, kernel: "k" } }, /kernel is "k"/],
    ["a path with a zero byte", { guest: { ...GUEST, root: "/r\0x" } }, /root is/],
    ["initdata somewhere", { initdata: "x" }, /initdata is "x"/],
    ["a user network", { network: { kind: "user" } }, /no user network/],
    ["a namespace somewhere", { network: { kind: "tap", namespace: "p", interfaces: [] } }, /network namespace is "p"/],
    ["a tap that is an option", { network: tap("-x") }, /tap is "-x"/],
    ["a tap that is a path", { network: tap("../x") }, /tap is/],
    ["a tap with too long a name", { network: tap("abcdefghijklmnop") }, /tap is/],
    ["a hardware address in capitals", { network: tap("t", "02:00:00:00:00:AB") }, /mac is/],
    [
      "one tap twice",
      {
        network: {
          kind: "tap",
          interfaces: [
            { tap: "t", mac: "02:00:00:00:00:01" },
            { tap: "t", mac: "02:00:00:00:00:02" },
          ],
        },
      },
      /taps is one name twice/,
    ],
    [
      "too many cards",
      { network: { kind: "tap", interfaces: Array.from({ length: 17 }, (_v, index) => ({ tap: `t${index}`, mac: "02:00:00:00:00:01" })) } },
      /network cards is 17/,
    ],
  ])("never has %s", (_what, change, message) => {
    expect(() => planMachine(config(change), "/s", false)).toThrow(
      expect.objectContaining({ code: "ERR_VMM_CONFIG", message: expect.stringMatching(message) as string }),
    );
  });
});

describe("the address of a disk", () => {
  it.each([
    ["0001:00:01.0", 1],
    ["0009:00:1f.0", 9],
  ])("%s is taken on segment %i", (bdf, segment) => {
    expect(diskSource(bdf, segment)).toBe(bdf);
  });

  it.each([
    "",
    "0002:00:01.0",
    "0001:01:01.0",
    "0001:00:20.0",
    "0001:00:01.1",
    "0001:00:01.0\n",
    " 0001:00:01.0",
    "0001:00:1F.0",
    "00:01.0",
    "x".repeat(100_000),
  ])("%j is refused", (bdf) => {
    const refused = expect.objectContaining({ code: "ERR_VMM_DISK" }) as Error;
    expect(() => diskSource(bdf, 1)).toThrow(refused);
  });
});
