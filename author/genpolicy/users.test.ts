import { describe, expect, it } from "vitest";
import { AKS_TOOL, changed, COCO_TOOL, knownData, knownPolicies, type KnownTool, podYaml } from "./known-tools/test-support.ts";
import { readDatabase, readDatabaseAsTool } from "./passwd.ts";
import { COCO_PROFILE } from "./profile.ts";
import { dataOf, generated, policiesOf, type UserFiles } from "./test-support.ts";

/** An image's user files: a user of its own group, one in more groups, one whose group is 0. */
const FILES: UserFiles = {
  passwd: "root:x:0:0:root:/root:/bin/sh\nnginx:x:101:102:n:/:/bin/false\nalso:x:101:103:a:/:/bin/false\nzero:x:50:0:z:/:/bin/false\n",
  group: "root:x:0:root\nnginx:x:102:nginx\nweb:x:200:nginx,other\nlogs:x:300:other,nginx\nzeros:x:400:zero\n",
};

type User = readonly [uid: number, gid: number, groups: readonly number[]];

const yaml = (container: string, pod: string): string =>
  podYaml(container === "" ? "" : `    securityContext: {${container}}\n`, pod === "" ? "" : `  securityContext: {${pod}}\n`);

function userOf({ User }: { readonly User: unknown }): User {
  const { UID, GID, AdditionalGids } = User as { UID: number; GID: number; AdditionalGids: readonly number[] };
  return [UID, GID, AdditionalGids];
}

describe("upstream's tool (5.5)", () => {
  it.each<readonly [user: string, pod: string, container: string, expected: User]>([
    ["", "", "", [0, 0, [0]]],
    ["101", "", "", [101, 102, [102, 200, 300]]],
    ["nginx", "", "", [101, 102, [102, 200, 300]]],
    // Workloads ignore the image's group.
    ["101:7", "", "", [101, 102, [102, 200, 300]]],
    ["nobody", "", "", [0, 0, [0]]],
    ["999", "", "", [999, 0, [0]]],
    ["a:b:c", "", "", [0, 0, [0]]],
    ["", "runAsUser: 50", "", [50, 0, [0, 400]]],
    ["", "runAsUser: 101", "", [101, 102, [102, 200, 300]]],
    ["", "runAsUser: 999", "", [999, 0, [0]]],
    ["101", "runAsGroup: 9", "", [101, 9, [9, 200, 300]]],
    ["101", "runAsUser: 50, runAsGroup: 9", "", [50, 9, [9, 400]]],
    ["", "fsGroup: 5, supplementalGroups: [8, 6, 5]", "", [0, 0, [0, 5, 6, 8]]],
    ["", "", "runAsUser: 101", [101, 102, [0, 102, 200, 300]]],
    ["", "", "runAsUser: 999", [999, 0, [0]]],
    ["", "", "runAsUser: 999, runAsGroup: 9", [999, 9, [0, 9]]],
    // The group of the container's user is taken from the image, whatever the pod's group was.
    ["", "runAsUser: 1, runAsGroup: 2", "runAsUser: 101", [101, 102, [2, 102, 200, 300]]],
    ["", "runAsUser: 1, runAsGroup: 2", "runAsUser: 999", [999, 2, [2]]],
    ["", "runAsUser: 1", "runAsGroup: 3", [1, 3, [0, 3]]],
  ])("image %j, pod {%s}, container {%s}", async (user, pod, container, expected) => {
    const data = await knownData(COCO_TOOL, yaml(container, pod), { "app:1": { user, ...FILES } });
    expect(userOf(data.containers[1]?.OCI.Process ?? { User: {} })).toEqual(expected);
  });

  it.each<readonly [image: string, pod: string, expected: User]>([
    ["", "", [0, 0, []]],
    ["65535:65535", "", [65535, 65535, [65535]]],
    ["nginx:web", "", [101, 200, [200, 300]]],
    ["nginx:none", "", [101, 0, [200, 300]]],
    ["101", "", [101, 102, [102, 200, 300]]],
    ["65535:65535", "fsGroup: 5", [65535, 65535, [65535]]],
    ["", "fsGroup: 5, supplementalGroups: [4]", [0, 0, [4, 5]]],
    ["", "fsGroup: 5, runAsUser: 1", [1, 0, [0]]],
    ["65535:65535", "runAsUser: 1, runAsGroup: 2", [1, 2, [2]]],
  ])("pause image %j, pod {%s}", async (user, pod, expected) => {
    const data = await knownData(COCO_TOOL, yaml("", pod), { "app:1": {}, "pause.example:3": { user, ...FILES } });
    expect(userOf(data.containers[0]?.OCI.Process ?? { User: {} })).toEqual(expected);
  });

  const guarded = changed(COCO_TOOL, "cluster_config", { guest_pull: true });
  it.each<readonly [user: string, pod: string, container: string, allowed: boolean]>([
    ["", "", "", true],
    ["101", "", "", false],
    ["101", "runAsUser: 101", "", false],
    ["101", "runAsUser: 101, runAsGroup: 102", "", false],
    ["101", "runAsUser: 101, runAsGroup: 102, supplementalGroups: [200, 300]", "", true],
    ["101", "runAsUser: 101, runAsGroup: 102, supplementalGroups: [200], fsGroup: 300", "", true],
    ["", "", "runAsUser: 999, runAsGroup: 9", true],
    ["", "", "runAsUser: 999", true],
  ])("guest_pull: image %j, pod {%s}, container {%s}: %j", async (user, pod, container, allowed) => {
    const made = knownPolicies(guarded, yaml(container, pod), { "app:1": { user, ...FILES } });
    if (allowed) expect((await made).policies.length).toBe(1);
    else
      await expect(made).rejects.toThrow(
        "guest_pull is enabled for container 'app' using image 'app:1'. The generated policy expects UID=101, GID=102, AdditionalGids={102, 200, 300};",
      );
  });

  it("says with the guest_pull problem what to write", async () => {
    const made = knownPolicies(guarded, yaml("", "fsGroup: 200"), { "app:1": { user: "nginx", ...FILES } });
    await expect(made).rejects.toThrow("for example:\n  securityContext:\n    runAsUser: 101\n    runAsGroup: 102\n    supplementalGroups: [300]");
  });

  it("does not read a passwd file with a line of another form, and refuses ids that are no numbers", async () => {
    expect(readDatabaseAsTool("root:x:0:0:::\nbroken\n", "")).toEqual({ users: [], groups: [] });
    expect(readDatabaseAsTool("a:x:1:2:::/bin/sh:more\n", "g:x:1:a\n\n")).toEqual({ users: [], groups: [] });
    expect(readDatabaseAsTool("a:x:one:2:::\n", "")).toEqual({ reason: 'user "a" of /etc/passwd has an id that is not a number' });
    await expect(knownPolicies(COCO_TOOL, yaml("", ""), { "app:1": { group: "g:x:4294967296:\n" } })).rejects.toThrow(
      'image app:1: group "g" of /etc/group has an id that is not a number',
    );
  });
});

