import { chmodSync, closeSync, constants, lstatSync, mkdirSync, openSync, type Stats } from "node:fs";
import { AgentError } from "./errors.ts";

/** Longest name of one path component: the limit of every Linux file system (NAME_MAX). */
const MAX_COMPONENT_BYTES = 255;
/** Deepest path: PATH_MAX (4096) leaves room for no more one-character components than twice this. */
const MAX_COMPONENTS = 1024;

const DIRECTORY = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;

/**
 * A directory held open, and the only way the agent walks paths that others chose.
 *
 * Node has no openat(2), but `/proc/self/fd/N/name` is the same thing: the kernel goes to the open directory itself, whatever its path
 * means by now, and takes one step. With O_NOFOLLOW that step is never a symbolic link. So neither a link planted beforehand nor one that a
 * container swaps in during the walk leads out of the directory.
 */
export class ConfinedDirectory implements Disposable {
  readonly #fd: number;
  readonly #path: string;

  /** True if {@link descend} made it. */
  readonly made: boolean;

  private constructor(fd: number, path: string, made = false) {
    this.#fd = fd;
    this.#path = path;
    this.made = made;
  }

  /** Opens a directory whose path the agent itself chose. */
  static open(path: string): ConfinedDirectory {
    return new ConfinedDirectory(openSync(path, DIRECTORY), path);
  }

  /** What a component is called in messages. */
  describe(name: string): string {
    return `${this.#path}/${name}`;
  }

  /**
   * A path to the entry `name` of this very directory, for one system call that does not follow a final symbolic link.
   * @param process "self" for calls of this process, its pid for a child process
   */
  entry(name: string, process: "self" | number = "self"): string {
    return `/proc/${process}/fd/${this.#fd}/${component(name, this.#path)}`;
  }

  /** A path to the directory itself. */
  self(process: "self" | number = "self"): string {
    return `/proc/${process}/fd/${this.#fd}/.`;
  }

  /** The entry itself, a symbolic link not followed; undefined if there is none. */
  stat(name: string): Stats | undefined {
    return lstatSync(this.entry(name), { throwIfNoEntry: false });
  }

  /**
   * Opens a directory in this one.
   * @throws {AgentError} ERR_AGENT_PATH if it does not exist, is a symbolic link or no directory
   */
  child(name: string, made = false): ConfinedDirectory {
    try {
      return new ConfinedDirectory(openSync(this.entry(name), DIRECTORY), this.describe(name), made);
    } catch (cause) {
      if (!hasCode(cause, "ENOENT", "ENOTDIR", "ELOOP")) throw cause;
      const problem = hasCode(cause, "ENOENT") ? "does not exist" : "is a symbolic link or no directory";
      throw new AgentError("ERR_AGENT_PATH", `${this.describe(name)} ${problem}`, { cause, details: { path: this.describe(name) } });
    }
  }

  /** Makes a directory in this one; false if an entry of that name exists. */
  makeChild(name: string, mode: number): boolean {
    try {
      mkdirSync(this.entry(name), 0o700);
    } catch (cause) {
      if (hasCode(cause, "EEXIST")) return false;
      throw cause;
    }
    // Not through mkdir's mode, which the umask would cut.
    using made = this.child(name);
    chmodSync(made.self(), mode);
    return true;
  }

  /**
   * Opens the directory at the end of a path, one component at a time. The caller disposes of it.
   * @param create mode of the directories that are missing; without it they are an error
   * @throws {AgentError} ERR_AGENT_PATH
   */
  descend(components: readonly string[], create?: number): ConfinedDirectory {
    let at = new ConfinedDirectory(openSync(this.self(), DIRECTORY), this.#path);
    for (const name of components) {
      using from = at;
      const made = create !== undefined && from.makeChild(name, create);
      at = from.child(name, made);
    }
    return at;
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}

/**
 * Components of a path below `root`: no `.`, `..`, empty or overlong ones.
 * @throws {AgentError} ERR_AGENT_PATH
 */
export function componentsBelow(root: string, path: string): readonly string[] {
  if (!path.startsWith(`${root}/`))
    throw new AgentError("ERR_AGENT_PATH", `path ${shown(path)} is not below ${root}/`, { details: { path: shown(path), root } });
  const components = path.slice(root.length + 1).split("/");
  if (components.length > MAX_COMPONENTS) throw new AgentError("ERR_AGENT_PATH", `path ${shown(path)} has more than ${MAX_COMPONENTS} components`);
  return components.map((name) => component(name, path));
}

/** The component, if it is one: anything else would let one step be two, or none. */
function component(name: string, where: string): string {
  if (name === "" || name === "." || name === ".." || name.includes("/") || name.includes("\0") || Buffer.byteLength(name) > MAX_COMPONENT_BYTES) {
    throw new AgentError("ERR_AGENT_PATH", `path ${shown(where)} has the component ${shown(name)}`, {
      details: { path: shown(where), component: shown(name) },
    });
  }
  return name;
}

/** Text from outside as messages show it: quoted and cut. */
export function shown(text: string): string {
  return JSON.stringify(text.length <= 256 ? text : `${text.slice(0, 256)}…`);
}

/** True if `error` is a system error with one of these codes. */
export function hasCode(error: unknown, ...codes: readonly string[]): boolean {
  return error instanceof Error && codes.includes((error as NodeJS.ErrnoException).code ?? "");
}
