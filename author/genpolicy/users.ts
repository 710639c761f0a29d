import type { PolicyUser } from "./policy-data.ts";
import { type ContainerContext, placeOf } from "./context.ts";
import { exactId, readDatabase, readDatabaseAsTool, type UserDatabase } from "./passwd.ts";

/** The tool of 2023: numbers of the image, settings for what is 0, the container's `runAsUser`; the pod's for kind Pod alone. */
export function userAsIn2023(context: ContainerContext): PolicyUser {
  const { workload, container, image, containerSettings } = context;
  const [user = "", group = ""] = image.config.user.split(":");
  const uid = exactId(user);
  const pod = workload.template.spec.securityContext;
  const runAsUser = container?.securityContext.runAsUser ?? (workload.workload === "Pod" ? pod.runAsUser : undefined);
  if (uid === undefined && user !== "" && runAsUser === undefined) {
    context.warn(
      placeOf(context),
      `image ${image.reference} runs as user ${JSON.stringify(user)}, a name: the policy takes it for 0, set securityContext.runAsUser`,
    );
  }
  if (group !== "" && exactId(group) === undefined) {
    context.report(
      placeOf(context),
      `image ${image.reference} runs in group ${JSON.stringify(group)}, a name: only numbers are known to this generation of settings`,
    );
  }
  const result: PolicyUser = {
    UID: runAsUser ?? ((uid ?? 0) || containerSettings.uid),
    GID: (exactId(group) ?? 0) || containerSettings.gid,
    AdditionalGids: containerSettings.additionalGids,
    Username: "",
  };
  checkNonRoot(context, result.UID);
  return result;
}

/** Upstream's tool (specs/genpolicy.md 5.5, by its numbers). */
export function userAsUpstream(context: ContainerContext): PolicyUser {
  const { container, image, settings } = context;
  const pod = context.workload.template.spec.securityContext;
  const own = container?.securityContext;
  const database = databaseAsTool(context);
  const passwdGid = (uid: number): number | undefined => database.users.find((user) => user.uid === uid)?.gid;
  let uid = 0;
  let gid = 0;
  let groups = new Set<number>();

  // 2: the image.
  const parts = image.config.user.split(":");
  if (parts.length > 2)
    context.warn(placeOf(context), `image ${image.reference} runs as ${JSON.stringify(image.config.user)}, which is no user: the policy takes it for 0`);
  else if (image.config.user !== "") {
    const [user = "", group] = parts;
    uid = exactId(user) ?? database.users.find(({ name }) => name === user)?.uid ?? 0;
    const found = container === undefined && group !== undefined ? (exactId(group) ?? database.groups.find(({ name }) => name === group)?.gid) : passwdGid(uid);
    if (found !== undefined) {
      gid = found;
      groups.add(gid);
    }
  }
  // 3
  if (container !== undefined) groups.add(gid);
  // 4, 5: the pod.
  if (pod.runAsUser !== undefined) uid = pod.runAsUser;
  if (pod.runAsGroup !== undefined || pod.runAsUser !== undefined) {
    gid = pod.runAsGroup ?? passwdGid(uid) ?? 0;
    groups = new Set([gid]);
  }
  // 6
  if (container !== undefined || (image.config.user === "" && pod.runAsUser === undefined && pod.runAsGroup === undefined)) {
    if (pod.fsGroup !== undefined) groups.add(pod.fsGroup);
    for (const group of pod.supplementalGroups) groups.add(group);
  }
  // 7: the container.
  if (own?.runAsUser !== undefined) {
    uid = own.runAsUser;
    gid = passwdGid(uid) ?? gid;
    groups.add(gid);
  }
  if (own?.runAsGroup !== undefined) {
    gid = own.runAsGroup;
    groups.add(gid);
  }
  // 8
  for (const group of memberships(database, uid)) groups.add(group);
  const result: PolicyUser = { UID: uid, GID: gid, AdditionalGids: sorted(groups), Username: "" };
  if (container !== undefined && settings.guestPull) checkGuestPull(context, result);
  checkNonRoot(context, uid);
  return result;
}

