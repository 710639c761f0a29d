import { describe, expect, it } from "vitest";
import { launcherText } from "./launcher.ts";

const PLACES = { node: "/opt/sealpod/bin/node", shim: "/opt/sealpod/shim.mjs", config: "/etc/sealpod/shim.toml" };

describe("the launcher's text", () => {
  it("is a program for /bin/sh with the places in it", () => {
    const text = launcherText(PLACES);
    expect(text.startsWith("#!/bin/sh\n")).toBe(true);
    expect(text).toContain("\nnode='/opt/sealpod/bin/node'\nshim='/opt/sealpod/shim.mjs'\nconfig='/etc/sealpod/shim.toml'\n");
    expect(text).not.toMatch(/@[A-Z]+@/);
  });

  it("takes paths literally", () => {
    expect(launcherText({ ...PLACES, shim: "/a b/$&/$(reboot)/it's.mjs" })).toContain(`\nshim='/a b/$&/$(reboot)/it'\\''s.mjs'\n`);
  });

  it.each(["bin/node", "", "/opt/\nreboot", "/opt/\0"])("refuses the path %j", (node) => {
    expect(() => launcherText({ ...PLACES, node })).toThrow(expect.objectContaining({ code: "ERR_SHIM_USAGE" }));
  });
});
