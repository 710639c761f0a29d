import { describe, expect, it } from "vitest";
import type { GenpolicyError } from "./errors.ts";
import { AKS_KNOWN, COCO_KNOWN } from "./known-tools/test-support.ts";
import { AKS_PROFILE, COCO_PROFILE } from "./profile.ts";
import { parseSettings, type Settings } from "./settings.ts";
import { COCO_SETTINGS, dataOf, policiesOf, SETTINGS } from "./test-support.ts";
import { withWebhook } from "./webhook.ts";

const POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: app, image: 'app:1'}]}\n";
const OLD = "/var/run/secrets/azure/tokens";
const NEW = "/var/run/secrets/azure/wi";
const VARIABLE = "^AZURE_FEDERATED_TOKEN_FILE=";

const GENERATIONS = [
  ["aks", AKS_PROFILE, SETTINGS],
  ["coco", COCO_PROFILE, COCO_SETTINGS],
] as const;

/** What settings say of the token: the mounts, their destinations, the variable. */
function tokenOf({ otherContainer, mountDestinations, requestDefaults }: Settings): readonly unknown[] {
  const isAzure = (text: string): boolean => text.includes("/azure/");
  return [
    otherContainer.mounts.filter(({ destination }) => isAzure(destination)).map(({ destination, source }) => [destination, source]),
    mountDestinations.filter(isAzure),
    requestDefaults.CreateContainerRequest.allow_env_regex.filter((text) => text.startsWith(VARIABLE)),
  ];
}

const OF_OLD = [[[OLD, ""]], [OLD], [`${VARIABLE}${OLD}/azure-identity-token$`]];
const OF_NEW = [[[NEW, ""]], [NEW], [`${VARIABLE}${NEW}/token/azure-identity-token$`]];

describe.each(GENERATIONS)("our settings for %s", (_name, profile, text) => {
  const settings = parseSettings(text, "s.json", profile);
  const written = (version: string): string => JSON.stringify({ ...JSON.parse(text), sealpod: { follow_kubernetes: true, webhook_version: version } });

  it("expect the layout of 1.5, and nothing else changes when they are told so", () => {
    expect(tokenOf(settings)).toEqual(OF_OLD);
    expect(withWebhook(settings, "1.5", "s.json")).toEqual(settings);
  });

  it("are moved to 1.6 and back, the token alone", () => {
    const moved = withWebhook(settings, "1.6", "s.json");
    expect(tokenOf(moved)).toEqual(OF_NEW);
    expect(withWebhook(moved, "1.6", "s.json")).toEqual(moved);
    expect(withWebhook(moved, "1.5", "s.json")).toEqual(settings);
    expect(settings).toEqual(parseSettings(text, "s.json", profile));
  });

  it("say it themselves by sealpod.webhook_version", () => {
    expect(parseSettings(written("1.6"), "s.json", profile)).toEqual(withWebhook(settings, "1.6", "s.json"));
    expect(parseSettings(written("1.5"), "s.json", profile)).toEqual(settings);
    expect(() => parseSettings(written("1.7"), "s.json", profile)).toThrow('s.json: sealpod.webhook_version is "1.7", must be one of 1.5, 1.6');
  });

  it("expect one place alone, also where somebody wrote both", () => {
    const { otherContainer, mountDestinations, requestDefaults } = settings;
    const other = withWebhook(settings, "1.6", "s.json");
    const both: Settings = {
      ...settings,
      otherContainer: {
        ...otherContainer,
        mounts: [...otherContainer.mounts, ...other.otherContainer.mounts.filter(({ destination }) => destination === NEW)],
      },
      mountDestinations: [...mountDestinations, NEW],
      requestDefaults: {
        ...requestDefaults,
        CreateContainerRequest: {
          allow_env_regex: [...requestDefaults.CreateContainerRequest.allow_env_regex, `${VARIABLE}${NEW}/token/azure-identity-token$`],
        },
      },
    };
    expect(tokenOf(withWebhook(both, "1.6", "s.json"))).toEqual(OF_NEW);
    expect(withWebhook(both, "1.5", "s.json")).toEqual(settings);
  });

  it("make a policy with the mount and the variable of 1.6", async () => {
    const [policy] = await policiesOf(POD, { "app:1": {} }, { profile, settings: written("1.6") });
    const data = dataOf(policy);
    const mounts = data.containers[1]?.OCI.Mounts.filter(({ destination }) => destination.includes("azure"));
    expect(mounts).toEqual([{ destination: NEW, source: "$(sfprefix)wi$", type_: "bind", options: ["rbind", "rprivate", "ro"] }]);
    expect(policy?.policy).not.toContain(OLD);
    expect(data.request_defaults.CreateContainerRequest.allow_env_regex).toContain(`${VARIABLE}${NEW}/token/azure-identity-token$`);
  });

  it.each<readonly [what: string, change: (settings: Settings) => Settings, missing: string]>([
    [
      "the mount",
      (all) => ({ ...all, otherContainer: { ...all.otherContainer, mounts: all.otherContainer.mounts.filter(({ destination }) => destination !== OLD) } }),
      "other_container.Mounts",
    ],
    ["its destination", (all) => ({ ...all, mountDestinations: all.mountDestinations.filter((item) => item !== OLD) }), "mount_destinations"],
    [
      "the variable",
      (all) => ({ ...all, requestDefaults: { ...all.requestDefaults, CreateContainerRequest: { allow_env_regex: ["^X=$"] } } }),
      "request_defaults.CreateContainerRequest.allow_env_regex",
    ],
  ])("cannot be moved without %s", (_what, change, missing) => {
    let error: unknown;
    try {
      withWebhook(change(settings), "1.6", "mine.json");
    } catch (reason) {
      error = reason;
    }
    expect(error).toMatchObject({ code: "ERR_GENPOLICY_SETTINGS", hint: expect.stringContaining("--webhook-version") as string });
    expect((error as GenpolicyError).message).toBe(`mine.json: no token of the workload-identity webhook, of no version: not in ${missing}`);
  });
});

describe("settings of the known tools", () => {
  it.each([
    ["2023", AKS_PROFILE, AKS_KNOWN],
    ["upstream", COCO_PROFILE, COCO_KNOWN],
  ] as const)("of %s, which name the copy, are moved too", (_name, profile, known) => {
    const settings = parseSettings(JSON.stringify(known), "s.json", profile);
    const { otherContainer, mountDestinations, requestDefaults } = settings;
    // As shipped (specs/genpolicy.md 4.1); the fixture has only what its tests need.
    const shipped: Settings = {
      ...settings,
      otherContainer: {
        ...otherContainer,
        mounts: [...otherContainer.mounts, { destination: OLD, source: "$(sfprefix)tokens$", type_: "bind", options: ["rbind", "rprivate", "ro"] }],
      },
      mountDestinations: [...mountDestinations, OLD],
      requestDefaults: {
        ...requestDefaults,
        CreateContainerRequest: { allow_env_regex: [`${VARIABLE}${OLD}/azure-identity-token$`] },
      },
    };
    expect(tokenOf(withWebhook(shipped, "1.6", "s.json"))).toEqual([[[NEW, "$(sfprefix)wi$"]], [NEW], [`${VARIABLE}${NEW}/token/azure-identity-token$`]]);
    expect(withWebhook(withWebhook(shipped, "1.6", "s.json"), "1.5", "s.json")).toEqual(shipped);
  });
});
