import { Script } from "node:vm";
import { describe, expect, it } from "vitest";
import { bundle, BUNDLES, packagesOf } from "./bundle.ts";

// What may be inside the TEE, and in the shim. A line that is added here is a line that every user has to trust, but for what runs on the node.
const CLOSURES: Readonly<Record<string, readonly string[]>> = {
  agent: [
    "@bufbuild/protobuf",
    "guest/agent",
    "guest/tsm",
    "lib/core",
    "lib/mux",
    "lib/pki",
    "lib/proto",
    "lib/rego",
    "lib/snp",
    "lib/ttrpc",
    "lib/verity",
    "re2js",
  ],
  // Runs on the node, where nobody has to trust it: neither policies nor anything of the laptop's is its business.
  shim: [
    "@bufbuild/protobuf",
    "host/processor",
    "host/sandbox",
    "host/shim",
    "host/vmm",
    "lib/containerd",
    "lib/core",
    "lib/mux",
    "lib/oci",
    "lib/proto",
    "lib/ttrpc",
    "lib/verity",
    "smol-toml",
  ],
  // The emulated security processor of nodes without a real one. EMULATED - NO HARDWARE PROTECTION.
  processor: [
    "@bufbuild/protobuf",
    "@cto.af/wtf8",
    "cbor2",
    "guest/tsm",
    "host/processor",
    "laptop/io",
    "laptop/psp",
    "lib/core",
    "lib/cose",
    "lib/pki",
    "lib/proto",
    "lib/snp",
    "lib/ttrpc",
  ],
  encfs: ["guest/encfs", "guest/skr", "guest/tsm", "jose", "lib/core", "lib/luks2", "lib/pki", "lib/snp"],
  skr: ["guest/skr", "guest/tsm", "jose", "lib/core", "lib/pki", "lib/snp"],
  webapp: ["examples/key-release"],
};

describe("the bundles of programs", () => {
  it.each(Object.entries(BUNDLES))("%s contains what is on its list and nothing else", async (name, entry) => {
    const { metafile } = await bundle(entry);
    expect(packagesOf(metafile)).toEqual(CLOSURES[name]);
  });

  // The builder of the utility VM's image loads the agent as a script and saves it (guest/image/saved-agent.ts).
  it("has an agent that is a script, and makes no DataView before it is used", async () => {
    const text = Buffer.from((await bundle(BUNDLES["agent"] ?? "")).bytes).toString("latin1");
    expect(() => new Script(`(function (exports, require, module, __filename, __dirname) {${text}\n})`)).not.toThrow();
    expect(text).not.toContain("const dv = new DataView");
  });

  it.each(["agent", "shim"])("are the same bytes each time (%s)", async (name) => {
    const [first, second] = [await bundle(BUNDLES[name] ?? ""), await bundle(BUNDLES[name] ?? "")];
    expect(Buffer.from(first.bytes).equals(Buffer.from(second.bytes))).toBe(true);
  });
});
