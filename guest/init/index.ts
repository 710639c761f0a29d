export { compileInit, INIT_SOURCE } from "./compile.ts";
export type { CompileInitOptions } from "./compile.ts";
export { INIT_ERRORS, InitError } from "./errors.ts";
export type { InitErrorCode } from "./errors.ts";
