import { createHash } from "node:crypto";
import { isAbsolute, join } from "node:path";
import { parseArgs } from "node:util";
import { messageOf } from "@sealpod/core";
import { ShimError } from "./errors.ts";

/** Directory of all shims' sockets; containerd's own shims have theirs there, too. The launcher knows it as well. */
export const SOCKET_DIRECTORY = "/run/containerd/s";

/** Milliseconds within which containerd must have asked for a task. It does so at once; only a start that failed on its side takes longer: for ever. */
const CREATE_LIMIT = 60_000;

/** Longest name of a container and of a namespace; containerd itself allows 76 characters. */
const MAX_NAME = 128;

/** What the shim is asked to do. `start`, and `delete` of what leaves nothing behind, are answered by the launcher. */
export type ShimArguments =
  | { readonly action: "version" | "info" }
  | ({ readonly action: "serve" } & ServeArguments)
  | ({ readonly action: "delete"; readonly bundle: string } & CommonArguments);

/** Which shim of which containerd. */
export interface CommonArguments {
  readonly namespace: string;
  /** Path of containerd's socket. Not opened here: part of the shim's own address. */
  readonly address: string;
  readonly id: string;
  /** Absolute path of the configuration that holds where a pod names none. */
  readonly config: string;
  readonly debug: boolean;
}

/** Arguments of the process that stays. Its working directory is the bundle. */
export interface ServeArguments extends CommonArguments {
  /** Descriptor of a socket that listens already; without one it is made here. */
  readonly listenFd: number | undefined;
  /** Descriptor that gets a line `ready` when the socket listens, or else the reason. */
  readonly readyFd: number | undefined;
  /** Milliseconds. */
  readonly createLimitMs: number;
}

/**
 * Reads arguments as the launcher passes them on: Go's flags, with one dash or two, and an action (specs/runtime.md 5.2).
 * @param bundle that of a call without `-bundle`: the working directory
 * @throws {ShimError} ERR_SHIM_USAGE
 */
export function parseArguments(args: readonly string[], bundle: string): ShimArguments {
  const { values, positionals } = parsed(args);
  if (values.v || values.version) return { action: "version" };
  if (values.info) return { action: "info" };
  const [action, ...more] = positionals;
  if ((action !== "serve" && action !== "delete") || more.length > 0)
    throw usage(`the action is ${JSON.stringify(positionals.join(" "))}, expected serve or delete`);
  const common = {
    namespace: name("namespace", values.namespace),
    address: values.address ?? "",
    id: name("id", values.id),
    config: absolute("config", values.config),
    debug: values.debug,
  };
  if (action === "delete") return { action, bundle: absolute("bundle", values.bundle ?? bundle), ...common };
  return {
    action,
    ...common,
    listenFd: count("listen-fd", values["listen-fd"]),
    readyFd: count("ready-fd", values["ready-fd"]),
    createLimitMs: count("create-limit", values["create-limit"]) ?? CREATE_LIMIT,
  };
}

/** 64 hex digits for a shim: other containerds and namespaces may have containers of the same id. */
export function podKey({ address, namespace, id }: Pick<CommonArguments, "address" | "namespace" | "id">): string {
  return createHash("sha256").update(`${address}/${namespace}/${id}`).digest("hex");
}

/** Path of a shim's socket, as the launcher finds it. */
export function socketPath(key: string): string {
  return join(SOCKET_DIRECTORY, key);
}

/** Directory of a pod's sockets, files and record. Half the key is enough to be unique, and leaves room for the names of sockets. */
export function podDirectory(runDirectory: string, key: string): string {
  return join(runDirectory, key.slice(0, 32));
}

function parsed(args: readonly string[]): ReturnType<typeof flags> {
  try {
    // Go's flags have one dash; two mean the same.
    return flags(args.map((arg) => (/^-[a-z]/.test(arg) ? `-${arg}` : arg)));
  } catch (cause) {
    throw usage(messageOf(cause), cause);
  }
}

// eslint-disable-next-line typescript/explicit-function-return-type -- the type is that of the table below
const flags = (args: readonly string[]) =>
  parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      namespace: { type: "string" },
      address: { type: "string" },
      "publish-binary": { type: "string" },
      id: { type: "string" },
      bundle: { type: "string" },
      config: { type: "string" },
      "listen-fd": { type: "string" },
      "ready-fd": { type: "string" },
      "create-limit": { type: "string" },
      debug: { type: "boolean", default: false },
      v: { type: "boolean", default: false },
      version: { type: "boolean", default: false },
      info: { type: "boolean", default: false },
    },
  });

/** Part of paths: no separator, and not one of the two names that every directory has. */
function name(flag: string, text: string | undefined): string {
  if (text !== undefined && text.length <= MAX_NAME && /^[A-Za-z0-9][A-Za-z0-9_.-]*$/.test(text)) return text;
  throw usage(`-${flag} is ${JSON.stringify(text?.slice(0, MAX_NAME) ?? "")}, expected at most ${MAX_NAME} letters, digits, '_', '.' or '-'`);
}

function absolute(flag: string, text: string | undefined): string {
  if (text !== undefined && isAbsolute(text)) return text;
  throw usage(`-${flag} is ${JSON.stringify(text ?? "")}, expected an absolute path`);
}

function count(flag: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (/^[0-9]{1,9}$/.test(text)) return Number(text);
  throw usage(`-${flag} is ${JSON.stringify(text)}, expected a number`);
}

function usage(problem: string, cause?: unknown): ShimError {
  return new ShimError("ERR_SHIM_USAGE", problem, { cause, hint: "containerd calls this program; only -v is for people." });
}
