/** Many byte streams over one; the protocol is described in PROTOCOL.md. */
export * from "./errors.ts";
export * from "./mux.ts";
export type * from "./types.ts";
