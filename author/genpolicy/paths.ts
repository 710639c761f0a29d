/** Last component of a path; trailing slashes and `.` do not count. "" if there is none, or if it is `..`. */
export function lastComponent(path: string): string {
  const last = path.split("/").findLast((part) => part !== "" && part !== ".") ?? "";
  return last === ".." ? "" : last;
}

/** The text after the last slash. */
export function afterLastSlash(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

/** True if the first component of an absolute path is one of the names. */
export function isBelow(path: string, ...names: readonly string[]): boolean {
  const first = path.split("/").find((part) => part !== "" && part !== ".");
  return path.startsWith("/") && first !== undefined && names.includes(first);
}

/** Text as a pattern that matches nothing else, spelled as Rust's `regex::escape` does: more characters than RE2 needs. */
export function escapeAsRust(text: string): string {
  return text.replaceAll(/[\\.+*?()|[\]{}^$#&\-~]/g, "\\$&");
}

/** Text as a pattern that matches nothing else, with the fewest escapes. */
export function escapePattern(text: string): string {
  return text.replaceAll(/[\\.+*?()|[\]{}^$]/g, "\\$&");
}
