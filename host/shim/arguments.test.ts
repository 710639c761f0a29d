import { describe, expect, it } from "vitest";
import { parseArguments, podDirectory, podKey, socketPath } from "./arguments.ts";

const COMMON = ["-namespace", "k8s.io", "-address", "/run/containerd/containerd.sock", "-publish-binary", "/usr/bin/containerd", "-id", "abc"];

describe("the shim's arguments", () => {
  it("are Go's flags, with one dash or two, before or after the action", () => {
    const expected = {
      action: "serve",
      namespace: "k8s.io",
      address: "/run/containerd/containerd.sock",
      id: "abc",
      config: "/etc/c.toml",
      debug: true,
      listenFd: 7,
    };
    const flags = [...COMMON, "-config", "/etc/c.toml", "-debug", "-listen-fd", "7"];
    expect(parseArguments([...flags, "serve"], "/b")).toMatchObject(expected);
    expect(parseArguments(["serve", ...flags.map((flag) => flag.replace(/^-/, "--"))], "/b")).toMatchObject(expected);
    expect(parseArguments([...COMMON, "-config=/etc/c.toml", "-debug", "-listen-fd=7", "serve"], "/b")).toMatchObject(expected);
  });

  it("have what nobody says", () => {
    expect(parseArguments([...COMMON, "-config", "/c", "serve"], "/b")).toEqual({
      action: "serve",
      namespace: "k8s.io",
      address: "/run/containerd/containerd.sock",
      id: "abc",
      config: "/c",
      debug: false,
      listenFd: undefined,
      readyFd: undefined,
      createLimitMs: 60_000,
    });
    expect(parseArguments([...COMMON, "-config", "/c", "delete"], "/b")).toMatchObject({ action: "delete", bundle: "/b" });
    expect(parseArguments([...COMMON, "-config", "/c", "-bundle", "/other", "delete"], "/b")).toMatchObject({ bundle: "/other" });
  });

  it("ask for the version, or for what the runtime is, alone", () => {
    for (const flag of ["-v", "--v", "-version", "--version"]) expect(parseArguments([flag], "/")).toEqual({ action: "version" });
    expect(parseArguments(["-info"], "/")).toEqual({ action: "info" });
  });

  it.each([
    [[...COMMON, "-config", "/c"], "the action is"],
    [[...COMMON, "-config", "/c", "stop"], 'the action is "stop"'],
    [[...COMMON, "-config", "/c", "serve", "delete"], 'the action is "serve delete"'],
    [[...COMMON, "serve"], "-config is"],
    [[...COMMON, "-config", "c.toml", "serve"], "-config is"],
    [["-id", "x", "-config", "/c", "serve"], "-namespace is"],
    [["-namespace", "n", "-config", "/c", "serve"], "-id is"],
    [["-namespace", "..", "-id", "x", "-config", "/c", "serve"], "-namespace is"],
    [["-namespace", "n", "-id", "../x", "-config", "/c", "delete"], "-id is"],
    [["-namespace", "n", "-id", "x/y", "-config", "/c", "delete"], "-id is"],
    [["-namespace", "n", "-id", "x".repeat(129), "-config", "/c", "delete"], "-id is"],
    [[...COMMON, "-config", "/c", "-listen-fd", "three", "serve"], "-listen-fd is"],
    [[...COMMON, "-config", "/c", "-ready-fd", "-1", "serve"], "ready-fd"],
    [[...COMMON, "-config", "/c", "-gone", "serve"], "gone"],
  ])("refuse %j", (args, message) => {
    expect(() => parseArguments(args, "/b")).toThrow(expect.objectContaining({ code: "ERR_SHIM_USAGE", message: expect.stringContaining(message) as string }));
  });
});

describe("where a shim is found", () => {
  const key = podKey({ address: "/run/containerd/containerd.sock", namespace: "k8s.io", id: "abc" });

  it("is the digest of its containerd, namespace and id, as the launcher computes it", () => {
    // printf %s /run/containerd/containerd.sock/k8s.io/abc | sha256sum
    expect(key).toBe("a99a1752d3a0fadfb1f869026f16760475df03a572e20f4ccea9e6c1e5470b72");
    expect(socketPath(key)).toBe(`/run/containerd/s/${key}`);
  });

  it("is another one for each of them", () => {
    const parts = { address: "/a", namespace: "n", id: "i" };
    const keys = [parts, { ...parts, address: "/b" }, { ...parts, namespace: "m" }, { ...parts, id: "j" }].map(podKey);
    expect(new Set(keys).size).toBe(4);
  });

  it("leaves room for the names of sockets in a pod's directory", () => {
    expect(podDirectory("/run/sealpod/pods", key)).toBe(`/run/sealpod/pods/${key.slice(0, 32)}`);
    expect(`${podDirectory("/run/sealpod/pods", key)}/vm`.length).toBeLessThan(90);
  });
});
