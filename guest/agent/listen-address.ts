import { shown } from "./confined-directory.ts";
import { AgentError } from "./errors.ts";

/** Longest path of a unix socket: `sun_path` less its NUL. */
const MAX_SOCKET_PATH = 107;

/** Where an agent is reached. */
export type ListenAddress =
  /** A unix socket; the path is in the form that Node takes, abstract ones begin with NUL. */
  | { readonly kind: "unix"; readonly path: string }
  /** The virtio serial port of this name, with many streams over it. */
  | { readonly kind: "virtio"; readonly name: string }
  /** A socket that was inherited, bound and listening: of AF_VSOCK, which Node cannot make itself. */
  | { readonly kind: "descriptor"; readonly fd: number };

/**
 * Reads an address: `unix:PATH` and `unix://PATH` name a file, `unix://@NAME` a socket in the abstract namespace (specs/runtime.md 1.9), `virtio:NAME`
 * a serial port, `fd:N` an inherited socket.
 * @throws {AgentError} ERR_AGENT_CONFIG
 */
export function parseListenAddress(address: string): ListenAddress {
  const virtio = /^virtio:([a-z0-9][a-z0-9.-]{0,30})$/.exec(address)?.[1];
  if (virtio !== undefined) return { kind: "virtio", name: virtio };
  const fd = /^fd:([3-9]|[1-9][0-9]{1,3})$/.exec(address)?.[1];
  if (fd !== undefined) return { kind: "descriptor", fd: Number(fd) };
  const name = address.startsWith("unix:") ? address.slice(address.startsWith("unix://") ? 7 : 5) : "";
  const abstract = name.startsWith("@");
  if (name.length < 2 || name.includes("\0") || Buffer.byteLength(name) > MAX_SOCKET_PATH || (!abstract && !name.startsWith("/"))) {
    throw new AgentError(
      "ERR_AGENT_CONFIG",
      `--listen: found ${shown(address)}, expected unix:/PATH or unix://@NAME of at most ${MAX_SOCKET_PATH} bytes, virtio:NAME or fd:N`,
    );
  }
  return { kind: "unix", path: abstract ? `\0${name.slice(1)}` : name };
}
