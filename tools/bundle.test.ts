import { Script } from "node:vm";
import { describe, expect, it } from "vitest";
import { bundle, BUNDLES, packagesOf } from "./bundle.ts";

// What may be inside the TEE. A line that is added here is a line that every user has to trust.
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
  encfs: ["guest/encfs", "guest/skr", "guest/tsm", "jose", "lib/core", "lib/luks2", "lib/pki", "lib/snp"],
  skr: ["guest/skr", "guest/tsm", "jose", "lib/core", "lib/pki", "lib/snp"],
  webapp: ["examples/key-release"],
};

describe("the bundles that run inside the guest", () => {
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

  it("are the same bytes each time", async () => {
    const [first, second] = [await bundle(BUNDLES["agent"] ?? ""), await bundle(BUNDLES["agent"] ?? "")];
    expect(Buffer.from(first.bytes).equals(Buffer.from(second.bytes))).toBe(true);
  });
});
