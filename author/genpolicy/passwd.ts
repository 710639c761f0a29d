/** A line of `/etc/passwd` (passwd(5)). */
export interface PasswdEntry {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
}

/** A line of `/etc/group` (group(5)). */
export interface GroupEntry {
  readonly name: string;
  readonly gid: number;
  readonly members: readonly string[];
}

/** Users and groups of an image. */
export interface UserDatabase {
  readonly users: readonly PasswdEntry[];
  readonly groups: readonly GroupEntry[];
}

/**
 * As upstream's tool reads them (specs/genpolicy.md 5.5): a line with another number of fields makes the whole file count for
 * nothing. A number that is none ends that tool; here it is a reason.
 */
export function readDatabaseAsTool(passwd: string, group: string): UserDatabase | { readonly reason: string } {
  const users = recordsOf(passwd, 7).map(([name = "", , uid = "", gid = ""]) => ({ name, uid: exactId(uid), gid: exactId(gid) }));
  const groups = recordsOf(group, 4).map(([name = "", , gid = "", members = ""]) => ({ name, gid: exactId(gid), members: membersOf(members) }));
  const bad = [
    ...users.filter(({ uid, gid }) => uid === undefined || gid === undefined).map(({ name }) => `user ${JSON.stringify(name)} of /etc/passwd`),
    ...groups.filter(({ gid }) => gid === undefined).map(({ name }) => `group ${JSON.stringify(name)} of /etc/group`),
  ];
  if (bad[0] !== undefined) return { reason: `${bad[0]} has an id that is not a number` };
  return { users: users as readonly PasswdEntry[], groups: groups as readonly GroupEntry[] };
}

/** As containerd reads them (moby/sys/user): empty lines are skipped, missing fields are empty, what is not a number is 0. */
export function readDatabase(passwd: string, group: string): UserDatabase {
  return {
    users: fieldsOf(passwd).map(([name = "", , uid = "", gid = ""]) => ({ name, uid: exactId(uid) ?? 0, gid: exactId(gid) ?? 0 })),
    groups: fieldsOf(group).map(([name = "", , gid = "", members = ""]) => ({ name, gid: exactId(gid) ?? 0, members: membersOf(members) })),
  };
}

/** A user or group id as a number, if the text is one. */
export function exactId(text: string): number | undefined {
  return /^[0-9]{1,10}$/.test(text) && Number(text) <= 0xffff_ffff ? Number(text) : undefined;
}

function recordsOf(text: string, count: number): readonly (readonly string[])[] {
  const lines = text.split("\n");
  if (lines.at(-1) === "") lines.pop();
  const records = lines.map((line) => line.replace(/\r$/, "").split(":"));
  return records.every((record) => record.length === count) ? records : [];
}

function fieldsOf(text: string): readonly (readonly string[])[] {
  return text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "")
    .map((line) => line.split(":"));
}

function membersOf(text: string): readonly string[] {
  return text === "" ? [] : text.split(",");
}
