import type { NetworkConfig, UvmGuest } from "../driver.ts";
import { DEFAULT_SNP_CPU, snpArguments, type SnpLaunch } from "./snp.ts";
import { isAtLeast, type QemuVersion } from "./version.ts";

/** What a command line of QEMU is made of. */
export interface QemuPlan {
  readonly version: QemuVersion;
  readonly accelerator: "kvm" | "tcg";
  /** Shown by `ps`. */
  readonly name: string;
  /** Path of the unix socket at which the driver takes QEMU's monitor connection. */
  readonly monitorSocket: string;
  /** Path of the unix socket at which the driver takes the channel to the agent. */
  readonly channelSocket: string;
  readonly guest: UvmGuest;
  readonly memoryMiB: number;
  readonly vcpus: number;
  readonly network: CardNetwork;
  readonly initdata?: string | undefined;
  /** The guest's memory as a file: written through if shared, else private to this QEMU (changes stay in its memory). */
  readonly memoryFile?: { readonly path: string; readonly shared: boolean } | undefined;
  /** Waits for a saved state instead of booting. */
  readonly incoming?: boolean | undefined;
  readonly snp?: SnpLaunch | undefined;
}

/** Name by which the guest finds its end of the channel (`/sys/class/virtio-ports/…/name`). */
export const CHANNEL_NAME = "sealpod";

/** Names of QEMU's objects that commands refer to. */
export const NETDEV_ID = "net0";

/** PCI slots of the root bus. 00 is the host bridge, 1f the ISA bridge. */
const SLOTS = { channel: 1, root: 2, initdata: 3, network: 4, random: 5, bridges: 8 } as const;

/** A slot has eight functions. */
const FUNCTIONS = 8;

/** Network cards that fit into their slot. */
export const MAX_INTERFACES: number = FUNCTIONS;

/** Bridges behind which disks are added; each has room for the devices 01 to 1f. */
const BRIDGES = 2;
const BRIDGE_DEVICES = 31;

/**
 * Disks that can be attached while the machine runs. They go behind conventional bridges, as other runtimes have them: a root port for each
 * disk costs seconds of boot time when there are dozens, and adds no disk faster.
 */
export const MAX_HOT_DISKS: number = BRIDGES * BRIDGE_DEVICES;

/** Where disk `index` goes: its bus and address for QEMU, and the path that the guest finds it by, `08/01` to `09/1f`. */
export function hotDisk(index: number): { readonly bus: string; readonly address: string; readonly path: string } {
  const bridge = Math.floor(index / BRIDGE_DEVICES);
  const device = hex(1 + (index % BRIDGE_DEVICES));
  return { bus: `bridge${bridge}`, address: `${device}.0`, path: `${hex(SLOTS.bridges + bridge)}/${device}` };
}

/** Networks that a machine has cards for. */
export type CardNetwork = Exclude<NetworkConfig, { readonly kind: "namespace" }>;

/** MAC address of the one card of a user network: of the range that anybody may assign. */
export const USER_MAC = "52:54:00:5e:a1:0d";

/**
 * Arguments of QEMU. The layout of the PCI bus is part of the interface to guests and to templates: the root disk is the first disk, disks
 * that are attached later have the path `SLOT.FUNCTION/00`.
 */
export function qemuArguments(plan: QemuPlan): readonly string[] {
  const { guest, snp } = plan;
  const dma = deviceAccess(snp !== undefined);
  // The older name of the option ended with QEMU 10.
  const reconnect: Readonly<Record<string, string>> = isAtLeast(plan.version, { major: 9, minor: 2 }) ? { "reconnect-ms": "1000" } : { reconnect: "1" };
  const disk = (id: string, path: string, at: number): readonly string[] => [
    "-blockdev",
    option("driver=raw", { "node-name": id, "read-only": "on", "file.driver": "file", "file.filename": path }),
    "-device",
    option("virtio-blk-pci", { drive: id, bus: "pcie.0", addr: slot(at), ...dma }),
  ];
  const groups: readonly (readonly string[])[] = [
    ["-name", `guest=${plan.name}`, "-no-user-config", "-nodefaults", "-no-reboot", "-display", "none"],
    // No new privileges, no programs of its own, no change of its priorities: what a guest that has broken out would want first.
    ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"],
    accelerator(plan),
    ["-smp", String(plan.vcpus), "-m", `${plan.memoryMiB}M`],
    memoryFile(plan),
    snp === undefined ? [] : snpArguments(snp, guest.firmware ?? ""),
    ["-kernel", guest.kernel, "-initrd", guest.initrd, "-append", guest.commandLine],
    ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"],
    // QEMU calls us, so that it never opens its port before somebody is there, and calls again when the connection is lost.
    ["-chardev", option("socket", { id: "monitor", path: plan.monitorSocket, ...reconnect }), "-mon", "chardev=monitor,mode=control"],
    ["-chardev", option("socket", { id: "channel", path: plan.channelSocket, ...reconnect })],
    ["-device", option("virtio-serial-pci", { id: "serial", bus: "pcie.0", addr: slot(SLOTS.channel), max_ports: "2", ...dma })],
    ["-device", option("virtserialport", { bus: "serial.0", chardev: "channel", name: CHANNEL_NAME })],
    disk("root", guest.root, SLOTS.root),
    plan.initdata === undefined ? [] : disk("initdata", plan.initdata, SLOTS.initdata),
    network(plan.network, dma),
    // A confidential guest takes no randomness from its host.
    snp === undefined ? randomness(dma) : [],
    Array.from({ length: BRIDGES }, (_, index) => [
      "-device",
      option("pci-bridge", {
        id: `bridge${index}`,
        bus: "pcie.0",
        addr: slot(SLOTS.bridges + index),
        chassis_nr: String(index + 1),
        shpc: "off",
        // Addresses for the devices to come: firmware gives a bridge without devices none.
        "mem-reserve": "1M",
        "pref64-reserve": "1M",
      }),
    ]).flat(),
    plan.incoming === true ? ["-incoming", "defer"] : [],
  ];
  return groups.flat();
}

