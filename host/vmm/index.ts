/** Machines behind one interface. */
export * from "./cloud-hypervisor-driver.ts";
export { CONSOLE_TAIL_LENGTH, MachineConsole, printable } from "./console.ts";
export * from "./driver.ts";
export * from "./errors.ts";
export { findExecutable, PROGRAM_DIRECTORIES } from "./executables.ts";
export { cleanUpMachine, startTimeOf } from "./machine-record.ts";
export * from "./namespace-commands.ts";
export * from "./process-driver.ts";
export * from "./process-guest.ts";
export * from "./qemu-driver.ts";
export type { Accelerator } from "./qemu/accelerator.ts";
export { DEFAULT_SNP_CPU, DEFAULT_SNP_POLICY, type SnpLaunch } from "./qemu/snp.ts";
export * from "./tap-network.ts";
export { GUEST_ADDRESS } from "./user-network.ts";
