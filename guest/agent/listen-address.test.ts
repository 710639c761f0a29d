import { describe, expect, it } from "vitest";
import { parseListenAddress } from "./listen-address.ts";
import { errorOf } from "./test-support.ts";

describe("listen address", () => {
  it.each([
    ["unix:/run/agent.sock", "/run/agent.sock"],
    ["unix:///run/agent.sock", "/run/agent.sock"],
    ["unix://@/name", "\0/name"],
    ["unix:@name", "\0name"],
  ])("%s", (address, path) => expect(parseListenAddress(address)).toEqual({ kind: "unix", path }));

  it("names a virtio port or an inherited socket", () => {
    expect(parseListenAddress("virtio:sealpod")).toEqual({ kind: "virtio", name: "sealpod" });
    expect(parseListenAddress("fd:3")).toEqual({ kind: "descriptor", fd: 3 });
  });

  it.each([
    "",
    "unix:",
    "unix://",
    "unix://@",
    "unix:relative",
    "vsock://-1:1024",
    "tcp://0.0.0.0:1",
    "/run/agent.sock",
    "virtio:",
    "virtio:a/b",
    "virtio:A",
    "fd:",
    "fd:0",
    "fd:2",
    "fd:03",
    "fd:x",
    "unix:/a\0b",
    `unix:/${"x".repeat(107)}`,
  ])("refuses %j", async (address) => {
    expect((await errorOf(() => parseListenAddress(address))).code).toBe("ERR_AGENT_CONFIG");
  });
});
