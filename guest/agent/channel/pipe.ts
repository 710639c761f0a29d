import { fstatSync } from "node:fs";
import { Socket } from "node:net";
import { getSystemErrorName } from "node:util";
import { AgentError } from "../errors.ts";

/**
 * What Node's own `net` makes unix sockets of. It takes any descriptor that can be polled: a virtio port, a socket of family AF_VSOCK. `net` itself
 * refuses both, because it asks for the kind of the descriptor first (specs/runtime.md 1.10, specs/uvm.md 3).
 */
interface PipeHandle {
  open(fd: number): number;
  listen(backlog: number): number;
  close(): void;
  onconnection?: (status: number, client: PipeHandle | undefined) => void;
}

interface PipeWrap {
  readonly Pipe: new (kind: number) => PipeHandle;
  readonly constants: { readonly SOCKET: number; readonly SERVER: number };
}

/** Connections that the kernel keeps until they are accepted. */
const BACKLOG = 16;

/**
 * A socket over a descriptor that it then owns: read, written and closed by polling, with back-pressure both ways.
 * @throws {AgentError} ERR_AGENT_CONFIG if the descriptor is not of a kind that can be polled
 */
export function socketOnDescriptor(fd: number): Socket {
  const { Pipe, constants } = pipeWrap();
  // Node would end the process on the first poll of a file.
  const kind = fstatSync(fd);
  if (!kind.isSocket() && !kind.isFIFO() && !kind.isCharacterDevice()) throw new AgentError("ERR_AGENT_CONFIG", `descriptor ${fd} cannot be polled`);
  const handle = new Pipe(constants.SOCKET);
  check(handle.open(fd), `descriptor ${fd} cannot be opened`);
  return socketOn(handle);
}

/** Accepts connections of a listening socket that was inherited, of whatever family. */
export interface DescriptorServer {
  /** Accepts no more. Connections that are there stay. */
  close(): void;
}

/**
 * Listens on a descriptor that is bound already, and owns it from here on.
 * @throws {AgentError} ERR_AGENT_CONFIG if it is not a socket that can listen
 */
export function listenOnDescriptor(fd: number, onConnection: (socket: Socket) => void, onError: (error: Error) => void): DescriptorServer {
  const { Pipe, constants } = pipeWrap();
  const server = new Pipe(constants.SERVER);
  check(server.open(fd), `descriptor ${fd} is not a socket`);
  server.onconnection = (status, client) => {
    if (status === 0 && client !== undefined) onConnection(socketOn(client));
    else onError(new AgentError("ERR_AGENT_CONFIG", `descriptor ${fd} cannot accept: ${getSystemErrorName(status)}`));
  };
  check(server.listen(BACKLOG), `descriptor ${fd} cannot listen`);
  let open = true;
  return {
    close() {
      if (open) server.close();
      open = false;
    },
  };
}

function socketOn(handle: PipeHandle): Socket {
  // `handle` is no public option; the public ones would ask for the kind of the descriptor.
  const options: object = { handle, readable: true, writable: true };
  return new Socket(options).pause();
}

function check(status: number, what: string): void {
  if (status !== 0) throw new AgentError("ERR_AGENT_CONFIG", `${what}: ${getSystemErrorName(status)}`, { details: { errno: status } });
}

function pipeWrap(): PipeWrap {
  return (process as unknown as { binding(name: "pipe_wrap"): PipeWrap }).binding("pipe_wrap");
}
