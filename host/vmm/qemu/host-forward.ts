import { createServer, type AddressInfo } from "node:net";
import { VmmError } from "../errors.ts";
import { GUEST_ADDRESS } from "../user-network.ts";
import { NETDEV_ID } from "./command.ts";

/** Times that a free port is looked for: another program can take it between the look and the use. */
const PORT_ATTEMPTS = 8;

/**
 * Forwards a TCP port of 127.0.0.1 to the guest of a user network; 0 picks a free one. Returns the host's port.
 * @param humanMonitor runs a line of QEMU's human monitor: the command has no other form
 * @throws {VmmError} ERR_VMM_FORWARD
 */
export async function forwardTcp(humanMonitor: (line: string) => Promise<string>, hostPort: number, guestPort: number): Promise<number> {
  validatePort("host port", hostPort, 0);
  validatePort("guest port", guestPort, 1);
  for (let attempt = 1; ; attempt++) {
    const port = hostPort === 0 ? await freePort() : hostPort;
    const answer = await humanMonitor(`hostfwd_add ${NETDEV_ID} tcp:127.0.0.1:${port}-${GUEST_ADDRESS}:${guestPort}`);
    if (answer === "") return port;
    if (hostPort === 0 && attempt < PORT_ATTEMPTS) continue;
    throw new VmmError("ERR_VMM_FORWARD", `cannot forward 127.0.0.1:${port} to port ${guestPort} of the guest: ${answer}`, {
      details: { hostPort: port, guestPort },
      hint: "Another program may use the port; port 0 picks a free one.",
    });
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
