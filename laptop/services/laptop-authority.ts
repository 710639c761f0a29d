import { mkdir } from "node:fs/promises";
import type { Clock, Random } from "@sealpod/core";
import { Authority, chainPem } from "./authority.ts";

/**
 * PEM of the laptop's certificate authority; made if the state directory has none. Images that are to trust the laptop's
 * services are built with it, before or after the services first start.
 * @throws {ServicesError} ERR_SERVICES_STATE
 */
export async function openLaptopAuthority(state: string, ports: { readonly clock: Clock; readonly random: Random }): Promise<string> {
  await mkdir(state, { recursive: true, mode: 0o700 });
  await mkdir(`${state}/ca`, { recursive: true, mode: 0o700 });
  return chainPem([(await Authority.open(`${state}/ca`, ports.clock, ports.random)).root]);
}
