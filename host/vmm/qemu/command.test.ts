import { describe, expect, it } from "vitest";
import { MAX_HOT_DISKS, deviceAccess, hotDisk, option, qemuArguments, type QemuPlan } from "./command.ts";

const PLAN: QemuPlan = {
  version: { major: 7, minor: 2, text: "QEMU emulator version 7.2.22" },
  accelerator: "tcg",
  name: "pod-1",
  monitorSocket: "/run/x/qmp.sock",
  channelSocket: "/run/x/agent.sock",
  guest: { kind: "uvm", kernel: "/uvm/vmlinux", initrd: "/uvm/initrd", root: "/uvm/root", commandLine: "console=ttyS0 quiet" },
  memoryMiB: 512,
  vcpus: 2,
  network: { kind: "none" },
};

const MACHINE = "q35,hpet=off,usb=off,vmport=off,smm=off,sata=off,smbus=off,i8042=off,graphics=off,dump-guest-core=off";

/** Arguments that follow each of the named options. */
function values(args: readonly string[], ...names: readonly string[]): readonly string[] {
  return args.flatMap((arg, index) => (names.includes(args[index - 1] ?? "") ? [arg] : []));
}

describe("the command line of QEMU", () => {
  it("is this, word for word", () => {
    expect(qemuArguments(PLAN)).toEqual(
      [
        ["-name", "guest=pod-1", "-no-user-config", "-nodefaults", "-no-reboot", "-display", "none"],
        ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"],
        ["-accel", "tcg,thread=multi", "-machine", MACHINE, "-cpu", "max"],
        ["-smp", "2", "-m", "512M"],
        ["-kernel", "/uvm/vmlinux", "-initrd", "/uvm/initrd", "-append", "console=ttyS0 quiet"],
        ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"],
        ["-chardev", "socket,id=monitor,path=/run/x/qmp.sock,reconnect=1", "-mon", "chardev=monitor,mode=control"],
        ["-chardev", "socket,id=channel,path=/run/x/agent.sock,reconnect=1"],
        ["-device", "virtio-serial-pci,id=serial,bus=pcie.0,addr=01.0,max_ports=2,disable-legacy=on"],
        ["-device", "virtserialport,bus=serial.0,chardev=channel,name=sealpod"],
        ["-blockdev", "driver=raw,node-name=root,read-only=on,file.driver=file,file.filename=/uvm/root"],
        ["-device", "virtio-blk-pci,drive=root,bus=pcie.0,addr=02.0,disable-legacy=on"],
        ["-object", "rng-random,id=random,filename=/dev/urandom"],
        ["-device", "virtio-rng-pci,rng=random,bus=pcie.0,addr=05.0,disable-legacy=on"],
        ["-device", "pci-bridge,id=bridge0,bus=pcie.0,addr=08.0,chassis_nr=1,shpc=off,mem-reserve=1M,pref64-reserve=1M"],
        ["-device", "pci-bridge,id=bridge1,bus=pcie.0,addr=09.0,chassis_nr=2,shpc=off,mem-reserve=1M,pref64-reserve=1M"],
      ].flat(),
    );
  });

  it("adds the initdata as the disk behind the root", () => {
    const args = qemuArguments({ ...PLAN, initdata: "/run/x/initdata" });
    expect(values(args, "-blockdev")).toEqual([
      "driver=raw,node-name=root,read-only=on,file.driver=file,file.filename=/uvm/root",
      "driver=raw,node-name=initdata,read-only=on,file.driver=file,file.filename=/run/x/initdata",
    ]);
    expect(args).toContain("virtio-blk-pci,drive=initdata,bus=pcie.0,addr=03.0,disable-legacy=on");
  });

  it("has a card for a user network, and one for each tap as functions of one slot", () => {
    const user = qemuArguments({ ...PLAN, network: { kind: "user" } });
    expect(values(user, "-netdev")).toEqual(["user,id=net0,ipv6=off"]);
    expect(user).toContain("virtio-net-pci,netdev=net0,mac=52:54:00:5e:a1:0d,romfile=,bus=pcie.0,addr=04.0,multifunction=on,disable-legacy=on");
    const interfaces = [
      { tap: "tap0_kata", mac: "02:00:00:00:00:01" },
      { tap: "tap1_kata", mac: "02:00:00:00:00:02" },
    ];
    const taps = qemuArguments({ ...PLAN, network: { kind: "tap", interfaces } });
    expect(values(taps, "-netdev")).toEqual([
      "tap,id=net0,ifname=tap0_kata,script=no,downscript=no,vhost=off",
      "tap,id=net1,ifname=tap1_kata,script=no,downscript=no,vhost=off",
    ]);
    expect(values(taps, "-device").filter((device) => device.startsWith("virtio-net"))).toEqual([
      "virtio-net-pci,netdev=net0,mac=02:00:00:00:00:01,romfile=,bus=pcie.0,addr=04.0,multifunction=on,disable-legacy=on",
      "virtio-net-pci,netdev=net1,mac=02:00:00:00:00:02,romfile=,bus=pcie.0,addr=04.1,disable-legacy=on",
    ]);
  });

  it("doubles commas, so that no path says anything else than its name", () => {
    expect(option("socket", { path: "/a,server=on" })).toBe("socket,path=/a,,server=on");
    const path = "/run/a,b";
    const args = qemuArguments({
      ...PLAN,
      monitorSocket: path,
      channelSocket: path,
      initdata: path,
      guest: { ...PLAN.guest, root: path, kernel: path, initrd: path },
      memoryFile: { path, shared: true },
    });
    // `-kernel` and `-initrd` take a path as it is.
    for (const arg of args) if (arg !== path) expect(arg.replaceAll("/run/a,,b", "")).not.toContain("/run/a");
    expect(args.filter((arg) => arg.includes("/run/a,,b"))).toHaveLength(5);
  });

  it("never lets QEMU choose the accelerator", () => {
    const kvm = qemuArguments({ ...PLAN, accelerator: "kvm" });
    expect(values(kvm, "-accel", "-machine", "-cpu")).toEqual(["kvm", `${MACHINE},kernel-irqchip=split`, "host"]);
  });

  it("keeps memory in a file for a template, and takes it from there for its machines", () => {
    const saved = qemuArguments({ ...PLAN, memoryFile: { path: "/t/memory", shared: true } });
    expect(values(saved, "-machine", "-object")).toEqual([
      `${MACHINE},memory-backend=memory`,
      "memory-backend-file,id=memory,size=512M,mem-path=/t/memory,share=on",
      "rng-random,id=random,filename=/dev/urandom",
    ]);
    const clone = qemuArguments({ ...PLAN, memoryFile: { path: "/t/memory", shared: false }, incoming: true });
    expect(clone).toEqual([...saved.map((arg) => arg.replace("share=on", "share=off")), "-incoming", "defer"]);
  });

  it("uses the name that the option for reconnecting has since QEMU 9.2", () => {
    const args = qemuArguments({ ...PLAN, version: { major: 9, minor: 2, text: "" } });
    expect(values(args, "-chardev").filter((arg) => arg.startsWith("socket"))).toEqual([
      "socket,id=monitor,path=/run/x/qmp.sock,reconnect-ms=1000",
      "socket,id=channel,path=/run/x/agent.sock,reconnect-ms=1000",
    ]);
  });

  it("starts with SEV-SNP: host data, hashes of the kernel, closed memory, no randomness of the host", () => {
    const snp = { memoryMiB: 512, hostData: new Uint8Array(32).fill(1) };
    const args = qemuArguments({
      ...PLAN,
      version: { major: 9, minor: 1, text: "" },
      accelerator: "kvm",
      guest: { ...PLAN.guest, firmware: "/ovmf/AmdSev.fd" },
      snp,
    });
    expect(values(args, "-accel", "-machine", "-cpu", "-object", "-bios")).toEqual([
      "kvm",
      `${MACHINE},kernel-irqchip=split,confidential-guest-support=snp,memory-backend=memory`,
      "EPYC-v4",
      "memory-backend-memfd,id=memory,size=512M,share=on,prealloc=off",
      `sev-snp-guest,id=snp,cbitpos=51,reduced-phys-bits=1,policy=0x30000,kernel-hashes=on,host-data=${Buffer.alloc(32, 1).toString("base64")}`,
      "/ovmf/AmdSev.fd",
    ]);
    for (const device of values(args, "-device").filter((text) => text.startsWith("virtio-"))) expect(device).toContain("iommu_platform=on");
    expect(args.join(" ")).not.toContain("rng");
  });

  it("gives an ID block and its authentication, another policy and another processor", () => {
    const id = { block: new Uint8Array(96).fill(2), authentication: new Uint8Array(4096).fill(3) };
    const snp = { memoryMiB: 512, hostData: new Uint8Array(32), id, policy: 0xb0000n, cpu: "EPYC-Milan-v2" };
    const args = qemuArguments({ ...PLAN, accelerator: "kvm", snp });
    const object = values(args, "-object").find((text) => text.startsWith("sev-snp-guest"));
    expect(object).toContain(",policy=0xb0000,");
    expect(
      object?.endsWith(`id-block=${Buffer.alloc(96, 2).toString("base64")},id-auth=${Buffer.alloc(4096, 3).toString("base64")},author-key-enabled=on`),
    ).toBe(true);
    expect(values(args, "-cpu")).toEqual(["EPYC-Milan-v2"]);
  });
});

describe("places of disks", () => {
  it("have paths of their own, as policies allow them", () => {
    const places = Array.from({ length: MAX_HOT_DISKS }, (_, index) => hotDisk(index));
    expect(MAX_HOT_DISKS).toBe(62);
    expect([places[0], places[30], places[31], places[61]]).toEqual([
      { bus: "bridge0", address: "01.0", path: "08/01" },
      { bus: "bridge0", address: "1f.0", path: "08/1f" },
      { bus: "bridge1", address: "01.0", path: "09/01" },
      { bus: "bridge1", address: "1f.0", path: "09/1f" },
    ]);
    expect(new Set(places.map((place) => place.path)).size).toBe(MAX_HOT_DISKS);
  });

  it("have devices that reach a confidential guest's memory only where it lets them", () => {
    expect([deviceAccess(false), deviceAccess(true)]).toEqual([{ "disable-legacy": "on" }, { "disable-legacy": "on", iommu_platform: "on" }]);
  });
});
