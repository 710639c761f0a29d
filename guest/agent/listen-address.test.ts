import { describe, expect, it } from "vitest";
import { parseListenAddress } from "./listen-address.ts";
import { errorOf } from "./test-support.ts";

describe("listen address", () => {
  it.each([
    ["unix:/run/agent.sock", "/run/agent.sock"],
    ["unix:///run/agent.sock", "/run/agent.sock"],
    ["unix://@/name", "\0/name"],
    ["unix:@name", "\0name"],
  ])("%s", (address, path) => expect(parseListenAddress(address)).toBe(path));

  it.each([
    "",
    "unix:",
    "unix://",
    "unix://@",
    "unix:relative",
    "vsock://-1:1024",
    "tcp://0.0.0.0:1",
    "/run/agent.sock",
    "unix:/a\0b",
    `unix:/${"x".repeat(107)}`,
  ])("refuses %j", async (address) => {
    expect((await errorOf(() => parseListenAddress(address))).code).toBe("ERR_AGENT_CONFIG");
  });
});