/** kubelet and containerd: the user by number or name, its groups of the image unless the pod is strict, the pod's groups. */
export function userAsKubernetes(context: ContainerContext): PolicyUser {
  const { container, image } = context;
  const pod = context.workload.template.spec.securityContext;
  const runAsUser = container?.securityContext.runAsUser ?? pod.runAsUser;
  const runAsGroup = container?.securityContext.runAsGroup ?? pod.runAsGroup;
  const database = readDatabase(image.passwd, image.group);
  if (image.linkedUserFiles.length > 0 && container !== undefined && (runAsUser === undefined || runAsGroup === undefined)) {
    const names = image.linkedUserFiles.map((name) => `/etc/${name}`).join(" and ");
    context.warn(placeOf(context), `image ${image.reference}: ${names} is a link, which is not followed: set securityContext.runAsUser and runAsGroup`);
  }
  const [user = "", group] = image.config.user.split(":");

  const named = runAsUser === undefined && user !== "" && exactId(user) === undefined;
  const entry = named ? database.users.find(({ name }) => name === user) : undefined;
  if (named && entry === undefined) {
    context.report(
      placeOf(context),
      `image ${image.reference} runs as user ${JSON.stringify(user)}, which its /etc/passwd does not have: set securityContext.runAsUser, or add the user to the image`,
    );
  }
  if (named && container !== undefined && nonRoot(context)) {
    context.report(
      placeOf(context),
      `runAsNonRoot: image ${image.reference} runs as user ${JSON.stringify(user)}, a name, and the kubelet starts only numbers then: set securityContext.runAsUser${entry === undefined ? "" : `: ${entry.uid}`}`,
    );
  }
  const uid = runAsUser ?? entry?.uid ?? exactId(user) ?? 0;
  if (container !== undefined && !named) checkNonRoot(context, uid);
  const passwdGid = (entry ?? database.users.find((known) => known.uid === uid))?.gid ?? 0;

  if (container === undefined) {
    // The sandbox's user is the image's `user:group` as a whole; naming one drops the groups that were given before.
    const fromImage = runAsUser === undefined && image.config.user !== "";
    const imageGid = fromImage && group !== undefined ? (exactId(group) ?? database.groups.find(({ name }) => name === group)?.gid) : undefined;
    const gid = runAsGroup ?? imageGid ?? passwdGid;
    const extra = fromImage || runAsUser !== undefined ? [] : podGroups(context);
    return { UID: uid, GID: gid, AdditionalGids: sorted(new Set([gid, ...extra])), Username: "" };
  }
  const gid = runAsGroup ?? passwdGid;
  const strict = pod.supplementalGroupsPolicy === "Strict";
  const groups = new Set([gid, ...(strict ? [] : memberships(database, uid)), ...podGroups(context)]);
  return { UID: uid, GID: gid, AdditionalGids: sorted(groups), Username: "" };
}

function databaseAsTool(context: ContainerContext): UserDatabase {
  const database = readDatabaseAsTool(context.image.passwd, context.image.group);
  if ("users" in database) return database;
  context.report(placeOf(context), `image ${context.image.reference}: ${database.reason}`);
  return { users: [], groups: [] };
}

/** Groups that list the first user of this id; the group of the user's own name does not count (containerd issue 11937). */
function memberships({ users, groups }: UserDatabase, uid: number): readonly number[] {
  const name = users.find((user) => user.uid === uid)?.name;
  return name === undefined ? [] : groups.filter((group) => group.name !== name && group.members.includes(name)).map(({ gid }) => gid);
}

function podGroups({ workload }: ContainerContext): readonly number[] {
  const { fsGroup, supplementalGroups } = workload.template.spec.securityContext;
  return [...(fsGroup === undefined ? [] : [fsGroup]), ...supplementalGroups];
}

function nonRoot({ workload, container }: ContainerContext): boolean {
  return (container?.securityContext.runAsNonRoot ?? workload.template.spec.securityContext.runAsNonRoot) === true;
}

function checkNonRoot(context: ContainerContext, uid: number): void {
  if (context.container === undefined || uid !== 0 || !nonRoot(context)) return;
  context.report(
    placeOf(context),
    `runAsNonRoot, but the container runs as user 0${context.image.config.user === "" ? ` (image ${context.image.reference} names no user)` : ""}: set securityContext.runAsUser`,
  );
}

/**
 * 9: a guest that pulls images looks users up by itself, and the policy cannot check how: every id that is not 0 has to be in the
 * manifest.
 */
function checkGuestPull(context: ContainerContext, user: PolicyUser): void {
  const { container, image } = context;
  const pod = context.workload.template.spec.securityContext;
  const runAsUser = container?.securityContext.runAsUser ?? pod.runAsUser;
  const runAsGroup = container?.securityContext.runAsGroup ?? pod.runAsGroup;
  const given = podGroups(context);
  const looked = user.AdditionalGids.filter((gid) => gid !== 0 && gid !== user.GID && !given.includes(gid));
  if ((user.UID === 0 || user.UID === runAsUser) && (user.GID === 0 || user.GID === runAsGroup) && looked.length === 0) return;
  const groups = user.AdditionalGids.filter((gid) => gid !== 0 && gid !== user.GID && gid !== pod.fsGroup);
  const lines = [
    "securityContext:",
    ...(user.UID === 0 ? [] : [`  runAsUser: ${user.UID}`]),
    ...(user.GID === 0 ? [] : [`  runAsGroup: ${user.GID}`]),
    ...(groups.length === 0 ? [] : [`  supplementalGroups: [${groups.join(", ")}]`]),
  ];
  context.report(
    placeOf(context),
    `guest_pull is enabled for container '${container?.name ?? ""}' using image '${image.reference}'. The generated policy expects UID=${user.UID}, GID=${user.GID}, ` +
      `AdditionalGids={${user.AdditionalGids.join(", ")}}; the guest takes what is not in the YAML from the image, where nothing checks it. ` +
      `Set explicit Kubernetes securityContext values in the pod's spec, for example:\n${lines.map((line) => `  ${line}`).join("\n")}`,
  );
}

function sorted(groups: ReadonlySet<number>): readonly number[] {
  return [...groups].sort((a, b) => a - b);
}
