import { shown } from "./confined-directory.ts";
import { AgentError } from "./errors.ts";

/** Longest path of a unix socket: `sun_path` less its NUL. */
const MAX_SOCKET_PATH = 107;

/**
 * Path to listen on, in the form Node takes: `unix:PATH` and `unix://PATH` name a file, `unix://@NAME` a socket in the abstract namespace
 * (specs/runtime.md 1.9).
 * @throws {AgentError} ERR_AGENT_CONFIG
 */
export function parseListenAddress(address: string): string {
  const name = address.startsWith("unix:") ? address.slice(address.startsWith("unix://") ? 7 : 5) : "";
  const abstract = name.startsWith("@");
  if (name.length < 2 || name.includes("\0") || Buffer.byteLength(name) > MAX_SOCKET_PATH || (!abstract && !name.startsWith("/"))) {
    throw new AgentError("ERR_AGENT_CONFIG", `--listen: found ${shown(address)}, expected unix:/PATH or unix://@NAME of at most ${MAX_SOCKET_PATH} bytes`);
  }
  return abstract ? `\0${name.slice(1)}` : name;
}
