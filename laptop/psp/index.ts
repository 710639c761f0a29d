export { type EmulatedTrust, type Launched, PspClient } from "./client.ts";
export { EMULATED_NOTICE, EMULATOR_ROOT_NAME, LAPTOP_UVM_EKU, LAPTOP_UVM_FEED, LAPTOP_UVM_SVN, SEALPOD_ARC } from "./emulated.ts";
export { PSP_ERRORS, PspError, type PspErrorCode } from "./errors.ts";
export { type GuestInfo, serveGuestInfo } from "./guest-info.ts";
export { EMULATED_TCB } from "./key-store.ts";
export { MAX_COMMAND_LINE, MAX_MEASURED_BYTES, measuredPages, type MeasuredFiles } from "./measured-files.ts";
export type { LaunchRequest, LaunchResponse } from "./protocol.ts";
export { type LaunchedGuest, type LaunchInput, MAX_GUESTS, SecurityProcessor, type SecurityProcessorPorts } from "./security-processor.ts";
export { type PspServer, type PspServerOptions, servePsp } from "./server.ts";
