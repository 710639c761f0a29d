/** Machines behind one interface. */
export * from "./driver.ts";
export * from "./errors.ts";
export { PROGRAM_DIRECTORIES } from "./executables.ts";
export * from "./process-driver.ts";
export { GUEST_ADDRESS } from "./user-network.ts";
