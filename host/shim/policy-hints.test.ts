import { describe, expect, it } from "vitest";
import { measureGrowth } from "../../tools/testing/growth.ts";
import { policyHints } from "./policy-hints.ts";

describe("what a policy's text says of its requests", () => {
  it.each([
    ["full", 'policy_data := {"storages": [{"driver": "blk", "driver_options": [], "fstype": "tar"}]}', "tar"],
    ["full", 'policy_data := {"storages": [{"fstype": "erofs", "driver": "blk"}, {"driver": "local", "fstype": "tar"}]}', "erofs"],
    ["small", 'r:="fstype"\nbH:={o:"blk",p:[],q:null,r:"tar",l:"$(layer0)",e:["$(hash0)"],d:""}', "tar"],
    ["small", 'bH:={o:"blk",p:[],q:null,r:"erofs",l:"$(layer0)"}\nx:="tar"', "erofs"],
    ["silent", 'live_storage(_, storage) if storage.driver in {"", "blk", "overlayfs"}\nx := "tar"', "erofs"],
  ])("%s text: the layers' file system", (_kind, text, format) => {
    expect(policyHints(text).layerFormat).toBe(format);
  });

  it.each([
    ['{"Version": "1.0.2-dev"}\nx := "1.1.0"', "1.0.2-dev"],
    ['{"OCI":{"Version":"1.1.0"}}', "1.1.0"],
    ['bG:="1.1.0-rc.1"\n{"Version":bG}', "1.1.0-rc.1"],
    ['a:="1.1.0"\nb:="1.1.0"', "1.1.0"],
    // Of two that have no name nobody knows which is meant.
    ['a:="1.1.0"\nb:="1.0.2"', undefined],
    ['a:="10.1.1.0"\nb:="v1.1.0"\nc:="1.1"', undefined],
    ["", undefined],
  ])("the version of the specification in %j", (text, version) => {
    expect(policyHints(text).ociVersion).toBe(version);
  });

  it.each([
    ['{"driver_options":["encryption_key=ephemeral","create_filesystem"]}', true],
    ['{"options":["mode=0777","fsgid=2000"]}', false],
    ["{}", undefined],
  ])("what becomes of emptyDirs in %j", (text, encrypted) => {
    expect(policyHints(text).encryptedEmptyDir).toBe(encrypted);
  });

  it("takes no more than its length of a text that was made to take long", () => {
    const growth = measureGrowth([2000, 16_000], 1.5, (count) => {
      const hostile = `${'"blk"{"Version":"1.'.repeat(count)}${'"1.0.0-'.repeat(count)}${'"Version" : '.repeat(count)}`;
      return () => void policyHints(hostile);
    });
    expect(growth).toBeLessThan(1.5);
  });
});
