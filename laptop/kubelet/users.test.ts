import { describe, expect, it } from "vitest";
import type { PodImage } from "./context.ts";
import type { ContainerSecurityContext, PodSecurityContext } from "./pod.ts";
import type { RuntimeUser } from "./runtime-spec.ts";
import { containerUser, sandboxUser } from "./users.ts";

const PASSWD = "root:x:0:0:root:/root:/bin/sh\n\nweb:x:101:102::/:/sbin/nologin\nother:x:101:7::/:\nbroken:x:many\n";
const GROUP = "root:x:0:root\nweb:x:103:web\nssl:x:104:root,web\nlogs:x:105:web\nmine:x:102:\n";

function image(user: string): PodImage {
  return { config: { user, env: [], entrypoint: ["x"], cmd: [], workingDir: "" }, passwd: PASSWD, group: GROUP };
}

function user(of: string, own: ContainerSecurityContext = {}, pod: PodSecurityContext = {}): RuntimeUser {
  return containerUser({ name: "c", image: "i", securityContext: own }, image(of), pod);
}

describe("the user of a container", () => {
  it.each<[string, ContainerSecurityContext, PodSecurityContext, RuntimeUser]>([
    ["", {}, {}, { uid: 0, gid: 0, additionalGids: [0, 104] }],
    // kubelet names the image's user without its group.
    ["12:13", {}, {}, { uid: 12, gid: 0, additionalGids: [0] }],
    ["web:ssl", {}, {}, { uid: 101, gid: 102, additionalGids: [102, 104, 105] }],
    ["101", {}, {}, { uid: 101, gid: 102, additionalGids: [102, 104, 105] }],
    ["other", {}, {}, { uid: 101, gid: 7, additionalGids: [7] }],
    ["broken", {}, {}, { uid: 0, gid: 0, additionalGids: [0] }],
    ["web", { runAsUser: 8 }, {}, { uid: 8, gid: 0, additionalGids: [0] }],
    ["", {}, { runAsUser: 101 }, { uid: 101, gid: 102, additionalGids: [102, 104, 105] }],
    ["web", {}, { runAsGroup: 104 }, { uid: 101, gid: 104, additionalGids: [104, 105] }],
    [
      "12",
      { runAsUser: 7, runAsGroup: 6 },
      { runAsUser: 8, runAsGroup: 9, fsGroup: 10, supplementalGroups: [11, 6] },
      { uid: 7, gid: 6, additionalGids: [6, 10, 11] },
    ],
    ["web", {}, { supplementalGroupsPolicy: "Strict", supplementalGroups: [11] }, { uid: 101, gid: 102, additionalGids: [102, 11] }],
  ])("of image user %j with %j in %j", (of, own, pod, expected) => {
    const found = user(of, own, pod);
    expect({ ...found, additionalGids: new Set(found.additionalGids) }).toEqual({ ...expected, additionalGids: new Set(expected.additionalGids) });
  });

  it("is refused if the image does not know its name", () => {
    expect(() => user("www-data")).toThrow(expect.objectContaining({ code: "ERR_KUBELET_UNRESOLVED" }));
  });

  it.each<[string, ContainerSecurityContext]>([
    ["", {}],
    ["0", {}],
    ["root", {}],
    ["web", {}], // kubelet does not look into the image
    ["web", { runAsUser: 0 }],
  ])("is refused under runAsNonRoot: image user %j, %j", (of, own) => {
    expect(() => user(of, own, { runAsNonRoot: true })).toThrow(expect.objectContaining({ code: "ERR_KUBELET_INVALID_POD" }));
    expect(() => user(of, { ...own, runAsNonRoot: false }, { runAsNonRoot: true })).not.toThrow();
  });

  it.each(["5", "5:0"])("may be image user %j under runAsNonRoot", (of) => {
    expect(user(of, { runAsNonRoot: true }).uid).toBe(5);
  });
});

describe("the user of the sandbox", () => {
  it.each<[string, PodSecurityContext, RuntimeUser]>([
    ["65535:65535", {}, { uid: 65535, gid: 65535, additionalGids: [65535] }],
    ["65535:65535", { fsGroup: 10, supplementalGroups: [11] }, { uid: 65535, gid: 65535, additionalGids: [65535] }],
    ["65535:65535", { runAsUser: 7 }, { uid: 7, gid: 0, additionalGids: [0] }],
    ["65535:65535", { runAsUser: 7, runAsGroup: 8 }, { uid: 7, gid: 8, additionalGids: [8] }],
    ["web:logs", {}, { uid: 101, gid: 105, additionalGids: [105] }],
    ["", { fsGroup: 10, supplementalGroups: [11, 10] }, { uid: 0, gid: 0, additionalGids: [10, 11] }],
  ])("of pause image user %j in %j", (of, pod, expected) => {
    expect(sandboxUser(image(of), pod)).toEqual(expected);
  });

  it("cannot have a group without a user", () => {
    expect(() => sandboxUser(image("65535:65535"), { runAsGroup: 8 })).toThrow(expect.objectContaining({ code: "ERR_KUBELET_INVALID_POD" }));
    expect(() => sandboxUser(image("web:nobody"), {})).toThrow(expect.objectContaining({ code: "ERR_KUBELET_UNRESOLVED" }));
  });
});