function memoryFile({ memoryFile: file, memoryMiB }: QemuPlan): readonly string[] {
  if (file === undefined) return [];
  return ["-object", option("memory-backend-file", { id: "memory", size: `${memoryMiB}M`, "mem-path": file.path, share: file.shared ? "on" : "off" })];
}

function randomness(dma: Readonly<Record<string, string>>): readonly string[] {
  const device = option("virtio-rng-pci", { rng: "random", bus: "pcie.0", addr: slot(SLOTS.random), ...dma });
  return ["-object", option("rng-random", { id: "random", filename: "/dev/urandom" }), "-device", device];
}

/**
 * How virtio devices see the guest's memory. With SEV-SNP it is closed to them but for what the guest opens, so they take addresses as an
 * IOMMU gives them. The older kind of device has no place behind the bridges, and nobody needs it.
 */
export function deviceAccess(confidential: boolean): Readonly<Record<string, string>> {
  return { "disable-legacy": "on", ...(confidential ? { iommu_platform: "on" } : {}) };
}

/** Parts of the machine that no guest of ours uses: each is code that a hostile guest could reach, and time at its boot. */
const UNUSED: Readonly<Record<string, string>> = Object.fromEntries(
  ["hpet", "usb", "vmport", "smm", "sata", "smbus", "i8042", "graphics", "dump-guest-core"].map((name) => [name, "off"]),
);

function accelerator({ accelerator, memoryFile, snp }: QemuPlan): readonly string[] {
  const machine = option("q35", {
    ...UNUSED,
    ...(accelerator === "kvm" ? { "kernel-irqchip": "split" } : {}),
    ...(snp === undefined ? {} : { "confidential-guest-support": "snp" }),
    ...(snp !== undefined || memoryFile !== undefined ? { "memory-backend": "memory" } : {}),
  });
  return accelerator === "kvm"
    ? ["-accel", "kvm", "-machine", machine, "-cpu", snp === undefined ? "host" : (snp.cpu ?? DEFAULT_SNP_CPU)]
    : ["-accel", "tcg,thread=multi", "-machine", machine, "-cpu", "max"];
}

function network(config: CardNetwork, dma: Readonly<Record<string, string>>): readonly string[] {
  // Without a boot ROM: a guest never boots from its network.
  const card = (index: number, mac: string): readonly string[] => [
    "-device",
    option("virtio-net-pci", {
      netdev: `net${index}`,
      mac,
      romfile: "",
      bus: "pcie.0",
      addr: slot(SLOTS.network, index),
      ...(index === 0 ? { multifunction: "on" } : {}),
      ...dma,
    }),
  ];
  switch (config.kind) {
    case "none":
      return [];
    case "user":
      return ["-netdev", option("user", { id: NETDEV_ID, ipv6: "off" }), ...card(0, USER_MAC)];
    case "tap":
      return config.interfaces.flatMap(({ tap, mac }, index) => [
        "-netdev",
        option("tap", { id: `net${index}`, ifname: tap, script: "no", downscript: "no", vhost: "off" }),
        ...card(index, mac),
      ]);
  }
}

function slot(number: number, part = 0): string {
  return `${hex(number)}.${part}`;
}

function hex(number: number): string {
  return number.toString(16).padStart(2, "0");
}

/** An option of QEMU with parameters. A comma in a value is doubled: else what follows it would be a parameter of its own. */
export function option(head: string, parameters: Readonly<Record<string, string>>): string {
  const escape = (text: string): string => text.replaceAll(",", ",,");
  return [head, ...Object.entries(parameters).map(([name, value]) => `${name}=${escape(value)}`)].join(",");
}