describe("the tool of 2023", () => {
  const withUser: KnownTool = changed(AKS_TOOL, "other_container", { Process: { User: { UID: 11, GID: 12, AdditionalGids: [3, 1] } } });
  it.each<readonly [tool: KnownTool, user: string, pod: string, container: string, expected: User]>([
    [AKS_TOOL, "", "", "", [0, 0, []]],
    [AKS_TOOL, "7:8", "", "", [7, 8, []]],
    [AKS_TOOL, "nginx", "", "", [0, 0, []]],
    [AKS_TOOL, "7:8", "runAsUser: 5", "", [5, 8, []]],
    [AKS_TOOL, "7:8", "runAsUser: 5", "runAsUser: 6", [6, 8, []]],
    [withUser, "", "", "", [11, 12, [3, 1]]],
    [withUser, "7", "", "", [7, 12, [3, 1]]],
    [withUser, "7", "", "runAsUser: 0", [0, 12, [3, 1]]],
  ])("%#: image %j", async (tool, user, pod, container, expected) => {
    const data = await knownData(tool, yaml(container, pod), { "app:1": { user, ...FILES } });
    expect(userOf(data.containers[1]?.OCI.Process ?? { User: {} })).toEqual(expected);
  });

  it("forgets the pod's runAsUser for all kinds but Pod", async () => {
    const job =
      "apiVersion: batch/v1\nkind: Job\nmetadata: {name: j}\nspec: {template: {spec: {securityContext: {runAsUser: 8}, containers: [{name: app, image: 'app:1'}]}}}\n";
    expect(userOf((await knownData(AKS_TOOL, job)).containers[1]?.OCI.Process ?? { User: {} })).toEqual([0, 0, []]);
  });

  it("warns of a user that is a name and refuses a group that is one", async () => {
    const { warnings } = await knownPolicies(AKS_TOOL, yaml("", ""), { "app:1": { user: "nginx" } });
    expect(warnings.map(({ message }) => message)).toEqual([
      'image app:1 runs as user "nginx", a name: the policy takes it for 0, set securityContext.runAsUser',
    ]);
    await expect(knownPolicies(AKS_TOOL, yaml("", ""), { "app:1": { user: "1:web" } })).rejects.toThrow('runs in group "web", a name');
  });
});

