import { connect, createServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import { asObject, messageOf, parseJson, type JsonObject } from "@sealpod/core";
import { Child, nextChunk } from "./child.ts";
import { VmmError } from "./errors.ts";
import { recordProcess } from "./machine-record.ts";

/** Address of the guest in its network; the host's loopback is 10.0.2.2 there. */
export const GUEST_ADDRESS = "10.0.2.100";

/** Largest answer of the control socket; real ones have less than 200 bytes. */
const MAX_ANSWER_LENGTH = 64 * 1024;

/** Times that a free port is looked for: another program can take it between the look and the use. */
const PORT_ATTEMPTS = 8;

/** Milliseconds that slirp4netns gets to end when it is asked to. */
const STOP_LIMIT = 2000;

/** A user-mode network of one guest, by slirp4netns. */
export class UserNetwork {
  readonly #child: Child;
  readonly #socket: string;

  private constructor(child: Child, socket: string) {
    this.#child = child;
    this.#socket = socket;
  }

  /**
   * Connects the network namespace of a process; resolves when its interface is up.
   * @throws {VmmError} ERR_VMM_BOOT
   */
  static async start(options: {
    readonly program: string;
    readonly pid: number;
    readonly runDirectory: string;
    readonly directories: readonly string[];
  }): Promise<UserNetwork> {
    const socket = join(options.runDirectory, "slirp.sock");
    const child = new Child({
      program: options.program,
      // Descriptor 4 closes with this process, so the network never outlives it.
      args: ["--configure", "--mtu=65520", "--disable-dns", "--ready-fd=3", "--exit-fd=4", "--api-socket", socket, String(options.pid), "tap0"],
      directories: options.directories,
      pipes: 2,
    });
    try {
      recordProcess(options.runDirectory, child.pid);
    } catch (error) {
      await child.end(() => child.process.kill(), STOP_LIMIT);
      throw error;
    }
    if ((await nextChunk(child.descriptor(3))) === undefined) {
      await child.end(() => child.process.kill(), STOP_LIMIT);
      throw new VmmError("ERR_VMM_BOOT", `slirp4netns did not connect the guest: ${child.tail}`, { hint: "slirp4netns needs /dev/net/tun and root." });
    }
    return new UserNetwork(child, socket);
  }

  /**
   * Forwards a TCP port of 127.0.0.1; 0 picks a free one. Returns the host's port.
   * @throws {VmmError} ERR_VMM_FORWARD
   */
  async forward(hostPort: number, guestPort: number): Promise<number> {
    validatePort("host port", hostPort, 0);
    validatePort("guest port", guestPort, 1);
    for (let attempt = 1; ; attempt++) {
      const port = hostPort === 0 ? await freePort() : hostPort;
      try {
        await this.#execute({
          execute: "add_hostfwd",
          arguments: { proto: "tcp", host_addr: "127.0.0.1", host_port: port, guest_addr: GUEST_ADDRESS, guest_port: guestPort },
        });
        return port;
      } catch (cause) {
        if (hostPort === 0 && attempt < PORT_ATTEMPTS) continue;
        throw new VmmError("ERR_VMM_FORWARD", `cannot forward 127.0.0.1:${port} to port ${guestPort} of the guest: ${messageOf(cause)}`, {
          cause,
          details: { hostPort: port, guestPort },
          hint: "Another program may use the port; port 0 picks a free one.",
        });
      }
    }
  }

  /** Resolves when slirp4netns has ended. */
  async stop(): Promise<void> {
    await this.#child.end(() => this.#child.process.kill(), STOP_LIMIT);
  }

  async #execute(request: JsonObject): Promise<void> {
    parseControlAnswer(await exchange(this.#socket, JSON.stringify(request)));
  }
}

/**
 * Checks the answer of slirp4netns' control socket.
 * @throws {VmmError} ERR_VMM_FORWARD with the reason that it gives
 */
export function parseControlAnswer(text: string): void {
  const answer = asObject(parseJson(text, "answer of slirp4netns"));
  if (answer !== undefined && Object.hasOwn(answer, "return") && !Object.hasOwn(answer, "error")) return;
  const reason = asObject(answer?.["error"])?.["desc"];
  throw new VmmError("ERR_VMM_FORWARD", typeof reason === "string" ? reason : "slirp4netns gave an answer that is neither success nor error");
}

// One request per connection; slirp4netns closes it after the answer.
async function exchange(path: string, request: string): Promise<string> {
  const socket = connect(path);
  try {
    socket.write(request);
    let text = "";
    for await (const chunk of socket) {
      text += (chunk as Buffer).toString("utf8");
      if (text.length > MAX_ANSWER_LENGTH) throw new VmmError("ERR_VMM_FORWARD", `slirp4netns answered more than ${MAX_ANSWER_LENGTH} characters`);
    }
    return text;
  } finally {
    socket.destroy();
  }
}

function validatePort(what: string, port: number, least: 0 | 1): void {
  if (Number.isInteger(port) && port >= least && port <= 65535) return;
  throw new VmmError("ERR_VMM_FORWARD", `${what} is ${port}, expected an integer from ${least} to 65535`, { details: { port } });
}

async function freePort(): Promise<number> {
  const server = createServer();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once("error", reject);
  server.listen(0, "127.0.0.1", resolve);
  await promise;
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}
