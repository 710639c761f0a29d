import { parseToml } from "@sealpod/shim";
import { describe, expect, it } from "vitest";
import { addRuntimes, removeRuntimes, verifyDump } from "./containerd-config.ts";
import { InstallError } from "./index.ts";

const SHIM = "/etc/sealpod/shim.toml";
const CRI = 'plugins."io.containerd.grpc.v1.cri"';
const add = (text: string | undefined): string => addRuntimes(text, "config.toml", SHIM);
const remove = (text: string): string | undefined => removeRuntimes(text, "config.toml");
const runtimes = (text: string, cri = "io.containerd.grpc.v1.cri"): Readonly<Record<string, unknown>> =>
  (parseToml(text, "it") as { plugins: Record<string, { containerd: { runtimes: Record<string, unknown> } }> }).plugins[cri]?.containerd.runtimes ?? {};
const refusal = (run: () => unknown): InstallError => {
  try {
    run();
  } catch (error) {
    if (error instanceof InstallError) return error;
    throw error;
  }
  throw new Error("it was taken");
};

const RUNC = `version = 2\n[${CRI}.containerd.runtimes.runc]\n  runtime_type = "io.containerd.runc.v2"\n`;

const TEXTS: readonly [string, string][] = [
  ["a version alone", "version = 2\n"],
  ["no line break at the end", "version = 2"],
  ["comments, and a comment without a line break", "# one\nversion = 2 # two\n# three"],
  ["CRI's part", `version = 2\n[${CRI}]\n  sandbox_image = "x"\n  [${CRI}.cni]\n    bin_dir = "/usr/lib/cni"\n`],
  ["other runtimes", `${RUNC}[${CRI}.containerd.runtimes.gvisor]\n  runtime_type = "io.containerd.runsc.v1"\n`],
  ["line breaks of Windows", RUNC.replaceAll("\n", "\r\n")],
  ["empty lines at the end", "version = 2\n\n\n"],
  ["imports", 'version = 2\nimports = ["/etc/containerd/conf.d/*.toml"]\n'],
  ["text of ours in a value", `version = 2\n[${CRI}]\n  sandbox_image = "# BEGIN sealpod"\n`],
];

