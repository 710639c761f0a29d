import type { JsonObject } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { AKS_KNOWN, COCO_KNOWN } from "./known-tools/test-support.ts";
import { AKS_PROFILE, COCO_PROFILE, type Profile } from "./profile.ts";
import { parseSettings, type Settings } from "./settings.ts";
import { COCO_SETTINGS, SETTINGS } from "./test-support.ts";

const parse = (json: unknown, profile: Profile = AKS_PROFILE): Settings =>
  parseSettings(typeof json === "string" ? json : JSON.stringify(json), "s.json", profile);

/** The settings without the member at a path, or with another value there. */
function broken(settings: JsonObject, path: string, value?: unknown): unknown {
  const copy = structuredClone(settings) as unknown as Record<string, unknown>;
  const steps = path.split(".");
  const last = steps.pop() ?? "";
  let at = copy;
  for (const step of steps) at = at[step] as Record<string, unknown>;
  if (value === undefined) delete at[last];
  else at[last] = value;
  return copy;
}

describe("parseSettings", () => {
  it("reads what comes with sealpod", () => {
    expect(parse(SETTINGS)).toMatchObject({ pauseImage: "sealpod.internal/pause:1", followKubernetes: true, layerFormat: "erofs", guestPull: false });
    expect(parse(COCO_SETTINGS, COCO_PROFILE)).toMatchObject({ pauseImage: "sealpod.internal/pause:1", followKubernetes: true, layerFormat: "erofs" });
  });

  it("reads those of the known tools, and ignores what it does not know", () => {
    expect(parse({ ...AKS_KNOWN, unknown: 1 })).toMatchObject({
      pauseImage: "mcr.microsoft.com/oss/kubernetes/pause:3.6",
      ociVersion: "1.1.0-rc.1",
      followKubernetes: false,
      layerFormat: "tarfs",
      configMapStorages: false,
    });
    expect(parse({ ...COCO_KNOWN, unknown: 1 }, COCO_PROFILE)).toMatchObject({
      pauseImage: "pause.example:3",
      ociVersion: "1.1.0",
      followKubernetes: false,
      layerFormat: "none",
      emptyDirType: "block-encrypted",
    });
  });

  it.each([
    ["upstream's", COCO_KNOWN, AKS_PROFILE, "s.json: these are settings of upstream's tool, the profile is aks", "Pass --profile coco."],
    [
      "our coco",
      JSON.parse(COCO_SETTINGS) as JsonObject,
      AKS_PROFILE,
      "s.json: these are settings of upstream's tool, the profile is aks",
      "Pass --profile coco.",
    ],
    ["those of 2023", AKS_KNOWN, COCO_PROFILE, "s.json: these are settings of the AKS tool of 2023, the profile is coco", "Pass --profile aks."],
  ])("knows %s settings in the wrong profile", (_name, settings, profile, message, hint) => {
    let error: unknown;
    try {
      parse(settings, profile);
    } catch (reason) {
      error = reason;
    }
    expect(error).toMatchObject({ code: "ERR_GENPOLICY_SETTINGS", message, hint });
  });

  it.each<readonly [json: unknown, profile: Profile, message: string]>([
    ["{", AKS_PROFILE, "s.json:1:2: a name in double quotes expected"],
    ['{"a": 1, "a": 2}', AKS_PROFILE, 's.json:1:13: duplicate name "a"'],
    ["[]", AKS_PROFILE, "s.json: the settings must be an object"],
    [broken(AKS_KNOWN, "common.cpath"), AKS_PROFILE, "s.json: common.cpath is missing"],
    [broken(AKS_KNOWN, "request_defaults"), AKS_PROFILE, "s.json: request_defaults is missing"],
    [broken(AKS_KNOWN, "request_defaults.ReadStreamRequest", "yes"), AKS_PROFILE, "s.json: request_defaults.ReadStreamRequest must be true or false"],
    [broken(AKS_KNOWN, "pause_container.Mounts", [{}]), AKS_PROFILE, "s.json: pause_container.Mounts[0].destination is missing"],
    [broken(AKS_KNOWN, "other_container.Root"), AKS_PROFILE, "s.json: other_container.Root is missing"],
    [broken(AKS_KNOWN, "common.default_caps", "x"), AKS_PROFILE, "s.json: common.default_caps must be an array"],
    [broken(AKS_KNOWN, "volumes.emptyDir"), AKS_PROFILE, "s.json: volumes.emptyDir is missing"],
    [
      broken(AKS_KNOWN, "common.image_layer_verification", "sha1"),
      AKS_PROFILE,
      's.json: common.image_layer_verification is "sha1", must be one of none, host-tarfs-dm-verity, host-erofs-dm-verity',
    ],
    [
      broken(AKS_KNOWN, "other_container.Process", { User: { UID: -1 } }),
      AKS_PROFILE,
      "s.json: other_container.Process.User.UID must be a whole number from 0 to 4294967295",
    ],
    [broken(AKS_KNOWN, "other_container.Annotations", { a: 1 }), AKS_PROFILE, "s.json: other_container.Annotations.a must be text"],
    [broken(COCO_KNOWN, "common.spath"), COCO_PROFILE, "s.json: common.spath is missing"],
    [
      broken(COCO_KNOWN, "cluster_config.emptydir_type", "zfs"),
      COCO_PROFILE,
      's.json: cluster_config.emptydir_type is "zfs", must be one of shared-fs, block-encrypted, block-plain',
    ],
    [
      broken(COCO_KNOWN, "request_defaults.AddARPNeighborsRequest.allowed_states", [2, "x"]),
      COCO_PROFILE,
      "s.json: request_defaults.AddARPNeighborsRequest.allowed_states[1] must be a whole number",
    ],
    [
      broken(COCO_KNOWN, "request_defaults.ExecProcessRequest.commands", ["ls"]),
      COCO_PROFILE,
      "s.json: request_defaults.ExecProcessRequest.commands is not supported any more: write lists of arguments into allowed_commands",
    ],
    [broken(COCO_KNOWN, "devices.vfio.nvidia"), COCO_PROFILE, "s.json: devices.vfio.nvidia is missing"],
  ])("%# names the setting that is missing or of the wrong type", (json, profile, message) => {
    expect(() => parse(json, profile)).toThrow(message);
  });

  it("does not look settings up in prototypes", () => {
    expect(() => parse(broken(AKS_KNOWN, "common.cpath", undefined))).toThrow("common.cpath is missing");
    expect(() => parse('{"__proto__": {"common": {}}}')).toThrow("s.json: volumes is missing");
  });

  it("prints an empty list of the deprecated commands, and groups of storages", () => {
    const settings = parse(
      broken(broken(COCO_KNOWN, "request_defaults.ExecProcessRequest.commands", []) as JsonObject, "sandbox.storages", [
        { fs_group: { group_id: 5 }, shared: true },
      ]),
      COCO_PROFILE,
    );
    expect(Object.keys(settings.requestDefaults.ExecProcessRequest)).toEqual(["commands", "allowed_commands", "regex"]);
    expect(settings.sandboxStorages).toEqual([
      { driver: "", driver_options: [], source: "", fstype: "", options: [], mount_point: "", fs_group: { group_id: 5, group_change_policy: 0 }, shared: true },
    ]);
  });
});
