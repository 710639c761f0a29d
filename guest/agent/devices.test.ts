import { create, DeviceSchema, type Device, type MessageInitShape } from "@sealpod/proto";
import { describe, expect, it } from "vitest";
import { grantedDevices } from "./devices.ts";
import { AgentError } from "./errors.ts";
import { errorOf } from "./test-support.ts";

const device = (fields: MessageInitShape<typeof DeviceSchema> = {}): Device =>
  create(DeviceSchema, { id: "02", type: "blk", containerPath: "/dev/data", ...fields });
const disks = {
  find: (source: string) =>
    source === "ff" ? Promise.reject(new AgentError("ERR_AGENT_STORAGE", "there is no disk")) : Promise.resolve({ path: `/dev/disk-${source}` }),
};
const numbers = (path: string): readonly [bigint, bigint] | undefined => (path === "/dev/disk-02" ? [254n, 16n] : undefined);

describe("disks as devices", () => {
  it("are found by their place in the machine", async () => {
    expect(await grantedDevices([device()], disks, numbers)).toEqual([{ path: "/dev/data", disk: "/dev/disk-02", major: 254n, minor: 16n }]);
    expect(await grantedDevices([], disks)).toEqual([]);
  });

  it("must be block devices: a file is none, nor is a character device", async () => {
    for (const path of [import.meta.filename, "/dev/null"]) {
      expect((await errorOf(() => grantedDevices([device()], { find: () => Promise.resolve({ path }) }))).code).toBe("ERR_AGENT_STORAGE");
    }
  });

  it.each<[string, readonly Device[], string]>([
    ["of another type", [device({ type: "vfio-pci" })], "ERR_AGENT_REQUEST"],
    ["with options", [device({ options: ["x"] })], "ERR_AGENT_REQUEST"],
    ["outside of /dev", [device({ containerPath: "/etc/passwd" })], "ERR_AGENT_PATH"],
    ["outside of /dev by another way", [device({ containerPath: "/dev/../etc/passwd" })], "ERR_AGENT_PATH"],
    ["in the place of a usual one", [device({ containerPath: "/dev/null" })], "ERR_AGENT_REQUEST"],
    ["twice at one place", [device(), device()], "ERR_AGENT_REQUEST"],
    ["in absurd numbers", Array.from({ length: 65 }, (_, i) => device({ containerPath: `/dev/d${i}` })), "ERR_AGENT_REQUEST"],
    ["that are not there", [device({ id: "ff" })], "ERR_AGENT_STORAGE"],
    ["that are no disks", [device({ id: "03" })], "ERR_AGENT_STORAGE"],
  ])("%s are refused", async (_what, devices, code) => {
    expect((await errorOf(() => grantedDevices(devices, disks, numbers))).code).toBe(code);
  });
});
