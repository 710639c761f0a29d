import type { PodImage } from "./context.ts";
import { KubeletError } from "./errors.ts";
import type { PodContainer, PodSecurityContext } from "./pod.ts";
import type { RuntimeUser } from "./runtime-spec.ts";

/** Lines of an image's passwd or group file that are looked at: far more than any image has. */
const MAX_LINES = 100_000;

interface User {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
}

interface Group {
  readonly name: string;
  readonly gid: number;
  readonly members: readonly string[];
}

/**
 * Who a container runs as. kubelet names the user (of the pod, or that of the image without its group) and containerd looks it up in the
 * image: the primary group, and the groups that list it, to which the pod's are added.
 * @throws {KubeletError} ERR_KUBELET_UNRESOLVED if the image does not know the user; ERR_KUBELET_INVALID_POD under runAsNonRoot
 */
export function containerUser(container: PodContainer, image: PodImage, pod: PodSecurityContext = {}): RuntimeUser {
  const own = container.securityContext;
  const runAsUser = own?.runAsUser ?? pod.runAsUser;
  const named = image.config.user.split(":", 1)[0] || "0";
  if ((own?.runAsNonRoot ?? pod.runAsNonRoot) === true) assertNotRoot(container.name, runAsUser, named);
  const text = runAsUser === undefined ? named : String(runAsUser);
  const users = usersOf(image);
  const found = findUser(users, text, container.name);
  const gid = own?.runAsGroup ?? pod.runAsGroup ?? found.gid;
  // The group of the user's own name does not count, whoever it lists; a name that was given stands even if its number is listed first
  // under another one.
  const name = isNumber(text) ? users.find((user) => user.uid === found.uid)?.name : text;
  const memberships =
    name === undefined || pod.supplementalGroupsPolicy === "Strict"
      ? []
      : groupsOf(image).filter((group) => group.name !== name && group.members.includes(name));
  const gids = memberships.map((group) => group.gid);
  return {
    uid: found.uid,
    gid,
    additionalGids: [
      ...new Set([...(gids.includes(gid) ? [] : [gid]), ...gids, ...(pod.fsGroup === undefined ? [] : [pod.fsGroup]), ...(pod.supplementalGroups ?? [])]),
    ],
  };
}

/**
 * Who the sandbox runs as: the pod's user and group, or the pause image's, group included. containerd drops the pod's other groups when it
 * sets a user.
 * @throws {KubeletError} ERR_KUBELET_UNRESOLVED, ERR_KUBELET_INVALID_POD for a group without a user
 */
export function sandboxUser(image: PodImage, pod: PodSecurityContext = {}): RuntimeUser {
  const { runAsUser, runAsGroup } = pod;
  if (runAsUser === undefined && runAsGroup !== undefined) {
    throw new KubeletError("ERR_KUBELET_INVALID_POD", `securityContext.runAsGroup is ${runAsGroup} without runAsUser: containerd refuses the sandbox`, {
      hint: "Set securityContext.runAsUser beside it, or runAsGroup in the containers.",
    });
  }
  const text = runAsUser === undefined ? image.config.user : String(runAsUser);
  if (text === "") {
    const groups = [...(pod.fsGroup === undefined ? [] : [pod.fsGroup]), ...(pod.supplementalGroups ?? [])];
    return { uid: 0, gid: 0, additionalGids: [...new Set(groups)] };
  }
  const [name = "", group] = runAsGroup === undefined ? text.split(":") : [text, String(runAsGroup)];
  const user = findUser(usersOf(image), name, "pause");
  const gid = group === undefined ? user.gid : isNumber(group) ? Number(group) : groupsOf(image).find((item) => item.name === group)?.gid;
  if (gid === undefined) throw new KubeletError("ERR_KUBELET_UNRESOLVED", `pause: the image has no group ${JSON.stringify(group)}`);
  return { uid: user.uid, gid, additionalGids: [gid] };
}

function assertNotRoot(name: string, runAsUser: number | undefined, imageUser: string): void {
  const fail = (reason: string): never => {
    throw new KubeletError("ERR_KUBELET_INVALID_POD", `container ${name}: runAsNonRoot, but ${reason}`, {
      hint: "Set securityContext.runAsUser to a number other than 0.",
    });
  };
  if (runAsUser === 0) fail("runAsUser is 0");
  if (runAsUser !== undefined) return;
  if (!isNumber(imageUser)) fail(`its image runs as ${JSON.stringify(imageUser)}, a name, which kubelet cannot tell from root`);
  if (Number(imageUser) === 0) fail("its image runs as root");
}

/** A number that the image does not know is a user of group 0; a name that it does not know is none. */
function findUser(users: readonly User[], text: string, container: string): Pick<User, "uid" | "gid"> {
  if (isNumber(text)) return users.find((user) => user.uid === Number(text)) ?? { uid: Number(text), gid: 0 };
  const user = users.find((item) => item.name === text);
  if (user !== undefined) return user;
  throw new KubeletError("ERR_KUBELET_UNRESOLVED", `container ${container}: the image runs as ${JSON.stringify(text)}, which its /etc/passwd does not have`, {
    hint: "Set securityContext.runAsUser, or a numeric USER in the image.",
  });
}

function usersOf(image: PodImage): readonly User[] {
  return fields(image.passwd).map(([name = "", , uid = "", gid = ""]) => ({ name, uid: id(uid), gid: id(gid) }));
}

function groupsOf(image: PodImage): readonly Group[] {
  return fields(image.group).map(([name = "", , gid = "", members = ""]) => ({ name, gid: id(gid), members: members.split(",") }));
}

function fields(text = ""): readonly (readonly string[])[] {
  return text
    .split("\n", MAX_LINES)
    .map((line) => line.trim())
    .filter((line) => line !== "")
    .map((line) => line.split(":"));
}

function isNumber(text: string): boolean {
  return /^\d{1,10}$/.test(text);
}

/** What is no number counts as 0, as in containerd's reader of these files. */
function id(text: string): number {
  return isNumber(text) ? Number(text) : 0;
}
