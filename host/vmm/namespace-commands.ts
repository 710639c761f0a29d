import { execFile } from "node:child_process";
import { statfs } from "node:fs/promises";
import { isAbsolute } from "node:path";
import { promisify } from "node:util";
import { messageOf } from "@sealpod/core";
import { VmmError } from "./errors.ts";
import { PROGRAM_DIRECTORIES, findExecutables } from "./executables.ts";

/** Milliseconds for one command; each does one thing to one namespace. */
const COMMAND_LIMIT = 30_000;

/** Largest output of a command: a thousand routes have 200 KiB. */
const MAX_OUTPUT = 4 * 1024 * 1024;

/** Type of the file system that namespaces are files of (linux/magic.h). */
const NSFS_MAGIC = 0x6e73_6673;

/** What `ip`, `tc` and `nft` say of something that is not there. */
const ABSENT = /Cannot find device|No such (?:device|file|process)|Invalid handle|does not exist|Cannot assign requested address/i;

/** Where commands are run. */
export interface NamespaceOptions {
  /** Absolute path of a network namespace, for example `/var/run/netns/NAME` or `/proc/PID/ns/net`. */
  readonly namespace: string;
  /** Where programs are searched. Default {@link PROGRAM_DIRECTORIES}. */
  readonly programDirectories?: readonly string[];
  /** Ends the command under way, and those that follow. Default: each has 30 s. */
  readonly signal?: AbortSignal;
}

interface FoundOptions extends NamespaceOptions {
  readonly programDirectories: readonly string[];
}

/** Commands in a network namespace: their files, mounts and processes are the host's. */
export class NamespaceCommands<N extends string> {
  readonly #options: FoundOptions;
  readonly #nsenter: string;
  readonly #programs: Readonly<Record<N, string>>;

  private constructor(options: FoundOptions, nsenter: string, programs: Readonly<Record<N, string>>) {
    this.#options = options;
    this.#nsenter = nsenter;
    this.#programs = programs;
  }

  /**
   * Finds the programs.
   * @param packages program to the Debian package that has it
   * @throws {VmmError} ERR_VMM_CONFIG, ERR_VMM_UNAVAILABLE
   */
  static async find<N extends string>(packages: Readonly<Record<N, string>>, options: NamespaceOptions): Promise<NamespaceCommands<N>> {
    const { namespace, programDirectories = PROGRAM_DIRECTORIES } = options;
    if (!isAbsolute(namespace) || namespace.includes("\0")) {
      throw new VmmError("ERR_VMM_CONFIG", `network namespace is ${JSON.stringify(namespace.slice(0, 200))}, expected an absolute path`);
    }
    const programs = await findExecutables({ ...packages, nsenter: "util-linux" }, programDirectories);
    return new NamespaceCommands<N>({ ...options, programDirectories }, programs.nsenter, programs);
  }

  /**
   * Runs a program; resolves to its output.
   * @param input what it is to read
   * @throws {VmmError} ERR_VMM_BOOT with the end of its errors, ERR_VMM_UNAVAILABLE if it lacks the right
   */
  async run(program: N, args: readonly string[], input = ""): Promise<string> {
    const { namespace, programDirectories, signal } = this.#options;
    try {
      const running = promisify(execFile)(this.#nsenter, [`--net=${namespace}`, "--", this.#programs[program], ...args], {
        encoding: "utf8",
        timeout: COMMAND_LIMIT,
        killSignal: "SIGKILL",
        maxBuffer: MAX_OUTPUT,
        env: { PATH: programDirectories.join(":") },
        ...(signal === undefined ? {} : { signal }),
      });
      // A program that ends without reading is judged by how it ends.
      running.child.stdin?.on("error", () => undefined);
      running.child.stdin?.end(input);
      return (await running).stdout;
    } catch (cause) {
      const { stderr } = cause as { readonly stderr?: string };
      const reason = (stderr ?? "").slice(0, 400).trim();
      const denied = /not permitted|permission denied/i.test(reason);
      throw new VmmError(
        denied ? "ERR_VMM_UNAVAILABLE" : "ERR_VMM_BOOT",
        `${[program, ...args].join(" ")} in ${namespace}: ${reason === "" ? messageOf(cause) : reason}`,
        {
          cause,
          ...(denied ? { hint: "What is done to a network needs root (CAP_NET_ADMIN), and nsenter CAP_SYS_ADMIN." } : {}),
        },
      );
    }
  }

  /** Waits for a command that takes something back: that there is nothing to take is what was asked for. */
  async gone(command: Promise<string>): Promise<void> {
    try {
      await command;
    } catch (error) {
      if (error instanceof VmmError && ABSENT.test(error.message)) return;
      // With the namespace everything in it is gone.
      if (!(await this.exists())) return;
      throw error;
    }
  }

  /** Whether the namespace is there: a file at its path may outlive it, as an empty one that nobody can enter. */
  async exists(): Promise<boolean> {
    return statfs(this.#options.namespace).then(
      ({ type }) => type === NSFS_MAGIC,
      () => false,
    );
  }
}