describe("containerd's configuration with the runtimes", () => {
  it.each(TEXTS)("with %s is the same again without them", (_name, text) => {
    const added = add(text);
    expect(added).not.toBe(text);
    expect(added.startsWith(text)).toBe(true);
    expect(Object.keys(runtimes(added))).toEqual(expect.arrayContaining(["kata-cc", "kata-cc-isolation", "runc"]));
    expect(remove(added)).toBe(text);
  });

  it.each(TEXTS)("with %s is not changed by a second time", (_name, text) => {
    expect(add(add(text))).toBe(add(text));
  });

  it("says what the shim needs", () => {
    expect(runtimes(add(RUNC))["kata-cc"]).toEqual({
      runtime_type: "io.containerd.kata-cc.v2",
      privileged_without_host_devices: true,
      pod_annotations: ["io.katacontainers.*"],
      container_annotations: ["io.katacontainers.*"],
      options: { ConfigPath: SHIM },
    });
  });

  it("keeps containerd's own runtime, which goes when another is named", () => {
    expect(runtimes(add("version = 2\n"))["runc"]).toEqual({ runtime_type: "io.containerd.runc.v2" });
    // Whoever names others and not this one does not have it, and is not given it.
    expect(Object.keys(runtimes(add(RUNC.replaceAll("runc", "gvisor"))))).toEqual(["gvisor", "kata-cc", "kata-cc-isolation"]);
  });

  it("is made where there is none, and goes again", () => {
    const made = add(undefined);
    expect(parseToml(made, "it")["version"]).toBe(2);
    expect(add(made)).toBe(made);
    expect(remove(made)).toBeUndefined();
  });

  it("keeps what others have added since", () => {
    const more = `[${CRI}.containerd.runtimes.wasm]\n  runtime_type = "w"\n`;
    expect(remove(`${add(RUNC)}${more}`)).toBe(RUNC + more);
    expect(remove(add(`${add(RUNC)}${more}`))).toBe(RUNC + more);
    const timeout = `[${CRI}]\n  stream_idle_timeout = "1h"\n`;
    expect(remove(`${add("version = 2")}${timeout}`)).toBe(`version = 2\n${timeout}`);
    expect(remove(`${add(undefined)}${timeout}`)).toBe(`version = 2\n${timeout}`);
  });

  it("keeps containerd's own runtime for whoever has added another since", () => {
    const more = `[${CRI}.containerd.runtimes.wasm]\n  runtime_type = "w"\n`;
    for (const text of ["version = 2\n", "version = 2", undefined]) {
      const both = `${add(text)}${more}`;
      expect(Object.keys(runtimes(add(both))).toSorted()).toEqual(["kata-cc", "kata-cc-isolation", "runc", "wasm"]);
      expect(add(both)).toBe(both);
      expect(runtimes(remove(both) ?? "")).toEqual({ wasm: { runtime_type: "w" }, runc: { runtime_type: "io.containerd.runc.v2" } });
      expect((remove(both) ?? "").startsWith(`version = 2\n${more}`)).toBe(true);
    }
  });

  it("is renewed when the shim's configuration is elsewhere", () => {
    const renewed = addRuntimes(add(RUNC), "config.toml", "/srv/shim.toml");
    expect(renewed).toContain("/srv/shim.toml");
    expect(renewed).not.toContain(SHIM);
    expect(remove(renewed)).toBe(RUNC);
  });

  it("has the names of containerd 2 in a file of version 3", () => {
    const text = 'version = 3\n[plugins."io.containerd.cri.v1.runtime"]\n';
    expect(Object.keys(runtimes(add(text), "io.containerd.cri.v1.runtime"))).toEqual(["runc", "kata-cc", "kata-cc-isolation"]);
    expect(remove(add(text))).toBe(text);
  });

  it.each<[string, string, RegExp]>([
    ["no TOML", "version = ", /config\.toml:1/],
    ["no version", 'root = "/x"\n', /version 1 \(none is named\), expected 2 or 3/],
    ["version 1", "version = 1\n", /version 1, expected/],
    ["a version of tomorrow", "version = 4\n", /version 4/],
    ["a version that is a text", 'version = "2"\n', /version "2"/],
    ["CRI disabled", 'version = 2\ndisabled_plugins = ["cri"]\n', /disables CRI/],
    ["CRI disabled by its name", 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n', /disables CRI/],
    ["a runtime of that name", `version = 2\n[${CRI}.containerd.runtimes.kata-cc]\n`, /runtime kata-cc that sealpod did not write/],
    ["an inline table above", 'version = 2\n[plugins]\n"io.containerd.grpc.v1.cri" = { sandbox_image = "x" }\n', /config\.toml:\d/],
    ["a text for a table", 'version = 2\nplugins = "x"\n', /something other than tables/],
    ["runtimes that are none", `version = 2\n[${CRI}.containerd]\nruntimes = 3\n`, /no table/],
    ["our first line alone", "version = 2\n# BEGIN sealpod\n", /1 lines "# BEGIN sealpod" and 0/],
    ["our last line alone", "version = 2\n# END sealpod\n", /0 lines "# BEGIN sealpod" and 1/],
    ["our lines in the other order", "version = 2\n# END sealpod\n# BEGIN sealpod\n", /in this order/],
    ["our part twice", `${add("version = 2\n")}# BEGIN sealpod\n# END sealpod\n`, /2 lines/],
    ["more than the limit", `version = 2\n${"#".repeat(1024 * 1024)}`, /more than 1048576/],
  ])("with %s is left as it is", (_name, text, message) => {
    const error = refusal(() => add(text));
    expect(error.code).toBe("ERR_INSTALL_CONTAINERD");
    expect(error.message).toMatch(message);
    expect(error.hint).toBeDefined();
  });

  it("without our last line is not taken apart", () => {
    expect(refusal(() => remove(add(RUNC).replace("# END sealpod\n", ""))).code).toBe("ERR_INSTALL_CONTAINERD");
    expect(remove(RUNC)).toBe(RUNC);
  });
});

describe("what containerd makes of it", () => {
  const dump = (text: string): string => `imports = ["a"]\n${text}`;
  const before = dump(
    `[${CRI}]\n  sandbox_image = "x"\n  empty = ""\n  [${CRI}.containerd.runtimes.runc]\n    runtime_type = "r"\n    sandbox_mode = "podsandbox"\n`,
  );
  const after = (text: string): string =>
    `${text.replace('["a"]', '["b"]')}  [${CRI}.containerd.runtimes.kata-cc]\n  [${CRI}.containerd.runtimes.kata-cc-isolation]\n`;

  it("has all that was there before", () => {
    verifyDump(before, after(before), "config.toml");
    verifyDump(before, after(before).replace('  empty = ""\n', "").replace('sandbox_mode = "podsandbox"', 'sandbox_mode = ""'), "config.toml");
  });

  it.each<[string, string, RegExp]>([
    ["without the runtimes", before, /does not have the runtimes/],
    [
      "without a runtime",
      after(before).replace("runtimes.runc", "runtimes.other"),
      /lose or change plugins\.io\.containerd\.grpc\.v1\.cri\.containerd\.runtimes\.runc\.runtime_type/,
    ],
    ["with another pause image", after(before).replace('"x"', '"y"'), /sandbox_image/],
  ])("is refused %s", (_name, text, message) => {
    expect(refusal(() => verifyDump(before, text, "config.toml")).message).toMatch(message);
  });
});
