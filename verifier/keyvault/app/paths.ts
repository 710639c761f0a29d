/** Role operations stand behind the scope that they are about, which is itself a path. */
const ROLE_PATH = /^(.*?)\/providers\/microsoft\.authorization(\/.*)?$/i;

/** Where role operations are routed, without their scope. */
export const ROLES_BASE = "/providers/microsoft.authorization";

/**
 * The path of a request as routes have it. Older clients send `//release` for the latest version, newer ones a trailing slash; only names keep their
 * letter case.
 */
export function canonicalPath(request: Request): string {
  const path = plainPath(request);
  const role = ROLE_PATH.exec(path);
  if (role !== null) return `${ROLES_BASE}${(role[2] ?? "").toLowerCase()}`;
  const segments = path.split("/");
  const own = segments[1]?.toLowerCase() === "sealpod" ? 1 : 0;
  return segments.map((segment, index) => (index === 2 + own ? segment : segment.toLowerCase())).join("/");
}

/** The scope of a role operation: `/`, `/keys`, `/keys/Name`, …; undefined for other paths. */
export function scopeInPath(request: Request): string | undefined {
  const role = ROLE_PATH.exec(plainPath(request));
  if (role === null) return undefined;
  let scope = role[1] ?? "";
  try {
    // A client that takes the scope for one segment encodes its slashes.
    scope = decodeURIComponent(scope);
  } catch {
    // Left as it is: no scope looks like it.
  }
  return scope.replace(/\/{2,}/g, "/").replace(/\/$/, "") || "/";
}

function plainPath(request: Request): string {
  const path = new URL(request.url).pathname.replace(/\/{2,}/g, "/");
  return path.length > 1 && path.endsWith("/") ? path.slice(0, -1) : path;
}
