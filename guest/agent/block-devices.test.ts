import { mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { setImmediate } from "node:timers/promises";
import { describe, expect, it } from "vitest";
import { type DeviceTree, directoryDevices, machineDevices } from "./block-devices.ts";
import { errorOf, inTemporaryDirectory } from "./test-support.ts";

/** A machine's `/sys` and `/dev`, and a host that plugs disks in. */
class FakeMachine {
  readonly tree: DeviceTree;
  readonly #root: string;
  readonly #patience = new AbortController();
  readonly #changed = new Set<() => void>();

  constructor(root: string) {
    this.#root = root;
    for (const directory of ["sys/class/block", "sys/bus/pci/devices", "sys/devices/pci0000:00", "dev"]) mkdirSync(`${root}/${directory}`, { recursive: true });
    this.tree = {
      sysfs: `${root}/sys`,
      dev: `${root}/dev`,
      watch: (_directory, changed, signal) => {
        this.#changed.add(changed);
        signal.addEventListener("abort", () => this.#changed.delete(changed));
      },
      patience: () => this.#patience.signal,
    };
  }

  /** Who waits for an event. */
  get waiting(): number {
    return this.#changed.size;
  }

  /** A PCI device at an address and below bridges, and its disk as Linux shows it. */
  plug(path: string, disk: string, options: { readonly sectors?: number; readonly holder?: string; readonly hasNode?: boolean } = {}): void {
    const device = `${this.#root}/sys/devices/pci0000:00/${path}`;
    const block = `${device}/virtio3/block/${disk}`;
    mkdirSync(`${block}/holders`, { recursive: true });
    writeFileSync(`${block}/size`, `${options.sectors ?? 16}\n`);
    if (options.holder !== undefined) mkdirSync(`${block}/holders/${options.holder}`);
    symlinkSync(block, `${this.#root}/sys/class/block/${disk}`);
    symlinkSync(device, `${this.#root}/sys/bus/pci/devices/${path.slice(path.lastIndexOf("/") + 1)}`);
    if (options.hasNode !== false) this.makeNode(disk);
  }

  makeNode(name: string): void {
    writeFileSync(`${this.#root}/dev/${name}`, "");
    for (const changed of this.#changed) changed();
  }

  giveUp(): void {
    this.#patience.abort();
  }
}

async function onMachine(use: (machine: FakeMachine, dev: string) => Promise<void>): Promise<void> {
  await inTemporaryDirectory(async (path) => {
    await use(new FakeMachine(path), `${path}/dev`);
  });
}

describe("disks of a machine", () => {
  it.each<[string, string, string]>([
    ["02", "0000:00:02.0", "a slot of the root bus"],
    ["02.3", "0000:00:02.3", "a function of one"],
    ["1f/00", "0000:00:1f.0/0000:05:00.0", "a slot behind a port"],
    ["03.1/00", "0000:00:03.1/0000:0b:00.0", "a slot behind a function that is a port"],
    ["03/01/0a.7", "0000:00:03.0/0000:01:01.0/0000:02:0a.7", "a slot behind two bridges"],
    ["0000:00:02.0", "0000:00:02.0", "an address"],
    ["0001:07:1e.0", "0001:07:1e.0", "an address in another segment"],
    ["/dev/vdc", "0000:00:02.0", "a node"],
  ])("are found by %s", (source, path) =>
    onMachine(async (machine, dev) => {
      machine.plug("0000:00:04.0", "vdb");
      machine.plug(path, "vdc", { sectors: 24 });
      expect(await machineDevices(machine.tree).find(source)).toEqual({ path: `${dev}/vdc`, size: 24 * 512 });
      expect(machine.waiting).toBe(0);
    }),
  );

  it.each([
    "",
    "2",
    "02/",
    "/02",
    "20",
    "02.8",
    "0g",
    "02/03/04/05",
    "..",
    "02/../04",
    "0000:00:02",
    "0000:00:20.0",
    "/dev/vda1",
    "/dev/mem",
    "/dev/sda",
    "/dev/mapper/x",
    "/dev/../dev/vdb",
    "vdb",
    "02\n",
    "0A",
  ])("cannot be named %j", (source) =>
    onMachine(async (machine) => {
      machine.plug("0000:00:02.0", "vdb");
      expect((await errorOf(() => machineDevices(machine.tree).find(source))).code).toBe("ERR_AGENT_REQUEST");
      expect(machine.waiting).toBe(0);
    }),
  );

  it("are waited for, until their node is there", () =>
    onMachine(async (machine, dev) => {
      const found = machineDevices(machine.tree).find("05/00");
      expect(machine.waiting).toBe(1);
      machine.plug("0000:00:06.0/0000:06:00.0", "vdb");
      machine.plug("0000:00:05.0/0000:05:00.0", "vdd", { hasNode: false });
      machine.makeNode("vde");
      await setImmediate();
      expect(machine.waiting).toBe(1);
      machine.makeNode("vdd");
      expect(await found).toEqual({ path: `${dev}/vdd`, size: 8192 });
      expect(machine.waiting).toBe(0);
    }));

  it("are found if they come while the wait begins", () =>
    onMachine(async (machine, dev) => {
      const watch = (): void => machine.plug("0000:00:05.0", "vdd");
      expect(await machineDevices({ ...machine.tree, watch }).find("05")).toEqual({ path: `${dev}/vdd`, size: 8192 });
    }));

  it("are waited for no longer than a disk may take", () =>
    onMachine(async (machine) => {
      const found = errorOf(() => machineDevices(machine.tree).find("05/00"));
      machine.giveUp();
      expect(await found).toMatchObject({ code: "ERR_AGENT_STORAGE", message: 'there is no disk at "05/00"' });
      expect(machine.waiting).toBe(0);
    }));

  it("are not given twice: one that is held by another device is in use, the root's among them", () =>
    onMachine(async (machine) => {
      machine.plug("0000:00:02.0", "vda", { holder: "dm-0" });
      for (const source of ["02", "0000:00:02.0", "/dev/vda"]) {
        expect(await errorOf(() => machineDevices(machine.tree).find(source))).toMatchObject({
          code: "ERR_AGENT_STORAGE",
          message: expect.stringContaining("in use") as string,
        });
      }
      expect(machineDevices(machine.tree).list()).toEqual([]);
    }));

  it("are no devices of other kinds", () =>
    onMachine(async (machine) => {
      machine.plug("0000:00:02.0", "loop0");
      machine.giveUp();
      expect((await errorOf(() => machineDevices(machine.tree).find("02"))).code).toBe("ERR_AGENT_STORAGE");
      expect(machineDevices(machine.tree).list()).toEqual([]);
    }));

  it("are listed in their order, without those in use", () =>
    onMachine(async (machine, dev) => {
      for (const [index, name] of ["sda", "vdaa", "vdc", "vda", "vdb"].entries()) {
        machine.plug(`0000:00:0${index}.0`, name, name === "vda" ? { holder: "dm-0" } : {});
      }
      expect(machineDevices(machine.tree).list()).toEqual(["vdb", "vdc", "vdaa", "sda"].map((name) => ({ path: `${dev}/${name}`, size: 8192 })));
      rmSync(`${dev}/vdc`);
      expect(
        machineDevices(machine.tree)
          .list()
          .map(({ path }) => path),
      ).not.toContain(`${dev}/vdc`);
    }));
});

describe("disks of a process", () => {
  it("are files by their slot", () =>
    inTemporaryDirectory(async (path) => {
      mkdirSync(`${path}/devices/0d`, { recursive: true });
      writeFileSync(`${path}/layer`, "12345");
      symlinkSync(`${path}/layer`, `${path}/devices/02`);
      writeFileSync(`${path}/devices/x`, "");
      const disks = directoryDevices(`${path}/devices`);
      const disk = { path: `${path}/devices/02`, size: 5 };
      expect(await disks.find("02")).toEqual(disk);
      expect(disks.list()).toEqual([disk]);
      for (const source of ["03", "0d"]) expect((await errorOf(() => disks.find(source))).code).toBe("ERR_AGENT_STORAGE");
      for (const source of ["x", "../layer", "2", "02/00", ""]) expect((await errorOf(() => disks.find(source))).code).toBe("ERR_AGENT_REQUEST");
      expect(directoryDevices(`${path}/nowhere`).list()).toEqual([]);
    }));
});
