import type { Clock, Random } from "@sealpod/core";
import { makeDirectory } from "@sealpod/io";
import { Authority, chainPem } from "./authority.ts";

/**
 * PEM of the laptop's certificate authority; made if the state directory has none. Images that are to trust the laptop's
 * services are built with it, before or after the services first start.
 * @throws {ServicesError} ERR_SERVICES_STATE
 * @throws {IoError} ERR_IO_WRITE if the directory cannot be made
 */
export async function openLaptopAuthority(state: string, ports: { readonly clock: Clock; readonly random: Random }): Promise<string> {
  await makeDirectory(`${state}/ca`, 0o700);
  return chainPem([(await Authority.open(`${state}/ca`, ports.clock, ports.random)).root]);
}
