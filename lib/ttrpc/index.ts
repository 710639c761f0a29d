/** ttRPC over any byte stream; the protocol is described in PROTOCOL.md. */
export * from "./byte-stream.ts";
export * from "./client.ts";
export * from "./codec.ts";
export * from "./errors.ts";
export * from "./frame.ts";
export * from "./memory-streams.ts";
export * from "./server.ts";
export * from "./service.ts";
export * from "./status.ts";
export * from "./timer.ts";
