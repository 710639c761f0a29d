import { once } from "node:events";
import { chmod, mkdir, readFile, writeFile } from "node:fs/promises";
import { connect, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";

/** Name of the socket that the driver listens at, in the run directory of a machine. */
const DRIVER_SOCKET = "agent.sock";

/**
 * Stands between QEMU and the driver, on the channel to the agent, so that a test can hang up and be the host itself. The driver knows nothing of it: the
 * directory {@link programs} has a QEMU that connects here instead.
 */
export class ChannelRelay implements AsyncDisposable {
  /** To be searched for programs before the others. */
  readonly programs: string;
  readonly #note: string;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #guest: Socket | undefined;
  #take: ((guest: Socket) => void) | undefined;

  private constructor(directory: string, server: Server) {
    this.programs = join(directory, "programs");
    this.#note = join(directory, "driver");
    this.#server = server;
  }

  /**
   * @param directory must not exist
   * @param qemu absolute path of the real one
   */
  static async open(directory: string, qemu: string): Promise<ChannelRelay> {
    const server = createServer();
    const relay = new ChannelRelay(directory, server);
    await mkdir(relay.programs, { recursive: true });
    const socket = join(directory, "relay.sock");
    const wrapper = join(relay.programs, "qemu-system-x86_64");
    const script = `#!/bin/sh
count=$#
while [ "$count" -gt 0 ]; do
  argument=$1
  shift
  case $argument in
  socket,*,path=*/${DRIVER_SOCKET},*)
    rest=\${argument#*path=}
    printf %s "\${rest%%,*}" > ${relay.#note}
    argument="\${argument%%path=*}path=${socket},\${rest#*,}"
    ;;
  esac
  set -- "$@" "$argument"
  count=$((count - 1))
done
exec ${qemu} "$@"
`;
    await writeFile(wrapper, script);
    await chmod(wrapper, 0o755);
    server.on("connection", (guest) => relay.#connected(guest));
    server.listen(socket);
    await once(server, "listening");
    return relay;
  }

  /** Hangs up; QEMU calls again, and is then connected with the driver. */
  cut(): void {
    this.#guest?.destroy();
  }

  /** Hangs up, and takes QEMU's next call itself. What the test then sends, the guest gets as its host's. */
  takeOver(): Promise<Socket> {
    const { promise, resolve } = Promise.withResolvers<Socket>();
    this.#take = resolve;
    this.cut();
    return promise;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }

  #connected(guest: Socket): void {
    this.#own(guest);
    this.#guest = guest;
    const take = this.#take;
    this.#take = undefined;
    if (take !== undefined) return take(guest);
    void this.#join(guest);
  }

  async #join(guest: Socket): Promise<void> {
    const driver = connect(await readFile(this.#note, "utf8"));
    this.#own(driver);
    guest.pipe(driver);
    driver.pipe(guest);
    guest.on("close", () => driver.destroy());
    driver.on("close", () => guest.destroy());
  }

  #own(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on("error", () => undefined);
    socket.on("close", () => this.#sockets.delete(socket));
  }
}
