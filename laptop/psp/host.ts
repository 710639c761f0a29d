import type { Clock, Logger, Random } from "@sealpod/core";
import { mkdir } from "node:fs/promises";
import { dirname } from "node:path";
import { makeDirectory } from "@sealpod/io";
import { SecurityProcessor } from "./security-processor.ts";
import { type PspServer, servePsp } from "./server.ts";

/** Where an emulated security processor of a node has its files. Absolute paths. */
export interface HostProcessorPlaces {
  /** Socket, which the shims of the node's pods know by their configuration. */
  readonly socket: string;
  /** Directory of the keys: who can read it can forge the evidence of every pod of this node. */
  readonly keys: string;
  /** Directory of the guests' directories. */
  readonly guests: string;
}

/**
 * Serves the emulated security processor of a node that has none of its own: EMULATED - NO HARDWARE PROTECTION.
 * @returns the server, and the PEM of the root that a verifier must name to accept its evidence
 * @throws {PspError} ERR_PSP_STATE, ERR_PSP_SOCKET
 */
export async function serveHostProcessor(
  places: HostProcessorPlaces,
  ports: { readonly clock: Clock; readonly random: Random; readonly logger: Logger },
): Promise<{ readonly server: PspServer; readonly rootPem: string }> {
  await makeDirectory(dirname(places.keys), 0o755);
  const processor = await SecurityProcessor.open(places.keys, ports);
  await mkdir(dirname(places.socket), { recursive: true, mode: 0o755 });
  const server = await servePsp({ processor, socketPath: places.socket, guestInfoBase: places.guests, logger: ports.logger });
  return { server, rootPem: processor.rootPem };
}