describe("Kubernetes and containerd", () => {
  it.each<readonly [user: string, pod: string, container: string, expected: User]>([
    ["", "", "", [0, 0, [0]]],
    ["101", "", "", [101, 102, [102, 200, 300]]],
    ["nginx", "", "", [101, 102, [102, 200, 300]]],
    // A name means that very user, also if another has the same number.
    ["also", "", "", [101, 103, [103, 200, 300]]],
    ["101:7", "", "", [101, 102, [102, 200, 300]]],
    ["999", "", "", [999, 0, [0]]],
    ["nginx", "runAsGroup: 9", "", [101, 9, [9, 200, 300]]],
    ["nobody", "runAsUser: 50", "", [50, 0, [0, 400]]],
    ["", "fsGroup: 5, supplementalGroups: [8, 6, 5]", "", [0, 0, [0, 5, 6, 8]]],
    ["101", "supplementalGroups: [8], supplementalGroupsPolicy: Strict", "", [101, 102, [8, 102]]],
    // The pod's group counts for the container's user.
    ["", "runAsUser: 1, runAsGroup: 2", "runAsUser: 101", [101, 2, [2, 200, 300]]],
    ["", "", "runAsUser: 999, runAsGroup: 9", [999, 9, [9]]],
  ])("image %j, pod {%s}, container {%s}", async (user, pod, container, expected) => {
    for (const more of [{}, { profile: COCO_PROFILE }]) {
      const [policy] = await policiesOf(yaml(container, pod), { "app:1": { user, ...FILES } }, more);
      expect(userOf(dataOf(policy).containers[1]?.OCI.Process ?? { User: {} })).toEqual(expected);
    }
  });

  it.each<readonly [image: string, pod: string, expected: User]>([
    ["65535:65535", "", [65535, 65535, [65535]]],
    ["nginx:web", "fsGroup: 5", [101, 200, [200]]],
    ["101", "", [101, 102, [102]]],
    ["", "fsGroup: 5, supplementalGroups: [4]", [0, 0, [0, 4, 5]]],
    ["65535:65535", "runAsUser: 50, runAsGroup: 2, fsGroup: 5", [50, 2, [2]]],
  ])("pause image %j, pod {%s}", async (user, pod, expected) => {
    const [policy] = await policiesOf(yaml("", pod), { "app:1": {}, "sealpod.internal/pause:1": { user, ...FILES } });
    expect(userOf(dataOf(policy).containers[0]?.OCI.Process ?? { User: {} })).toEqual(expected);
  });

  it("refuses a user that the image does not have", async () => {
    await expect(policiesOf(yaml("", ""), { "app:1": { user: "nobody", ...FILES } })).rejects.toThrow(
      'app.yaml:6:5: spec.containers[0]: image app:1 runs as user "nobody", which its /etc/passwd does not have: set securityContext.runAsUser',
    );
  });

  it.each<readonly [user: string, pod: string, container: string, problem: RegExp | undefined]>([
    ["", "runAsNonRoot: true", "", /runAsNonRoot, but the container runs as user 0 \(image app:1 names no user\)/],
    ["0", "runAsNonRoot: true", "", /runAsNonRoot, but the container runs as user 0:/],
    ["", "runAsNonRoot: true", "runAsNonRoot: false", undefined],
    ["5", "runAsNonRoot: true", "", undefined],
    ["", "runAsUser: 5", "runAsNonRoot: true", undefined],
    ["nginx", "", "runAsNonRoot: true", /the kubelet starts only numbers then: set securityContext.runAsUser: 101/],
    ["nginx", "runAsUser: 101", "runAsNonRoot: true", undefined],
  ])("runAsNonRoot: image %j, pod {%s}, container {%s}", async (user, pod, container, problem) => {
    const made = policiesOf(yaml(container, pod), { "app:1": { user, ...FILES } });
    if (problem === undefined) expect((await made).length).toBe(1);
    else await expect(made).rejects.toThrow(problem);
  });

  it("warns of user files that are links, unless the pod names user and group", async () => {
    const warnings = async (container: string): Promise<readonly string[]> =>
      (await generated(yaml(container, ""), { "app:1": { linkedUserFiles: ["passwd"] } })).warnings.map(({ message }) => message);
    expect(await warnings("")).toEqual(["image app:1: /etc/passwd is a link, which is not followed: set securityContext.runAsUser and runAsGroup"]);
    expect(await warnings("runAsUser: 1, runAsGroup: 1")).toEqual([]);
  });

  it("reads files as leniently as containerd", () => {
    expect(readDatabase("\n  a:x:1:2 \nb\nc:x:no:-1\n", "g::7\nh:x:8:a,b\n")).toEqual({
      users: [
        { name: "a", uid: 1, gid: 2 },
        { name: "b", uid: 0, gid: 0 },
        { name: "c", uid: 0, gid: 0 },
      ],
      groups: [
        { name: "g", gid: 7, members: [] },
        { name: "h", gid: 8, members: ["a", "b"] },
      ],
    });
  });
});
